//! A classifier of several targets: a prediction for each of them.

use std::sync::Arc;

use serde_json::Value;

use super::classifier::Classifier;
use super::labels::Label;
use crate::error::Result;
use crate::pipeline::json_schema::object;
use crate::pipeline::target_names::TargetNames;
use crate::pipeline::{Origin, Postprocessor, Prediction};
use crate::tensor::Tensors;

/// A classifier of several targets.
pub(super) struct SeveralTargets {
    pub(super) names: TargetNames,
    /// A classifier for each target, in the order of the names.
    pub(super) classifiers: Vec<Classifier>,
    /// Assumption about the outputs of the targets.
    pub(super) assumption: Option<String>,
}

impl Postprocessor for SeveralTargets {
    fn answered(&self) -> Option<Vec<Arc<str>>> {
        let mut outputs: Vec<Arc<str>> =
            self.classifiers.iter().filter_map(Postprocessor::answered).flatten().collect();
        outputs.dedup();
        Some(outputs)
    }

    fn prediction_schema(&self) -> Value {
        let of_targets = self.names.names.iter().zip(&self.classifiers);
        let of_targets = of_targets.map(|(name, classifier)| (name.to_string(), classifier.prediction_schema()));
        object([("targets", object(of_targets))])
    }

    fn decode(&self, outputs: &Tensors, origin: &Origin) -> Result<Vec<Prediction>> {
        let of_targets = self.classifiers.iter().map(|classifier| classifier.decode(outputs, origin));
        let mut of_targets =
            of_targets.map(|decoded| Ok(decoded?.into_iter())).collect::<Result<Vec<std::vec::IntoIter<_>>>>()?;
        let rows = of_targets.iter().map(ExactSizeIterator::len).min().unwrap_or_default();
        let row = |_| Prediction::Targets {
            names: Arc::clone(&self.names.names),
            predictions: of_targets.iter_mut().filter_map(Iterator::next).collect(),
            monitored: self.names.monitored,
        };
        Ok((0..rows).map(row).collect())
    }

    /// Returns the classes of the monitored target.
    fn classes(&self) -> Option<Vec<Label>> {
        self.classifiers.get(self.names.monitored)?.classes()
    }

    fn agreement(&self, outputs: &Tensors) -> (usize, usize) {
        let of_targets = self.classifiers.iter().map(|classifier| classifier.agreement(outputs));
        of_targets.fold((0, 0), |(same, all), (also_same, more)| (same + also_same, all + more))
    }

    fn doubt(&self, outputs: &Tensors) -> Option<String> {
        self.first(|classifier| classifier.doubt(outputs))
    }

    fn contradiction(&self, outputs: &Tensors) -> Option<String> {
        self.first(|classifier| classifier.contradiction(outputs))
    }

    fn assumptions(&self) -> Vec<String> {
        let of_target = |(name, classifier): (&Arc<str>, &Classifier)| {
            let assumptions = classifier.assumptions().into_iter();
            assumptions.map(|assumption| format!("target {name:?}: {assumption}")).collect::<Vec<_>>()
        };
        let of_targets = self.names.names.iter().zip(&self.classifiers).flat_map(of_target);
        self.assumption.clone().into_iter().chain(of_targets).chain(self.names.assumption()).collect()
    }
}

impl SeveralTargets {
    /// Returns the first remark about a target, with its name.
    fn first(&self, mut remark: impl FnMut(&Classifier) -> Option<String>) -> Option<String> {
        let mut of_targets = self.names.names.iter().zip(&self.classifiers);
        of_targets.find_map(|(name, classifier)| Some(format!("target {name:?}: {}", remark(classifier)?)))
    }
}
