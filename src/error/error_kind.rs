//! Kinds of errors: all that a protocol needs to know to answer one.

use std::time::Duration;

/// Kind of an error, whatever the protocol. Each protocol has a table from kinds to its own statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request itself has to change.
    InvalidArgument,
    /// The request lacks credentials, or has wrong ones.
    Unauthenticated,
    /// The sender may not do this.
    PermissionDenied,
    /// The model, version or path does not exist.
    NotFound,
    /// The request is based on a state that has changed since.
    Conflict,
    /// The request is not possible in the present state.
    FailedPrecondition,
    /// There is no room for the request now.
    Overloaded,
    /// What it needs does not work now; another server may be able to answer.
    Unavailable,
    /// Its time has run out.
    DeadlineExceeded,
    /// The model failed.
    ModelFailed,
    /// Leeway failed.
    Internal,
}

/// Whose fault an error is; a label of the `leeway_requests_total` metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request has to change.
    Caller,
    /// There was no room for the request.
    Overload,
    /// There was no time left for the request.
    Budget,
    /// The model.
    Model,
    /// Leeway itself, or its set-up.
    Server,
}

impl ErrorKind {
    /// Whose fault errors of this kind are.
    pub fn fault(self) -> Fault {
        match self {
            ErrorKind::InvalidArgument
            | ErrorKind::Unauthenticated
            | ErrorKind::PermissionDenied
            | ErrorKind::NotFound
            | ErrorKind::Conflict
            | ErrorKind::FailedPrecondition => Fault::Caller,
            ErrorKind::Overloaded | ErrorKind::Unavailable => Fault::Overload,
            ErrorKind::DeadlineExceeded => Fault::Budget,
            ErrorKind::ModelFailed => Fault::Model,
            ErrorKind::Internal => Fault::Server,
        }
    }

    /// Time after which to try again, where nothing better is known.
    pub fn retry_after(self) -> Option<Duration> {
        match self {
            ErrorKind::Overloaded | ErrorKind::Unavailable => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}
