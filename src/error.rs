//! The one error type of the crate.
//!
//! The variants say *whose fault it is*, in groups: the caller's, overload, time, the model's, ours, and
//! what keeps a server from starting. The message (`Display`) is written for the person who can mend it;
//! for the groups that reach a caller it never holds a path or a library's text. What only we should see
//! is [`Error::detail`], which is logged beside the request id.
//!
//! This room knows nothing of HTTP: `http/error_response.rs` turns a variant into a status.

use std::fmt;
use std::time::Duration;

use crate::identity::{ModelName, Version};
use crate::stage::{Stage, Timings};

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, by whose fault it is.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    // ----- the caller's: the same request will fail again -----
    /// The body is not what the model takes. The message names the place and what was expected.
    #[error("{0}")]
    InvalidInput(String),
    /// No model has this name.
    #[error("there is no model {model:?}; {}", known_names("models", known))]
    UnknownModel {
        /// The name that was asked for, as it was written.
        model: String,
        /// The models that are served.
        known: Vec<String>,
    },
    /// The model has no such version.
    #[error("model {model} has no version {version:?}; {}", known_names("versions", known))]
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
    NoDefaultModel {
        /// The models that are served.
        known: Vec<String>,
    },
    /// Nothing answers at this path.
    #[error(
        "nothing is served at this path; predictions are at POST /predict and POST /v1/models/{{model}}:predict of the data listener"
    )]
    UnknownEndpoint,
    /// The path exists, but not for this operation.
    #[error("this path answers {allowed} only")]
    UnsupportedMethod {
        /// Methods that the path answers, as in an `Allow` header.
        allowed: String,
    },
    /// The body is announced as something else than JSON.
    #[error("{0}")]
    UnsupportedContent(String),
    /// The body is larger than the limit.
    #[error("the request body is larger than {limit} bytes; {advice}")]
    RequestTooLarge {
        /// The limit, in bytes.
        limit: usize,
        /// Advice to the caller.
        advice: &'static str,
    },
    /// The transfer encoding of the body is not supported.
    #[error("the header Transfer-Encoding: only chunked is known here; send the body as it is")]
    UnsupportedTransfer,
    /// The client stopped sending, or sent something else than the body it had announced.
    #[error("the body ended before it was complete, or was not sent as its head says (Content-Length, chunk sizes)")]
    RequestAborted,
    /// The body did not arrive in time.
    #[error("the request body did not arrive within the {:.0} ms that the budget has for it", limit.as_secs_f64() * 1e3)]
    RequestTooSlow {
        /// The time there was.
        limit: Duration,
    },

    // ----- overload: the same request may succeed later -----
    /// The model cannot answer in the time that is left.
    #[error("{}", overloaded(*shed, *needed, *left))]
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
    TooManyConnections {
        /// The limit.
        limit: usize,
    },
    /// The body or the answer does not fit into the memory beside those of other requests.
    #[error(
        "the bodies and answers of other requests fill most of the {limit} bytes that there are for them \
         (http.body_memory_bytes); try again, or with a smaller body"
    )]
    BodyMemoryFull {
        /// Size of the whole budget, in bytes.
        limit: usize,
    },
    /// The model's queue is full.
    #[error("the model's queue of {capacity} requests is full; try again")]
    QueueFull {
        /// Maximum number of waiting requests.
        capacity: usize,
        /// Time after which to try again.
        retry_after: Duration,
    },
    /// The model is known, but is not served now.
    #[error("model {model} is not served now: {reason}; try another replica, or again later")]
    ModelUnavailable {
        /// Name of the model.
        model: ModelName,
        /// Reason, without paths.
        reason: String,
    },
    /// A health check has failed.
    #[error("{0}")]
    Unhealthy(String),
    /// This server, or this version of the model, is being stopped.
    #[error("this server is shutting down; try another replica")]
    ShuttingDown,

    // ----- time -----
    /// Time ran out while a stage had the request.
    #[error("time ran out during {stage} ({spent})")]
    Expired {
        /// The stage that had the request.
        stage: Stage,
        /// Duration of each stage until then.
        spent: Timings,
    },

    // ----- the model's -----
    /// The model did not run on this input.
    #[error("the model could not run on this input")]
    ModelFailed {
        /// Message of ONNX Runtime.
        detail: String,
    },
    /// An output is NaN or infinite.
    #[error("the model's output {output:?} is not a finite number for instances[{instance}]")]
    NonFiniteOutput {
        /// The output's name.
        output: String,
        /// The index of the instance within the request.
        instance: usize,
    },
    /// An output is there and is no answer: it lacks its rows, or holds what it cannot hold by `model.toml`.
    #[error("the model's output {output:?} {problem}")]
    UnusableOutput {
        /// The output's name.
        output: String,
        /// The problem, and the remedy.
        problem: String,
    },
    /// The worker that ran the batch panicked; it has been rebuilt.
    #[error("the model's worker failed while it had this request; it has been restarted, try again")]
    WorkerPanicked,
    /// The process that the model runs in (`isolation = "process"`) ended during the batch. It is restarted.
    #[error("the model's process ended while it had this request; it is started again")]
    ModelProcessEnded {
        /// The moment of its end.
        when: ProcessEnd,
        /// Exit status of the process, and its last message.
        detail: String,
    },
    /// The model's process ended several times in a row. It is restarted after a backoff.
    #[error("the model's process has ended several times in a row, and is started again in a while; try again")]
    ModelRestarting {
        /// Time until the restart.
        retry_after: Duration,
    },

    // ----- an operator's, on the admin listener -----
    /// The change was decided on a state that is not the present one any more.
    #[error("{message}")]
    Conflict {
        /// The expected and the present generation.
        message: String,
        /// The present deployment of the model, as the admin API shows it.
        present: serde_json::Value,
    },
    /// The change is not one that can be made now. The message says what to do first.
    #[error("{0}")]
    ChangeRefused(String),
    /// The request lacks the token, or has another one.
    #[error("send the header Authorization: Bearer with the token that is configured as admin.token")]
    Unauthorized,
    /// The request looks as if a web page had made a browser send it.
    #[error("{0}")]
    Forbidden(String),
    /// The change could not be made to last, and so was not made.
    #[error("nothing was changed, because the deployment journal could not be written: {0}")]
    Journal(String),

    /// The feedback could not be stored durably, so none of it was taken.
    #[error("the feedback could not be recorded, and none of it was taken; send it again later")]
    FeedbackNotRecorded {
        /// The problem with the state.
        detail: String,
    },

    // ----- ours -----
    /// A defect in Leeway or in a stage of the pipeline.
    #[error("an internal error occurred; the server's log has it under this request id")]
    Internal {
        /// Description of the failure.
        detail: String,
    },

    // ----- before anything is served; never sent to a caller -----
    /// A configuration file, an environment variable or a flag.
    #[error("{0}")]
    Config(String),
    /// The ONNX Runtime library.
    #[error("{0}")]
    Library(String),
    /// The file where the state is.
    #[error("{0}")]
    State(String),
    /// The repository of models as a whole.
    #[error("{0}")]
    Repository(String),
    /// One version of one model.
    #[error("model {model} version {version}: {message}")]
    Load {
        /// The model.
        model: ModelName,
        /// The version.
        version: Version,
        /// Kind of the problem.
        fault: LoadFault,
        /// The problem, and its remedy.
        message: String,
    },
    /// An address that could not be bound.
    #[error("{0}")]
    Listen(String),
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

/// Kind of the problem with a version that is not served. A closed set: it is a label of the
/// `leeway_load_failures_total` metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadFault {
    /// Its manifest is missing or cannot be read.
    Manifest,
    /// Its files are not those of its manifest, or are links.
    Files,
    /// The bytes of a file are not those that were added.
    Digest,
    /// The model keeps weights in a file that is not one of the version.
    ExternalData,
    /// ONNX Runtime does not take the model.
    Model,
    /// `model.toml` is wrong, or does not fit the model.
    Config,
    /// The trial load ended its process, or took too long or too much memory.
    Trial,
    /// The model does not run.
    WarmUp,
    /// The model's predictions are not those that are expected of it.
    Golden,
    /// The version's baseline cannot be read.
    Baseline,
    /// The machine had not enough memory, threads or time left for the load. The load is tried again after a backoff.
    Resources,
    /// Something else, which is ours.
    Internal,
}

impl LoadFault {
    /// All of them.
    pub const ALL: [LoadFault; 12] = [
        LoadFault::Manifest,
        LoadFault::Files,
        LoadFault::Digest,
        LoadFault::ExternalData,
        LoadFault::Model,
        LoadFault::Config,
        LoadFault::Trial,
        LoadFault::WarmUp,
        LoadFault::Golden,
        LoadFault::Baseline,
        LoadFault::Resources,
        LoadFault::Internal,
    ];

    /// The name in metrics and in the API.
    pub fn name(self) -> &'static str {
        match self {
            LoadFault::Manifest => "manifest",
            LoadFault::Files => "files",
            LoadFault::Digest => "digest",
            LoadFault::ExternalData => "external_data",
            LoadFault::Model => "model",
            LoadFault::Config => "config",
            LoadFault::Trial => "trial",
            LoadFault::WarmUp => "warm_up",
            LoadFault::Golden => "golden",
            LoadFault::Baseline => "baseline",
            LoadFault::Resources => "resources",
            LoadFault::Internal => "internal",
        }
    }

    /// Returns true if the same load may succeed later, although neither the version nor `model.toml` has changed.
    pub fn is_passing(self) -> bool {
        self == LoadFault::Resources
    }
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

impl Error {
    /// Whose fault it is.
    ///
    /// ```
    /// use leeway::error::{Error, Fault};
    /// assert_eq!(Error::UnknownEndpoint.fault(), Fault::Caller);
    /// assert_eq!(Error::WorkerPanicked.fault(), Fault::Model);
    /// ```
    pub fn fault(&self) -> Fault {
        match self {
            Error::InvalidInput(_)
            | Error::UnknownModel { .. }
            | Error::UnknownVersion { .. }
            | Error::NoDefaultModel { .. }
            | Error::UnknownEndpoint
            | Error::UnsupportedMethod { .. }
            | Error::UnsupportedContent(_)
            | Error::RequestTooLarge { .. }
            | Error::UnsupportedTransfer
            | Error::RequestAborted
            | Error::RequestTooSlow { .. }
            | Error::Conflict { .. }
            | Error::ChangeRefused(_)
            | Error::Unauthorized
            | Error::Forbidden(_) => Fault::Caller,
            Error::Overloaded { .. }
            | Error::ModelRestarting { .. }
            | Error::TooManyConnections { .. }
            | Error::BodyMemoryFull { .. }
            | Error::QueueFull { .. }
            | Error::ModelUnavailable { .. }
            | Error::Unhealthy(_)
            | Error::ShuttingDown => Fault::Overload,
            Error::Expired { .. } => Fault::Budget,
            Error::ModelFailed { .. }
            | Error::NonFiniteOutput { .. }
            | Error::UnusableOutput { .. }
            | Error::WorkerPanicked
            | Error::ModelProcessEnded { .. } => Fault::Model,
            Error::Internal { .. }
            | Error::Journal(_)
            | Error::FeedbackNotRecorded { .. }
            | Error::Config(_)
            | Error::Library(_)
            | Error::State(_)
            | Error::Repository(_)
            | Error::Load { .. }
            | Error::Listen(_) => Fault::Server,
        }
    }

    /// A short, stable name: the last part of a problem's `type`, and a label of a metric.
    pub fn code(&self) -> &'static str {
        match self {
            Error::InvalidInput(_) => "invalid-input",
            Error::UnknownModel { .. } => "unknown-model",
            Error::UnknownVersion { .. } => "unknown-version",
            Error::NoDefaultModel { .. } => "no-default-model",
            Error::UnknownEndpoint => "unknown-endpoint",
            Error::UnsupportedMethod { .. } => "unsupported-method",
            Error::UnsupportedContent(_) => "unsupported-content",
            Error::RequestTooLarge { .. } => "request-too-large",
            Error::UnsupportedTransfer => "unsupported-transfer",
            Error::RequestTooSlow { .. } => "request-too-slow",
            Error::RequestAborted => "request-aborted",
            Error::Overloaded { .. } => "overloaded",
            Error::TooManyConnections { .. } => "too-many-connections",
            Error::BodyMemoryFull { .. } => "body-memory-full",
            Error::QueueFull { .. } => "queue-full",
            Error::ModelUnavailable { .. } => "model-unavailable",
            Error::Unhealthy(_) => "unhealthy",
            Error::ShuttingDown => "shutting-down",
            Error::Expired { .. } => "expired",
            Error::ModelFailed { .. } => "model-failed",
            Error::NonFiniteOutput { .. } => "non-finite-output",
            Error::UnusableOutput { .. } => "unusable-output",
            Error::WorkerPanicked => "worker-panicked",
            Error::ModelProcessEnded { .. } => "model-process-ended",
            Error::ModelRestarting { .. } => "model-restarting",
            Error::Conflict { .. } => "conflict",
            Error::ChangeRefused(_) => "change-refused",
            Error::Unauthorized => "unauthorized",
            Error::Forbidden(_) => "forbidden",
            Error::Journal(_) => "journal-failed",
            Error::FeedbackNotRecorded { .. } => "feedback-not-recorded",
            Error::Internal { .. }
            | Error::Config(_)
            | Error::Library(_)
            | Error::State(_)
            | Error::Repository(_)
            | Error::Load { .. }
            | Error::Listen(_) => "internal",
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

    /// A defect, with what is known of it.
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
