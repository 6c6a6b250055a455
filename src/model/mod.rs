//! Running one version of a model: a bounded queue, and workers that own sessions.
//!
//! A request's tensors enter the queue (`queue.rs`). A worker that becomes free takes what is waiting, up to
//! the batch limit (`batch.rs` decides), runs it as one batch and answers each request (`worker.rs`). So
//! batches grow by themselves under load, and a lone request never waits for company. `session.rs` says what
//! a runtime has to offer; `onnx.rs` is the only file that names ONNX Runtime.
//!
//! This room knows nothing of HTTP, of pipelines or of the registry.

mod batch;
pub mod onnx;
mod queue;
mod session;
mod worker;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::oneshot;

pub use self::batch::{BatchPolicy, RunRows};
use self::queue::{Attention, Job, Queue, Taken, spin_until};
pub use self::session::{Engine, LoadedModel, Session, zeros};
use self::worker::Worker;
use crate::budget::{Deadline, Waited};
use crate::config::{Provider, SessionConfig};
use crate::error::{Error, Result};
use crate::monitor::VersionRecorder;
use crate::tensor::{Signature, Tensors};

/// A loaded version that takes requests.
#[derive(Debug)]
pub struct OnnxModel {
    signature: Signature,
    provider: Provider,
    policy: BatchPolicy,
    queue: Arc<Queue>,
    workers: Mutex<Vec<JoinHandle<()>>>,
}

/// A request's place in the queue; awaiting it gives the model's outputs.
#[derive(Debug)]
pub struct Ticket {
    reply: oneshot::Receiver<Result<(Tensors, Waited)>>,
    taken: Arc<Taken>,
    /// How the answer is best waited for, until that was tried once.
    attention: Attention,
}

impl OnnxModel {
    /// Starts the workers, each with a session that has been opened and warmed up already.
    pub fn start(
        name: &str,
        loaded: &Arc<dyn LoadedModel>,
        sessions: Vec<Box<dyn Session>>,
        config: &SessionConfig,
        recorder: &Arc<VersionRecorder>,
    ) -> Result<OnnxModel> {
        let signature = loaded.signature().clone();
        let policy = BatchPolicy::new(&signature, config.max_batch_size);
        let queue = Arc::new(Queue::new(config.queue_capacity, config.spin(), Arc::clone(recorder)));
        let model = OnnxModel {
            provider: loaded.provider(),
            signature,
            policy,
            queue: Arc::clone(&queue),
            workers: Mutex::default(),
        };
        for (index, session) in sessions.into_iter().enumerate() {
            let worker = Worker::new(session, Arc::clone(loaded), Arc::clone(&queue), policy, Arc::clone(recorder));
            let thread = std::thread::Builder::new()
                .name(format!("{name}-{index}"))
                .spawn(move || worker.run())
                .map_err(|error| Error::internal(format_args!("a worker thread could not be started: {error}")))?;
            model.workers.lock().push(thread);
        }
        Ok(model)
    }

    /// What the model takes and gives.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// The execution provider that is in use.
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.workers.lock().len()
    }

    /// The limits of a batch.
    pub fn policy(&self) -> BatchPolicy {
        self.policy
    }

    /// Puts a request's inputs into the queue. They must fit the signature, in its order.
    pub fn enqueue(&self, inputs: Tensors, deadline: Deadline) -> Result<Ticket> {
        self.check(&inputs)?;
        let (sender, reply) = oneshot::channel();
        let taken = Arc::new(Taken::default());
        let job = Job { inputs, deadline, entered: Instant::now(), taken: Arc::clone(&taken), reply: sender };
        let attention = self.queue.push(job)?;
        Ok(Ticket { reply, taken, attention })
    }

    /// Takes no further requests. Those that are waiting are still answered; then the workers end.
    pub fn retire(&self) {
        self.queue.close();
    }

    /// Whether all workers have ended.
    pub fn is_retired(&self) -> bool {
        self.workers.lock().iter().all(JoinHandle::is_finished)
    }

    fn check(&self, inputs: &Tensors) -> Result<()> {
        let declared = &self.signature.inputs;
        let fits = inputs.len() == declared.len()
            && inputs.iter().zip(declared).all(|((name, tensor), spec)| {
                *name == spec.name && tensor.dtype() == spec.dtype && tensor.rows() == inputs.rows()
            });
        if !fits {
            return Err(Error::internal("the preprocessor's tensors do not have the model's names, types and rows"));
        }
        self.policy.check(inputs.rows())
    }
}

impl Drop for OnnxModel {
    fn drop(&mut self) {
        self.retire();
    }
}

impl Ticket {
    /// Asks, at any later time, when a worker took the request.
    pub fn taken(&self) -> impl FnOnce() -> Option<Instant> + use<> {
        let taken = Arc::clone(&self.taken);
        move || taken.at()
    }
}

impl Future for Ticket {
    type Output = Result<(Tensors, Waited)>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Attention::Awake(limit) = std::mem::replace(&mut self.attention, Attention::Asleep)
            && let Some(reply) = spin_until(limit, || self.reply.try_recv().ok())
        {
            return Poll::Ready(reply);
        }
        Pin::new(&mut self.reply)
            .poll(context)
            .map(|reply| reply.unwrap_or_else(|_| Err(Error::internal("a worker ended without an answer"))))
    }
}
