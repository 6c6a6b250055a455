//! Reading of JSON instances without a tree of values, with descriptions of values that do not fit.

pub(crate) mod base64_text;
pub(crate) mod encoded_file;
pub(crate) mod items;
pub(crate) mod members;
pub(crate) mod object;
pub(crate) mod reader;
pub(crate) mod request_body;
pub(crate) mod tensor_elements;
pub(crate) mod to_tensor;
pub(crate) mod whole_numbers;
