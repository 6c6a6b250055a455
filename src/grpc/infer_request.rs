//! The tensors of an inference, read from the encoded message.

use std::borrow::Cow;

use super::fields::{Field, Fields, malformed};
use super::typed_contents;
use crate::api::v2;
use crate::budget::MemoryBudget;
use crate::error::{Error, Result};
use crate::identity::shown;
use crate::serve::{Content, Elements, Input, NamedInput, NamedRequest};
use crate::tensor::{DType, Data, RawBytes};

/// Maximum number of inputs and of outputs of a request.
const MAX_TENSORS: usize = 1024;
/// Maximum number of dimensions of a tensor.
const MAX_DIMENSIONS: usize = 32;

/// An input, with its elements still encoded.
#[derive(Debug)]
struct EncodedInput<'a> {
    name: &'a str,
    datatype: &'a str,
    shape: Vec<usize>,
    contents: Vec<&'a [u8]>,
}

/// Largest growth of typed elements when they are decoded: a byte can become an `i64`, or a text of 16 bytes.
const MAX_GROWTH: usize = 8;

/// The tensors of an inference, with the elements of its inputs still encoded.
#[derive(Debug)]
struct EncodedTensors<'a> {
    inputs: Vec<EncodedInput<'a>>,
    outputs: Vec<Cow<'a, str>>,
    raw: Vec<&'a [u8]>,
}

/// Reads the tensors of an encoded `ModelInferRequest`, and passes them to `with`. The inputs are those of the model or of
/// the pipeline, as `content` says. Also returns the names of the outputs to answer.
pub fn read_tensors<T>(
    message: &[u8],
    content: Content,
    memory: &MemoryBudget,
    with: impl FnOnce(Input<'_>) -> Result<T>,
) -> Result<(T, Vec<String>)> {
    let EncodedTensors { inputs, outputs, raw } = EncodedTensors::read(message)?;
    // Elements that are not raw are decoded here, and take up to eight times the bytes of their numbers.
    let typed = inputs.iter().flat_map(|input| &input.contents).map(|contents| contents.len()).sum::<usize>();
    let _held = memory.hold(typed.saturating_mul(MAX_GROWTH))?;
    let names = outputs.iter().map(|name| name.clone().into_owned()).collect();
    let mut raw = raw.into_iter();
    let decoded = inputs.into_iter().enumerate().map(|(index, input)| {
        let name = input.name;
        let decoded = input.decoded(raw.next());
        decoded.map_err(|problem| match problem {
            Error::InvalidInput(problem) => wrong(format!("inputs[{index}] (\"{}\"): {problem}", shown(name))),
            error => error,
        })
    });
    let mut decoded: Vec<DecodedInput<'_>> = decoded.collect::<Result<_>>()?;
    let inputs = decoded.iter_mut().map(DecodedInput::named).collect();
    let request = NamedRequest { inputs, outputs, content, timeout: None, priority: None, memory };
    Ok((with(Input::Named(request))?, names))
}

impl<'a> EncodedTensors<'a> {
    fn read(message: &'a [u8]) -> Result<EncodedTensors<'a>> {
        let (mut inputs, mut outputs, mut raw) = (Vec::new(), Vec::new(), Vec::new());
        for field in Fields(message) {
            match field? {
                (5, field) => bounded(&mut inputs, "inputs", || EncodedInput::read(field.bytes()?))?,
                (6, field) => bounded(&mut outputs, "outputs", || output(field.bytes()?).map(Cow::Borrowed))?,
                (7, field) => bounded(&mut raw, "raw_input_contents", || field.bytes())?,
                _ => {}
            }
        }
        if !raw.is_empty() && raw.len() != inputs.len() {
            return Err(wrong(format!(
                "raw_input_contents: found {} entries, expected one for each of {} inputs",
                raw.len(),
                inputs.len()
            )));
        }
        Ok(EncodedTensors { inputs, outputs, raw })
    }
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

    /// Decodes the elements, unless they are raw.
    fn decoded(self, raw: Option<&'a [u8]>) -> Result<DecodedInput<'a>> {
        let EncodedInput { name, datatype, shape, contents } = self;
        let dtype = v2::dtype(datatype).map_err(|problem| wrong(format!("datatype: {problem}")))?;
        let has_contents = contents.iter().any(|contents| !contents.is_empty());
        let elements = shape.iter().try_fold(1usize, |product, &length| product.checked_mul(length));
        let elements = elements.ok_or_else(|| wrong("shape: the tensor is too large".to_owned()))?;
        let elements = match (raw, dtype) {
            (Some(_), _) if has_contents => {
                return Err(wrong("found contents and raw_input_contents; send one of them".to_owned()));
            }
            (Some(raw), _) => DecodedElements::Raw(Cow::Borrowed(raw)),
            (None, DType::Text) => DecodedElements::Raw(typed_contents::raw_texts(elements, &contents)?.into()),
            (None, dtype) => DecodedElements::Values(typed_contents::data(dtype, elements, &contents)?),
        };
        Ok(DecodedInput { name, dtype, shape, elements })
    }
}

/// An input whose elements are raw, or decoded.
struct DecodedInput<'a> {
    name: &'a str,
    dtype: DType,
    shape: Vec<usize>,
    elements: DecodedElements<'a>,
}

enum DecodedElements<'a> {
    Raw(Cow<'a, [u8]>),
    Values(Data),
}

impl DecodedInput<'_> {
    /// Returns the input for `serve`, and moves its decoded elements there.
    fn named(&mut self) -> NamedInput<'_> {
        let elements = match &mut self.elements {
            DecodedElements::Raw(bytes) => Elements::Raw(RawBytes::One(bytes)),
            DecodedElements::Values(data) => Elements::Values(std::mem::replace(data, Data::Bool(Vec::new()))),
        };
        NamedInput { name: Cow::Borrowed(self.name), dtype: self.dtype, shape: self.shape.clone(), elements }
    }
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
fn output(message: &[u8]) -> Result<&str> {
    let mut name = "";
    for field in Fields(message) {
        match field? {
            (1, field) => name = field.text()?,
            (2, field) => {
                refuse_shared_memory(field.bytes()?)?;
                if parameter_name(field.bytes()?)? == "classification" {
                    return Err(wrong(
                        "outputs: the parameter classification is not supported; send the columns of the model's pipeline \
                         for labels and their scores"
                            .to_owned(),
                    ));
                }
            }
            _ => {}
        }
    }
    Ok(name)
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::grpc::proto::inference::model_infer_request::InferInputTensor;
    use crate::grpc::proto::inference::{InferTensorContents, ModelInferRequest};

    fn memory() -> MemoryBudget {
        MemoryBudget::new(1 << 20, NonZeroUsize::MIN)
    }

    /// Reads the only input of a request, as text.
    fn read(input: InferInputTensor, raw: Option<Vec<u8>>) -> Result<String> {
        let raw_input_contents = raw.into_iter().map(Into::into).collect();
        let request = ModelInferRequest { inputs: vec![input], raw_input_contents, ..ModelInferRequest::default() };
        let read = |input: Input<'_>| match input {
            Input::Named(NamedRequest { inputs, .. }) => Ok(format!("{:?}", inputs[0])),
            _ => Err(Error::internal("no named tensors")),
        };
        read_tensors(&request.encode_to_vec(), Content::Model, &memory(), read).map(|(text, _)| text)
    }

    fn input(datatype: &str, shape: &[i64], contents: Option<InferTensorContents>) -> InferInputTensor {
        let (name, datatype) = ("x".to_owned(), datatype.to_owned());
        InferInputTensor { name, datatype, shape: shape.to_vec(), contents, ..InferInputTensor::default() }
    }

    #[test]
    fn scalars_and_empty_tensors_are_read() {
        let one = InferTensorContents { int64_contents: vec![-5], ..InferTensorContents::default() };
        let found = read(input("INT64", &[], Some(one)), None).unwrap();
        assert!(found.contains("shape: [], elements: Values(I64([-5]))"), "{found}");
        let found = read(input("FP32", &[0, 2], None), Some(Vec::new())).unwrap();
        assert!(found.contains("shape: [0, 2], elements: Raw(One([]))"), "{found}");
        let found = read(input("FP32", &[0, 2], None), None).unwrap();
        assert!(found.contains("elements: Values(F32([]))"), "{found}");
        let texts = InferTensorContents { bytes_contents: vec!["ab".into()], ..InferTensorContents::default() };
        let found = read(input("BYTES", &[1], Some(texts)), None).unwrap();
        assert!(found.contains("elements: Raw(One([2, 0, 0, 0, 97, 98]))"), "{found}");
    }

    #[test]
    fn elements_that_do_not_fit_are_refused() {
        let ints = |int_contents: &[i32]| {
            Some(InferTensorContents { int_contents: int_contents.to_vec(), ..InferTensorContents::default() })
        };
        for (datatype, shape, contents, problem) in [
            ("INT8", &[1][..], ints(&[128]), "a number is out of the range of the datatype"),
            ("INT16", &[1], ints(&[-32_769]), "a number is out of the range of the datatype"),
            ("INT32", &[2], ints(&[1]), "found 1 elements, but the shape has 2"),
            ("INT32", &[1], ints(&[1, 2]), "found more elements than the 1 of the shape"),
            ("UINT8", &[1], ints(&[1]), "found int_contents, expected uint_contents for this datatype"),
            ("FP16", &[1], ints(&[1]), "elements of FP16 and BF16 are accepted in raw_input_contents only"),
        ] {
            let refused = read(input(datatype, shape, contents), None).unwrap_err().to_string();
            assert_eq!(refused, format!("inputs[0] (\"x\"): {problem}"));
        }
    }

    /// A shape that promises many elements takes no memory for them.
    #[test]
    fn a_large_shape_with_few_elements_is_refused_at_once() {
        for datatype in ["FP32", "BYTES", "BOOL", "INT64"] {
            let refused = read(input(datatype, &[1 << 40], None), None).unwrap_err();
            assert!(refused.to_string().contains("found 0 elements"), "{datatype}: {refused}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = read_tensors(&bytes, Content::ByNames, &memory(), |_| Ok(()));
            let contents: &[&[u8]] = &[&bytes];
            for dtype in [DType::Bool, DType::I16, DType::U64, DType::F32, DType::F64] {
                if let Ok(data) = typed_contents::data(dtype, 3, contents) {
                    prop_assert_eq!(data.len(), 3);
                }
            }
            let _ = typed_contents::raw_texts(3, contents);
        }
    }
}
