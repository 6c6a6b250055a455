//! The requests and responses of the HTTP APIs, as plain types that the handlers and the commands of `leeway` share.
//!
//! - `routes.rs` is the table of endpoints of both listeners.
//! - `admin.rs` has every request and response of the admin API.
//! - `console.rs` has the responses that only a console reads.
//! - `feedback.rs` has the request with feedback and its response.
//! - `models.rs` has the views of the served models, and `health.rs` those of the server.
//! - `v2/` has the requests and responses of the Open Inference Protocol.
//! - `tensorflow.rs` has the view of a model that clients of TensorFlow Serving read.
//! - `schema.rs` has the schemas of the instances and predictions of a version.
//! - `problem.rs` is the response to a request that failed.
//! - `rollout.rs` has those of rollouts.
//! - `time.rs` has the schema of a time.
//! - `ignore_unknown_members.rs` reads responses of newer servers.
//!
//! Unknown members of responses are ignored, so that a command can talk to a newer server. Unknown members of requests
//! are refused, because a misspelt member would otherwise be ignored in silence. Some types that occur in responses,
//! such as the manifest or the drift of a feature, are defined in other modules. Predictions are written by
//! `http/json_answer.rs`; there is no type for reading them.
//!
//! This module depends neither on axum nor on the code that handles the requests.

#![warn(missing_docs)]

pub mod admin;
pub mod console;
pub mod feedback;
pub mod health;
mod ignore_unknown_members;
pub mod models;
pub mod problem;
pub mod rollout;
pub mod routes;
pub mod schema;
pub mod tensorflow;
#[cfg(test)]
mod tests;
mod time;
pub mod v2;
