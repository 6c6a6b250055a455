//! Choice between spinning and parking while worker and request wait for each other.
//!
//! Waking a parked thread costs more than a small model's run, twice per request. So while requests come one or two at a
//! time and runs are short, both sides spin for a moment instead of parking: the worker for the next request, the request
//! for its answer. As soon as more requests overlap, batches form while the worker runs, and nobody spins any more.

use std::time::{Duration, Instant};

/// Way of waiting for the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitStrategy {
    /// Spin for up to this long, then park.
    Spin(Duration),
    /// Park at once.
    Park,
}

/// Returns the better strategy. Spinning pays while it has been quiet for some time (some requests of a crowd do not overlap
/// either) and a run takes no longer than the time of spinning.
pub(super) fn wait_strategy(quiet_streak: u32, last_run: Duration, spin: Duration) -> WaitStrategy {
    const QUIET: u32 = 32;
    if quiet_streak >= QUIET && last_run <= spin { WaitStrategy::Spin(spin) } else { WaitStrategy::Park }
}

/// Asks again and again until there is something, or `limit` has passed.
pub(super) fn spin_until<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let begin = Instant::now();
    loop {
        let found = ask();
        if found.is_some() || begin.elapsed() >= limit {
            return found;
        }
        // Whoever has work to do on this core goes first: the client may be on this machine.
        std::thread::yield_now();
    }
}
