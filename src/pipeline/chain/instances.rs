//! The instances of a step: values of the request and of earlier predictions, or crops.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;

use serde::Deserializer as _;
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::crops::crops;
use super::instance_array::{ChainInstances, InstanceArray};
use crate::budget::{Deadline, MemoryBudget};
use crate::config::{Chain, Reference, ReferenceOrigin, StepInstances};
use crate::error::{Error, Result};
use crate::identity::shown;
use crate::pipeline::{Detection, Prediction};

/// A step that has run.
#[derive(Debug, Clone)]
pub struct FinishedStep {
    /// Its instances, if boxes are cut out of them later.
    pub instances: Option<ChainInstances>,
    /// Its predictions, one for each instance.
    pub predictions: Arc<Vec<Prediction>>,
    /// The rows of its instances; `None` if each instance of the request has one.
    pub rows: Option<Arc<[StepRow]>>,
}

/// Row of a step whose instances are crops.
#[derive(Debug, Clone, PartialEq)]
pub struct StepRow {
    /// Index of the instance of the request.
    pub instance: usize,
    /// The object in the crop.
    pub detection: Detection,
}

/// Instances that are made for a step.
#[derive(Debug)]
pub struct MadeInstances {
    /// The instances.
    pub instances: ChainInstances,
    /// Their rows, if they are crops or made from predictions for crops.
    pub rows: Option<Arc<[StepRow]>>,
}

/// Returns true if the step with this index has instances. It has none if its instances are crops, and no box was found.
pub fn has_instances(chain: &Chain, step: usize, done: &[FinishedStep]) -> bool {
    let is_found = |prediction: &Prediction| !matches!(prediction, Prediction::Detections(found) if found.is_empty());
    let Some(step) = chain.steps.get(step) else { return false };
    if let StepInstances::Crops { detector, .. } = step.instances {
        return done.get(detector).is_some_and(|detector| detector.predictions.iter().any(is_found));
    }
    step.instances.references().all(|reference| match reference.origin {
        ReferenceOrigin::Request => true,
        ReferenceOrigin::Step(step) => done.get(step).is_some_and(|step| !step.predictions.is_empty()),
    })
}

/// Counts the instances of a request, of which there are at least one and at most `most`.
pub fn count_of(instances: &RawValue, most: NonZeroUsize) -> Result<usize> {
    struct Items {
        most: usize,
    }
    impl<'de> Visitor<'de> for Items {
        type Value = usize;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array of instances")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<usize, A::Error> {
            let mut count = 0;
            while items.next_element::<IgnoredAny>()?.is_some() {
                count += 1;
                if count > self.most {
                    return Err(serde::de::Error::custom("too many"));
                }
            }
            Ok(count)
        }
    }
    if !instances.get().starts_with('[') {
        return Err(not_an_array());
    }
    let mut json = serde_json::Deserializer::from_str(instances.get());
    match json.deserialize_seq(Items { most: most.get() }) {
        Ok(0) => Err(Error::InvalidInput("instances: the list is empty; send at least one instance".to_owned())),
        Ok(count) => Ok(count),
        Err(_) => Err(Error::InvalidInput(format!("instances: more than {most}, the maximum of one request"))),
    }
}

impl FinishedStep {
    /// Returns a step that had no instances.
    pub fn without_instances() -> FinishedStep {
        FinishedStep { instances: None, predictions: Arc::default(), rows: Some(Arc::default()) }
    }

    /// Returns the approximate size of what later steps read, in bytes.
    pub fn units(&self) -> usize {
        self.predictions.len() * 64
    }
}

/// Makes the instances of the step with this index. `done` are the steps before it.
pub fn instances_of_step(
    chain: &Chain,
    step: usize,
    request: &ChainInstances,
    done: &[FinishedStep],
    (memory, deadline): (&MemoryBudget, Deadline),
) -> Result<MadeInstances> {
    let Some(step) = chain.steps.get(step) else { return Err(Error::internal("a chain without this step")) };
    if step.instances.is_request() {
        return Ok(MadeInstances { instances: Arc::clone(request), rows: None });
    }
    if let StepInstances::Crops { detector, margin, max_crops } = step.instances {
        let detector = done.get(detector).ok_or_else(missing_step)?;
        let images = detector.instances.as_ref().ok_or_else(missing_step)?;
        let boxes = detector.predictions.iter().map(|prediction| boxes_of(prediction, max_crops.get()));
        let boxes = boxes.collect::<Result<Vec<_>>>()?;
        let instances = crops(images, &boxes, margin, (memory, deadline))?;
        let rows = boxes.iter().enumerate().flat_map(|(instance, boxes)| {
            boxes.iter().map(move |detection| StepRow { instance, detection: detection.clone() })
        });
        return Ok(MadeInstances { instances, rows: Some(rows.collect()) });
    }
    let sources = Sources::of(&step.instances, chain, request, done)?;
    let mut array = InstanceArray::new(memory)?;
    for row in 0..sources.count() {
        array.begin_instance()?;
        match &step.instances {
            StepInstances::Value(reference) => sources.write(reference, row, (&mut array, deadline))?,
            StepInstances::Members(members) => {
                for (index, (name, reference)) in members.iter().enumerate() {
                    array.add(if index == 0 { "{" } else { "," })?;
                    array.add(&serde_json::to_string(name).map_err(Error::internal)?)?;
                    array.add(":")?;
                    sources.write(reference, row, (&mut array, deadline))?;
                }
                array.add("}")?;
            }
            StepInstances::Crops { .. } => return Err(Error::internal("crops are made from boxes")),
        }
    }
    Ok(MadeInstances { instances: array.finish()?, rows: sources.rows })
}

/// The values that instances are made of.
struct Sources<'a> {
    chain: &'a Chain,
    /// The instances of the request; empty if they are not used.
    request: Vec<&'a RawValue>,
    done: &'a [FinishedStep],
    /// The rows, if one of the steps has crops.
    rows: Option<Arc<[StepRow]>>,
    /// Number of instances of the request.
    instances: usize,
}

impl<'a> Sources<'a> {
    fn of(
        instances: &StepInstances,
        chain: &'a Chain,
        request: &'a ChainInstances,
        done: &'a [FinishedStep],
    ) -> Result<Sources<'a>> {
        let items: Vec<&RawValue> = serde_json::from_str(request.get()).map_err(|_| not_an_array())?;
        let steps = instances.references().filter_map(|reference| match reference.origin {
            ReferenceOrigin::Request => None,
            ReferenceOrigin::Step(step) => done.get(step),
        });
        let rows = { steps }.find_map(|step| step.rows.clone());
        Ok(Sources { chain, instances: items.len(), request: items, done, rows })
    }

    fn count(&self) -> usize {
        self.rows.as_ref().map_or(self.instances, |rows| rows.len())
    }

    /// Writes the JSON text of a value in a row.
    fn write(
        &self,
        reference: &Reference,
        row: usize,
        (array, deadline): (&mut InstanceArray, Deadline),
    ) -> Result<()> {
        deadline.check()?;
        let rows = self.rows.as_deref();
        let instance = rows.map_or(Some(row), |rows| Some(rows.get(row)?.instance));
        let instance = instance.ok_or_else(missing_step)?;
        match reference.origin {
            ReferenceOrigin::Request => {
                let item = self.request.get(instance).ok_or_else(missing_step)?.get();
                let missing = |member: &str| {
                    Error::InvalidInput(format!(
                        "instances[{instance}]: the member \"{0}\" is missing; send an object with it, as in {{\"{0}\": …}}",
                        shown(member)
                    ))
                };
                array.add(selected(item, reference.member.as_deref(), missing)?)
            }
            ReferenceOrigin::Step(step) => {
                let finished = self.done.get(step).ok_or_else(missing_step)?;
                let index = if finished.rows.is_some() { row } else { instance };
                let prediction = finished.predictions.get(index).ok_or_else(missing_step)?;
                let text = serde_json::to_string(prediction).map_err(Error::internal)?;
                let name = self.chain.steps.get(step).map_or("", |step| &*step.name);
                let missing = |member: &str| Error::UnusableOutput {
                    output: format!("{name}.{member}"),
                    problem: "is not a member of the prediction; name another one in `input`".to_owned(),
                };
                array.add(selected(&text, reference.member.as_deref(), missing)?)
            }
        }
    }
}

/// Returns a member of a JSON object, or the whole value.
fn selected<'a>(text: &'a str, member: Option<&str>, missing: impl Fn(&str) -> Error) -> Result<&'a str> {
    let Some(member) = member else { return Ok(text) };
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(text).map_err(|_| missing(member))?;
    members.get(member).map(|value| value.get()).ok_or_else(|| missing(member))
}

/// Returns the first objects of a detector's prediction, which are those of the highest scores.
fn boxes_of(prediction: &Prediction, most: usize) -> Result<Vec<Detection>> {
    match prediction {
        Prediction::Detections(found) => Ok(found.iter().take(most).cloned().collect()),
        _ => Err(Error::internal("crops of predictions without boxes")),
    }
}

fn missing_step() -> Error {
    Error::internal("a chain whose steps do not have the rows of each other")
}

fn not_an_array() -> Error {
    Error::InvalidInput("instances: expected an array of instances, as in {\"instances\": [...]}".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{ChainAnswer, ChainStep};
    use crate::pipeline::Label;

    fn reference(origin: ReferenceOrigin, member: Option<&str>) -> Reference {
        Reference { origin, member: member.map(str::to_owned) }
    }

    fn chain(instances: StepInstances) -> Chain {
        let step = |name: &str, instances| ChainStep {
            name: name.into(),
            model: name.parse().unwrap(),
            version: None,
            instances,
            budget: None,
        };
        let first = StepInstances::Value(reference(ReferenceOrigin::Request, None));
        Chain { steps: vec![step("first", first), step("second", instances)], answer: ChainAnswer::Last }
    }

    fn made(instances: StepInstances, request: &str, first: FinishedStep) -> Result<Option<String>> {
        let memory = MemoryBudget::new(1 << 20, NonZeroUsize::MIN);
        let request = Arc::new(memory.nothing().of(RawValue::from_string(request.to_owned()).unwrap()));
        let deadline = Deadline::from_now(Duration::from_secs(60));
        let made = instances_of_step(&chain(instances), 1, &request, &[first], (&memory, deadline))?;
        Ok(Some(made.instances.get().to_owned()))
    }

    fn finished(predictions: Vec<Prediction>, rows: Option<Vec<usize>>) -> FinishedStep {
        let detection = || Detection { label: Label::Number(0), score: 0.5, corners: [0.0, 0.0, 1.0, 1.0] };
        let row = |instance| StepRow { instance, detection: detection() };
        let rows = rows.map(|rows| rows.into_iter().map(row).collect());
        FinishedStep { instances: None, predictions: Arc::new(predictions), rows }
    }

    #[test]
    fn members_keep_the_digits_of_a_prediction() {
        let embedding = || finished(vec![Prediction::Embedding(vec![0.1, 2.0]), Prediction::Embedding(vec![])], None);
        let of_first = |member| reference(ReferenceOrigin::Step(0), member);
        let value = |member| StepInstances::Value(of_first(member));
        let found = made(value(Some("embedding")), r#"["a","b"]"#, embedding()).unwrap();
        assert_eq!(found.as_deref(), Some("[[0.1,2.0],[]]"));
        let whole = made(value(None), r#"["a","b"]"#, embedding()).unwrap();
        assert_eq!(whole.as_deref(), Some(r#"[{"embedding":[0.1,2.0]},{"embedding":[]}]"#));
        let error = made(value(Some("vector")), r#"["a","b"]"#, embedding()).unwrap_err();
        assert!(error.to_string().contains("first.vector"), "{error}");
    }

    #[test]
    fn an_object_has_members_of_the_request_and_of_predictions() {
        let members = StepInstances::Members(vec![
            ("price".to_owned(), reference(ReferenceOrigin::Request, Some("price"))),
            ("vector".to_owned(), reference(ReferenceOrigin::Step(0), Some("embedding"))),
        ]);
        // Two crops of the second instance.
        let first =
            finished(vec![Prediction::Embedding(vec![1.0]), Prediction::Embedding(vec![2.0])], Some(vec![1, 1]));
        let request = r#"[{"price": 1e2}, {"price": 3}]"#;
        let found = made(members.clone(), request, first.clone()).unwrap();
        assert_eq!(found.as_deref(), Some(r#"[{"price":3,"vector":[1.0]},{"price":3,"vector":[2.0]}]"#));
        let error = made(members.clone(), r#"[{}, {"cost": 3}]"#, first).unwrap_err().to_string();
        assert!(error.starts_with("instances[1]: the member \"price\" is missing"), "{error}");
        let nothing = finished(Vec::new(), Some(Vec::new()));
        assert!(!has_instances(&chain(members), 1, &[nothing]));
    }
}
