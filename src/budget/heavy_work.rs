//! Stages that would hold up a thread: which they are, and where they run instead.
//!
//! A thread that serves connections may give a request a moment of its time. A stage that needs more (a large body, an
//! image) is run on a thread of its own, so that everybody else's requests, and health checks, go on.
//!
//! A stage that is inside a library call cannot be cancelled. One that runs on long after its deadline is stuck: other
//! models get its place meanwhile, and its own model gets no other. So the stages of one model do not hold up other
//! models, and at most twice as many threads can be stuck as there are places.

use std::sync::Arc;
use std::sync::atomic::{
    AtomicIsize, AtomicU8, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed},
};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::Deadline;
use crate::error::{Error, Result};
use crate::machine;

/// The longest that a stage may hold a thread that serves connections.
const A_MOMENT: Duration = Duration::from_micros(500);

/// Time after its deadline at which a stage that still runs counts as stuck. Most stages check the deadline far more
/// often.
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// Interval at which a waiting stage checks whether earlier stages of its model are still stuck.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Cost of a stage that has not run yet: about that of reading JSON.
const NANOS_PER_UNIT: u64 = 5;

/// Cost of a stage, in time per unit of its input (a byte, an element), learned from its last runs.
#[derive(Debug)]
pub struct StageCost {
    /// A moving average, in 1/1024 ns per unit.
    per_unit: AtomicU64,
    /// True if it is heavy whatever was learned.
    is_always_heavy: bool,
    /// Number of runs that are stuck. It can be below 0 for a moment.
    stuck: Arc<AtomicIsize>,
}

/// Costs of the stages around one model.
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
    /// Number of places of stuck stages that are lent to others. At most `most_lent`.
    lent: Arc<AtomicUsize>,
    most_lent: usize,
    stuck_after: Duration,
}

/// A stage that has started.
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
    /// Costs before anything was learned. Preprocessing that can take long however small a body is, is heavy from the
    /// first on.
    pub fn of(preprocess_is_heavy: bool) -> StageCosts {
        let preprocess = StageCost { is_always_heavy: preprocess_is_heavy, ..StageCost::default() };
        StageCosts { preprocess, ..StageCosts::default() }
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
        let places = Arc::new(Semaphore::new(threads.get()));
        BlockingThreads { places, lent: Arc::default(), most_lent: threads.get(), stuck_after: STUCK_AFTER }
    }

    /// Runs `work` on a thread where it holds up nobody, once there is a place. `None` if the deadline passes first;
    /// work that has begun is not ended by it.
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
            // Runs whenever nobody waits any more: at the end, at the deadline, and when the client leaves.
            let _left = when_dropped(|| self.lend_if_stuck(&run, deadline, cost));
            let (run, lent, stuck) = (Arc::clone(&run), Arc::clone(&self.lent), Arc::clone(&cost.stuck));
            let work = move || {
                machine::give_way();
                // Runs on a panic, too.
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

    /// Lends the place of a stage that nobody waits for, if the stage still runs some time after its deadline.
    fn lend_if_stuck(&self, run: &Arc<Run>, deadline: Deadline, cost: &StageCost) {
        let has_ended = run.state.load(Acquire) == ENDED;
        // There is no runtime when the server has stopped.
        let (false, Ok(runtime)) = (has_ended, tokio::runtime::Handle::try_current()) else { return };
        let BlockingThreads { places, lent, most_lent, stuck_after } = self.clone();
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
            // Another model gets the lent place. The model of the stuck stage waits until its deadline.
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
            // Its client resets the connection: its future is dropped.
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
