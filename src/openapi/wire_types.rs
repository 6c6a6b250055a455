//! JSON Schemas of the types of `api`, which refer to each other as components of a document.

use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value};

/// Makes schemas of types, and collects those that they refer to.
pub(super) struct WireTypes {
    /// Schemas of what is written.
    responses: SchemaGenerator,
    /// Schemas of what is read.
    requests: SchemaGenerator,
}

impl WireTypes {
    pub(super) fn new() -> WireTypes {
        let settings = || {
            SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = "/components/schemas".into();
                settings.meta_schema = None;
            })
        };
        WireTypes {
            responses: settings().for_serialize().into_generator(),
            requests: settings().for_deserialize().into_generator(),
        }
    }

    /// Returns the schema of a response.
    pub(super) fn response<T: JsonSchema>(&mut self) -> Value {
        self.responses.subschema_for::<T>().to_value()
    }

    /// Returns the schema of a request's body.
    pub(super) fn request<T: JsonSchema>(&mut self) -> Value {
        self.requests.subschema_for::<T>().to_value()
    }

    /// Returns the schemas of the properties of a type whose values are query parameters, with their names.
    pub(super) fn query<T: JsonSchema>(&mut self) -> Vec<(String, Value)> {
        let schema = self.requests.clone().into_root_schema_for::<T>();
        let properties = Schema::to_value(schema)["properties"].take();
        let Value::Object(properties) = properties else { return Vec::new() };
        properties.into_iter().map(|(name, schema)| (name, plain(schema))).collect()
    }

    /// Returns the schemas that the others refer to, by name.
    pub(super) fn into_components(mut self) -> Map<String, Value> {
        let mut all = self.requests.take_definitions(true);
        all.extend(self.responses.take_definitions(true));
        all.into_iter().map(|(name, schema)| (name, plain(schema))).collect()
    }
}

/// Removes what a schema has for Rust only: examples of code in descriptions, and null in the place of an absent
/// parameter.
fn plain(mut schema: Value) -> Value {
    match &mut schema {
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                match member {
                    Value::String(text) if name == "description" => {
                        let end = text.find("```").unwrap_or(text.len());
                        *member = text[..end].trim().replace('\n', " ").into();
                    }
                    other => *other = plain(other.take()),
                }
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(|element| *element = plain(element.take())),
        _ => {}
    }
    schema
}
