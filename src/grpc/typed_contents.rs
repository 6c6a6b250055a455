//! Elements of a tensor that are sent in the typed fields of `InferTensorContents`.

use prost::encoding::decode_varint;

use super::fields::{Field, Fields, malformed};
use crate::error::{Error, Result};
use crate::tensor::{DType, Data};

/// Returns the elements of a tensor of this type. `contents` are the encoded messages `InferTensorContents`, whose fields
/// belong together.
pub(super) fn data(dtype: DType, elements: usize, contents: &[&[u8]]) -> Result<Data> {
    let source = Source { contents, elements };
    Ok(match dtype {
        DType::Bool => Data::Bool(source.numbers(1, |number| Some(number != 0))?),
        DType::I8 => Data::I8(source.numbers(2, |number| (number as i32).try_into().ok())?),
        DType::I16 => Data::I16(source.numbers(2, |number| (number as i32).try_into().ok())?),
        DType::I32 => Data::I32(source.numbers(2, |number| Some(number as i32))?),
        DType::I64 => Data::I64(source.numbers(3, |number| Some(number as i64))?),
        DType::U8 => Data::U8(source.numbers(4, |number| (number as u32).try_into().ok())?),
        DType::U16 => Data::U16(source.numbers(4, |number| (number as u32).try_into().ok())?),
        DType::U32 => Data::U32(source.numbers(4, |number| Some(number as u32))?),
        DType::U64 => Data::U64(source.numbers(5, Some)?),
        DType::F32 => Data::F32(source.floats(6, f32::from_le_bytes)?),
        DType::F64 => Data::F64(source.floats(7, f64::from_le_bytes)?),
        DType::F16 | DType::BF16 | DType::Text | DType::Sequence => {
            return Err(wrong("elements of FP16 and BF16 are accepted in raw_input_contents only"));
        }
    })
}

/// Returns the texts or files of a tensor in their raw form: each after its length.
pub(super) fn raw_texts(elements: usize, contents: &[&[u8]]) -> Result<Vec<u8>> {
    let (source, mut raw, mut found) = (Source { contents, elements }, Vec::new(), 0);
    source.each(8, |field| {
        let text = field.bytes()?;
        raw.extend_from_slice(&u32::try_from(text.len()).map_err(malformed)?.to_le_bytes());
        raw.extend_from_slice(text);
        found += 1;
        if found > elements { Err(source.too_many()) } else { Ok(()) }
    })?;
    if found < elements { Err(source.too_few(found)) } else { Ok(raw) }
}

struct Source<'a> {
    contents: &'a [&'a [u8]],
    /// Number of elements, according to the shape of the tensor.
    elements: usize,
}

impl<'a> Source<'a> {
    /// Calls `with` for each field, all of which have to have this number.
    fn each(&self, number: u32, mut with: impl FnMut(Field<'a>) -> Result<()>) -> Result<()> {
        for fields in self.contents {
            for field in Fields(fields) {
                let (found, field) = field?;
                match name_of(found) {
                    Some(_) if found == number => with(field)?,
                    Some(name) => {
                        let expected = name_of(number).unwrap_or_default();
                        return Err(wrong(&format!("found {name}, expected {expected} for this datatype")));
                    }
                    None => {}
                }
            }
        }
        Ok(())
    }

    fn vector<T>(&self) -> Vec<T> {
        // Each element takes at least one byte.
        let bytes = self.contents.iter().map(|contents| contents.len()).sum();
        Vec::with_capacity(self.elements.min(bytes))
    }

    fn add<T>(&self, values: &mut Vec<T>, value: T) -> Result<()> {
        if values.len() == self.elements {
            return Err(self.too_many());
        }
        values.push(value);
        Ok(())
    }

    fn all<T>(&self, values: Vec<T>) -> Result<Vec<T>> {
        match values.len() {
            found if found == self.elements => Ok(values),
            found => Err(self.too_few(found)),
        }
    }

    fn too_few(&self, found: usize) -> Error {
        wrong(&format!("found {found} elements, but the shape has {}", self.elements))
    }

    fn too_many(&self) -> Error {
        wrong(&format!("found more elements than the {} of the shape", self.elements))
    }

    fn numbers<T>(&self, field: u32, of: impl Fn(u64) -> Option<T>) -> Result<Vec<T>> {
        let mut values = self.vector();
        let mut add = |number: u64| {
            let value = of(number).ok_or_else(|| wrong("a number is out of the range of the datatype"))?;
            self.add(&mut values, value)
        };
        self.each(field, |field| match field {
            Field::Number(number) => add(number),
            field => {
                let mut packed = field.bytes()?;
                while !packed.is_empty() {
                    add(decode_varint(&mut packed).map_err(malformed)?)?;
                }
                Ok(())
            }
        })?;
        self.all(values)
    }

    fn floats<T, const N: usize>(&self, field: u32, of: impl Fn([u8; N]) -> T) -> Result<Vec<T>> {
        let mut values = self.vector();
        self.each(field, |field| {
            let bytes = match &field {
                Field::Four(bytes) => &bytes[..],
                Field::Eight(bytes) => &bytes[..],
                field => field.bytes()?,
            };
            let (numbers, rest) = bytes.as_chunks();
            if !rest.is_empty() {
                return Err(malformed("a part of a number"));
            }
            numbers.iter().try_for_each(|number| self.add(&mut values, of(*number)))
        })?;
        self.all(values)
    }
}

/// Returns the name of a field of `InferTensorContents`.
fn name_of(number: u32) -> Option<&'static str> {
    Some(match number {
        1 => "bool_contents",
        2 => "int_contents",
        3 => "int64_contents",
        4 => "uint_contents",
        5 => "uint64_contents",
        6 => "fp32_contents",
        7 => "fp64_contents",
        8 => "bytes_contents",
        _ => return None,
    })
}

fn wrong(problem: &str) -> Error {
    Error::InvalidInput(problem.to_owned())
}
