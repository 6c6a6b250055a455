//! What the model room asks of a runtime: to load a file, and to open sessions that run batches.
//!
//! `onnx.rs` implements these with ONNX Runtime; tests wrap that to make a session panic or wait.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use crate::config::{Provider, SessionConfig};
use crate::error::Result;
use crate::tensor::{Data, Dim, Element, Shape, Signature, Tensor, Tensors, with_element_type};

/// A runtime that loads models.
pub trait Engine: Debug + Send + Sync {
    /// The runtime's version.
    fn version(&self) -> &str;

    /// Reads a model file and decides which execution provider will run it.
    fn load(&self, file: &Path, config: &SessionConfig) -> Result<Arc<dyn LoadedModel>>;
}

/// A model file that sessions can be opened on.
pub trait LoadedModel: Debug + Send + Sync {
    /// What the model takes and gives.
    fn signature(&self) -> &Signature;

    /// The execution provider of its sessions.
    fn provider(&self) -> Provider;

    /// A new session. One is opened per worker, and again when a worker has panicked.
    fn open(&self) -> Result<Box<dyn Session>>;
}

/// Ends the run that a session is in, and every later one, from any thread.
pub type Interrupt = Arc<dyn Fn() + Send + Sync>;

/// Runs batches, one at a time, on the thread that owns it.
pub trait Session: Send {
    /// A handle that ends this session's runs.
    fn interrupt(&self) -> Interrupt;

    /// Runs the model on inputs that fit its signature and gives every output that is a tensor.
    fn run(&mut self, inputs: &Tensors) -> Result<Tensors>;
}

/// Inputs of zeros, `false` or empty strings that fit a signature, for a warm-up. Dimensions the model leaves
/// open are 1.
pub fn zeros(signature: &Signature, rows: usize) -> Tensors {
    fn fill<T: Element + Default>(elements: usize) -> Data {
        T::into_data(vec![T::default(); elements])
    }
    let input = |spec: &crate::tensor::TensorSpec| {
        let length = |(index, dim): (usize, &Dim)| match dim {
            Dim::Fixed(length) => *length,
            Dim::Dynamic(_) if index == 0 => rows,
            Dim::Dynamic(_) => 1,
        };
        let shape: Shape = spec.dims.iter().enumerate().map(length).collect();
        let elements = shape.iter().product();
        let data = with_element_type!(spec.dtype, T => fill::<T>(elements));
        Tensor::new(shape, data).ok().map(|tensor| (Arc::clone(&spec.name), tensor))
    };
    signature.inputs.iter().filter_map(input).collect()
}
