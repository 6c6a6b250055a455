//! Interface of a runtime: it loads a model, and opens sessions that run batches.
//!
//! `onnx.rs` implements it with ONNX Runtime; tests wrap that implementation to make a session panic or wait.

#![warn(missing_docs)]

use std::fmt;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
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

    /// Returns the same model after the engine has optimised it, if that was verified. The engine opens sessions on it
    /// instead of the bytes.
    fn optimised(&self) -> Option<&OptimisedGraph> {
        None
    }
}

/// A model after an engine has optimised it: its graph, and its weights as they are arranged for this processor, in files that
/// only the engine has written. The engine may map them into memory, where all sessions share them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptimisedGraph {
    folder: PathBuf,
}

impl OptimisedGraph {
    /// The graph in this folder.
    pub fn in_folder(folder: &Path) -> OptimisedGraph {
        OptimisedGraph { folder: folder.to_owned() }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// File of the graph.
    pub(super) fn graph(&self) -> PathBuf {
        self.folder.join("graph.onnx")
    }

    /// Name of the file of the weights, in the same folder.
    pub(super) const WEIGHTS: &str = "weights.bin";
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
