//! Makes a model of an ONNX file, or of a folder of Hugging Face, MLflow or Ultralytics: a commented `model.toml` and
//! version 1.
//!
//! - `model_files.rs` finds the ONNX file and the files beside it; `hugging_face.rs`, `image_processor.rs` and
//!   `mlflow.rs` read those.
//! - `evidence.rs` is everything that is known about a model. `decide.rs` makes proposals from it, with `inputs.rs` for
//!   the preprocessor and `outputs.rs` for the postprocessor; `proposal.rs` writes one as `model.toml`. These are pure.
//! - `make.rs` tries the proposals out, and makes the model from the first that runs.
//!
//! A guess that would change answers in silence is not made: where the evidence does not show how data are prepared or
//! outputs are read, the stages are `tensor`, which take and answer the model's own tensors.

mod decide;
mod evidence;
mod hugging_face;
mod image_processor;
mod inputs;
mod make;
mod mlflow;
mod model_files;
mod outputs;
mod proposal;
#[cfg(test)]
mod tests;

pub use self::make::{Draft, ModelToMake, Tools, draft};
