//! The signed id of a prediction. It contains everything that is needed to join an outcome with it, so that any replica
//! can accept the feedback, and nothing has to be stored.
//!
//! An id is 54 bytes as base64url without padding, which is 72 characters: the prediction (38 bytes) and the first 16
//! bytes of its HMAC-SHA-256 (RFC 2104; truncated as RFC 2104 §5 allows). Ids are opaque to clients: the format may
//! change.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::feature::{Certainty, Observation};
use crate::identity::VersionKey;

/// Length of the content of an id, in bytes.
const CONTENT: usize = 38;
/// Length of the signature, in bytes.
const TAG: usize = 16;
/// Length of an id as text.
const TEXT: usize = (CONTENT + TAG) / 3 * 4;

/// First byte of an id: the format (1) and the kind of prediction (0: neither class nor number).
const NOTHING: u8 = 0x10;
const CLASS: u8 = 0x11;
const VALUE: u8 = 0x12;

/// Content of an id: the request, the instance, the version and the prediction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PredictionId {
    /// The request: a UUID of version 7, which contains the time in milliseconds.
    pub request: Uuid,
    /// Index of the instance in the request.
    pub index: u32,
    /// The model and the version.
    pub version: VersionKey,
    /// The prediction. The margin and the entropy of a predicted class are not kept.
    pub predicted: Observation,
}

/// Signs prediction ids, and verifies ids that were signed with the same key. Clones share their key.
#[derive(Clone)]
pub struct Signer(Arc<ArcSwap<Hmac<Sha256>>>);

/// A verified prediction id, with its signature, which is different for every id.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verified {
    /// Content of the id.
    pub id: PredictionId,
    tag: [u8; TAG],
}

impl Signer {
    /// Creates a signer with a key of any length.
    pub fn new(key: &[u8]) -> Signer {
        Signer(Arc::new(ArcSwap::from_pointee(mac(key))))
    }

    /// Replaces the key.
    pub(super) fn set_key(&self, key: &[u8]) {
        self.0.store(Arc::new(mac(key)));
    }

    fn mac(&self) -> Hmac<Sha256> {
        Hmac::clone(&self.0.load())
    }

    /// Returns the text of a prediction id, with its signature.
    ///
    /// ```
    /// use leeway::feature::Observation;
    /// use leeway::feedback::{PredictionId, Signer};
    /// let signer = Signer::new(b"a key that all replicas have");
    /// let version = leeway::identity::VersionKey::of(&"digits".parse().unwrap(), "2".parse().unwrap());
    /// let id = PredictionId { request: uuid::Uuid::now_v7(), index: 3, version, predicted: Observation::Value(0.5) };
    /// let text = signer.sign(&id);
    /// assert_eq!(text.len(), 72);
    /// assert_eq!(signer.verify(&text).unwrap().id, id);
    /// assert!(Signer::new(b"another key").verify(&text).is_none());
    /// ```
    pub fn sign(&self, id: &PredictionId) -> String {
        let mut bytes = [0; CONTENT + TAG];
        bytes[..CONTENT].copy_from_slice(&content(id));
        let tag = self.mac().chain_update(&bytes[..CONTENT]).finalize().into_bytes();
        bytes[CONTENT..].copy_from_slice(&tag[..TAG]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Returns the content of a prediction id, if it was signed with this key.
    pub fn verify(&self, text: &str) -> Option<Verified> {
        let mut bytes = [0; CONTENT + TAG];
        if text.len() != TEXT || URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()? != bytes.len() {
            return None;
        }
        let (content, tag) = bytes.split_at(CONTENT);
        self.mac().chain_update(content).verify_truncated_left(tag).ok()?;
        Some(Verified { id: read(content)?, tag: tag.try_into().ok()? })
    }
}

/// Returns the state of an HMAC with a key of any length.
fn mac(key: &[u8]) -> Hmac<Sha256> {
    // RFC 2104 §2: a key is padded with zeros to a block, and hashed first if it is longer.
    let mut block = [0; 64];
    match key.len() {
        ..=64 => block[..key.len()].copy_from_slice(key),
        _ => block[..32].copy_from_slice(&Sha256::digest(key)),
    }
    Hmac::new(&block.into())
}

impl Verified {
    /// Returns the key in the ledger for statements about this prediction. `part` is the name of a business metric, or
    /// empty for the truth.
    pub(super) fn key(&self, part: &str) -> u64 {
        let digest = Sha256::new().chain_update(self.tag).chain_update(part).finalize();
        digest.iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte))
    }
}

impl PredictionId {
    /// Returns the time of the prediction, since 1970.
    pub fn made_at(&self) -> Duration {
        Duration::from_millis(big_endian(&self.request.as_bytes()[..6]))
    }
}

fn content(id: &PredictionId) -> [u8; CONTENT] {
    let mut content = [0; CONTENT];
    content[1..17].copy_from_slice(id.request.as_bytes());
    content[17..20].copy_from_slice(&id.index.to_be_bytes()[1..]);
    content[20..30].copy_from_slice(&id.version.bytes());
    content[0] = match id.predicted {
        Observation::Nothing => NOTHING,
        Observation::Class { class, certainty } => {
            content[30..34].copy_from_slice(&u32::try_from(class).unwrap_or(u32::MAX).to_be_bytes());
            content[34..].copy_from_slice(&certainty.confidence.to_be_bytes());
            CLASS
        }
        Observation::Value(value) => {
            content[30..].copy_from_slice(&value.to_be_bytes());
            VALUE
        }
    };
    content
}

fn read(content: &[u8]) -> Option<PredictionId> {
    let predicted = match *content.first()? {
        NOTHING => Observation::Nothing,
        CLASS => Observation::Class {
            class: usize::try_from(big_endian(&content[30..34])).ok()?,
            certainty: Certainty {
                confidence: f32::from_be_bytes(content[34..38].try_into().ok()?),
                margin: 0.0,
                entropy: 0.0,
            },
        },
        VALUE => Observation::Value(f64::from_be_bytes(content[30..38].try_into().ok()?)),
        _ => return None,
    };
    Some(PredictionId {
        request: Uuid::from_slice(&content[1..17]).ok()?,
        index: u32::try_from(big_endian(&content[17..20])).ok()?,
        version: VersionKey::from_bytes(content[20..30].try_into().ok()?),
        predicted,
    })
}

fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Does not print the key.
impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(<secret>)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(index: u32, predicted: Observation) -> PredictionId {
        let version = VersionKey::of(&"digits".parse().unwrap(), "2".parse().unwrap());
        PredictionId { request: Uuid::now_v7(), index, version, predicted }
    }

    proptest! {
        #[test]
        fn an_id_says_what_was_signed(index in 0u32..1 << 20, class in 0usize..100_000, confidence in 0f32..=1.0) {
            let signer = Signer::new(b"key");
            let certainty = Certainty { confidence, margin: 0.0, entropy: 0.0 };
            for predicted in [
                Observation::Class { class, certainty },
                Observation::Value(f64::from(confidence) * 1e9),
                Observation::Nothing,
            ] {
                let id = id(index, predicted);
                prop_assert_eq!(signer.verify(&signer.sign(&id)).map(|verified| verified.id), Some(id));
            }
        }

        #[test]
        fn whatever_is_changed_is_noticed(place in 0usize..72, by in 1u8..=63) {
            const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
            let signer = Signer::new(b"key");
            let mut text = signer.sign(&id(1, Observation::Value(1.0))).into_bytes();
            let letter = ALPHABET.iter().position(|letter| *letter == text[place]).unwrap();
            text[place] = ALPHABET[(letter + usize::from(by)) % 64];
            prop_assert_eq!(signer.verify(std::str::from_utf8(&text).unwrap()), None);
        }

        #[test]
        fn no_text_breaks_the_reader(text in ".{0,100}") {
            prop_assert_eq!(Signer::new(b"key").verify(&text), None);
        }
    }

    #[test]
    fn an_id_knows_its_time() {
        let id = id(0, Observation::Nothing);
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        assert!(now.saturating_sub(id.made_at()) < Duration::from_secs(60) && id.made_at() <= now);
    }

    /// RFC 4231, test case 2: checks the use of the key and the algorithm.
    #[test]
    fn the_signature_is_hmac_sha_256() {
        let mac = Signer::new(b"Jefe").mac();
        let tag = mac.chain_update(b"what do ya want for nothing?").finalize().into_bytes();
        assert_eq!(hex::encode(&tag[..TAG]), "5bdcc146bf60754e6a042426089575c7");
    }
}
