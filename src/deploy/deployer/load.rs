//! A load of a version: waits for its turn, runs on a thread of its own, and has a timeout.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::Deployer;
use super::state::ModelState;
use crate::api::admin::Deployment;
use crate::deploy::lifecycle::{Event, Load, LoadFailure, LoadResult};
use crate::deploy::reconcile::time_until_retry;
use crate::error::{Error, LoadFault, Result, SetupError};
use crate::identity::{ModelName, Version};
use crate::machine::lower_priority_of_this_thread;
use crate::registry::{LoadOrder, LoadStep, Pace, PreparedVersion, ServedVersion};
use crate::repository::{Fingerprint, Refusal};

/// Maximum number of concurrent loads while requests are served. Each load takes the memory of a model, and spare
/// cores. At startup a load takes all permits, so that loads run one at a time, each with the whole machine.
pub(super) const LOADS_AT_ONE_TIME: u32 = 2;

/// Maximum number of additional loads that run longer than [`SLOW`]. They release their permits, so that a load that
/// hangs does not block other loads.
pub(super) const SLOW_LOADS_AT_ONE_TIME: usize = 4;

/// Time after which a load counts as slow and releases its permit to other loads.
const SLOW: Duration = Duration::from_secs(5);

/// The `model.toml` that a version has to be loaded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConfigRequirement {
    /// Any `model.toml`: the version only has to serve.
    Any,
    Present,
}

/// Fingerprints of the files that a version was loaded from.
struct LoadedFrom {
    folder: Fingerprint,
    config: Fingerprint,
}

impl Deployer {
    /// Loads the versions that a deployment needs, if they are not loaded already.
    pub(super) async fn load_deployed(self: &Arc<Self>, deployment: &Deployment) -> Result<(), SetupError> {
        for version in deployment.serving_versions().collect::<BTreeSet<_>>() {
            self.load(&deployment.model, version, ConfigRequirement::Any).await?;
        }
        Ok(())
    }

    /// Loads a version, unless it is already loaded. Continues even if the caller stops waiting.
    pub(super) async fn load(
        self: &Arc<Self>,
        name: &ModelName,
        version: Version,
        with: ConfigRequirement,
    ) -> Result<(), SetupError> {
        let Some(mut done) = self.start_load(name, version, with)? else { return Ok(()) };
        let gone = || SetupError::internal("a load ended without a result");
        match self.until(None, done.wait_for(Option::is_some)).await {
            Some(done) => done.map_err(|_| gone())?.clone().unwrap_or_else(|| Err(gone())),
            None => Err(Error::ShuttingDown.into()),
        }
    }

    /// Starts to load a version, unless it is loaded or being loaded already.
    pub(super) fn start_load(
        self: &Arc<Self>,
        name: &ModelName,
        version: Version,
        with: ConfigRequirement,
    ) -> Result<Option<LoadResult>, SetupError> {
        let mut state = self.state.lock();
        let model = state.model(name)?;
        let Some(found) = model.on_disk.versions.get(&version) else {
            // A version in memory can be served, even if its files are gone.
            return if model.is_loaded(version) { Ok(None) } else { Err(model.unknown(version).into()) };
        };
        let order = LoadOrder {
            model: name.clone(),
            version,
            config_place: model.on_disk.config_place.clone(),
            config: Arc::clone(&model.config),
            place: model.place(version),
            pace: self.pace(),
        };
        // The fingerprints as of the last sync. The next sync finds later changes.
        let marks = LoadedFrom { folder: found.mark.clone(), config: model.on_disk.config_mark.clone() };
        let is_good = |served: &Arc<ServedVersion>| {
            with == ConfigRequirement::Any || (served.config == order.config && served.place == order.place)
        };
        if model.served(version).is_some_and(is_good) {
            return Ok(None);
        }
        if let Some((_, load)) = model.loads().find(|(loading, _)| *loading == version) {
            return Ok(Some(load.done.clone()));
        }
        let (finished, done) = watch::channel(None);
        let step = Arc::new(Mutex::new(LoadStep::Waiting));
        let load = Load { step: Arc::clone(&step), since: Timestamp::now(), done: done.clone() };
        model.on(version, Event::LoadStarted(load));
        tokio::spawn(Arc::clone(self).run_load(order, marks, step, finished));
        Ok(Some(done))
    }

    async fn run_load(
        self: Arc<Self>,
        order: LoadOrder,
        marks: LoadedFrom,
        step: Arc<Mutex<LoadStep>>,
        finished: watch::Sender<Option<Result<(), SetupError>>>,
    ) {
        let (name, version, thread) = (order.model.clone(), order.version, Arc::downgrade(&step));
        let prepared = self.prepare_in_turn(&order, step).await;
        let loaded = prepared.and_then(|prepared| self.loader.start(&order, prepared));
        let outcome = loaded.as_ref().map(drop).map_err(Clone::clone);
        {
            let mut state = self.state.lock();
            if let Some(model) = state.models.get_mut(&name) {
                match loaded.and_then(|served| check_replacement(model, served)) {
                    Ok(served) => note_success(model, served),
                    Err(error) => {
                        let (fault, problem) = as_refusal(error);
                        self.loader.monitor.deployments().load_failed(name.as_str(), fault);
                        let (LoadedFrom { folder, config }, retry_at) = (marks, None);
                        note_failure(model, version, LoadFailure { fault, problem, folder, config, retry_at, thread });
                    }
                }
                self.publish(&mut state);
            }
        }
        // The receiver may be gone.
        let _ = finished.send(Some(outcome));
        self.advance_in_background(&name);
    }

    /// Prepares a version once a permit is free. A slow load releases its permit to other loads.
    async fn prepare_in_turn(
        &self,
        order: &LoadOrder,
        step: Arc<Mutex<LoadStep>>,
    ) -> Result<PreparedVersion, SetupError> {
        let places = if order.pace == Pace::Full { LOADS_AT_ONE_TIME } else { 1 };
        let mut place = Some(Arc::clone(&self.loads).acquire_many_owned(places).await);
        let mut preparing = std::pin::pin!(self.prepare(order, step));
        if let Ok(prepared) = tokio::time::timeout(SLOW, &mut preparing).await {
            return prepared;
        }
        let slow_place = Arc::clone(&self.slow_loads).try_acquire_owned();
        if slow_place.is_ok() {
            place = None;
        }
        let prepared = preparing.await;
        drop((place, slow_place));
        prepared
    }

    /// Prepares a version on a thread of its own, which yields to threads that serve requests.
    async fn prepare(&self, order: &LoadOrder, step: Arc<Mutex<LoadStep>>) -> Result<PreparedVersion, SetupError> {
        let (loader, order, pace) = (Arc::clone(&self.loader), order.clone(), order.pace);
        let (model, version, limit) = (order.model.clone(), order.version, loader.load_limit);
        let prepare = move || loader.prepare(&order, &|now| *step.lock() = now);
        let prepared = start_thread(pace, "loader", prepare).map_err(|error| {
            let what = "a thread for the load could not be started";
            Refusal::of_io(LoadFault::Internal, what, &error).about(&model, version)
        })?;
        match tokio::time::timeout(limit, result_of(prepared)).await {
            Ok(prepared) => prepared?,
            // A thread cannot be cancelled. It is abandoned, and its result is dropped.
            Err(_) => {
                let message = format!("it was not loaded within {} ms (loading.timeout_ms)", limit.as_millis());
                Err(SetupError::Load { model, version, fault: LoadFault::Resources, message })
            }
        }
    }

    /// Runs slow work on a thread of its own.
    pub(super) async fn on_a_thread<T: Send + 'static>(
        &self,
        pace: Pace,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        result_of(start_thread(pace, name, work).map_err(Error::internal)?).await
    }
}

/// Starts a thread, and returns the receiver of its result.
fn start_thread<T: Send + 'static>(
    pace: Pace,
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<oneshot::Receiver<T>> {
    let (sender, receiver) = oneshot::channel();
    let work = move || {
        if pace == Pace::Background {
            lower_priority_of_this_thread();
        }
        // The receiver may be gone.
        let _ = sender.send(work());
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
    Ok(receiver)
}

/// Waits for the result of a thread; an error if the thread panicked.
async fn result_of<T>(thread: oneshot::Receiver<T>) -> Result<T> {
    thread.await.map_err(|_| Error::internal("a thread panicked; its message is in the log above"))
}

/// Refuses a reload if the files and their manifest have changed since the version was loaded: they are no longer the
/// deployed version.
fn check_replacement(model: &mut ModelState, served: ServedVersion) -> Result<ServedVersion, SetupError> {
    let version = served.version;
    let ready = model.versions.get(&version).and_then(|known| known.lifecycle.as_ready());
    let Some(before) = ready.filter(|ready| ready.served.manifest != served.manifest) else { return Ok(served) };
    let problem = "the files are no longer those that were loaded; restore them, or add a new version".to_owned();
    let compared = before.compared.clone();
    model.on(version, Event::Compared(compared, Some(problem.clone())));
    Err(SetupError::Load { model: served.model.clone(), version, fault: LoadFault::Digest, message: problem })
}

fn note_success(model: &mut ModelState, served: ServedVersion) {
    let (version, compared) = (served.version, served.fingerprint.clone());
    let known = model.versions.entry(version).or_default();
    known.transient_refusals = 0;
    if known.logged.take().is_some() {
        tracing::info!(model = %served.model, %version, "resolved: the version is loaded");
    }
    model.on(version, Event::Loaded(Arc::new(served), compared));
}

/// Records a failed load: sets the time of the next attempt, if the fault is transient, and logs a problem that was not
/// logged before.
fn note_failure(model: &mut ModelState, version: Version, failure: LoadFailure) {
    let LoadFailure { fault, problem, .. } = &failure;
    let known = model.versions.entry(version).or_default();
    // A repeated problem is not logged again: a version whose files are being copied may be tried at every sync.
    let is_logged = known.logged.as_ref().is_some_and(|logged| match fault.is_transient() {
        true => is_same_but_for_numbers(logged, problem),
        false => logged == problem,
    });
    if !is_logged {
        let name = &model.on_disk.name;
        tracing::error!(model = %name, %version, reason = fault.name(), problem, "not loaded");
        known.logged = Some(problem.clone());
    }
    known.transient_refusals = if fault.is_transient() { known.transient_refusals + 1 } else { 0 };
    let retry_at = fault.is_transient().then(|| Instant::now() + time_until_retry(known.transient_refusals));
    model.on(version, Event::LoadFailed(LoadFailure { retry_at, ..failure }));
}

/// Returns the fault and the problem of a load that ended with this error.
fn as_refusal(error: SetupError) -> (LoadFault, String) {
    match error {
        SetupError::Load { fault, message, .. } => (fault, message),
        other => (LoadFault::Internal, other.to_string()),
    }
}

/// Returns true if two problems are the same except for their numbers, such as the free memory.
fn is_same_but_for_numbers(one: &str, other: &str) -> bool {
    let words = |problem: &str| problem.replace(|letter: char| letter.is_ascii_digit(), "");
    words(one) == words(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_that_differ_in_numbers_are_the_same() {
        assert!(is_same_but_for_numbers("90 MiB are available", "1024 MiB are available"));
        assert!(!is_same_but_for_numbers("90 MiB are available", "90 threads are available"));
    }
}
