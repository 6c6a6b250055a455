//! Runs on the threads of requests ("inline"), without a worker.
//!
//! Handing a request to a worker and its answer back takes two wake-ups of threads, which cost more than a run of a small
//! model. So where runs are short, a request that finds a free session runs the waiting requests itself, and answers them
//! all. Requests that arrive meanwhile join the next run, and their threads go on to read further requests. This is flat
//! combining (Hendler, Incze, Shavit, Tzafrir: Flat Combining and the Synchronization-Parallelism Tradeoff, SPAA 2010).
//!
//! Three limits bound the time for which the connections of a thread wait for runs:
//!
//! - Only runs whose learned time is short are inline (`model.inline_us`), and a request makes further inline runs for
//!   [`MAX_HELD`] at most.
//! - There are as many runs at a time as threads that serve connections ([`InlineSlots`]).
//! - A run that goes on for longer than [`MAX_RUN`] is ended by the watchdog, which looks every [`TICK`], and moved to a
//!   worker. ONNX Runtime ends a run before its next operator.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::request::Batch;
use super::service_time::ServiceTime;
use crate::error::SetupError;

/// Maximum time for which a request starts further runs.
pub(super) const MAX_HELD: Duration = Duration::from_micros(200);

/// Maximum time of a run before the watchdog moves it to a worker.
pub(super) const MAX_RUN: Duration = Duration::from_millis(10);

/// Interval between two looks of the watchdog.
const TICK: Duration = Duration::from_millis(5);

/// Number of looks without a new inline run after which the watchdog sleeps until the next one.
const IDLE_TICKS: u32 = 200;

/// Limit on the number of inline runs at the same time, over all models, and the watchdog of these runs.
#[derive(Debug)]
pub struct InlineSlots {
    slots: Box<[Mutex<Option<WatchedRun>>]>,
    /// Number of slots that were taken since the start.
    taken: AtomicUsize,
    watchdog: Option<Watchdog>,
}

/// The thread that ends inline runs that take too long.
#[derive(Debug)]
struct Watchdog {
    thread: Thread,
    is_awake: Arc<AtomicBool>,
}

/// Owner of inline runs.
pub(super) trait InlineOwner: std::fmt::Debug + Send + Sync {
    /// Ends the inline run of a worker's session that began at this time, and leaves its requests to a worker.
    fn move_to_worker(&self, worker: usize, began: Instant);
}

/// The inline run of a slot.
#[derive(Debug)]
struct WatchedRun {
    owner: Arc<dyn InlineOwner>,
    worker: usize,
    began: Instant,
}

/// Inline runs of a version: those on the threads of requests.
#[derive(Debug)]
pub(super) struct InlineRuns {
    /// Maximum learned time of a run; zero if no run is inline.
    pub(super) max_run: Duration,
    pub(super) slots: Arc<InlineSlots>,
}

/// A batch that the thread of a request runs.
#[derive(Debug)]
pub(super) struct InlineRun {
    pub(super) session: usize,
    pub(super) batch: Arc<Batch>,
    pub(super) began: Instant,
    pub(super) slot: InlineSlot,
}

/// Returns the maximum size of an inline run, which typically takes at most `max_run`. The tail says little about the model:
/// a run of microseconds takes a millisecond if another thread has its core for a while.
pub(super) fn inline_batch(service: &ServiceTime, max_run: Duration) -> usize {
    match service.typical_line() {
        Some(line) if !max_run.is_zero() => line.rows_within(max_run),
        _ => 0,
    }
}

/// A slot in use. Dropping it frees the slot.
#[derive(Debug)]
pub(super) struct InlineSlot(Arc<InlineSlots>, usize);

// ===== impl InlineSlots =====

impl InlineSlots {
    /// Returns slots for no run at all.
    pub fn none() -> Arc<InlineSlots> {
        Arc::new(InlineSlots { slots: Box::default(), taken: AtomicUsize::new(0), watchdog: None })
    }

    /// Returns the slots for a server whose requests are handled by this many threads, and starts their watchdog.
    pub fn for_threads(threads: NonZeroUsize) -> Result<Arc<InlineSlots>, SetupError> {
        let (sender, slots) = std::sync::mpsc::channel::<Weak<InlineSlots>>();
        let is_awake = Arc::new(AtomicBool::new(true));
        let seen = Arc::clone(&is_awake);
        let thread = std::thread::Builder::new()
            .name("inline-watchdog".to_owned())
            .spawn(move || slots.recv().into_iter().for_each(|slots| watch(&slots, &seen)))
            .map_err(|error| SetupError::internal(format_args!("a thread could not be started: {error}")))?;
        let watchdog = Some(Watchdog { thread: thread.thread().clone(), is_awake });
        let slots = (0..threads.get()).map(|_| Mutex::new(None)).collect();
        let slots = Arc::new(InlineSlots { slots, taken: AtomicUsize::new(0), watchdog });
        // The thread waits for this message.
        let _ = sender.send(Arc::downgrade(&slots));
        Ok(slots)
    }

    /// Takes a slot for a run of this owner, if one is free.
    pub(super) fn take(
        self: &Arc<Self>,
        owner: Arc<dyn InlineOwner>,
        worker: usize,
        began: Instant,
    ) -> Option<InlineSlot> {
        let (index, mut slot) = self.slots.iter().enumerate().find_map(|(index, slot)| {
            let slot = slot.try_lock().filter(|slot| slot.is_none())?;
            Some((index, slot))
        })?;
        *slot = Some(WatchedRun { owner, worker, began });
        drop(slot);
        self.taken.fetch_add(1, Ordering::SeqCst);
        if let Some(watchdog) = &self.watchdog
            && !watchdog.is_awake.load(Ordering::SeqCst)
            && !watchdog.is_awake.swap(true, Ordering::SeqCst)
        {
            watchdog.thread.unpark();
        }
        Some(InlineSlot(Arc::clone(self), index))
    }

    /// Moves the runs that take too long to workers.
    fn end_long_runs(&self) {
        for slot in &self.slots {
            let long = slot.lock().as_ref().and_then(|run| {
                (run.began.elapsed() > MAX_RUN).then(|| (Arc::clone(&run.owner), run.worker, run.began))
            });
            if let Some((owner, worker, began)) = long {
                owner.move_to_worker(worker, began);
            }
        }
    }
}

impl Drop for InlineSlots {
    fn drop(&mut self) {
        if let Some(watchdog) = &self.watchdog {
            watchdog.thread.unpark();
        }
    }
}

/// Watches the inline runs until the slots are dropped.
fn watch(slots: &Weak<InlineSlots>, is_awake: &AtomicBool) {
    let (mut seen, mut idle) = (0, 0);
    while let Some(slots) = slots.upgrade() {
        slots.end_long_runs();
        let taken = slots.taken.load(Ordering::SeqCst);
        idle = if taken == seen { idle + 1 } else { 0 };
        seen = taken;
        if idle < IDLE_TICKS || slots.slots.iter().any(|slot| slot.lock().is_some()) {
            drop(slots);
            std::thread::sleep(TICK);
            continue;
        }
        is_awake.store(false, Ordering::SeqCst);
        // A slot that is taken from here on wakes this thread. One that was taken just before is seen here.
        let is_idle = slots.taken.load(Ordering::SeqCst) == seen;
        drop(slots);
        if is_idle {
            std::thread::park();
        }
        is_awake.store(true, Ordering::SeqCst);
        idle = 0;
    }
}

// ===== impl InlineSlot =====

impl InlineSlot {
    /// Records the start of the next run in this slot.
    pub(super) fn next_run(&self, began: Instant) {
        if let Some(run) = &mut *self.0.slots[self.1].lock() {
            run.began = began;
        }
    }
}

impl Drop for InlineSlot {
    fn drop(&mut self) {
        *self.0.slots[self.1].lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// An owner that reports the runs that are moved.
    #[derive(Debug)]
    struct Reports(mpsc::Sender<usize>);

    impl InlineOwner for Reports {
        fn move_to_worker(&self, worker: usize, _: Instant) {
            // The test may have ended.
            let _ = self.0.send(worker);
        }
    }

    #[test]
    fn there_is_a_slot_for_each_thread() {
        let (sender, _receiver) = mpsc::channel();
        let owner = Arc::new(Reports(sender));
        let slots = InlineSlots::for_threads(2.try_into().unwrap()).unwrap();
        let take = || slots.take(owner.clone(), 0, Instant::now());
        let first = take().unwrap();
        let _second = take().unwrap();
        assert!(take().is_none());
        drop(first);
        assert!(take().is_some());
        assert!(InlineSlots::none().take(owner.clone(), 0, Instant::now()).is_none());
    }

    #[test]
    fn the_watchdog_finds_a_long_run_also_after_it_slept() {
        let (sender, moved) = mpsc::channel();
        let slots = InlineSlots::for_threads(1.try_into().unwrap()).unwrap();
        let long_ago = Instant::now() - Duration::from_secs(1);
        for worker in [7, 8] {
            let slot = slots.take(Arc::new(Reports(sender.clone())), worker, long_ago).unwrap();
            assert_eq!(moved.recv().unwrap(), worker);
            slot.next_run(Instant::now() + Duration::from_secs(3600));
            drop(slot);
            while slots.watchdog.as_ref().unwrap().is_awake.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        }
    }
}
