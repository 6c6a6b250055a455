//! Time of the last request to a version. It is noticed once a second, when the windows slide, so that it costs a request
//! nothing.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

/// Time of the last request to a version, precise to about a second.
#[derive(Debug, Default)]
pub(super) struct LastRequest {
    /// Number of requests at the last look.
    requests: AtomicU64,
    /// Milliseconds since 1970; 0 if there was no request.
    at_ms: AtomicU64,
}

impl LastRequest {
    /// Notices requests since the last look.
    pub(super) fn look(&self, requests: u64, now: SystemTime) {
        if self.requests.swap(requests, Relaxed) != requests {
            let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            self.at_ms.store(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX), Relaxed);
        }
    }

    /// Milliseconds from 1970 to the last request; 0 if there was none.
    pub(super) fn at_ms(&self) -> u64 {
        self.at_ms.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_new_requests_are_noticed() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let last = LastRequest::default();
        last.look(0, at(7));
        assert_eq!(last.at_ms(), 0);
        last.look(3, at(8));
        assert_eq!(last.at_ms(), 8_000);
        last.look(3, at(9));
        assert_eq!(last.at_ms(), 8_000);
    }
}
