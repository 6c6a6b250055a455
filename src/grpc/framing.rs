//! The frame of a message, and the deadline of a call, as in the specification of gRPC over HTTP/2.

use std::time::Duration;

use prost::Message;

use super::fields::malformed;
use crate::error::Result;

/// Length of the head of a frame: a byte with the compression, and the length of the message.
pub const FRAME_HEAD: usize = 5;

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHead {
    /// True if the message is compressed.
    pub is_compressed: bool,
    /// Length of the message, in bytes.
    pub length: usize,
}

impl FrameHead {
    /// Reads the head of a frame; `None` if its first byte has no meaning.
    ///
    /// ```
    /// use leeway::grpc::FrameHead;
    /// assert_eq!(FrameHead::read([0, 0, 0, 1, 2]), Some(FrameHead { is_compressed: false, length: 258 }));
    /// assert_eq!(FrameHead::read([2, 0, 0, 1, 2]), None);
    /// ```
    pub fn read([compression, length @ ..]: [u8; FRAME_HEAD]) -> Option<FrameHead> {
        let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
        (compression <= 1).then_some(FrameHead { is_compressed: compression == 1, length })
    }
}

/// Returns a message in its frame.
pub fn encode(message: &impl Message) -> Vec<u8> {
    let mut frame = Vec::with_capacity(FRAME_HEAD + message.encoded_len());
    encode_in(&mut frame, |bytes| {
        // A vector grows, so it never lacks room.
        let _ = message.encode(bytes);
    });
    frame
}

/// Decodes a small message.
pub fn decode<M: Message + Default>(message: &[u8]) -> Result<M> {
    M::decode(message).map_err(malformed)
}

/// Writes a frame to the end of `frame`. `write` writes the message.
pub(super) fn encode_in(frame: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = frame.len();
    frame.extend_from_slice(&[0; FRAME_HEAD]);
    write(frame);
    let length = u32::try_from(frame.len() - start - FRAME_HEAD).unwrap_or(u32::MAX);
    frame[start + 1..start + FRAME_HEAD].copy_from_slice(&length.to_be_bytes());
}

/// Reads the metadata `grpc-timeout`: at most 8 digits and a unit. `None` if the value is something else.
///
/// ```
/// use std::time::Duration;
/// use leeway::grpc::timeout;
/// assert_eq!(timeout(b"250m"), Some(Duration::from_millis(250)));
/// assert_eq!(timeout(b"2H"), Some(Duration::from_secs(7200)));
/// assert_eq!((timeout(b"123456789n"), timeout(b"-1S"), timeout(b"1"), timeout(b"")), (None, None, None, None));
/// ```
pub fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}
