//! The queue of copied requests, bounded in number and bytes, and the thread that runs them. Callers only put copies in, and
//! wait for nothing.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::input::{EncodedRequest, Input, NamedOutput};
use crate::budget::{Deadline, HeldBytes, MemoryBudget};
use crate::error::{Error, Fault, Result};
use crate::machine;
use crate::monitor::ShadowOutcome;
use crate::pipeline::Prediction;
use crate::registry::{ServedShadow, ServedVersion};
use crate::stage::{Stage, Timings};

/// Maximum number of copies, from their request's arrival to the end of their comparison.
const MAX_COPIES: usize = 64;

/// Maximum memory of all copies: their bodies, what these are decoded to, and the answers of the stable version.
const MAX_BYTES: usize = 32 << 20;

/// Time from the answer of the stable version in which a copy has to be run.
const MAX_AGE: Duration = Duration::from_secs(2);

/// Copies of requests that wait for their run.
pub struct ShadowQueue(Arc<Copies>);

/// State that the thread and the callers share.
pub(super) struct Copies {
    /// Number of copies, with those whose requests are not answered yet.
    places: AtomicUsize,
    pub(super) memory: MemoryBudget,
    state: Mutex<State>,
    arrived: Condvar,
    run: fn(Copied),
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Copied>,
    /// The version whose copy is run, and the time at which the run is to end.
    running: Option<(Arc<ServedVersion>, Deadline)>,
    has_thread: bool,
    is_closed: bool,
}

/// The version that gets a copy of a request.
#[derive(Debug, Clone)]
pub(super) struct ShadowOfRequest {
    pub(super) shadow: Arc<ServedShadow>,
    pub(super) queue: Arc<ShadowQueue>,
}

/// Function that decodes the body of a copied request, and passes the input on.
type Decode = Box<dyn FnOnce(&mut dyn FnMut(Input<'_>) -> Result<()>) -> Result<()> + Send>;

/// A request that is copied while it is answered.
pub(super) struct CopiedRequest {
    decode: Mutex<Option<Decode>>,
    answer: Mutex<Option<(StableAnswer, HeldBytes)>>,
    shadow: Arc<ServedShadow>,
    place: Place,
}

/// The answer of the stable version to a copied request.
#[derive(Debug)]
pub(super) enum StableAnswer {
    /// Predictions.
    Predictions(Vec<Prediction>),
    /// Outputs of the model itself.
    Outputs(Vec<NamedOutput>),
    /// No answer: the request has failed.
    Failed,
}

/// A copied request that is to be run.
pub(super) struct Copied {
    pub(super) decode: Decode,
    pub(super) answer: StableAnswer,
    /// Memory of the answer.
    _held: Option<HeldBytes>,
    /// Time that the stable version took, without waits.
    pub(super) stable_took: Duration,
    pub(super) stable: Arc<ServedVersion>,
    pub(super) shadow: Arc<ServedVersion>,
    /// Time at which the copy is too old.
    pub(super) deadline: Deadline,
    _place: Place,
}

/// A place among the copies.
struct Place(Arc<Copies>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.places.fetch_sub(1, Relaxed);
    }
}

// ===== impl ShadowQueue =====

impl ShadowQueue {
    /// Creates a queue whose thread runs copies with this function. The thread is started for the first copy.
    pub(super) fn new(run: fn(Copied)) -> ShadowQueue {
        let holders = NonZeroUsize::new(MAX_COPIES).unwrap_or(NonZeroUsize::MIN);
        ShadowQueue(Arc::new(Copies {
            places: AtomicUsize::new(0),
            memory: MemoryBudget::new(MAX_BYTES, holders),
            state: Mutex::default(),
            arrived: Condvar::new(),
            run,
        }))
    }
}

impl std::fmt::Debug for ShadowQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShadowQueue").field("copies", &self.0.places.load(Relaxed)).finish_non_exhaustive()
    }
}

impl Drop for ShadowQueue {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.is_closed = true;
        state.waiting.clear();
        self.0.interrupt(&state);
        self.0.arrived.notify_all();
    }
}

impl Copies {
    /// Takes a place, if one is free.
    fn place(self: &Arc<Self>) -> Option<Place> {
        if self.places.fetch_add(1, Relaxed) < MAX_COPIES {
            return Some(Place(Arc::clone(self)));
        }
        self.places.fetch_sub(1, Relaxed);
        let state = self.state.lock();
        if state.running.as_ref().is_some_and(|(_, deadline)| deadline.check().is_err()) {
            self.interrupt(&state);
        }
        None
    }

    /// Ends the current run.
    fn interrupt(&self, state: &MutexGuard<'_, State>) {
        if let Some(pipeline) = state.running.as_ref().and_then(|(version, _)| version.pipeline()) {
            pipeline.model.interrupt_idle();
        }
    }

    fn put(self: &Arc<Self>, copied: Copied) {
        let mut state = self.state.lock();
        if state.is_closed {
            return;
        }
        state.waiting.push_back(copied);
        if !state.has_thread {
            let copies = Arc::clone(self);
            let thread = std::thread::Builder::new().name("shadow".to_owned()).spawn(move || copies.run_all());
            match thread {
                Ok(_) => state.has_thread = true,
                Err(error) => {
                    state.waiting.clear();
                    tracing::warn!(%error, "the thread for copies of requests could not be started");
                }
            }
        }
        drop(state);
        self.arrived.notify_one();
    }

    /// Runs copies, one at a time, until the queue is closed.
    fn run_all(&self) {
        machine::lower_priority_of_this_thread();
        let mut state = self.state.lock();
        while !state.is_closed {
            let Some(copied) = state.waiting.pop_front() else {
                self.arrived.wait(&mut state);
                continue;
            };
            let shadow = Arc::clone(&copied.shadow);
            state.running = Some((Arc::clone(&shadow), copied.deadline));
            drop(state);
            if catch_unwind(AssertUnwindSafe(|| (self.run)(copied))).is_err() {
                // The panic is logged. A panic of the stable version has failed its request.
                shadow.recorder.shadow().ended(ShadowOutcome::OnlyShadowFailed);
            }
            state = self.state.lock();
            state.running = None;
        }
    }
}

// ===== impl ShadowOfRequest =====

impl ShadowOfRequest {
    /// Copies a request that has arrived. `None` if there are too many copies.
    pub(super) fn copy<R: EncodedRequest>(&self, request: &mut R) -> Option<Arc<CopiedRequest>> {
        let copies = &self.queue.0;
        let copied = copies.place().and_then(|place| Some((place, request.copied(&copies.memory)?)));
        let Some((place, request)) = copied else {
            self.shadow.version.recorder.shadow().ended(ShadowOutcome::Dropped);
            return None;
        };
        let decode: Decode = Box::new(move |with| request.decode(with).map(|(done, _)| done));
        let (decode, answer) = (Mutex::new(Some(decode)), Mutex::new(None));
        Some(Arc::new(CopiedRequest { decode, answer, shadow: Arc::clone(&self.shadow), place }))
    }
}

// ===== impl CopiedRequest =====

impl CopiedRequest {
    /// Keeps the answer of the stable version for the copy, if there is one. If the answer is too large, the copy is dropped.
    pub(super) fn keep(copied: Option<&CopiedRequest>, answer: impl FnOnce() -> StableAnswer) {
        let Some(copied) = copied else { return };
        let answer = answer();
        if let Ok(held) = copied.place.0.memory.hold(answer.size()) {
            *copied.answer.lock() = Some((answer, held));
        }
    }

    /// Puts the copy into the queue, once the thread of the request has written the response.
    pub(super) fn hand_over(
        copied: Arc<CopiedRequest>,
        stable: &Arc<ServedVersion>,
        timings: &Timings,
        error: Option<&Error>,
    ) {
        let shadow = Arc::clone(&copied.shadow.version);
        let copied = Arc::into_inner(copied).and_then(|copied| {
            let CopiedRequest { decode, answer, place, .. } = copied;
            let (answer, held) = match error {
                None => answer.into_inner().map(|(answer, held)| (answer, Some(held)))?,
                Some(_) => (StableAnswer::Failed, None),
            };
            Some((decode.into_inner()?, answer, held, place))
        });
        let is_comparable =
            error.is_none_or(|error| matches!(error.fault(), Fault::Caller | Fault::Model | Fault::Server));
        let (Some((decode, answer, _held, place)), true) = (copied, is_comparable) else {
            shadow.recorder.shadow().ended(ShadowOutcome::Dropped);
            return;
        };
        let copies = Arc::clone(&place.0);
        let stable_took = [Stage::Preprocess, Stage::Inference, Stage::Postprocess].map(|stage| timings.of(stage));
        let copied = Copied {
            decode,
            answer,
            _held,
            stable_took: stable_took.iter().sum(),
            stable: Arc::clone(stable),
            shadow,
            deadline: Deadline::from_now(MAX_AGE),
            _place: place,
        };
        match tokio::runtime::Handle::try_current() {
            // The task begins after the one that writes the response.
            Ok(runtime) => drop(runtime.spawn(async move { copies.put(copied) })),
            Err(_) => copies.put(copied),
        }
    }
}

// ===== impl StableAnswer =====

impl StableAnswer {
    /// Estimated memory of the answer, in bytes.
    fn size(&self) -> usize {
        match self {
            StableAnswer::Predictions(predictions) => predictions.iter().map(size_of_prediction).sum(),
            StableAnswer::Outputs(outputs) => outputs.iter().map(|output| 100 + output.data.raw_len()).sum(),
            StableAnswer::Failed => 0,
        }
    }
}

fn size_of_prediction(prediction: &Prediction) -> usize {
    /// Estimated memory of a label, a number or a box in a list.
    const ITEM: usize = 64;
    let own = size_of::<Prediction>();
    own + match prediction {
        Prediction::Class { top, .. } => ITEM * top.len(),
        Prediction::Classes { labels, .. } => ITEM * labels.len(),
        Prediction::Value(_) | Prediction::Anomaly { .. } => 0,
        Prediction::Values { values, .. } => ITEM * values.len(),
        Prediction::Targets { predictions, .. } | Prediction::Steps { predictions, .. } => {
            predictions.iter().map(size_of_prediction).sum()
        }
        Prediction::Embedding(vector) => size_of_val(vector.as_slice()),
        Prediction::Entities(entities) => entities.iter().map(|entity| 2 * ITEM + entity.text.len()).sum(),
        Prediction::Detections(detections) => ITEM * detections.len(),
        Prediction::Mask(mask) => {
            let runs = |runs: &crate::pipeline::RunLengths| size_of_val(runs.counts.as_slice());
            let classes = mask.classes.iter().map(|class| 2 * ITEM + class.rle.as_ref().map_or(0, runs));
            mask.png.as_ref().map_or(0, String::len) + classes.sum::<usize>()
        }
        Prediction::Outputs(outputs) => outputs.iter().map(|(_, tensor)| ITEM + tensor.data().raw_len()).sum(),
        Prediction::NonFiniteAsText(prediction) => size_of_prediction(prediction),
        Prediction::Json(value) => value.to_string().len() * 4,
        Prediction::Crops(crops) => crops.iter().map(|crop| ITEM + size_of_prediction(&crop.prediction)).sum(),
    }
}
