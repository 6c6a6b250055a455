//! Leeway from the outside: a real server, real models, real clients.

mod harness;

mod bad_input;
mod golden;
mod lifecycle;
mod metrics;
mod startup;
mod tensors;
mod wire;
