//! Kinds of errors, from which a protocol derives its response.

use std::time::Duration;

/// Kind of an error, independent of the protocol. Each protocol has a table from kinds to its own statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request itself has to change.
    InvalidArgument,
    /// The request lacks credentials, or has wrong ones.
    Unauthenticated,
    /// The sender is not allowed to do this.
    PermissionDenied,
    /// The model, version or path does not exist.
    NotFound,
    /// The request is based on a state that has changed since.
    Conflict,
    /// The request is not possible in the current state.
    FailedPrecondition,
    /// The server or the model has too little capacity for the request now.
    Overloaded,
    /// Something that the request needs does not work now; another server may be able to answer.
    Unavailable,
    /// The deadline of the request has passed.
    DeadlineExceeded,
    /// The model failed.
    ModelFailed,
    /// Leeway failed.
    Internal,
}

/// The party at fault for an error; a label of the `leeway_requests_total` metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The caller: the request has to change.
    Caller,
    /// Nobody: there was too little capacity for the request.
    Overload,
    /// Nobody: the time for the request ran out.
    Budget,
    /// The model.
    Model,
    /// Leeway itself, or its setup.
    Server,
}

impl ErrorKind {
    /// Returns the party at fault for errors of this kind.
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

    /// Returns the time after which to try again, unless the error itself has a better estimate.
    pub fn retry_after(self) -> Option<Duration> {
        match self {
            ErrorKind::Overloaded | ErrorKind::Unavailable => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}
