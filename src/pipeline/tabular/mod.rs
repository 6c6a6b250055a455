//! Instances that are rows of a table: objects or arrays of numbers, booleans, categories and texts.

pub(crate) mod categories;
pub(crate) mod columns;
pub(crate) mod numbers;
pub(crate) mod preprocess;
pub(crate) mod schema;
