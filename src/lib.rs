//! Leeway serves ONNX models over HTTP: `POST /predict` with JSON runs a
//! `Preprocessor → OnnxModel → Postprocessor` pipeline on ONNX Runtime, on CPU or CUDA.
//!
//! This page describes the structure of the source. The `README.md` is for users; `docs/` has the references.
//!
//! # Path of a request
//!
//! ```text
//! socket → http (accept, tower stack: request id, access, admission from the head) → serve (admit, infer)
//!        → http (read and decode the body) → pipeline: preprocess → model (admission → queue → batch → session)
//!        → pipeline: postprocess → http (encode the answer) → monitor → socket
//! ```
//!
//! Off the request path:
//!
//! ```text
//! repository (models and versions at rest) → registry (verify, try out, load, warm up)
//!            → deploy (traffic split) → Catalog (immutable snapshot)
//! ```
//!
//! A request takes one version from the catalog's snapshot and keeps it until it is answered; nothing that it reads
//! changes meanwhile. A new version becomes visible by publishing a new snapshot, never by changing one.
//!
//! Start reading at `serve/admit.rs` and `serve/infer.rs`, which contain the whole path of a request.
//!
//! # Decisions about time
//!
//! A request carries a [`StageClock`](budget::StageClock) with its [`LatencyBudget`](budget::LatencyBudget) from its
//! head to its answer. Pure functions in [`model`] decide how the remaining time is used: admission of a request
//! ([`model::admit`]), the order of the queue ([`model::turn`]), and the next batch ([`model::plan`]). All of them use
//! the learned durations of the model's runs ([`model::ServiceTime`]). The queue and its workers only carry out the
//! decisions.
//!
//! # Chains
//!
//! A chain ([`config::Chain`]) is a model that runs other models in order. Its version has no pipeline of its own
//! ([`registry::Work`]). `serve/chain.rs` runs its steps, each as a request to another version, under one deadline.
//! Whenever a snapshot is published, [`registry::chain_problems`] decides which chains can be served.
//!
//! # Requests that share a run
//!
//! Requests share a run only if the answer to a row does not depend on the other rows. Before a version serves, some
//! rows are run alone and then together with other rows, and the answers are compared ([`model::compare`]).
//! [`model::run_sharing`] decides from the result and from `model.toml`, and [`model::Sharing`] gives the decision to
//! the queue and the workers.
//!
//! # Decisions about traffic
//!
//! A [`Deployment`](api::admin::Deployment) divides the traffic of a model.
//! [`Deployment::after`](api::admin::Deployment::after) makes the next deployment, and
//! [`TrafficSplit::pick`](traffic::TrafficSplit::pick) chooses the version for a routing key. [`deploy::wanted`] and
//! [`deploy::reconcile`] decide which versions should be loaded. The [`Deployer`](deploy::Deployer) only carries out
//! the change, in this order: it loads the versions that the change needs, writes the change to the
//! [`Journal`](deploy::Journal), and publishes a snapshot.
//!
//! # The modules, lowest layer first
//!
//! | module | contents | does not know |
//! |---|---|---|
//! | [`identity`] | names of models, versions, digests: parsed once | the other modules |
//! | [`machine`] | the memory and threads that the machine leaves to this process, and the process itself | the other modules |
//! | [`traffic`] | traffic splits, and the version for a routing key | HTTP, loaded versions |
//! | [`stage`] | names and durations of the stages | the other modules |
//! | [`error`] | errors, divided by audience; each has a kind and a remedy | HTTP |
//! | [`feature`] | the numbers and texts of rows that drift is measured on, and the certainty of predictions | models, JSON |
//! | [`tensor`] | element types, shapes, tensors, signatures | ONNX Runtime, JSON |
//! | [`budget`] | divides a request's time over its stages, measures the stages, ends the request at its deadline; moves heavy stages off the threads that serve connections; bounds the bytes that are held for callers | HTTP, models |
//! | [`config`] | file + environment + flags → validated [`Config`](config::Config); `model.toml` | higher layers |
//! | [`monitor`] | metrics, each declared in the file that counts it; per-thread counters; the numbers of a version as a read model | HTTP, models |
//! | [`telemetry`] | traces: which requests are sampled, their spans, and the export of spans over OTLP off the request path | HTTP, models |
//! | [`model`] | learned service times, admission, a bounded queue, the batch policy, the check for independent rows, workers that own sessions, sessions in separate processes | HTTP, pipelines, the registry |
//! | [`pipeline`] | the stages, a folder for each kind of data: JSON (or columns, CSV, an image, sound, or a file) → tensors, tensors → predictions; facts about rows that preprocessors pass to postprocessors | HTTP, the registry |
//! | [`repository`] | models and versions at rest, in a folder or an object store: the trait of a store, the cache of downloaded files, manifests, digests, examples, the contents of ONNX files, and kinds of files | models in memory |
//! | [`registry`] | models in memory: trial loads and their findings, rehearsals of stages, the loader; the catalog | HTTP, reasons for traffic splits |
//! | [`authoring`] | makes models and versions: proposes a `model.toml` for a file, adds a version, makes its baseline and its examples | HTTP, servers |
//! | [`api`] | the requests and answers of the HTTP APIs, as types that handlers write and commands read; the table of endpoints | axum, the implementation |
//! | [`deploy`] | deployments, their journal, and the servers that share it; loads and retires versions | HTTP |
//! | [`feedback`] | joins true outcomes to predictions; prediction ids; detection of duplicates | HTTP |
//! | [`rollout`] | rising shares of a new version, which its own counters end: evidence, decisions, the controller | HTTP, SQL |
//! | [`state`] | the journal, the rollouts, the ledger and the list of replicas, in memory, in SQLite and in PostgreSQL | HTTP |
//! | [`prediction_log`] | a sample of the requests, with their predictions and later truths, as Parquet files | HTTP |
//! | [`serve`] | one prediction, from its head to its output: instances, media or named tensors in, predictions or named tensors out | HTTP, wire formats |
//! | [`openapi`] | the OpenAPI documents of both listeners, made from the types of `api` and the served models | HTTP |
//! | [`grpc`] | the Open Inference Protocol over gRPC: messages, framing, error → status | HTTP |
//! | [`http`] | listeners and drain, the tower stack, handlers, wire formats, error → response | |
//! | [`app`] | the composition root: every module built from a `Config` | |
//! | [`cli`] | one file per subcommand; exit codes | |
//!
//! A module uses only modules that come before it in this table. `tests/layers` checks this order. It also checks that
//! no two files import each other, that long files and functions give a reason for their length, and these boundaries:
//! `ort` only in `model/onnx.rs` and `model/onnx/`; `axum`, `hyper` and `tower` only in `http/`; `tonic` only in
//! `grpc/`; `prometheus` only in `monitor/text.rs`; SQL only in `state/`; `deploy/` reads the repository only in
//! `repository_view.rs`, and in `offline.rs` for a server that is not running; environment variables only in `config/`;
//! JSON answers are declared in `api/`, and no command indexes them by name.
//!
//! # Deliberate omissions
//!
//! - No stage is a `tower::Service`: a fixed sequence needs no readiness. A stage contains no metric, no lock, and no
//!   clock except its deadline; [`budget::StageClock`] times and bounds all of them in one place.
//! - Recording a prediction looks up no metric by its labels, and takes no lock that models share.
//! - Parsing instances builds no `serde_json::Value`: numbers go from their text into the tensor's buffer.
//! - A session makes one run at a time. Whoever has a free session takes the waiting requests, so batches grow under load
//!   and a lone request does not wait for others: a worker, or, where runs are very short, the thread of a request.
//! - A connection stays on one thread. A watchdog ends a run that holds such a thread for long.
//! - No thread watches for deadlines: a request that ends early (at its deadline, or because its client has left)
//!   removes itself from the queue, and cancels its run if no other request waits for the run.
//! - No answer depends on other requests, unless `model.toml` says `batching = "always"`.
//! - No model is loaded from a path: sessions are opened on the bytes that were hashed, and no path in a model reaches
//!   a file. Only `leeway add` copies files that a model names, from the folder of its ONNX file, before they are hashed.
//! - No library with operators of its own is loaded because a model asks for it: the configuration of the server allows it
//!   by its digest.
//! - No lock is held while something is loaded or read from disk, so a rollback never waits for a load.
//! - No version is retired before its replacement serves, and no model waits for the load of another.
//! - No queue, body, label or wait is unbounded.
//!
//! # Start and stop
//!
//! Start: parse → validate → bind the ports → load and warm up → listen → ready. Stop: not ready → still serve, asking
//! clients to close, for the deregistration delay → serve the backlog, no new connections → finish requests in flight
//! within the grace period → workers end → exit 0. See [`app::BoundApp::run`].
//!
//! # A stage of your own
//!
//! Implement [`pipeline::Preprocessor`] or [`pipeline::Postprocessor`], register it by name with
//! [`pipeline::Stages`], and name it in `model.toml`. `examples/custom_stage.rs` does all three, and builds a `leeway`
//! with these stages by [`cli::main_with`].

pub mod api;
pub mod app;
pub mod authoring;
pub mod budget;
pub mod cli;
pub mod config;
pub mod deploy;
pub mod error;
pub mod feature;
pub mod feedback;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod grpc;
pub mod http;
pub mod identity;
pub mod machine;
pub mod model;
pub mod monitor;
pub mod openapi;
pub mod pipeline;
pub mod prediction_log;
pub mod registry;
pub mod repository;
pub mod rollout;
pub mod serve;
pub mod stage;
pub mod state;
pub mod telemetry;
pub mod tensor;
pub mod traffic;
