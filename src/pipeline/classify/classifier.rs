//! `kind = "classifier"`: one score per class becomes a label, its confidence and the runners-up.

use std::num::NonZeroUsize;
use std::sync::Arc;

use serde::Deserialize;

use crate::error::{Error, Result, SetupError};
use crate::feature::Certainty;
use crate::pipeline::classify::labels::Labels;
use crate::pipeline::classify::model_classes::{self, ChosenLabels};
use crate::pipeline::classify::scores::{
    ScoreSettings, Scores, ScoresOfModel, check_threshold, logistic, softmax, wrong_labels,
};
use crate::pipeline::outputs::{ROUNDING, output, refuse_improbable, refuse_non_finite, unexpected_shape};
use crate::pipeline::{Label, Origin, Postprocessor, Prediction, Score, StageContext};
use crate::tensor::{Data, Dim, Signature, Tensors};

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
    #[serde(default)]
    multi_label: bool,
}

fn one() -> f32 {
    1.0
}

struct Classifier {
    output: Arc<str>,
    scores: Scores,
    temperature: f32,
    /// The labels, in the order of the scores.
    labels: ChosenLabels,
    /// The output in which the model itself returns the class that it chose.
    label_output: Option<String>,
    top_k: NonZeroUsize,
    decision: Decision,
    /// Number of classes, if the model declares it.
    classes: Option<usize>,
    /// True if a row has only one score, which belongs to the second of two classes.
    has_one_score: bool,
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

/// Number of scores in a row, according to the dimensions that the model declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowScores {
    /// One score per row.
    One,
    /// This fixed number of scores per row.
    Several(usize),
    /// An open number of scores, known only from the output of a run.
    Open,
}

pub(crate) fn make(context: StageContext<'_>) -> Result<Box<dyn Postprocessor>, SetupError> {
    let Settings { output, scores, labels, top_k, temperature, threshold, multi_label } = context.config.settings()?;
    let ScoresOfModel { output, scores, labels } = ScoreSettings { output, scores, labels }.find(&context)?;
    let row_scores = RowScores::of(context.signature, &output)?;
    let classes = row_scores.classes(multi_label);
    if let (Some(classes), Some(labels)) = (classes, &labels)
        && classes != labels.len()
    {
        return Err(wrong_labels(labels, &output, &row_scores.describe(multi_label)));
    }
    let of_scores = model_classes::Scores { output: &output, count: classes, first_class: 0 };
    let labels = context.classes.choose(labels, of_scores)?;
    let label_output = context.classes.label_output(&output).filter(|_| !multi_label).map(str::to_owned);
    check_temperature(temperature, scores)?;
    let decision = Decision::new(multi_label, threshold, classes)?;
    let top_k = top_k.unwrap_or(if multi_label { NonZeroUsize::MAX } else { TOP_K });
    let has_one_score = !multi_label && row_scores == RowScores::One;
    Ok(Box::new(Classifier {
        output,
        scores,
        temperature,
        labels,
        label_output,
        top_k,
        decision,
        classes,
        has_one_score,
    }))
}

impl RowScores {
    fn of(signature: &Signature, output: &str) -> Result<RowScores, SetupError> {
        match signature.output(output).map(|spec| &*spec.dims) {
            Some([_, Dim::Fixed(1)] | [_]) => Ok(RowScores::One),
            Some([_, Dim::Fixed(scores)]) => Ok(RowScores::Several(*scores)),
            Some([_, Dim::Dynamic(_)]) | Some([]) | None => Ok(RowScores::Open),
            Some(dims) => Err(SetupError::Config(format!(
                "output: {output:?} has {} dimensions; a classifier needs one row of scores per instance",
                dims.len()
            ))),
        }
    }

    /// Returns the number of classes, if the model declares it.
    fn classes(self, multi_label: bool) -> Option<usize> {
        match self {
            RowScores::One if multi_label => Some(1),
            // The single score belongs to the second of two classes.
            RowScores::One => Some(2),
            RowScores::Several(scores) => Some(scores),
            RowScores::Open => None,
        }
    }

    fn describe(self, multi_label: bool) -> String {
        match self {
            RowScores::One if !multi_label => "one score a row, which is that of the second of two classes".to_owned(),
            RowScores::One => "1 scores a row".to_owned(),
            RowScores::Several(scores) => format!("{scores} scores a row"),
            RowScores::Open => "any number of scores a row".to_owned(),
        }
    }
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

    fn decode(&self, outputs: &Tensors, _origin: &Origin) -> Result<Vec<Prediction>> {
        let tensor = output(outputs, &self.output)?;
        refuse_non_finite(&self.output, tensor)?;
        let width = tensor.row_len();
        let scores = tensor.to_f32().ok_or_else(|| Error::internal("a classifier's scores are not floats"))?;
        if tensor.shape().len() > 2 || width == 0 {
            return Err(unexpected_shape(&self.output, tensor, "[rows, classes]"));
        }
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
        let classes = self.labels.count().or(self.classes)?;
        Some((0..classes).map(|class| self.labels.of(class)).collect())
    }

    fn contradiction(&self, outputs: &Tensors) -> Option<String> {
        let name = self.label_output.as_deref()?;
        self.said(outputs).iter().find_map(|said| self.labels.contradiction(said, name))
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
        self.labels.remark.clone().into_iter().chain(self.has_one_score.then(one_score)).collect()
    }

    fn doubt(&self, outputs: &Tensors) -> Option<String> {
        if matches!(self.decision, Decision::AllFrom(_)) || outputs.get(&self.output)?.row_len() < 2 {
            return None;
        }
        match self.scores {
            Scores::Logits if self.add_up_to_one(outputs)? => Some(format!(
                "the output {:?} is declared as logits but looks like probabilities already; if so, set scores = \
                 \"probabilities\", or confidences are wrong",
                self.output
            )),
            Scores::Probabilities if !self.add_up_to_one(outputs)? => Some(format!(
                "the output {:?} is declared as probabilities, but those of a row do not add up to 1; if several classes \
                 can be right at once, set multi_label = true",
                self.output
            )),
            Scores::Logits | Scores::Probabilities => None,
        }
    }
}

impl Classifier {
    /// Returns the classes that the model itself chose; empty if the model does not return classes.
    fn said(&self, outputs: &Tensors) -> Vec<Label> {
        match self.label_output.as_deref().and_then(|name| outputs.get(name)).map(|output| output.data()) {
            Some(Data::Text(values)) => values.iter().map(|text| Label::Text(text.as_str().into())).collect(),
            Some(Data::I64(values)) => values.iter().copied().map(Label::Number).collect(),
            _ => Vec::new(),
        }
    }

    /// Returns true if each row of scores is a probability distribution; `None` if a score is not finite. Configuring
    /// probabilities as logits is a common mistake. It is hard to notice, because the labels are still right.
    fn add_up_to_one(&self, outputs: &Tensors) -> Option<bool> {
        let tensor = outputs.get(&self.output)?;
        let scores = tensor.to_f32()?;
        let is_distribution = |row: &[f32]| {
            row.iter().all(|score| (-ROUNDING..=1.0 + ROUNDING).contains(score))
                && (row.iter().sum::<f32>() - 1.0).abs() <= 10.0 * ROUNDING
        };
        scores.iter().all(|score| score.is_finite()).then(|| scores.chunks_exact(tensor.row_len()).all(is_distribution))
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
