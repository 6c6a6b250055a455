//! Reports of panics in the log, of one line each, and at most one report a second.
//!
//! A panic in a stage is caught, so a client may cause as many panics as it likes. The standard library's reports of
//! them would fill the log, and are not JSON. A panic that ends the process is always reported.

use std::io::Write;
use std::panic::PanicHookInfo;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::terminal;
use crate::identity::cut_off;

/// Minimum time between two reports of panics.
const BETWEEN_REPORTS: Duration = Duration::from_secs(1);

/// Maximum length of the panic's message in a report, in characters. It is limited because the message may quote a
/// request.
const MAX_MESSAGE: usize = 500;

/// Limits the number of reports of panics.
#[derive(Debug, Default)]
struct ReportLimit {
    last: Option<Instant>,
    left_out: u64,
}

impl ReportLimit {
    /// Decides if a panic is reported. If so, returns the number of panics that were left out since the last report.
    fn admit(&mut self, now: Instant, ends_process: bool) -> Option<u64> {
        let is_soon = self.last.is_some_and(|last| now.saturating_duration_since(last) < BETWEEN_REPORTS);
        if is_soon && !ends_process {
            self.left_out += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.left_out))
    }
}

/// Installs a hook that reports panics of this process in its log, or on standard error if the log was not started.
pub(super) fn report_panics() {
    let limit = Mutex::new(ReportLimit::default());
    std::panic::set_hook(Box::new(move |panic| {
        let message = cut_off(message_of(panic).to_owned(), MAX_MESSAGE);
        let admitted = limit.lock().admit(Instant::now(), ends_process(&message));
        if let Some(left_out) = admitted {
            report(&message, panic, left_out);
        }
    }));
}

fn report(message: &str, panic: &PanicHookInfo<'_>, left_out: u64) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or_default();
    if tracing::dispatcher::has_been_set() {
        tracing::error!(panic = message, location, thread, left_out, "a thread panicked");
    } else {
        // Quoted, so that it stays one line.
        let line =
            format!("thread {thread:?} panicked at {location}: {message:?} ({left_out} other panics left out)\n");
        // Nothing can be done about a failed write.
        let _ = terminal::stderr().write_all(line.as_bytes());
    }
}

fn message_of<'a>(panic: &'a PanicHookInfo<'_>) -> &'a str {
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)")
}

/// Returns true for the message of a panic at which the standard library aborts the process instead of unwinding.
fn ends_process(message: &str) -> bool {
    message.starts_with("panic in a ") || message.starts_with("unsafe precondition(s) violated")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_one_panic_a_second_is_reported_with_the_number_of_those_left_out() {
        let (mut limit, start) = (ReportLimit::default(), Instant::now());
        let mut at = |millis, ends_process| limit.admit(start + Duration::from_millis(millis), ends_process);
        assert_eq!(at(0, false), Some(0));
        assert_eq!((at(1, false), at(999, false)), (None, None));
        assert_eq!(at(1_000, false), Some(2));
        assert_eq!(at(1_001, false), None);
        // The process is about to end.
        assert_eq!(at(1_002, true), Some(1));
        assert_eq!(at(2_100, false), Some(0));
    }
}
