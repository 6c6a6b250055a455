//! Carries rollouts out: reads the counts, lets `plan.rs` decide, and changes the deployment through the deployer.
//!
//! A decision is written before its change of the deployment is made, and the change is bound to the generation that it was
//! decided on. So a server that stops in between leaves nothing undone: the next look, of this server or of another one,
//! makes the change or finds that it was made.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use uuid::Uuid;

use super::plan::{Circumstances, Decision, decide};
use super::record::{Pending, ProcessCounts, RolloutRecord};
use super::store::RolloutStore;
use super::words;
use crate::api::admin::Deployment;
use crate::api::rollout::{RolloutAction, RolloutState};
use crate::deploy::{ChangeRequest, Deployer, Transition};
use crate::error::{OperatorError, Result};
use crate::identity::{ModelName, Version};
use crate::monitor::{DriftStatus, GuardrailCounts, Monitor, VersionRecorder};
use crate::registry::{Catalog, Target};
use crate::traffic::{Shadow, Share, TrafficSplit};

/// Interval of looks at the counts; shorter if steps are.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Shortest interval of looks.
const MIN_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Carries out the rollouts of all models.
#[derive(Debug)]
pub struct Rollouts {
    pub(super) deployer: Arc<Deployer>,
    pub(super) catalog: Arc<Catalog>,
    pub(super) store: Arc<dyn RolloutStore>,
    monitor: Arc<Monitor>,
    /// Identifier and start of this process, in its reports.
    pub(super) process: String,
    started_at: Timestamp,
    /// The last counts of this process. A version that is not loaded for a moment keeps them.
    counted: Mutex<BTreeMap<ModelName, (u64, ProcessCounts)>>,
    /// Held while a rollout is read, changed and written, so that looks and operators of this server take turns.
    pub(super) acting: tokio::sync::Mutex<()>,
    /// The last problem, so that it is logged once.
    problem: Mutex<Option<String>>,
}

/// Result of making the change of a decision.
enum Made {
    /// The change was made, and led to this generation.
    Changed(u64),
    /// The deployment was changed by someone else.
    Superseded(String),
    /// The change is not possible.
    Refused(String),
}

impl Rollouts {
    /// Creates the controller of the rollouts in this store.
    pub fn new(
        deployer: Arc<Deployer>,
        catalog: Arc<Catalog>,
        store: Arc<dyn RolloutStore>,
        monitor: Arc<Monitor>,
    ) -> Rollouts {
        let (process, started_at) = (Uuid::now_v7().to_string(), Timestamp::now());
        let (counted, acting, problem) = (Mutex::default(), tokio::sync::Mutex::default(), Mutex::default());
        Rollouts { deployer, catalog, store, monitor, process, started_at, counted, acting, problem }
    }

    /// The deployer, which makes the changes.
    pub fn deployer(&self) -> &Arc<Deployer> {
        &self.deployer
    }

    /// The served versions.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// Looks at all rollouts at regular intervals. Never returns.
    pub async fn run(self: Arc<Self>) {
        loop {
            let interval = match self.look().await {
                Ok(interval) => {
                    *self.problem.lock() = None;
                    interval
                }
                Err(error) => {
                    self.log_once(&error);
                    LOOK_INTERVAL
                }
            };
            tokio::time::sleep(interval).await;
        }
    }

    /// Looks at all rollouts, and returns the time until the next look.
    async fn look(&self) -> Result<Duration, OperatorError> {
        let latest = self.store.latest().await?;
        let known = latest.iter().filter(|record| self.deployer.deployment(&record.model).is_ok());
        self.monitor.deployments().set_rollouts(known.map(|record| (record.model.as_str(), record.state.name())));
        let active: Vec<&RolloutRecord> = latest.iter().filter(|record| record.state.is_active()).collect();
        for record in &active {
            self.store.report(record, &self.process, &self.own_counts(record)).await?;
        }
        // Without anything to decide, no server has to lead.
        if (!active.is_empty() || self.has_automatic()) && self.store.leads().await? {
            for record in &active {
                // A rollout that cannot go on does not hold up others.
                if let Err(error) = self.judge((*record).clone()).await {
                    self.log_once(&error);
                }
            }
            self.start_automatic(&latest).await?;
        }
        let step = active.iter().map(|record| Duration::from_millis(record.plan.step_ms / 4)).min();
        Ok(step.unwrap_or(LOOK_INTERVAL).clamp(MIN_LOOK_INTERVAL, LOOK_INTERVAL))
    }

    /// Returns true if a model rolls out versions that arrive.
    fn has_automatic(&self) -> bool {
        self.catalog.snapshot().versions().any(|version| version.config.rollout.automatic)
    }

    /// Adds the new counts of a rollout to its evidence, and carries out the next decision.
    async fn judge(&self, mut record: RolloutRecord) -> Result<(), OperatorError> {
        let _acting = self.acting.lock().await;
        if record.pending.is_some() {
            return self.carry_out(record).await.map(drop);
        }
        let now = Timestamp::now();
        let current = self.deployer.deployment(&record.model)?;
        if current.generation < record.generation {
            // A change by another server has not reached this one yet.
            return Ok(());
        }
        if current.generation > record.generation && current.change.by == record.author() {
            record.generation = current.generation;
        }
        if current.generation > record.generation {
            let reason = words::superseded(&current);
            record.note(
                RolloutAction::Supersede,
                current.traffic.share(record.version),
                &current.change.by,
                &reason,
                now,
            );
            record.end(RolloutState::Superseded, now);
            return self.write(record).await.map(drop);
        }
        record.add(&self.store.reports(&record).await?);
        match decide(&record, &Circumstances { now, drift: self.drift(&record) }) {
            Decision::Wait(reason) => {
                record.explanation = reason;
                self.write(record).await.map(drop)
            }
            Decision::Pause(reason) => {
                record.note(RolloutAction::Pause, record.share(), "leeway", &reason, now);
                record.state = RolloutState::Paused;
                self.write(record).await.map(drop)
            }
            Decision::Advance(reason) => self.decided(record, RolloutAction::Advance, reason).await,
            Decision::Promote(reason) => self.decided(record, RolloutAction::Promote, reason).await,
            Decision::RollBack(reason) => self.decided(record, RolloutAction::RollBack, reason).await,
        }
    }

    async fn decided(&self, record: RolloutRecord, action: RolloutAction, reason: String) -> Result<(), OperatorError> {
        let (step, by) = (record.step + usize::from(action == RolloutAction::Advance), "leeway".to_owned());
        let explanation = format!("decided, and to be carried out: {} ({reason})", action.name());
        let record = RolloutRecord { pending: Some(Pending { action, step, by, reason }), explanation, ..record };
        match self.write(record).await? {
            Some(record) => {
                fail::fail_point!("rollout::decided");
                self.carry_out(record).await.map(drop)
            }
            None => Ok(()),
        }
    }

    /// Makes the change of the pending decision, and records it. Returns the rollout as it is then.
    pub(super) async fn carry_out(&self, mut record: RolloutRecord) -> Result<RolloutRecord, OperatorError> {
        let Some(pending) = record.pending.clone() else { return Ok(record) };
        let made = self.make(&record, &pending).await?;
        fail::fail_point!("rollout::made");
        let now = Timestamp::now();
        record.pending = None;
        match made {
            Made::Changed(generation) => {
                record.generation = generation;
                (record.step, record.step_since) = (pending.step, now);
                let share = match pending.action {
                    RolloutAction::Promote => Share::ALL,
                    RolloutAction::RollBack | RolloutAction::Abort => Share::NONE,
                    _ => record.share(),
                };
                record.note(pending.action, share, &pending.by, &pending.reason, now);
                match pending.action {
                    RolloutAction::Promote => record.end(RolloutState::Promoted, now),
                    RolloutAction::RollBack => record.end(RolloutState::RolledBack, now),
                    RolloutAction::Abort => record.end(RolloutState::Aborted, now),
                    _ => {}
                }
                tracing::info!(
                    model = %record.model, version = %record.version, rollout = record.number, action = ?pending.action,
                    share = %share, reason = pending.reason, "a step of a rollout"
                );
            }
            Made::Superseded(reason) => {
                let share = self.deployer.deployment(&record.model)?.traffic.share(record.version);
                record.note(RolloutAction::Supersede, share, "leeway", &reason, now);
                record.end(RolloutState::Superseded, now);
            }
            Made::Refused(reason) if pending.action == RolloutAction::Start => {
                record.note(RolloutAction::Abort, Share::NONE, "leeway", &reason, now);
                record.end(RolloutState::Aborted, now);
            }
            Made::Refused(reason) => {
                let reason = format!("the next step is not possible: {reason}");
                record.note(RolloutAction::Pause, record.share(), "leeway", &reason, now);
                record.state = RolloutState::Paused;
            }
        }
        let (model, number) = (record.model.clone(), record.number);
        match self.write(record).await? {
            Some(record) => Ok(record),
            None => self.record(&model, number).await,
        }
    }

    /// Makes the change of a decision. An error is one that a later attempt may not have.
    async fn make(&self, record: &RolloutRecord, pending: &Pending) -> Result<Made, OperatorError> {
        let mut current = self.deployer.deployment(&record.model)?;
        if let Some(shadow) = wanted_shadow(record, pending).filter(|shadow| current.shadow != Some(*shadow)) {
            match self.change(record, pending, &current, Transition::Shadow(Some(shadow))).await? {
                Made::Changed(_) => current = self.deployer.deployment(&record.model)?,
                other => return Ok(other),
            }
        }
        let wish = match pending.action {
            RolloutAction::Promote => Transition::Promote(record.version),
            RolloutAction::RollBack | RolloutAction::Abort => {
                // A rollback from there would lead to the stable version before.
                if current.traffic == TrafficSplit::all_to(record.stable) && current.stable == record.stable {
                    return Ok(Made::Changed(current.generation));
                }
                Transition::Rollback
            }
            _ => {
                let share = record.plan.steps.get(pending.step).copied().unwrap_or(Share::ALL);
                Transition::Traffic(split(record.stable, record.version, share)?)
            }
        };
        self.change(record, pending, &current, wish).await
    }

    /// Changes the deployment, if nobody else has changed it since the decision. This rollout may have: before this server was
    /// started, or on another server.
    async fn change(
        &self,
        record: &RolloutRecord,
        pending: &Pending,
        current: &Deployment,
        wish: Transition,
    ) -> Result<Made, OperatorError> {
        if current.generation < record.generation {
            return Err(OperatorError::ChangeRefused(
                "a change of another server has not reached this one yet".to_owned(),
            ));
        }
        if current.generation > record.generation && current.change.by != record.author() {
            return Ok(Made::Superseded(words::superseded(current)));
        }
        let note = record.change_note(&pending.reason, Timestamp::now());
        let if_generation = Some(current.generation);
        let request = ChangeRequest { model: record.model.clone(), wish, note, if_generation };
        match self.deployer.change(request).await {
            Ok(outcome) => Ok(Made::Changed(outcome.deployment.generation)),
            Err(OperatorError::Conflict { .. }) => {
                let current = self.deployer.deployment(&record.model)?;
                match current.change.by == record.author() {
                    // Another server has made the same change.
                    true => Ok(Made::Changed(current.generation)),
                    false => Ok(Made::Superseded(words::superseded(&current))),
                }
            }
            Err(error @ OperatorError::Journal(_)) => Err(error),
            Err(error) => Ok(Made::Refused(error.to_string())),
        }
    }

    /// Writes a rollout, and returns it with its new revision; `None` if another server has written it first.
    pub(super) async fn write(&self, record: RolloutRecord) -> Result<Option<RolloutRecord>, OperatorError> {
        let record = RolloutRecord { revision: record.revision + 1, ..record };
        Ok(self.store.write(&record).await?.then_some(record))
    }

    /// Returns a rollout as it is stored.
    async fn record(&self, model: &ModelName, number: u64) -> Result<RolloutRecord, OperatorError> {
        let found = self.store.history(model, 2).await?.into_iter().find(|record| record.number == number);
        found.ok_or_else(|| OperatorError::internal(format_args!("rollout {number} of model {model} is gone")))
    }

    /// Returns the counts of this process for a rollout.
    pub(super) fn own_counts(&self, record: &RolloutRecord) -> ProcessCounts {
        let of = |version| self.recorder(&record.model, version).map(|recorder| recorder.guardrail_counts());
        let (mut stable, candidate) = (of(record.stable), of(record.version));
        if let (Some(stable), Some(shadow)) = (&mut stable, self.recorder(&record.model, record.version)) {
            // The recorder of the version counts both answers to a copied request.
            stable.guardrails.extend(shadow.shadow_counts().of_stable());
        }
        let mut counted = self.counted.lock();
        let last = counted.get(&record.model).filter(|(number, _)| *number == record.number);
        let (of_stable, of_candidate) = last.map_or_else(
            || (GuardrailCounts::default(), GuardrailCounts::default()),
            |(_, last)| (last.stable.clone(), last.candidate.clone()),
        );
        let counts = ProcessCounts {
            started_at: self.started_at,
            stable: stable.unwrap_or(of_stable),
            candidate: candidate.unwrap_or(of_candidate),
        };
        counted.insert(record.model.clone(), (record.number, counts.clone()));
        counts
    }

    /// Returns the verdict on the version's drift in words, if it calls for a person.
    fn drift(&self, record: &RolloutRecord) -> Option<String> {
        let verdict = self.recorder(&record.model, record.version)?.drift_verdict(self.monitor.now());
        (verdict.status == DriftStatus::Drifted).then(|| format!("drifted: {}", verdict.features.join(", ")))
    }

    fn recorder(&self, model: &ModelName, version: Version) -> Option<Arc<VersionRecorder>> {
        let target = (model.as_str(), version.to_string());
        let found = self.catalog.resolve(Target::Version(target.0, &target.1), &[]);
        found.ok().map(|version| Arc::clone(&version.recorder))
    }

    fn log_once(&self, error: &OperatorError) {
        let problem = error.to_string();
        let mut last = self.problem.lock();
        if last.as_ref() != Some(&problem) {
            tracing::warn!(problem, "rollouts stand still; everything is served as before");
            *last = Some(problem);
        }
    }
}

/// Returns the shadow traffic that a rollout starts with.
fn wanted_shadow(record: &RolloutRecord, pending: &Pending) -> Option<Shadow> {
    let percent = record.plan.shadow.filter(|_| pending.action == RolloutAction::Start)?;
    Some(Shadow { version: record.version, percent })
}

/// Returns the split in which the version has this share, and the stable version the rest.
fn split(stable: Version, version: Version, share: Share) -> Result<TrafficSplit, OperatorError> {
    let rest = Share::from_percent(100.0 - share.percent()).map_err(OperatorError::internal)?;
    TrafficSplit::new([(stable, rest), (version, share)]).map_err(OperatorError::internal)
}
