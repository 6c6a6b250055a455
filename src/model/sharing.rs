//! Sharing of runs by requests to a version, and the finding that allows or forbids it.
//!
//! Sharing is decided at load. A model whose input shapes are unknown cannot be run at load. For such a model, sharing
//! is decided again once real requests have shown the shapes.

use std::sync::{Arc, OnceLock};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::batch::{BatchPolicy, Lengths, RunSharing};
use super::element_bounds::ElementBounds;
use super::independence::{Comparing, Independence, Precision};
use super::joining::{Joining, RowOutputs};
use crate::config::{Batching, Provider, SessionConfig};
use crate::tensor::Signature;

/// Independence of the rows of a version, and the way to join them.
#[derive(Debug, Clone)]
pub struct Rows {
    /// Finding on the independence of the rows.
    pub independence: Independence,
    /// The way to join the rows of several requests into one run.
    pub joining: Joining,
}

/// Decision on the sharing of runs by the requests to a version, with the findings that it is based on.
#[derive(Debug)]
pub struct Sharing {
    setting: Batching,
    at_load: Rows,
    /// The policy that follows from the finding at load, and the policy for requests that share runs.
    policies: [BatchPolicy; 2],
    precision: Precision,
    /// The outputs that are part of answers; `None` for all.
    answered: Option<Vec<Arc<str>>>,
    /// Findings from real requests. Workers may compare different rows; if any worker finds a dependence, that finding
    /// counts.
    later: OnceLock<Rows>,
    objection: OnceLock<Rows>,
}

/// Sharing of runs, as shown to operators and clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BatchingStatus {
    /// The setting in `model.toml`.
    pub setting: Batching,
    /// True if requests share runs.
    pub on: bool,
    /// Independence of the version's rows.
    pub rows: Independence,
    /// The finding in words.
    pub explanation: String,
}

/// Decides if requests share runs, based on the setting in `model.toml` and the finding.
///
/// ```
/// use leeway::config::Batching;
/// use leeway::model::{Independence, RunSharing, run_sharing};
/// let unknown = Independence::Unknown { reason: "an input shape had to be guessed".to_owned() };
/// assert_eq!(run_sharing(Batching::Auto, &Independence::Independent { difference: 1e-7 }), RunSharing::Shared);
/// assert_eq!(run_sharing(Batching::Auto, &unknown), RunSharing::Exclusive);
/// assert_eq!(run_sharing(Batching::Always, &unknown), RunSharing::Shared);
/// assert_eq!(run_sharing(Batching::Never, &Independence::Independent { difference: 0.0 }), RunSharing::Exclusive);
/// ```
pub fn run_sharing(setting: Batching, found: &Independence) -> RunSharing {
    match (setting, found) {
        (_, Independence::FixedBatch { .. }) => RunSharing::Exclusive,
        (Batching::Always, _) | (Batching::Auto, Independence::Independent { .. }) => RunSharing::Shared,
        (Batching::Never, _) | (Batching::Auto, Independence::Dependent(_) | Independence::Unknown { .. }) => {
            RunSharing::Exclusive
        }
    }
}

impl Sharing {
    /// Returns the sharing of runs for a version with this finding at load.
    pub fn new(
        signature: &Signature,
        config: &SessionConfig,
        provider: Provider,
        answered: Option<Vec<Arc<str>>>,
        rows: Rows,
        bounds: ElementBounds,
    ) -> Sharing {
        let lengths = match rows.joining.padding {
            Some(_) => Lengths::Padded,
            None if signature.has_fixed_rows() => Lengths::Alike,
            None => Lengths::Varied,
        };
        let policy = |sharing| {
            let mut policy = BatchPolicy::new(signature, config, lengths, sharing, bounds);
            if rows.joining.outputs == RowOutputs::OfOneRow {
                policy = policy.of_one_row();
            }
            policy
        };
        Sharing {
            setting: config.batching,
            policies: [policy(run_sharing(config.batching, &rows.independence)), policy(RunSharing::Shared)],
            precision: Precision::of(provider),
            answered,
            at_load: rows,
            later: OnceLock::new(),
            objection: OnceLock::new(),
        }
    }

    /// The setting in `model.toml`.
    pub fn setting(&self) -> Batching {
        self.setting
    }

    /// Returns the current finding on the independence of the version's rows.
    pub fn independence(&self) -> &Independence {
        &self.rows().independence
    }

    /// Returns true if requests share runs.
    pub fn is_on(&self) -> bool {
        run_sharing(self.setting, self.independence()) == RunSharing::Shared
    }

    /// Returns the status for operators and clients.
    pub fn status(&self) -> BatchingStatus {
        let rows = self.independence().clone();
        BatchingStatus { setting: self.setting, on: self.is_on(), explanation: rows.to_string(), rows }
    }

    pub(super) fn joining(&self) -> &Joining {
        &self.rows().joining
    }

    /// Returns the parameters for comparing rows of real requests. A shared run has at most `full_batch` rows.
    pub(super) fn comparing(&self, full_batch: usize) -> Comparing<'_> {
        let [_, shared] = self.policies;
        Comparing {
            joining: self.joining(),
            precision: self.precision,
            answered: self.answered.as_deref(),
            max_rows: shared.most_rows().min(full_batch),
            max_elements: shared.max_elements,
        }
    }

    /// Returns the limits for forming batches, which depend on the current finding.
    pub fn policy(&self) -> BatchPolicy {
        let [at_load, shared] = self.policies;
        match self.is_on() {
            true => shared,
            false => at_load,
        }
    }

    /// Returns true if independence is still to be decided: it was unknown at load, and real requests have not led to a
    /// finding yet.
    pub(super) fn is_open(&self) -> bool {
        self.setting == Batching::Auto
            && matches!(self.at_load.independence, Independence::Unknown { .. })
            && self.later.get().is_none()
            && self.objection.get().is_none()
    }

    /// Records the finding from real requests, and the outputs that had one row per input row.
    pub(super) fn decide(&self, independence: Independence, outputs: Vec<Arc<str>>) {
        let joining = self.at_load.joining.clone().with_outputs(RowOutputs::Known(outputs));
        let is_dependent = matches!(independence, Independence::Dependent(_));
        let place = if is_dependent { &self.objection } else { &self.later };
        // Another worker may already have recorded the same finding.
        let _ = place.set(Rows { independence, joining });
    }

    fn rows(&self) -> &Rows {
        self.objection.get().or(self.later.get()).unwrap_or(&self.at_load)
    }
}
