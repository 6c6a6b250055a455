//! Names of element types on the wire.

use crate::tensor::DType;

/// All types that the protocol has a name for.
const DATATYPES: [(DType, &str); 14] = [
    (DType::Bool, "BOOL"),
    (DType::U8, "UINT8"),
    (DType::U16, "UINT16"),
    (DType::U32, "UINT32"),
    (DType::U64, "UINT64"),
    (DType::I8, "INT8"),
    (DType::I16, "INT16"),
    (DType::I32, "INT32"),
    (DType::I64, "INT64"),
    (DType::F16, "FP16"),
    (DType::BF16, "BF16"),
    (DType::F32, "FP32"),
    (DType::F64, "FP64"),
    (DType::Text, "BYTES"),
];

/// Returns the name of an element type; `None` for sequences of tensors, which the protocol does not have.
///
/// ```
/// use leeway::api::v2::datatype;
/// use leeway::tensor::DType;
/// assert_eq!(datatype(DType::F32), Some("FP32"));
/// assert_eq!(datatype(DType::Text), Some("BYTES"));
/// assert_eq!(datatype(DType::Sequence), None);
/// ```
pub fn datatype(dtype: DType) -> Option<&'static str> {
    DATATYPES.iter().find(|(known, _)| *known == dtype).map(|(_, name)| *name)
}

/// Returns the element type with this name. Fails with a problem that lists the names.
///
/// ```
/// use leeway::api::v2::dtype;
/// use leeway::tensor::DType;
/// assert_eq!(dtype("INT64"), Ok(DType::I64));
/// assert!(dtype("int64").unwrap_err().starts_with("found \"int64\", expected BOOL, UINT8,"));
/// ```
pub fn dtype(datatype: &str) -> Result<DType, String> {
    let known = DATATYPES.iter().find(|(_, name)| *name == datatype).map(|(dtype, _)| *dtype);
    known.ok_or_else(|| {
        let shown: String = datatype.chars().take(32).collect();
        let names: Vec<&str> = DATATYPES.iter().map(|(_, name)| *name).collect();
        format!("found {shown:?}, expected {}", names.join(", "))
    })
}
