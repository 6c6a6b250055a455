//! Names of models, versions and sets of files.
//!
//! Names come from folders, URLs and configuration. They are parsed once, here, so that no other module has to check
//! that a name is not a path.

#![warn(missing_docs)]

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A model's name: the name of its folder, and part of its URL and of metric labels.
///
/// 1–64 characters of `A–Z a–z 0–9 _ . -`, beginning with a letter or a digit.
///
/// ```
/// use leeway::identity::ModelName;
/// assert!("digits".parse::<ModelName>().is_ok());
/// assert!("../digits".parse::<ModelName>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("pattern" = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"))]
pub struct ModelName(String);

/// A version of a model: a positive integer, the name of its folder.
///
/// ```
/// use leeway::identity::Version;
/// assert!("2".parse::<Version>().is_ok());
/// assert!("0".parse::<Version>().is_err());
/// assert!("02".parse::<Version>().is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Version(NonZeroU32);

/// A SHA-256 digest, written as 64 hexadecimal digits.
///
/// ```
/// use leeway::identity::Sha256;
/// let digest: Sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".parse().unwrap();
/// assert_eq!(digest.short(), "ba7816bf8f01");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("pattern" = "^[0-9a-f]{64}$"))]
pub struct Sha256([u8; 32]);

/// Ten bytes that identify a version of a model in a prediction id: six of the digest of the model's name, and four of
/// the version's number.
///
/// ```
/// use leeway::identity::VersionKey;
/// let key = |model: &str, version: &str| VersionKey::of(&model.parse().unwrap(), version.parse().unwrap());
/// assert_eq!(key("digits", "2"), key("digits", "2"));
/// assert_ne!(key("digits", "2"), key("digits", "3"));
/// assert_ne!(key("digits", "2"), key("letters", "2"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VersionKey([u8; 10]);

/// The reason why a text is not a valid name, version or digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidName(&'static str);

/// Maximum length of a text that [`shown`] leaves unchanged, in bytes.
const MAX_SHOWN: usize = 200;

/// Makes an untrusted name or text safe for messages and logs: [`printable`] with the usual limit.
pub fn shown(text: &str) -> String {
    printable(text, MAX_SHOWN).into_owned()
}

/// Truncates a text to `longest` characters, and marks the cut with an ellipsis.
///
/// ```
/// use leeway::identity::cut_off;
/// assert_eq!(cut_off("short".to_owned(), 10), "short");
/// assert_eq!(cut_off("x".repeat(1_000), 3), "xxx…");
/// ```
pub fn cut_off(mut text: String, longest: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(longest) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Escapes the characters of an untrusted text that move a terminal's cursor, end a line or change the direction of
/// writing. Keeps only the first `max_bytes` of a long text.
///
/// ```
/// use leeway::identity::printable;
/// assert_eq!(printable("Größe", 64), "Größe");
/// assert_eq!(printable("a\u{1b}[2J\n", 64), "a\\u{1b}[2J\\n");
/// assert_eq!(printable("abcdef", 3), "abc…");
/// ```
pub fn printable(text: &str, max_bytes: usize) -> Cow<'_, str> {
    let cut = &text[..text.floor_char_boundary(max_bytes)];
    if cut.len() == text.len() && !cut.contains(is_unprintable) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(cut.len() + 8);
    for c in cut.chars() {
        if is_unprintable(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    if cut.len() < text.len() {
        shown.push('…');
    }
    Cow::Owned(shown)
}

/// Returns true for control characters, and for those that change the direction of writing or end a line.
pub fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

// ===== impl VersionKey =====

impl VersionKey {
    /// Returns the key of this version of the model.
    pub fn of(model: &ModelName, version: Version) -> VersionKey {
        use sha2::Digest;
        let mut key = [0; 10];
        key[..6].copy_from_slice(&sha2::Sha256::digest(model.as_str())[..6]);
        key[6..].copy_from_slice(&version.get().to_be_bytes());
        VersionKey(key)
    }

    /// Returns the key with these bytes.
    pub fn from_bytes(bytes: [u8; 10]) -> VersionKey {
        VersionKey(bytes)
    }

    /// Returns the bytes of the key.
    pub fn bytes(self) -> [u8; 10] {
        self.0
    }
}

// ===== impl ModelName =====

impl ModelName {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Allows lookups by the text of a URL in a map whose keys are names.
impl std::borrow::Borrow<str> for ModelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for ModelName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        let starts_well = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if starts_well && text.len() <= 64 && text.bytes().all(allowed) {
            Ok(ModelName(text.to_owned()))
        } else {
            Err(InvalidName(
                "a model's name is 1 to 64 letters, digits, '_', '.' or '-', and begins with a letter or a digit",
            ))
        }
    }
}

impl TryFrom<String> for ModelName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<ModelName> for String {
    fn from(name: ModelName) -> String {
        name.0
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// ===== impl Version =====

impl Version {
    /// Returns the version as a number, at least 1.
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

impl Version {
    /// The first version of a model.
    pub const FIRST: Version = Version(NonZeroU32::MIN);

    /// Returns the version after this one; `None` after the largest possible version.
    pub fn next(self) -> Option<Version> {
        self.0.checked_add(1).map(Version)
    }
}

impl FromStr for Version {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let canonical = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
        text.parse()
            .ok()
            .filter(|_| canonical)
            .map(Version)
            .ok_or(InvalidName("a version is a positive integer without leading zeros, at most 4294967295"))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// ===== impl Sha256 =====

impl Sha256 {
    /// Returns the digest of these bytes.
    pub fn of(bytes: &[u8]) -> Sha256 {
        use sha2::Digest;
        Sha256(sha2::Sha256::digest(bytes).into())
    }

    /// Returns the bytes of the digest.
    pub fn bytes(&self) -> [u8; 32] {
        self.0
    }

    /// Returns the first 12 hexadecimal digits, for logs and tables.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl FromStr for Sha256 {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest)
            .map(|()| Sha256(digest))
            .map_err(|_| InvalidName("a SHA-256 digest is 64 hexadecimal digits"))
    }
}

impl TryFrom<String> for Sha256 {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<[u8; 32]> for Sha256 {
    fn from(digest: [u8; 32]) -> Self {
        Sha256(digest)
    }
}

impl From<Sha256> for String {
    fn from(digest: Sha256) -> String {
        digest.to_string()
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
