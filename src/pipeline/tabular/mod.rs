//! Rows of a table: objects or arrays of numbers, booleans and categories.

pub(crate) mod categories;
pub(crate) mod columns;
pub(crate) mod numbers;
pub(crate) mod preprocess;
