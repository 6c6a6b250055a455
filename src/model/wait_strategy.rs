//! Choice between spinning and parking while worker and request wait for each other.
//!
//! Waking a parked thread costs more than a run of a small model, and each request would wake two threads. While
//! requests come one or two at a time and runs are short, both sides therefore spin briefly instead of parking: the
//! worker until the next request, the request until its answer. Once more requests overlap, batches form while the
//! worker runs, and neither side spins.

use std::time::{Duration, Instant};

/// Way in which a worker waits for a request, or a request for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitStrategy {
    /// Spin for up to this long, then park.
    Spin(Duration),
    /// Park at once.
    Park,
}

/// Returns the better strategy for the next wait. Spinning pays if a long streak of requests hardly overlapped (short
/// streaks also occur under load), and a run takes no longer than the maximum time of spinning.
pub(super) fn wait_strategy(quiet_streak: u32, last_run: Duration, spin: Duration) -> WaitStrategy {
    const QUIET: u32 = 32;
    if quiet_streak >= QUIET && last_run <= spin { WaitStrategy::Spin(spin) } else { WaitStrategy::Park }
}

/// Calls `ask` repeatedly until it returns something or `limit` has passed.
pub(super) fn spin_until<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let begin = Instant::now();
    loop {
        let found = ask();
        if found.is_some() || begin.elapsed() >= limit {
            return found;
        }
        // Lets other threads on this core go first, because the client may run on this machine.
        std::thread::yield_now();
    }
}
