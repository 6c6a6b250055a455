//! The tensors of an inference, read from the encoded message.

use super::fields::{Field, Fields, malformed};
use super::typed_contents;
use crate::api::v2;
use crate::error::{Error, Result};
use crate::identity::shown;
use crate::serve::{Content, NamedRequest, NamedTensor};
use crate::tensor::{DType, Data};

/// Maximum number of inputs and of outputs of a request.
const MAX_TENSORS: usize = 1024;
/// Maximum number of dimensions of a tensor.
const MAX_DIMENSIONS: usize = 64;

/// An input, with its elements still encoded.
#[derive(Debug)]
struct EncodedInput<'a> {
    name: &'a str,
    datatype: &'a str,
    shape: Vec<usize>,
    contents: Vec<&'a [u8]>,
}

/// Reads an encoded `ModelInferRequest`. Its inputs are those of the model or of the pipeline, as `content` says.
pub fn read(message: &[u8], content: Content) -> Result<NamedRequest> {
    let (mut inputs, mut outputs, mut raw) = (Vec::new(), Vec::new(), Vec::new());
    for field in Fields(message) {
        match field? {
            (5, field) => bounded(&mut inputs, "inputs", || EncodedInput::read(field.bytes()?))?,
            (6, field) => bounded(&mut outputs, "outputs", || output(field.bytes()?))?,
            (7, field) => bounded(&mut raw, "raw_input_contents", || field.bytes())?,
            _ => {}
        }
    }
    if !raw.is_empty() && raw.len() != inputs.len() {
        let (raw, inputs) = (raw.len(), inputs.len());
        return Err(wrong(format!("raw_input_contents: found {raw} entries, expected one for each of {inputs} inputs")));
    }
    let mut raw = raw.into_iter();
    let tensor = |(index, input): (usize, EncodedInput<'_>)| {
        let name = input.name.to_owned();
        input.tensor(raw.next()).map_err(|error| match error {
            Error::InvalidInput(problem) => wrong(format!("inputs[{index}] (\"{}\"): {problem}", shown(&name))),
            error => error,
        })
    };
    let inputs = inputs.into_iter().enumerate().map(tensor).collect::<Result<_>>()?;
    Ok(NamedRequest { inputs, outputs, content })
}

/// Adds an item to a list of bounded length.
fn bounded<T>(list: &mut Vec<T>, name: &str, read: impl FnOnce() -> Result<T>) -> Result<()> {
    if list.len() == MAX_TENSORS {
        return Err(wrong(format!("{name}: found more than {MAX_TENSORS}")));
    }
    list.push(read()?);
    Ok(())
}

impl<'a> EncodedInput<'a> {
    fn read(message: &'a [u8]) -> Result<EncodedInput<'a>> {
        let mut input = EncodedInput { name: "", datatype: "", shape: Vec::new(), contents: Vec::new() };
        for field in Fields(message) {
            match field? {
                (1, field) => input.name = field.text()?,
                (2, field) => input.datatype = field.text()?,
                (3, field) => add_dimensions(&mut input.shape, field)?,
                (4, field) => refuse_shared_memory(field.bytes()?)?,
                (5, field) if input.contents.len() < MAX_DIMENSIONS => input.contents.push(field.bytes()?),
                (5, _) => return Err(malformed("one message in very many parts")),
                _ => {}
            }
        }
        Ok(input)
    }

    fn tensor(self, raw: Option<&[u8]>) -> Result<NamedTensor> {
        let EncodedInput { name, datatype, shape, contents } = self;
        let dtype = v2::dtype(datatype).ok_or_else(|| {
            wrong(format!(
                "datatype: found \"{}\", expected one of BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, \
                 FP16, BF16, FP32, FP64, BYTES",
                shown(datatype)
            ))
        })?;
        let elements = shape.iter().try_fold(1usize, |product, &length| product.checked_mul(length));
        let elements = elements.ok_or_else(|| wrong("shape: the tensor is too large".to_owned()))?;
        let is_empty = contents.iter().all(|contents| contents.is_empty());
        let data = match raw {
            Some(_) if !is_empty => {
                return Err(wrong("found contents and raw_input_contents; send one of them".to_owned()));
            }
            Some(raw) => raw_data(dtype, elements, raw)?,
            None => typed_contents::data(dtype, elements, &contents)
                .map_err(|error| match error {
                    Error::InvalidInput(problem) => wrong(format!("contents: {problem}")),
                    error => error,
                })?,
        };
        Ok(NamedTensor { name: name.to_owned(), shape, data })
    }
}

fn raw_data(dtype: DType, elements: usize, raw: &[u8]) -> Result<Data> {
    Data::from_raw(dtype, elements, raw).map_err(|problem| wrong(format!("raw_input_contents: {problem}")))
}

fn add_dimensions(shape: &mut Vec<usize>, field: Field<'_>) -> Result<()> {
    let mut add = |length: u64| {
        if shape.len() == MAX_DIMENSIONS {
            return Err(wrong(format!("shape: found more than {MAX_DIMENSIONS} dimensions")));
        }
        let length = i64::from_le_bytes(length.to_le_bytes());
        let is = usize::try_from(length).map_err(|_| wrong(format!("shape: found {length}, expected at least 0")))?;
        shape.push(is);
        Ok(())
    };
    match field {
        Field::Number(length) => add(length),
        field => {
            let mut packed = field.bytes()?;
            while !packed.is_empty() {
                add(prost::encoding::decode_varint(&mut packed).map_err(malformed)?)?;
            }
            Ok(())
        }
    }
}

/// Reads a requested output, and returns its name.
fn output(message: &[u8]) -> Result<String> {
    let mut name = "";
    for field in Fields(message) {
        match field? {
            (1, field) => name = field.text()?,
            (2, field) => {
                refuse_shared_memory(field.bytes()?)?;
                if parameter_name(field.bytes()?)? == "classification" {
                    return Err(wrong(
                        "outputs: the parameter classification is not supported; take the largest scores of the answer"
                            .to_owned(),
                    ));
                }
            }
            _ => {}
        }
    }
    Ok(name.to_owned())
}

fn refuse_shared_memory(parameter: &[u8]) -> Result<()> {
    match parameter_name(parameter)?.starts_with("shared_memory") {
        true => Err(wrong("shared memory is not supported; send the elements in the message".to_owned())),
        false => Ok(()),
    }
}

fn parameter_name(entry: &[u8]) -> Result<&str> {
    for field in Fields(entry) {
        if let (1, field) = field? {
            return field.text();
        }
    }
    Ok("")
}

fn wrong(problem: String) -> Error {
    Error::InvalidInput(problem)
}
