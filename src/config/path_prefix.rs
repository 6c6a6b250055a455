//! `http.path_prefix`: the path under which a proxy publishes the data listener.

use serde::{Deserialize, Serialize};

/// Maximum length of a prefix, in bytes.
const MAX_LENGTH: usize = 256;

/// A plain path that other paths can be below: it begins with a slash, does not end with one, and its segments have only
/// letters, digits, `-`, `.`, `_` and `~`.
///
/// ```
/// use leeway::config::PathPrefix;
/// assert_eq!("/team/models".parse::<PathPrefix>().unwrap().as_str(), "/team/models");
/// assert!("/a/../b".parse::<PathPrefix>().unwrap_err().contains("as in /leeway"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPrefix(String);

impl PathPrefix {
    /// Returns the prefix as a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the rest of a path that is below the prefix.
    pub fn below<'a>(&self, path: &'a str) -> Option<&'a str> {
        path.strip_prefix(&self.0).filter(|rest| rest.starts_with('/'))
    }
}

impl std::str::FromStr for PathPrefix {
    type Err = String;

    fn from_str(text: &str) -> Result<PathPrefix, String> {
        let is_plain = |segment: &str| {
            let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            !segment.is_empty() && !segment.bytes().all(|byte| byte == b'.') && segment.bytes().all(is_allowed)
        };
        match text.strip_prefix('/') {
            Some(path) if text.len() <= MAX_LENGTH && path.split('/').all(is_plain) => Ok(PathPrefix(text.to_owned())),
            _ => Err(format!(
                "a prefix is a path of letters, digits, -, ., _ and ~ without a slash at the end, at most \
                 {MAX_LENGTH} bytes, as in /leeway"
            )),
        }
    }
}

impl TryFrom<String> for PathPrefix {
    type Error = String;

    fn try_from(text: String) -> Result<PathPrefix, String> {
        text.parse()
    }
}

impl From<PathPrefix> for String {
    fn from(prefix: PathPrefix) -> String {
        prefix.0
    }
}
