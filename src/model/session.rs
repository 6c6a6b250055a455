//! Interface of a runtime: it loads a model, and opens sessions that run batches.
//!
//! `onnx.rs` implements it with ONNX Runtime; tests wrap that implementation to make a session panic or wait.

#![warn(missing_docs)]

use std::fmt;
use std::fmt::Debug;
use std::sync::Arc;

use crate::config::{Provider, SessionConfig};
use crate::error::{Result, SetupError};
use crate::tensor::{Signature, Tensors};

/// A runtime that loads models.
pub trait Engine: Debug + Send + Sync {
    /// The runtime's version.
    fn version(&self) -> &str;

    /// Loads a model and decides which execution provider will run it.
    fn load(&self, source: Arc<dyn ModelSource>, config: &SessionConfig) -> Result<Arc<dyn LoadedModel>, SetupError>;
}

/// Source of a model's bytes. Sessions are opened on bytes and never on a path, so that exactly the verified bytes are
/// run.
pub trait ModelSource: Debug + Send + Sync {
    /// Returns the verified bytes. Called again when a session is opened later, so that the bytes need not be kept in
    /// memory.
    fn read(&self) -> Result<Arc<ModelBytes>, SetupError>;
}

/// A model in memory.
#[derive(PartialEq, Eq)]
pub struct ModelBytes {
    /// The ONNX file.
    pub model: Arc<[u8]>,
    /// The external files with the model's weights, each with the location under which the model refers to it.
    pub external: Vec<(String, Arc<[u8]>)>,
}

/// A model that sessions can be opened on.
pub trait LoadedModel: Debug + Send + Sync {
    /// The inputs and outputs of the model.
    fn signature(&self) -> &Signature;

    /// The execution provider of its sessions.
    fn provider(&self) -> Provider;

    /// Returns true if its sessions run in this process, and can be ended between two operators.
    fn is_in_process(&self) -> bool {
        false
    }

    /// Opens a new session: one per worker, and another one after a worker has panicked.
    fn open(&self) -> Result<Box<dyn Session>, SetupError>;
}

/// Ends a session's runs, from any thread.
pub trait Interrupt: Send + Sync {
    /// Ends the session's current run, and every later one.
    fn end_runs(&self);

    /// Allows runs of the session again. Not called during a run.
    fn allow_runs(&self);
}

/// Session of a loaded model. Runs batches, one at a time, on the thread that owns the session.
pub trait Session: Send {
    /// A handle that ends this session's runs.
    fn interrupt(&self) -> Arc<dyn Interrupt>;

    /// Runs the model on inputs that fit its signature and returns every output that is a tensor.
    fn run(&mut self, inputs: &Tensors) -> Result<Tensors>;
}

impl Debug for ModelBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelBytes").field("model", &self.model.len()).finish_non_exhaustive()
    }
}
