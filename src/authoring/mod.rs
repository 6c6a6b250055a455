//! Makes versions: everything that `leeway add` and `leeway baseline` do to a repository. A server only reads it.
//!
//! - `add.rs` adds a version, and `add_baseline.rs` adds a baseline to one. Both build the version in a hidden folder
//!   (`staging.rs`), which becomes a version by one rename. `weights_beside.rs` adds the weights that an exporter wrote
//!   beside the ONNX file. `add_to_store.rs` makes a version in a temporary folder, and uploads it to an object store.
//! - `init/` makes a model of an ONNX file, with a `model.toml` that it proposes; `table_columns.rs` reads the columns of
//!   training data for it.
//! - `training_data.rs` makes baselines, with `labelled_rows.rs` for rows whose truth is known, and `recorded_examples.rs`
//!   makes examples.
//! - `data_rows.rs` reads the rows of data as instances. `data_file.rs` recognises the format; `delimited_table.rs`,
//!   `parquet_file.rs` and `arrow_file.rs` (the latter two with `record_batches.rs`) read tables, whose features
//!   `columns.rs` chooses; `numpy_rows.rs` and `numpy_array.rs` read arrays, `json_lines.rs` JSON, `image_folder.rs`
//!   images, and `logged_instances.rs` the instances in a prediction log.
//! - `sign.rs` signs versions.
//! - `row_times.rs` reads the times of rows.
//! - `row_texts.rs` reads the same data as JSON texts, for `leeway predict`, which may know the model only by its server.

mod add;
mod add_baseline;
mod add_to_store;
mod arrow_file;
mod columns;
mod data_file;
mod data_rows;
mod delimited_table;
mod image_folder;
mod init;
mod json_lines;
mod labelled_rows;
mod logged_instances;
mod numpy_array;
mod numpy_rows;
mod parquet_file;
mod record_batches;
mod recorded_examples;
mod row;
mod row_texts;
mod row_times;
mod sign;
mod staging;
mod table_columns;
mod training_data;
mod weights_beside;

pub use self::add::{Added, Addition, NewFiles, add};
pub use self::add_baseline::add_baseline;
pub use self::add_to_store::{RemoteAddition, add_to_store};
pub use self::columns::{Cells, ColumnToRead, HeaderColumn, is_index_of_pandas, names};
pub use self::data_file::{DataFile, Delimiter};
pub use self::init::{Draft, ModelToMake, Tools, draft};
pub use self::labelled_rows::LabelledData;
pub use self::logged_instances::LogWindow;
pub use self::record_batches::guarded;
pub use self::recorded_examples::RecordedFrom;
pub use self::row::{Place, RowText};
pub use self::row_texts::{DataPlace, DataTable, ReadProgress, RowData, RowTexts, open_rows};
pub use self::row_times::RowTimes;
pub use self::sign::{Password, SigningKey, sign_version};
pub use self::staging::abandon_additions;
pub use self::training_data::{BaselineData, Progress};
