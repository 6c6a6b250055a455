//! `[state]`: storage of the deployment journal.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[state]`: storage of the deployment journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StateConfig {
    /// Location of the journal: `sqlite:<file>`, or `memory`.
    pub url: StateUrl,
}

/// Location of the deployment journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum StateUrl {
    /// In memory. The journal is lost at a restart.
    Memory,
    /// In an SQLite file.
    Sqlite(PathBuf),
}

impl Default for StateConfig {
    fn default() -> Self {
        StateConfig { url: StateUrl::Sqlite(PathBuf::from("state/leeway.db")) }
    }
}

impl TryFrom<String> for StateUrl {
    type Error = String;

    fn try_from(text: String) -> Result<StateUrl, String> {
        match text.strip_prefix("sqlite:") {
            _ if text == "memory" => Ok(StateUrl::Memory),
            Some(path) if !path.trim_start_matches('/').is_empty() => {
                // Three slashes are the usual way to write an absolute path.
                Ok(StateUrl::Sqlite(PathBuf::from(path.strip_prefix("//").unwrap_or(path))))
            }
            _ => Err(format!("found {text:?}, expected \"memory\" or \"sqlite:<file>\", as in sqlite:state/leeway.db")),
        }
    }
}

impl From<StateUrl> for String {
    fn from(url: StateUrl) -> String {
        match url {
            StateUrl::Memory => "memory".to_owned(),
            StateUrl::Sqlite(path) => format!("sqlite:{}", path.display()),
        }
    }
}
