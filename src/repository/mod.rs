//! The repository at rest: which models and versions there are, and their bytes, verified.
//!
//! - `store.rs` is the trait of a store of models; `local_folder.rs` is a store in a folder, and `layout.rs` its folders.
//! - `manifest.rs` says what a version is made of; `write_manifest.rs` writes it. `files.rs` lists and hashes files,
//!   `regular_file.rs` reads them, and `fingerprint.rs` sees that they have changed.
//! - `verified.rs` holds a version's bytes against its manifest. `golden.rs` has its examples.
//! - `onnx_file.rs` has the parts of an ONNX file that are read: `external_data.rs` finds the files that a model keeps
//!   weights in, `class_names.rs` what it calls its classes.
//! - `refusal.rs` says why a version is not served.
//! - `fuzzing.rs` is for the fuzz targets of `fuzz/` only: what this room reads, with what has to be true of it.
//!
//! This room loads no model, and changes nothing that it finds but by `Manifest::write`.

mod class_names;
mod external_data;
mod files;
mod fingerprint;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod golden;
mod layout;
mod local_folder;
mod manifest;
mod onnx_file;
mod refusal;
mod regular_file;
mod store;
mod verified;
mod write_manifest;

use std::sync::Arc;

pub use self::files::list as files_in;
pub use self::fingerprint::Fingerprint;
pub use self::golden::Golden;
pub use self::layout::{CONFIG_FILE, FolderProblem, Found, FoundModel, model_in_folder, next_version};
pub use self::local_folder::LocalFolder;
pub use self::manifest::{
    BASELINE_FILE, FilePath, GOLDEN_FILE, InvalidText, MANIFEST_FILE, MODEL_FILE, Manifest, TrainingDate,
};
pub use self::refusal::{Refusal, is_about_memory};
pub use self::store::Store;
pub use self::verified::{FoundVersion, VerifiedVersion, parse_golden};
use crate::config::RepositoryConfig;

/// Returns the store of the configured repository.
pub fn store(config: &RepositoryConfig) -> Arc<dyn Store> {
    Arc::new(LocalFolder::new(&config.path))
}
