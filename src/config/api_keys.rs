//! `[[http.api_keys]]` and the file of `http.api_keys_file`: the API keys of the data listener, as digests.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::sources::read_file;
use crate::error::{Result, SetupError};
use crate::identity::Sha256;

/// Maximum number of API keys. Each request is compared with all of them.
const MAX_KEYS: usize = 256;

/// An API key of the data listener. The configuration has only its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// Name of the client, for the metrics.
    pub name: ApiKeyName,
    /// SHA-256 of the key.
    pub sha256: Sha256,
}

/// Name of the client that has an API key: 1–64 letters, digits, `_`, `.` or `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ApiKeyName(String);

/// The content of a file with API keys.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ApiKeysFile {
    api_keys: Vec<ApiKey>,
}

/// Reads the API keys of a file.
pub fn read_api_keys(path: &Path) -> Result<Vec<ApiKey>, SetupError> {
    Ok(read_file::<ApiKeysFile>(path)?.api_keys)
}

/// Returns the first problem of a list of API keys: too many, or a name or a key that occurs twice.
pub fn api_keys_problem(keys: &[ApiKey]) -> Option<String> {
    if keys.len() > MAX_KEYS {
        return Some(format!("http.api_keys: {} are too many, at most {MAX_KEYS}", keys.len()));
    }
    let is_again = |(index, key): &(usize, &ApiKey)| {
        keys[..*index].iter().any(|other| other.name == key.name || other.sha256 == key.sha256)
    };
    let (_, key) = keys.iter().enumerate().find(is_again)?;
    Some(format!("http.api_keys: the name {:?} or its key occurs twice; each client has its own", key.name.as_str()))
}

impl ApiKeyName {
    /// Returns the name as a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for ApiKeyName {
    type Err = String;

    fn from_str(text: &str) -> Result<ApiKeyName, String> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if (1..=64).contains(&text.len()) && text.bytes().all(is_allowed) {
            Ok(ApiKeyName(text.to_owned()))
        } else {
            Err("the name of an API key is 1 to 64 letters, digits, _, . or -".to_owned())
        }
    }
}

impl TryFrom<String> for ApiKeyName {
    type Error = String;

    fn try_from(text: String) -> Result<ApiKeyName, String> {
        text.parse()
    }
}

impl From<ApiKeyName> for String {
    fn from(name: ApiKeyName) -> String {
        name.0
    }
}
