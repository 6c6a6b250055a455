//! Elements of a tensor as raw bytes: little-endian and row-major, as the Open Inference Protocol sends them.
//!
//! A boolean is one byte, 0 or 1. A text is its length as a 32-bit number, and its bytes in UTF-8.

use std::borrow::Cow;

use half::{bf16, f16};

use super::element::{DType, Data};

/// Size of the length before each text, in bytes.
const LENGTH_BYTES: usize = 4;

impl DType {
    /// Size of an element in raw bytes; `None` if the elements of the type differ in size.
    pub const fn raw_size(self) -> Option<usize> {
        match self {
            DType::Bool | DType::I8 | DType::U8 => Some(1),
            DType::I16 | DType::U16 | DType::F16 | DType::BF16 => Some(2),
            DType::I32 | DType::U32 | DType::F32 => Some(4),
            DType::I64 | DType::U64 | DType::F64 => Some(8),
            DType::Text | DType::Sequence => None,
        }
    }
}

/// The raw bytes of a tensor, in the parts in which they arrived.
#[derive(Debug, Clone)]
pub enum RawBytes<'a> {
    /// All bytes in one part.
    One(&'a [u8]),
    /// Several parts. An element may begin in one and end in the next.
    Several(Vec<&'a [u8]>),
}

impl RawBytes<'_> {
    /// Returns the number of bytes.
    pub fn len(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }

    /// Returns true if there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn parts(&self) -> &[&[u8]] {
        match self {
            RawBytes::One(bytes) => std::slice::from_ref(bytes),
            RawBytes::Several(parts) => parts,
        }
    }

    fn joined(&self) -> Cow<'_, [u8]> {
        match self {
            RawBytes::One(bytes) => Cow::Borrowed(bytes),
            RawBytes::Several(parts) => Cow::Owned(parts.concat()),
        }
    }

    /// Returns the numbers that the bytes are, `SIZE` bytes each. Bytes after the last whole number are left out.
    fn numbers<T, const SIZE: usize>(&self, number: impl Fn([u8; SIZE]) -> T) -> Vec<T> {
        let mut numbers = Vec::with_capacity(self.len() / SIZE);
        // The first bytes of a number that ends in the next part.
        let (mut begun, mut length) = ([0; SIZE], 0);
        for mut part in self.parts().iter().copied() {
            if length > 0 {
                let (now, later) = part.split_at(part.len().min(SIZE - length));
                begun[length..length + now.len()].copy_from_slice(now);
                (length, part) = (length + now.len(), later);
                if length < SIZE {
                    continue;
                }
                numbers.push(number(begun));
            }
            let (whole, rest) = part.as_chunks::<SIZE>();
            numbers.extend(whole.iter().map(|bytes| number(*bytes)));
            begun[..rest.len()].copy_from_slice(rest);
            length = rest.len();
        }
        numbers
    }
}

impl Data {
    /// Reads this number of elements. Fails with a problem if the bytes are not exactly these elements.
    ///
    /// ```
    /// use leeway::tensor::{DType, Data, RawBytes};
    /// let read = |bytes| Data::from_raw(DType::I16, 2, &bytes);
    /// assert_eq!(read(RawBytes::One(&[1, 0, 0, 1])), Ok(Data::I16(vec![1, 256])));
    /// assert_eq!(read(RawBytes::Several(vec![&[1], &[0, 0], &[1]])), Ok(Data::I16(vec![1, 256])));
    /// assert!(read(RawBytes::One(&[1, 0, 0])).unwrap_err().starts_with("found 3 bytes, expected 4"));
    /// ```
    pub fn from_raw(dtype: DType, elements: usize, bytes: &RawBytes<'_>) -> Result<Data, String> {
        if let Some(size) = dtype.raw_size() {
            let expected = elements.checked_mul(size);
            if expected != Some(bytes.len()) {
                let expected = expected.map_or_else(|| "more than there is memory".to_owned(), |all| all.to_string());
                return Err(format!("found {} bytes, expected {expected} for {elements} elements", bytes.len()));
            }
        }
        match dtype {
            DType::F32 => Ok(Data::F32(bytes.numbers(f32::from_le_bytes))),
            DType::F64 => Ok(Data::F64(bytes.numbers(f64::from_le_bytes))),
            DType::F16 => Ok(Data::F16(bytes.numbers(f16::from_le_bytes))),
            DType::BF16 => Ok(Data::BF16(bytes.numbers(bf16::from_le_bytes))),
            DType::I8 => Ok(Data::I8(bytes.numbers(i8::from_le_bytes))),
            DType::I16 => Ok(Data::I16(bytes.numbers(i16::from_le_bytes))),
            DType::I32 => Ok(Data::I32(bytes.numbers(i32::from_le_bytes))),
            DType::I64 => Ok(Data::I64(bytes.numbers(i64::from_le_bytes))),
            DType::U8 => Ok(Data::U8(bytes.joined().into_owned())),
            DType::U16 => Ok(Data::U16(bytes.numbers(u16::from_le_bytes))),
            DType::U32 => Ok(Data::U32(bytes.numbers(u32::from_le_bytes))),
            DType::U64 => Ok(Data::U64(bytes.numbers(u64::from_le_bytes))),
            DType::Bool => {
                let bytes = bytes.joined();
                match bytes.iter().position(|byte| *byte > 1) {
                    None => Ok(Data::Bool(bytes.iter().map(|byte| *byte == 1).collect())),
                    Some(at) => Err(format!("element {at} is the byte {}, expected 0 or 1", bytes[at])),
                }
            }
            DType::Text => {
                let bytes = bytes.joined();
                let texts = raw_texts(elements, &bytes)?;
                let read = |(at, text): (usize, &[u8])| text_of(at, text);
                texts.into_iter().enumerate().map(read).collect::<Result<_, _>>().map(Data::Text)
            }
            DType::Sequence => Err("a sequence of tensors cannot be sent as bytes".to_owned()),
        }
    }

    /// Returns the number of bytes that [`Data::write_raw`] writes.
    pub fn raw_len(&self) -> usize {
        match (self, self.dtype().raw_size()) {
            (Data::Text(texts), _) => texts.iter().map(|text| LENGTH_BYTES + text.len()).sum(),
            (_, size) => self.len() * size.unwrap_or(0),
        }
    }

    /// Appends the elements as raw bytes. A sequence of tensors has none.
    ///
    /// ```
    /// use leeway::tensor::Data;
    /// let mut bytes = Vec::new();
    /// Data::Text(vec!["ab".into(), String::new()]).write_raw(&mut bytes);
    /// assert_eq!(bytes, [2, 0, 0, 0, b'a', b'b', 0, 0, 0, 0]);
    /// ```
    pub fn write_raw(&self, to: &mut Vec<u8>) {
        to.reserve(self.raw_len());
        match self {
            Data::F32(values) => extend_from(to, values, |value| value.to_le_bytes()),
            Data::F64(values) => extend_from(to, values, |value| value.to_le_bytes()),
            Data::F16(values) => extend_from(to, values, |value| value.to_le_bytes()),
            Data::BF16(values) => extend_from(to, values, |value| value.to_le_bytes()),
            Data::I8(values) => extend_from(to, values, |value| value.to_le_bytes()),
            Data::I16(values) => extend_from(to, values, |value| value.to_le_bytes()),
            Data::I32(values) => extend_from(to, values, |value| value.to_le_bytes()),
            Data::I64(values) => extend_from(to, values, |value| value.to_le_bytes()),
            Data::U8(values) => to.extend_from_slice(values),
            Data::U16(values) => extend_from(to, values, |value| value.to_le_bytes()),
            Data::U32(values) => extend_from(to, values, |value| value.to_le_bytes()),
            Data::U64(values) => extend_from(to, values, |value| value.to_le_bytes()),
            Data::Bool(values) => to.extend(values.iter().map(|value| u8::from(*value))),
            Data::Text(texts) => {
                for text in texts {
                    // A text that was read has at most as many bytes as a body, far fewer than 2³².
                    to.extend_from_slice(&(text.len() as u32).to_le_bytes());
                    to.extend_from_slice(text.as_bytes());
                }
            }
            Data::Sequence(_) => {}
        }
    }
}

/// Returns the bytes of this number of texts, each of which is preceded by its length.
///
/// ```
/// use leeway::tensor::raw_texts;
/// assert_eq!(raw_texts(2, &[1, 0, 0, 0, b'a', 0, 0, 0, 0]), Ok(vec![&b"a"[..], b""]));
/// assert_eq!(raw_texts(1, &[9, 0, 0, 0, b'a']), Err("element 0 has 9 bytes, but only 1 follow".to_owned()));
/// ```
pub fn raw_texts(elements: usize, mut bytes: &[u8]) -> Result<Vec<&[u8]>, String> {
    // Capped, because the number comes from the caller.
    let mut texts = Vec::with_capacity(elements.min(bytes.len() / LENGTH_BYTES));
    while let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() {
        let length = u32::from_le_bytes(*length) as usize;
        let (text, rest) = rest
            .split_at_checked(length)
            .ok_or_else(|| format!("element {} has {length} bytes, but only {} follow", texts.len(), rest.len()))?;
        texts.push(text);
        bytes = rest;
    }
    match texts.len() {
        found if found == elements && bytes.is_empty() => Ok(texts),
        _ if !bytes.is_empty() => Err(format!("{} bytes follow the last element", bytes.len())),
        found => Err(format!("found {found} elements, expected {elements}")),
    }
}

/// Returns the text with this index, which must be UTF-8.
fn text_of(at: usize, bytes: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| format!("element {at} is not a text in UTF-8"))?;
    Ok(text.to_owned())
}

/// Appends the bytes of each value. The compiler turns this into a copy on machines that are little-endian.
fn extend_from<T: Copy, const SIZE: usize>(to: &mut Vec<u8>, values: &[T], bytes: impl Fn(T) -> [u8; SIZE]) {
    let start = to.len();
    to.resize(start + values.len() * SIZE, 0);
    let (places, _) = to[start..].as_chunks_mut::<SIZE>();
    places.iter_mut().zip(values).for_each(|(place, value)| *place = bytes(*value));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(data: &Data, bytes: &[u8]) {
        let mut written = vec![7];
        data.write_raw(&mut written);
        assert_eq!(&written[1..], bytes, "{data:?}");
        assert_eq!(data.raw_len(), bytes.len(), "{data:?}");
        let read = |bytes: RawBytes<'_>| Data::from_raw(data.dtype(), data.len(), &bytes);
        assert_eq!(read(RawBytes::One(bytes)).as_ref(), Ok(data));
        for size in 1..=bytes.len() {
            assert_eq!(read(RawBytes::Several(bytes.chunks(size).collect())).as_ref(), Ok(data), "{size}");
        }
    }

    /// The bytes are those of `numpy.array(…).tobytes()`; of bfloat16, the first half of float32's.
    #[test]
    fn elements_are_the_bytes_of_numpy() {
        check(&Data::F32(vec![1.5, -0.0]), &[0, 0, 0xc0, 0x3f, 0, 0, 0, 0x80]);
        check(&Data::F64(vec![0.1]), &[0x9a, 0x99, 0x99, 0x99, 0x99, 0x99, 0xb9, 0x3f]);
        check(&Data::F16(vec![f16::from_f32(1.5)]), &[0, 0x3e]);
        check(&Data::BF16(vec![bf16::from_f32(1.5)]), &[0xc0, 0x3f]);
        check(&Data::I8(vec![-1, 2]), &[0xff, 2]);
        check(&Data::I16(vec![-2]), &[0xfe, 0xff]);
        check(&Data::I32(vec![258]), &[2, 1, 0, 0]);
        check(&Data::I64(vec![-3]), &[0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        check(&Data::U8(vec![200]), &[200]);
        check(&Data::U16(vec![0xabcd]), &[0xcd, 0xab]);
        check(&Data::U32(vec![1 << 31]), &[0, 0, 0, 0x80]);
        check(&Data::U64(vec![1]), &[1, 0, 0, 0, 0, 0, 0, 0]);
        check(&Data::Bool(vec![true, false]), &[1, 0]);
        check(&Data::Text(vec!["é".into()]), &[2, 0, 0, 0, 0xc3, 0xa9]);
        check(&Data::F32(vec![]), &[]);
    }

    #[test]
    fn bytes_that_are_not_the_elements_are_refused() {
        let check = |dtype, elements, bytes: &[u8], problem: &str| {
            assert_eq!(Data::from_raw(dtype, elements, &RawBytes::One(bytes)).unwrap_err(), problem);
        };
        check(DType::F32, 2, &[0; 9], "found 9 bytes, expected 8 for 2 elements");
        let most = usize::MAX;
        check(DType::F32, most, &[], &format!("found 0 bytes, expected more than there is memory for {most} elements"));
        check(DType::Bool, 2, &[0, 2], "element 1 is the byte 2, expected 0 or 1");
        check(DType::Text, 1, &[1, 0, 0, 0, 0xff], "element 0 is not a text in UTF-8");
        check(DType::Text, 2, &[0, 0, 0, 0], "found 1 elements, expected 2");
        check(DType::Text, 1, &[0, 0, 0, 0, 5], "1 bytes follow the last element");
        check(DType::Text, 1, &[255, 255, 255, 255, 5], "element 0 has 4294967295 bytes, but only 1 follow");
        check(DType::Text, most, &[], &format!("found 0 elements, expected {most}"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64), elements in 0usize..20) {
            for dtype in [DType::Text, DType::Bool, DType::F16, DType::I64] {
                if let Ok(data) = Data::from_raw(dtype, elements, &RawBytes::One(&bytes)) {
                    let mut written = Vec::new();
                    data.write_raw(&mut written);
                    prop_assert_eq!(&written, &bytes);
                }
            }
        }
    }
}
