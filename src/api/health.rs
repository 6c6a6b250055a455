//! Health of the server, and the index of the admin listener.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::identity::ModelName;

/// Response to `GET /livez`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// Always true: a server that is not alive responds with a problem.
    pub live: bool,
}

/// Response to `GET /readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Always true: a server that is not ready responds with a problem.
    pub ready: bool,
    /// The models that are not served, each with the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unserved: BTreeMap<ModelName, String>,
}

/// Response to `GET /` of the admin listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Name of the program.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// The endpoints of the admin listener, each in the form `GET /livez`.
    pub endpoints: Vec<String>,
}
