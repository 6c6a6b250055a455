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
        let mut schema = Schema::to_value(self.requests.clone().into_root_schema_for::<T>());
        let Some(Value::Object(properties)) = schema.get_mut("properties").map(Value::take) else { return Vec::new() };
        properties.into_iter().map(|(name, schema)| (name, plain(without_null(schema)))).collect()
    }

    /// Returns the schemas that the others refer to, by name.
    pub(super) fn into_components(mut self) -> Map<String, Value> {
        let mut all = self.requests.take_definitions(true);
        all.extend(self.responses.take_definitions(true));
        all.into_iter().map(|(name, schema)| (name, plain(schema))).collect()
    }
}

/// Removes null from a schema: a parameter of a query is absent instead.
fn without_null(mut schema: Value) -> Value {
    if let Some(kinds) = schema.get_mut("type").and_then(Value::as_array_mut) {
        kinds.retain(|kind| kind != "null");
    }
    if let Some(schemas) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
        schemas.retain(|schema| schema["type"] != "null");
    }
    schema
}

/// Removes the examples of code in descriptions, which are for Rust.
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
