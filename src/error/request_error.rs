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
    // ----- the caller's fault: the same request will fail again -----
    /// The request is malformed or does not fit the model. The message says where, and what was expected.
    #[error("{0}")]
    #[strum(message = "Invalid input")]
    InvalidInput(String),
    /// No model has this name.
    #[error("there is no model {model:?}; {}", known_names("models", known))]
    #[strum(message = "Model not found")]
    UnknownModel {
        /// The requested name, as the caller wrote it.
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
        /// The requested version, as the caller wrote it.
        version: String,
        /// The versions that are loaded.
        known: Vec<String>,
    },
    /// A request for the default model, but several models are served and none is configured as the default.
    #[error(
        "there is no default model: send the request to /v1/models/{{model}}:predict for one of {}, or set \
         repository.default_model",
        known.join(", ")
    )]
    #[strum(message = "No default model")]
    NoDefaultModel {
        /// The models that are served.
        known: Vec<String>,
    },
    /// The path does not exist.
    #[error(
        "nothing is served at this path; predictions are at POST /predict and POST /v1/models/{{model}}:predict of the data listener"
    )]
    #[strum(message = "Not found")]
    UnknownEndpoint,
    /// Models do not have this action.
    #[error("a model has no \":{action}\"; send the request to :predict in its place")]
    #[strum(message = "Not found")]
    UnknownAction {
        /// The action in the path, such as `classify`.
        action: String,
    },
    /// The data listener requires API keys, and the request has none, or an unknown one.
    #[error(
        "{}; send a key of this server in the header Authorization: Bearer KEY, or X-Api-Key: KEY",
        if *.given { "the API key of the request is not known" } else { "this request needs an API key" }
    )]
    #[strum(message = "Unauthorized")]
    ApiKeyRefused {
        /// True if the request has a key.
        given: bool,
    },
    /// The body has a content coding that is not accepted, or several.
    #[error("the Content-Encoding of the body is not supported; send the body uncompressed, or with gzip or zstd")]
    #[strum(message = "Unsupported content")]
    UnsupportedCoding,
    /// A call of gRPC that does not exist, or not here.
    #[error("{0}")]
    #[strum(message = "Call not implemented")]
    UnknownCall(String),
    /// The path exists, but does not accept this method.
    #[error("this path accepts {allowed} only")]
    #[strum(message = "Method not allowed")]
    UnsupportedMethod {
        /// Methods that the path accepts, as in an `Allow` header.
        allowed: String,
    },
    /// The body has a media type or an encoding that is not accepted.
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
    #[error("the header Transfer-Encoding: only chunked is supported; send the body without another encoding")]
    #[strum(message = "Unsupported transfer encoding")]
    UnsupportedTransfer,
    /// The client stopped sending, or the body does not match its head.
    #[error("the body ended early, or does not match its Content-Length or chunk sizes")]
    #[strum(message = "Incomplete request body")]
    RequestAborted,
    /// The body did not arrive in time.
    #[error("the request body did not arrive within the {:.0} ms that are allowed for it", limit.as_secs_f64() * 1e3)]
    #[strum(message = "Request body timeout")]
    RequestTooSlow {
        /// The time limit.
        limit: Duration,
    },

    // ----- overload: the same request may succeed later -----
    /// The model cannot answer in the time that is left.
    #[error("{}", overloaded(*shed, *needed, *left))]
    #[strum(message = "Model overloaded")]
    Overloaded {
        /// The point at which the request was refused.
        shed: Shed,
        /// Predicted time in the queue and the run.
        needed: Duration,
        /// Time that is left for the queue and the run.
        left: Duration,
        /// Time after which to try again.
        retry_after: Duration,
    },
    /// More connections are open than the limit up to which predictions are served.
    #[error("{limit} connections are open, and this one is above the limit (http.connection_limit); try again")]
    #[strum(message = "Too many connections")]
    TooManyConnections {
        /// The limit.
        limit: usize,
    },
    /// The memory for bodies and responses has too few free bytes for this request.
    #[error(
        "other requests use most of the {limit} bytes of memory for bodies and responses (http.body_memory_bytes); try \
         again, or send a smaller body"
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
    /// The model exists, but is not served now.
    #[error("model {model} is not served now: {reason}; try another replica, or try again later")]
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
    /// The time of the request ran out during a stage.
    #[error("time ran out during {stage} ({spent})")]
    #[strum(message = "Deadline exceeded")]
    Expired {
        /// The stage that the request was in.
        stage: Stage,
        /// Duration of each stage until then.
        spent: Timings,
    },

    /// The deadline of a stream of messages has passed.
    #[error("the deadline of the stream has passed; open another one")]
    #[strum(message = "Deadline exceeded")]
    DeadlineOfStream,

    // ----- the model's fault -----
    /// ONNX Runtime could not run the model on this input.
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
    /// An output cannot be used: it does not have one row per input row, or has values that `model.toml` rules out.
    #[error("the model's output {output:?} {problem}")]
    #[strum(message = "Model failed")]
    UnusableOutput {
        /// The output's name.
        output: String,
        /// The problem, and the remedy.
        problem: String,
    },
    /// The worker that ran the batch panicked. It has been restarted.
    #[error("the model's worker failed during this request; it has been restarted, try again")]
    #[strum(message = "Model failed")]
    WorkerPanicked,
    /// The model's own process (`isolation = "process"`) ended during the batch. It is restarted.
    #[error("the model's process ended during this request; it is being restarted")]
    #[strum(message = "Model failed")]
    ModelProcessEnded {
        /// Moment at which the process ended, relative to the run.
        when: ProcessEnd,
        /// Exit status of the process, and its last message.
        detail: String,
    },
    /// The model's process ended several times in a row. It is restarted after a backoff.
    #[error("the model's process has ended several times in a row, and is restarted after a pause; try again later")]
    #[strum(message = "Model restarting")]
    ModelRestarting {
        /// Time until the restart.
        retry_after: Duration,
    },

    /// The feedback could not be stored durably, so none of it was accepted.
    #[error("the feedback could not be recorded, and none of it was taken; send it again later")]
    #[strum(message = "Feedback not recorded")]
    FeedbackNotRecorded {
        /// The problem with the stored state.
        detail: String,
    },

    // ----- Leeway's fault -----
    /// A defect in Leeway or in a stage of the pipeline.
    #[error("an internal error occurred; the server's log has it under this request id")]
    #[strum(message = "Internal error")]
    Internal {
        /// Description of the failure.
        detail: String,
    },

    // ----- a step of a chain: at fault is what is at fault in the step -----
    /// A step of a chain failed. Kind, code and title are those of its error.
    #[error("steps[{index}] ({name}): {error}")]
    Step {
        /// Index of the step in the chain.
        index: usize,
        /// Name of the step.
        name: String,
        /// The error of the step.
        error: Box<Error>,
    },
}

/// The point at which a request that cannot be answered in time was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shed {
    /// Before the queue: the wait for other requests would take too long.
    AtTheDoor,
    /// Before the queue: the request would be too late even without other requests.
    EvenAlone,
    /// At its turn in the queue: requests of higher priority went first, or runs took longer than predicted.
    InTheQueue,
}

/// Moment at which the process of a model ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessEnd {
    /// Before the run, which can be repeated.
    BeforeTheRun,
    /// During the run, which may be the cause.
    InTheRun,
}

impl Error {
    /// Codes of all errors of this type, without the last: a failed step has the code of its error.
    pub const CODES: &'static [&'static str] = Error::VARIANTS.split_at(Error::VARIANTS.len() - 1).0;

    /// Returns the kind of the error.
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
            | Error::UnsupportedCoding
            | Error::RequestTooLarge { .. }
            | Error::UnsupportedTransfer
            | Error::RequestAborted
            | Error::RequestTooSlow { .. } => ErrorKind::InvalidArgument,
            Error::ApiKeyRefused { .. } => ErrorKind::Unauthenticated,
            Error::UnknownModel { .. }
            | Error::UnknownVersion { .. }
            | Error::NoDefaultModel { .. }
            | Error::UnknownEndpoint
            | Error::UnknownAction { .. }
            | Error::UnknownCall(_) => ErrorKind::NotFound,
            Error::Overloaded { .. }
            | Error::QueueFull { .. }
            | Error::TooManyConnections { .. }
            | Error::BodyMemoryFull { .. } => ErrorKind::Overloaded,
            Error::ModelUnavailable { .. }
            | Error::ModelRestarting { .. }
            | Error::Unhealthy(_)
            | Error::ShuttingDown
            | Error::FeedbackNotRecorded { .. } => ErrorKind::Unavailable,
            Error::Expired { .. } | Error::DeadlineOfStream => ErrorKind::DeadlineExceeded,
            Error::ModelFailed { .. }
            | Error::NonFiniteOutput { .. }
            | Error::UnusableOutput { .. }
            | Error::WorkerPanicked
            | Error::ModelProcessEnded { .. } => ErrorKind::ModelFailed,
            Error::Internal { .. } => ErrorKind::Internal,
            Error::Step { error, .. } => error.kind(),
        }
    }

    /// Returns the party at fault.
    pub fn fault(&self) -> Fault {
        self.kind().fault()
    }

    /// Returns a short, stable name: the last part of a problem's `type`, and a label of a metric.
    pub fn code(&self) -> &'static str {
        self.cause().into()
    }

    /// Returns the title that all errors of this code have.
    pub fn title(&self) -> &'static str {
        self.cause().get_message().unwrap_or_default()
    }

    /// Returns the error of the step, if a step of a chain failed, and otherwise the error itself.
    pub fn cause(&self) -> &Error {
        match self {
            Error::Step { error, .. } => error,
            error => error,
        }
    }

    /// Returns the time after which the same request may succeed; `None` if it never will, or if the time is not known.
    pub fn retry_after(&self) -> Option<Duration> {
        /// Time to wait after a failed write: repairing a full or failing disk takes longer than a second.
        const REPAIR_OF_A_DISK: Duration = Duration::from_secs(30);
        match self.cause() {
            Error::Overloaded { shed: Shed::EvenAlone, .. } | Error::Unhealthy(_) => None,
            Error::Overloaded { retry_after, .. }
            | Error::QueueFull { retry_after, .. }
            | Error::ModelRestarting { retry_after } => Some(*retry_after),
            Error::FeedbackNotRecorded { .. } => Some(REPAIR_OF_A_DISK),
            other => other.kind().retry_after(),
        }
    }

    /// Returns the detail for the log only: internals that a caller must not see.
    pub fn detail(&self) -> Option<&str> {
        match self.cause() {
            Error::ModelFailed { detail }
            | Error::ModelProcessEnded { detail, .. }
            | Error::FeedbackNotRecorded { detail }
            | Error::Internal { detail } => Some(detail),
            _ => None,
        }
    }

    /// Returns the message for operators: the detail if there is one, or else the message for callers.
    pub fn for_operators(&self) -> String {
        self.detail().map_or_else(|| self.to_string(), str::to_owned)
    }

    /// Returns an internal error with this description.
    pub fn internal(detail: impl fmt::Display) -> Error {
        Error::Internal { detail: detail.to_string() }
    }
}

fn overloaded(shed: Shed, needed: Duration, left: Duration) -> String {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let (needed, left) = (ms(needed), ms(left));
    match shed {
        Shed::AtTheDoor => format!(
            "including the wait for other requests, the model would take about {needed:.1} ms, but only {left:.1} ms \
             of the budget are left; try again, or allow more time"
        ),
        Shed::EvenAlone => format!(
            "the model takes about {needed:.1} ms for this request even with nothing else to do, but only {left:.1} ms \
             of the budget are left; send fewer instances in one request, or allow more time (X-Request-Timeout-Ms, \
             budget.total_ms)"
        ),
        Shed::InTheQueue => format!(
            "when the turn of this request came, only {left:.1} ms of the budget were left, but the model takes about \
             {needed:.1} ms; try again, or allow more time"
        ),
    }
}

fn known_names(what: &str, known: &[String]) -> String {
    if known.is_empty() { format!("no {what} are loaded") } else { format!("{what}: {}", known.join(", ")) }
}
