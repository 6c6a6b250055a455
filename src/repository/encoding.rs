//! Messages of Protocol Buffers, changed at the level of their encoding: all bytes outside of the changed fields stay as
//! they are, and with them the fields that are not declared in `onnx_file.rs`.

use bytes::{Buf, Bytes};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field};

use super::onnx_file::MISSING_END;

/// Change of a field.
#[derive(Debug)]
pub(super) enum Change {
    Keep,
    Remove,
    /// New content.
    Replace(Pieces),
}

/// Asks for the change of each field that holds a message, a text, or bytes, by its number and content. Returns the
/// changed message; `None` if all fields are kept.
pub(super) fn rewrite(
    message: &Bytes,
    mut change_of: impl FnMut(u32, &Bytes) -> Result<Change, String>,
) -> Result<Option<Pieces>, String> {
    let mut changed = Pieces::default();
    let (mut rest, mut kept_from) = (message.clone(), 0);
    while rest.has_remaining() {
        let start = message.len() - rest.remaining();
        let (number, wire_type) = decode_key(&mut rest).map_err(malformed)?;
        if wire_type != WireType::LengthDelimited {
            skip_field(wire_type, number, &mut rest, DecodeContext::default()).map_err(malformed)?;
            continue;
        }
        let content = length_delimited(&mut rest)?;
        let replacement = match change_of(number, &content)? {
            Change::Keep => continue,
            Change::Remove => None,
            Change::Replace(content) => Some(content),
        };
        changed.push(message.slice(kept_from..start));
        if let Some(content) = replacement {
            changed.push_field(number, content);
        }
        kept_from = message.len() - rest.remaining();
    }
    if kept_from == 0 {
        return Ok(None);
    }
    changed.push(message.slice(kept_from..));
    Ok(Some(changed))
}

/// The parts of a changed message, in order. Copied only when all are known.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    pieces: Vec<Bytes>,
    length: usize,
}

impl Pieces {
    pub(super) fn of(bytes: Bytes) -> Pieces {
        Pieces { length: bytes.len(), pieces: vec![bytes] }
    }

    /// Length in bytes.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        self.length = self.length.saturating_add(bytes.len());
        self.pieces.push(bytes);
    }

    pub(super) fn push_field(&mut self, number: u32, content: Pieces) {
        let mut head = Vec::new();
        encode_key(number, WireType::LengthDelimited, &mut head);
        encode_varint(content.length as u64, &mut head);
        self.push(head.into());
        self.length = self.length.saturating_add(content.length);
        self.pieces.extend(content.pieces);
    }

    pub(super) fn append(&mut self, other: Pieces) {
        self.length = self.length.saturating_add(other.length);
        self.pieces.extend(other.pieces);
    }

    pub(super) fn join(self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.length);
        self.pieces.iter().for_each(|piece| all.extend_from_slice(piece));
        all
    }
}

fn length_delimited(rest: &mut Bytes) -> Result<Bytes, String> {
    let length = decode_varint(rest).map_err(malformed)?;
    match usize::try_from(length).ok().filter(|length| *length <= rest.len()) {
        Some(length) => Ok(rest.split_to(length)),
        None => Err(format!("not an ONNX file: {MISSING_END}")),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that `map_err` needs")]
pub(super) fn malformed(error: prost::DecodeError) -> String {
    format!("not an ONNX file: {error}")
}
