//! The repository, in a folder or in an object store: its models and versions, and their verified bytes.
//!
//! - `store.rs` is the trait of a store of models; `local_folder.rs` is a store in a folder, and `layout.rs` finds the
//!   models and versions in the folder. `remote/` is a store in an object store. `local_version.rs` is where the files of a
//!   version are on this machine.
//! - `manifest.rs` is the manifest of a version; `write_manifest.rs` writes it. `files.rs` lists and hashes files,
//!   `regular_file.rs` reads them, and `fingerprint.rs` detects their changes.
//! - `verified.rs` verifies a version's bytes against its manifest. `golden.rs` has the version's examples.
//! - `signature.rs` checks the signature of a version's manifest, if keys are configured.
//! - `onnx_file.rs` has the parts of an ONNX file that are read. `external_data.rs` finds the files that a model keeps
//!   weights in, `class_names.rs` finds the names of its classes, and `model_facts.rs` other signs of its purpose.
//! - Three parts of an ONNX file are changed before it is opened, with `encoding.rs`: `external_data.rs` puts weights into
//!   it, `zip_map.rs` replaces outputs of maps by tensors, and `narrow_types.rs` converts inputs and outputs of narrow
//!   types.
//! - `file_kind.rs` recognises files that stand in the place of another, such as pointers of Git LFS.
//! - `private_folder.rs` makes the folders of caches. `load_cache.rs` keeps findings of trials and optimised graphs for later starts, in a folder of its own.
//! - `refusal.rs` is the reason why a version is not served.
//! - `fuzzing.rs` is for the fuzz targets of `fuzz/` only: the readers of this module, with the properties that must
//!   hold.
//!
//! This module does not load models. It writes to a repository only through `Manifest::write`, `RemoteStore::publish` and
//! `write_index`.

mod class_names;
mod encoding;
mod external_data;
mod file_kind;
mod files;
mod fingerprint;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod golden;
mod layout;
mod load_cache;
mod local_folder;
mod local_version;
mod manifest;
mod model_facts;
mod narrow_types;
mod onnx_file;
mod private_folder;
mod profile_file;
mod refusal;
mod regular_file;
mod remote;
mod signature;
mod store;
mod tensor_lists;
mod verified;
mod write_manifest;
mod zip_map;

use std::sync::Arc;

pub use self::file_kind::{FileKind, START_BYTES};
pub use self::files::list as files_in;
pub use self::fingerprint::Fingerprint;
pub use self::golden::{DEFAULT_TOLERANCE, Differences, Golden};
pub use self::layout::{CONFIG_FILE, FolderProblem, Found, FoundModel, model_in_folder, next_version};
pub use self::load_cache::{CacheKey, GraphStaging, KeptGraph, LoadCache};
pub use self::local_folder::LocalFolder;
pub use self::local_version::LocalVersion;
pub use self::manifest::{
    BASELINE_FILE, FilePath, GOLDEN_FILE, InvalidText, MANIFEST_FILE, MODEL_FILE, Manifest, TrainingDate,
};
pub use self::model_facts::ModelFacts;
pub use self::profile_file::{profile_file, read_profile, take_back_profile, write_profile};
pub use self::refusal::Refusal;
pub use self::remote::{INDEX_FILE, Published, RemoteStore, write_index};
pub use self::signature::{SIGNATURE_FILE, Trust, TrustedKeys, trusted_comment};
pub use self::store::Store;
pub use self::verified::{FoundVersion, VerifiedVersion, locations_of_weights, parse_golden};
use crate::config::{RepositoryConfig, RepositoryLocation, StateConfig};
use crate::error::{Result, SetupError};

/// Returns the store of models in the configured repository.
pub fn store(config: &RepositoryConfig, state: &StateConfig) -> Result<Arc<dyn Store>, SetupError> {
    Ok(match (&config.path, &config.only_model, RemoteStore::open(config, state)?) {
        (RepositoryLocation::Folder(folder), Some(name), _) => {
            Arc::new(LocalFolder::of_one_model(folder, name.clone()))
        }
        (RepositoryLocation::Folder(folder), None, _) => Arc::new(LocalFolder::new(folder)),
        (_, _, Some(remote)) => Arc::new(remote),
        (other, _, None) => return Err(SetupError::internal(format!("{other} is neither a folder nor remote"))),
    })
}
