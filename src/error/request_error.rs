//! Errors that any caller may see.

use std::fmt;
use std::time::Duration;

use strum::{EnumMessage, IntoStaticStr, VariantNames};

use super::error_kind::{ErrorKind, Fault};
use crate::identity::ModelName;
use crate::stage::{Stage, Timings};

/// An error that any caller may see: its message holds no path and no text of a library.
#[derive(Debug, Clone, PartialEq, thiserror::Error, IntoStaticStr, VariantNames, EnumMessage)]
#[strum(serialize_all = "kebab-case")]
pub enum Error {
    // ----- the caller's: the same request will fail again -----
    /// The body is not what the model takes. The message names the place and what was expected.
    #[error("{0}")]
    #[strum(message = "Invalid input")]
    InvalidInput(String),
    /// No model has this name.
    #[error("there is no model {model:?}; {}", known_names("models", known))]
    #[strum(message = "Model not found")]
    UnknownModel {
        /// The name that was asked for, as it was written.
        model: String,
        /// The models that are served.
        known: Vec<String>,
    },
    /// The model has no such version.
    #[error("model {model} has no version {version:?}; {}", known_names("versions", known))]
    #[strum(message = "Version not found")]
    UnknownVersion {
        /// The model, which exists.
        model: ModelName,
        /// The version that was asked for, as it was written.
        version: String,
        /// The versions that are loaded.
        known: Vec<String>,
    },
    /// A request for the default model, where several are served and none is configured.
    #[error(
        "there is no default model: ask /v1/models/{{model}}:predict for one of {}, or set repository.default_model",
        known.join(", ")
    )]
    #[strum(message = "No default model")]
    NoDefaultModel {
        /// The models that are served.
        known: Vec<String>,
    },
    /// Nothing answers at this path.
    #[error(
        "nothing is served at this path; predictions are at POST /predict and POST /v1/models/{{model}}:predict of the data listener"
    )]
    #[strum(message = "Not found")]
    UnknownEndpoint,
    /// The path exists, but not for this operation.
    #[error("this path answers {allowed} only")]
    #[strum(message = "Method not allowed")]
    UnsupportedMethod {
        /// Methods that the path answers, as in an `Allow` header.
        allowed: String,
    },
    /// The body is announced as something else than JSON.
    #[error("{0}")]
    #[strum(message = "Unsupported media type")]
    UnsupportedContent(String),
    /// The body is larger than the limit.
    #[error("the request body is larger than {limit} bytes; {advice}")]
    #[strum(message = "Request body too large")]
    RequestTooLarge {
        /// The limit, in bytes.
        limit: usize,
        /// Advice to the caller.
        advice: &'static str,
    },
    /// The transfer encoding of the body is not supported.
    #[error("the header Transfer-Encoding: only chunked is known here; send the body as it is")]
    #[strum(message = "Unsupported transfer encoding")]
    UnsupportedTransfer,
    /// The client stopped sending, or sent something else than the body it had announced.
    #[error("the body ended before it was complete, or was not sent as its head says (Content-Length, chunk sizes)")]
    #[strum(message = "Incomplete request body")]
    RequestAborted,
    /// The body did not arrive in time.
    #[error("the request body did not arrive within the {:.0} ms that the budget has for it", limit.as_secs_f64() * 1e3)]
    #[strum(message = "Request body timeout")]
    RequestTooSlow {
        /// The time there was.
        limit: Duration,
    },

    // ----- overload: the same request may succeed later -----
    /// The model cannot answer in the time that is left.
    #[error("{}", overloaded(*shed, *needed, *left))]
    #[strum(message = "Model overloaded")]
    Overloaded {
        /// The place of the refusal.
        shed: Shed,
        /// Predicted time in the queue and the run.
        needed: Duration,
        /// Time that is left for them.
        left: Duration,
        /// Time after which to try again.
        retry_after: Duration,
    },
    /// There are as many connections as are served predictions on.
    #[error("{limit} connections are open, and this one is above the limit (http.connection_limit); try again")]
    #[strum(message = "Too many connections")]
    TooManyConnections {
        /// The limit.
        limit: usize,
    },
    /// The body or the answer does not fit into the memory beside those of other requests.
    #[error(
        "the bodies and answers of other requests fill most of the {limit} bytes that there are for them \
         (http.body_memory_bytes); try again, or with a smaller body"
    )]
    #[strum(message = "Request memory exhausted")]
    BodyMemoryFull {
        /// Size of the whole budget, in bytes.
        limit: usize,
    },
    /// The model's queue is full.
    #[error("the model's queue of {capacity} requests is full; try again")]
    #[strum(message = "Model overloaded")]
    QueueFull {
        /// Maximum number of waiting requests.
        capacity: usize,
        /// Time after which to try again.
        retry_after: Duration,
    },
    /// The model is known, but is not served now.
    #[error("model {model} is not served now: {reason}; try another replica, or again later")]
    #[strum(message = "Model unavailable")]
    ModelUnavailable {
        /// Name of the model.
        model: ModelName,
        /// Reason, without paths.
        reason: String,
    },
    /// A health check has failed.
    #[error("{0}")]
    #[strum(message = "Server unhealthy")]
    Unhealthy(String),
    /// This server, or this version of the model, is being stopped.
    #[error("this server is shutting down; try another replica")]
    #[strum(message = "Server shutting down")]
    ShuttingDown,

    // ----- time -----
    /// Time ran out while a stage had the request.
    #[error("time ran out during {stage} ({spent})")]
    #[strum(message = "Deadline exceeded")]
    Expired {
        /// The stage that had the request.
        stage: Stage,
        /// Duration of each stage until then.
        spent: Timings,
    },

    // ----- the model's -----
    /// The model did not run on this input.
    #[error("the model could not run on this input")]
    #[strum(message = "Model failed")]
    ModelFailed {
        /// Message of ONNX Runtime.
        detail: String,
    },
    /// An output is NaN or infinite.
    #[error("the model's output {output:?} is not a finite number for instances[{instance}]")]
    #[strum(message = "Model failed")]
    NonFiniteOutput {
        /// The output's name.
        output: String,
        /// The index of the instance within the request.
        instance: usize,
    },
    /// An output is there and is no answer: it lacks its rows, or holds what it cannot hold by `model.toml`.
    #[error("the model's output {output:?} {problem}")]
    #[strum(message = "Model failed")]
    UnusableOutput {
        /// The output's name.
        output: String,
        /// The problem, and the remedy.
        problem: String,
    },
    /// The worker that ran the batch panicked; it has been rebuilt.
    #[error("the model's worker failed while it had this request; it has been restarted, try again")]
    #[strum(message = "Model failed")]
    WorkerPanicked,
    /// The process that the model runs in (`isolation = "process"`) ended during the batch. It is restarted.
    #[error("the model's process ended while it had this request; it is started again")]
    #[strum(message = "Model failed")]
    ModelProcessEnded {
        /// The moment of its end.
        when: ProcessEnd,
        /// Exit status of the process, and its last message.
        detail: String,
    },
    /// The model's process ended several times in a row. It is restarted after a backoff.
    #[error("the model's process has ended several times in a row, and is started again in a while; try again")]
    #[strum(message = "Model restarting")]
    ModelRestarting {
        /// Time until the restart.
        retry_after: Duration,
    },

    /// The feedback could not be stored durably, so none of it was taken.
    #[error("the feedback could not be recorded, and none of it was taken; send it again later")]
    #[strum(message = "Feedback not recorded")]
    FeedbackNotRecorded {
        /// The problem with the state.
        detail: String,
    },

    // ----- ours -----
    /// A defect in Leeway or in a stage of the pipeline.
    #[error("an internal error occurred; the server's log has it under this request id")]
    #[strum(message = "Internal error")]
    Internal {
        /// Description of the failure.
        detail: String,
    },
}

/// The place at which a request was refused that cannot be answered in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shed {
    /// Before it was let into the queue: there is no time behind those that wait.
    AtTheDoor,
    /// Likewise, and it would be too late even if nobody else waited.
    EvenAlone,
    /// In its turn: others with a higher priority went first, or runs took longer than before.
    InTheQueue,
}

/// Moment at which the process of a model ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessEnd {
    /// The run had not begun: it can be made anew.
    BeforeTheRun,
    /// The run may have been the reason.
    InTheRun,
}

impl Error {
    /// Codes of all errors.
    pub const CODES: &'static [&'static str] = Error::VARIANTS;

    /// Kind of the error.
    ///
    /// ```
    /// use leeway::error::{Error, ErrorKind, Fault};
    /// assert_eq!(Error::UnknownEndpoint.kind(), ErrorKind::NotFound);
    /// assert_eq!(Error::WorkerPanicked.kind().fault(), Fault::Model);
    /// ```
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::InvalidInput(_)
            | Error::UnsupportedMethod { .. }
            | Error::UnsupportedContent(_)
            | Error::RequestTooLarge { .. }
            | Error::UnsupportedTransfer
            | Error::RequestAborted
            | Error::RequestTooSlow { .. } => ErrorKind::InvalidArgument,
            Error::UnknownModel { .. }
            | Error::UnknownVersion { .. }
            | Error::NoDefaultModel { .. }
            | Error::UnknownEndpoint => ErrorKind::NotFound,
            Error::Overloaded { .. }
            | Error::QueueFull { .. }
            | Error::TooManyConnections { .. }
            | Error::BodyMemoryFull { .. } => ErrorKind::Overloaded,
            Error::ModelUnavailable { .. }
            | Error::ModelRestarting { .. }
            | Error::Unhealthy(_)
            | Error::ShuttingDown
            | Error::FeedbackNotRecorded { .. } => ErrorKind::Unavailable,
            Error::Expired { .. } => ErrorKind::DeadlineExceeded,
            Error::ModelFailed { .. }
            | Error::NonFiniteOutput { .. }
            | Error::UnusableOutput { .. }
            | Error::WorkerPanicked
            | Error::ModelProcessEnded { .. } => ErrorKind::ModelFailed,
            Error::Internal { .. } => ErrorKind::Internal,
        }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        self.kind().fault()
    }

    /// A short, stable name: the last part of a problem's `type`, and a label of a metric.
    pub fn code(&self) -> &'static str {
        self.into()
    }

    /// Title that all errors of this code have.
    pub fn title(&self) -> &'static str {
        self.get_message().unwrap_or_default()
    }

    /// Time after which the same request may succeed; `None` if it never will, or if nobody knows.
    pub fn retry_after(&self) -> Option<Duration> {
        /// A full or failing disk takes longer than a second to repair, and earlier retries would fail again.
        const REPAIR_OF_A_DISK: Duration = Duration::from_secs(30);
        match self {
            Error::Overloaded { shed: Shed::EvenAlone, .. } | Error::Unhealthy(_) => None,
            Error::Overloaded { retry_after, .. }
            | Error::QueueFull { retry_after, .. }
            | Error::ModelRestarting { retry_after } => Some(*retry_after),
            Error::FeedbackNotRecorded { .. } => Some(REPAIR_OF_A_DISK),
            other => other.kind().retry_after(),
        }
    }

    /// Detail for the log only: internals that a caller must not see.
    pub fn detail(&self) -> Option<&str> {
        match self {
            Error::ModelFailed { detail }
            | Error::ModelProcessEnded { detail, .. }
            | Error::FeedbackNotRecorded { detail }
            | Error::Internal { detail } => Some(detail),
            _ => None,
        }
    }

    /// The message for whoever runs the server: the detail, if there is one.
    pub fn for_operators(&self) -> String {
        self.detail().map_or_else(|| self.to_string(), str::to_owned)
    }

    /// A defect, with its description.
    pub fn internal(detail: impl fmt::Display) -> Error {
        Error::Internal { detail: detail.to_string() }
    }
}

fn overloaded(shed: Shed, needed: Duration, left: Duration) -> String {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let (needed, left) = (ms(needed), ms(left));
    match shed {
        Shed::AtTheDoor => format!(
            "behind those that wait, the model would take about {needed:.1} ms, and {left:.1} ms of the budget are left; \
             try again, or with more time"
        ),
        Shed::EvenAlone => format!(
            "the model takes about {needed:.1} ms for this request even with nothing else to do, and {left:.1} ms of the \
             budget are left; send fewer instances in one request, or ask for more time (X-Request-Timeout-Ms, \
             budget.total_ms)"
        ),
        Shed::InTheQueue => format!(
            "when its turn had come, {left:.1} ms of the budget were left, and the model takes about {needed:.1} ms; try \
             again, or with more time"
        ),
    }
}

fn known_names(what: &str, known: &[String]) -> String {
    if known.is_empty() { format!("no {what} are loaded") } else { format!("{what}: {}", known.join(", ")) }
}
