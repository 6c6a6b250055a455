//! The life cycle of a version in the server. Pure: nothing is loaded here.

use std::sync::{Arc, Weak};
use std::time::Instant;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::reconcile::LoadState;
use crate::api::admin::VersionState;
use crate::error::{LoadFault, Result, SetupError};
use crate::registry::LoadStep;
use crate::repository::Fingerprint;

/// State of a version. `V` is the type of a version that serves.
///
/// | state | event | next state |
/// |---|---|---|
/// | available, failed | load started | loading |
/// | loading | loaded | ready |
/// | loading | load failed | failed |
/// | failed | retry allowed | available |
/// | ready | load started | ready, with a reload running |
/// | ready, reload running | loaded | ready, with the version that was loaded |
/// | ready, reload running | load failed | ready, with the former version and a failed reload |
/// | ready, reload failed | retry allowed | ready |
/// | ready | compared | ready, with files as loaded or altered |
/// | ready | retired | available; loading if a reload is running, failed if it failed |
///
/// All other events are illegal and change nothing.
#[derive(Debug, Default)]
pub(super) enum Lifecycle<V> {
    /// On disk, but not in memory.
    #[default]
    Available,
    /// Being loaded for the first time.
    Loading(Load),
    /// Serves requests.
    Ready(Ready<V>),
    /// Refused by its last load.
    Failed(LoadFailure),
}

/// A version that serves requests.
#[derive(Debug)]
pub(super) struct Ready<V> {
    /// The version.
    pub(super) served: V,
    /// State of its reload.
    pub(super) reload: Reload,
    /// Fingerprint of its folder when its files were last compared with what was loaded.
    pub(super) compared: Fingerprint,
    /// The difference between its files and what was loaded, if there is one.
    pub(super) altered: Option<String>,
}

/// Reload of a version that serves, with a changed `model.toml` or in another process.
#[derive(Debug, Default)]
pub(super) enum Reload {
    /// No reload.
    #[default]
    Idle,
    Running(Load),
    /// The reload was refused. The former version continues to serve.
    Failed(LoadFailure),
}

/// The result of a load, once it has ended.
pub(super) type LoadResult = watch::Receiver<Option<Result<(), SetupError>>>;

/// A running load.
#[derive(Debug, Clone)]
pub(super) struct Load {
    /// Progress of the load.
    pub(super) step: Arc<Mutex<LoadStep>>,
    /// Start of the load.
    pub(super) since: Timestamp,
    /// Result of the load, once it has ended.
    pub(super) done: LoadResult,
}

/// A failed load, with the fingerprints of its files. It is tried again once one of them has changed or, if the fault
/// is transient, at `retry_at`.
#[derive(Debug)]
pub(super) struct LoadFailure {
    /// Kind of the problem.
    pub(super) fault: LoadFault,
    /// The problem, and its remedy.
    pub(super) problem: String,
    /// Fingerprint of the version's folder.
    pub(super) folder: Fingerprint,
    /// Fingerprint of `model.toml`.
    pub(super) config: Fingerprint,
    /// Time of the next attempt; `None` if the fault is not transient.
    pub(super) retry_at: Option<Instant>,
    /// Can be upgraded for as long as the thread of the load runs. A load that timed out continues to run and keeps its
    /// memory.
    pub(super) thread: Weak<Mutex<LoadStep>>,
}

/// An event in the life of a version.
#[derive(Debug)]
pub(super) enum Event<V> {
    /// A load has started.
    LoadStarted(Load),
    /// The load has ended with a version that can serve, from a folder with this fingerprint.
    Loaded(V, Fingerprint),
    /// The load has failed.
    LoadFailed(LoadFailure),
    /// The files of a failed load have changed, or its backoff is over.
    RetryAllowed,
    /// The files were compared. Holds the fingerprint of the folder, and the difference, if there is one.
    Compared(Fingerprint, Option<String>),
    /// The version stops serving.
    Retired,
}

/// An event that is illegal in the state of the version.
#[derive(Debug, thiserror::Error)]
#[error("a version that is {state} cannot be {event}")]
pub(super) struct IllegalEvent {
    state: &'static str,
    event: &'static str,
}

impl<V> Lifecycle<V> {
    /// Changes to the state that follows this event.
    pub(super) fn on(&mut self, event: Event<V>) -> Result<(), IllegalEvent> {
        let next = match (std::mem::take(self), event) {
            (Lifecycle::Available | Lifecycle::Failed(_), Event::LoadStarted(load)) => Lifecycle::Loading(load),
            (Lifecycle::Loading(_), Event::Loaded(served, compared)) => Lifecycle::ready(served, compared),
            (Lifecycle::Loading(_), Event::LoadFailed(failure)) => Lifecycle::Failed(failure),
            (Lifecycle::Failed(_), Event::RetryAllowed) => Lifecycle::Available,
            (Lifecycle::Ready(Ready { reload: Reload::Running(_), .. }), Event::Loaded(served, compared)) => {
                Lifecycle::ready(served, compared)
            }
            (Lifecycle::Ready(ready), Event::Compared(compared, altered)) => {
                Lifecycle::Ready(Ready { compared, altered, ..ready })
            }
            (Lifecycle::Ready(Ready { served, reload, compared, altered }), event) => {
                let ready = |reload| Lifecycle::Ready(Ready { served, reload, compared, altered });
                match (reload, event) {
                    (Reload::Idle | Reload::Failed(_), Event::LoadStarted(load)) => ready(Reload::Running(load)),
                    (Reload::Running(_), Event::LoadFailed(failure)) => ready(Reload::Failed(failure)),
                    (Reload::Failed(_), Event::RetryAllowed) => ready(Reload::Idle),
                    (Reload::Idle, Event::Retired) => Lifecycle::Available,
                    (Reload::Running(load), Event::Retired) => Lifecycle::Loading(load),
                    (Reload::Failed(failure), Event::Retired) => Lifecycle::Failed(failure),
                    (reload, event) => return self.refuse(ready(reload), &event),
                }
            }
            (state, event) => return self.refuse(state, &event),
        };
        *self = next;
        Ok(())
    }

    fn ready(served: V, compared: Fingerprint) -> Lifecycle<V> {
        Lifecycle::Ready(Ready { served, reload: Reload::Idle, compared, altered: None })
    }

    fn refuse(&mut self, state: Lifecycle<V>, event: &Event<V>) -> Result<(), IllegalEvent> {
        let illegal = IllegalEvent { state: state.name(), event: event.name() };
        *self = state;
        Err(illegal)
    }

    /// Returns the version if it serves.
    pub(super) fn served(&self) -> Option<&V> {
        self.as_ready().map(|ready| &ready.served)
    }

    /// Returns the state of a version that serves.
    pub(super) fn as_ready(&self) -> Option<&Ready<V>> {
        match self {
            Lifecycle::Ready(ready) => Some(ready),
            _ => None,
        }
    }

    /// Returns the running load, even if the version serves meanwhile.
    pub(super) fn load(&self) -> Option<&Load> {
        match self {
            Lifecycle::Loading(load) | Lifecycle::Ready(Ready { reload: Reload::Running(load), .. }) => Some(load),
            _ => None,
        }
    }

    /// Returns the last load if it failed, even if the version serves.
    pub(super) fn failure(&self) -> Option<&LoadFailure> {
        match self {
            Lifecycle::Failed(failure) | Lifecycle::Ready(Ready { reload: Reload::Failed(failure), .. }) => {
                Some(failure)
            }
            _ => None,
        }
    }

    /// Returns true if the version is only on disk: not loaded, not being loaded, and not refused.
    pub(super) fn is_available(&self) -> bool {
        matches!(self, Lifecycle::Available)
    }

    /// Returns the load state, from which the next steps are decided. `is_current` returns true if a version was loaded
    /// as it is configured now.
    pub(super) fn live(&self, is_current: impl FnOnce(&V) -> bool) -> Option<LoadState> {
        match self {
            Lifecycle::Available => None,
            Lifecycle::Loading(_) => Some(LoadState::Loading),
            Lifecycle::Failed(_) => Some(LoadState::Refused),
            Lifecycle::Ready(Ready { reload: Reload::Running(_), .. }) => Some(LoadState::Reloading),
            // The reload failed: the version stays as it is.
            Lifecycle::Ready(Ready { reload: Reload::Failed(_), .. }) => Some(LoadState::Loaded),
            Lifecycle::Ready(Ready { served, .. }) if is_current(served) => Some(LoadState::Loaded),
            Lifecycle::Ready(_) => Some(LoadState::Outdated),
        }
    }

    /// Returns the state that operators see.
    pub(super) fn shown(&self) -> VersionState {
        match self {
            Lifecycle::Available => VersionState::Available,
            Lifecycle::Loading(Load { step, since, .. }) => VersionState::Loading { step: *step.lock(), since: *since },
            Lifecycle::Ready(_) => VersionState::Loaded,
            Lifecycle::Failed(LoadFailure { fault, problem, .. }) => {
                VersionState::Refused { fault: *fault, problem: problem.clone() }
            }
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Lifecycle::Available => "available",
            Lifecycle::Loading(_) => "loading",
            Lifecycle::Ready(_) => "ready",
            Lifecycle::Failed(_) => "failed",
        }
    }
}

impl<V> Event<V> {
    fn name(&self) -> &'static str {
        match self {
            Event::LoadStarted(_) => "loaded (again)",
            Event::Loaded(..) => "done with a load",
            Event::LoadFailed(_) => "done with a failed load",
            Event::RetryAllowed => "tried again",
            Event::Compared(..) => "compared with its files",
            Event::Retired => "retired",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> Load {
        let step = Arc::new(Mutex::new(LoadStep::Waiting));
        Load { step, since: Timestamp::UNIX_EPOCH, done: watch::channel(None).1 }
    }

    fn failure() -> LoadFailure {
        let (folder, config) = (Fingerprint::default(), Fingerprint::default());
        let problem = "no memory".to_owned();
        LoadFailure { fault: LoadFault::Resources, problem, folder, config, retry_at: None, thread: Weak::new() }
    }

    fn event(name: &str) -> Event<u32> {
        let nothing = Fingerprint::default;
        match name {
            "start" => Event::LoadStarted(load()),
            "loaded 1" => Event::Loaded(1, nothing()),
            "loaded 2" => Event::Loaded(2, nothing()),
            "failed" => Event::LoadFailed(failure()),
            "retry" => Event::RetryAllowed,
            "altered" => Event::Compared(nothing(), Some("other weights".to_owned())),
            "intact" => Event::Compared(nothing(), None),
            "retired" => Event::Retired,
            other => panic!("{other}"),
        }
    }

    const EVENTS: [&str; 8] = ["start", "loaded 1", "loaded 2", "failed", "retry", "altered", "intact", "retired"];

    fn described(state: &Lifecycle<u32>) -> String {
        let Lifecycle::Ready(Ready { served, reload, altered, .. }) = state else { return state.name().to_owned() };
        let reload = match reload {
            Reload::Idle => "",
            Reload::Running(_) => ", reloading",
            Reload::Failed(_) => ", reload failed",
        };
        format!("ready {served}{reload}{}", if altered.is_some() { ", altered" } else { "" })
    }

    fn after(events: &[&str]) -> Lifecycle<u32> {
        let mut state = Lifecycle::default();
        events.iter().for_each(|name| state.on(event(name)).unwrap());
        state
    }

    /// Checks the state after `events`, the legal events in it, and the states that they lead to.
    fn check(events: &[&str], state: &str, legal: &[(&str, &str)]) {
        assert_eq!(described(&after(events)), state);
        for name in EVENTS {
            let mut next = after(events);
            let changed = next.on(event(name));
            match legal.iter().find(|(legal, _)| *legal == name) {
                Some((_, expected)) => {
                    assert_eq!((changed.is_ok(), described(&next).as_str()), (true, *expected), "{name}")
                }
                None => assert_eq!((changed.is_err(), described(&next).as_str()), (true, state), "{name}"),
            }
        }
    }

    #[test]
    fn every_event_in_every_state_does_what_the_table_says() {
        check(&[], "available", &[("start", "loading")]);
        check(&["start"], "loading", &[("loaded 1", "ready 1"), ("loaded 2", "ready 2"), ("failed", "failed")]);
        check(&["start", "failed"], "failed", &[("start", "loading"), ("retry", "available")]);
        check(
            &["start", "loaded 1"],
            "ready 1",
            &[
                ("start", "ready 1, reloading"),
                ("altered", "ready 1, altered"),
                ("intact", "ready 1"),
                ("retired", "available"),
            ],
        );
        check(
            &["start", "loaded 1", "altered", "start"],
            "ready 1, reloading, altered",
            &[
                ("loaded 1", "ready 1"),
                ("loaded 2", "ready 2"),
                ("failed", "ready 1, reload failed, altered"),
                ("altered", "ready 1, reloading, altered"),
                ("intact", "ready 1, reloading"),
                ("retired", "loading"),
            ],
        );
        check(
            &["start", "loaded 1", "start", "failed"],
            "ready 1, reload failed",
            &[
                ("start", "ready 1, reloading"),
                ("retry", "ready 1"),
                ("altered", "ready 1, reload failed, altered"),
                ("intact", "ready 1, reload failed"),
                ("retired", "failed"),
            ],
        );
    }

    #[test]
    fn a_version_serves_from_its_first_load_until_it_is_retired() {
        assert_eq!(after(&["start"]).served(), None);
        assert_eq!(after(&["start", "loaded 1", "start"]).served(), Some(&1));
        assert_eq!(after(&["start", "loaded 1", "start", "failed", "retry"]).served(), Some(&1));
        assert_eq!(after(&["start", "loaded 1", "start", "loaded 2"]).served(), Some(&2));
        assert_eq!(after(&["start", "loaded 1", "start", "retired"]).served(), None);
    }

    #[test]
    fn the_next_steps_follow_from_the_state() {
        let live = |events: &[&str], is_current: bool| after(events).live(|_| is_current);
        assert_eq!(live(&[], true), None);
        assert_eq!(live(&["start"], true), Some(LoadState::Loading));
        assert_eq!(live(&["start", "failed"], true), Some(LoadState::Refused));
        assert_eq!(live(&["start", "loaded 1"], true), Some(LoadState::Loaded));
        assert_eq!(live(&["start", "loaded 1"], false), Some(LoadState::Outdated));
        assert_eq!(live(&["start", "loaded 1", "start"], false), Some(LoadState::Reloading));
        assert_eq!(live(&["start", "loaded 1", "start", "failed"], false), Some(LoadState::Loaded));
    }

    #[test]
    fn an_illegal_event_says_why() {
        let error = after(&["start"]).on(event("retired")).unwrap_err();
        assert_eq!(error.to_string(), "a version that is loading cannot be retired");
    }
}
