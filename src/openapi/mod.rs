//! The OpenAPI 3.1 documents of both listeners, made from the types of `api`, its table of endpoints, and the served models.
//!
//! - `data.rs` and `admin.rs` document the endpoints of a listener, one arm per endpoint. Document a new endpoint there.
//! - `operation.rs` is the documentation of an endpoint, `predictions.rs` what endpoints for predictions have in common;
//!   `failures.rs` has the responses to requests that fail.
//! - `wire_types.rs` makes schemas of the types of `api`.
//! - `served_models.rs` adds a typed path for each served model; `model_schema.rs` has the schemas of a version.
//! - `document.rs` puts a document together.
//!
//! The schemas are those of what `serde` writes and reads; a test validates real responses against them.

#![warn(missing_docs)]

mod admin;
mod data;
mod document;
mod failures;
mod model_schema;
mod operation;
mod predictions;
mod served_models;
mod wire_types;

pub use self::admin::admin;
pub use self::data::data;
pub use self::model_schema::model_schema;
