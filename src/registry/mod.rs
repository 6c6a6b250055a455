//! The models on disk, and those in memory.
//!
//! - `layout.rs` finds models and versions in the repository's folders; `manifest.rs` says what a version is made of.
//! - `files.rs` lists and hashes files, `regular_file.rs` reads them. `onnx_file.rs` has the parts of an ONNX file that are read: `external_data.rs` finds
//!   the files that a model keeps weights in, `class_names.rs` what it calls its classes. `verified.rs`
//!   holds a version's bytes against its manifest. `golden.rs` has its examples.
//! - `trial.rs` tries a version out in another process; `loader.rs` makes it ready: verify → try → open → warm up.
//!   `opened.rs` is a version with its stages around it, `examine.rs` runs it a few times, and `findings.rs` has the result.
//!   `load_order.rs` is an order to load a version.
//! - `add.rs` writes new versions; `training_data.rs` makes their baselines.
//! - `rehearsal.rs` runs the preprocessor on the hardest instances that it accepts.
//! - `catalog.rs` holds what is served, as immutable snapshots.
//! - `fuzzing.rs` is for the fuzz targets of `fuzz/` only: what this room reads, with what has to be true of it.
//! - `refusal.rs` says why a version is not served; `run_limit.rs` ends first runs that take too long; `system.rs`
//!   makes the calls to the operating system.
//!
//! This room knows nothing of HTTP, and nothing of who gets traffic.

mod add;
mod catalog;
mod class_names;
mod examine;
mod external_data;
mod files;
mod findings;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod golden;
mod layout;
mod load_order;
mod loader;
mod manifest;
mod onnx_file;
mod opened;
mod refusal;
mod regular_file;
mod rehearsal;
mod run_limit;
mod system;
mod training_data;
mod trial;
mod verified;

pub use self::add::{Added, Addition, NewFiles, RecordedFrom, abandon_additions, add, add_baseline};
pub use self::catalog::{Catalog, ServedModel, ServedVersion, Snapshot, Target};
pub use self::files::Fingerprint;
pub use self::findings::{Findings, WarmUp};
pub use self::golden::Golden;
pub use self::layout::{FolderProblem, Found, FoundModel, model, scan};
pub use self::load_order::{LoadOrder, LoadStep, Pace};
pub use self::loader::{Loader, PreparedVersion};
pub use self::manifest::{
    BASELINE_FILE, FilePath, GOLDEN_FILE, InvalidText, MANIFEST_FILE, MODEL_FILE, Manifest, TrainingDate,
};
pub use self::refusal::Refusal;
pub use self::run_limit::RunLimit;
pub use self::system::{lower_priority_of_this_thread, may_be_written, open_files_limit, raise_open_files_limit};
pub use self::training_data::{Progress, TrainingData};
pub use self::trial::{TRIAL_COMMAND, Trial, answer_trial};
pub use self::verified::{FoundVersion, VerifiedVersion};
