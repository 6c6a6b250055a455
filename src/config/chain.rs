//! `[[steps]]`: a model that runs other models in order. Which predictions become the instances of which step is read
//! and checked here, as far as `model.toml` alone tells.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sources;
use crate::identity::{ModelName, Version, shown};

/// Name of the request in references, as in `input = "request.text"`.
pub const REQUEST: &str = "request";

/// Maximum number of steps of a chain.
const MAX_STEPS: usize = 16;
/// Maximum number of members of an instance that is put together.
const MAX_MEMBERS: usize = 64;
/// Maximum number of crops of one image.
const MAX_CROPS: usize = 256;
/// Maximum margin of a crop, in parts of the sides of its box.
const MAX_MARGIN: f32 = 4.0;

/// A table of `[[steps]]`, as it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepConfig {
    /// The model that runs.
    pub model: ModelName,
    /// Its version; `None` for the version that its traffic decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// Name of the step; by default, the name of its model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The instances of the step; by default, those of the request in the first step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<StepInput>,
    /// Name of an earlier step whose boxes are cut out of its images, and are the instances of this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<String>,
    /// Margin around each box, in parts of its sides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f32>,
    /// Maximum number of crops of an image: those of the highest scores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_crops: Option<NonZeroUsize>,
    /// Maximum time of the step, in milliseconds; by default, the budget of its model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_ms: Option<NonZeroU32>,
}

/// `input` of a step: a reference, as in `"embed.embedding"`, or an object of references.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a text such as \"embed.embedding\", or a table of such texts")]
pub enum StepInput {
    /// The value is the instance.
    Value(String),
    /// The values are the members of the instance.
    Members(BTreeMap<String, String>),
}

/// `answer`: the prediction of a chain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChainAnswer {
    /// The prediction of the last step.
    #[default]
    Last,
    /// An object with the predictions of all steps, by their names.
    All,
}

/// A chain: models that run in order, each on instances made from the request and from earlier predictions.
#[derive(Debug, Clone, PartialEq)]
pub struct Chain {
    /// The steps; never empty.
    pub steps: Vec<ChainStep>,
    /// The prediction of the chain.
    pub answer: ChainAnswer,
}

/// A step of a chain.
#[derive(Debug, Clone, PartialEq)]
pub struct ChainStep {
    /// Name of the step in answers, metrics and errors.
    pub name: Arc<str>,
    /// The model that runs.
    pub model: ModelName,
    /// Its version; `None` for the version that its traffic decides.
    pub version: Option<Version>,
    /// The instances of the step.
    pub instances: StepInstances,
    /// Maximum time of the step; `None` for the budget of its model.
    pub budget: Option<Duration>,
}

/// The way to make the instances of a step.
#[derive(Debug, Clone, PartialEq)]
pub enum StepInstances {
    /// A value of the request or of an earlier prediction.
    Value(Reference),
    /// An object of such values.
    Members(Vec<(String, Reference)>),
    /// Boxes of an earlier step, cut out of its images.
    Crops {
        /// Index of the step with the boxes.
        detector: usize,
        /// Margin around each box, in parts of its sides.
        margin: f32,
        /// Maximum number of crops of an image.
        max_crops: NonZeroUsize,
    },
}

/// A value of the request or of an earlier prediction: all of it, or one of its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The origin of the value.
    pub origin: ReferenceOrigin,
    /// Name of the member; `None` for the whole value.
    pub member: Option<String>,
}

/// Origin of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferenceOrigin {
    /// The instance of the request.
    Request,
    /// The prediction of the step with this index.
    Step(usize),
}

/// Returns true if the `model.toml` in this file has steps. False if it cannot be read.
pub fn has_steps(path: &Path) -> bool {
    sources::read_file::<toml::Table>(path).is_ok_and(|settings| settings.contains_key("steps"))
}

/// Returns true if this text of a `model.toml` has steps.
pub fn text_has_steps(text: &str) -> bool {
    toml::from_str::<toml::Table>(text).is_ok_and(|settings| settings.contains_key("steps"))
}

// ===== impl Chain =====

impl Chain {
    /// Reads the steps of a `model.toml`. The error names the step.
    pub(super) fn of(steps: &[StepConfig], answer: Option<ChainAnswer>) -> Result<Chain, String> {
        if steps.len() > MAX_STEPS {
            return Err(format!("steps: {} are too many, at most {MAX_STEPS}", steps.len()));
        }
        let mut chain = Chain { steps: Vec::with_capacity(steps.len()), answer: answer.unwrap_or_default() };
        for (index, step) in steps.iter().enumerate() {
            let name = step.name.as_deref().unwrap_or(step.model.as_str());
            let at = |problem: String| format!("steps[{index}] ({}): {problem}", shown(name));
            let instances = chain.check_name(name).and_then(|()| chain.instances_of(step)).map_err(at)?;
            let budget = step.budget_ms.map(|limit| Duration::from_millis(limit.get().into()));
            let (model, version) = (step.model.clone(), step.version);
            chain.steps.push(ChainStep { name: name.into(), model, version, instances, budget });
        }
        Ok(chain)
    }

    /// Describes the steps in one line, as in `steps: detect (detector), classify (classifier 3)`.
    pub fn describe(&self) -> String {
        let step = |step: &ChainStep| match step.version {
            Some(version) => format!("{} ({} {version})", step.name, step.model),
            None => format!("{} ({})", step.name, step.model),
        };
        let steps: Vec<String> = self.steps.iter().map(step).collect();
        format!("a chain of the steps {}", steps.join(", "))
    }

    /// Returns true if a later step cuts boxes out of the images of this step.
    pub fn is_cut(&self, step: usize) -> bool {
        let cuts =
            |later: &ChainStep| matches!(later.instances, StepInstances::Crops { detector, .. } if detector == step);
        self.steps.iter().any(cuts)
    }

    /// Returns true if the instances of this step are crops, or are made from a step whose instances are crops.
    pub fn has_crops(&self, step: usize) -> bool {
        self.crops_of(step).is_some()
    }

    /// Returns the step whose crops are the instances of this step, directly or through other steps.
    pub fn crops_of(&self, step: usize) -> Option<usize> {
        match &self.steps.get(step)?.instances {
            StepInstances::Crops { .. } => Some(step),
            other => other.references().find_map(|reference| match reference.origin {
                ReferenceOrigin::Step(earlier) => self.crops_of(earlier),
                ReferenceOrigin::Request => None,
            }),
        }
    }

    /// Returns a reference to an earlier prediction as it is written; `None` if it is to the request.
    pub fn described(&self, reference: &Reference) -> Option<String> {
        let ReferenceOrigin::Step(step) = reference.origin else { return None };
        let name = &self.steps.get(step)?.name;
        Some(reference.member.as_ref().map_or_else(|| name.to_string(), |member| format!("{name}.{member}")))
    }

    /// Names are members of answers, labels of metrics and parts of `Server-Timing`.
    fn check_name(&self, name: &str) -> Result<(), String> {
        let is_first = |letter: char| letter.is_ascii_alphanumeric();
        let is_name = name.len() <= 64
            && name.starts_with(is_first)
            && name.chars().all(|letter| is_first(letter) || matches!(letter, '_' | '-' | '.'));
        if !is_name || name == REQUEST {
            return Err(format!(
                "name: a step is named by 1 to 64 letters, digits and _ - . that begin with a letter or a digit, and not \
                 {REQUEST:?}"
            ));
        }
        match self.step(name) {
            Some(_) => Err("two steps have this name; give one of them another with `name`".to_owned()),
            None => Ok(()),
        }
    }

    fn step(&self, name: &str) -> Option<usize> {
        self.steps.iter().position(|step| *step.name == *name)
    }

    /// Returns the instances of the next step.
    fn instances_of(&self, step: &StepConfig) -> Result<StepInstances, String> {
        let StepConfig { input, crop, margin, max_crops, .. } = step;
        let Some(crop) = crop else {
            if margin.is_some() || max_crops.is_some() {
                return Err("margin and max_crops belong to `crop`".to_owned());
            }
            return self.made_instances(input.as_ref());
        };
        if input.is_some() {
            return Err("set `input` or `crop`, not both".to_owned());
        }
        let detector = self.earlier(crop).map_err(|problem| format!("crop: {problem}"))?;
        if self.has_crops(detector) {
            return Err(format!("crop: the instances of {crop} are crops themselves, and crops are not cut again"));
        }
        let margin = margin.unwrap_or_default();
        if !(0.0..=MAX_MARGIN).contains(&margin) {
            return Err(format!("margin: {margin} is not between 0 and {MAX_MARGIN} (parts of the sides of a box)"));
        }
        let max_crops = max_crops.unwrap_or(super::count::non_zero(16));
        if max_crops.get() > MAX_CROPS {
            return Err(format!("max_crops: {max_crops} is too many, at most {MAX_CROPS}"));
        }
        Ok(StepInstances::Crops { detector, margin, max_crops })
    }

    fn made_instances(&self, input: Option<&StepInput>) -> Result<StepInstances, String> {
        let reference = |text: &str| self.reference(text).map_err(|problem| format!("input: {problem}"));
        let instances = match input {
            None if self.steps.is_empty() => StepInstances::Value(reference(REQUEST)?),
            None => {
                return Err(format!(
                    "say what its instances are: input = \"STEP.MEMBER\" for a member of an earlier prediction, input = \
                     \"{REQUEST}\" for those of the request, or crop = \"STEP\" for the boxes of a detector"
                ));
            }
            Some(StepInput::Value(text)) => StepInstances::Value(reference(text)?),
            Some(StepInput::Members(members)) if members.is_empty() || members.len() > MAX_MEMBERS => {
                return Err(format!("input: an instance has 1 to {MAX_MEMBERS} members"));
            }
            Some(StepInput::Members(members)) => {
                let members = members.iter().map(|(name, text)| Ok((name.clone(), reference(text)?)));
                StepInstances::Members(members.collect::<Result<_, String>>()?)
            }
        };
        let mut crops: Vec<usize> = instances.references().filter_map(|reference| self.crops_at(reference)).collect();
        crops.sort_unstable();
        crops.dedup();
        match &*crops {
            [] | [_] => Ok(instances),
            _ => Err("input: it has values of the crops of two steps, which are not the same boxes".to_owned()),
        }
    }

    fn crops_at(&self, reference: &Reference) -> Option<usize> {
        match reference.origin {
            ReferenceOrigin::Request => None,
            ReferenceOrigin::Step(step) => self.crops_of(step),
        }
    }

    /// Reads a reference. The name of a step may have dots, so the longest name that fits is taken.
    fn reference(&self, text: &str) -> Result<Reference, String> {
        let with_member = |name: &str| match text.strip_prefix(name)? {
            "" => Some(None),
            rest => rest.strip_prefix('.').filter(|member| !member.is_empty()).map(|member| Some(member.to_owned())),
        };
        if let Some(member) = with_member(REQUEST) {
            return Ok(Reference { origin: ReferenceOrigin::Request, member });
        }
        let steps = self.steps.iter().enumerate();
        let fitting = steps.filter_map(|(index, step)| Some((index, step.name.len(), with_member(&step.name)?)));
        let longest = fitting.max_by_key(|(_, length, _)| *length);
        longest
            .map(|(index, _, member)| Reference { origin: ReferenceOrigin::Step(index), member })
            .ok_or_else(|| format!("{text:?} begins with no earlier step; {}", self.known()))
    }

    fn earlier(&self, name: &str) -> Result<usize, String> {
        self.step(name).ok_or_else(|| format!("there is no earlier step {name:?}; {}", self.known()))
    }

    fn known(&self) -> String {
        let names: Vec<&str> = std::iter::once(REQUEST).chain(self.steps.iter().map(|step| &*step.name)).collect();
        format!("known here: {}", names.join(", "))
    }
}

impl StepInstances {
    /// Returns the values that the instances are made of.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        let (value, members): (Option<&Reference>, &[(String, Reference)]) = match self {
            StepInstances::Value(reference) => (Some(reference), &[]),
            StepInstances::Members(members) => (None, members),
            StepInstances::Crops { .. } => (None, &[]),
        };
        value.into_iter().chain(members.iter().map(|(_, reference)| reference))
    }

    /// Returns true if the instances are made of earlier predictions alone. Crops are parts of images of the request.
    pub fn is_predictions(&self) -> bool {
        !matches!(self, StepInstances::Crops { .. })
            && self.references().all(|reference| reference.origin != ReferenceOrigin::Request)
    }

    /// Returns true if the instances are those of the request.
    pub fn is_request(&self) -> bool {
        matches!(self, StepInstances::Value(Reference { origin: ReferenceOrigin::Request, member: None }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(steps: &str) -> Result<Chain, String> {
        #[derive(Deserialize)]
        struct Steps {
            steps: Vec<StepConfig>,
        }
        let read: Steps = toml::from_str(steps).unwrap();
        Chain::of(&read.steps, None)
    }

    #[test]
    fn references_name_the_request_or_an_earlier_step() {
        let chain = chain(
            "[[steps]]\nmodel = 'a'\n[[steps]]\nmodel = 'a.b'\ninput = 'a.b'\n[[steps]]\nmodel = 'c'\n\
             input = { x = 'a.b.c', y = 'request.text' }\n",
        )
        .unwrap();
        let instances: Vec<&StepInstances> = chain.steps.iter().map(|step| &step.instances).collect();
        let reference = |origin, member: Option<&str>| Reference { origin, member: member.map(str::to_owned) };
        assert!(instances[0].is_request());
        assert_eq!(*instances[1], StepInstances::Value(reference(ReferenceOrigin::Step(0), Some("b"))));
        let members = vec![
            ("x".to_owned(), reference(ReferenceOrigin::Step(1), Some("c"))),
            ("y".to_owned(), reference(ReferenceOrigin::Request, Some("text"))),
        ];
        assert_eq!(*instances[2], StepInstances::Members(members));
    }

    #[test]
    fn mistakes_in_steps_are_named() {
        let first = "[[steps]]\nmodel = 'a'\n";
        let crops = "[[steps]]\nmodel = 'b'\ncrop = 'a'\n";
        for (steps, problem) in [
            (
                "[[steps]]\nmodel = 'b'\n".to_owned(),
                "steps[1] (b): say what its instances are: input = \"STEP.MEMBER\"",
            ),
            ("[[steps]]\nmodel = 'a'\ninput = 'a'\n".to_owned(), "steps[1] (a): two steps have this name"),
            (
                "[[steps]]\nmodel = 'b'\ninput = 'c.x'\n".to_owned(),
                "\"c.x\" begins with no earlier step; known here: request, a",
            ),
            ("[[steps]]\nmodel = 'b'\ncrop = 'b'\n".to_owned(), "there is no earlier step \"b\""),
            ("[[steps]]\nmodel = 'b'\ncrop = 'a'\ninput = 'a'\n".to_owned(), "set `input` or `crop`, not both"),
            ("[[steps]]\nmodel = 'b'\ninput = 'a'\nmargin = 1.0\n".to_owned(), "margin and max_crops belong to `crop`"),
            ("[[steps]]\nmodel = 'b'\ncrop = 'a'\nmargin = -1.0\n".to_owned(), "margin: -1 is not between 0 and 4"),
            (
                "[[steps]]\nmodel = 'b'\ncrop = 'a'\nmax_crops = 257\n".to_owned(),
                "max_crops: 257 is too many, at most 256",
            ),
            (format!("{crops}[[steps]]\nmodel = 'c'\ncrop = 'b'\n"), "crops are not cut again"),
            (
                format!(
                    "{crops}[[steps]]\nmodel = 'c'\ncrop = 'a'\n[[steps]]\nmodel = 'd'\ninput = {{ x = 'b', y = 'c' }}\n"
                ),
                "steps[3] (d): input: it has values of the crops of two steps",
            ),
            ("[[steps]]\nmodel = 'b'\nname = 'request'\ninput = 'a'\n".to_owned(), "and not \"request\""),
            ("[[steps]]\nmodel = 'b'\nname = 'a b'\ninput = 'a'\n".to_owned(), "a step is named by 1 to 64 letters"),
        ] {
            let found = chain(&format!("{first}{steps}")).unwrap_err();
            assert!(found.contains(problem), "{found}");
        }
    }
}
