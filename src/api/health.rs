//! Health of the server, and the indexes of both listeners.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::identity::ModelName;

/// Response to `GET /livez`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Live {
    /// Always true: a server that is not alive responds with a problem.
    pub live: bool,
}

/// Response to `GET /readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ready {
    /// Always true: a server that is not ready responds with a problem.
    pub ready: bool,
    /// The models that are not served, each with the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unserved: BTreeMap<ModelName, String>,
}

/// Response to `GET /` of the admin listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Index {
    /// Name of the program.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// The endpoints of the admin listener, each in the form `GET /livez`.
    pub endpoints: Vec<String>,
}

/// Response to `GET /` of the data listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DataIndex {
    /// Name of the program.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// The models, by name: first those that are served.
    pub models: Vec<IndexedModel>,
    /// Paths to go to from here, by what is there.
    pub links: BTreeMap<String, String>,
}

/// A model in the index of the data listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IndexedModel {
    /// Name of the model.
    pub name: ModelName,
    /// True if the model can answer requests.
    pub ready: bool,
}
