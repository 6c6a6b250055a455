//! Something that makes predictions: a server, or a model in this process.

use std::time::Duration;

use anyhow::Result;
use serde_json::value::RawValue;

/// A column that the model takes, or one of its inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KnownColumn {
    pub(super) name: String,
    pub(super) kind: ColumnKind,
}

/// Kind of the values of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ColumnKind {
    Text,
    Boolean,
    Number,
}

/// Result of a request.
#[derive(Debug)]
pub(super) enum Reply {
    /// A prediction for each row.
    Predictions(Vec<Box<RawValue>>),
    /// The request has to change: one of its rows is wrong, or there are too many of them.
    Refused(String),
    /// There is too little capacity now; perhaps there is more after this time.
    Busy(String, Option<Duration>),
    /// The request was too slow: there is too little time for so many rows.
    TooSlow(String),
}

/// Something that makes predictions. Errors end the command: no request would succeed.
pub(super) trait Predictor: Sync {
    /// The model and the version, for messages.
    fn name(&self) -> String;

    /// The columns that a request can name. If there is only one, it may stand for several columns of a table.
    fn columns(&self) -> &[KnownColumn];

    /// Number of requests at one time.
    fn concurrency(&self) -> usize;

    /// Duration that a request should take.
    fn request_time(&self) -> Duration;

    /// Makes the predictions for a request.
    fn predict(&self, body: &str) -> Result<Reply>;
}
