//! A thread that serves connections looks for the next request for a moment after an answer, instead of sleeping at once.
//!
//! To wake a thread takes longer than a short run of a model. A client that sends its next request as soon as it has an
//! answer is served without that. A thread spins only while no other thread that serves connections is at work, so that
//! most likely a core is free. After spins in which no request arrived, it spins less often.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::config::available_cores;

/// Maximum time of a spin.
const MAX_SPIN: Duration = Duration::from_micros(100);

/// Time after an answer for which a thread counts as being at work.
const AT_WORK: Duration = Duration::from_millis(2);

/// Maximum number of answers without a spin, after spins that were in vain.
const MAX_PAUSE: u32 = 1 << 10;

/// Decides about the spins of a thread that serves connections.
#[derive(Debug)]
pub(super) struct Spinner {
    /// Time at which each thread last answered, in nanoseconds from `epoch`.
    answered: Arc<[AtomicU64]>,
    /// Number of requests that have arrived on this thread.
    asked: AtomicU64,
    /// Place of this thread in `answered`.
    place: usize,
    epoch: Instant,
    may_spin: bool,
    backoff: Mutex<Backoff>,
    is_spinning: AtomicBool,
    begin: Notify,
}

/// Number of answers until the next spin. Each spin that was in vain doubles it.
#[derive(Debug, Default)]
struct Backoff {
    pause: u32,
    left: u32,
}

impl Spinner {
    /// Returns a spinner for each thread.
    pub(super) fn for_threads(count: NonZeroUsize) -> Vec<Arc<Spinner>> {
        let answered: Arc<[AtomicU64]> = (0..count.get()).map(|_| AtomicU64::new(0)).collect();
        let epoch = Instant::now();
        // On a single core, nobody else could work meanwhile.
        let may_spin = available_cores().get() > 1;
        let spinner = |place| Spinner {
            answered: Arc::clone(&answered),
            asked: AtomicU64::new(0),
            place,
            epoch,
            may_spin,
            backoff: Mutex::default(),
            is_spinning: AtomicBool::new(false),
            begin: Notify::new(),
        };
        (0..count.get()).map(|place| Arc::new(spinner(place))).collect()
    }

    /// Notes that a request has arrived.
    pub(super) fn has_been_asked(&self) {
        self.asked.fetch_add(1, Relaxed);
    }

    /// Notes that the thread has answered, and begins a spin if that is likely to be worth it.
    pub(super) fn has_answered(&self) {
        let now = self.now();
        self.answered[self.place].store(now, Relaxed);
        if !self.may_spin || self.is_spinning.load(Relaxed) || self.others_are_at_work(now) {
            return;
        }
        if self.backoff.lock().may_spin() {
            self.is_spinning.store(true, Relaxed);
            self.begin.notify_one();
        }
    }

    /// Spins whenever [`Spinner::has_answered`] begins it. Runs on the thread itself, beside its connections.
    pub(super) async fn spin(&self) {
        loop {
            self.begin.notified().await;
            let asked = self.asked.load(Relaxed);
            let mut last = self.answered[self.place].load(Relaxed);
            while self.now().saturating_sub(last) < nanos(MAX_SPIN) && !self.others_are_at_work(last) {
                // Lets the connections go first, and looks for new requests without sleeping.
                tokio::task::yield_now().await;
                last = self.answered[self.place].load(Relaxed);
            }
            self.is_spinning.store(false, Relaxed);
            self.backoff.lock().has_spun(self.asked.load(Relaxed) > asked);
        }
    }

    fn others_are_at_work(&self, now: u64) -> bool {
        let is_at_work = |answered: &AtomicU64| {
            let answered = answered.load(Relaxed);
            answered > 0 && now.saturating_sub(answered) < nanos(AT_WORK)
        };
        self.answered.iter().enumerate().any(|(place, answered)| place != self.place && is_at_work(answered))
    }

    fn now(&self) -> u64 {
        nanos(self.epoch.elapsed())
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Backoff {
    /// Returns true if the next spin may begin after this answer.
    fn may_spin(&mut self) -> bool {
        let may_spin = self.left == 0;
        self.left = self.left.saturating_sub(1);
        may_spin
    }

    /// Records a spin, in which a request arrived or not.
    fn has_spun(&mut self, was_worth_it: bool) {
        self.pause = if was_worth_it { 0 } else { (2 * self.pause + 1).min(MAX_PAUSE) };
        self.left = self.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spins_that_are_in_vain_become_rare_and_one_that_is_worth_it_makes_them_usual_again() {
        let mut backoff = Backoff::default();
        let spins = |backoff: &mut Backoff, answers: u32, is_worth_it: bool| {
            let mut spins = 0;
            for _ in 0..answers {
                if backoff.may_spin() {
                    spins += 1;
                    backoff.has_spun(is_worth_it);
                }
            }
            spins
        };
        assert_eq!(spins(&mut backoff, 100, true), 100);
        let in_vain = spins(&mut backoff, 100_000, false);
        assert!((90..120).contains(&in_vain), "{in_vain}");
        assert!(spins(&mut backoff, MAX_PAUSE + 100, true) >= 100);
    }

    /// The time of a spin is not tested: it ends by itself, or this test does not.
    #[tokio::test]
    async fn a_thread_spins_after_an_answer_if_no_other_is_at_work() {
        let [first, second] = &Spinner::for_threads(2.try_into().unwrap())[..] else { panic!() };
        if !first.may_spin {
            return;
        }
        first.has_answered();
        assert!(first.is_spinning.load(Relaxed));
        let spinning = tokio::spawn({
            let first = Arc::clone(first);
            async move { first.spin().await }
        });
        while first.is_spinning.load(Relaxed) {
            tokio::task::yield_now().await;
        }
        assert_eq!(first.backoff.lock().pause, 1);
        second.has_answered();
        first.backoff.lock().left = 0;
        first.has_answered();
        // The second may have answered too long ago by now, on a machine that stands still.
        assert!(!first.is_spinning.load(Relaxed) || first.now() > nanos(AT_WORK));
        spinning.abort();
    }
}
