//! The models on disk, and those in memory.
//!
//! - `layout.rs` finds models and versions in the repository's folders.
//! - `digest.rs` gives a version's files one SHA-256.
//! - `loader.rs` makes a version ready: verify → load → warm up.
//! - `catalog.rs` holds what is served, as immutable snapshots.
//!
//! This room knows nothing of HTTP.

mod catalog;
mod digest;
mod layout;
mod loader;

pub use self::catalog::{Catalog, ServedModel, ServedVersion, Snapshot, Target, WarmUp};
pub use self::digest::digest_of_folder;
pub use self::layout::{FoundModel, scan};
pub use self::loader::Loader;
