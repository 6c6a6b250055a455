//! `deployment.toml` in the folder of a model: the deployment that the model should have, for those who keep it in Git, in
//! a ConfigMap or on a shared volume.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::settings_file::read_text;
use crate::error::{Result, SetupError};
use crate::identity::{Sha256, Version};
use crate::traffic::{Shadow, Share, TrafficSplit};

/// The content of a `deployment.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentFile {
    /// The stable version.
    pub stable: Version,
    /// Shares of the versions in the requests that name no version.
    pub traffic: TrafficSplit,
    /// Shadow traffic, if there is any.
    pub shadow: Option<Shadow>,
    /// Author of the change, for the history.
    pub by: String,
    /// Reason for the change, for the history.
    pub reason: String,
    /// Digest of the file.
    pub sha256: Sha256,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    stable: Version,
    #[serde(default)]
    traffic: BTreeMap<Version, Share>,
    shadow: Option<Shadow>,
    #[serde(default)]
    by: String,
    #[serde(default)]
    reason: String,
}

impl DeploymentFile {
    /// Reads a file; `None` if it does not exist.
    pub fn read(path: &Path) -> Result<Option<DeploymentFile>, SetupError> {
        if !path.exists() {
            return Ok(None);
        }
        let text = read_text(path).map_err(|problem| SetupError::Config(format!("{}: {problem}", path.display())))?;
        DeploymentFile::parse(&text, &path.display().to_string()).map(Some)
    }

    /// Reads the text of a file. `place` is its location, for messages.
    ///
    /// ```
    /// use leeway::config::DeploymentFile;
    /// let file = DeploymentFile::parse("stable = 3\n[traffic]\n3 = 90\n4 = 10\n", "deployment.toml").unwrap();
    /// assert_eq!((file.stable.get(), file.traffic.to_string()), (3, "3=90 4=10".to_owned()));
    /// let all = DeploymentFile::parse("stable = 3\n", "deployment.toml").unwrap();
    /// assert_eq!(all.traffic.to_string(), "3=100");
    /// let shadowed = DeploymentFile::parse("stable = 3\n[shadow]\nversion = 4\npercent = 5\n", "deployment.toml").unwrap();
    /// assert_eq!(shadowed.shadow.unwrap().to_string(), "4=5");
    /// let error = DeploymentFile::parse("stable = 3\n[traffic]\n3 = 90\n", "deployment.toml").unwrap_err();
    /// assert_eq!(error.to_string(), "deployment.toml: traffic: the shares add up to 90%, but must add up to 100%: 3=90");
    /// ```
    pub fn parse(text: &str, place: &str) -> Result<DeploymentFile, SetupError> {
        let wrong = |problem: &dyn std::fmt::Display| SetupError::Config(format!("{place}: {problem}"));
        let Content { stable, traffic, shadow, by, reason } =
            toml::from_str(text).map_err(|error| wrong(&error.to_string().trim_end()))?;
        let traffic = match traffic.is_empty() {
            true => TrafficSplit::all_to(stable),
            false => TrafficSplit::new(traffic).map_err(|error| wrong(&format_args!("traffic: {error}")))?,
        };
        let shadow = shadow.map(|Shadow { version, percent }| Shadow::beside(stable, version, percent));
        let shadow = shadow.transpose().map_err(|error| wrong(&format_args!("shadow: {error}")))?;
        let by = if by.is_empty() { DEPLOYMENT_FILE.to_owned() } else { by };
        Ok(DeploymentFile { stable, traffic, shadow, by, reason, sha256: Sha256::of(text.as_bytes()) })
    }
}

/// Name of the file.
pub const DEPLOYMENT_FILE: &str = "deployment.toml";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named_with_the_place() {
        for (text, expected) in [
            ("", "missing field `stable`"),
            ("stable = 0", "stable"),
            ("stable = 1\nstabel = 2", "unknown field `stabel`"),
            ("stable = 1\n[traffic]\n1 = 50\n2 = 60", "add up to 110%"),
            ("stable = 1\n[traffic]\n1 = \"all\"", "invalid type"),
            ("stable = ", "expected"),
            ("stable = 1\n[shadow]\nversion = 1\npercent = 5", "shadow: version 1 is the stable version"),
            ("stable = 1\n[shadow]\nversion = 2\npercent = 0", "shadow: found 0 percent"),
            ("stable = 1\n[shadow]\nversion = 2", "missing field `percent`"),
        ] {
            let error = DeploymentFile::parse(text, "digits/deployment.toml").unwrap_err().to_string();
            assert!(error.starts_with("digits/deployment.toml: ") && error.contains(expected), "{text}: {error}");
        }
    }
}
