//! `kind = "classifier"`: one score per class becomes a label, its confidence and the runners-up.

use std::num::NonZeroUsize;
use std::sync::Arc;

use serde::Deserialize;

use super::{Label, Postprocessor, Prediction, Score};
use crate::config::StageConfig;
use crate::error::{Error, Result};
use crate::feature::Certainty;
use crate::tensor::{DType, Dim, Signature, Tensors};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The output with one score per class; without it, the only floating-point output there is.
    output: Option<String>,
    /// What the scores are; required.
    scores: Option<Scores>,
    /// The classes in the order of the scores; without it, they are numbered from 0.
    labels: Option<Vec<Label>>,
    /// How many classes are answered.
    #[serde(default = "three")]
    top_k: NonZeroUsize,
}

/// What a score is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Scores {
    /// Any real number; softmax makes it a probability.
    Logits,
    /// A probability already.
    Probabilities,
}

fn three() -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(2)
}

struct Classifier {
    output: Arc<str>,
    scores: Scores,
    labels: Option<Vec<Label>>,
    top_k: NonZeroUsize,
    /// How many classes there are, if the model says so.
    classes: Option<usize>,
}

/// How far from \[0, 1\] rounding may carry a probability.
const ROUNDING: f32 = 1e-3;

pub(super) fn make(config: &StageConfig, signature: &Signature) -> Result<Box<dyn Postprocessor>> {
    let Settings { output, scores, labels, top_k } = config.settings()?;
    let scores = scores.ok_or_else(|| {
        Error::Config(
            "scores: say what they are: \"probabilities\", or \"logits\" to be passed through softmax".to_owned(),
        )
    })?;
    let output = match output {
        Some(name) => super::declared_output(signature, &name)?,
        None => only_float_output(signature)?,
    };
    let classes = signature.output(&output).map(|spec| &*spec.dims);
    match (classes, &labels) {
        (Some([_, Dim::Fixed(classes)]), Some(labels)) if *classes != labels.len() => {
            return Err(Error::Config(format!(
                "labels: there are {}, but the output {output:?} has {classes} scores a row",
                labels.len()
            )));
        }
        (Some([_, _]), _) | (Some([]), _) => {}
        (Some(dims), _) => {
            return Err(Error::Config(format!(
                "output: {output:?} has {} dimensions; a classifier needs one row of scores per instance",
                dims.len()
            )));
        }
        (None, _) => {}
    }
    let classes = match classes {
        Some([_, Dim::Fixed(classes)]) => Some(*classes),
        _ => None,
    };
    Ok(Box::new(Classifier { output, scores, labels, top_k, classes }))
}

fn only_float_output(signature: &Signature) -> Result<Arc<str>> {
    let is_float = |dtype| matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16);
    let floats: Vec<&Arc<str>> =
        signature.outputs.iter().filter(|output| is_float(output.dtype)).map(|output| &output.name).collect();
    match &*floats {
        [only] => Ok(Arc::clone(only)),
        [] => {
            let hint = super::hint_of_other_outputs(signature);
            Err(Error::Config(format!("output: the model has no floating-point tensor output{hint}")))
        }
        several => Err(Error::Config(format!(
            "output: name the one with the scores; the model's floating-point outputs are {}",
            several.iter().map(|name| &***name).collect::<Vec<_>>().join(", ")
        ))),
    }
}

impl Postprocessor for Classifier {
    fn decode(&self, outputs: &Tensors) -> Result<Vec<Prediction>> {
        let tensor = super::output(outputs, &self.output)?;
        super::refuse_non_finite(&self.output, tensor)?;
        let classes = tensor.row_len();
        let scores = tensor.to_f32().ok_or_else(|| Error::internal("a classifier's scores are not floats"))?;
        if tensor.shape().len() != 2 || classes == 0 {
            let shape = tensor.shape();
            return Err(Error::internal(format_args!("the output {:?} has shape {shape:?}", self.output)));
        }
        if let Some(labels) = self.labels.as_ref().filter(|labels| labels.len() != classes) {
            let detail = format_args!("{} labels for {classes} scores of {:?}", labels.len(), self.output);
            return Err(Error::internal(detail));
        }
        scores.chunks_exact(classes).map(|row| self.classify(row)).collect()
    }

    fn classes(&self) -> Option<Vec<Label>> {
        match (&self.labels, self.classes) {
            (Some(labels), _) => Some(labels.clone()),
            (None, classes) => classes.map(|classes| (0..classes as i64).map(Label::Number).collect()),
        }
    }

    fn doubt(&self, outputs: &Tensors) -> Option<String> {
        (self.scores == Scores::Logits && self.look_like_probabilities(outputs)?).then(|| {
            format!(
                "the output {:?} is declared as logits but looks like probabilities already; if so, set scores = \
                 \"probabilities\", or confidences are wrong",
                self.output
            )
        })
    }
}

impl Classifier {
    /// Softmax of probabilities is a common mistake, and hard to see: the labels are still right.
    fn look_like_probabilities(&self, outputs: &Tensors) -> Option<bool> {
        let tensor = outputs.get(&self.output)?;
        let scores = tensor.to_f32()?;
        let is_distribution = |row: &[f32]| {
            row.iter().all(|score| (0.0..=1.0).contains(score)) && (row.iter().sum::<f32>() - 1.0).abs() <= ROUNDING
        };
        Some(tensor.row_len() > 1 && scores.chunks_exact(tensor.row_len()).all(is_distribution))
    }

    fn classify(&self, scores: &[f32]) -> Result<Prediction> {
        let best = top(scores, self.top_k);
        if self.scores == Scores::Probabilities
            && let Some(bad) = scores.iter().find(|&&score| !(-ROUNDING..=1.0 + ROUNDING).contains(&score))
        {
            return Err(Error::internal(format_args!(
                "the output {:?} is declared as probabilities and holds {bad}; set scores = \"logits\"",
                self.output
            )));
        }
        // softmax(s)_i = exp(s_i − max) / Σ_j exp(s_j − max): shifted so that no exponential overflows, in f64 so
        // that many classes do not add up to rounding errors.
        let highest = best.first().map_or(0.0, |&class| scores[class]);
        let exponential = |score: f32| f64::from(score - highest).exp();
        let sum: f64 = match self.scores {
            Scores::Logits => scores.iter().copied().map(exponential).sum(),
            Scores::Probabilities => 1.0,
        };
        let probability = |score: f32| match self.scores {
            Scores::Logits => (exponential(score) / sum) as f32,
            Scores::Probabilities => score,
        };
        let score = |class: usize| Score { label: self.label(class), score: probability(scores[class]) };
        let class = best.first().copied().unwrap_or_default();
        let second = scores.iter().enumerate().filter(|(other, _)| *other != class).map(|(_, score)| *score);
        let second = second.max_by(f32::total_cmp).map_or(0.0, probability);
        let confidence = probability(highest);
        // −Σ p ln p, where ln p of a softmax is s − max − ln Σ.
        let plogp = |score: f32| match self.scores {
            Scores::Logits => exponential(score) / sum * (f64::from(score - highest) - sum.ln()),
            Scores::Probabilities if score > 0.0 => f64::from(score) * f64::from(score).ln(),
            Scores::Probabilities => 0.0,
        };
        let entropy = -scores.iter().copied().map(plogp).sum::<f64>() / (scores.len().max(2) as f64).ln();
        let certainty = Certainty { confidence, margin: confidence - second, entropy: entropy.clamp(0.0, 1.0) as f32 };
        Ok(Prediction::Class { class, certainty, top: best.into_iter().map(score).collect() })
    }

    fn label(&self, class: usize) -> Label {
        match &self.labels {
            Some(labels) => labels[class].clone(),
            None => Label::Number(class as i64),
        }
    }
}

/// The indices of the `k` highest scores, the highest first; of equal scores the first one.
fn top(scores: &[f32], k: NonZeroUsize) -> Vec<usize> {
    let k = k.get().min(scores.len());
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tensor::{Data, Tensor, TensorSpec};

    fn check(settings: &str, shape: [usize; 2], scores: &[f32], expected: std::result::Result<&[&str], &str>) {
        let config: StageConfig = serde_json::from_str(settings).unwrap();
        let dims = vec![Dim::Dynamic(None), Dim::Fixed(shape[1])];
        let output = TensorSpec { name: "p".into(), dtype: DType::F32, dims };
        let signature = Signature { outputs: vec![output], ..Signature::default() };
        let tensor = Tensor::new(shape.to_vec(), Data::F32(scores.to_vec())).unwrap();
        let outputs: Tensors = [("p".into(), tensor)].into_iter().collect();
        let decoded = make(&config, &signature).and_then(|stage| stage.decode(&outputs));
        let decoded = decoded
            .map(|predictions| predictions.iter().map(|p| serde_json::to_string(p).unwrap()).collect::<Vec<_>>())
            .map_err(|error| error.detail().map_or_else(|| error.to_string(), str::to_owned));
        let expected = expected
            .map(|lines| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>())
            .map_err(str::to_owned);
        assert_eq!(decoded, expected);
    }

    #[test]
    fn probabilities_are_ranked() {
        check(
            r#"{"kind": "classifier", "scores": "probabilities", "labels": ["a", "b", "c"], "top_k": 2}"#,
            [2, 3],
            &[0.25, 0.5, 0.25, 1.0, 0.0, 0.0],
            Ok(&[
                r#"{"label":"b","confidence":0.5,"top":[{"label":"b","score":0.5},{"label":"a","score":0.25}]}"#,
                r#"{"label":"a","confidence":1.0,"top":[{"label":"a","score":1.0},{"label":"b","score":0.0}]}"#,
            ]),
        );
    }

    /// softmax(ln 1, ln 3) = (1/4, 3/4), by its definition; and it does not overflow.
    #[test]
    fn logits_go_through_softmax() {
        check(
            r#"{"kind": "classifier", "scores": "logits", "top_k": 1}"#,
            [2, 2],
            &[0.0, 3f32.ln(), 1000.0, 1000.0],
            Ok(&[
                r#"{"label":1,"confidence":0.75,"top":[{"label":1,"score":0.75}]}"#,
                r#"{"label":0,"confidence":0.5,"top":[{"label":0,"score":0.5}]}"#,
            ]),
        );
    }

    #[test]
    fn probabilities_that_are_declared_as_logits_raise_a_doubt() {
        let doubt = |scores: &str, row: [f32; 2]| {
            let config: StageConfig =
                serde_json::from_str(&format!(r#"{{"kind": "classifier", "scores": "{scores}"}}"#)).unwrap();
            let dims = vec![Dim::Dynamic(None), Dim::Fixed(2)];
            let output = TensorSpec { name: "p".into(), dtype: DType::F32, dims };
            let stage = make(&config, &Signature { outputs: vec![output], ..Signature::default() }).unwrap();
            let tensor = Tensor::new(vec![1, 2], Data::F32(row.to_vec())).unwrap();
            stage.doubt(&[("p".into(), tensor)].into_iter().collect()).is_some()
        };
        assert!(doubt("logits", [0.25, 0.75]));
        assert!(!doubt("logits", [-0.25, 1.25]));
        assert!(!doubt("probabilities", [0.25, 0.75]));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let probabilities = r#"{"kind": "classifier", "scores": "probabilities", "labels": [1, 2]}"#;
        check(probabilities, [1, 3], &[0.0; 3], Err("labels: there are 2, but the output \"p\" has 3 scores a row"));
        check(
            probabilities,
            [1, 2],
            &[-4.0, 7.0],
            Err("the output \"p\" is declared as probabilities and holds -4; set scores = \"logits\""),
        );
        check(
            probabilities,
            [2, 2],
            &[0.5, 0.5, f32::INFINITY, 0.0],
            Err("the model's output \"p\" is not a finite number for instances[1]"),
        );
        check(
            r#"{"kind": "classifier"}"#,
            [1, 2],
            &[0.0; 2],
            Err("scores: say what they are: \"probabilities\", or \"logits\" to be passed through softmax"),
        );
    }

    proptest! {
        #[test]
        fn top_is_a_sorted_prefix(scores in prop::collection::vec(-4i8..4, 1..20), k in 1usize..25) {
            let scores: Vec<f32> = scores.into_iter().map(f32::from).collect();
            let mut sorted: Vec<usize> = (0..scores.len()).collect();
            sorted.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            sorted.truncate(k);
            prop_assert_eq!(top(&scores, k.try_into().unwrap()), sorted);
        }
    }
}
