//! `version.toml`, the manifest of a version: its files and its origin.
//!
//! A version is an immutable set of files. Its identity is one SHA-256 over the digests of all files except the
//! manifest, which holds the digests.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use jiff::{Timestamp, civil};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::Digest;

use super::refusal::Refusal;
use super::regular_file;
use crate::config::toml_problem;
use crate::error::LoadFault;
use crate::identity::{Sha256, shown};

/// The manifest's file within a version's folder.
pub const MANIFEST_FILE: &str = "version.toml";
/// The model's file within a version's folder.
pub const MODEL_FILE: &str = "model.onnx";
/// The golden examples within a version's folder.
pub const GOLDEN_FILE: &str = "golden.json";
/// The baseline within a version's folder.
pub const BASELINE_FILE: &str = "baseline.json";

/// Maximum size of a manifest, in bytes.
pub(super) const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// Maximum length of the name of a metric or a tag, in bytes.
const MAX_NAME: usize = 128;
/// The only format of manifests so far.
const FORMAT: u32 = 1;

/// The manifest of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format of the manifest: 1.
    pub format: u32,
    /// Description of this version, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Framework that it was made with: `"scikit-learn 1.8"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub framework: Option<String>,
    /// Training date of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained_at: Option<TrainingDate>,
    /// The version of the data it was trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// Time at which it was added to the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub added_at: Option<Timestamp>,
    /// Metrics of its evaluation, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, f64>,
    /// Further facts about the version, as free key-value pairs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Digests of all files except the manifest, by their path within the version.
    pub files: BTreeMap<FilePath, Sha256>,
}

/// A date, or a date with a time: `2026-11-24`, `2026-11-24T09:30:00Z`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct TrainingDate(String);

/// The path of a file within a version: parts separated by `/`. No part is empty, `.` or `..`. No part has a character
/// that has a special meaning in the paths of some system.
///
/// ```
/// use leeway::repository::FilePath;
/// assert!("vocab/tokenizer.json".parse::<FilePath>().is_ok());
/// assert!("../tokenizer.json".parse::<FilePath>().is_err());
/// assert!("/etc/passwd".parse::<FilePath>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct FilePath(String);

/// The reason why a text is not a valid path or date.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidText(String);

// ===== impl Manifest =====

impl Manifest {
    /// Returns a manifest of these files, without facts.
    pub fn of(files: BTreeMap<FilePath, Sha256>) -> Manifest {
        Manifest {
            format: FORMAT,
            description: None,
            framework: None,
            trained_at: None,
            dataset: None,
            added_at: None,
            metrics: BTreeMap::new(),
            tags: BTreeMap::new(),
            files,
        }
    }

    /// Reads the manifest of the version in this folder.
    pub fn read(folder: &Path) -> Result<Manifest, Refusal> {
        Manifest::of_bytes(&Manifest::read_bytes(folder)?)
    }

    /// Reads the bytes of the manifest in this folder.
    pub fn read_bytes(folder: &Path) -> Result<Vec<u8>, Refusal> {
        let refuse = |problem: String| Refusal::new(LoadFault::Manifest, format!("{MANIFEST_FILE}: {problem}"));
        let path = folder.join(MANIFEST_FILE);
        if !path.exists() {
            return Err(refuse(
                "the file with the digests of the other files is missing; make versions with `leeway add`".to_owned(),
            ));
        }
        regular_file::read(&path, MAX_MANIFEST_BYTES)
            .map_err(|error| Refusal::of_io(LoadFault::Manifest, MANIFEST_FILE, &error))
    }

    /// Parses the contents of a manifest.
    pub(super) fn of_bytes(bytes: &[u8]) -> Result<Manifest, Refusal> {
        let refuse = |problem| Refusal::new(LoadFault::Manifest, format!("{MANIFEST_FILE}: {problem}"));
        Manifest::parse(bytes).map_err(refuse)
    }

    /// Parses the contents of a manifest, or returns the problem.
    pub(super) fn parse(bytes: &[u8]) -> Result<Manifest, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())?;
        let manifest: Manifest = toml::from_str(text).map_err(|error| toml_problem(&error, text))?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!("format: found {}, and this Leeway reads {FORMAT}", self.format));
        }
        if let Some((name, value)) = self.metrics.iter().find(|(_, value)| !value.is_finite()) {
            return Err(format!("metrics.{}: {value} is not a finite number", shown(name)));
        }
        let metrics = self.metrics.keys().map(|name| ("metrics", name));
        let mut names = metrics.chain(self.tags.keys().map(|name| ("tags", name)));
        let is_name = |name: &str| name.len() <= MAX_NAME && !name.contains(|c: char| c.is_control());
        if let Some((section, name)) = names.find(|(_, name)| !is_name(name)) {
            let name = shown(name);
            return Err(format!(
                "{section}: \"{name}\" is not a name: at most {MAX_NAME} bytes, without control characters"
            ));
        }
        if !self.files.keys().any(|path| path.as_str() == MODEL_FILE) {
            return Err(format!("files: {MODEL_FILE} is not among them"));
        }
        if self.files.keys().any(|path| path.as_str() == MANIFEST_FILE) {
            return Err(format!("files: {MANIFEST_FILE} cannot hold its own digest"));
        }
        Ok(())
    }

    /// Returns the manifest as TOML.
    pub fn to_toml(&self) -> Result<String, String> {
        self.check()?;
        toml::to_string(self).map_err(|error| error.to_string())
    }

    /// Returns the identity of the version: SHA-256 over one line per file, `<sha256 in hex>  <path>\n`, sorted by
    /// path. In the version's folder, this command prints the same digest:
    /// `find . -type f ! -path ./version.toml | sed s,^./,, | LC_ALL=C sort | xargs sha256sum | sha256sum`.
    ///
    /// ```
    /// use leeway::repository::Manifest;
    /// let one = "4355a46b19d348dc2f57c046f8ef63d4538ebb936000f3c9ee954a27460dd865".parse().unwrap();
    /// let two = "53c234e5e8472b6ac51c1ae1cab3fe06fad053beb8ebfd8977b010655bfdd3c3".parse().unwrap();
    /// let files = [("a.onnx".parse().unwrap(), one), ("b/two".parse().unwrap(), two)];
    /// // Output of coreutils' sha256sum for a.onnx = "1\n" and b/two = "2\n", hashed again by sha256sum.
    /// let expected = "8fa71e81733f82040ad447bcc96470f5dd516a47d97bde4b4bf0d45f351ce436";
    /// assert_eq!(Manifest::of(files.into()).identity().to_string(), expected);
    /// ```
    pub fn identity(&self) -> Sha256 {
        let mut all = sha2::Sha256::new();
        for (path, digest) in &self.files {
            all.update(format!("{digest}  {}\n", path.as_str()));
        }
        Sha256::from(<[u8; 32]>::from(all.finalize()))
    }
}

// ===== impl FilePath =====

impl FilePath {
    /// Returns the path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Allows looking up any text in a map whose keys are file paths.
impl std::borrow::Borrow<str> for FilePath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for FilePath {
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        let plain = |part: &str| {
            !matches!(part, "" | "." | "..") && !part.contains(|c: char| c.is_control() || matches!(c, '\\' | ':'))
        };
        if text.len() <= 512 && text.split('/').all(plain) {
            Ok(FilePath(text.to_owned()))
        } else {
            Err(InvalidText(format!(
                "\"{}\" is not the path of a file within the version, as in vocab/tokenizer.json",
                shown(text)
            )))
        }
    }
}

impl TryFrom<String> for FilePath {
    type Error = InvalidText;

    fn try_from(text: String) -> Result<Self, InvalidText> {
        text.parse()
    }
}

impl From<FilePath> for String {
    fn from(path: FilePath) -> String {
        path.0
    }
}

impl std::fmt::Display for FilePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

// ===== impl TrainingDate =====

impl TrainingDate {
    /// Returns the date as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrainingDate {
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        if text.parse::<Timestamp>().is_ok() || (text.len() == 10 && text.parse::<civil::Date>().is_ok()) {
            Ok(TrainingDate(text.to_owned()))
        } else {
            let text = shown(text);
            Err(InvalidText(format!("\"{text}\" is not a date; write it like 2026-11-24 or 2026-11-24T09:30:00Z")))
        }
    }
}

impl TryFrom<String> for TrainingDate {
    type Error = InvalidText;

    fn try_from(text: String) -> Result<Self, InvalidText> {
        text.parse()
    }
}

impl From<TrainingDate> for String {
    fn from(date: TrainingDate) -> String {
        date.0
    }
}
