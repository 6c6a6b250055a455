//! Makes a version ready to serve: verify → try out in another process → open → warm up → check the examples → start.
//!
//! Everything up to the start is done on a thread of its own. This file does not know the traffic of the version.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::value::RawValue;

use super::catalog::{ServedChain, ServedPipeline, ServedVersion, Work};
use super::findings::{Findings, GraphFinding, MAX_COMPARING, WarmUp, remedy};
use super::load_order::{LoadOrder, LoadStep, Pace};
use super::opened_version::OpenedVersion;
use super::remembered::Tried;
use super::run_limit::RunLimit;
use super::trial::Trial;
use crate::budget::StageCosts;
use crate::config::{Batching, Chain, ChainStep, Provider, SessionPlace, StepInstances, Threads, available_cores};
use crate::error::{Error, LoadFault, Result, SetupError};
use crate::identity::{ModelName, Sha256, Version, VersionKey};
use crate::machine;
use crate::model::{
    Engine, Independence, InlineSlots, ModelSettings, OnnxModel, ServiceTime, Session, Stopwatch, measure,
};
use crate::monitor::{Monitor, MonitoringSpec, VersionLabels};
use crate::pipeline::Stages;
use crate::repository::{Fingerprint, FoundVersion, Manifest, Refusal, Store, Trust, TrustedKeys, VerifiedVersion};

/// Loads versions. They all share one engine, stages and a monitor.
#[derive(Debug)]
pub struct Loader {
    /// The store of the versions.
    pub store: Arc<dyn Store>,
    /// Keys, one of which versions have to be signed with.
    pub trusted_keys: TrustedKeys,
    /// The engine that loads and runs models.
    pub engine: Arc<dyn Engine>,
    /// The engine that loads and runs models in processes of their own, if possible.
    pub isolated_engine: Option<Arc<dyn Engine>>,
    /// The kinds of stages that a `model.toml` can name.
    pub stages: Stages,
    /// The monitor of all requests.
    pub monitor: Arc<Monitor>,
    /// Limits the number of inline runs.
    pub inline_slots: Arc<InlineSlots>,
    /// Trial of each version in another process, before it is loaded; `None` for no trial.
    pub trial: Option<Trial>,
    /// Timeout of the first runs of a version.
    pub run_limit: RunLimit,
    /// Timeout of a load as a whole.
    pub load_limit: Duration,
}

/// A version that is loaded and checked, but whose workers are not started yet.
#[derive(Debug)]
pub enum PreparedVersion {
    /// A version with an ONNX model.
    Model(Box<PreparedModel>),
    /// A chain, whose steps are checked when it is published.
    Chain(Chain, Fingerprint),
}

/// A version with an ONNX model, whose workers are not started yet.
pub struct PreparedModel {
    opened: OpenedVersion,
    sessions: Vec<Box<dyn Session>>,
    service: ServiceTime,
    findings: Findings,
    took: Duration,
}

impl Loader {
    /// Does all steps of a load except the start of the workers, and reports the progress.
    pub fn prepare(&self, order: &LoadOrder, progress: &dyn Fn(LoadStep)) -> Result<PreparedVersion, SetupError> {
        fail::fail_point!("load::begun");
        let begin = Instant::now();
        let (model, version) = (&order.model, order.version);
        tracing::info!(%model, %version, "loading");
        let refused = |refusal: Refusal| refusal.transient_if_about_memory().about(model, version);
        if let Some(chain) = order.config.chain().map_err(SetupError::Config)? {
            return self.prepare_chain(order, chain).map_err(refused);
        }
        let prepared = self.prepare_version(order, progress).map_err(refused)?;
        Ok(PreparedVersion::Model(Box::new(PreparedModel { took: begin.elapsed(), ..prepared })))
    }

    /// Refuses a chain that has files. A chain is its `model.toml`, and always version 1.
    fn prepare_chain(&self, order: &LoadOrder, chain: Chain) -> Result<PreparedVersion, Refusal> {
        let fingerprint = self.store.version_fingerprint(&order.model, order.version);
        if order.version != Version::FIRST || fingerprint != Fingerprint::default() {
            let problem = format!(
                "{} has [[steps]]: a chain has no files, and is always version 1; move the folder {} away, or remove the \
                 steps",
                order.config_place, order.version
            );
            return Err(Refusal::new(LoadFault::Config, problem));
        }
        Ok(PreparedVersion::Chain(chain, fingerprint))
    }

    /// Returns the engine that opens sessions with this placement.
    fn engine_for(&self, place: SessionPlace) -> Result<&dyn Engine, Refusal> {
        match (place, &self.isolated_engine) {
            (SessionPlace::Server, _) => Ok(&*self.engine),
            (SessionPlace::OwnProcesses, Some(isolated)) => Ok(&**isolated),
            (SessionPlace::OwnProcesses, None) => Err(Refusal::new(
                LoadFault::Config,
                "model.isolation: this program cannot start itself as another process",
            )),
        }
    }

    fn prepare_version(&self, order: &LoadOrder, progress: &dyn Fn(LoadStep)) -> Result<PreparedModel, Refusal> {
        let check_threads = |threads| check_threads(threads, available_cores(), machine::threads_left());
        check_threads(order.config.model.threads())?;
        progress(LoadStep::Verifying);
        let trust = Trust { keys: &self.trusted_keys, model: &order.model, version: order.version };
        let found = FoundVersion::find_trusted(self.store.materialise(&order.model, order.version)?, trust)?;
        let tried = Tried::of(self.trial.as_ref(), order, &found, progress)?;
        progress(LoadStep::Opening);
        let order = &order.sized(tried.findings.as_ref().and_then(|findings| findings.sizing.as_ref()));
        // Other loads may have started their threads meanwhile.
        check_threads(order.config.model.threads())?;
        let (opened, mut first) = self.open(order, found, &tried)?;
        // These runs have a timeout too: a run that ended in the trial may hang here by chance.
        let mut findings = self.run_limit.end_in_time(&mut *first, |session| match tried.findings {
            Some(findings) => {
                opened.warm_up(session, &findings.warm_up)?;
                opened.check_golden(session)?;
                Ok(findings)
            }
            None => opened.examine(session, MAX_COMPARING),
        })??;
        findings.check_budget(&order.config.budget);
        let service = match &findings.warm_up {
            WarmUp::Ran(rows) if rows.is_typical() => {
                let stopwatch = stopwatch(order.pace, opened.loaded.provider());
                let policy = opened.sharing(&findings).policy();
                let inputs = |count| opened.inputs(rows, count);
                self.run_limit.end_in_time(&mut *first, |session| measure(session, &inputs, policy, stopwatch))?
            }
            WarmUp::Ran(_) | WarmUp::Failed { .. } => ServiceTime::default(),
        };
        let mut sessions = vec![first];
        while sessions.len() < opened.threads().workers.get() {
            let mut session = opened.session()?;
            self.run_limit.end_in_time(&mut *session, |session| opened.warm_up(session, &findings.warm_up))??;
            sessions.push(session);
        }
        Ok(PreparedModel { opened, sessions, service, findings, took: Duration::ZERO })
    }

    /// Opens a version with its first session, on the kept graph of its model if that answers as it did.
    fn open(
        &self,
        order: &LoadOrder,
        found: FoundVersion,
        tried: &Tried,
    ) -> Result<(OpenedVersion, Box<dyn Session>), Refusal> {
        let open = |verified: VerifiedVersion| -> Result<_, Refusal> {
            let opened = OpenedVersion::open(self.engine_for(order.place)?, &self.stages, order, verified)?;
            let session = opened.session()?;
            Ok((opened, session))
        };
        let (Some(kept), Some(findings)) = (&tried.graph, &tried.findings) else {
            // Reads the model into memory only now: one that is too large or invalid has been refused before.
            return open(found.read()?);
        };
        let (verified, is_intact) = std::thread::scope(|scope| {
            let check = scope.spawn(|| kept.is_intact());
            (found.clone().read(), check.join().unwrap_or(false))
        });
        let mut verified = verified?;
        if !is_intact {
            tried.forget(self.trial.as_ref(), order, "it is damaged");
            return open(verified);
        }
        verified.optimised = Some(kept.graph.clone());
        let opened = open(verified).and_then(|(opened, mut session)| {
            let answers = |session: &mut dyn Session| opened.answers(session, &findings.warm_up);
            let answers = self.run_limit.end_in_time(&mut *session, answers)?;
            Ok((opened, session, answers))
        });
        match opened {
            Ok((opened, session, Some(answers))) if findings.graph == GraphFinding::Same(answers) => {
                return Ok((opened, session));
            }
            Ok(differs) => {
                drop(differs);
                tried.forget(self.trial.as_ref(), order, "its answers differ from those of the trial");
            }
            Err(refusal) => tried.forget(self.trial.as_ref(), order, &refusal.message),
        }
        open(found.read()?)
    }

    /// Starts the workers. Must not be called on a thread of low priority, because workers inherit the priority.
    pub fn start(&self, order: &LoadOrder, prepared: PreparedVersion) -> Result<ServedVersion, SetupError> {
        match prepared {
            PreparedVersion::Model(prepared) => self.start_model(order, *prepared),
            PreparedVersion::Chain(chain, fingerprint) => self.start_chain(order, chain, fingerprint),
        }
    }

    /// Makes a chain ready to serve. Its identity is the digest of its settings, because it has no files.
    fn start_chain(
        &self,
        order: &LoadOrder,
        chain: Chain,
        fingerprint: Fingerprint,
    ) -> Result<ServedVersion, SetupError> {
        let (name, version, config) = (&order.model, order.version, &order.config);
        let sha256 = Sha256::of(&serde_json::to_vec(&**config).map_err(Error::internal)?);
        let labels = VersionLabels {
            model: name.to_string(),
            version: version.to_string(),
            sha256: sha256.to_string(),
            provider: "none",
        };
        let watched = MonitoringSpec {
            settings: config.monitoring.clone(),
            limits: config.rollout.event_limits(),
            steps: chain.steps.iter().map(|step| step.name.to_string()).collect(),
            ..MonitoringSpec::default()
        };
        let is_crop = |step: &ChainStep| matches!(step.instances, StepInstances::Crops { .. });
        let step_costs = chain.steps.iter().map(|step| StageCosts::of(is_crop(step), false)).collect();
        let models: Vec<&str> = chain.steps.iter().map(|step| step.model.as_str()).collect();
        tracing::info!(model = %name, %version, sha256 = sha256.short(), steps = models.join(", "), "loaded a chain");
        Ok(ServedVersion {
            model: name.clone(),
            version,
            key: VersionKey::of(name, version),
            sha256,
            manifest: Arc::new(Manifest::of(BTreeMap::new())),
            fingerprint,
            config: Arc::clone(config),
            place: order.place,
            loaded_at: Timestamp::now(),
            load_took: Duration::ZERO,
            identity: identity(name, version, sha256)?,
            example: None,
            budget: config.budget,
            recorder: self.monitor.version(labels, config.budget, watched),
            work: Work::Chain(ServedChain { chain, costs: StageCosts::default(), step_costs }),
        })
    }

    fn start_model(&self, order: &LoadOrder, prepared: PreparedModel) -> Result<ServedVersion, SetupError> {
        let PreparedModel { opened, sessions, service, mut findings, took } = prepared;
        let (name, version, config) = (&order.model, order.version, &order.config);
        let sha256 = opened.verified.identity;
        let labels = VersionLabels {
            model: name.to_string(),
            version: version.to_string(),
            sha256: sha256.to_string(),
            provider: opened.loaded.provider().name(),
        };
        let watched = MonitoringSpec {
            schema: opened.preprocessor.features(),
            classes: opened.class_names(),
            baseline: opened.verified.baseline.clone(),
            settings: config.monitoring.clone(),
            steps: Vec::new(),
            limits: config.rollout.event_limits(),
        };
        let recorder = self.monitor.version(labels, config.budget, watched);
        recorder.set_load_duration(took);
        let sharing = Arc::new(opened.sharing(&findings));
        let (intra_op_threads, settings) = (opened.threads().intra_op.get(), &opened.config().model);
        let settings = ModelSettings { session: settings, budget: &config.budget, sharing };
        let thread_name = format!("{name}-{version}");
        let model =
            OnnxModel::start(&thread_name, &opened.loaded, sessions, settings, service, &recorder, &self.inline_slots)?;
        let costs = StageCosts::of(opened.preprocessor.is_heavy(), opened.postprocessor.is_heavy());
        let example = findings.example.take().map(|example| RawValue::from_string(example.instance));
        let example = example.transpose().map_err(Error::internal)?;
        let (verified, stages) = opened.into_pipeline(model);
        let served = ServedVersion {
            model: name.clone(),
            version,
            key: VersionKey::of(name, version),
            sha256,
            manifest: verified.manifest,
            fingerprint: verified.fingerprint,
            config: Arc::clone(config),
            place: order.place,
            loaded_at: Timestamp::now(),
            load_took: took,
            identity: identity(name, version, sha256)?,
            example,
            budget: config.budget,
            recorder,
            work: Work::Pipeline(ServedPipeline { stages, costs, intra_op_threads, findings }),
        };
        if let Work::Pipeline(pipeline) = &served.work {
            tell_of(&served, pipeline);
            let model = &pipeline.stages.model;
            tracing::info!(
                model = %name, %version, sha256 = sha256.short(), provider = model.provider().name(),
                workers = model.workers(), threads = intra_op_threads, took_ms = took.as_millis() as u64,
                "loaded"
            );
        }
        Ok(served)
    }
}

/// Refuses a version that needs more threads than the machine allows. A runtime that cannot start its threads may wait
/// forever, or end the process.
fn check_threads(threads: Threads, cores: NonZeroUsize, left: Option<u64>) -> Result<(), Refusal> {
    /// Threads beyond this number would only wait for each other.
    const MAX_PER_CORE: u64 = 16;
    /// Threads that are left for requests, for other work of the server, and for a trial.
    const RESERVE: u64 = 16;
    let Threads { workers, intra_op } = threads;
    let wanted = workers.get() as u64 * intra_op.get() as u64;
    let by_cores = MAX_PER_CORE * cores.get().max(4) as u64;
    let (most, because, fault) = match left.map(|left| left.saturating_sub(RESERVE)) {
        Some(left) if left < by_cores => {
            let because = "left by the limits of processes (pids.max, RLIMIT_NPROC)".to_owned();
            // Transient, because other processes may end threads, unless the cores are too few anyway.
            (left, because, if wanted <= by_cores { LoadFault::Resources } else { LoadFault::Config })
        }
        _ => {
            let because = format!("{MAX_PER_CORE} for each of {cores} cores, but at least {}", 4 * MAX_PER_CORE);
            (by_cores, because, LoadFault::Config)
        }
    };
    if wanted <= most {
        return Ok(());
    }
    let problem = format!(
        "model.workers = {workers} and model.intra_op_threads = {intra_op} make {wanted} threads; at most {most} are \
         possible here ({because})"
    );
    Err(Refusal::new(fault, problem))
}

/// Logs the findings about a loaded version.
fn tell_of(served: &ServedVersion, ServedPipeline { stages, findings, .. }: &ServedPipeline) {
    let (model, version, sharing) = (&served.model, served.version, stages.model.sharing());
    let batching = if sharing.is_on() { "on" } else { "off" };
    match sharing.independence() {
        found @ Independence::Dependent(_) if sharing.setting() == Batching::Always => {
            tracing::warn!(
                %model, %version, batching,
                "{found}; requests share runs all the same, because model.toml says batching = \"always\": their answers \
                 depend on other requests"
            );
        }
        found @ (Independence::Dependent(_) | Independence::Unknown { .. }) => {
            tracing::warn!(%model, %version, batching, "{found}");
        }
        found @ (Independence::Independent { .. } | Independence::FixedBatch { .. }) => {
            tracing::info!(%model, %version, batching, "{found}");
        }
    }
    if let Some(found) = findings.padding.as_ref().filter(|_| !findings.may_be_padded() && sharing.is_on()) {
        tracing::warn!(%model, %version, "only texts of one length share a run: with padding, {found}");
    }
    if let WarmUp::Failed { attempts, example } = &findings.warm_up {
        let (tried, reason) = attempts.first().map(|first| (&*first.inputs, &*first.problem)).unwrap_or_default();
        tracing::warn!(
            %model, %version, tried, reason,
            "the test run on made-up inputs failed; {}", remedy(example.as_deref())
        );
    }
    if let Some(problem) = &findings.budget_problem {
        tracing::warn!(%model, %version, "{problem}");
    }
    for remark in findings.sizing.iter().map(|sizing| &sizing.reason).chain(&findings.remarks) {
        tracing::info!(%model, %version, "{remark}");
    }
}

fn stopwatch(pace: Pace, provider: Provider) -> Stopwatch {
    match (pace, provider) {
        (Pace::Background, Provider::Cpu) => Stopwatch::ProcessorTime,
        (Pace::Background, Provider::Cuda) | (Pace::Full, _) => Stopwatch::WallTime,
    }
}

/// Returns the JSON object `{"name", "version", "sha256"}` of a version, serialized once for all responses.
fn identity(name: &ModelName, version: Version, sha256: Sha256) -> Result<Box<RawValue>> {
    #[derive(serde::Serialize)]
    struct Identity<'a> {
        name: &'a str,
        version: Version,
        sha256: Sha256,
    }
    serde_json::value::to_raw_value(&Identity { name: name.as_str(), version, sha256 }).map_err(Error::internal)
}

impl std::fmt::Debug for PreparedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PreparedModel").field("sessions", &self.sessions.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_bounded_by_the_machine_and_by_what_is_left() {
        let count = |count| NonZeroUsize::new(count).unwrap();
        let check = |workers, intra_op, cores, left| {
            let threads = Threads { workers: count(workers), intra_op: count(intra_op) };
            check_threads(threads, count(cores), left).map_err(|refusal| (refusal.fault, refusal.message))
        };
        assert_eq!(check(1, 2, 2, None), Ok(()));
        assert_eq!(check(8, 8, 2, Some(10_000)), Ok(()));
        assert_eq!(check(64, 8, 32, Some(10_000)), Ok(()));
        let (fault, refused) = check(256, 64, 2, Some(10_000)).unwrap_err();
        assert_eq!(fault, LoadFault::Config);
        assert!(
            refused.contains("make 16384 threads; at most 64 are possible here (16 for each of 2 cores"),
            "{refused}"
        );
        // Free threads do not help: the cores are too few.
        assert_eq!(check(256, 64, 2, Some(50)).unwrap_err().0, LoadFault::Config);
        let (fault, refused) = check(8, 8, 2, Some(50)).unwrap_err();
        assert_eq!(fault, LoadFault::Resources);
        assert!(
            refused.contains("make 64 threads; at most 34 are possible here") && refused.contains("pids.max"),
            "{refused}"
        );
        assert!(check(1, 1, 2, Some(3)).is_err());
    }
}
