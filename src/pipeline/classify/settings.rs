//! `kind = "classifier"`: the settings, for one target or for several.

use std::num::NonZeroUsize;
use std::sync::Arc;

use serde::Deserialize;

use super::classifier::{Classifier, ClassifierSettings, Target};
use super::labels::Labels;
use super::scores::{ScoreSettings, Scores, ScoresOfModel};
use super::several_targets::SeveralTargets;
use crate::error::{Result, SetupError};
use crate::pipeline::outputs::{declared_output, float_output, float_outputs};
use crate::pipeline::target_names::{TargetNames, only_with_targets};
use crate::pipeline::{Postprocessor, StageContext};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The output with the scores; by default, the only floating-point output.
    output: Option<String>,
    /// Kind of the scores; required.
    scores: Option<Scores>,
    /// The classes in the order of the scores, or a file with them; by default, the names in the model's file.
    labels: Option<Labels>,
    /// Maximum number of classes in an answer; by default, three, or all with `multi_label`.
    top_k: Option<NonZeroUsize>,
    /// Divisor of logits before they become probabilities.
    #[serde(default = "one")]
    temperature: f32,
    /// Minimum probability for choosing the second of two classes, or with `multi_label`, for choosing any class.
    threshold: Option<f32>,
    /// True if any number of classes can be right at once.
    multi_label: Option<bool>,
    /// The targets, if the model has several.
    targets: Option<Vec<TargetSettings>>,
    /// Name of the target that is monitored and compared with feedback; by default, the first.
    monitored: Option<String>,
}

/// Settings of one of several targets.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a target is its name, or a table with name, output, labels and threshold")]
enum TargetSettings {
    /// Only the name.
    Name(String),
    /// The name, and settings for this target.
    Table(TargetTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetTable {
    name: String,
    /// The output with the scores of this target.
    output: Option<String>,
    /// The classes of this target.
    labels: Option<Labels>,
    /// Minimum probability for choosing the second of two classes.
    threshold: Option<f32>,
}

fn one() -> f32 {
    1.0
}

impl TargetSettings {
    fn into_table(self) -> TargetTable {
        match self {
            TargetSettings::Name(name) => TargetTable { name, output: None, labels: None, threshold: None },
            TargetSettings::Table(table) => table,
        }
    }
}

pub(crate) fn make(context: StageContext<'_>) -> Result<Box<dyn Postprocessor>, SetupError> {
    let mut settings: Settings = context.config.settings()?;
    match settings.targets.take() {
        Some(targets) => {
            let targets = targets.into_iter().map(TargetSettings::into_table).collect();
            several(settings, targets, &context).map(|stage| Box::new(stage) as Box<dyn Postprocessor>)
        }
        None => single(settings, &context).map(|stage| Box::new(stage) as Box<dyn Postprocessor>),
    }
}

fn single(settings: Settings, context: &StageContext<'_>) -> Result<Classifier, SetupError> {
    let Settings { output, scores, labels, top_k, temperature, threshold, multi_label, targets: _, monitored } =
        settings;
    if monitored.is_some() {
        return Err(only_with_targets("monitored"));
    }
    let has_several = output.is_none() && float_outputs(context.signature).count() > 1;
    let ScoresOfModel { output, scores, labels } = ScoreSettings { output, scores, labels }
        .find(context)
        .map_err(|error| if has_several { or_targets(error, context) } else { error })?;
    let target = Target::Only;
    let settings = ClassifierSettings { output, scores, labels, top_k, temperature, threshold, multi_label, target };
    Classifier::new(settings, context)
}

/// Adds the advice to name targets to the error that the model has several outputs with scores.
fn or_targets(error: SetupError, context: &StageContext<'_>) -> SetupError {
    match error {
        SetupError::Config(problem) => SetupError::Config(format!(
            "{problem}; or answer a class from each of them: name as many targets as there are outputs, in their order, as \
             in targets = [\"colour\", \"size\"] ({} outputs)",
            float_outputs(context.signature).count()
        )),
        error => error,
    }
}

fn several(
    settings: Settings,
    targets: Vec<TargetTable>,
    context: &StageContext<'_>,
) -> Result<SeveralTargets, SetupError> {
    let Settings { output, scores, labels, top_k, temperature, threshold, multi_label, targets: _, monitored } =
        settings;
    let alone = [("labels", labels.is_some()), ("threshold", threshold.is_some())];
    if let Some((key, _)) = alone.iter().find(|(_, is_set)| *is_set) {
        return Err(SetupError::Config(format!("{key}: each target has its own; set them in [[postprocess.targets]]")));
    }
    if multi_label == Some(true) {
        return Err(SetupError::Config("multi_label: each of several targets has exactly one class".to_owned()));
    }
    let names = targets.iter().map(|target| target.name.clone()).collect();
    let names = TargetNames::new(names, monitored.as_deref())?;
    let places = places(&targets, output.as_deref(), context)?;
    let is_by_order = places
        .iter()
        .zip(&targets)
        .any(|((_, place), target)| matches!(place, Target::OfOwnOutput { .. }) && target.output.is_none());
    let outputs = is_by_order.then(|| {
        let outputs: Vec<String> = places.iter().map(|(output, _)| format!("{output:?}")).collect();
        format!("the targets are those of the outputs in their order: {}", outputs.join(", "))
    });
    let scores_of =
        ScoreSettings { output: places.first().map(|(output, _)| output.to_string()), scores, labels: None };
    let scores = scores_of.find(context)?.scores;
    let classifier = |(table, (output, target)): (TargetTable, (Arc<str>, Target))| {
        let TargetTable { name, output: _, labels, threshold } = table;
        let labels = labels.map(|labels| labels.read(context.files)).transpose();
        let classifier = labels.and_then(|labels| {
            let settings =
                ClassifierSettings { output, scores, labels, top_k, temperature, threshold, multi_label, target };
            Classifier::new(settings, context)
        });
        classifier.map_err(|error| match error {
            SetupError::Config(problem) => SetupError::Config(format!("target {name:?}: {problem}")),
            other => other,
        })
    };
    let classifiers = targets.into_iter().zip(places).map(classifier).collect::<Result<Vec<_>, SetupError>>()?;
    Ok(SeveralTargets { names, classifiers, assumption: outputs })
}

/// Returns the output of each target, and its place: each has an output of its own, or all are in one.
fn places(
    targets: &[TargetTable],
    output: Option<&str>,
    context: &StageContext<'_>,
) -> Result<Vec<(Arc<str>, Target)>, SetupError> {
    let signature = context.signature;
    let in_one = |output: Arc<str>| {
        let of_target = |target| Target::OfCommonOutput { target, targets: targets.len() };
        Ok((0..targets.len()).map(|target| (Arc::clone(&output), of_target(target))).collect())
    };
    // The columns of labels are in the order of the outputs, if there are as many.
    let columns = context.classes.label_columns.as_ref().map_or(0, |labels| labels.names.len());
    let own = |output: Arc<str>| {
        let is_ordered = float_outputs(signature).count() == columns;
        let column = float_outputs(signature).position(|name| *name == output).filter(|_| is_ordered);
        (output, Target::OfOwnOutput { column })
    };
    let with_output = targets.iter().filter(|target| target.output.is_some()).count();
    match (output, with_output) {
        (None, with_output) if with_output > 0 => {
            let mut outputs: Vec<Arc<str>> = Vec::with_capacity(targets.len());
            for target in targets {
                let Some(name) = &target.output else {
                    return Err(SetupError::Config(format!(
                        "targets: {:?} has no output; name one for each target, or for none",
                        target.name
                    )));
                };
                declared_output(signature, name)?;
                let output = float_output(signature, Some(name), "scores")?;
                if outputs.contains(&output) {
                    return Err(SetupError::Config(format!("targets: two of them have the output {name:?}")));
                }
                outputs.push(output);
            }
            Ok(outputs.into_iter().map(own).collect())
        }
        (None, _) if float_outputs(signature).count() != 1 && float_outputs(signature).count() == targets.len() => {
            Ok(float_outputs(signature).cloned().map(own).collect())
        }
        (None, _) if float_outputs(signature).count() > 1 => Err(SetupError::Config(format!(
            "targets: there are {}, but the model has the floating-point outputs {}; give each target its output, as in \
             {{ name = \"colour\", output = \"…\" }}",
            targets.len(),
            float_outputs(signature).map(|name| &**name).collect::<Vec<_>>().join(", ")
        ))),
        (Some(_), with_output) if with_output > 0 => {
            Err(SetupError::Config("output: the targets have outputs of their own".to_owned()))
        }
        (output, _) => in_one(float_output(signature, output, "scores")?),
    }
}
