//! Findings of the first runs of a version, before it serves: the result of the first run, the independence of its
//! rows, and unconfirmed assumptions.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::budget_check::budget_problem;
use crate::budget::LatencyBudget;
use crate::config::Batching;
use crate::identity::Sha256;
use crate::model::{ElementBounds, Independence, RowShape, RunSharing, Sizing, Values, run_sharing};

/// Maximum time for comparing rows that run alone and together. A trial may have less.
pub const MAX_COMPARING: Duration = Duration::from_secs(10);

/// Findings of the first runs of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// Result of the first run.
    pub warm_up: WarmUp,
    /// Finding about the rows: independent of the other rows of a run, dependent on them, or unknown.
    pub independence: Independence,
    /// The same finding for texts that are padded to share a run; `None` for a model whose rows are not padded.
    pub padding: Option<Independence>,
    /// Outputs that have one row per row of the inputs; `None` if the model did not run.
    pub row_outputs: Option<Vec<Arc<str>>>,
    /// Maximum numbers of elements in a row and in a run; `None` if they were not determined.
    pub bounds: Option<ElementBounds>,
    /// Duration that 95% of the runs of the fewest rows take at most; `None` if the shape of real rows is not known.
    pub slow_run: Option<Duration>,
    /// Numbers of workers, threads and rows that were chosen by measuring; `None` if there was nothing to choose, or nothing
    /// could be measured.
    pub sizing: Option<Sizing>,
    /// Finding about the optimised graph of the model.
    pub graph: GraphFinding,
    /// An instance that the version answered; `None` if none of those that were tried was answered.
    pub example: Option<Example>,
    /// The problem if a run takes too long for the budget, and its remedy.
    pub budget_problem: Option<String>,
    /// Assumptions and signs of mistakes, as sentences for the person who adds the version.
    pub remarks: Vec<String>,
}

/// Finding about the optimised graph of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GraphFinding {
    /// No graph was made.
    Untried,
    /// The graph could not be made, or its answers differ from those of the model's file.
    Unusable,
    /// The graph has the same outputs as the model's file for the first rows. This is their digest.
    Same(Sha256),
}

/// Result of the first run of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WarmUp {
    /// The model ran on these rows, and its outputs could be decoded.
    Ran(FirstRows),
    /// The model did not run on any rows that were tried; real requests may still work.
    Failed {
        /// The runs that failed, one for each shape.
        attempts: Vec<Attempt>,
        /// An example of `model.warm_up`, to adapt; `None` if the model has no open dimensions.
        example: Option<String>,
    },
}

/// An instance that a version has answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// The instance as JSON.
    pub instance: String,
    /// Duration of the preprocessor and the postprocessor for a request with as few instances as the model takes.
    pub stages: Duration,
}

/// Rows of the first run that succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstRows {
    pub from: RowsFrom,
    pub shape: RowShape,
    pub values: FirstValues,
    /// Number of rows of the run. It is 1 if the model declares any number of rows and runs with one only.
    pub count: usize,
}

/// Source of the shape of the first rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowsFrom {
    /// `model.warm_up`.
    Settings,
    /// The first example in `golden.json`.
    Examples,
    /// The signature, which has no open dimensions.
    Signature,
    /// The preprocessor, whose rows all have one shape.
    Preprocessor,
    /// A made-up instance. The rows of other instances have other shapes.
    Sample,
    /// Lengths that were guessed.
    Guess,
}

/// Values of the first rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirstValues {
    Zeros,
    MadeUp(Values),
    /// The values that the preprocessor makes from an instance.
    OfAnInstance,
}

/// A run of made-up rows that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Shape of each input, with the rows.
    pub inputs: String,
    /// First line of ONNX Runtime's message.
    pub problem: String,
}

impl FirstRows {
    /// Returns true if requests have rows of this shape, so that the duration of a run is of use. The duration of a run
    /// of guessed lengths would be misleading.
    pub fn is_typical(&self) -> bool {
        !matches!(self.from, RowsFrom::Sample | RowsFrom::Guess)
    }
}

impl Findings {
    /// Returns true if requests share runs under this setting of `model.toml`.
    pub fn is_batched(&self, setting: Batching) -> bool {
        run_sharing(setting, &self.independence) == RunSharing::Shared
    }

    /// Compares the duration of a run with the budget of a request.
    pub fn check_budget(&mut self, budget: &LatencyBudget) {
        let rows = if let Independence::FixedBatch { rows } = self.independence { rows } else { 1 };
        self.budget_problem = self.slow_run.and_then(|run| budget_problem(budget, run, rows));
    }

    /// Returns true if the model ran on rows of a shape that real rows have.
    pub fn has_known_shape(&self) -> bool {
        matches!(&self.warm_up, WarmUp::Ran(rows) if rows.is_typical())
    }

    /// Returns the number of elements of a row, if the model ran on rows of a shape that real rows have; otherwise 0.
    pub(super) fn elements_of_known_rows(&self) -> usize {
        match &self.warm_up {
            WarmUp::Ran(rows) if rows.is_typical() => rows.shape.elements(),
            WarmUp::Ran(_) | WarmUp::Failed { .. } => 0,
        }
    }

    /// Returns the remarks, after a first run that failed and a problem of the budget.
    pub fn all_remarks(&self) -> Vec<String> {
        let failed = match &self.warm_up {
            WarmUp::Failed { attempts, example } => attempts.first().map(|Attempt { inputs, problem }| {
                let remedy = remedy(example.as_deref());
                format!("the test run on made-up inputs failed ({inputs}: {problem}); {remedy}")
            }),
            WarmUp::Ran(_) => None,
        };
        failed.into_iter().chain(self.budget_problem.clone()).chain(self.remarks.iter().cloned()).collect()
    }

    /// Returns true if short rows may be padded to share a run with longer ones.
    pub fn may_be_padded(&self) -> bool {
        matches!(self.padding, Some(Independence::Independent { .. }))
    }
}

/// Returns the advice for a model that did not run on made-up inputs.
pub fn remedy(example: Option<&str>) -> String {
    const EXAMPLES: &str = "add examples with --golden or --record-golden";
    match example {
        Some(example) => {
            format!(
                "write the lengths of a row that the model runs on in model.toml, for example [model] {example}; or {EXAMPLES}"
            )
        }
        None => format!("its values may not suit this model; {EXAMPLES}"),
    }
}
