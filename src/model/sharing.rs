//! Whether requests to a version share runs, and what is known that speaks for it.
//!
//! That is decided when the version is loaded. Of a model that could not be run then, because nobody knew what its inputs
//! look like, it is decided once more: when real requests have shown it.

use std::sync::{Arc, OnceLock};

use serde::Serialize;

use super::batch::{BatchPolicy, Company, Lengths};
use super::independence::{Independence, Precision};
use super::joining::{Joining, RowOutputs};
use crate::config::{Batching, Provider, SessionConfig};
use crate::tensor::Signature;

/// What was found out about the rows of a version, and how they are joined.
#[derive(Debug, Clone)]
pub struct Rows {
    /// Whether they are independent.
    pub independence: Independence,
    /// How they are joined.
    pub joining: Joining,
}

/// Whether requests share runs.
#[derive(Debug)]
pub struct Sharing {
    setting: Batching,
    at_load: Rows,
    /// The policy as long as nothing else is known than at load, and that for requests that share runs.
    policies: [BatchPolicy; 2],
    precision: Precision,
    /// What real requests have shown.
    later: OnceLock<Rows>,
}

/// Whether requests share runs, and why: as operators and clients are shown it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BatchingStatus {
    /// What `model.toml` says.
    pub setting: Batching,
    /// Whether requests share runs.
    pub on: bool,
    /// What was found of the version's rows.
    pub rows: Independence,
    /// The same in words.
    pub explanation: String,
}

/// Whether requests share runs, by what is configured and what was found.
///
/// ```
/// use leeway::config::Batching;
/// use leeway::model::{Company, Independence, company};
/// let unknown = Independence::Unknown { reason: "an input shape had to be guessed".to_owned() };
/// assert_eq!(company(Batching::Auto, &Independence::Independent { difference: 1e-7 }), Company::Shared);
/// assert_eq!(company(Batching::Auto, &unknown), Company::Alone);
/// assert_eq!(company(Batching::Always, &unknown), Company::Shared);
/// assert_eq!(company(Batching::Never, &Independence::Independent { difference: 0.0 }), Company::Alone);
/// ```
pub fn company(setting: Batching, found: &Independence) -> Company {
    match (setting, found) {
        (Batching::Always, _) | (Batching::Auto, Independence::Independent { .. }) => Company::Shared,
        (Batching::Never, _)
        | (
            Batching::Auto,
            Independence::Dependent(_) | Independence::Unknown { .. } | Independence::FixedBatch { .. },
        ) => Company::Alone,
    }
}

impl Sharing {
    /// For a version of which this was found at load.
    pub fn new(signature: &Signature, config: &SessionConfig, provider: Provider, rows: Rows) -> Sharing {
        let lengths = if rows.joining.padding.is_some() { Lengths::Padded } else { Lengths::Alike };
        let policy = |company| {
            let mut policy = BatchPolicy::new(signature, config, lengths, company);
            if rows.joining.outputs == RowOutputs::OfOneRow {
                policy = policy.of_one_row();
            }
            policy
        };
        Sharing {
            setting: config.batching,
            policies: [policy(company(config.batching, &rows.independence)), policy(Company::Shared)],
            precision: Precision::of(provider),
            at_load: rows,
            later: OnceLock::new(),
        }
    }

    /// What `model.toml` says.
    pub fn setting(&self) -> Batching {
        self.setting
    }

    /// Whether rows are independent, as far as that is known.
    pub fn independence(&self) -> &Independence {
        &self.rows().independence
    }

    /// Whether requests share runs.
    pub fn is_on(&self) -> bool {
        let is_fixed = matches!(self.at_load.independence, Independence::FixedBatch { .. });
        !is_fixed && company(self.setting, self.independence()) == Company::Shared
    }

    /// The same, to be shown.
    pub fn status(&self) -> BatchingStatus {
        let rows = self.independence().clone();
        BatchingStatus { setting: self.setting, on: self.is_on(), explanation: rows.to_string(), rows }
    }

    pub(super) fn joining(&self) -> &Joining {
        &self.rows().joining
    }

    pub(super) fn precision(&self) -> Precision {
        self.precision
    }

    /// The limits of a batch.
    pub fn policy(&self) -> BatchPolicy {
        let [at_load, shared] = self.policies;
        match self.later.get() {
            Some(rows) if company(self.setting, &rows.independence) == Company::Shared => shared,
            _ => at_load,
        }
    }

    /// Whether real requests have to show what could not be found out at load.
    pub(super) fn is_open(&self) -> bool {
        self.setting == Batching::Auto
            && matches!(self.at_load.independence, Independence::Unknown { .. })
            && self.later.get().is_none()
    }

    /// Takes down what real requests have shown: these outputs have one row per row.
    pub(super) fn decide(&self, independence: Independence, outputs: Vec<Arc<str>>) {
        let joining = self.at_load.joining.clone().with_outputs(RowOutputs::Known(outputs));
        // Another worker may have been faster.
        let _ = self.later.set(Rows { independence, joining });
    }

    fn rows(&self) -> &Rows {
        self.later.get().unwrap_or(&self.at_load)
    }
}
