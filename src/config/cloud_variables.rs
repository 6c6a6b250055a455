//! Environment variables with the credentials and settings of object stores, as their own tools read them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

use super::location::BucketApi;

/// Prefixes of all variables of object stores.
const PREFIXES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// Further variables: the file of a service account of Google, and the endpoint of Azure's managed identities.
const OTHERS: [&str; 3] = ["SERVICE_ACCOUNT", "IDENTITY_ENDPOINT", "IDENTITY_HEADER"];

/// The variables of one object store, by name in lower case. Their values are never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CloudVariables(BTreeMap<String, String>);

impl CloudVariables {
    /// Reads the variables for an object store with this API. Empty variables count as not set.
    pub fn of_environment(api: BucketApi) -> CloudVariables {
        let (prefix, others): (&str, &[&str]) = match api {
            BucketApi::S3 => ("AWS_", &[]),
            BucketApi::Google => ("GOOGLE_", &["SERVICE_ACCOUNT"]),
            BucketApi::Azure => ("AZURE_", &["IDENTITY_ENDPOINT"]),
        };
        let set =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let ours = set
            .filter(|(name, value)| !value.is_empty() && (name.starts_with(prefix) || others.contains(&name.as_str())));
        CloudVariables(ours.map(|(name, value)| (name.to_ascii_lowercase(), value)).collect())
    }

    /// Returns the value of a variable, by its name in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Returns the variables, by their names in lower case.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Returns the names of the set variables of all object stores. They may hold secrets.
pub(super) fn names() -> Vec<OsString> {
    let is_ours = |name: &str| PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || OTHERS.contains(&name);
    let names = std::env::vars_os().map(|(name, _)| name);
    names.filter(|name| is_ours(&name.to_string_lossy())).collect()
}

impl fmt::Debug for CloudVariables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
