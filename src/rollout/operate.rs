//! Rollouts as operators handle them: start, look at, pause, resume, abort, promote; and versions that arrive by themselves.

use jiff::Timestamp;

use super::controller::Rollouts;
use super::evidence::Evidence;
use super::record::{Failures, JudgedGuardrail, Pending, RolloutRecord};
use super::words;
use crate::api::admin::{Deployment, VersionState};
use crate::api::rollout::{Rollout, RolloutAction, RolloutIntervention, RolloutPlan, RolloutRequest, RolloutState};
use crate::config::{RolloutConfig, check_steps, check_times};
use crate::error::{Error, OperatorError, Result};
use crate::identity::{ModelName, Version};
use crate::traffic::{Share, TrafficSplit};

/// Number of past deployments in which a version is looked for, before it is rolled out by itself.
const SEARCHED_DEPLOYMENTS: u32 = 1_000;

/// Number of attempts at an intervention, if the rollout is written by another server meanwhile.
const ATTEMPTS: usize = 16;

impl Rollouts {
    /// Starts a rollout, and gives the version its first share.
    pub async fn start(&self, model: &ModelName, request: RolloutRequest) -> Result<Rollout, OperatorError> {
        let _acting = self.acting.lock().await;
        let deployment = self.deployer.deployment(model)?;
        let latest = self.latest(model).await?;
        let record = self.new_record(&deployment, latest.as_ref(), request)?;
        let number = record.number;
        let Some(record) = self.write(record).await? else {
            return Err(refused(format!("another rollout of model {model} was started meanwhile")));
        };
        let record = match self.carry_out(record.clone()).await {
            Ok(record) => record,
            Err(error) => {
                self.give_up(record, &error).await;
                return Err(error);
            }
        };
        match (record.state, record.number == number) {
            // The first share was not possible, so nothing was started.
            (RolloutState::Aborted | RolloutState::Superseded, true) => Err(refused(record.explanation)),
            _ => Ok(words::shown(&record)),
        }
    }

    /// Returns the current rollout of a model, or else its last one.
    pub async fn current(&self, model: &ModelName) -> Result<Option<Rollout>, OperatorError> {
        self.deployer.deployment(model)?;
        Ok(self.latest(model).await?.as_ref().map(words::shown))
    }

    /// Returns the current or last rollout of every model that has had one.
    pub async fn latest_of_all(&self) -> Result<Vec<Rollout>, OperatorError> {
        Ok(self.store.latest().await?.iter().map(words::shown).collect())
    }

    /// Returns the rollouts of a model, the newest first.
    pub async fn history(&self, model: &ModelName, limit: u32) -> Result<Vec<Rollout>, OperatorError> {
        self.deployer.deployment(model)?;
        Ok(self.store.history(model, limit).await?.iter().map(words::shown).collect())
    }

    /// Pauses, resumes or aborts the current rollout of a model, or promotes its version at once.
    pub async fn intervene(
        &self,
        model: &ModelName,
        action: RolloutAction,
        RolloutIntervention { by, reason }: RolloutIntervention,
    ) -> Result<Rollout, OperatorError> {
        self.deployer.deployment(model)?;
        let _acting = self.acting.lock().await;
        let by = if by.is_empty() { "someone".to_owned() } else { by };
        for _ in 0..ATTEMPTS {
            let Some(record) = self.latest(model).await?.filter(|record| record.state.is_active()) else {
                return Err(refused(format!(
                    "model {model} has no rollout that goes on; leeway rollout {model} VERSION starts one"
                )));
            };
            if record.pending.is_some() {
                self.carry_out(record).await?;
                continue;
            }
            let record = intervened(record, action, &by, &reason)?;
            if let Some(record) = self.write(record).await? {
                return Ok(words::shown(&self.carry_out(record).await?));
            }
        }
        Err(refused(format!("the rollout of model {model} was always written by another server first; try again")))
    }

    /// Ends a rollout whose first share could not be given, so that it does not begin later.
    async fn give_up(&self, mut record: RolloutRecord, error: &OperatorError) {
        let now = Timestamp::now();
        record.note(RolloutAction::Abort, Share::NONE, "leeway", &error.to_string(), now);
        record.end(RolloutState::Aborted, now);
        if let Err(error) = self.write(record).await {
            tracing::warn!(%error, "a rollout that could not be started may begin later");
        }
    }

    /// Starts the rollouts of versions that have arrived by themselves, for models with `rollout.automatic`.
    pub(super) async fn start_automatic(&self, latest: &[RolloutRecord]) -> Result<(), OperatorError> {
        for status in self.deployer.overview().models {
            let (model, deployment) = (&status.model, &status.deployment);
            let settings = self.settings(deployment);
            if !settings.automatic || deployment.file.is_some() || status.unserved.is_some() {
                continue;
            }
            let known = latest.iter().find(|record| record.model == *model);
            let is_busy = known.is_some_and(|record| record.state.is_active())
                || deployment.traffic != TrafficSplit::all_to(deployment.stable);
            let newest = status.versions.first().filter(|newest| {
                newest.version > deployment.stable
                    && !matches!(newest.state, VersionState::Refused { .. })
                    && known.is_none_or(|record| record.version < newest.version)
            });
            let Some(newest) = newest.filter(|_| !is_busy) else { continue };
            // A version that had traffic before was taken back by someone.
            let past = self.deployer.history(model, u64::MAX, SEARCHED_DEPLOYMENTS).await?;
            if past.iter().any(|past| past.stable >= newest.version || past.traffic.share(newest.version) > Share::NONE)
            {
                continue;
            }
            let request = RolloutRequest {
                version: Some(newest.version),
                by: "leeway".to_owned(),
                reason: format!("version {} has arrived, and rollout.automatic is on", newest.version),
                if_generation: Some(deployment.generation),
                ..RolloutRequest::default()
            };
            if let Err(error) = self.start(model, request).await {
                tracing::warn!(%model, version = %newest.version, %error, "a version that has arrived is not rolled out");
            }
        }
        Ok(())
    }

    async fn latest(&self, model: &ModelName) -> Result<Option<RolloutRecord>, OperatorError> {
        Ok(self.store.history(model, 1).await?.pop())
    }

    /// Returns `[rollout]` of the model's `model.toml`.
    fn settings(&self, deployment: &Deployment) -> RolloutConfig {
        let snapshot = self.catalog.snapshot();
        let mut loaded = snapshot.versions().filter(|version| version.model == deployment.model);
        loaded
            .find(|version| version.version == deployment.stable)
            .map(|version| version.config.rollout.clone())
            .unwrap_or_default()
    }

    /// Returns a rollout that has not given the version a share yet.
    fn new_record(
        &self,
        deployment: &Deployment,
        latest: Option<&RolloutRecord>,
        request: RolloutRequest,
    ) -> Result<RolloutRecord, OperatorError> {
        let (model, stable) = (&deployment.model, deployment.stable);
        if let Some(active) = latest.filter(|record| record.state.is_active()) {
            return Err(refused(format!(
                "the rollout of version {} of model {model} goes on; abort it first: leeway rollout {model} --abort",
                active.version
            )));
        }
        if let Some(expected) = request.if_generation.filter(|expected| *expected != deployment.generation) {
            return Err(OperatorError::Conflict {
                message: format!(
                    "model {model} is at generation {}, but this rollout was decided on generation {expected}; check what has \
                     changed and decide again",
                    deployment.generation
                ),
                present: serde_json::to_value(deployment).map_err(OperatorError::internal)?,
            });
        }
        let version = self.version_of(deployment, request.version)?;
        let settings = self.settings(deployment);
        let plan = plan_of(&settings, &request)?;
        let now = Timestamp::now();
        let by = if request.by.is_empty() { "someone".to_owned() } else { request.by };
        let reason = if request.reason.is_empty() { "started".to_owned() } else { request.reason };
        let judged = |guardrail| JudgedGuardrail { guardrail, evidence: Evidence::default() };
        let mut record = RolloutRecord {
            model: model.clone(),
            number: latest.map_or(0, |record| record.number) + 1,
            revision: 0,
            version,
            stable,
            state: RolloutState::Running,
            explanation: String::new(),
            plan,
            step: 0,
            step_since: now,
            started_at: now,
            ended_at: None,
            generation: deployment.generation,
            pending: Some(Pending { action: RolloutAction::Start, step: 0, by, reason }),
            guardrails: settings.guardrails().into_iter().map(judged).collect(),
            failures: Failures::default(),
            seen: std::collections::BTreeMap::new(),
            events: Vec::new(),
        };
        // What was counted until now is from before the rollout.
        record.seen.insert(self.process.clone(), self.own_counts(&record));
        Ok(record)
    }

    /// Returns the version to roll out: the requested one, or the newest one.
    fn version_of(&self, deployment: &Deployment, requested: Option<Version>) -> Result<Version, OperatorError> {
        let (model, stable) = (&deployment.model, deployment.stable);
        let status = self.deployer.model(model)?;
        let version = match requested {
            Some(version) => self.deployer.version(model, version)?.version,
            None => status.versions.first().map_or(stable, |newest| newest.version),
        };
        match () {
            () if version == stable => {
                Err(refused(format!("version {version} of model {model} is the stable version already")))
            }
            () if deployment.traffic != TrafficSplit::all_to(stable) => Err(refused(format!(
                "the traffic of model {model} is divided ({}); give all of it to the stable version first: leeway rollback {model}",
                deployment.traffic
            ))),
            () => Ok(version),
        }
    }
}

/// Returns the plan of a request, completed by the settings.
fn plan_of(settings: &RolloutConfig, request: &RolloutRequest) -> Result<RolloutPlan, OperatorError> {
    let plan = RolloutPlan {
        steps: request.steps.clone().unwrap_or_else(|| settings.steps.clone()),
        step_ms: request.step_ms.unwrap_or(settings.step_ms),
        timeout_ms: match (request.timeout_ms, request.step_ms) {
            (Some(timeout), _) => timeout,
            // A longer step has a longer time to end.
            (None, Some(step)) => settings.timeout_ms.max(step),
            (None, None) => settings.timeout_ms,
        },
        on_timeout: request.on_timeout.unwrap_or(settings.on_timeout),
        shadow: request.shadow.or(Some(settings.shadow)).filter(|share| *share > Share::NONE),
    };
    let invalid = |problem: String| OperatorError::from(Error::InvalidInput(problem));
    check_steps(&plan.steps).map_err(|problem| invalid(format!("steps: {problem}")))?;
    check_times(plan.step_ms, plan.timeout_ms).map_err(invalid)?;
    Ok(plan)
}

/// Returns a rollout after an intervention, or with its change of the deployment pending.
fn intervened(
    mut record: RolloutRecord,
    action: RolloutAction,
    by: &str,
    reason: &str,
) -> Result<RolloutRecord, OperatorError> {
    let now = Timestamp::now();
    let reason = if reason.is_empty() { "without a reason" } else { reason };
    let is_paused = record.state == RolloutState::Paused;
    match action {
        RolloutAction::Pause if is_paused => return Err(refused("the rollout is paused already".to_owned())),
        RolloutAction::Resume if !is_paused => return Err(refused("the rollout is not paused".to_owned())),
        RolloutAction::Pause | RolloutAction::Resume => {
            record.note(action, record.share(), by, reason, now);
            record.state = if action == RolloutAction::Pause { RolloutState::Paused } else { RolloutState::Running };
            record.step_since = now;
        }
        _ => {
            let (by, reason) = (by.to_owned(), reason.to_owned());
            record.pending = Some(Pending { action, step: record.step, by, reason });
        }
    }
    Ok(record)
}

fn refused(problem: String) -> OperatorError {
    OperatorError::ChangeRefused(problem)
}
