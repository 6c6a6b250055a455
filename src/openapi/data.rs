//! The document of the data listener.

use serde_json::{Map, Value, json};

use super::document::Document;
use super::operation::Operation;
use super::predictions::{ANSWER_HEADERS, prediction, with_answer};
use super::served_models::TypedModels;
use super::wire_types::WireTypes;
use crate::api::feedback::{Report, Taken};
use crate::api::health::{DataIndex, Live, Ready};
use crate::api::models::{ModelVersionView, ModelView, Models};
use crate::api::routes::DataEndpoint;
use crate::api::schema::{AnyJson, ModelSchema, PredictionAnswer, PredictionRequest};
use crate::api::{tensorflow, v2};
use crate::registry::Snapshot;

const TAGS: &[(&str, &str)] = &[
    ("predictions", "Predictions, and feedback on them."),
    ("models", "What is served."),
    ("v2", "The Open Inference Protocol, version 2: a model's own tensors."),
    ("server", "The server itself."),
];

/// Returns the OpenAPI document of the data listener, with a typed path for each served model. `has_keys` is true if callers need
/// an API key.
pub fn data(snapshot: &Snapshot, has_keys: bool) -> Value {
    let (mut types, mut paths) = (WireTypes::new(), Map::new());
    let models = TypedModels::of(snapshot);
    for endpoint in DataEndpoint::ALL {
        let operation = operation(*endpoint, &mut types, &models);
        let operation = if has_keys { operation.with_keys() } else { operation };
        operation.add_to(&mut paths, (endpoint.method(), endpoint.path(), endpoint.purpose()));
    }
    models.add_paths(&mut paths, has_keys);
    let key = json!({
        "type": "apiKey", "in": "header", "name": "X-Api-Key",
        "description": "One of http.api_keys; also accepted as Authorization: Bearer.",
    });
    Document {
        title: "Leeway",
        description: models.description(),
        tags: TAGS,
        paths,
        types,
        schemas: models.into_schemas(),
        credentials: if has_keys { Map::from_iter([("apiKey".to_owned(), key)]) } else { Map::new() },
        security: has_keys.then(|| json!([{ "apiKey": [] }])),
    }
    .finish()
}

/// Returns the documentation of an endpoint.
///
/// Length: a table.
fn operation(endpoint: DataEndpoint, types: &mut WireTypes, models: &TypedModels) -> Operation {
    let server = |id: &str| Operation::new(id, "server");
    let model = |id: &str| Operation::new(id, "models").fails(&[503]);
    let v2 = |id: &str| Operation::new(id, "v2").fails(&[404, 503]);
    let infer = |id: &str, types: &mut WireTypes| {
        prediction(id)
            .tag("v2")
            .body(types.request::<v2::InferRequest<'_>>(), None)
            .responds(
                200,
                "The outputs.",
                Some(("application/json", types.response::<v2::InferAnswer<'_, AnyJson>>())),
                &ANSWER_HEADERS,
            )
            .also_answers("application/octet-stream")
            .description(
                "Raw bytes can follow the JSON text in the body and in the answer. The header \
                 Inference-Header-Content-Length is then the length of the JSON text, and the media type is \
                 application/octet-stream.",
            )
    };
    let change = |id: &str| Operation::new(id, "v2").fails(&[401, 403, 404, 408, 409, 413, 422, 503, 504]);
    let generic = |id: &str, types: &mut WireTypes| {
        let operation = prediction(id).body(types.request::<PredictionRequest>(), None);
        with_answer(operation, types.response::<PredictionAnswer>()).description(
            "The form of an instance depends on the model: see its schema. Some models also take the bytes of one \
                 instance, such as an image, as the body. Rows can be sent as columns, CSV or lines of JSON, too.",
        )
    };
    match endpoint {
        DataEndpoint::Predict => match models.default_model() {
            Some(default) => default.typed(prediction("predict")),
            None => generic("predict", types),
        },
        DataEndpoint::PredictModel => generic("predictModel", types),
        DataEndpoint::PredictVersion => generic("predictVersion", types),
        DataEndpoint::Invocations => match models.default_model() {
            Some(default) => default.typed(prediction("invoke")),
            None => generic("invoke", types),
        }
        .body_as("text/csv", json!({ "type": "string" }), None)
        .body_as("application/jsonlines", json!({ "type": "string" }), None)
        .also_answers("text/csv")
        .also_answers("application/jsonlines"),
        DataEndpoint::Metadata => model("getMetadata")
            .answers("The signature of the stable version.", types.response::<tensorflow::ModelMetadata>())
            .fails(&[404]),
        DataEndpoint::VersionMetadata => model("getVersionMetadata")
            .answers("The signature of the version.", types.response::<tensorflow::ModelMetadata>())
            .fails(&[404]),
        DataEndpoint::Feedback => Operation::new("sendFeedback", "predictions")
            .body(
                types.request::<Report>(),
                Some(json!({ "feedback": [{ "prediction_id": "an id from a response", "label": 1 }] })),
            )
            .answers("The results, by item.", types.response::<Taken>())
            .fails(&[408, 413, 415, 503, 504]),
        DataEndpoint::Models => model("listModels").answers("The models.", types.response::<Models>()),
        DataEndpoint::Model => {
            model("getModel").answers("The model.", types.response::<ModelView>()).fails(&[404, 405])
        }
        DataEndpoint::ModelSchema => model("getModelSchema")
            .answers("The schemas of the stable version.", types.response::<ModelSchema>())
            .fails(&[404]),
        DataEndpoint::Version => {
            model("getVersion").answers("The version.", types.response::<ModelVersionView>()).fails(&[404, 405])
        }
        DataEndpoint::VersionSchema => model("getVersionSchema")
            .answers("The schemas of the version.", types.response::<ModelSchema>())
            .fails(&[404]),
        DataEndpoint::V2Server => v2("v2Server").answers("The server.", types.response::<v2::ServerMetadata>()),
        DataEndpoint::V2Live => v2("v2IsLive").open().answers("It is alive.", types.response::<v2::ServerLive>()),
        DataEndpoint::V2Ready => v2("v2IsReady").open().answers("It is ready.", types.response::<v2::ServerReady>()),
        DataEndpoint::V2Models => v2("v2ListModels").answers("The models.", types.response::<v2::ModelList>()),
        DataEndpoint::V2AllStatistics => {
            v2("v2AllStatistics").answers("Statistics of all versions.", types.response::<v2::Statistics>())
        }
        DataEndpoint::V2Model => v2("v2Model").answers("The model.", types.response::<v2::ModelMetadata>()),
        DataEndpoint::V2Version => v2("v2Version").answers("The version.", types.response::<v2::ModelMetadata>()),
        DataEndpoint::V2ModelReady => v2("v2IsModelReady").answers("It is ready.", types.response::<v2::ModelReady>()),
        DataEndpoint::V2VersionReady => {
            v2("v2IsVersionReady").answers("It is ready.", types.response::<v2::ModelReady>())
        }
        DataEndpoint::V2ModelConfig => {
            v2("v2ModelConfig").answers("The configuration.", types.response::<v2::ModelConfig>())
        }
        DataEndpoint::V2VersionConfig => {
            v2("v2VersionConfig").answers("The configuration.", types.response::<v2::ModelConfig>())
        }
        DataEndpoint::V2ModelStatistics => {
            v2("v2ModelStatistics").answers("Statistics of its versions.", types.response::<v2::Statistics>())
        }
        DataEndpoint::V2VersionStatistics => {
            v2("v2VersionStatistics").answers("Statistics of the version.", types.response::<v2::Statistics>())
        }
        DataEndpoint::V2Infer => infer("v2Infer", types),
        DataEndpoint::V2InferVersion => infer("v2InferVersion", types),
        DataEndpoint::V2RepositoryIndex => v2("v2RepositoryIndex")
            .body(types.request::<v2::IndexRequest>(), Some(json!({ "ready": true })))
            .optional_body()
            .answers("The versions.", types.response::<Vec<v2::IndexEntry>>())
            .fails(&[408, 413]),
        DataEndpoint::V2RepositoryLoad => change("v2LoadModel")
            .body(types.request::<v2::LoadRequest>(), Some(json!({})))
            .answers("The model is loaded.", json!({ "type": "object" })),
        DataEndpoint::V2RepositoryUnload => change("v2UnloadModel")
            .body(types.request::<v2::UnloadRequest>(), Some(json!({})))
            .answers("The model is unloaded.", json!({ "type": "object" })),
        DataEndpoint::Index => server("getIndex")
            .answers("The models and the links.", types.response::<DataIndex>())
            .responds(303, "For a browser: the page to read and to try the API.", None, &["Location"])
            .fails(&[503]),
        DataEndpoint::OpenApi => server("getOpenApi")
            .responds(200, "The document.", Some(("application/json", json!({ "type": "object" }))), &["ETag"])
            .responds(304, "The document has not changed.", None, &["ETag"]),
        DataEndpoint::Docs => server("getDocs")
            .open()
            .responds(200, "The page.", Some(("text/html", json!({ "type": "string" }))), &["ETag"])
            .responds(304, "The page has not changed.", None, &["ETag"]),
        DataEndpoint::Live => {
            server("isLive").open().answers("The server is alive.", types.response::<Live>()).fails(&[503])
        }
        DataEndpoint::Ready => {
            server("isReady").open().answers("The server is ready.", types.response::<Ready>()).fails(&[503])
        }
        DataEndpoint::Ping => server("ping").open().responds(200, "The server is ready.", None, &[]).fails(&[503]),
        DataEndpoint::Health => {
            server("getHealth").open().responds(200, "The server is ready.", None, &[]).fails(&[503])
        }
        DataEndpoint::ProgramVersion => {
            let text = Some(("text/plain", json!({ "type": "string" })));
            server("getProgramVersion").responds(200, "The version of the program.", text, &[])
        }
        DataEndpoint::Metrics => server("getMetrics")
            .responds(
                200,
                "The metrics, in Prometheus' text format.",
                Some(("text/plain", json!({ "type": "string" }))),
                &[],
            )
            .fails(&[404]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_without_models_has_every_endpoint() {
        let document = data(&Snapshot::default(), false);
        for endpoint in DataEndpoint::ALL {
            let method = endpoint.method().to_string().to_ascii_lowercase();
            let operation = &document["paths"][endpoint.path()][method];
            assert!(operation["operationId"].is_string(), "{endpoint}");
        }
    }
}
