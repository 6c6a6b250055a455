//! `repository.trusted_keys`: the public keys that versions have to be signed with.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minisign_verify::{PublicKey, Signature};
use serde::{Deserialize, Serialize};

use crate::identity::shown;

/// Number of bytes of a public key: the algorithm, the id of the key, and the key.
const PUBLIC_KEY_BYTES: usize = 42;

/// A public key of minisign, as minisign prints it: `RWQ…`, 56 characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustedKey {
    text: String,
    key: PublicKey,
    id: KeyId,
}

/// The id of a key of minisign. It is no secret, and anybody can make another key with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyId([u8; 8]);

/// Result of a check of a signature with one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyVerdict {
    /// The signature, and its trusted comment, are by this key.
    Signed,
    /// The signature is by a key with another id.
    OtherKey,
    /// The signature names this key, and is not by this key, or not for these bytes.
    Wrong,
}

impl TrustedKey {
    /// Returns the id of the key.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Checks a signature of these bytes. Signatures in minisign's legacy mode are wrong.
    pub fn check(&self, bytes: &[u8], signature: &Signature) -> KeyVerdict {
        match self.key.verify(bytes, signature, false) {
            Ok(()) => KeyVerdict::Signed,
            Err(minisign_verify::Error::UnexpectedKeyId) => KeyVerdict::OtherKey,
            Err(_) => KeyVerdict::Wrong,
        }
    }
}

impl KeyId {
    /// Reads the id from the line of a key or of a signature: base64, with the id after two bytes.
    pub fn of_line(line: &str) -> Option<KeyId> {
        let bytes = STANDARD.decode(line.trim()).ok()?;
        bytes.get(2..10)?.try_into().ok().map(KeyId)
    }
}

/// Writes the id as minisign does.
///
/// ```
/// // The key in the documentation of minisign.
/// let key: leeway::config::TrustedKey = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3".parse().unwrap();
/// assert_eq!(key.id().to_string(), "E7620F1842B4E81F");
/// ```
impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", u64::from_le_bytes(self.0))
    }
}

impl FromStr for TrustedKey {
    type Err = String;

    fn from_str(text: &str) -> Result<TrustedKey, String> {
        let is_whole = STANDARD.decode(text).is_ok_and(|bytes| bytes.len() == PUBLIC_KEY_BYTES);
        let key = PublicKey::from_base64(text).ok().filter(|_| is_whole);
        match key.zip(KeyId::of_line(text)) {
            Some((key, id)) => Ok(TrustedKey { text: text.to_owned(), key, id }),
            None => Err(format!(
                "found {:?}, expected a public key as minisign and `leeway sign --generate` print it: 56 characters that \
                 begin with RW (the second line of a .pub file)",
                shown(text)
            )),
        }
    }
}

impl TryFrom<String> for TrustedKey {
    type Error = String;

    fn try_from(text: String) -> Result<TrustedKey, String> {
        text.parse()
    }
}

impl From<TrustedKey> for String {
    fn from(key: TrustedKey) -> String {
        key.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_public_key_is_a_trusted_key() {
        let key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
        assert_eq!(String::from(key.parse::<TrustedKey>().unwrap()), key);
        for wrong in ["", "RWQ", &key[..55], &format!("{key}="), "untrusted comment: minisign public key", &key[4..]] {
            let problem = wrong.parse::<TrustedKey>().unwrap_err();
            assert!(problem.contains("56 characters that begin with RW"), "{problem}");
        }
    }
}
