//! Leeway.
pub mod app;
pub mod budget;
pub mod cli;
pub mod config;
pub mod error;
pub mod http;
pub mod identity;
pub mod model;
pub mod monitor;
pub mod pipeline;
pub mod registry;
pub mod serve;
pub mod tensor;
