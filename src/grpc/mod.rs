//! The Open Inference Protocol over gRPC: messages, framing, and the table of statuses. `http/grpc/` has the handlers.
//!
//! - `proto/` has the messages, generated from the files in `/proto`, and their description for reflection.
//! - `framing.rs` has the frame of a message and the deadline of a call.
//! - `infer_head.rs` reads the fields of an inference that decide about its admission, `infer_request.rs` its tensors, and
//!   `infer_response.rs` writes the answer. They work on the encoding itself: an encoded message of a few megabytes can
//!   stand for gigabytes of messages in memory, and the elements of a tensor are copied only once.
//! - `typed_contents.rs` reads elements that are not sent raw.
//! - `fields.rs` iterates over the fields of an encoded message.
//! - `status.rs` is the only place where an error becomes a status of gRPC.
//! - `describe.rs` describes the server and its models.
//! - `reflection.rs` lets clients ask for the calls and messages.
//!
//! This module does not depend on HTTP.

mod describe;
mod fields;
mod framing;
mod infer_head;
mod infer_request;
mod infer_response;
pub mod proto;
mod reflection;
mod status;
mod typed_contents;

pub use self::describe::{
    health_of, model_config, model_metadata, model_statistics, repository_index, server_metadata, target,
};
pub use self::framing::{FRAME_HEAD, FrameHead, decode, encode, timeout};
pub use self::infer_head::InferHead;
pub use self::infer_request::read_tensors;
pub use self::infer_response::{AnswerForm, AnswerHead, infer_response};
pub use self::reflection::{reflection, reflection_alpha};
pub use self::status::{metadata_of_success, status};

/// Paths of the calls.
pub const INFERENCE_CALLS: &str = "/inference.GRPCInferenceService/{call}";
/// Path of `ModelInfer`.
pub const MODEL_INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
/// Path of `ModelStreamInfer`.
pub const MODEL_STREAM_INFER: &str = "/inference.GRPCInferenceService/ModelStreamInfer";
/// Path of the health check.
pub const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
/// Path of the health check that goes on.
pub const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";
/// Path of reflection.
pub const REFLECTION_CALLS: &str = "/grpc.reflection.v1.ServerReflection/{*call}";
/// Path of reflection in its first form.
pub const REFLECTION_ALPHA_CALLS: &str = "/grpc.reflection.v1alpha.ServerReflection/{*call}";
