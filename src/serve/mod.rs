//! Predictions, independent of the protocol.
//!
//! Admission (`admit.rs`) reads only the head of a request: it finds the version and the latency budget, and decides
//! whether the request can be answered in time. Inference (`infer.rs`) receives the body and runs the stages. Read
//! these two from top to bottom.
//!
//! A protocol decodes a body to an [`Input`] and encodes an [`Output`]. Decoding is a part of preprocessing, and
//! encoding of postprocessing; each runs on the same thread as its stage. Inference does not depend on a wire format.
//!
//! - `chain.rs` runs the steps of a chain, each as a request to its own version.
//! - `steps.rs` has what admission and inference know of the steps of a chain.
//! - `named_tensors.rs` reads named tensors as inputs of the model, and `pipeline_columns.rs` as columns of the pipeline.
//!   `prediction_columns.rs` turns predictions into columns.
//! - `request_notes.rs` has the facts about a request that the access log and its spans need.
//! - `shadow_queue.rs` keeps copies of requests for a version with shadow traffic, `shadow_run.rs` runs them, and
//!   `answer_comparison.rs` compares the answers.
//! - `describe.rs` describes models and their statistics, as the Open Inference Protocol does over REST and gRPC.

#![warn(missing_docs)]

mod admit;
mod answer_comparison;
mod chain;
mod describe;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod infer;
mod input;
mod named_tensors;
mod pipeline_columns;
mod prediction_columns;
mod request_notes;
mod shadow_queue;
mod shadow_run;
mod steps;

pub use self::admit::{Admitted, Head, RequestOrigin, admit};
pub use self::describe::{Reasons, check_ready, model_config, model_metadata, repository_index, statistics};
pub use self::infer::{Answer, Arriving};
pub use self::input::{Content, Elements, EncodedRequest, Input, NamedInput, NamedOutput, NamedRequest, Output};
pub use self::prediction_columns::{ColumnSpec, PREDICTION, PREDICTION_ID, column_specs, prediction_columns};
pub use self::request_notes::{NotedFacts, NotedWork, RequestNotes};
pub use self::shadow_queue::ShadowQueue;
pub use self::steps::StepTimings;
