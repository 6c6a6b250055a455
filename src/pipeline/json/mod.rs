//! JSON: reads instances without building a tree, and writes what does not fit into words.

pub(crate) mod instances;
pub(crate) mod object;
pub(crate) mod reader;
pub(crate) mod to_tensor;
pub(crate) mod whole_numbers;
