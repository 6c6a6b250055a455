//! `[state]`: storage of the deployment journal, of the feedback, and of the list of servers.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// `[state]`: storage of the deployment journal, of the feedback, and of the list of servers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StateConfig {
    /// Location of the state: `sqlite:<file>`, `postgres://…`, or `memory`.
    pub url: StateUrl,
    /// File with the password of the PostgreSQL user. It is read again whenever the password is not accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// File in which this server remembers the deployments that it has seen in PostgreSQL, to start with when the database
    /// cannot be reached.
    pub last_seen: PathBuf,
}

/// Location of the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum StateUrl {
    /// In memory. The state is lost at a restart.
    Memory,
    /// In an SQLite file.
    Sqlite(PathBuf),
    /// In a PostgreSQL database.
    Postgres(PostgresUrl),
}

/// URL of a PostgreSQL database. It may contain a password, so it is never shown as it is.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl(String);

impl Default for StateConfig {
    fn default() -> Self {
        StateConfig {
            url: StateUrl::Sqlite(PathBuf::from("state/leeway.db")),
            password_file: None,
            last_seen: PathBuf::from("state/last-seen.json"),
        }
    }
}

impl StateConfig {
    /// Returns the configuration of a state at this location.
    pub fn at(url: StateUrl) -> StateConfig {
        StateConfig { url, ..StateConfig::default() }
    }

    /// Returns the folder of the state on this machine; `None` if it is in memory.
    pub fn folder(&self) -> Option<&Path> {
        let file = match &self.url {
            StateUrl::Memory => return None,
            StateUrl::Sqlite(file) => file,
            StateUrl::Postgres(_) => &self.last_seen,
        };
        Some(file.parent().unwrap_or(Path::new("")))
    }
}

impl PostgresUrl {
    /// Returns the URL, with its password if it has one.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// Returns the parts of the URL around its password; `None` if it has none.
    fn around_password(&self) -> Option<(&str, &str)> {
        let start = self.0.find("://")? + 3;
        let authority = self.0[start..].split(['/', '?']).next()?;
        let user = &authority[..authority.rfind('@')?];
        let colon = user.find(':')?;
        Some((&self.0[..=start + colon], &self.0[start + user.len()..]))
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.around_password() {
            Some((before, after)) => write!(f, "{before}<password>{after}"),
            None => f.write_str(&self.0),
        }
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for StateUrl {
    type Error = String;

    fn try_from(text: String) -> Result<StateUrl, String> {
        let scheme = text.split_once("://").map(|(scheme, rest)| (scheme, rest.is_empty()));
        match text.strip_prefix("sqlite:") {
            _ if text == "memory" => Ok(StateUrl::Memory),
            _ if matches!(scheme, Some(("postgres" | "postgresql", false))) => {
                Ok(StateUrl::Postgres(PostgresUrl(text)))
            }
            Some(path) if !path.trim_start_matches('/').is_empty() => {
                // Three slashes are the usual way to write an absolute path.
                Ok(StateUrl::Sqlite(PathBuf::from(path.strip_prefix("//").unwrap_or(path))))
            }
            _ => Err(format!(
                "found {text:?}, expected \"memory\", \"sqlite:<file>\", as in sqlite:state/leeway.db, or \
                 \"postgres://<user>@<host>/<database>\""
            )),
        }
    }
}

impl From<StateUrl> for String {
    fn from(url: StateUrl) -> String {
        match url {
            StateUrl::Memory => "memory".to_owned(),
            StateUrl::Sqlite(path) => format!("sqlite:{}", path.display()),
            StateUrl::Postgres(url) => url.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        for (url, shown) in [
            (
                "postgres://ada:s%40cret@db:5432/leeway?sslmode=require",
                "postgres://ada:<password>@db:5432/leeway?sslmode=require",
            ),
            ("postgresql://ada:a@b@db/leeway", "postgresql://ada:<password>@db/leeway"),
            ("postgres://ada@db/leeway", "postgres://ada@db/leeway"),
            ("postgres://db/leeway", "postgres://db/leeway"),
            ("postgres:///leeway?host=/run/postgresql", "postgres:///leeway?host=/run/postgresql"),
        ] {
            let parsed = StateUrl::try_from(url.to_owned()).unwrap();
            assert_eq!(format!("{parsed:?}"), format!("Postgres({shown})"));
            assert_eq!(String::from(parsed), shown);
        }
    }

    #[test]
    fn other_locations_are_refused_with_what_is_accepted() {
        for url in ["", "sqlite:", "mysql://db/leeway", "postgres://", "leeway.db"] {
            let error = StateUrl::try_from(url.to_owned()).unwrap_err();
            assert!(error.contains("expected \"memory\""), "{error}");
        }
    }
}
