//! Iterates over the fields of an encoded message, without decoding them.

use bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint};

use crate::error::{Error, Result};

/// The content of a field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Field<'a> {
    /// A whole number or a truth value.
    Number(u64),
    /// A text, bytes, a message, or packed elements.
    Bytes(&'a [u8]),
    /// Four bytes.
    Four([u8; 4]),
    /// Eight bytes.
    Eight([u8; 8]),
}

/// The fields of a message, by number.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    fn read(&mut self) -> Result<(u32, Field<'a>)> {
        let (number, wire_type) = decode_key(&mut self.0).map_err(malformed)?;
        let field = match wire_type {
            WireType::Varint => Field::Number(decode_varint(&mut self.0).map_err(malformed)?),
            WireType::LengthDelimited => Field::Bytes(length_delimited(&mut self.0)?),
            WireType::ThirtyTwoBit => Field::Four(fixed(&mut self.0)?),
            WireType::SixtyFourBit => Field::Eight(fixed(&mut self.0)?),
            WireType::StartGroup | WireType::EndGroup => return Err(malformed("a group")),
        };
        Ok((number, field))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Field<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.0.is_empty()).then(|| self.read())
    }
}

impl<'a> Field<'a> {
    /// Returns the bytes of the field.
    pub(super) fn bytes(self) -> Result<&'a [u8]> {
        match self {
            Field::Bytes(bytes) => Ok(bytes),
            _ => Err(malformed("another type of field")),
        }
    }

    /// Returns the text of the field.
    pub(super) fn text(self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(malformed)
    }
}

/// Reads the key of the next field, which need not be in one piece with the rest.
pub(super) fn key(buf: &mut impl Buf) -> Result<(u32, WireType)> {
    decode_key(buf).map_err(malformed)
}

/// Reads the length of a field, which is not longer than the rest.
pub(super) fn length(buf: &mut impl Buf) -> Result<usize> {
    let length = usize::try_from(decode_varint(buf).map_err(malformed)?).ok();
    length.filter(|length| *length <= buf.remaining()).ok_or_else(|| malformed("a field without its end"))
}

fn length_delimited<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8]> {
    // Read first, because it moves the start of the rest.
    let length = length(rest)?;
    let (bytes, after) = rest.split_at(length);
    *rest = after;
    Ok(bytes)
}

fn fixed<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N]> {
    let (bytes, after) = rest.split_first_chunk().ok_or_else(|| malformed("a field without its end"))?;
    *rest = after;
    Ok(*bytes)
}

/// Returns the error for bytes that are no message. The caller does not see the text of the library.
pub(super) fn malformed<T>(_reason: T) -> Error {
    Error::InvalidInput("the message is not an encoded message of this call (Protocol Buffers)".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_have_their_numbers_and_contents() {
        // 1: 150, 2: "ab", 3: 1.0 as f32, 4: 1.0 as f64
        let message = [8, 150, 1, 18, 2, b'a', b'b', 29, 0, 0, 128, 63, 33, 0, 0, 0, 0, 0, 0, 240, 63];
        let fields: Result<Vec<_>> = Fields(&message).collect();
        let expected = [
            (1, Field::Number(150)),
            (2, Field::Bytes(b"ab")),
            (3, Field::Four(1f32.to_le_bytes())),
            (4, Field::Eight(1f64.to_le_bytes())),
        ];
        assert_eq!(fields.unwrap(), expected);
        for end in 1..message.len() {
            if ![3, 7, 12].contains(&end) {
                assert!(Fields(&message[..end]).any(|field| field.is_err()), "{end}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_fields_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let read = Fields(&bytes).take_while(|field| field.is_ok()).count();
            prop_assert!(read <= bytes.len());
        }
    }
}
