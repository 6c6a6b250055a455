//! The key that prediction ids are signed with.

use sha2::Digest;
use uuid::{NoContext, Uuid};

/// Length of the key, in bytes.
pub(super) const KEY_BYTES: usize = 32;

/// Returns 256 bits that nobody can guess: four UUIDs of version 7 have 74 random bits each.
pub(super) fn random_key() -> Vec<u8> {
    let mut digest = sha2::Sha256::new();
    // Does not use the clock, which may be wrong.
    let random = || Uuid::new_v7(uuid::Timestamp::from_unix(NoContext, 0, 0));
    (0..4).for_each(|_| digest.update(random().as_bytes()));
    digest.finalize().to_vec()
}
