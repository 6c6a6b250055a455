//! A classifier of one target: the scores of its classes become a label, its confidence and the runners-up.

use std::num::NonZeroUsize;
use std::sync::Arc;

use serde_json::{Value, json};

use super::labels::Label;
use super::model_classes::{self, ChosenLabels};
use super::plausibility::{CHOSEN_FROM, OwnChoice, are_distributions, sum_other_than_one};
use super::score_rows::{RowScores, ScoreRows};
use super::scores::{Scores, check_threshold, logistic, softmax, wrong_labels};
use crate::error::{Error, Result, SetupError};
use crate::feature::Certainty;
use crate::pipeline::json_schema::{label, object, score};
use crate::pipeline::outputs::{output, refuse_improbable};
use crate::pipeline::{LabelKind, Origin, Postprocessor, Prediction, PredictionKind, Score, StageContext};
use crate::tensor::{Data, Tensors};

/// Settings of a classifier of one target.
pub(super) struct ClassifierSettings {
    /// The output with the scores.
    pub(super) output: Arc<str>,
    /// Kind of the scores.
    pub(super) scores: Scores,
    /// The labels in the order of the scores, if `model.toml` has them.
    pub(super) labels: Option<Vec<Label>>,
    /// Maximum number of classes in an answer; by default, three, or all with `multi_label`.
    pub(super) top_k: Option<NonZeroUsize>,
    /// Divisor of logits before they become probabilities.
    pub(super) temperature: f32,
    /// Minimum probability for choosing the second of two classes, or with `multi_label`, for choosing any class.
    pub(super) threshold: Option<f32>,
    /// True if any number of classes can be right at once; `None` if `model.toml` does not say it.
    pub(super) multi_label: Option<bool>,
    /// The target that the scores belong to.
    pub(super) target: Target,
}

/// The target of a classifier.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    /// The only one.
    Only,
    /// One of several, with an output of its own, and with this column in the output of labels, if there is one.
    OfOwnOutput {
        /// Index of the column.
        column: Option<usize>,
    },
    /// One of several with a common output of `[rows, targets, classes]`.
    OfCommonOutput {
        /// Index of the target.
        target: usize,
        /// Number of targets.
        targets: usize,
    },
}

/// A classifier of one target.
pub(super) struct Classifier {
    output: Arc<str>,
    rows: ScoreRows,
    scores: Scores,
    temperature: f32,
    /// The labels, in the order of the scores.
    labels: ChosenLabels,
    /// The output in which the model itself returns the class that it chose.
    label_output: Option<LabelOutput>,
    top_k: NonZeroUsize,
    decision: Decision,
    /// Number of classes, if the model declares it.
    classes: Option<usize>,
    /// True if `model.toml` says that exactly one class is right.
    is_exclusive_for_sure: bool,
    /// True if the model has no other target.
    is_only_target: bool,
}

/// Output in which the model itself returns the class that it chose.
struct LabelOutput {
    name: String,
    /// Index of the target's column.
    column: usize,
    /// Number of columns, one for each target.
    columns: usize,
}

/// Rule that chooses the classes of an answer from the probabilities.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Decision {
    /// Chooses the most probable class.
    Best,
    /// Chooses the second of two classes if it has at least this probability, otherwise the first.
    SecondFrom(f32),
    /// Chooses every class that has at least this probability.
    AllFrom(f32),
}

/// Default number of classes in an answer.
const TOP_K: NonZeroUsize = NonZeroUsize::new(3).unwrap();

impl Classifier {
    /// Creates a classifier. Fails if the settings do not fit the model.
    pub(super) fn new(settings: ClassifierSettings, context: &StageContext<'_>) -> Result<Classifier, SetupError> {
        let ClassifierSettings { output, scores, labels, top_k, temperature, threshold, multi_label, target } =
            settings;
        let is_multi_label = multi_label == Some(true);
        let rows = match target {
            Target::OfCommonOutput { target, targets } => {
                ScoreRows::of_target(context.signature, &output, (target, targets))?
            }
            Target::Only | Target::OfOwnOutput { .. } => ScoreRows::of(context.signature, &output, is_multi_label)?,
        };
        let check_number = |labels: Option<&Vec<Label>>| match labels {
            Some(labels) if !rows.takes(labels.len(), is_multi_label) => {
                Err(wrong_labels(labels, &output, &rows.describe(is_multi_label)))
            }
            _ => Ok(()),
        };
        check_number(labels.as_ref())?;
        let (labels, label_output) = labels_of(target, labels, &output, (rows, is_multi_label), context)?;
        check_number(labels.labels.as_ref())?;
        check_temperature(temperature, scores)?;
        let classes = labels.count().or(rows.classes(is_multi_label));
        let decision = Decision::new(is_multi_label, threshold, classes)?;
        let top_k = top_k.unwrap_or(if is_multi_label { NonZeroUsize::MAX } else { TOP_K });
        Ok(Classifier {
            output,
            rows,
            scores,
            temperature,
            labels,
            label_output,
            top_k,
            decision,
            classes,
            is_exclusive_for_sure: multi_label == Some(false),
            is_only_target: matches!(target, Target::Only),
        })
    }
}

/// Returns the labels of a target, and the output in which the model itself returns the class.
fn labels_of(
    target: Target,
    configured: Option<Vec<Label>>,
    output: &str,
    (rows, is_multi_label): (ScoreRows, bool),
    context: &StageContext<'_>,
) -> Result<(ChosenLabels, Option<LabelOutput>), SetupError> {
    let (labels, column) = match target {
        Target::Only => {
            let count = rows.classes(is_multi_label);
            let of_scores = model_classes::Scores { output, count, first_class: 0 };
            let labels = context.classes.choose(configured, of_scores)?;
            let name = context.classes.label_output(output).filter(|_| !is_multi_label);
            let label_output = name.map(|name| LabelOutput { name: name.to_owned(), column: 0, columns: 1 });
            return Ok((labels, label_output));
        }
        Target::OfOwnOutput { column } => (context.classes.choose_of_target(configured, Some(output), column)?, column),
        Target::OfCommonOutput { target, .. } => {
            (context.classes.choose_of_target(configured, None, Some(target))?, Some(target))
        }
    };
    // The column belongs to this target if it has the same classes.
    let is_its_own = |column: &usize| {
        let names = context.classes.column(*column).map(|names| &names.labels);
        names.is_some() && names == labels.in_file.as_ref()
    };
    let label_output = column
        .filter(is_its_own)
        .zip(context.classes.label_columns.as_ref())
        .map(|(column, all)| LabelOutput { name: all.output.clone(), column, columns: all.names.len() });
    Ok((labels, label_output))
}

impl Decision {
    fn new(multi_label: bool, threshold: Option<f32>, classes: Option<usize>) -> Result<Decision, SetupError> {
        threshold.map_or(Ok(()), check_threshold)?;
        match (multi_label, threshold) {
            (true, threshold) => Ok(Decision::AllFrom(threshold.unwrap_or(0.5))),
            (false, None) => Ok(Decision::Best),
            (false, Some(threshold)) if classes == Some(2) => Ok(Decision::SecondFrom(threshold)),
            (false, Some(_)) => Err(SetupError::Config(
                "threshold: it applies to two classes, or, with multi_label = true, to each of several".to_owned(),
            )),
        }
    }
}

fn check_temperature(temperature: f32, scores: Scores) -> Result<(), SetupError> {
    if !(temperature > 0.0 && temperature.is_finite()) {
        return Err(SetupError::Config(format!("temperature: {temperature} is not a positive number")));
    }
    if temperature != 1.0 && scores == Scores::Probabilities {
        return Err(SetupError::Config("temperature: only logits have one; these scores are probabilities".to_owned()));
    }
    Ok(())
}

impl Postprocessor for Classifier {
    fn answered(&self) -> Option<Vec<Arc<str>>> {
        Some(vec![Arc::clone(&self.output)])
    }

    fn prediction_kind(&self) -> PredictionKind {
        match self.decision {
            Decision::Best | Decision::SecondFrom(_) => PredictionKind::Class(LabelKind::of(self.classes().as_deref())),
            Decision::AllFrom(_) => PredictionKind::Other,
        }
    }

    fn prediction_schema(&self) -> Value {
        let classes = self.classes();
        let name = || label(classes.as_deref());
        let scores = json!({ "type": "array", "items": score(name()) });
        match self.decision {
            Decision::AllFrom(_) => object([("labels", scores)]),
            Decision::Best | Decision::SecondFrom(_) => {
                object([("label", name()), ("confidence", json!({ "type": "number" })), ("top", scores)])
            }
        }
    }

    fn decode(&self, outputs: &Tensors, _origin: &Origin) -> Result<Vec<Prediction>> {
        let RowScores { scores, width } = self.read(outputs)?;
        let classes = if self.is_single(width) { 2 } else { width };
        if let Some(labels) = self.labels.count().filter(|labels| *labels != classes) {
            let problem = format!("has scores of {classes} classes, but there are {labels} labels");
            return Err(Error::UnusableOutput { output: self.output.to_string(), problem });
        }
        let mut probabilities = Vec::with_capacity(classes);
        let decode = |row: &[f32]| {
            self.probabilities(row, &mut probabilities)?;
            Ok(self.classify(&probabilities))
        };
        scores.chunks_exact(width).map(decode).collect()
    }

    fn classes(&self) -> Option<Vec<Label>> {
        Some((0..self.classes?).map(|class| self.labels.of(class)).collect())
    }

    fn contradiction(&self, outputs: &Tensors) -> Option<String> {
        let of_labels = |name: &str| self.said(outputs).iter().find_map(|said| self.labels.contradiction(said, name));
        let of_labels = self.label_output.as_ref().and_then(|label| of_labels(&label.name));
        of_labels.or_else(|| {
            let rows = self.read(outputs).ok()?;
            match self.decision {
                Decision::AllFrom(_) => self.contradiction_of_any_number(outputs, &rows),
                Decision::Best | Decision::SecondFrom(_) => self.contradiction_of_one(outputs, &rows),
            }
        })
    }

    fn agreement(&self, outputs: &Tensors) -> (usize, usize) {
        let (Some(names), said) = (&self.labels.in_file, self.said(outputs)) else { return (0, 0) };
        let Ok(answered) = self.decode(outputs, &Origin::Unknown) else { return (0, 0) };
        let is_same = |(prediction, said): (&Prediction, &Label)| match prediction {
            Prediction::Class { class, .. } => names.get(*class) == Some(said),
            _ => false,
        };
        (answered.iter().zip(&said).filter(|pair| is_same(*pair)).count(), answered.len().min(said.len()))
    }

    fn assumptions(&self) -> Vec<String> {
        let one_score = || {
            format!(
                "the output {:?} has one score a row, which is read as that of the second of two classes: {} (the first is {})",
                self.output,
                self.labels.of(1),
                self.labels.of(0)
            )
        };
        self.labels
            .remark
            .clone()
            .into_iter()
            .chain((self.rows == ScoreRows::One && !self.is_multi_label()).then(one_score))
            .collect()
    }

    fn doubt(&self, outputs: &Tensors) -> Option<String> {
        let rows = self.read(outputs).ok()?;
        let is_doubtful = self.scores == Scores::Logits && !self.is_multi_label() && rows.width >= 2;
        (is_doubtful && are_distributions(&rows)).then(|| {
            format!(
                "the output {:?} is declared as logits but looks like probabilities already; if so, set scores = \
                 \"probabilities\", or confidences are wrong",
                self.output
            )
        })
    }
}

impl Classifier {
    /// Reads the scores of all rows.
    fn read<'a>(&self, outputs: &'a Tensors) -> Result<RowScores<'a>> {
        self.rows.read(&self.output, output(outputs, &self.output)?, self.scores, self.labels.count())
    }

    fn is_multi_label(&self) -> bool {
        matches!(self.decision, Decision::AllFrom(_))
    }

    /// Returns the classes that the model itself chose; empty if the model does not return classes.
    fn said(&self, outputs: &Tensors) -> Vec<Label> {
        let Some(LabelOutput { name, column, columns }) = &self.label_output else { return Vec::new() };
        let Some(tensor) = outputs.get(name).filter(|tensor| tensor.row_len() == *columns) else { return Vec::new() };
        match tensor.data() {
            Data::Text(values) => {
                let texts = values.iter().skip(*column).step_by(*columns);
                texts.map(|text| Label::Text(text.as_str().into())).collect()
            }
            Data::I64(values) => values.iter().copied().skip(*column).step_by(*columns).map(Label::Number).collect(),
            _ => Vec::new(),
        }
    }

    /// Describes a sign that not exactly one class is right.
    fn contradiction_of_one(&self, outputs: &Tensors, rows: &RowScores<'_>) -> Option<String> {
        if rows.width < 2 {
            return None;
        }
        let chosen_from = match self.scores {
            Scores::Logits => 0.0,
            Scores::Probabilities => CHOSEN_FROM,
        };
        // With several targets, an output of numbers has the classes of the targets.
        let own = OwnChoice::find(outputs, rows).filter(|_| self.is_only_target);
        if let Some((own, chosen)) = own.and_then(|own| own.several(rows, chosen_from).map(|chosen| (own, chosen))) {
            return Some(format!(
                "multi_label: the model's own output {:?} has 0 or 1 for each class, and chooses {chosen} of them at once: \
                 any number of classes can be right; set multi_label = true",
                own.output
            ));
        }
        if self.scores == Scores::Logits || self.is_exclusive_for_sure {
            return None;
        }
        sum_other_than_one(&rows.scores, rows.width).map(|sum| {
            format!(
                "scores: the output {:?} is declared as probabilities, but those of a row add up to {sum}, not to 1. If \
                 several classes can be right at once, set multi_label = true; if the scores are no probabilities, set \
                 scores = \"logits\"; if exactly one class is right, although the scores are independent of each other, \
                 set multi_label = false",
                self.output
            )
        })
    }

    /// Describes a sign that the scores are not those of labels of which any number can be right.
    fn contradiction_of_any_number(&self, outputs: &Tensors, rows: &RowScores<'_>) -> Option<String> {
        if let (ScoreRows::Pairs(_), Scores::Probabilities) = (self.rows, self.scores) {
            let scores = outputs.get(&self.output)?.to_f32()?;
            let sum = sum_other_than_one(&scores, 2)?;
            return Some(format!(
                "scores: the output {:?} has two scores for each label, the probabilities of its absence and of its \
                 presence; but those of a label add up to {sum}, not to 1: the export is wrong, or they are something else",
                self.output
            ));
        }
        let own = OwnChoice::find(outputs, rows).filter(|_| self.scores == Scores::Logits)?;
        own.is_of_probabilities(rows).then(|| {
            format!(
                "scores: the output {:?} is declared as logits, but the model's own output {:?} chooses the classes with a \
                 score above {CHOSEN_FROM}: the scores are probabilities; set scores = \"probabilities\"",
                self.output, own.output
            )
        })
    }

    /// Returns true if a row of `width` scores has only one, which belongs to the second of two classes.
    fn is_single(&self, width: usize) -> bool {
        width == 1 && !matches!(self.decision, Decision::AllFrom(_))
    }

    fn probabilities(&self, scores: &[f32], probabilities: &mut Vec<f64>) -> Result<()> {
        if self.scores == Scores::Probabilities {
            refuse_improbable(&self.output, scores)?;
        }
        let alone = |score: &f32| match self.scores {
            Scores::Logits => logistic(f64::from(*score) / f64::from(self.temperature)),
            Scores::Probabilities => f64::from(*score),
        };
        probabilities.clear();
        match scores {
            [score] if self.is_single(scores.len()) => {
                let second = alone(score);
                probabilities.extend([1.0 - second, second]);
            }
            scores if self.scores == Scores::Logits && !matches!(self.decision, Decision::AllFrom(_)) => {
                softmax(scores, self.temperature, probabilities);
            }
            scores => probabilities.extend(scores.iter().map(alone)),
        }
        Ok(())
    }

    fn classify(&self, probabilities: &[f64]) -> Prediction {
        let score = |class: usize| Score { label: self.labels.of(class), score: probabilities[class] as f32 };
        let most = match self.decision {
            Decision::AllFrom(_) => probabilities.len(),
            Decision::Best | Decision::SecondFrom(_) => self.top_k.get(),
        };
        let best = top(probabilities, most);
        let class = match self.decision {
            Decision::SecondFrom(threshold) => usize::from(probabilities[1] as f32 >= threshold),
            Decision::Best | Decision::AllFrom(_) => best.first().copied().unwrap_or_default(),
        };
        let others = probabilities.iter().enumerate().filter(|(other, _)| *other != class);
        let second = others.map(|(_, probability)| *probability).fold(0.0, f64::max);
        let certainty = Certainty {
            confidence: probabilities[class] as f32,
            margin: (probabilities[class] as f32 - second as f32).max(0.0),
            entropy: self.entropy(probabilities) as f32,
        };
        match self.decision {
            Decision::AllFrom(threshold) => {
                let probable = best.into_iter().map(score).filter(|score| score.score >= threshold);
                Prediction::Classes { class, certainty, labels: probable.take(self.top_k.get()).collect() }
            }
            Decision::Best | Decision::SecondFrom(_) => {
                let label = self.labels.of(class);
                Prediction::Class { class, label, certainty, top: best.into_iter().map(score).collect() }
            }
        }
    }

    /// Returns the entropy −Σ p ln p over the classes, divided by its maximum. With `multi_label`, returns the mean of
    /// the entropies of the classes, each taken as a yes-or-no decision.
    fn entropy(&self, probabilities: &[f64]) -> f64 {
        let plogp = |p: f64| if p > 0.0 { -p * p.ln() } else { 0.0 };
        let entropy = match self.decision {
            Decision::AllFrom(_) => {
                let sum: f64 = probabilities.iter().map(|&p| plogp(p) + plogp(1.0 - p)).sum();
                sum / (probabilities.len() as f64 * std::f64::consts::LN_2)
            }
            Decision::Best | Decision::SecondFrom(_) => {
                probabilities.iter().copied().map(plogp).sum::<f64>() / (probabilities.len().max(2) as f64).ln()
            }
        };
        entropy.clamp(0.0, 1.0)
    }
}

/// Returns the indices of the `k` highest scores, in descending order of the scores. Equal scores keep their order.
fn top(scores: &[f64], k: usize) -> Vec<usize> {
    let k = k.min(scores.len());
    if k > 64 {
        let mut all: Vec<usize> = (0..scores.len()).collect();
        all.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        all.truncate(k);
        return all;
    }
    let mut best: Vec<usize> = Vec::with_capacity(k + 1);
    for (class, score) in scores.iter().enumerate() {
        if best.len() == k && *score <= scores[best[k - 1]] {
            continue;
        }
        let place = best.partition_point(|&other| scores[other] >= *score);
        best.insert(place, class);
        best.truncate(k);
    }
    best
}

#[cfg(test)]
mod tests;
