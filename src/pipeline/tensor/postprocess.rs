//! `kind = "tensor"`: answers the outputs of the model unchanged. NaN and infinity are an error, `null`, or text.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Result, SetupError};
use crate::pipeline::json_schema::{is_float, nested, object, output_element};
use crate::pipeline::outputs::{NonFinite, declared_output, hint_of_other_outputs, output};
use crate::pipeline::{Origin, Postprocessor, Prediction, StageContext};
use crate::tensor::{DType, TensorSpec, Tensors};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Names of the outputs that are answered; by default, all outputs.
    outputs: Option<Vec<String>>,
    /// Treatment of NaN and infinity.
    #[serde(default)]
    non_finite: NonFinite,
}

struct TensorPostprocessor {
    outputs: Vec<Arc<str>>,
    /// Declarations of the outputs, in the same order.
    declared: Vec<TensorSpec>,
    non_finite: NonFinite,
}

pub(crate) fn make(context: StageContext<'_>) -> Result<Box<dyn Postprocessor>, SetupError> {
    let (settings, signature): (Settings, _) = (context.config.settings()?, context.signature);
    let outputs: Vec<Arc<str>> = match settings.outputs {
        Some(names) => names.iter().map(|name| declared_output(signature, name)).collect::<Result<_, SetupError>>()?,
        // By default, all outputs are answered. An output that cannot be answered is an error, not left out silently.
        None if !signature.other_outputs.is_empty() || signature.outputs.is_empty() => {
            let hint = hint_of_other_outputs(signature);
            return Err(SetupError::Config(format!("outputs: name the outputs to answer{hint}")));
        }
        None => signature.outputs.iter().map(|output| Arc::clone(&output.name)).collect(),
    };
    if outputs.is_empty() {
        return Err(SetupError::Config("outputs: the list is empty; leave it out to answer all outputs".to_owned()));
    }
    let declared = outputs.iter().filter_map(|name| signature.output(name)).cloned().collect();
    Ok(Box::new(TensorPostprocessor { outputs, declared, non_finite: settings.non_finite }))
}

impl Postprocessor for TensorPostprocessor {
    fn answered(&self) -> Option<Vec<Arc<str>>> {
        Some(self.outputs.clone())
    }

    fn prediction_schema(&self) -> Value {
        let row = |spec: &TensorSpec| match (&*spec.dims, spec.dtype) {
            // An output without declared dimensions has an unknown shape.
            ([], _) | (_, DType::Sequence) => Value::Object(serde_json::Map::new()),
            ([_, row @ ..], dtype) if is_float(dtype) => nested(row, self.non_finite.schema(output_element(dtype))),
            ([_, row @ ..], dtype) => nested(row, output_element(dtype)),
        };
        match &*self.declared {
            [only] => row(only),
            several => object(several.iter().map(|spec| (spec.name.to_string(), row(spec)))),
        }
    }

    fn decode(&self, outputs: &Tensors, _origin: &Origin) -> Result<Vec<Prediction>> {
        let mut wanted = Vec::with_capacity(self.outputs.len());
        for name in &self.outputs {
            let tensor = output(outputs, name)?;
            self.non_finite.check(name, tensor)?;
            wanted.push((name, tensor));
        }
        let rows = wanted.first().map_or(0, |(_, tensor)| tensor.rows());
        let row = |row| {
            let values = wanted.iter().map(|(name, tensor)| (Arc::clone(name), tensor.slice_rows(row..row + 1)));
            self.non_finite.mark(Prediction::Outputs(values.collect()))
        };
        Ok((0..rows).map(row).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feature::Observation;
    use crate::pipeline::stage_context::of_settings;
    use crate::tensor::{DType, Data, Dim, Signature, Tensor, TensorSpec};

    fn signature() -> Signature {
        let output = |name: &str| TensorSpec { name: name.into(), dtype: DType::F32, dims: vec![Dim::Dynamic(None)] };
        Signature { outputs: vec![output("a"), output("b")], ..Signature::default() }
    }

    fn outputs(a: &[f32], b: &[f32]) -> Tensors {
        let tensor = |values: &[f32]| Tensor::new(vec![values.len()], Data::F32(values.to_vec())).unwrap();
        [("a".into(), tensor(a)), ("b".into(), tensor(b))].into_iter().collect()
    }

    fn check(settings: &str, outputs: &Tensors, expected: std::result::Result<&str, &str>) {
        let stage = of_settings(make, settings, &signature());
        let decoded = stage.and_then(|stage| Ok(stage.decode(outputs, &Origin::Unknown)?));
        let decoded = decoded.map(|p| serde_json::to_string(&p).unwrap()).map_err(|error| error.to_string());
        assert_eq!(decoded.as_deref(), expected.map_err(str::to_owned).as_ref().map(|ok| *ok));
    }

    #[test]
    fn rows_of_the_outputs_are_the_predictions() {
        check(
            r#"{"kind": "tensor"}"#,
            &outputs(&[1.0, 2.0], &[3.0, 4.0]),
            Ok(r#"[{"a":1.0,"b":3.0},{"a":2.0,"b":4.0}]"#),
        );
        check(r#"{"kind": "tensor", "outputs": ["b"]}"#, &outputs(&[1.0, 2.0], &[3.0, 4.0]), Ok("[3.0,4.0]"));
    }

    #[test]
    fn what_is_not_a_finite_number_is_an_error() {
        check(
            r#"{"kind": "tensor"}"#,
            &outputs(&[1.0, 2.0], &[3.0, f32::NAN]),
            Err(r#"the model's output "b" is not a finite number for instances[1]"#),
        );
        check(
            r#"{"kind": "tensor", "non_finite": "null"}"#,
            &outputs(&[1.0, f32::NEG_INFINITY], &[f32::INFINITY, f32::NAN]),
            Ok(r#"[{"a":1.0,"b":null},{"a":null,"b":null}]"#),
        );
        check(
            r#"{"kind": "tensor", "non_finite": "text"}"#,
            &outputs(&[1.0, f32::NEG_INFINITY], &[f32::INFINITY, f32::NAN]),
            Ok(r#"[{"a":1.0,"b":"Infinity"},{"a":"-Infinity","b":"NaN"}]"#),
        );
    }

    #[test]
    fn what_is_not_a_finite_number_is_not_monitored() {
        for form in ["null", "text"] {
            let settings = format!(r#"{{"kind": "tensor", "outputs": ["a"], "non_finite": "{form}"}}"#);
            let stage = of_settings(make, &settings, &signature()).unwrap();
            let decoded = stage.decode(&outputs(&[1.0, f32::NAN], &[]), &Origin::Unknown).unwrap();
            let observed: Vec<Observation> = decoded.iter().map(Prediction::observation).collect();
            assert_eq!(observed, [Observation::Value(1.0), Observation::Nothing]);
        }
    }

    #[test]
    fn an_output_that_is_no_tensor_is_not_left_out_in_silence() {
        let mut signature = signature();
        signature.other_outputs.push("output_probability".into());
        let error = of_settings(make, r#"{"kind": "tensor"}"#, &signature).err().unwrap().to_string();
        assert!(error.contains("its output \"output_probability\" is not a tensor but a sequence or a map"), "{error}");
        assert!(of_settings(make, r#"{"kind": "tensor", "outputs": ["a"]}"#, &signature).is_ok());
    }

    #[test]
    fn an_output_the_model_does_not_have_is_refused() {
        check(
            r#"{"kind": "tensor", "outputs": ["c"]}"#,
            &outputs(&[], &[]),
            Err(r#"the model has no tensor output "c"; it has: a, b"#),
        );
    }
}
