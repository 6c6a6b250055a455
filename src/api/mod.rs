//! The requests and answers of the HTTP APIs, as plain types: the handlers write them, and the commands of `leeway` read them.
//!
//! - `routes.rs` is the table of endpoints of both listeners.
//! - `admin.rs` has every request and answer of the admin API.
//! - `feedback.rs` has the answer to feedback.
//! - `models.rs` has the views of what is served, and `health.rs` those of the server.
//! - `problem.rs` is the answer to everything that fails.
//! - `ignore_unknown_members.rs` reads answers of newer servers.
//!
//! Answers are read with members that are not known yet, so that a command can ask a newer server. Requests are not: a
//! misspelt member would be left out in silence. A manifest and the drift of a feature are types of their own modules, which
//! answers here contain. Predictions, which are many, are written by `http/json_answer.rs` and have no type to be read as.
//!
//! This room knows nothing of axum, and nothing of how any of this is done.

#![warn(missing_docs)]

pub mod admin;
pub mod feedback;
pub mod health;
mod ignore_unknown_members;
pub mod models;
pub mod problem;
pub mod routes;
#[cfg(test)]
mod tests;
