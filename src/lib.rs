//! Leeway serves ONNX models over HTTP: `POST /predict` with JSON runs a
//! `Preprocessor → OnnxModel → Postprocessor` pipeline on ONNX Runtime, on CPU or CUDA.
//!
//! This page is the map of the house. The `README.md` is for users; `docs/` has the references.
//!
//! # How a request flows
//!
//! ```text
//! socket → http (accept, tower stack: request id, access, admission from the head) → serve (admit, infer)
//!        → http (read and decode the body) → pipeline: preprocess → model (admission → queue → batch → session)
//!        → pipeline: postprocess → http (encode the answer) → monitor → socket
//! ```
//!
//! and, off the request path,
//!
//! ```text
//! repository (models and versions at rest) → registry (verify, try out, load, warm up) → deploy (who gets traffic) → Catalog (immutable snapshot)
//! ```
//!
//! A request takes one version out of the catalog's snapshot and keeps it until it is answered; nothing it reads can
//! change under it. A new version becomes visible by publishing a new snapshot, never by changing one.
//!
//! The whole request is on two screens: `serve/admit.rs` and `serve/infer.rs`. Start reading there.
//!
//! # Where time is decided
//!
//! A request carries a [`StageClock`](budget::StageClock) with its [`LatencyBudget`](budget::LatencyBudget) from its head
//! to its answer. What is done with the time that is left is decided by pure functions in [`model`]: whether a request is
//! let in ([`model::admit`]), in which order ([`model::turn`]), and what goes into the next batch ([`model::plan`]), all
//! from what was learned of the model's runs ([`model::ServiceTime`]). The queue and its workers only carry it out.
//!
//! # Who shares a run
//!
//! Requests are run together only if the answer to a row does not depend on the others. Before a version serves, rows are
//! run alone and with others, and the answers are compared ([`model::compare`]); [`model::run_sharing`] says what follows
//! of that and of
//! `model.toml`, and [`model::Sharing`] holds it for the queue and the workers.
//!
//! # Where traffic is decided
//!
//! A [`Deployment`](api::admin::Deployment) divides the traffic of a model; [`Deployment::after`](api::admin::Deployment::after) is
//! the next one, and [`TrafficSplit::pick`](traffic::TrafficSplit::pick) says which version a key meets. What should be in
//! memory is decided by [`deploy::wanted`] and [`deploy::reconcile`]. The [`Deployer`](deploy::Deployer) only carries it
//! out: load what a change needs, write it to the [`Journal`](deploy::Journal), publish a snapshot, in this order.
//!
//! # The rooms, ground floor first
//!
//! | room | holds | knows nothing of |
//! |---|---|---|
//! | [`identity`] | names of models, versions, digests: parsed once | everything |
//! | [`machine`] | the memory and threads that the machine leaves to this process, and the process itself | everything |
//! | [`traffic`] | shares of the traffic, and the version for a key | HTTP, what is loaded |
//! | [`stage`] | the stages' names, and how long each took | everything |
//! | [`error`] | errors, split by who may see them; each has a kind, and says what to change | HTTP |
//! | [`feature`] | the numbers and texts of rows that drift is measured on, and how sure a prediction is | models, JSON |
//! | [`tensor`] | element types, shapes, tensors, signatures | ONNX Runtime, JSON |
//! | [`budget`] | divides a request's time, times its stages, ends it when its time runs out; takes heavy stages off the threads that serve connections; bounds the bytes that are held for callers | HTTP, models |
//! | [`config`] | file + environment + flags → validated [`Config`](config::Config); `model.toml` | everything above it |
//! | [`monitor`] | metrics, each declared in the file that counts it; per-thread counters; the numbers of a version as a read model | HTTP, models |
//! | [`model`] | learned service times, admission, a bounded queue, the batch policy, whether rows are independent, workers that own sessions, sessions in processes of their own | HTTP, pipelines, the registry |
//! | [`pipeline`] | the stages, a folder for each kind of data: JSON (or an image) → tensors, tensors → predictions; what rows were made of goes from the one to the other | HTTP, the registry |
//! | [`repository`] | models and versions at rest: the trait of a store, manifests, digests, examples, and what an ONNX file says | models in memory |
//! | [`registry`] | models in memory: the trial load and what it finds, rehearsals of stages, the loader; the catalog | HTTP, traffic's reasons |
//! | [`authoring`] | makes versions: adds one, makes its baseline and its examples | HTTP, servers |
//! | [`api`] | the requests and answers of the HTTP APIs, as types that handlers write and commands read; the table of endpoints | axum, how any of it is done |
//! | [`deploy`] | deployments, their journal, what to load and retire, and doing it | HTTP |
//! | [`feedback`] | joins true outcomes to predictions; the ids of predictions; what was counted already | HTTP |
//! | [`state`] | the journal and the ledger, in memory and in SQLite | HTTP |
//! | [`serve`] | one prediction, from its head to its output: instances, media or named tensors in, predictions or named tensors out | HTTP, wire formats |
//! | [`http`] | listeners and drain, the tower stack, handlers, wire formats, error → response | |
//! | [`app`] | the composition root: every room built from a `Config` | |
//! | [`cli`] | one file per subcommand; exit codes | |
//!
//! Rooms look down this table only. `tests/layers` holds that, that no two files import each other, that files and
//! functions are short or give a reason, and the rest of the walls: `ort` only in
//! `model/onnx.rs`; `axum`, `hyper` and `tower` only in `http/`; `prometheus` only in `monitor/text.rs`; SQL only in
//! `state/`; the repository is read by `deploy/` only in `repository_view.rs`, and in `offline.rs`, for a server that is not running;
//! environment variables only in `config/`; what is sent as JSON is declared in `api/`, and no command indexes it by name.
//!
//! # What is deliberately absent
//!
//! - No stage is a `tower::Service`: a fixed sequence needs no readiness. A stage contains no metric, no lock, and no
//!   clock except the deadline that it is given; [`budget::StageClock`] times and bounds all of them in one place.
//! - Recording a prediction looks no metric up by its labels, and takes no lock that another model's requests take.
//! - No `serde_json::Value` is built on the way in: numbers go from their text into the tensor's buffer.
//! - No session is shared between threads. A worker owns its session and pulls batches from the queue: it takes what is
//!   waiting when it becomes free, so batches grow by themselves under load and a lone request waits for nobody.
//! - No thread watches for deadlines: a request that gives up (its timer, its client) takes itself out of the queue, and
//!   ends the run if it was the last that waited for it.
//! - No answer depends on who else asks, unless `model.toml` says `batching = "always"`.
//! - No model is loaded from a path: sessions are opened on the bytes that were hashed, and no path in a model reaches a file.
//! - No lock is held while something is loaded or read from disk, so a rollback never waits for a load.
//! - No version is retired before its replacement serves, and no model waits for the load of another.
//! - No unbounded queue, body, label or wait.
//!
//! # Life and death
//!
//! Start: parse → validate → take the ports → load and warm up → listen → ready. Stop: not ready → serve on, asking clients
//! to close, for the deregistration delay → serve the backlog, no new connections → finish what is in flight within the
//! grace period → workers end → exit 0. See [`app::BoundApp::run`].
//!
//! # A stage of your own
//!
//! Implement [`pipeline::Preprocessor`] or [`pipeline::Postprocessor`], register it by name with
//! [`pipeline::Stages`], and name it in `model.toml`: `examples/custom_stage.rs` does all three, and is a `leeway` with
//! these stages, by [`cli::main_with`].

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
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod http;
pub mod identity;
pub mod machine;
pub mod model;
pub mod monitor;
pub mod pipeline;
pub mod registry;
pub mod repository;
pub mod serve;
pub mod stage;
pub mod state;
pub mod tensor;
pub mod traffic;
