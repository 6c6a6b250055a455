//! HTTP: the listeners, the tower stack, the handlers, and the mapping of errors to responses.
//!
//! - `sockets.rs` binds the addresses of a listener. `listener.rs` accepts connections, `connections.rs` gives them
//!   places, `connection_threads.rs` gives each a thread, and `connection.rs` serves one connection and closes it;
//!   `spinning.rs` keeps a thread awake for the next request.
//!   `http2.rs` does so for HTTP/2. `stream.rs` is the stream below a connection, and distinguishes a client that waits from a client
//!   that has left. All of them share the state in `activity.rs`.
//! - `tls.rs` makes the handshakes of a listener with TLS, and reads its certificate, also when it changes.
//!   `certificate_expiry.rs` finds the time at which it expires.
//! - `stack.rs` assembles the routes and layers of each listener.
//! - `request_layer.rs` gives every request its id, and finishes every response. `context.rs` has the facts about a
//!   request that layers and handlers share.
//!   `request_report.rs` has what is reported of it: a line of the access log (`access_log.rs`), and spans
//!   (`request_span.rs`), if they are on. `trace_context.rs` reads the trace that it belongs to.
//! - `admission.rs` gives every prediction request its deadline, and refuses requests that cannot be answered in time.
//!   `body.rs` reads the bodies.
//! - `predict.rs`, `feedback.rs`, `models.rs` and `operations.rs` have the handlers of the data listener. `admin.rs`
//!   has the handlers of the admin API, and the table of the admin listener's handlers. `admin_access.rs` checks access
//!   to the admin API, and `operator_request.rs` reads its paths and bodies.
//! - `v2/` has the handlers of the Open Inference Protocol.
//! - `grpc/` has the handlers of gRPC.
//! - `invocations.rs` has the headers and health checks of SageMaker and MLflow, and `tensorflow.rs` the metadata that
//!   clients of TensorFlow Serving read.
//! - `decoded_body.rs` decompresses bodies while they arrive, and `compression.rs` compresses answers, if that is
//!   configured. `content_coding.rs` has what both know.
//! - `api_keys.rs` and `cors.rs` are the optional layers of the data listener: clients with keys, and web pages of other
//!   origins. `path_prefix.rs` is for proxies that publish either listener below a path. `file_watch.rs` notices that a file has changed.
//! - `openapi.rs` answers with the OpenAPI documents, which `documents.rs` keeps, and `docs.rs` with the page that shows them (`docs.html`).
//! - `console.rs` serves the console, whose files are built from `console/`. `console_data.rs` has what only it
//!   reads, and `try_out.rs` its predictions.
//! - `exposition.rs` renders the metrics. Requests at about the same time share a rendering.
//! - `json_answer.rs` writes responses as JSON, and `answer_format.rs` predictions in other formats; `error_response.rs` is the only place where an error becomes a status.

mod access_log;
mod activity;
mod admin;
mod admin_access;
mod admission;
mod answer_format;
mod api_keys;
mod body;
mod certificate_expiry;
mod compression;
mod connection;
mod connection_threads;
mod connections;
mod console;
mod console_data;
mod content_coding;
mod context;
mod cors;
mod decoded_body;
mod docs;
mod documents;
mod error_response;
mod exposition;
mod feedback;
mod file_watch;
mod grpc;
mod http2;
mod invocations;
mod json_answer;
mod listener;
mod models;
mod openapi;
mod operations;
mod operator_request;
mod path_prefix;
mod poll_again;
mod predict;
mod request_layer;
mod request_report;
mod request_span;
mod rollouts;
mod sockets;
mod spinning;
mod stack;
mod stream;
mod tensorflow;
mod tls;
mod trace_context;
mod try_out;
mod v2;

/// The readers of bodies, for the fuzz targets of `fuzz/`.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing {
    pub(crate) use super::v2::read_inference as v2_inference;
}

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use self::access_log::AccessLog;
pub use self::api_keys::ApiKeys;
pub use self::connection_threads::ConnectionThreads;
pub use self::connections::{ConnectionTimeouts, Places};
use self::documents::Documents;
pub use self::exposition::{Exposition, compress};
pub use self::listener::{Listener, ListenerLimits, places};
pub use self::path_prefix::check as check_path_prefix;
pub use self::sockets::BoundAddresses;
pub use self::stack::{admin, data};
pub use self::tls::Tls;
use crate::budget::{BlockingThreads, MemoryBudget, StageCost};
use crate::config::{Config, CorsConfig, HealthConfig, PathPrefix, Route, Token};
use crate::deploy::Deployer;
use crate::feedback::Feedback;
use crate::monitor::Monitor;
use crate::prediction_log::PredictionLog;
use crate::registry::Catalog;
use crate::rollout::Rollouts;
use crate::serve::ShadowQueue;
use crate::telemetry::Tracer;

/// State that the handlers share.
#[derive(Debug)]
pub struct HttpState {
    /// The served models.
    pub catalog: Arc<Catalog>,
    pub deployer: Arc<Deployer>,
    /// Carries out rollouts.
    pub rollouts: Arc<Rollouts>,
    /// Token of operators, if one is configured.
    pub admin_token: Option<Token>,
    /// Judges and counts the feedback on predictions.
    pub feedback: Arc<Feedback>,
    /// Monitor, which records the metrics.
    pub monitor: Arc<Monitor>,
    /// Readiness of the server for new requests.
    pub readiness: Arc<Readiness>,
    /// Another path of predictions of the default model, and of readiness, as the configuration says.
    pub predict_route: Option<Route>,
    pub health_route: Option<Route>,
    /// Maximum size of a prediction body, in bytes.
    pub body_limit: NonZeroUsize,
    /// Settings for the detection of runs that do not end.
    pub health: HealthConfig,
    /// Maximum size of a feedback body, in bytes.
    pub feedback_body_limit: NonZeroUsize,
    /// Memory for the bodies and responses of the data listener.
    pub body_memory: MemoryBudget,
    /// Renders the metrics for `GET /metrics`.
    pub exposition: Exposition,
    /// True if the data listener serves metrics.
    pub metrics_for_clients: bool,
    /// True if the log has the ids of traces.
    pub logs_traces: bool,
    /// The access log, if it is on.
    pub access_log: Option<Arc<AccessLog>>,
    /// Makes spans of requests, if that is on.
    pub tracer: Option<Arc<Tracer>>,
    /// Scheme of the URLs of the data listener.
    pub scheme: &'static str,
    /// The prediction log, if it is on.
    pub prediction_log: Option<Arc<PredictionLog>>,
    /// API keys of the data listener, if any are configured.
    pub api_keys: Option<Arc<ApiKeys>>,
    /// Web pages that may send requests to the data listener.
    pub cors: CorsConfig,
    /// Path below which the routes of the data listener exist, too.
    pub path_prefix: Option<PathPrefix>,
    /// True if answers of the data listener are compressed for clients that accept it.
    pub compression: bool,
    /// Measured cost of compressing an answer.
    pub compression_cost: StageCost,
    /// Threads for heavy stages, which would block the threads that serve connections for too long.
    pub blocking_threads: BlockingThreads,
    /// Measured cost of judging feedback, which also runs on the threads for heavy stages.
    pub feedback_cost: StageCost,
    documents: Documents,
    /// Copies of requests for versions with shadow traffic.
    pub shadows: Arc<ShadowQueue>,
    /// The same of decompressing messages.
    pub decompression_cost: StageCost,
}

impl HttpState {
    /// Returns the state of the handlers for a configuration.
    pub fn new(
        config: &Config,
        api_keys: Option<Arc<ApiKeys>>,
        rollouts: Arc<Rollouts>,
        feedback: Arc<Feedback>,
        monitor: Arc<Monitor>,
        access_log: Option<Arc<AccessLog>>,
    ) -> HttpState {
        let Config { http: config, admin, health, log, .. } = config;
        let body_memory = MemoryBudget::new(config.body_memory(), config.connection_limit);
        monitor.server().watch_body_memory(body_memory.clone());
        let exposition = Exposition::new(Arc::clone(&monitor), config.metrics_max_age(), body_memory.clone());
        let readiness = Arc::new(Readiness { ready: AtomicBool::new(false), monitor: Arc::clone(&monitor) });
        HttpState {
            catalog: Arc::clone(rollouts.catalog()),
            deployer: Arc::clone(rollouts.deployer()),
            rollouts,
            admin_token: admin.token.clone(),
            feedback,
            monitor,
            readiness,
            predict_route: config.predict_route.clone(),
            health_route: config.health_route.clone(),
            body_limit: config.body_limit_bytes,
            health: health.clone(),
            feedback_body_limit: config.feedback_body_limit_bytes,
            exposition,
            body_memory,
            metrics_for_clients: config.metrics,
            logs_traces: log.traceparent,
            access_log,
            tracer: None,
            scheme: if config.tls.is_off() { "http" } else { "https" },
            prediction_log: None,
            api_keys,
            compression: config.compression,
            compression_cost: StageCost::default(),
            cors: config.cors.clone(),
            path_prefix: config.path_prefix.clone(),
            blocking_threads: BlockingThreads::new(config.threads()),
            feedback_cost: StageCost::default(),
            documents: Documents::default(),
            shadows: Arc::new(ShadowQueue::start()),
            decompression_cost: StageCost::default(),
        }
    }

    /// Makes spans of requests.
    pub fn with_tracer(self, tracer: Option<Arc<Tracer>>) -> HttpState {
        HttpState { tracer, ..self }
    }

    /// Logs predictions.
    pub fn with_prediction_log(self, prediction_log: Option<Arc<PredictionLog>>) -> HttpState {
        HttpState { prediction_log, ..self }
    }
}

/// Readiness of this server for new requests. A server that is not ready still responds, but closes each connection
/// after the response.
#[derive(Debug)]
pub struct Readiness {
    ready: AtomicBool,
    monitor: Arc<Monitor>,
}

impl Readiness {
    /// Sets the readiness of the server, also in the metrics.
    pub fn set(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
        self.monitor.server().set_ready(ready);
    }

    /// Returns true if the server is ready for new requests.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}
