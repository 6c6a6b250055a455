//! A rollout as it is stored: its plan, its state, the evidence so far, and the counts that the evidence is made of.
//! Everything that decides it is in here, so that another server, or this one after a restart, goes on where it stopped.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::evidence::{Evidence, Judgement, Window};
use crate::api::rollout::{RolloutAction, RolloutEvent, RolloutPlan, RolloutState};
use crate::config::{Guardrail, GuardrailComparison};
use crate::deploy::ChangeNote;
use crate::error::{OperatorError, Result};
use crate::identity::{ModelName, Version};
use crate::monitor::{Dispersion, EventCounts, GuardrailCounts};
use crate::traffic::Share;

/// Maximum number of decisions that are kept: the first one and the latest ones.
const MAX_EVENTS: usize = 200;

/// Maximum length of the reason of a decision, in characters.
const MAX_REASON: usize = 1_000;

/// A rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RolloutRecord {
    /// The model.
    pub model: ModelName,
    /// Number of the rollout: 1 for the first one of a model.
    pub number: u64,
    /// Number of the times that this record was written.
    pub revision: u64,
    /// The version that is rolled out.
    pub version: Version,
    /// The stable version when the rollout started.
    pub stable: Version,
    /// State of the rollout.
    pub state: RolloutState,
    /// The state in words.
    pub explanation: String,
    /// Steps and times.
    pub plan: RolloutPlan,
    /// Number of the current step.
    pub step: usize,
    /// Start of the current step.
    pub step_since: Timestamp,
    /// Start of the rollout.
    pub started_at: Timestamp,
    /// End of the rollout.
    pub ended_at: Option<Timestamp>,
    /// Generation of the deployment that the next decision is based on.
    pub generation: u64,
    /// A decision whose change of the deployment may not have been made yet.
    pub pending: Option<Pending>,
    /// The guardrails and their evidence.
    pub guardrails: Vec<JudgedGuardrail>,
    /// Crashes and streaks of failures since the start.
    pub failures: Failures,
    /// The last counts of each process.
    pub seen: BTreeMap<String, ProcessCounts>,
    /// The decisions, the oldest first.
    pub events: Vec<RolloutEvent>,
}

/// A decision that changes the deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The decision.
    pub action: RolloutAction,
    /// The step that it leads to.
    pub step: usize,
    /// Author and reason.
    pub by: String,
    /// The reason.
    pub reason: String,
}

/// A guardrail and its evidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgedGuardrail {
    /// Settings.
    pub guardrail: Guardrail,
    /// The evidence so far.
    pub evidence: Evidence,
}

/// Failures that need no statistics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// Crashes of the stable version and of the new version.
    pub crashes: (u64, u64),
    /// Streaks of failed requests of both.
    pub streaks: (u64, u64),
}

/// Counts of one process: of the stable version, and of the new version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProcessCounts {
    /// Start of the process.
    pub started_at: Timestamp,
    /// Counts of the stable version.
    pub stable: GuardrailCounts,
    /// Counts of the new version.
    pub candidate: GuardrailCounts,
}

// ===== impl RolloutRecord =====

impl RolloutRecord {
    /// Adds the new counts of all processes to the evidence.
    ///
    /// The first counts of a process that was started before the rollout are where its windows begin: they are from before.
    pub fn add(&mut self, counts: &BTreeMap<String, ProcessCounts>) {
        let mut windows: BTreeMap<&str, Window> = BTreeMap::new();
        for (process, now) in counts {
            let nothing = ProcessCounts {
                started_at: now.started_at,
                stable: GuardrailCounts::default(),
                candidate: GuardrailCounts::default(),
            };
            let before = match self.seen.get(process) {
                Some(before) => before,
                None if now.started_at >= self.started_at => &nothing,
                None => continue,
            };
            for (name, new) in since(&now.stable, &before.stable) {
                let window = windows.entry(name).or_default();
                window.stable = window.stable.plus(new);
            }
            for (name, new) in since(&now.candidate, &before.candidate) {
                let window = windows.entry(name).or_default();
                window.candidate = window.candidate.plus(new);
            }
            let more = |now: u64, before: u64| if now < before { now } else { now - before };
            let Failures { crashes, streaks } = &mut self.failures;
            crashes.0 += more(now.stable.crashes, before.stable.crashes);
            crashes.1 += more(now.candidate.crashes, before.candidate.crashes);
            streaks.0 += more(now.stable.streaks, before.stable.streaks);
            streaks.1 += more(now.candidate.streaks, before.candidate.streaks);
        }
        for JudgedGuardrail { guardrail, evidence } in &mut self.guardrails {
            evidence.set_overdispersion_of_stable(overdispersion_of_stable(counts, &guardrail.name));
            let window = windows.get(guardrail.name.as_str()).copied().unwrap_or_default();
            if window != Window::default() {
                evidence.add(&window, judgement(guardrail));
            }
        }
        self.seen.extend(counts.iter().map(|(process, counts)| (process.clone(), counts.clone())));
    }

    /// Reads a stored rollout.
    pub fn parse(text: &str) -> Result<RolloutRecord, OperatorError> {
        serde_json::from_str(text)
            .map_err(|error| OperatorError::Journal(format!("a rollout in it cannot be read: {error}")))
    }

    /// Share of the version in the current step.
    pub fn share(&self) -> Share {
        self.plan.steps.get(self.step).copied().unwrap_or(Share::ALL)
    }

    /// Records a decision.
    pub fn note(&mut self, action: RolloutAction, share: Share, by: &str, reason: &str, at: Timestamp) {
        if self.events.len() >= MAX_EVENTS {
            self.events.remove(1);
        }
        let reason: String = reason.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
        let by = by.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
        self.explanation.clone_from(&reason);
        self.events.push(RolloutEvent { at, action, share, by, reason });
    }

    /// Ends the rollout.
    pub fn end(&mut self, state: RolloutState, at: Timestamp) {
        self.state = state;
        self.ended_at = Some(at);
        self.pending = None;
        self.seen.clear();
    }

    /// Author of the deployments that this rollout makes, by which they are recognised after a restart.
    pub fn author(&self) -> String {
        format!("leeway rollout {}", self.number)
    }

    /// Note of a change of the deployment.
    pub fn change_note(&self, reason: &str, at: Timestamp) -> ChangeNote {
        ChangeNote { by: self.author(), reason: reason.to_owned(), at }
    }
}

/// Returns the overdispersion of a guardrail's events in the stable version on all processes, if it is known.
fn overdispersion_of_stable(counts: &BTreeMap<String, ProcessCounts>, guardrail: &str) -> Option<f64> {
    let mut all = (Dispersion::default(), EventCounts::default());
    for ProcessCounts { stable, .. } in counts.values() {
        all.0 = all.0.plus(stable.dispersions.get(guardrail).copied().unwrap_or_default());
        all.1 = all.1.plus(stable.guardrails.get(guardrail).copied().unwrap_or_default());
    }
    all.0.overdispersion(all.1)
}

impl ProcessCounts {
    /// Returns the counts in these texts, by process. Counts that cannot be read are of another version of Leeway, and are
    /// left out.
    pub fn from_reports(reports: Vec<(String, String)>) -> BTreeMap<String, ProcessCounts> {
        let read = |(process, text): (String, String)| Some((process, serde_json::from_str(&text).ok()?));
        reports.into_iter().filter_map(read).collect()
    }
}

/// Returns the hypothesis that a guardrail's events are judged by.
pub fn judgement(guardrail: &Guardrail) -> Judgement {
    let Guardrail { margin, tolerated, .. } = *guardrail;
    match guardrail.comparison() {
        GuardrailComparison::WithStable => Judgement::Compared { margin, tolerated },
        GuardrailComparison::SameRequests => Judgement::Paired { margin, tolerated },
        GuardrailComparison::WithTolerated => Judgement::Limited { tolerated },
    }
}

/// Returns the new counts of a version, by guardrail.
fn since<'a>(now: &'a GuardrailCounts, before: &GuardrailCounts) -> impl Iterator<Item = (&'a str, EventCounts)> {
    let before = before.guardrails.clone();
    now.guardrails
        .iter()
        .map(move |(name, counts)| (name.as_str(), counts.since(before.get(name).copied().unwrap_or_default())))
}
