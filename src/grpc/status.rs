//! Conversion of errors to statuses. Only this file chooses the code of an error.

use tonic::metadata::{Ascii, MetadataKey, MetadataValue};
use tonic::{Code, Status};

use crate::error::{Error, ErrorKind, OperatorError};

/// Metadata with the time after which a client may send the same request again, in milliseconds. Clients with a retry
/// policy read it.
const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";
/// Maximum length of a message, as it is sent. Clients refuse metadata of more than 8 KiB.
const MAX_MESSAGE: usize = 4 << 10;

/// Returns the code for a kind of error.
fn code_of_kind(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Conflict => Code::Aborted,
        ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::Overloaded | ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::ModelFailed | ErrorKind::Internal => Code::Internal,
    }
}

/// Returns the code for an error: the code of its kind, unless gRPC has a more specific one.
fn code(error: &OperatorError) -> Code {
    match error {
        OperatorError::Request(
            Error::UnknownEndpoint
            | Error::UnknownCall(_)
            | Error::UnsupportedMethod { .. }
            | Error::UnsupportedContent(_)
            | Error::UnsupportedTransfer,
        ) => Code::Unimplemented,
        OperatorError::Request(Error::RequestTooLarge { .. }) => Code::ResourceExhausted,
        OperatorError::Request(Error::RequestTooSlow { .. }) => Code::DeadlineExceeded,
        OperatorError::Request(Error::RequestAborted) => Code::Cancelled,
        other => code_of_kind(other.kind()),
    }
}

/// Returns the status for an error.
pub fn status(error: &OperatorError) -> Status {
    let mut status = Status::new(code(error), cut_off(error.to_string()));
    if let Some(time) = error.retry_after() {
        let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
        let key: MetadataKey<Ascii> = MetadataKey::from_static(RETRY_PUSHBACK);
        status.metadata_mut().insert(key, MetadataValue::from(milliseconds));
    }
    status
}

/// Returns the names and values of the metadata at the end of a call that succeeded.
pub fn metadata_of_success() -> [(&'static str, &'static str); 1] {
    [("grpc-status", "0")]
}

/// Cuts off a message so that it fits, when bytes other than visible ASCII take three.
fn cut_off(mut message: String) -> String {
    let mut length = 0;
    let end = message.char_indices().find_map(|(index, character)| {
        length += if character.is_ascii_graphic() || character == ' ' { 1 } else { 3 * character.len_utf8() };
        (length > MAX_MESSAGE).then_some(index)
    });
    if let Some(end) = end {
        message.truncate(end);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::Shed;

    #[test]
    fn an_overload_has_the_time_to_wait() {
        let overloaded = Error::Overloaded {
            shed: Shed::AtTheDoor,
            needed: Duration::from_secs(1),
            left: Duration::ZERO,
            retry_after: Duration::from_micros(21_500),
        };
        let found = status(&overloaded.into());
        assert_eq!(found.code(), Code::Unavailable);
        assert_eq!(found.metadata().get(RETRY_PUSHBACK).unwrap(), "21");
    }

    #[test]
    fn a_message_fits_into_the_metadata_of_clients() {
        for text in ["a".repeat(10_000), "ü".repeat(10_000)] {
            let found = status(&Error::InvalidInput(text).into());
            let encoded: usize = found.message().chars().map(|c| if c.is_ascii() { 1 } else { 3 * c.len_utf8() }).sum();
            assert!((4_000..=MAX_MESSAGE + 9).contains(&encoded), "{encoded}");
        }
    }
}
