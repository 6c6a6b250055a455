//! `kind = "anomaly"`: the label and the score of a detector of anomalies, such as scikit-learn's `IsolationForest`,
//! `OneClassSVM` and `LocalOutlierFactor`. The label is the model's own: −1 for an anomaly, 1 for a normal row.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::json_schema::object;
use super::outputs::{as_written, declared_output, float_output, output, refuse_non_finite, unexpected_shape};
use super::{Origin, Postprocessor, Prediction, PredictionKind, StageContext};
use crate::error::{Error, Result, SetupError};
use crate::tensor::{DType, Data, Signature, Tensor, Tensors};

/// The labels that scikit-learn's detectors answer: an anomaly, and a normal row.
const LABELS: [i64; 2] = [-1, 1];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The output with the score of a row; by default, the only floating-point output.
    output: Option<String>,
    /// The output with the label of a row; by default, the only output of int64.
    label_output: Option<String>,
}

struct Anomaly {
    score: Arc<str>,
    label: Arc<str>,
}

pub(super) fn make(context: StageContext<'_>) -> Result<Box<dyn Postprocessor>, SetupError> {
    let Settings { output, label_output } = context.config.settings()?;
    let score = float_output(context.signature, output.as_deref(), "score")?;
    let label = label_output_of(context.signature, label_output.as_deref())?;
    Ok(Box::new(Anomaly { score, label }))
}

/// Returns the output with this name, or the only one of int64.
fn label_output_of(signature: &Signature, name: Option<&str>) -> Result<Arc<str>, SetupError> {
    let wrong = |problem: String| Err(SetupError::Config(format!("label_output: {problem}")));
    if let Some(name) = name {
        let output = declared_output(signature, name)?;
        return match signature.output(name) {
            Some(spec) if spec.dtype != DType::I64 => {
                wrong(format!("the output {name:?} is {}; a label is int64, -1 or 1", spec.describe()))
            }
            _ => Ok(output),
        };
    }
    let numbers: Vec<&Arc<str>> =
        signature.outputs.iter().filter(|output| output.dtype == DType::I64).map(|output| &output.name).collect();
    match &*numbers {
        [only] => Ok(Arc::clone(only)),
        [] => wrong(
            "the model has no output of int64 with a label, -1 or 1, for each row; use kind = \"regressor\" to answer the \
             score alone"
                .to_owned(),
        ),
        several => wrong(format!(
            "name the one with the labels, -1 and 1; the model's outputs of int64 are {}",
            several.iter().map(|name| &***name).collect::<Vec<_>>().join(", ")
        )),
    }
}

impl Postprocessor for Anomaly {
    fn answered(&self) -> Option<Vec<Arc<str>>> {
        Some(vec![Arc::clone(&self.score), Arc::clone(&self.label)])
    }

    fn prediction_kind(&self) -> PredictionKind {
        PredictionKind::Anomaly
    }

    fn prediction_schema(&self) -> Value {
        object([("label", json!({ "enum": LABELS })), ("score", json!({ "type": "number" }))])
    }

    fn decode(&self, outputs: &Tensors, _origin: &Origin) -> Result<Vec<Prediction>> {
        let scores = one_per_row(&self.score, outputs)?;
        refuse_non_finite(&self.score, scores)?;
        let scores = as_written(scores).ok_or_else(|| Error::internal("the scores of anomalies are not floats"))?;
        let labels = one_per_row(&self.label, outputs)?;
        let Data::I64(labels) = labels.data() else {
            return Err(self.wrong_label(&format!("is {}", labels.dtype())));
        };
        if let Some(other) = labels.iter().find(|label| !LABELS.contains(label)) {
            return Err(self.wrong_label(&format!("has the value {other}")));
        }
        Ok(labels.iter().zip(scores).map(|(label, score)| Prediction::Anomaly { label: *label, score }).collect())
    }
}

impl Anomaly {
    fn wrong_label(&self, what: &str) -> Error {
        let problem = format!(
            "{what}, but a detector of anomalies has the labels -1 and 1, of int64; use another kind of postprocessor, or \
             name another label_output"
        );
        Error::UnusableOutput { output: self.label.to_string(), problem }
    }
}

/// Returns an output with one element per row.
fn one_per_row<'a>(name: &str, outputs: &'a Tensors) -> Result<&'a Tensor> {
    let tensor = output(outputs, name)?;
    match tensor.row_len() {
        1 => Ok(tensor),
        _ => Err(unexpected_shape(name, tensor, "one number per row")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::stage_context::of_settings;
    use super::*;
    use crate::tensor::{Dim, TensorSpec};

    fn decode(settings: &str, labels: Data, scores: Data) -> Result<String, String> {
        let spec = |name: &str, data: &Data| TensorSpec {
            name: name.into(),
            dtype: data.dtype(),
            dims: vec![Dim::Dynamic(None), Dim::Fixed(1)],
        };
        let outputs = vec![spec("label", &labels), spec("scores", &scores)];
        let signature = Signature { outputs, ..Signature::default() };
        let stage = of_settings(make, settings, &signature).map_err(|error| error.to_string())?;
        let tensor = |data: Data| Tensor::new(vec![data.len(), 1], data).unwrap();
        let outputs: Tensors =
            [("label".into(), tensor(labels)), ("scores".into(), tensor(scores))].into_iter().collect();
        let predictions = stage.decode(&outputs, &Origin::Unknown).map_err(|error| error.to_string())?;
        Ok(serde_json::to_string(&predictions).unwrap())
    }

    #[test]
    fn the_label_of_the_model_is_answered_beside_the_score() {
        let check = |labels: Data, scores: Data, expected: Result<&str, &str>| {
            let found = decode(r#"{"kind": "anomaly"}"#, labels, scores);
            match expected {
                Ok(expected) => assert_eq!(found.as_deref(), Ok(expected)),
                Err(expected) => assert!(found.as_ref().is_err_and(|error| error.contains(expected)), "{found:?}"),
            }
        };
        let scores = || Data::F32(vec![-0.1, 0.25]);
        check(Data::I64(vec![-1, 1]), scores(), Ok(r#"[{"label":-1,"score":-0.1},{"label":1,"score":0.25}]"#));
        check(
            Data::I64(vec![0, 1]),
            scores(),
            Err("has the value 0, but a detector of anomalies has the labels -1 and 1"),
        );
        check(Data::I64(vec![-1, 1]), Data::F32(vec![0.0, f32::NAN]), Err("is not a finite number for instances[1]"));
        check(Data::F32(vec![-1.0, 1.0]), scores(), Err("output: name the one with the score"));
        check(Data::I32(vec![-1, 1]), scores(), Err("label_output: the model has no output of int64"));
    }
}
