//! Location of the models: a folder, a bucket of an object store, or a static web server with an index.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Result, SetupError};
use crate::identity::shown;

/// Accepted forms of a location, for messages.
const ACCEPTED: &str = "a folder, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, or https://host/path (http:// \
                        without encryption)";

/// Location of the models (`repository.path`).
///
/// ```
/// use leeway::config::RepositoryLocation;
/// let location: RepositoryLocation = "s3://models/production".parse().unwrap();
/// assert_eq!(location.to_string(), "s3://models/production");
/// assert!("ftp://models".parse::<RepositoryLocation>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RepositoryLocation {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A bucket of an object store.
    Bucket(BucketLocation),
    /// A web server with an index of its files, which is read only. The URL has no slash at its end.
    HttpIndex(String),
}

/// Objects of a bucket whose names begin with a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketLocation {
    /// The API of the object store.
    pub api: BucketApi,
    /// The name of the bucket; of the container in Azure.
    pub bucket: String,
    /// The path above the models, without slashes at its ends; empty for the whole bucket.
    pub prefix: String,
}

/// The API of an object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BucketApi {
    /// Amazon S3, and servers with its API.
    S3,
    /// Google Cloud Storage.
    Google,
    /// Azure Blob Storage.
    Azure,
}

impl RepositoryLocation {
    /// Returns the folder, for a command that needs one. The error says what to do instead with `remedy`.
    pub fn folder(&self, remedy: &str) -> Result<&Path, SetupError> {
        match self {
            RepositoryLocation::Folder(path) => Ok(path),
            other => Err(SetupError::Config(format!("{other}: this is not a folder; {remedy}"))),
        }
    }

    /// Returns the location of an entry of this location.
    pub fn join(&self, name: &str) -> RepositoryLocation {
        match self {
            RepositoryLocation::Folder(path) => RepositoryLocation::Folder(path.join(name)),
            RepositoryLocation::Bucket(bucket) => {
                let prefix =
                    if bucket.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", bucket.prefix) };
                RepositoryLocation::Bucket(BucketLocation { prefix, ..bucket.clone() })
            }
            RepositoryLocation::HttpIndex(url) => RepositoryLocation::HttpIndex(format!("{url}/{name}")),
        }
    }

    /// Returns the location above this one and the last part of this one; `None` if there is no part, or if this is a
    /// folder.
    pub fn split_remote(&self) -> Option<(RepositoryLocation, String)> {
        match self {
            RepositoryLocation::Folder(_) => None,
            RepositoryLocation::Bucket(bucket) => {
                let (above, last) = bucket.prefix.rsplit_once('/').unwrap_or(("", &bucket.prefix));
                let above = BucketLocation { prefix: above.to_owned(), ..bucket.clone() };
                (!last.is_empty()).then(|| (RepositoryLocation::Bucket(above), last.to_owned()))
            }
            RepositoryLocation::HttpIndex(url) => {
                let (above, last) = url.rsplit_once('/')?;
                let has_host = above.split_once("://").is_some_and(|(_, host)| !host.is_empty());
                has_host.then(|| (RepositoryLocation::HttpIndex(above.to_owned()), last.to_owned()))
            }
        }
    }
}

impl BucketApi {
    /// Returns the scheme of URLs.
    pub fn scheme(self) -> &'static str {
        match self {
            BucketApi::S3 => "s3",
            BucketApi::Google => "gs",
            BucketApi::Azure => "az",
        }
    }
}

impl FromStr for RepositoryLocation {
    type Err = String;

    fn from_str(text: &str) -> Result<RepositoryLocation, String> {
        if text.is_empty() {
            return Err(format!("the location is empty; expected {ACCEPTED}"));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(RepositoryLocation::Folder(PathBuf::from(text)));
        };
        // Not quoted in the messages below, because it may hold a password.
        if rest.split('/').next().is_some_and(|host| host.contains('@')) {
            return Err("the URL has a user or a password before \"@\"; credentials come from the environment, as in \
                        AWS_ACCESS_KEY_ID"
                .to_owned());
        }
        if rest.contains(['?', '#']) {
            return Err("the URL has a query or a fragment, which may hold a signature; write it without".to_owned());
        }
        let api = match scheme {
            "s3" => BucketApi::S3,
            "gs" => BucketApi::Google,
            "az" => BucketApi::Azure,
            "http" | "https" => return http_index(text),
            other => return Err(format!("found the scheme \"{}://\", expected {ACCEPTED}", shown(other))),
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        if bucket.is_empty() {
            return Err(format!("\"{}\" names no bucket; expected {scheme}://bucket/prefix", shown(text)));
        }
        if !prefix.is_empty() && !prefix.split('/').all(is_part) {
            return Err(format!("\"{}\" has an empty part, \".\" or \"..\" in its path", shown(text)));
        }
        Ok(RepositoryLocation::Bucket(BucketLocation { api, bucket: bucket.to_owned(), prefix: prefix.to_owned() }))
    }
}

fn http_index(text: &str) -> Result<RepositoryLocation, String> {
    let url = text.trim_end_matches('/');
    let (_, rest) = url.split_once("://").unwrap_or_default();
    if rest.is_empty() || !rest.split('/').all(is_part) {
        return Err(format!("\"{}\" is not a URL such as https://host/path", shown(text)));
    }
    Ok(RepositoryLocation::HttpIndex(url.to_owned()))
}

fn is_part(part: &str) -> bool {
    !matches!(part, "" | "." | "..") && !part.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\')
}

impl TryFrom<String> for RepositoryLocation {
    type Error = String;

    fn try_from(text: String) -> Result<RepositoryLocation, String> {
        text.parse()
    }
}

impl From<RepositoryLocation> for String {
    fn from(location: RepositoryLocation) -> String {
        location.to_string()
    }
}

impl From<PathBuf> for RepositoryLocation {
    fn from(path: PathBuf) -> RepositoryLocation {
        RepositoryLocation::Folder(path)
    }
}

impl From<&Path> for RepositoryLocation {
    fn from(path: &Path) -> RepositoryLocation {
        RepositoryLocation::Folder(path.to_owned())
    }
}

impl fmt::Display for RepositoryLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RepositoryLocation::Folder(path) => path.display().fmt(f),
            RepositoryLocation::HttpIndex(url) => f.write_str(url),
            RepositoryLocation::Bucket(BucketLocation { api, bucket, prefix }) => {
                write!(f, "{}://{bucket}", api.scheme())?;
                if prefix.is_empty() { Ok(()) } else { write!(f, "/{prefix}") }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_read_and_written() {
        for (text, shown) in [
            ("models", "models"),
            ("/srv/models", "/srv/models"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/a/b/", "s3://bucket/a/b"),
            ("gs://bucket/a", "gs://bucket/a"),
            ("az://container/a", "az://container/a"),
            ("https://host:8443/models/", "https://host:8443/models"),
            ("http://host", "http://host"),
        ] {
            assert_eq!(text.parse::<RepositoryLocation>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn a_wrong_location_is_explained_without_its_password() {
        let problem = |text: &str| text.parse::<RepositoryLocation>().unwrap_err();
        assert!(problem("").contains("expected a folder, s3://bucket/prefix"));
        assert!(problem("ftp://host/models").contains("\"ftp://\", expected a folder, s3://bucket/prefix"));
        assert!(problem("s3:///models").contains("names no bucket"));
        assert!(problem("s3://bucket/a//b").contains("empty part"));
        assert!(problem("s3://bucket/../b").contains("\"..\""));
        assert!(problem("https://").contains("is not a URL"));
        for text in ["https://user:hunter2@host/models", "s3://key:hunter2@bucket/models", "az://c/p?sig=hunter2"] {
            let problem = problem(text);
            assert!(!problem.contains("hunter2"), "{problem}");
        }
    }

    #[test]
    fn the_last_part_of_a_location_is_a_model() {
        let split = |text: &str| {
            let split = text.parse::<RepositoryLocation>().unwrap().split_remote();
            split.map(|(above, last)| (above.to_string(), last))
        };
        let pair = |above: &str, last: &str| Some((above.to_owned(), last.to_owned()));
        assert_eq!(split("s3://bucket/a/digits"), pair("s3://bucket/a", "digits"));
        assert_eq!(split("s3://bucket/digits"), pair("s3://bucket", "digits"));
        assert_eq!(split("s3://bucket"), None);
        assert_eq!(split("https://host/digits"), pair("https://host", "digits"));
        assert_eq!(split("https://host"), None);
        assert_eq!(split("models/digits"), None);
    }
}
