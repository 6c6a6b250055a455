//! The signature of a version, in the format of minisign: `version.toml.minisig` beside `version.toml`.
//!
//! The manifest has the digest of every file, so a signature of the manifest is one of the whole version. The trusted comment of
//! the signature names the model and the version, so that it is not valid for another one.

use std::path::Path;
use std::sync::Arc;

use minisign_verify::Signature;

use super::manifest::MANIFEST_FILE;
use super::refusal::Refusal;
use super::regular_file;
use crate::config::{KeyId, KeyVerdict, TrustedKey};
use crate::error::LoadFault;
use crate::identity::{ModelName, Version, shown};

/// The file of the signature within a version's folder.
pub const SIGNATURE_FILE: &str = "version.toml.minisig";

/// Maximum size of the file, in bytes. A signature has some 300 bytes, and its comments have at most 8 KiB each.
const MAX_SIGNATURE_BYTES: u64 = 20 << 10;

/// Public keys, one of which versions have to be signed with. Without keys, signatures are not checked.
#[derive(Debug, Clone, Default)]
pub struct TrustedKeys(Arc<[TrustedKey]>);

/// The keys for a version, and the version that its signature has to name.
#[derive(Debug, Clone, Copy)]
pub struct Trust<'a> {
    /// The trusted keys.
    pub keys: &'a TrustedKeys,
    /// Model of the version.
    pub model: &'a ModelName,
    /// Number of the version.
    pub version: Version,
}

impl From<Vec<TrustedKey>> for TrustedKeys {
    fn from(keys: Vec<TrustedKey>) -> TrustedKeys {
        TrustedKeys(keys.into())
    }
}

impl TrustedKeys {
    /// Returns the keys.
    pub fn keys(&self) -> &[TrustedKey] {
        &self.0
    }

    fn ids(&self) -> String {
        self.0.iter().map(|key| key.id().to_string()).collect::<Vec<_>>().join(", ")
    }
}

/// Returns the trusted comment of the signature of a version.
///
/// ```
/// use leeway::repository::trusted_comment;
/// let comment = trusted_comment(&"digits".parse().unwrap(), "3".parse().unwrap());
/// assert_eq!(comment, "model:digits version:3");
/// ```
pub fn trusted_comment(model: &ModelName, version: Version) -> String {
    format!("model:{model} version:{version}")
}

impl Trust<'_> {
    /// Checks the signature of the manifest with these bytes. Returns the id of the key; `None` if no keys are trusted.
    pub(super) fn check(self, folder: &Path, manifest: &[u8]) -> Result<Option<KeyId>, Refusal> {
        if self.keys.0.is_empty() {
            return Ok(None);
        }
        let text = self.read(folder)?;
        let not_a_signature = || {
            self.refuse(
                "it is not a signature of minisign, which has four lines: a comment, the signature, \"trusted comment: \
                 ...\", and the signature of the comment",
            )
        };
        let signature = Signature::decode(&text).map_err(|_| not_a_signature())?;
        let id = text.lines().nth(1).and_then(KeyId::of_line).ok_or_else(not_a_signature)?;
        let verdicts: Vec<KeyVerdict> = self.keys.0.iter().map(|key| key.check(manifest, &signature)).collect();
        if !verdicts.contains(&KeyVerdict::Signed) {
            return Err(match verdicts.contains(&KeyVerdict::Wrong) {
                true => self.refuse(&format!(
                    "it is not a signature by the key {id} of this {MANIFEST_FILE}: one of the two files was changed, or the \
                     signature was made in minisign's legacy mode (-l); restore them, or find out what has changed before"
                )),
                false => self.refuse(&format!("it is by the key {id}, which repository.trusted_keys does not have")),
            });
        }
        self.check_comment(signature.trusted_comment())?;
        Ok(Some(id))
    }

    fn read(self, folder: &Path) -> Result<String, Refusal> {
        let path = folder.join(SIGNATURE_FILE);
        if std::fs::symlink_metadata(&path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            return Err(self.refuse("the file is missing, so the version is not signed"));
        }
        let bytes = regular_file::read(&path, MAX_SIGNATURE_BYTES)
            .map_err(|error| Refusal::of_io(LoadFault::Signature, SIGNATURE_FILE, &error))?;
        String::from_utf8(bytes).map_err(|_| self.refuse("it is not UTF-8"))
    }

    /// Checks that a trusted comment names this version, and no other.
    fn check_comment(self, comment: &str) -> Result<(), Refusal> {
        let values = |key: &str| -> Vec<&str> {
            comment.split_whitespace().filter_map(|word| word.strip_prefix(key)?.strip_prefix(':')).collect()
        };
        let (model, version) = (values("model"), values("version"));
        if model == [self.model.as_str()] && version == [self.version.to_string()] {
            return Ok(());
        }
        let (expected, found) = (trusted_comment(self.model, self.version), shown(comment));
        Err(self.refuse(&format!(
            "its trusted comment is \"{found}\", and that of this version has \"{expected}\": a signature is valid for the \
             version that it names"
        )))
    }

    /// Returns a refusal that ends with the remedy.
    fn refuse(self, problem: &str) -> Refusal {
        let Trust { keys, model, version } = self;
        let remedy = format!(
            "repository.trusted_keys asks for a signature by one of the keys {}: `leeway sign {model} {version} --key FILE`",
            keys.ids()
        );
        Refusal::new(LoadFault::Signature, format!("{SIGNATURE_FILE}: {problem}; {remedy}"))
    }
}
