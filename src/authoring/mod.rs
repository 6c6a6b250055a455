//! Makes versions: everything that `leeway add` and `leeway baseline` do to a repository. A server only reads it.
//!
//! - `add.rs` adds a version, and `add_baseline.rs` adds a baseline to one. Both build the version in a hidden folder
//!   (`staging.rs`), which becomes a version by one rename. `weights_beside.rs` adds the weights that an exporter wrote
//!   beside the ONNX file.
//! - `training_data.rs` makes baselines, and `recorded_examples.rs` records examples. `training_rows.rs` reads rows as
//!   instances, and `data_file.rs` the files that they are in.

mod add;
mod add_baseline;
mod data_file;
mod recorded_examples;
mod staging;
mod training_data;
mod training_rows;
mod weights_beside;

pub use self::add::{Added, Addition, NewFiles, add};
pub use self::add_baseline::add_baseline;
pub use self::data_file::Delimiter;
pub use self::recorded_examples::RecordedFrom;
pub use self::staging::abandon_additions;
pub use self::training_data::Progress;
pub use self::training_rows::TrainingData;
