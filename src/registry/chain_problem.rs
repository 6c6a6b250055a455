//! Checks that the steps of a chain are served, and that the instances of each step fit its model. The check is made
//! whenever a snapshot is published, so that a chain is served only while all of its steps are.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::catalog::{ServedModel, ServedVersion};
use super::chain_interface::{own_instance_schema, own_prediction_schema};
use crate::config::{Chain, ChainStep, Reference, ReferenceOrigin, StepInstances};
use crate::identity::ModelName;
use crate::pipeline::chain::{member_of, misfit_of, takes_images};
use crate::pipeline::some_of;
use crate::traffic::Share;

/// The reason why a chain is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainProblem {
    /// The problem and what to change, without paths.
    pub reason: String,
    /// The model that is missing or not served, if that is the problem.
    pub waits_for: Option<ModelName>,
}

/// Returns the chains that cannot be served beside these models. `why_unserved` returns the reason why a known model is not
/// served.
pub fn chain_problems(
    models: &BTreeMap<ModelName, ServedModel>,
    why_unserved: &dyn Fn(&ModelName) -> Option<String>,
) -> BTreeMap<ModelName, ChainProblem> {
    let chains = models.iter().filter_map(|(name, model)| Some((name, model.stable_or_newest()?.chain()?)));
    let problem = |(name, chain): (&ModelName, &Chain)| {
        Some((name.clone(), Check { own: name, chain, models, why_unserved }.problem()?))
    };
    chains.filter_map(problem).collect()
}

/// The check of one chain.
struct Check<'a> {
    own: &'a ModelName,
    chain: &'a Chain,
    models: &'a BTreeMap<ModelName, ServedModel>,
    why_unserved: &'a dyn Fn(&ModelName) -> Option<String>,
}

impl Check<'_> {
    fn problem(&self) -> Option<ChainProblem> {
        let mut versions: Vec<Vec<&Arc<ServedVersion>>> = Vec::new();
        for (index, step) in self.chain.steps.iter().enumerate() {
            let at = |reason: String| format!("steps[{index}] ({}): {reason}", step.name);
            match self.versions(step) {
                Ok(found) => versions.push(found),
                Err(problem) => return Some(ChainProblem { reason: at(problem.reason), ..problem }),
            }
            if let Some(misfit) = self.misfit(index, step, &versions) {
                return Some(ChainProblem { reason: at(misfit), waits_for: None });
            }
        }
        None
    }

    /// Returns the versions that a request may take for a step.
    fn versions(&self, step: &ChainStep) -> Result<Vec<&Arc<ServedVersion>>, ChainProblem> {
        let name = &step.model;
        let wrong = |reason: String| ChainProblem { reason, waits_for: None };
        let missing = |reason: String| ChainProblem { reason, waits_for: Some(name.clone()) };
        if name == self.own {
            return Err(wrong("a chain cannot run itself; name another model".to_owned()));
        }
        let Some(model) = self.models.get(name) else {
            return Err(missing(match (self.why_unserved)(name) {
                Some(reason) => format!("model {name} is not served: {reason}"),
                None => {
                    let others: Vec<&str> =
                        self.models.keys().filter(|other| *other != self.own).map(ModelName::as_str).collect();
                    format!("there is no model {name}; served are: {}", some_of(&others))
                }
            }));
        };
        let versions: Vec<&Arc<ServedVersion>> = match step.version {
            Some(version) => model.versions.get(&version).into_iter().collect(),
            None => model.versions.values().filter(|served| model.split.share(served.version) != Share::NONE).collect(),
        };
        match (&*versions, step.version) {
            ([], version) => {
                let version = version.map_or("with traffic".to_owned(), |version| version.to_string());
                let loaded: Vec<String> = model.versions.keys().map(ToString::to_string).collect();
                Err(missing(format!(
                    "version {version} of model {name} is not loaded (loaded: {}); add it, or name another one with \
                     `version`",
                    some_of(&loaded)
                )))
            }
            _ if versions.iter().any(|served| served.chain().is_some()) => {
                Err(wrong(format!("model {name} is a chain itself, and chains do not run chains; name its steps here")))
            }
            _ => Ok(versions),
        }
    }

    /// Returns the misfit between the instances that are made for a step and its model. `versions` are those of the steps up
    /// to this one.
    fn misfit(&self, index: usize, step: &ChainStep, versions: &[Vec<&Arc<ServedVersion>>]) -> Option<String> {
        versions.get(index)?.iter().find_map(|taker| {
            let accepted = own_instance_schema(taker);
            let of = |problem: String| format!("{problem} (model {} version {})", taker.model, taker.version);
            if self.chain.has_crops(index)
                && let Some(problem) = rows_problem(step, taker)
            {
                return Some(of(format!("crop: {problem}")));
            }
            match &step.instances {
                StepInstances::Crops { detector, .. } => {
                    if !takes_images(&accepted) || is_audio(taker) {
                        return Some(of("crop: the instances of this model are not images".to_owned()));
                    }
                    versions.get(*detector)?.iter().find_map(|giver| without_boxes(giver))
                }
                StepInstances::Value(reference) => {
                    self.misfits_of(reference, versions, &|value| misfit_of(value, &accepted)).map(of)
                }
                StepInstances::Members(members) => {
                    let object: serde_json::Map<String, Value> =
                        members.iter().map(|(name, _)| (name.clone(), json!({}))).collect();
                    let object = json!({ "type": "object", "properties": object });
                    if let Some(misfit) = misfit_of(&object, &accepted) {
                        return Some(of(format!("input: {misfit}")));
                    }
                    members.iter().find_map(|(name, reference)| {
                        let accepted = accepted["properties"].get(name).cloned().unwrap_or(json!({}));
                        self.misfits_of(reference, versions, &|value| misfit_of(value, &accepted))
                            .map(|misfit| of(format!("member {name:?}: {misfit}")))
                    })
                }
            }
        })
    }

    /// Returns the first misfit of a value, over all versions that it may come from.
    fn misfits_of(
        &self,
        reference: &Reference,
        versions: &[Vec<&Arc<ServedVersion>>],
        misfit: &dyn Fn(&Value) -> Option<String>,
    ) -> Option<String> {
        let name = |origin: &str| match &reference.member {
            Some(member) => format!("input: {origin}.{member}: "),
            None => format!("input: {origin}: "),
        };
        let ReferenceOrigin::Step(step) = reference.origin else {
            return self.misfit_of_request(reference, versions, misfit).map(|misfit| name("request") + &misfit);
        };
        let origin = self.chain.steps.get(step).map_or("", |step| &*step.name);
        versions.get(step)?.iter().find_map(|giver| {
            let prediction = own_prediction_schema(giver);
            let value = match &reference.member {
                None => Ok(Some(&prediction)),
                Some(member) => member_of(&prediction, member),
            };
            match value {
                Ok(None) => None,
                Ok(Some(value)) => misfit(value),
                Err(problem) => Some(problem),
            }
            .map(|misfit| name(origin) + &misfit)
        })
    }

    /// Compares what a step takes of the request with what an earlier step takes of it.
    fn misfit_of_request(
        &self,
        reference: &Reference,
        versions: &[Vec<&Arc<ServedVersion>>],
        misfit: &dyn Fn(&Value) -> Option<String>,
    ) -> Option<String> {
        let same = |earlier: &StepInstances| matches!(earlier, StepInstances::Value(earlier) if earlier == reference);
        let earlier = self.chain.steps.iter().position(|step| same(&step.instances))?;
        let taker = versions.get(earlier)?.first()?;
        let misfit = misfit(&own_instance_schema(taker))?;
        let name = self.chain.steps.get(earlier).map_or("", |step| &*step.name);
        Some(format!("step {name} takes the same value, and {misfit}"))
    }
}

/// Returns the reason why a version cannot run as many rows as there are crops.
fn rows_problem(step: &ChainStep, taker: &ServedVersion) -> Option<String> {
    let policy = taker.pipeline()?.model.policy();
    if policy.fewest_rows() > 1 {
        return Some(format!(
            "the model's batch dimension is fixed at {}, and the number of crops varies; export the model with a dynamic batch \
             dimension",
            policy.fewest_rows()
        ));
    }
    let most = policy.most_rows_of_request();
    match step.instances {
        StepInstances::Crops { max_crops, .. } if max_crops.get() > most => Some(format!(
            "a request to this model has at most {most} rows, and an image up to {max_crops} crops; set max_crops = {most}"
        )),
        _ => None,
    }
}

fn without_boxes(giver: &ServedVersion) -> Option<String> {
    if !takes_images(&own_instance_schema(giver)) {
        return Some(format!("crop: the instances of model {} version {} are not images", giver.model, giver.version));
    }
    let prediction = own_prediction_schema(giver);
    let has_boxes = prediction.pointer("/properties/detections/items/properties/box").is_some();
    (!has_boxes).then(|| {
        format!(
            "crop: the predictions of model {} version {} have no boxes; name a step whose model has [postprocess] kind = \
             \"detector\"",
            giver.model, giver.version
        )
    })
}

fn is_audio(taker: &ServedVersion) -> bool {
    let media_types = taker.pipeline().map_or(&[][..], |pipeline| pipeline.preprocessor.media_types());
    media_types.iter().any(|media_type| media_type.starts_with("audio/"))
}
