//! Typed paths of the served models: `/v1/models/digits:predict` beside the general `/v1/models/{model}:predict`, so that
//! generated clients know the types of instances and predictions.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::model_schema::model_schema;
use super::operation::Operation;
use super::predictions::{answer_of, prediction, with_answer};
use crate::api::routes::Method;
use crate::api::schema::{AnyJson, JsonText, ModelSchema};
use crate::identity::ModelName;
use crate::pipeline::some_of;
use crate::registry::{ServedModel, Snapshot};

/// Maximum number of typed models of a document.
const MAX_MODELS: usize = 100;
/// Maximum size of the schemas of a model in a document, in bytes. Vocabularies can have any number of words.
const MAX_SCHEMA_BYTES: usize = 256 << 10;
/// Maximum size of an example in a document, in bytes.
const MAX_EXAMPLE_BYTES: usize = 32 << 10;
/// Maximum size of the schemas and examples of all models together, in bytes.
const MAX_BYTES: usize = 4 << 20;

/// The served models, as far as they fit into a document.
pub(super) struct TypedModels {
    models: Vec<TypedModel>,
    default: Option<ModelName>,
    /// Names of the models that do not fit.
    left_out: Vec<String>,
}

/// A model with its schemas.
pub(super) struct TypedModel {
    schema: ModelSchema,
    /// Name of the model in the names of schemas and methods, as in `Digits`.
    type_name: String,
    description: Option<String>,
    media_types: &'static [&'static str],
    max_instances: usize,
}

impl TypedModels {
    /// Reads the schemas of the stable versions in a snapshot.
    pub(super) fn of(snapshot: &Snapshot) -> TypedModels {
        let mut typed =
            TypedModels { models: Vec::new(), default: snapshot.default_model().cloned(), left_out: Vec::new() };
        let (mut names, mut bytes_left) = (BTreeSet::new(), MAX_BYTES);
        for (name, model) in snapshot.models() {
            let fitting = (typed.models.len() < MAX_MODELS)
                .then(|| TypedModel::of(snapshot, (name, model), &mut names))
                .flatten();
            match fitting.and_then(|(model, size)| Some((model, bytes_left.checked_sub(size)?))) {
                Some((model, left)) => {
                    bytes_left = left;
                    typed.models.push(model);
                }
                None => typed.left_out.push(name.to_string()),
            }
        }
        typed
    }

    /// Returns the default model, if it has a type.
    pub(super) fn default_model(&self) -> Option<&TypedModel> {
        let default = self.default.as_ref()?;
        self.models.iter().find(|model| model.schema.name == *default)
    }

    /// Returns the description of the document, which names the models that do not fit.
    pub(super) fn description(&self) -> String {
        let text = "Predictions of ONNX models. Every served model has a path of its own, with the types of its stable version. \
                    Errors are problem documents (RFC 9457). Later versions may add members to responses.";
        match self.left_out.len() {
            0 => text.to_owned(),
            count => format!(
                "{text} {count} models have no path of their own here, because there are too many or their schemas are too \
                 large: {}. GET /v1/models/{{model}}/schema has their schemas.",
                some_of(&self.left_out)
            ),
        }
    }

    pub(super) fn add_paths(&self, paths: &mut Map<String, Value>, has_keys: bool) {
        for model in &self.models {
            let path = format!("/v1/models/{}:predict", model.schema.name);
            let operation = model.typed(prediction(&format!("predict{}", model.type_name)));
            let operation = if has_keys { operation.with_keys() } else { operation };
            operation.add_to(paths, (Method::Post, &path, ""));
        }
    }

    /// Returns the schemas of instances and predictions, by their names in the document.
    pub(super) fn into_schemas(self) -> Map<String, Value> {
        let schemas = self.models.into_iter().flat_map(|TypedModel { schema, type_name, .. }| {
            let ModelSchema { instance: AnyJson(instance), prediction: AnyJson(prediction), .. } = schema;
            [(format!("{type_name}Instance"), instance), (format!("{type_name}Prediction"), prediction)]
        });
        schemas.collect()
    }
}

impl TypedModel {
    /// Reads the schemas of a model's stable version, and returns their size. `None` if they are too large.
    fn of(
        snapshot: &Snapshot,
        (name, model): (&ModelName, &ServedModel),
        names: &mut BTreeSet<String>,
    ) -> Option<(TypedModel, usize)> {
        let served = model.stable_or_newest()?;
        let mut schema = model_schema(snapshot, served).ok()?;
        let size = |json: &AnyJson| json.0.to_string().len();
        let schema_size = size(&schema.instance) + size(&schema.prediction);
        let example_size = |schema: &ModelSchema| {
            let instances = schema.example.iter().flat_map(|example| &example.instances);
            instances.map(|JsonText(instance)| instance.get().len()).sum::<usize>()
        };
        if example_size(&schema) > MAX_EXAMPLE_BYTES {
            schema.example = None;
        }
        if schema_size > MAX_SCHEMA_BYTES {
            return None;
        }
        let size = schema_size + example_size(&schema);
        let typed = TypedModel {
            schema,
            type_name: type_name(name, names),
            description: model.description.clone(),
            media_types: snapshot.interface_of(served, |interface| interface.media_types()).ok()?,
            max_instances: snapshot.interface_of(served, |interface| interface.max_instances()).ok()?.get(),
        };
        Some((typed, size))
    }

    /// Adds the types of the model to the documentation of an endpoint.
    pub(super) fn typed(&self, operation: Operation) -> Operation {
        let ModelSchema { name, version, example, .. } = &self.schema;
        let reference = |kind: &str| json!({ "$ref": format!("#/components/schemas/{}{kind}", self.type_name) });
        let request = json!({
            "type": "object",
            "required": ["instances"],
            "properties": {
                "instances": {
                    "type": "array", "minItems": 1, "maxItems": self.max_instances, "items": reference("Instance"),
                },
            },
            "additionalProperties": false,
        });
        let example = example.as_ref().and_then(|example| serde_json::to_value(example).ok());
        let about = self.description.as_deref().unwrap_or("The model has no description.");
        let operation = operation
            .summary(format!("Predictions of {name}"))
            .description(format!(
                "{about} The types are those of version {version}. Rows can be sent as columns, CSV or lines of JSON, too."
            ))
            .body(request, example);
        let operation = with_answer(operation, answer_of(&reference("Prediction")));
        self.media_types.iter().fold(operation, |operation, media_type| operation.body_as(media_type, json!({}), None))
    }
}

/// Returns a name of a model for types and methods: its letters and digits, each word with a capital. Names that would be the
/// same are numbered.
fn type_name(model: &ModelName, names: &mut BTreeSet<String>) -> String {
    let words = model.as_str().split(|c: char| !c.is_ascii_alphanumeric());
    let capital = |word: &str| {
        let (first, rest) = word.split_at(word.len().min(1));
        format!("{}{rest}", first.to_ascii_uppercase())
    };
    let name: String = words.map(capital).collect();
    let name = if name.starts_with(|c: char| c.is_ascii_digit()) { format!("Model{name}") } else { name };
    let candidates = std::iter::once(name.clone()).chain((2..).map(|number| format!("{name}_{number}")));
    let free = { candidates }.find(|candidate| !names.contains(candidate)).unwrap_or(name);
    names.insert(free.clone());
    free
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_types_are_words_and_unique() {
        let mut names = BTreeSet::new();
        let mut of = |name: &str| type_name(&name.parse().unwrap(), &mut names);
        assert_eq!(of("digits"), "Digits");
        assert_eq!(of("my-model.v2"), "MyModelV2");
        assert_eq!(of("my_model-v2"), "MyModelV2_2");
        assert_eq!(of("2024-risk"), "Model2024Risk");
    }
}
