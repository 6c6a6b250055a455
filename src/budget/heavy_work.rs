//! Finds stages that would block a thread that serves connections, and runs them on other threads.
//!
//! A stage may occupy a thread that serves connections for a moment only. A longer stage (for a large body or an image)
//! runs on a separate thread, so that it does not delay other requests and health checks. There is a place for one such
//! stage per thread that serves connections.
//!
//! A stage inside a library call cannot be cancelled. A stage that still runs long after its deadline is stuck: its
//! place is lent to other models, and further stages of its own model wait until it ends. So the stages of one model do
//! not block other models, and the number of stuck threads is at most twice the number of places.

use std::sync::Arc;
use std::sync::atomic::{
    AtomicIsize, AtomicU8, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed},
};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::Deadline;
use crate::error::{Error, Result};
use crate::machine;

/// Maximum time for which a stage may occupy a thread that serves connections.
const A_MOMENT: Duration = Duration::from_micros(500);

/// Time after its deadline at which a stage that still runs counts as stuck. Most stages check their deadline far more
/// often.
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// Interval at which a waiting stage checks whether earlier stages of its model are still stuck.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Assumed cost of a stage that has not run yet: about that of reading JSON.
const NANOS_PER_UNIT: u64 = 5;

/// Cost of a stage, in time per unit of its input (a byte, an element), learned from its last runs.
#[derive(Debug)]
pub struct StageCost {
    /// A moving average, in 1/1024 ns per unit.
    per_unit: AtomicU64,
    /// True if the stage always counts as heavy.
    is_always_heavy: bool,
    /// Number of runs of the stage that are stuck. It can be below 0 for a moment.
    stuck: Arc<AtomicIsize>,
}

/// Costs of the preprocessing and the postprocessing of one model.
#[derive(Debug, Default)]
pub struct StageCosts {
    /// Per byte of the body.
    pub preprocess: StageCost,
    /// Per element of the outputs.
    pub postprocess: StageCost,
}

/// The threads for heavy stages, with as many places as there are threads that serve connections.
#[derive(Debug, Clone)]
pub struct BlockingThreads {
    places: Arc<Semaphore>,
    /// Number of stuck stages whose places are lent to other stages. At most `most_lent`.
    lent: Arc<AtomicUsize>,
    most_lent: usize,
    stuck_after: Duration,
    /// The runtime whose threads run the stages; `None` for that of the caller.
    runtime: Option<Handle>,
}

/// One run of a heavy stage.
#[derive(Debug, Default)]
struct Run {
    /// State of the run: `RUNNING`, `LENT` or `ENDED`.
    state: AtomicU8,
}

/// The stage runs in its own place.
const RUNNING: u8 = 0;
/// The stage is stuck, and its place is lent.
const LENT: u8 = 1;
/// The stage has ended.
const ENDED: u8 = 2;

impl Default for StageCost {
    fn default() -> Self {
        StageCost { per_unit: AtomicU64::new(NANOS_PER_UNIT * 1024), is_always_heavy: false, stuck: Arc::default() }
    }
}

impl StageCosts {
    /// Returns the costs before the first run. A stage that is heavy always counts as heavy, because even a small input
    /// can take it long.
    pub fn of(preprocess_is_heavy: bool, postprocess_is_heavy: bool) -> StageCosts {
        let cost = |is_always_heavy| StageCost { is_always_heavy, ..StageCost::default() };
        StageCosts { preprocess: cost(preprocess_is_heavy), postprocess: cost(postprocess_is_heavy) }
    }
}

impl StageCost {
    /// Returns true if the stage is expected to take too long for a thread that serves connections.
    ///
    /// ```
    /// use std::time::Duration;
    /// use leeway::budget::StageCost;
    /// let cost = StageCost::default();
    /// assert!(!cost.is_heavy(1_000));
    /// assert!(cost.is_heavy(8_000_000));
    /// // After some runs of 2 ms for 1,000 units, the stage counts as heavy.
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

    /// Updates the cost with the duration of a run.
    pub fn learn(&self, units: usize, took: Duration) {
        let seen = took.as_nanos().saturating_mul(1024) / units.max(1) as u128;
        let seen = i128::try_from(seen).unwrap_or(i128::MAX).min(i128::from(u64::MAX >> 1));
        let known = i128::from(self.per_unit.load(Relaxed));
        // The cost rises slowly, so that one run that waited for a core does not make the stage heavy, and falls
        // quickly.
        let step = if seen > known { 16 } else { 4 };
        // If two threads learn at once, one update may be lost.
        self.per_unit.store(u64::try_from(known + (seen - known) / step).unwrap_or(0), Relaxed);
    }
}

impl BlockingThreads {
    /// Returns threads with places for up to `threads` heavy stages at the same time. They are those of the runtime within
    /// which this is called, if it is, so that all threads that serve connections share them.
    pub fn new(threads: std::num::NonZeroUsize) -> BlockingThreads {
        let places = Arc::new(Semaphore::new(threads.get()));
        let runtime = Handle::try_current().ok();
        BlockingThreads { places, lent: Arc::default(), most_lent: threads.get(), stuck_after: STUCK_AFTER, runtime }
    }

    /// Runs `work` on a separate thread, once a place is free. Returns `None` if the deadline passes first; work that
    /// has begun goes on nevertheless.
    pub async fn run<T: Send + 'static>(
        &self,
        deadline: Deadline,
        cost: &StageCost,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Option<Result<T>> {
        let done = async {
            while cost.stuck.load(Acquire) > 0 {
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
            let place = Arc::clone(&self.places).acquire_owned().await.map_err(Error::internal)?;
            let run = Arc::new(Run::default());
            // Dropped when the wait ends: after the stage, at the deadline, or when the client disconnects.
            let _left = when_dropped(|| self.lend_if_stuck(&run, deadline, cost));
            let (run, lent, stuck) = (Arc::clone(&run), Arc::clone(&self.lent), Arc::clone(&cost.stuck));
            let work = move || {
                machine::give_way();
                // Also runs on a panic.
                let ending = when_dropped(move || {
                    if run.state.swap(ENDED, AcqRel) == LENT {
                        place.forget();
                        lent.fetch_sub(1, AcqRel);
                        stuck.fetch_sub(1, AcqRel);
                    }
                });
                let done = work();
                drop(ending);
                done
            };
            let spawned = match &self.runtime {
                Some(runtime) => runtime.spawn_blocking(work),
                None => tokio::task::spawn_blocking(work),
            };
            match spawned.await {
                Ok(done) => done,
                Err(error) => match error.try_into_panic() {
                    // Resumed here, so that the panic is caught like that of any other stage.
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(error) => Err(Error::internal(error)),
                },
            }
        };
        tokio::time::timeout_at(deadline.instant().into(), done).await.ok()
    }

    /// Lends the place of a stage to other stages, if the stage still runs `stuck_after` past its deadline.
    fn lend_if_stuck(&self, run: &Arc<Run>, deadline: Deadline, cost: &StageCost) {
        let has_ended = run.state.load(Acquire) == ENDED;
        // After the server has stopped, there is no runtime.
        let (false, Ok(runtime)) = (has_ended, Handle::try_current()) else { return };
        let BlockingThreads { places, lent, most_lent, stuck_after, .. } = self.clone();
        let (run, stuck) = (Arc::clone(run), Arc::clone(&cost.stuck));
        runtime.spawn(async move {
            tokio::time::sleep_until((deadline.instant() + stuck_after).into()).await;
            if lent.fetch_add(1, AcqRel) < most_lent
                && run.state.compare_exchange(RUNNING, LENT, AcqRel, Acquire).is_ok()
            {
                stuck.fetch_add(1, AcqRel);
                places.add_permits(1);
            } else {
                lent.fetch_sub(1, AcqRel);
            }
        });
    }
}

/// Returns a guard that calls a function when it is dropped.
fn when_dropped(end: impl FnOnce()) -> impl Drop {
    struct Guard<F: FnOnce()>(Option<F>);
    impl<F: FnOnce()> Drop for Guard<F> {
        fn drop(&mut self) {
            if let Some(end) = self.0.take() {
                end();
            }
        }
    }
    Guard(Some(end))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::mpsc;

    use super::*;

    /// Waits until the condition holds.
    async fn until(is_so: impl Fn() -> bool) {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_stage_that_is_stuck_holds_up_only_its_own_model() {
        let threads = BlockingThreads { stuck_after: Duration::ZERO, ..BlockingThreads::new(NonZeroUsize::MIN) };
        let (slow, other) = (StageCost::default(), StageCost::default());
        let (release, released) = mpsc::channel::<()>();
        let (begin, begun) = mpsc::channel::<()>();
        // Runs until the test releases it.
        let wait = move || {
            begin.send(()).map_err(Error::internal)?;
            released.recv().map_err(Error::internal)
        };
        let given_up = threads.run(Deadline::from_now(Duration::from_millis(100)), &slow, wait).await;
        // On a machine that is too busy, the stage has not started.
        if begun.try_recv().is_ok() {
            assert_eq!(given_up, None);
            until(|| slow.stuck.load(Acquire) == 1).await;
            // Another model gets the lent place. A further stage of the same model waits until its deadline.
            assert_eq!(threads.run(Deadline::never(), &other, || Ok(7)).await, Some(Ok(7)));
            let soon = Deadline::from_now(Duration::from_millis(60));
            assert_eq!(threads.run(soon, &slow, || Ok(7)).await, None);
        }
        drop(release);
        assert_eq!(threads.run(Deadline::never(), &slow, || Ok(7)).await, Some(Ok(7)));
        until(|| (threads.places.available_permits(), threads.lent.load(Acquire)) == (1, 0)).await;
    }

    #[tokio::test]
    async fn a_stage_that_is_stuck_lends_its_place_when_its_client_has_left() {
        let threads = BlockingThreads { stuck_after: Duration::ZERO, ..BlockingThreads::new(NonZeroUsize::MIN) };
        let (slow, other) = (StageCost::default(), StageCost::default());
        let (release, released) = mpsc::channel::<()>();
        let (begin, begun) = tokio::sync::oneshot::channel::<()>();
        let wait = move || {
            let _ = begin.send(());
            released.recv().map_err(Error::internal)
        };
        let stuck = threads.run(Deadline::from_now(Duration::from_secs(1)), &slow, wait);
        tokio::select! {
            // On a machine that is too busy, the stage has not started.
            given_up = stuck => assert_eq!(given_up, None),
            // The client of the stage resets the connection, so the future is dropped.
            _ = begun => {
                assert_eq!(threads.run(Deadline::never(), &other, || Ok(7)).await, Some(Ok(7)));
                assert_eq!(slow.stuck.load(Acquire), 1);
            }
        }
        drop(release);
        assert_eq!(threads.run(Deadline::never(), &slow, || Ok(7)).await, Some(Ok(7)));
        until(|| (threads.places.available_permits(), threads.lent.load(Acquire)) == (1, 0)).await;
    }

    #[tokio::test]
    async fn a_stage_that_panics_gives_its_place_back() {
        let threads = BlockingThreads::new(NonZeroUsize::MIN);
        let panics = tokio::spawn({
            let threads = threads.clone();
            async move { threads.run::<()>(Deadline::never(), &StageCost::default(), || panic!("a stage panics")).await }
        });
        assert!(panics.await.is_err());
        assert_eq!(threads.run(Deadline::never(), &StageCost::default(), || Ok(7)).await, Some(Ok(7)));
    }
}
