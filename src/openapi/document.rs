//! An OpenAPI document as a whole.

use serde_json::{Map, Value, json};

use super::failures;
use super::wire_types::WireTypes;
use crate::api::problem::Problem;
use crate::api::schema::ModelSchema;

/// Parts of a document.
pub(super) struct Document {
    pub(super) title: &'static str,
    pub(super) description: String,
    /// The tags of operations, each with its description.
    pub(super) tags: &'static [(&'static str, &'static str)],
    pub(super) paths: Map<String, Value>,
    pub(super) types: WireTypes,
    /// Schemas beside those of the types.
    pub(super) schemas: Map<String, Value>,
    /// Credentials of callers, as security schemes.
    pub(super) credentials: Map<String, Value>,
    /// The credentials that endpoints need unless they say otherwise.
    pub(super) security: Option<Value>,
}

impl Document {
    /// Returns the document.
    pub(super) fn finish(self) -> Value {
        let Document { title, description, tags, paths, mut types, schemas, credentials, security } = self;
        // Referred to by responses and by the path parameter.
        types.response::<Problem<'_>>();
        types.response::<ModelSchema>();
        let mut components = types.into_components();
        components.extend(schemas);
        let tags: Vec<Value> = tags.iter().map(|(name, text)| json!({ "name": name, "description": text })).collect();
        let mut document = json!({
            "openapi": "3.1.0",
            "info": {
                "title": title,
                "version": env!("CARGO_PKG_VERSION"),
                "description": description,
                "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
            },
            "tags": tags,
            "paths": paths,
            "components": {
                "schemas": components,
                "responses": failures::components(),
                "headers": failures::headers(),
                "parameters": parameters(),
            },
        });
        if !credentials.is_empty() {
            document["components"]["securitySchemes"] = credentials.into();
        }
        if let Some(security) = security {
            document["security"] = security;
        }
        document
    }
}

/// Returns the parameters that several operations share, as components of the document.
fn parameters() -> Value {
    let of_path = |name: &str, description: &str| {
        json!({
            "in": "path", "name": name, "required": true, "description": description,
            "schema": { "$ref": format!("#/components/schemas/{}", if name == "model" { "ModelName" } else { "Version" }) },
        })
    };
    json!({
        "model": of_path("model", "Name of the model."),
        "version": of_path("version", "Number of the version."),
        "X-Request-Id": {
            "in": "header", "name": "X-Request-Id",
            "description": "Id of the request, which is returned and logged if it is 1 to 128 of A–Z a–z 0–9 - _ . : / + = @.",
            "schema": { "type": "string" },
        },
    })
}
