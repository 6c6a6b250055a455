//! `kind = "regressor"`: one number per row becomes `{"value": …}`, in the unit of the original target.
//!
//! A model that was trained on a transformed target predicts a transformed value. It is transformed back in this order:
//! `value · scale + offset`, then `exp` or `expm1`, then `clip`.

use std::sync::Arc;

use serde::Deserialize;

use super::outputs::{NonFinite, float_output, output, unexpected_shape};
use super::{Origin, Postprocessor, Prediction, StageContext};
use crate::error::{Error, Result, SetupError};
use crate::tensor::{Data, Dim, Tensor, Tensors};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The output with one number per row; by default, the only floating-point output.
    output: Option<String>,
    /// Factor of predictions: the deviation that the target was divided by.
    #[serde(default = "one")]
    scale: f64,
    /// Value that is added after the multiplication: the mean that was subtracted from the target.
    #[serde(default)]
    offset: f64,
    /// Inverse of the function that was applied to the target.
    inverse: Option<Inverse>,
    /// Minimum and maximum of the answered values; a value outside is replaced by the nearer of the two.
    clip: Option<[f64; 2]>,
    /// Treatment of NaN and infinity.
    #[serde(default)]
    non_finite: NonFinite,
}

/// Inverse of the function that was applied to the target before training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Inverse {
    /// Inverse of ln y: exp.
    Exp,
    /// Inverse of ln (1 + y), NumPy's `log1p`: exp(x) − 1.
    Expm1,
}

fn one() -> f64 {
    1.0
}

struct Regressor {
    output: Arc<str>,
    scale: f64,
    offset: f64,
    inverse: Option<Inverse>,
    clip: Option<[f64; 2]>,
    non_finite: NonFinite,
}

pub(super) fn make(context: StageContext<'_>) -> Result<Box<dyn Postprocessor>, SetupError> {
    let Settings { output, scale, offset, inverse, clip, non_finite } = context.config.settings()?;
    let output = float_output(context.signature, output.as_deref(), "predicted value")?;
    let wrong = |problem: String| Err(SetupError::Config(problem));
    match context.signature.output(&output).map(|spec| &*spec.dims) {
        None | Some([] | [_] | [_, Dim::Fixed(1) | Dim::Dynamic(_)]) => {}
        Some(_) => {
            return wrong(format!(
                "output: {output:?} has more than one number per row; use kind = \"tensor\" to answer them unchanged"
            ));
        }
    }
    for (key, value) in [("scale", scale), ("offset", offset)] {
        if !value.is_finite() {
            return wrong(format!("{key}: {value} is not a finite number"));
        }
    }
    if let Some([least, most]) = clip
        && (least.is_nan() || most.is_nan() || least > most)
    {
        return wrong(format!("clip: {least} is not below {most}"));
    }
    Ok(Box::new(Regressor { output, scale, offset, inverse, clip, non_finite }))
}

impl Postprocessor for Regressor {
    fn answered(&self) -> Option<Vec<Arc<str>>> {
        Some(vec![Arc::clone(&self.output)])
    }

    fn decode(&self, outputs: &Tensors, _origin: &Origin) -> Result<Vec<Prediction>> {
        let tensor = output(outputs, &self.output)?;
        self.non_finite.check(&self.output, tensor)?;
        if tensor.row_len() != 1 {
            let expected = "one number per row (use kind = \"tensor\" for several)";
            return Err(unexpected_shape(&self.output, tensor, expected));
        }
        let values = as_written(tensor).ok_or_else(|| Error::internal("a regressor's values are not floats"))?;
        let value = |(instance, value): (usize, f64)| {
            // The model's own NaN and infinity stay that: `clip` would make a number of them.
            let value = if value.is_finite() { self.taken_back(value) } else { value };
            // The result can be infinite, because exp of a large number is.
            if value.is_finite() || self.non_finite == NonFinite::Null {
                Ok(Prediction::Value(value))
            } else {
                Err(Error::NonFiniteOutput { output: self.output.to_string(), instance })
            }
        };
        values.into_iter().enumerate().map(value).collect()
    }
}

impl Regressor {
    fn taken_back(&self, value: f64) -> f64 {
        let value = value * self.scale + self.offset;
        let value = match self.inverse {
            None => value,
            Some(Inverse::Exp) => value.exp(),
            Some(Inverse::Expm1) => value.exp_m1(),
        };
        self.clip.map_or(value, |[least, most]| value.clamp(least, most))
    }
}

/// Converts the elements to double precision by their decimal notation: 0.1 in single precision becomes 0.1, not
/// 0.10000000149011612.
fn as_written(tensor: &Tensor) -> Option<Vec<f64>> {
    match tensor.data() {
        Data::F64(values) => Some(values.clone()),
        _ => tensor.to_f32()?.iter().map(|value| value.to_string().parse().ok()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::stage_context::of_settings;
    use super::*;
    use crate::tensor::{Signature, TensorSpec};

    fn decode(settings: &str, data: Data, width: Option<usize>) -> Result<String, String> {
        let row = width.map(Dim::Fixed);
        let dims = [Dim::Dynamic(None)].into_iter().chain(row).collect();
        let spec = TensorSpec { name: "y".into(), dtype: data.dtype(), dims };
        let signature = Signature { outputs: vec![spec], ..Signature::default() };
        let stage = of_settings(make, settings, &signature).map_err(|error| error.to_string())?;
        let width = width.unwrap_or(1);
        let shape = [data.len() / width].into_iter().chain((width > 1).then_some(width)).collect();
        let outputs = [("y".into(), Tensor::new(shape, data).unwrap())].into_iter().collect();
        let predictions = stage.decode(&outputs, &Origin::Unknown).map_err(|error| error.to_string())?;
        Ok(serde_json::to_string(&predictions).unwrap())
    }

    #[test]
    fn a_value_is_taken_back_to_its_unit() {
        let values = || Data::F32(vec![0.1, -1.0]);
        let check = |settings: &str, expected: &str| {
            assert_eq!(decode(settings, values(), None).unwrap(), expected, "{settings}");
        };
        check(r#"{"kind": "regressor"}"#, r#"[{"value":0.1},{"value":-1.0}]"#);
        check(
            r#"{"kind": "regressor", "scale": 10, "offset": 5, "clip": [0, 5.5]}"#,
            r#"[{"value":5.5},{"value":0.0}]"#,
        );
        // e^0 = 1 exactly, without rounding.
        check(r#"{"kind": "regressor", "scale": 0, "inverse": "exp"}"#, r#"[{"value":1.0},{"value":1.0}]"#);
        check(r#"{"kind": "regressor", "scale": 0, "inverse": "expm1"}"#, r#"[{"value":0.0},{"value":0.0}]"#);
    }

    #[test]
    fn what_is_no_number_is_refused() {
        let plain = r#"{"kind": "regressor"}"#;
        let too_large = decode(r#"{"kind": "regressor", "inverse": "exp"}"#, Data::F64(vec![1.0, 1e6]), None);
        assert_eq!(too_large.unwrap_err(), "the model's output \"y\" is not a finite number for instances[1]");
        let with_null = r#"{"kind": "regressor", "inverse": "exp", "clip": [0, 5], "non_finite": "null"}"#;
        let own = decode(with_null, Data::F64(vec![0.0, 1e6, f64::INFINITY, f64::NAN]), None);
        assert_eq!(own.unwrap(), r#"[{"value":1.0},{"value":5.0},{"value":null},{"value":null}]"#);
        let unclipped = r#"{"kind": "regressor", "inverse": "exp", "non_finite": "null"}"#;
        let too_large = decode(unclipped, Data::F64(vec![1e6]), None);
        assert_eq!(too_large.unwrap(), r#"[{"value":null}]"#);
        let unknown = decode(r#"{"kind": "regressor", "non_finite": "nan"}"#, Data::F32(vec![]), None).unwrap_err();
        assert!(unknown.contains("non_finite") && unknown.contains("null"), "{unknown}");
        let several = decode(plain, Data::F32(vec![0.0; 4]), Some(2)).unwrap_err();
        assert!(several.contains("more than one number per row"), "{several}");
        let clip = decode(r#"{"kind": "regressor", "clip": [2, 1]}"#, Data::F32(vec![]), None).unwrap_err();
        assert_eq!(clip, "clip: 2 is not below 1");
    }

    proptest! {
        #[test]
        fn a_clipped_value_is_within_its_bounds(value in -1e30f64..1e30, scale in -1e3f64..1e3, least in -1e3f64..0.0) {
            let settings = format!(r#"{{"kind": "regressor", "scale": {scale:?}, "clip": [{least:?}, 7]}}"#);
            let text = decode(&settings, Data::F64(vec![value]), None).unwrap();
            let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
            prop_assert!((least..=7.0).contains(&answer[0]["value"].as_f64().unwrap()));
        }
    }
}
