//! Rows of named values as the instances of a preprocessor.
//!
//! Clients send the same rows in several forms: a list for each column, a list of rows below the names of the columns,
//! or CSV. A preprocessor describes its instances as an [`InstanceForm`]. [`instances_of`] turns rows of any form into
//! the JSON array of instances that the preprocessor reads, without a tree of values: the text of each value is copied
//! as it was sent. The preprocessor checks the values.
//!
//! - `instance_form.rs` has the form of an instance, and `row_layout.rs` puts the values of a row into it.
//! - `instances_text.rs` has the text that is made, and its limits.
//! - `columns.rs` reads lists of values, JSON or tensors, and `rows.rs` lists of rows. `csv_rows.rs` reads CSV.

mod columns;
mod csv_rows;
mod instance_form;
mod instances_text;
mod row_layout;
mod rows;

pub use self::columns::{Cells, NamedColumn};
pub use self::csv_rows::CsvHeader;
pub use self::instance_form::{CellKind, Elements, FormColumn, InstanceForm};
pub use self::instances_text::Instances;
pub use self::rows::{JsonSeparator, NamedRows, instances_of};
