//! The instances and predictions of a version, as callers see them: those of its own stages, or of the steps of a chain.

use std::num::NonZeroUsize;
use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::catalog::{ServedVersion, Snapshot};
use crate::config::{Chain, ChainAnswer, ChainStep, ReferenceOrigin, StepInstances};
use crate::error::Result;
use crate::pipeline::chain::crops_schema;
use crate::pipeline::{InstanceForm, PredictionKind, Preprocessor};

/// The instances and predictions of a version.
#[derive(Debug)]
pub enum Interface<'a> {
    /// Those of its own stages.
    Own(&'a ServedVersion),
    /// Those of the steps of a chain.
    Chain(ChainInterface<'a>),
}

/// The instances and predictions of a chain, with one version of each step.
#[derive(Debug)]
pub struct ChainInterface<'a> {
    chain: &'a Chain,
    /// Versions of the steps, in their order.
    steps: &'a [Arc<ServedVersion>],
}

impl Snapshot {
    /// Calls `with` with the interface of a version. That of a chain is the one of the stable versions of its steps.
    pub fn interface_of<T>(&self, served: &ServedVersion, with: impl FnOnce(Interface<'_>) -> T) -> Result<T> {
        let Some(chain) = served.chain() else { return Ok(with(Interface::Own(served))) };
        let stable = |step: &ChainStep| match step.version {
            Some(_) => None,
            None => self.stable_or_newest(step.model.as_str()).ok().cloned(),
        };
        let mut steps = self.steps_of(chain, b"")?;
        for (found, step) in steps.iter_mut().zip(&chain.steps) {
            if let Some(stable) = stable(step) {
                *found = stable;
            }
        }
        Ok(with(Interface::Chain(ChainInterface::new(chain, &steps))))
    }
}

impl Interface<'_> {
    /// Returns the JSON Schema of an instance.
    pub fn instance_schema(&self) -> Value {
        match self {
            Interface::Own(served) => own_instance_schema(served),
            Interface::Chain(chain) => chain.instance_schema(),
        }
    }

    /// Returns the JSON Schema of a prediction.
    pub fn prediction_schema(&self) -> Value {
        match self {
            Interface::Own(served) => own_prediction_schema(served),
            Interface::Chain(chain) => chain.prediction_schema(),
        }
    }

    /// Returns an instance that a caller can send as it is.
    pub fn example(&self) -> Option<&RawValue> {
        match self {
            Interface::Own(served) => served.example.as_deref(),
            Interface::Chain(chain) => chain.first()?.example.as_deref(),
        }
    }

    /// Returns the number of instances that a request needs at least.
    pub fn fewest_instances(&self) -> usize {
        let served = match self {
            Interface::Own(served) => Some(*served),
            Interface::Chain(chain) => chain.first().map(|served| &**served),
        };
        served.and_then(ServedVersion::pipeline).map_or(1, |pipeline| pipeline.model.policy().fewest_rows())
    }

    /// Returns the media types of bodies that are one instance.
    pub fn media_types(&self) -> &'static [&'static str] {
        let preprocessor = match self {
            Interface::Own(served) => served.pipeline().map(|pipeline| &*pipeline.preprocessor),
            Interface::Chain(chain) => chain.preprocessor(),
        };
        preprocessor.map_or(&[], Preprocessor::media_types)
    }

    /// Returns the form of an instance for requests that name the values of a row.
    pub fn instance_form(&self) -> Option<InstanceForm> {
        match self {
            Interface::Own(served) => served.pipeline()?.preprocessor.instance_form(),
            Interface::Chain(chain) => chain.preprocessor()?.instance_form(),
        }
    }

    /// Returns the maximum number of instances in one request.
    pub fn max_instances(&self) -> NonZeroUsize {
        match self {
            Interface::Own(served) => served.config.model.max_instances,
            Interface::Chain(chain) => chain.max_instances(),
        }
    }

    /// Returns the kind of the predictions.
    pub fn prediction_kind(&self) -> PredictionKind {
        match self {
            Interface::Own(served) => served.prediction_kind(),
            Interface::Chain(chain) => {
                chain.answering().map_or(PredictionKind::Other, |served| served.prediction_kind())
            }
        }
    }
}

impl<'a> ChainInterface<'a> {
    /// Returns the interface of a chain with these versions of its steps.
    pub fn new(chain: &'a Chain, steps: &'a [Arc<ServedVersion>]) -> ChainInterface<'a> {
        ChainInterface { chain, steps }
    }

    /// Returns the version of the first step whose instances are those of the request.
    pub fn first(&self) -> Option<&'a Arc<ServedVersion>> {
        let takes_members = |instances: &StepInstances| {
            { instances.references() }.any(|reference| {
                reference.origin == ReferenceOrigin::Request && (reference.member.is_some() || !instances.is_request())
            })
        };
        if self.chain.steps.iter().any(|step| takes_members(&step.instances)) {
            // The instances are objects, of which a step takes a member.
            return None;
        }
        let place = self.chain.steps.iter().position(|step| step.instances.is_request())?;
        self.steps.get(place)
    }

    /// Returns the preprocessor whose instances are those of the request.
    pub fn preprocessor(&self) -> Option<&'a dyn Preprocessor> {
        self.first()?.pipeline().map(|pipeline| &*pipeline.preprocessor)
    }

    /// Returns the maximum number of instances in one request: the smallest of the steps, without those that run for crops.
    pub fn max_instances(&self) -> NonZeroUsize {
        let of_step = |(index, served): (usize, &Arc<ServedVersion>)| {
            (!self.chain.has_crops(index)).then_some(served.config.model.max_instances)
        };
        self.steps.iter().enumerate().filter_map(of_step).min().unwrap_or(NonZeroUsize::MAX)
    }

    /// Returns the version of the step whose predictions are those of the chain; `None` if they are put together.
    pub fn answering(&self) -> Option<&'a Arc<ServedVersion>> {
        let last = self.chain.steps.len().checked_sub(1)?;
        let is_whole = self.chain.answer == ChainAnswer::Last && !self.chain.has_crops(last);
        is_whole.then(|| self.steps.get(last)).flatten()
    }

    /// Returns the schema of an instance: that of the step that takes it whole, or an object of the members that steps take.
    fn instance_schema(&self) -> Value {
        if let Some(first) = self.first() {
            return own_instance_schema(first);
        }
        let mut members = Map::new();
        for (step, served) in self.chain.steps.iter().zip(self.steps) {
            let accepted = own_instance_schema(served);
            let (whole, parts): (_, &[_]) = match &step.instances {
                StepInstances::Value(reference) => (Some((reference, accepted.clone())), &[]),
                StepInstances::Members(members) => (None, members),
                StepInstances::Crops { .. } => (None, &[]),
            };
            let part = |(name, reference)| (reference, accepted["properties"].get(name).cloned().unwrap_or(json!({})));
            for (reference, schema) in
                whole.into_iter().chain(parts.iter().map(|(name, part_of)| part((name, part_of))))
            {
                if let (ReferenceOrigin::Request, Some(member)) = (reference.origin, &reference.member) {
                    members.entry(member.clone()).or_insert(schema);
                }
            }
        }
        let required: Vec<&String> = members.keys().collect();
        json!({ "type": "object", "required": required, "properties": members })
    }

    fn prediction_schema(&self) -> Value {
        let of_step = |index: usize| {
            let own = self.steps.get(index).map_or(json!({}), |served| own_prediction_schema(served));
            let Some(cut) = self.chain.crops_of(index) else { return own };
            let detector = match self.chain.steps.get(cut).map(|step| &step.instances) {
                Some(StepInstances::Crops { detector, .. }) => self.steps.get(*detector),
                _ => None,
            };
            crops_schema(&detector.map_or(json!({}), |served| own_prediction_schema(served)), own)
        };
        match self.chain.answer {
            ChainAnswer::Last => of_step(self.chain.steps.len().saturating_sub(1)),
            ChainAnswer::All => {
                let steps = self.chain.steps.iter().enumerate();
                let members: Map<String, Value> =
                    steps.map(|(index, step)| (step.name.to_string(), of_step(index))).collect();
                let required: Vec<&String> = members.keys().collect();
                json!({ "type": "object", "required": required, "properties": members })
            }
        }
    }
}

/// Returns the schema of an instance of a version's own stages; any value for a chain.
pub(super) fn own_instance_schema(served: &ServedVersion) -> Value {
    served.pipeline().map_or(json!({}), |pipeline| pipeline.preprocessor.instance_schema())
}

/// Returns the schema of a prediction of a version's own stages; any value for a chain.
pub(super) fn own_prediction_schema(served: &ServedVersion) -> Value {
    served.pipeline().map_or(json!({}), |pipeline| pipeline.postprocessor.prediction_schema())
}
