//! Stages that would hold up a thread: which they are, and where they run instead.
//!
//! A thread that serves connections may give a request a moment of its time. A stage that needs more (a large body, an
//! image) is run on a thread of its own, so that everybody else's requests, and health checks, go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::Deadline;
use crate::error::{Error, Result};

/// The longest that a stage may hold a thread that serves connections.
const A_MOMENT: Duration = Duration::from_micros(500);

/// What a stage is thought to cost before it has run: about what reading JSON costs.
const NANOS_PER_UNIT: u64 = 5;

/// What a stage costs, in time per unit of its input (a byte, an element), as learned from its last runs.
#[derive(Debug)]
pub struct StageCost {
    /// A moving average, in 1/1024 ns per unit.
    per_unit: AtomicU64,
    /// Whether it is heavy whatever was learned.
    is_always_heavy: bool,
}

/// What the stages around one model have cost.
#[derive(Debug, Default)]
pub struct StageCosts {
    /// Per byte of the body.
    pub preprocess: StageCost,
    /// Per element of the outputs.
    pub postprocess: StageCost,
}

/// The threads that heavy stages run on: as many at one time as there are threads that serve connections.
#[derive(Debug, Clone)]
pub struct BlockingThreads {
    places: Arc<Semaphore>,
}

impl Default for StageCost {
    fn default() -> Self {
        StageCost { per_unit: AtomicU64::new(NANOS_PER_UNIT * 1024), is_always_heavy: false }
    }
}

impl StageCosts {
    /// What nothing has been learned of; preprocessing that can take long however small a body is, is heavy from the first on.
    pub fn of(preprocess_is_heavy: bool) -> StageCosts {
        let preprocess = StageCost { is_always_heavy: preprocess_is_heavy, ..StageCost::default() };
        StageCosts { preprocess, ..StageCosts::default() }
    }
}

impl StageCost {
    /// Whether the stage is expected to take too long for a thread that serves connections.
    ///
    /// ```
    /// use std::time::Duration;
    /// use leeway::budget::StageCost;
    /// let cost = StageCost::default();
    /// assert!(!cost.is_heavy(1_000));
    /// assert!(cost.is_heavy(8_000_000));
    /// // A stage that takes 2 ms for 1,000 units is learned to be heavy.
    /// (0..9).for_each(|_| cost.learn(1_000, Duration::from_millis(2)));
    /// assert!(cost.is_heavy(1_000));
    /// ```
    pub fn is_heavy(&self, units: usize) -> bool {
        if self.is_always_heavy {
            return true;
        }
        let nanos = u128::from(self.per_unit.load(Relaxed)) * units.max(1) as u128 / 1024;
        nanos > A_MOMENT.as_nanos()
    }

    /// Notes what a run of the stage took.
    pub fn learn(&self, units: usize, took: Duration) {
        let seen = took.as_nanos().saturating_mul(1024) / units.max(1) as u128;
        let seen = i128::try_from(seen).unwrap_or(i128::MAX).min(i128::from(u64::MAX >> 1));
        let known = i128::from(self.per_unit.load(Relaxed));
        // Slowly up, so that a thread that was once kept waiting for its core makes no stage heavy; quickly down.
        let step = if seen > known { 16 } else { 4 };
        // Two threads may learn at once, and one of them in vain.
        self.per_unit.store(u64::try_from(known + (seen - known) / step).unwrap_or(0), Relaxed);
    }
}

impl BlockingThreads {
    /// Room for `threads` heavy stages at one time.
    pub fn new(threads: std::num::NonZeroUsize) -> BlockingThreads {
        BlockingThreads { places: Arc::new(Semaphore::new(threads.get())) }
    }

    /// Runs `work` on a thread where it holds up nobody, once there is a place. `None` if the deadline passes first;
    /// work that has begun is not ended by it.
    pub async fn run<T: Send + 'static>(
        &self,
        deadline: Deadline,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Option<Result<T>> {
        let places = Arc::clone(&self.places);
        let done = async {
            let place = places.acquire_owned().await.map_err(Error::internal)?;
            let work = move || {
                let done = work();
                drop(place);
                done
            };
            match tokio::task::spawn_blocking(work).await {
                Ok(done) => done,
                Err(error) => match error.try_into_panic() {
                    // As if it had run here: whoever catches panics of stages catches this one.
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(error) => Err(Error::internal(error)),
                },
            }
        };
        tokio::time::timeout_at(deadline.instant().into(), done).await.ok()
    }
}
