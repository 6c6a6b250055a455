//! The process of a model: its start, its end, and the backoff between restarts.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::config::own_variables;
use crate::machine;

/// The subcommand of `leeway` that runs a model.
pub const RUN_COMMAND: &str = "run-model";

/// Maximum number of lines of a process's standard error that are logged. As many of its last lines are kept.
const MAX_LINES: usize = 20;

/// Counts the ends of a model's processes, so that a model that always crashes is restarted with backoff.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    in_a_row: u32,
    last: Option<Instant>,
}

/// A process that runs a model. Killed when dropped.
pub(super) struct ModelProcess {
    child: Child,
    /// The last lines of its standard error.
    complaints: Arc<Mutex<VecDeque<String>>>,
}

// ===== impl ModelProcess =====

impl ModelProcess {
    pub(super) fn start(program: &std::path::Path, stdin: OwnedFd) -> std::io::Result<ModelProcess> {
        let mut child = machine::part_of_this_program(program, RUN_COMMAND, &own_variables())
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let complaints = Arc::<Mutex<VecDeque<String>>>::default();
        if let Some(stderr) = child.stderr.take() {
            let (complaints, id) = (Arc::clone(&complaints), child.id());
            let listen = move || keep_last_lines(stderr, &complaints, id);
            std::thread::Builder::new().name("complaints".to_owned()).spawn(listen)?;
        }
        Ok(ModelProcess { child, complaints })
    }

    /// Kills the process if it still runs. Returns a description of its end, with its last message.
    pub(super) fn end(&mut self, error: &std::io::Error) -> String {
        let ended = match self.child.try_wait() {
            Ok(None) => {
                let _ = self.child.kill();
                // A process that has closed its socket may be about to exit.
                self.child.wait().map(Some)
            }
            ended => ended,
        };
        let how = match ended {
            Ok(Some(status)) => machine::describe_end(status),
            _ => format!("could not be reached ({error})"),
        };
        match self.complaints.lock().back() {
            Some(last) => format!("{how}; its last message was {last:?}"),
            None => how,
        }
    }

    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for ModelProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

fn keep_last_lines(from: impl Read, lines: &Mutex<VecDeque<String>>, process: u32) {
    const MAX_LINE_BYTES: u64 = 1000;
    let mut from = BufReader::new(from);
    let mut logged = 0;
    loop {
        let mut line = Vec::new();
        match from.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        if line.is_empty() {
            continue;
        }
        if logged < MAX_LINES {
            logged += 1;
            tracing::warn!(process, line, "a model's process wrote to standard error");
        }
        let mut lines = lines.lock();
        if lines.len() == MAX_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

// ===== impl Restarts =====

impl Restarts {
    /// Ends of a process that are further apart than this do not count as ends in a row.
    const IN_A_ROW: Duration = Duration::from_secs(60);

    pub(super) fn ended(&mut self, now: Instant) {
        let is_in_a_row = self.last.is_some_and(|last| now.duration_since(last) < Restarts::IN_A_ROW);
        self.in_a_row = if is_in_a_row { self.in_a_row.saturating_add(1) } else { 1 };
        self.last = Some(now);
    }

    /// Counts a successful run. Each successful run cancels out one end, so backoff applies only to a model that
    /// crashes more often than it runs.
    pub(super) fn ran(&mut self) {
        self.in_a_row = self.in_a_row.saturating_sub(1);
    }

    /// Returns the time until the process may be started again; `None` if it may be started now.
    pub(super) fn still_to_wait(&self, now: Instant) -> Option<Duration> {
        let wait = backoff(self.in_a_row).saturating_sub(now.duration_since(self.last?));
        Some(wait).filter(|wait| !wait.is_zero())
    }
}

/// Backoff after this many ends in a row: none after the first, then 100 ms, doubled each time, up to 30 s.
fn backoff(in_a_row: u32) -> Duration {
    const FIRST: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(30);
    match in_a_row.checked_sub(2) {
        None => Duration::ZERO,
        Some(doublings) => FIRST.saturating_mul(1 << doublings.min(16)).min(MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_crashes_all_the_time_is_started_less_and_less_often() {
        let begin = Instant::now();
        let mut restarts = Restarts::default();
        assert_eq!(restarts.still_to_wait(begin), None);
        restarts.ended(begin);
        assert_eq!(restarts.still_to_wait(begin), None);
        let waits: Vec<u64> = (0..12)
            .map(|_| {
                restarts.ended(begin);
                restarts.still_to_wait(begin).unwrap().as_millis() as u64
            })
            .collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000, 30000]);
        // Successful runs cancel out ends.
        (0..11).for_each(|_| restarts.ran());
        restarts.ended(begin);
        assert_eq!(restarts.still_to_wait(begin), Some(Duration::from_millis(200)));
        // A minute without an end resets the count.
        let later = begin + Duration::from_secs(61);
        restarts.ended(later);
        assert_eq!(restarts.still_to_wait(later), None);
    }
}
