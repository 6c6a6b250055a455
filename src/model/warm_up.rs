//! The first runs of a model, before anybody waits for one: whether it runs at all, and what its runs take.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::{BatchPolicy, RunRows};
use super::service_time::ServiceTime;
use super::session::Session;
use crate::error::Result;
use crate::tensor::{Data, Dim, Element, Shape, Signature, Tensor, TensorSpec, Tensors, with_element_type};

/// How long measuring may take. A run that has begun is waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often each size is run.
const RUNS: usize = 3;

/// Runs a session that is warm on zeros, from one row to a full batch, and learns what that takes, so that the first
/// requests are not admitted blindly. Large sizes are left out if there is no time for them.
pub fn measure(session: &mut dyn Session, signature: &Signature, policy: BatchPolicy) -> Result<ServiceTime> {
    let mut service = ServiceTime::default();
    let begin = Instant::now();
    for rows in sizes(policy) {
        let inputs = zeros(signature, rows);
        for _ in 0..RUNS {
            if begin.elapsed() >= PATIENCE {
                return Ok(service);
            }
            let run = Instant::now();
            session.run(&inputs)?;
            service.observe(rows, run.elapsed());
        }
    }
    Ok(service)
}

/// One row, then twice as many, up to a full batch.
fn sizes(policy: BatchPolicy) -> impl Iterator<Item = usize> {
    let most = policy.most_rows();
    let first = match policy.run_rows {
        RunRows::Exactly(rows) => rows.get(),
        RunRows::UpTo(_) => 1,
    };
    let doubled = std::iter::successors(Some(first), |rows| rows.checked_mul(2));
    doubled.take_while(move |rows| *rows < most).chain([most])
}

/// Inputs of zeros, `false` or empty strings that fit a signature, for a warm-up. Dimensions the model leaves
/// open are 1.
pub fn zeros(signature: &Signature, rows: usize) -> Tensors {
    fn fill<T: Element + Default>(elements: usize) -> Data {
        T::into_data(vec![T::default(); elements])
    }
    let input = |spec: &TensorSpec| {
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
