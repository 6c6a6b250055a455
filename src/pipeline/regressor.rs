//! `kind = "regressor"`: one number per row becomes `{"value": …}`, and one for each of several targets becomes
//! `{"values": {…}}`, in the unit of the original target.
//!
//! A model that was trained on a transformed target predicts a transformed value. It is transformed back in this order:
//! `value · scale + offset`, then `exp` or `expm1`, then `clip`.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::json_schema::object;
use super::outputs::{NonFinite, as_written, float_output, float_outputs, output};
use super::target_names::{TargetNames, only_with_targets};
use super::{Origin, Postprocessor, Prediction, PredictionKind, StageContext};
use crate::error::{Error, Result, SetupError};
use crate::tensor::{Dim, Signature, Tensors};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The output with the predicted numbers; by default, the only floating-point output.
    output: Option<String>,
    /// The outputs with the predicted numbers of several targets.
    outputs: Option<Vec<String>>,
    /// The targets, in the order of the numbers; by default, the names of the outputs if there are several.
    targets: Option<Vec<Target>>,
    /// Name of the target that is monitored and compared with feedback; by default, the first.
    monitored: Option<String>,
    /// Factor of predictions: the deviation that the target was divided by.
    scale: Option<f64>,
    /// Value that is added after the multiplication: the mean that was subtracted from the target.
    offset: Option<f64>,
    /// Inverse of the function that was applied to the target.
    inverse: Option<Inverse>,
    /// Minimum and maximum of the answered values; a value outside is replaced by the nearer of the two.
    clip: Option<[f64; 2]>,
    /// Treatment of NaN and infinity.
    #[serde(default)]
    non_finite: NonFinite,
}

/// One of several targets.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a target is its name, or a table with name, scale, offset, inverse and clip")]
enum Target {
    /// Only the name.
    Name(String),
    /// The name, and settings for this target, which replace those for all.
    Table(TargetTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetTable {
    name: String,
    scale: Option<f64>,
    offset: Option<f64>,
    inverse: Option<Inverse>,
    clip: Option<[f64; 2]>,
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

/// Conversion of a prediction back to the unit of its target.
#[derive(Debug, Clone, Copy)]
struct Conversion {
    scale: f64,
    offset: f64,
    inverse: Option<Inverse>,
    clip: Option<[f64; 2]>,
}

struct Regressor {
    /// The outputs with the numbers of a row, in order.
    outputs: Vec<Arc<str>>,
    /// Names of several targets; `None` if there is one without a name.
    targets: Option<TargetNames>,
    /// Conversion of each number of a row.
    conversions: Vec<Conversion>,
    non_finite: NonFinite,
}

pub(super) fn make(context: StageContext<'_>) -> Result<Box<dyn Postprocessor>, SetupError> {
    let settings: Settings = context.config.settings()?;
    let outputs = settings.find_outputs(context.signature)?;
    let Settings { output: _, outputs: _, targets, monitored, scale, offset, inverse, clip, non_finite } = settings;
    let common = Conversion { scale: scale.unwrap_or(1.0), offset: offset.unwrap_or(0.0), inverse, clip };
    common.check()?;
    let targets = targets.or_else(|| {
        // The outputs name the targets if there are several.
        let names = outputs.iter().map(|output| Target::Name(output.to_string()));
        (outputs.len() > 1).then(|| names.collect())
    });
    check_numbers(&outputs, targets.as_ref().map(Vec::len), context.signature)?;
    let (targets, conversions) = match targets {
        None if monitored.is_some() => return Err(only_with_targets("monitored")),
        None => (None, vec![common]),
        Some(targets) => {
            let (names, conversions): (Vec<String>, Vec<Conversion>) =
                targets.into_iter().map(|target| target.or_common(common)).unzip();
            let names = TargetNames::new(names, monitored.as_deref())?;
            conversions.iter().try_for_each(Conversion::check)?;
            (Some(names), conversions)
        }
    };
    Ok(Box::new(Regressor { outputs, targets, conversions, non_finite }))
}

impl Settings {
    fn find_outputs(&self, signature: &Signature) -> Result<Vec<Arc<str>>, SetupError> {
        const WHAT: &str = "predicted value";
        match (&self.output, &self.outputs) {
            (Some(_), Some(_)) => Err(SetupError::Config("output and outputs: set one of them".to_owned())),
            (None, Some(outputs)) if outputs.is_empty() => {
                Err(SetupError::Config("outputs: the list is empty".to_owned()))
            }
            (None, Some(outputs)) => {
                let mut once = std::collections::BTreeSet::new();
                if let Some(twice) = outputs.iter().find(|name| !once.insert(name.as_str())) {
                    return Err(SetupError::Config(format!("outputs: {twice:?} occurs twice")));
                }
                outputs.iter().map(|output| float_output(signature, Some(output), WHAT)).collect()
            }
            (None, None) if float_outputs(signature).count() > 1 => {
                let names: Vec<String> = float_outputs(signature).map(|name| format!("{name:?}")).collect();
                Err(SetupError::Config(format!(
                    "output: the model has several floating-point outputs; set output to the one with the predicted value, \
                     or answer a number from each of them: outputs = [{}]",
                    names.join(", ")
                )))
            }
            (output, None) => Ok(vec![float_output(signature, output.as_deref(), WHAT)?]),
        }
    }
}

impl Target {
    /// Returns the name and the conversion of the target. What it does not set is as for all targets.
    fn or_common(self, common: Conversion) -> (String, Conversion) {
        match self {
            Target::Name(name) => (name, common),
            Target::Table(TargetTable { name, scale, offset, inverse, clip }) => {
                let (scale, offset) = (scale.unwrap_or(common.scale), offset.unwrap_or(common.offset));
                (name, Conversion { scale, offset, inverse: inverse.or(common.inverse), clip: clip.or(common.clip) })
            }
        }
    }
}

/// Checks that the model declares as many numbers per row as there are targets.
fn check_numbers(outputs: &[Arc<str>], targets: Option<usize>, signature: &Signature) -> Result<(), SetupError> {
    let mut known = 0;
    for name in outputs {
        match signature.output(name).map(|spec| &*spec.dims) {
            Some([_]) => known += 1,
            Some([_, Dim::Fixed(numbers)]) => known += numbers,
            None | Some([] | [_, Dim::Dynamic(_)]) => return Ok(()),
            Some(dims) => {
                return Err(SetupError::Config(format!(
                    "output: {name:?} has {} dimensions; a regressor needs one row of numbers per instance. Use kind = \
                     \"tensor\" to answer it unchanged",
                    dims.len()
                )));
            }
        }
    }
    match targets {
        // skl2onnx declares one number per row for forests with several targets.
        _ if known == 1 => Ok(()),
        None => Err(SetupError::Config(format!(
            "output: {:?} has more than one number per row, {known}; name them in their order, as in targets = \
             [\"price\", \"days\"], or use kind = \"tensor\" to answer them unchanged",
            outputs.join(", ")
        ))),
        Some(targets) if targets != known => {
            Err(SetupError::Config(format!("targets: there are {targets}, but the model has {known} numbers per row")))
        }
        Some(_) => Ok(()),
    }
}

impl Postprocessor for Regressor {
    fn answered(&self) -> Option<Vec<Arc<str>>> {
        Some(self.outputs.clone())
    }

    fn prediction_kind(&self) -> PredictionKind {
        match &self.targets {
            None => PredictionKind::Value,
            Some(targets) => PredictionKind::Values(targets.names.to_vec()),
        }
    }

    fn prediction_schema(&self) -> Value {
        let number = || self.non_finite.schema(json!({ "type": "number" }));
        match &self.targets {
            None => object([("value", number())]),
            Some(targets) => {
                object([("values", object(targets.names.iter().map(|name| (name.to_string(), number()))))])
            }
        }
    }

    fn decode(&self, outputs: &Tensors, _origin: &Origin) -> Result<Vec<Prediction>> {
        match (&self.targets, &*self.outputs, &*self.conversions) {
            (None, [only], [conversion]) => self.decode_one(&self.read(only, outputs)?, *conversion),
            (Some(targets), names, _) => {
                let numbers = names.iter().map(|name| self.read(name, outputs)).collect::<Result<Vec<_>>>()?;
                self.decode_several(targets, &numbers)
            }
            _ => Err(Error::internal("a regressor of several outputs has no names for its targets")),
        }
    }

    fn assumptions(&self) -> Vec<String> {
        self.targets.as_ref().and_then(TargetNames::assumption).into_iter().collect()
    }
}

/// The numbers of an output.
struct Numbers<'a> {
    output: &'a str,
    /// The numbers of all rows, one row after the other.
    values: Vec<f64>,
    /// Number of rows.
    rows: usize,
    /// Number of numbers in a row.
    width: usize,
}

impl Regressor {
    fn read<'a>(&self, name: &'a str, outputs: &Tensors) -> Result<Numbers<'a>> {
        let tensor = output(outputs, name)?;
        self.non_finite.check(name, tensor)?;
        let values = as_written(tensor).ok_or_else(|| Error::internal("a regressor's values are not floats"))?;
        Ok(Numbers { output: name, values, rows: tensor.rows(), width: tensor.row_len() })
    }

    fn decode_one(&self, numbers: &Numbers<'_>, conversion: Conversion) -> Result<Vec<Prediction>> {
        if numbers.width != 1 {
            return Err(wrong_width(
                std::slice::from_ref(numbers),
                "one number per row was expected; name several in their order, as in targets = [\"price\", \"days\"], or use \
                 kind = \"tensor\" to answer them unchanged",
            ));
        }
        let value = |(instance, value): (usize, &f64)| {
            let value = self.converted(*value, conversion, (numbers.output, instance))?;
            Ok(self.non_finite.mark(Prediction::Value(value)))
        };
        numbers.values.iter().enumerate().map(value).collect()
    }

    fn decode_several(&self, targets: &TargetNames, numbers: &[Numbers<'_>]) -> Result<Vec<Prediction>> {
        let width: usize = numbers.iter().map(|numbers| numbers.width).sum();
        if width != self.conversions.len() {
            let expected = format!("{} were expected, one for each target", self.conversions.len());
            return Err(wrong_width(numbers, &expected));
        }
        let row = |instance: usize| {
            let of_row = |numbers: &Numbers<'_>| instance * numbers.width..(instance + 1) * numbers.width;
            let with_output = |numbers| {
                let Numbers { output, values, .. }: &Numbers<'_> = numbers;
                values[of_row(numbers)].iter().map(move |value| (*output, *value))
            };
            let values = numbers.iter().flat_map(with_output).zip(&self.conversions);
            let values =
                values.map(|((output, value), conversion)| self.converted(value, *conversion, (output, instance)));
            let (values, names) = (values.collect::<Result<Vec<f64>>>()?, Arc::clone(&targets.names));
            Ok(self.non_finite.mark(Prediction::Values { names, values, monitored: targets.monitored }))
        };
        let rows = numbers.iter().map(|numbers| numbers.rows).min().unwrap_or_default();
        (0..rows).map(row).collect()
    }

    /// Converts a number back to the unit of its target.
    fn converted(&self, value: f64, conversion: Conversion, (output, instance): (&str, usize)) -> Result<f64> {
        // The model's own NaN and infinity stay that: `clip` would make a number of them.
        let value = if value.is_finite() { conversion.of(value) } else { value };
        // The result can be infinite, because exp of a large number is.
        if value.is_finite() || self.non_finite != NonFinite::Error {
            Ok(value)
        } else {
            Err(Error::NonFiniteOutput { output: output.to_owned(), instance })
        }
    }
}

/// Returns the error for a wrong number of numbers in a row.
fn wrong_width(numbers: &[Numbers<'_>], expected: &str) -> Error {
    let output = numbers.iter().map(|numbers| numbers.output).collect::<Vec<_>>().join(", ");
    let width: usize = numbers.iter().map(|numbers| numbers.width).sum();
    Error::UnusableOutput { output, problem: format!("has {width} numbers per row, but {expected}") }
}

impl Conversion {
    fn check(&self) -> Result<(), SetupError> {
        let wrong = |problem: String| Err(SetupError::Config(problem));
        for (key, value) in [("scale", self.scale), ("offset", self.offset)] {
            if !value.is_finite() {
                return wrong(format!("{key}: {value} is not a finite number"));
            }
        }
        match self.clip {
            Some([least, most]) if least.is_nan() || most.is_nan() || least > most => {
                wrong(format!("clip: {least} is not below {most}"))
            }
            _ => Ok(()),
        }
    }

    fn of(&self, value: f64) -> f64 {
        let value = value * self.scale + self.offset;
        let value = match self.inverse {
            None => value,
            Some(Inverse::Exp) => value.exp(),
            Some(Inverse::Expm1) => value.exp_m1(),
        };
        self.clip.map_or(value, |[least, most]| value.clamp(least, most))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::stage_context::of_settings;
    use super::*;
    use crate::tensor::{Data, Tensor, TensorSpec};

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
        let with_text = with_null.replace("null", "text");
        let own = decode(&with_text, Data::F64(vec![0.0, 1e6, f64::INFINITY, f64::NAN]), None);
        assert_eq!(own.unwrap(), r#"[{"value":1.0},{"value":5.0},{"value":"Infinity"},{"value":"NaN"}]"#);
        let several = decode(plain, Data::F32(vec![0.0; 4]), Some(2)).unwrap_err();
        assert!(several.contains("more than one number per row"), "{several}");
        let clip = decode(r#"{"kind": "regressor", "clip": [2, 1]}"#, Data::F32(vec![]), None).unwrap_err();
        assert_eq!(clip, "clip: 2 is not below 1");
    }

    #[test]
    fn several_targets_have_names() {
        let values = || Data::F32(vec![0.1, -1.0, 0.0, 2.0]);
        let check = |settings: &str, expected: Result<&str, &str>| {
            let settings = format!(r#"{{"kind": "regressor", {settings}}}"#);
            match (decode(&settings, values(), Some(2)), expected) {
                (found, Ok(expected)) => assert_eq!(found.as_deref(), Ok(expected), "{settings}"),
                (found, Err(problem)) => assert!(found.as_ref().is_err_and(|e| e.contains(problem)), "{found:?}"),
            }
        };
        check(r#""targets": ["a", "b"]"#, Ok(r#"[{"values":{"a":0.1,"b":-1.0}},{"values":{"a":0.0,"b":2.0}}]"#));
        // What a target sets replaces the settings for all.
        check(
            r#""targets": ["a", {"name": "b", "scale": 1, "clip": [0, 1]}], "scale": 10, "offset": 1"#,
            Ok(r#"[{"values":{"a":2.0,"b":0.0}},{"values":{"a":1.0,"b":1.0}}]"#),
        );
        check(
            r#""targets": ["a", {"name": "b", "scale": 1000, "inverse": "exp"}], "non_finite": "text""#,
            Ok(r#"[{"values":{"a":0.1,"b":0.0}},{"values":{"a":0.0,"b":"Infinity"}}]"#),
        );
        check(r#""targets": ["a"]"#, Err("targets: there are 1, but the model has 2 numbers per row"));
        check(r#""targets": ["a", {"name": "b", "unit": "s"}]"#, Err("a target is its name, or a table with name"));
        check(r#""targets": ["a", {"name": "b", "clip": [2, 1]}]"#, Err("clip: 2 is not below 1"));
        check(r#""targets": ["a", "b"], "outputs": []"#, Err("outputs: the list is empty"));
        check(r#""outputs": ["y"], "output": "y""#, Err("output and outputs: set one of them"));
        let one = decode(r#"{"kind": "regressor", "monitored": "a"}"#, values(), None).unwrap_err();
        assert_eq!(one, "monitored: it chooses one of several targets; name them with targets");
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
