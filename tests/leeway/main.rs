//! Tests of Leeway from the outside: a real server, real models, real clients.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod feedback;
mod gate;
mod harness;

mod access_log;
mod addresses;
mod api;
mod api_keys;
mod audio;
mod bad_input;
mod baseline;
mod budget;
mod bytes;
mod chain_limits;
mod chains;
mod changes;
mod classes;
mod clients;
mod collector;
mod command_line;
mod compare;
mod compression;
mod console;
mod cors;
// Requires fail points: `cargo test --features failpoints`, as `make test` does.
#[cfg(feature = "failpoints")]
mod crash;
mod custom_operators;
mod data_formats;
mod demo;
mod deployment;
mod detectors;
mod documentation;
mod drift;
mod first_run;
mod fleet;
mod golden;
mod grpc;
#[cfg(target_os = "linux")]
mod hanging_disk;
mod hostile;
mod hostile_stages;
mod images;
mod independence;
mod init;
mod inline_runs;
mod isolation;
mod kserve;
mod kubernetes;
mod lifecycle;
mod locale;
mod masks;
mod metrics;
mod mistaken_files;
mod model_files;
mod named_tensors;
mod object_storage;
mod onnx_nodes;
mod openapi;
mod overload;

mod predict;
mod prediction_log;
mod prediction_log_readers;
mod prometheus;
mod protocol_buffers;
mod proxies;
mod python;
mod release;
mod remembered;
mod repository;
mod request_forms;
#[cfg(feature = "failpoints")]
mod resources;
mod rollout;
mod rollouts;
mod s3_server;
mod several_answers;
mod shadow;
mod signatures;
mod signed_versions;
mod startup;
mod streaming;
mod stuck;
mod tables;
mod tensors;
mod texts;
mod time_of_day;
mod tls;
mod together;
mod traces;
mod v2;
mod versions;
mod wire;
mod zip_map;
