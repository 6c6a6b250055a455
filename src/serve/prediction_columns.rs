//! Predictions as named columns, for protocols of tensors: each column has one row for each prediction.

use std::sync::Arc;

use super::input::NamedOutput;
use crate::error::{Error, Result};
use crate::identity::shown;
use crate::pipeline::{Label, LabelKind, Prediction, PredictionKind, Score, some_of};
use crate::tensor::{DType, Data, Shape};

/// Name of the column with each whole prediction as JSON.
pub const PREDICTION: &str = "prediction";

/// Name of the column with the ids that feedback refers to.
pub const PREDICTION_ID: &str = "prediction_id";

/// Name, type and shape of a column. A dimension of open length is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnSpec {
    /// Name of the column.
    pub name: Arc<str>,
    /// Type of its elements.
    pub dtype: DType,
    /// Number of dimensions: the rows, and for vectors their elements.
    pub dimensions: usize,
}

/// Returns the columns of predictions of a kind:
///
/// - classes: `label`, `confidence`, and the best classes as `labels` and `scores`
/// - numbers: `value`, or a column for each of several targets
/// - anomalies: `label` and `score`
/// - vectors: `embedding`
/// - all: `prediction`, the prediction as JSON, and `prediction_id`
pub fn column_specs(kind: &PredictionKind) -> Vec<ColumnSpec> {
    let spec = |name: &str, dtype, dimensions| ColumnSpec { name: name.into(), dtype, dimensions };
    let mut specs = match kind {
        PredictionKind::Class(labels) => {
            let dtype = match labels {
                LabelKind::Numbers => DType::I64,
                LabelKind::Texts => DType::Text,
            };
            vec![
                spec("label", dtype, 1),
                spec("confidence", DType::F32, 1),
                spec("labels", dtype, 2),
                spec("scores", DType::F32, 2),
            ]
        }
        PredictionKind::Value => vec![spec("value", DType::F64, 1)],
        PredictionKind::Values(names) => names.iter().map(|name| spec(name, DType::F64, 1)).collect(),
        PredictionKind::Anomaly => vec![spec("label", DType::I64, 1), spec("score", DType::F64, 1)],
        PredictionKind::Embedding => vec![spec("embedding", DType::F32, 2)],
        PredictionKind::Other => Vec::new(),
    };
    // A target may have the name of one of these columns.
    for name in [PREDICTION, PREDICTION_ID] {
        specs.retain(|spec| *spec.name != *name);
        specs.push(spec(name, DType::Text, 1));
    }
    specs
}

/// Returns the predictions as the columns of their kind: those with these names or, if there are none, all.
pub fn prediction_columns(
    kind: &PredictionKind,
    predictions: &[Prediction],
    id: impl Fn(usize, &Prediction) -> String,
    names: &[String],
) -> Result<Vec<NamedOutput>> {
    let specs = column_specs(kind);
    if let Some(unknown) = names.iter().find(|name| specs.iter().all(|spec| *spec.name != ***name)) {
        let known: Vec<&str> = specs.iter().map(|spec| &*spec.name).collect();
        let (unknown, known) = (shown(unknown), some_of(&known));
        let problem = format!("the predictions have no column \"{unknown}\"; they have: {known}");
        return Err(Error::InvalidInput(problem));
    }
    let asked = specs.iter().filter(|spec| names.is_empty() || names.iter().any(|name| **name == *spec.name));
    let column = |spec: &ColumnSpec| {
        let (shape, data) = match &*spec.name {
            PREDICTION => {
                let json = predictions.iter().map(serde_json::to_string).collect::<Result<Vec<String>, _>>();
                (vec![predictions.len()], Data::Text(json.map_err(Error::internal)?))
            }
            PREDICTION_ID => {
                let ids = predictions.iter().enumerate().map(|(index, prediction)| id(index, prediction));
                (vec![predictions.len()], Data::Text(ids.collect()))
            }
            _ => elements(kind, spec, predictions)
                .ok_or_else(|| Error::internal(format_args!("predictions without the column {:?}", spec.name)))?,
        };
        Ok(NamedOutput { name: Arc::clone(&spec.name), shape, data })
    };
    asked.map(column).collect()
}

/// Returns the shape and the elements of a column. `None` if the predictions are not of this kind.
fn elements(kind: &PredictionKind, spec: &ColumnSpec, predictions: &[Prediction]) -> Option<(Shape, Data)> {
    let flat = |data: Data| (vec![predictions.len()], data);
    Some(match (kind, &*spec.name) {
        (PredictionKind::Class(kind), "label") => flat(labels(*kind, each(predictions, |p| Some(class(p)?.0))?)),
        (PredictionKind::Class(_), "confidence") => flat(Data::F32(each(predictions, |p| Some(class(p)?.1))?)),
        (PredictionKind::Class(kind), column) => {
            let best = each(predictions, |p| Some(class(p)?.2))?;
            let length = best.first().map_or(0, |best| best.len());
            let best: Vec<&Score> = best.into_iter().flatten().collect();
            let data = match column {
                "labels" => labels(*kind, best.iter().map(|score| &score.label).collect()),
                _ => Data::F32(best.iter().map(|score| score.score).collect()),
            };
            (data.len() == predictions.len() * length).then_some((vec![predictions.len(), length], data))?
        }
        (PredictionKind::Value, _) => flat(Data::F64(each(predictions, |p| match p {
            Prediction::Value(value) => Some(*value),
            _ => None,
        })?)),
        (PredictionKind::Values(names), column) => {
            let target = names.iter().position(|name| **name == *column)?;
            flat(Data::F64(each(predictions, |p| match p {
                Prediction::Values { values, .. } => values.get(target).copied(),
                _ => None,
            })?))
        }
        (PredictionKind::Anomaly, column) => {
            let all = each(predictions, |p| match p {
                Prediction::Anomaly { label, score } => Some((*label, *score)),
                _ => None,
            })?;
            flat(match column {
                "label" => Data::I64(all.into_iter().map(|(label, _)| label).collect()),
                _ => Data::F64(all.into_iter().map(|(_, score)| score).collect()),
            })
        }
        (PredictionKind::Embedding, _) => {
            let vectors = each(predictions, |p| match p {
                Prediction::Embedding(vector) => Some(vector),
                _ => None,
            })?;
            let length = vectors.first().map_or(0, |vector| vector.len());
            let data: Vec<f32> = vectors.into_iter().flatten().copied().collect();
            let shape = vec![predictions.len(), length];
            (data.len() == predictions.len() * length).then_some((shape, Data::F32(data)))?
        }
        (PredictionKind::Other, _) => return None,
    })
}

/// Returns what `of` finds in each prediction; `None` if it finds nothing in one.
fn each<'a, T>(predictions: &'a [Prediction], of: impl Fn(&'a Prediction) -> Option<T>) -> Option<Vec<T>> {
    let plain = |prediction: &'a Prediction| match prediction {
        Prediction::NonFiniteAsText(prediction) => of(prediction),
        prediction => of(prediction),
    };
    predictions.iter().map(plain).collect()
}

fn class(prediction: &Prediction) -> Option<(&Label, f32, &[Score])> {
    match prediction {
        Prediction::Class { label, certainty, top, .. } => Some((label, certainty.confidence, top)),
        _ => None,
    }
}

fn labels(kind: LabelKind, labels: Vec<&Label>) -> Data {
    match kind {
        LabelKind::Numbers => Data::I64(labels.into_iter().filter_map(Label::number).collect()),
        LabelKind::Texts => Data::Text(labels.into_iter().map(ToString::to_string).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feature::Certainty;

    /// Compares the columns without `prediction_id`, as name, shape and elements.
    fn check(kind: &PredictionKind, predictions: &[Prediction], names: &[&str], expected: &[(&str, &[usize], Data)]) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let columns = prediction_columns(kind, predictions, |index, _| format!("id-{index}"), &names).unwrap();
        for (column, spec) in columns
            .iter()
            .filter_map(|column| Some((column, column_specs(kind).into_iter().find(|spec| spec.name == column.name)?)))
        {
            assert_eq!((column.data.dtype(), column.shape.len()), (spec.dtype, spec.dimensions));
        }
        let expected: Vec<NamedOutput> = expected
            .iter()
            .map(|(name, shape, data)| NamedOutput { name: (*name).into(), shape: shape.to_vec(), data: data.clone() })
            .collect();
        assert_eq!(columns, expected);
    }

    fn class(label: Label, score: f32) -> Prediction {
        let certainty = Certainty { confidence: score, margin: 0.0, entropy: 0.0 };
        Prediction::Class { class: 0, label: label.clone(), certainty, top: vec![Score { label, score }] }
    }

    #[test]
    fn classes_have_their_labels_and_scores() {
        let text = |text: &str| Label::Text(text.into());
        check(
            &PredictionKind::Class(LabelKind::Texts),
            &[class(text("cat"), 0.75), class(text("dog"), 0.5)],
            &["label", "confidence", "labels", "scores", "prediction_id"],
            &[
                ("label", &[2], Data::Text(vec!["cat".into(), "dog".into()])),
                ("confidence", &[2], Data::F32(vec![0.75, 0.5])),
                ("labels", &[2, 1], Data::Text(vec!["cat".into(), "dog".into()])),
                ("scores", &[2, 1], Data::F32(vec![0.75, 0.5])),
                ("prediction_id", &[2], Data::Text(vec!["id-0".into(), "id-1".into()])),
            ],
        );
        let (three, label) = (class(Label::Number(3), 0.5), Data::I64(vec![3]));
        check(&PredictionKind::Class(LabelKind::Numbers), &[three], &["label"], &[("label", &[1], label)]);
        // A type does not depend on the predictions.
        let (three, label) = (class(Label::Number(3), 0.5), Data::Text(vec!["3".into()]));
        check(&PredictionKind::Class(LabelKind::Texts), &[three], &["label"], &[("label", &[1], label)]);
    }

    #[test]
    fn numbers_and_vectors_are_columns_and_everything_is_json() {
        let not_finite = Prediction::NonFiniteAsText(Box::new(Prediction::Value(f64::INFINITY)));
        let values = Data::F64(vec![1.5, f64::INFINITY]);
        check(&PredictionKind::Value, &[Prediction::Value(1.5), not_finite], &["value"], &[("value", &[2], values)]);
        check(
            &PredictionKind::Value,
            &[Prediction::Value(1.5)],
            &["prediction"],
            &[("prediction", &[1], Data::Text(vec![r#"{"value":1.5}"#.into()]))],
        );
        let names: Arc<[Arc<str>]> = ["a".into(), "b".into()].into();
        let kind = PredictionKind::Values(names.to_vec());
        let values = Prediction::Values { names, values: vec![1.0, 2.0], monitored: 0 };
        check(&kind, &[values], &["b"], &[("b", &[1], Data::F64(vec![2.0]))]);
        let vectors = [Prediction::Embedding(vec![1.0, 2.0]), Prediction::Embedding(vec![3.0, 4.0])];
        let elements = Data::F32(vec![1.0, 2.0, 3.0, 4.0]);
        check(&PredictionKind::Embedding, &vectors, &["embedding"], &[("embedding", &[2, 2], elements)]);
        check(
            &PredictionKind::Anomaly,
            &[Prediction::Anomaly { label: -1, score: 0.5 }],
            &["label", "score"],
            &[("label", &[1], Data::I64(vec![-1])), ("score", &[1], Data::F64(vec![0.5]))],
        );
    }

    #[test]
    fn a_column_that_does_not_exist_is_an_error() {
        let error = prediction_columns(
            &PredictionKind::Value,
            &[Prediction::Value(1.5)],
            |_, _| String::new(),
            &["label".into()],
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "the predictions have no column \"label\"; they have: value, prediction, prediction_id"
        );
    }
}
