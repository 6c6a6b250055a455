//! Whether worker and request wait for each other awake or asleep.
//!
//! Waking a sleeping thread costs more than a small model's run, twice per request. So while requests come one or
//! two at a time and runs are short, both sides stay awake for a moment instead of sleeping: the worker for the next
//! request, the request for its answer. As soon as more requests overlap, batches form while the worker runs and nobody
//! watches any more.

use std::time::{Duration, Instant};

/// Whether to wait for the other side awake or asleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attention {
    /// Watch for up to this long, then sleep.
    Awake(Duration),
    /// Sleep at once.
    Asleep,
}

/// Staying awake pays while it has been quiet for some time (some requests of a crowd do not overlap either) and
/// a run takes no longer than one stays awake for it.
pub(super) fn attention(quiet_streak: u32, last_run: Duration, spin: Duration) -> Attention {
    const QUIET: u32 = 32;
    if quiet_streak >= QUIET && last_run <= spin { Attention::Awake(spin) } else { Attention::Asleep }
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
