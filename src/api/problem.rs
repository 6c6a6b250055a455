//! The response to a request that failed: a problem document (RFC 9457, section 3).

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Problem document: the body of every error response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Problem<'a> {
    /// Kind of the problem: `urn:leeway:problem:` and a code.
    #[serde(default)]
    pub r#type: Cow<'a, str>,
    /// Title, the same for all problems of this kind.
    #[serde(default)]
    pub title: Cow<'a, str>,
    /// HTTP status of the response.
    #[serde(default)]
    pub status: u16,
    /// Description of the problem and its remedy.
    pub detail: Cow<'a, str>,
    /// Id of the request, as in the log.
    #[serde(default)]
    pub request_id: Cow<'a, str>,
    /// The detail again, for clients of the `/v1` protocols.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Cow<'a, str>>,
    /// The current deployment, if the refused change was based on another deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<Value>,
}
