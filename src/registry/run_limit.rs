//! Timeout of the first runs of a version, before it serves.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::error::LoadFault;
use crate::model::Session;
use crate::repository::Refusal;

/// Timeout of the first runs of a version.
#[derive(Debug, Clone, Copy)]
pub struct RunLimit(pub Duration);

impl RunLimit {
    /// Calls `work` with a session, and ends the session's runs at the limit. If the limit is reached, the version is
    /// refused, even if `work` succeeds.
    pub(super) fn end_in_time<T>(
        self,
        session: &mut dyn Session,
        work: impl FnOnce(&mut dyn Session) -> T,
    ) -> Result<T, Refusal> {
        let interrupt = session.interrupt();
        let (finished, is_finished) = mpsc::channel::<()>();
        let watch = move || {
            let has_expired = is_finished.recv_timeout(self.0) == Err(RecvTimeoutError::Timeout);
            if has_expired {
                interrupt.end_runs();
            }
            has_expired
        };
        let watched = std::thread::scope(|scope| {
            let watchdog = std::thread::Builder::new().name("run-limit".to_owned()).spawn_scoped(scope, watch)?;
            let outcome = work(session);
            drop(finished);
            std::io::Result::Ok((outcome, watchdog.join().unwrap_or(false)))
        });
        match watched {
            Ok((outcome, false)) => Ok(outcome),
            Ok((_, true)) => Err(Refusal::new(
                LoadFault::Trial,
                format!(
                    "its first runs did not finish within {} ms and were ended (loading.trial_timeout_ms)",
                    self.0.as_millis()
                ),
            )),
            Err(error) => {
                Err(Refusal::of_io(LoadFault::Internal, "a thread that watches runs could not be started", &error))
            }
        }
    }
}
