//! `kind = "tensor"`: reads instances that already have the form of the model's inputs, as JSON arrays.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::budget::Deadline;
use crate::error::{Result, SetupError};
use crate::feature::{FeatureSchema, Features};
use crate::pipeline::json::reader::NonFinite;
use crate::pipeline::json::to_tensor::read_instances;
use crate::pipeline::json_schema::{closed_object, input_element, is_float, nested, or_non_finite_text};
use crate::pipeline::tensor::features::{FeatureSelection, TensorFeatures};
use crate::pipeline::{
    InstanceForm, Origin, Prediction, Prepared, Preprocessor, StageContext, Table, TableColumn, TableRows, some_of,
};
use crate::tensor::{DType, Dim, Signature, TensorSpec, Tensors};

/// Settings of the stage. The form of the instances follows from the model's signature.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Selection of the monitored features.
    #[serde(default)]
    features: FeatureSelection,
    /// Names of the elements of a row, in the order of the training data.
    columns: Option<Vec<String>>,
    /// Treatment of the strings for NaN and infinity.
    #[serde(default)]
    non_finite: NonFinite,
}

struct TensorPreprocessor {
    inputs: Vec<TensorSpec>,
    sequences: BTreeMap<Arc<str>, DType>,
    features: TensorFeatures,
    columns: Option<Vec<String>>,
    non_finite: NonFinite,
    max_instances: NonZeroUsize,
}

pub(crate) fn make(context: StageContext<'_>) -> Result<Box<dyn Preprocessor>, SetupError> {
    let Settings { features, columns, non_finite } = context.config.settings()?;
    if let Some(columns) = &columns {
        check_columns(columns, context.signature)?;
    }
    let features = TensorFeatures::new(features, columns.as_deref(), context.signature)?;
    Ok(Box::new(TensorPreprocessor {
        inputs: context.signature.inputs.clone(),
        sequences: context.signature.sequences.clone(),
        features,
        columns,
        non_finite,
        max_instances: context.max_instances,
    }))
}

impl TensorPreprocessor {
    /// Returns the schema of the value of an input in an instance.
    fn value_schema(&self, spec: &TensorSpec) -> Value {
        let element = |dtype| match self.non_finite {
            NonFinite::Text if is_float(dtype) => or_non_finite_text(&input_element(dtype)),
            _ => input_element(dtype),
        };
        if self.sequences.contains_key(&spec.name) {
            return json!({ "type": "array", "minItems": 1 });
        }
        let schema = nested(spec.dims.get(1..).unwrap_or_default(), element(spec.dtype));
        match (&self.columns, schema) {
            (Some(columns), Value::Object(mut schema)) => {
                schema.insert("description".to_owned(), format!("the elements in order: {}", some_of(columns)).into());
                Value::Object(schema)
            }
            (_, schema) => schema,
        }
    }
}

/// Checks that the elements of a row can have these names.
fn check_columns(columns: &[String], signature: &Signature) -> Result<(), SetupError> {
    let wrong = |problem: String| Err(SetupError::Config(format!("columns: {problem}")));
    let [input] = &*signature.inputs else {
        return wrong(format!(
            "the model has {} inputs; only the elements of one can be named",
            signature.inputs.len()
        ));
    };
    match &*input.dims {
        [_, Dim::Fixed(elements)] if *elements != columns.len() => {
            return wrong(format!(
                "there are {}, but a row of the model's input {:?} has {elements} elements",
                columns.len(),
                input.name
            ));
        }
        [_, _] => {}
        _ => {
            return wrong(format!(
                "the model's input {:?} is {}; its rows are not lists of elements",
                input.name,
                input.describe()
            ));
        }
    }
    let mut once = std::collections::BTreeSet::new();
    match columns.iter().find(|name| !once.insert(name.as_str())) {
        Some(twice) => wrong(format!("{twice:?} occurs twice")),
        None => Ok(()),
    }
}

impl Preprocessor for TensorPreprocessor {
    fn transform(&self, instances: &RawValue, deadline: Deadline) -> Result<Prepared> {
        let bounds = (self.max_instances, deadline);
        let inputs = read_instances(instances, &self.inputs, &self.sequences, bounds, self.non_finite)?;
        Ok(Prepared { features: self.features.read(&inputs), inputs, origin: Origin::Unknown })
    }

    fn instance_schema(&self) -> Value {
        let value = |spec: &TensorSpec| self.value_schema(spec);
        let by_name = closed_object(self.inputs.iter().map(|spec| (spec.name.to_string(), value(spec))));
        match &*self.inputs {
            [only] => json!({ "anyOf": [value(only), by_name] }),
            _ => by_name,
        }
    }

    /// Returns the first row as an answer has it, which is also the form of an instance.
    fn instance_of(&self, inputs: &Tensors) -> Option<String> {
        serde_json::to_string(&Prediction::Outputs(inputs.slice_rows(0..1))).ok()
    }

    fn features(&self) -> FeatureSchema {
        self.features.schema().clone()
    }

    fn features_of(&self, inputs: &Tensors) -> Features {
        self.features.read(inputs)
    }

    fn table(&self) -> Option<Table> {
        let is_text = self.inputs.first().is_some_and(|input| input.dtype == DType::Text);
        let column = |name: &String| TableColumn { name: name.clone(), is_text };
        Some(Table { columns: self.columns.as_ref()?.iter().map(column).collect(), rows: TableRows::Arrays })
    }

    fn instance_form(&self) -> Option<InstanceForm> {
        Some(InstanceForm::of_inputs(&self.inputs, &self.sequences, self.columns.as_deref()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::stage_context::of_settings;
    use crate::tensor::Data;

    fn spec(name: &str, dtype: DType, row: &[Option<usize>]) -> TensorSpec {
        let row = row.iter().map(|length| length.map_or(Dim::Dynamic(None), Dim::Fixed));
        TensorSpec { name: name.into(), dtype, dims: [Dim::Dynamic(None)].into_iter().chain(row).collect() }
    }

    /// Reads `instances` for the inputs and compares the tensors, or the error's message.
    fn check(inputs: &[TensorSpec], instances: &str, expected: std::result::Result<&[(&[usize], Data)], &str>) {
        let signature = Signature { inputs: inputs.to_vec(), ..Signature::default() };
        let stage = of_settings(make, r#"{"kind": "tensor"}"#, &signature).unwrap();
        let raw: Box<RawValue> = serde_json::from_str(instances).unwrap();
        let read: std::result::Result<Tensors, String> =
            stage.transform(&raw, Deadline::never()).map(|prepared| prepared.inputs).map_err(|error| error.to_string());
        let expected = expected.map_err(str::to_owned).map(|tensors| {
            let named = |(spec, (shape, data)): (&TensorSpec, &(&[usize], Data))| {
                (spec.name.clone(), crate::tensor::Tensor::new(shape.to_vec(), data.clone()).unwrap())
            };
            inputs.iter().zip(tensors).map(named).collect()
        });
        assert_eq!(read, expected, "{instances}");
    }

    #[test]
    fn instances_become_rows() {
        let pair = [spec("x", DType::F32, &[Some(2)])];
        check(&pair, "[[1, 2.5], [-3, 4e-1]]", Ok(&[(&[2, 2], Data::F32(vec![1.0, 2.5, -3.0, 0.4]))]));
        check(&pair, r#"[{"x": [1, 2]}]"#, Ok(&[(&[1, 2], Data::F32(vec![1.0, 2.0]))]));
        check(&[spec("x", DType::F64, &[])], "[1, 0.1]", Ok(&[(&[2], Data::F64(vec![1.0, 0.1]))]));
        check(
            &[spec("x", DType::I64, &[Some(2), None])],
            "[[[1, 2, 3], [4, 5, 6]]]",
            Ok(&[(&[1, 2, 3], Data::I64(vec![1, 2, 3, 4, 5, 6]))]),
        );
        check(&[spec("x", DType::Bool, &[])], "[true, false]", Ok(&[(&[2], Data::Bool(vec![true, false]))]));
        check(
            &[spec("x", DType::Text, &[Some(1)])],
            r#"[["a"], ["b\n"]]"#,
            Ok(&[(&[2, 1], Data::Text(vec!["a".into(), "b\n".into()]))]),
        );
        check(
            &[spec("a", DType::F32, &[Some(1)]), spec("b", DType::U8, &[])],
            r#"[{"b": 7, "a": [1]}, {"a": [2], "b": 255}]"#,
            Ok(&[(&[2, 1], Data::F32(vec![1.0, 2.0])), (&[2], Data::U8(vec![7, 255]))]),
        );
    }

    #[test]
    fn numbers_are_read_exactly() {
        let numbers = [spec("x", DType::F64, &[])];
        let exact = [f64::MAX, f64::MIN_POSITIVE, 5e-324, 0.1 + 0.2, 9_007_199_254_740_993.0];
        check(&numbers, &serde_json::to_string(&exact).unwrap(), Ok(&[(&[5], Data::F64(exact.to_vec()))]));
    }

    #[test]
    fn what_does_not_fit_names_its_place() {
        let pair = [spec("x", DType::F32, &[Some(2)])];
        let is = r#" (the model's input "x" is float32[?, 2])"#;
        for (instances, message) in [
            ("[[1, 2], [3, 4], [5]]", "instances[2]: found 1 values, expected 2"),
            ("[[1, 2, 3]]", "instances[0]: found 3 values, expected 2"),
            ("[[1, 2], [3, \"4\"]]", "instances[1][1]: found the string \"4\", expected a number"),
            ("[[1, [2]]]", "instances[0][1]: found an array, expected a number"),
            ("[[1, null]]", "instances[0][1]: found null, expected a number"),
            ("[[1, 1e39]]", "instances[0][1]: 1e39 is not a value of type float32"),
            ("[[1, 1e999]]", "instances[0][1]: 1e999 is not a value of type float32"),
            ("[7]", "instances[0]: found the number 7, expected an array of 2 numbers"),
            ("[{\"y\": [1, 2]}]", "instances[0]: unknown key \"y\", expected the key \"x\""),
            ("[{}]", "instances[0]: the key \"x\" is missing"),
            ("[{\"x\": [1, 2], \"x\": [1, 2]}]", "instances[0]: the key \"x\" occurs twice"),
            ("[{\"x\": [1, true]}]", "instances[0].x[1]: found true, expected a number"),
            ("{}", "instances: found an object, expected an array of instances"),
        ] {
            check(&pair, instances, Err(&format!("{message}{is}")));
        }
        check(&pair, "[]", Err("instances: the array is empty; send at least one instance"));
        check(
            &[spec("x", DType::U8, &[])],
            "[1, 256]",
            Err("instances[1]: 256 is not a value of type uint8 (the model's input \"x\" is uint8[?])"),
        );
        check(
            &[spec("x", DType::I32, &[])],
            "[1.5]",
            Err("instances[0]: 1.5 is not a value of type int32 (the model's input \"x\" is int32[?])"),
        );
        check(
            &[spec("x", DType::I32, &[None])],
            "[[1, 2], [3]]",
            Err(
                "instances[1]: found 1 values, expected 2 as in the array before it (the model's input \"x\" is int32[?, ?])",
            ),
        );
        check(
            &[spec("a", DType::F32, &[]), spec("b", DType::F32, &[])],
            "[{\"a\": 1, \"b\": 2}, 5]",
            Err("instances[1]: found the number 5, expected an object with the keys \"a\", \"b\""),
        );
        check(
            &[spec("x", DType::Text, &[])],
            r#"["\ud800"]"#,
            Err(
                "instances[0]: found a string with an escape that is not a character (the model's input \"x\" is string[?])",
            ),
        );
    }

    /// The strings of the JSON form of Protocol Buffers: https://protobuf.dev/programming-guides/json/.
    #[test]
    fn numbers_that_are_not_finite_can_be_sent_as_text() {
        let read = |settings: &str, dtype: DType, instances: &str| {
            let signature = Signature { inputs: vec![spec("x", dtype, &[Some(3)])], ..Signature::default() };
            let stage = of_settings(make, settings, &signature).unwrap();
            let raw: Box<RawValue> = serde_json::from_str(instances).unwrap();
            let prepared = stage.transform(&raw, Deadline::never()).map_err(|error| error.to_string())?;
            Ok::<_, String>(format!("{:?}", prepared.inputs.at(0).unwrap().data()))
        };
        let (text, instances) =
            (r#"{"kind": "tensor", "non_finite": "text"}"#, r#"[["NaN", "Infinity", "-Infinity"]]"#);
        for (dtype, name) in [(DType::F32, "F32"), (DType::F64, "F64"), (DType::F16, "F16"), (DType::BF16, "BF16")] {
            assert_eq!(read(text, dtype, instances).unwrap(), format!("{name}([NaN, inf, -inf])"));
        }
        assert_eq!(read(text, DType::F32, r#"[[1, 2.5, "\u004eaN"]]"#).unwrap(), "F32([1.0, 2.5, NaN])");
        let wrong = |settings: &str, dtype, instances: &str| read(settings, dtype, instances).unwrap_err();
        for string in ["nan", "inf", "1", "Infinity ", "+Infinity"] {
            let found = wrong(text, DType::F32, &format!(r#"[[0, "{string}", 0]]"#));
            let expected = "expected a number, or \"NaN\", \"Infinity\" or \"-Infinity\"";
            assert!(found.starts_with(&format!("instances[0][1]: found the string {string:?}, {expected}")), "{found}");
        }
        assert!(wrong(text, DType::I64, instances).contains("found the string \"NaN\", expected a number"));
        assert!(wrong(text, DType::F32, "[[0, 1e39, 0]]").contains("1e39 is not a value of type float32"));
        for settings in [r#"{"kind": "tensor"}"#, r#"{"kind": "tensor", "non_finite": "error"}"#] {
            assert!(
                wrong(settings, DType::F32, instances).contains("found the string \"NaN\", expected a number (the")
            );
        }
    }

    #[test]
    fn whole_numbers_may_be_written_as_floats_are() {
        let whole = [spec("x", DType::I64, &[])];
        check(
            &whole,
            "[3.0, 3e2, -0.0, 9007199254740993, 9223372036854775807.0, 1.5e1]",
            Ok(&[(&[6], Data::I64(vec![3, 300, 0, 9_007_199_254_740_993, i64::MAX, 15]))]),
        );
        let is = r#" (the model's input "x" is int64[?])"#;
        for (number, shown) in [("1.5", "1.5"), ("9223372036854775808.0", "9223372036854775808.0"), ("1e300", "1e300")]
        {
            let message = format!("instances[0]: {shown} is not a value of type int64{is}");
            check(&whole, &format!("[{number}]"), Err(&message));
        }
    }

    #[test]
    fn a_nul_in_a_string_is_refused_where_it_stands() {
        check(
            &[spec("x", DType::Text, &[Some(2)])],
            r#"[["a", "b"], ["c", "d\u0000e"]]"#,
            Err(
                "instances[1][1]: found a string with a NUL character, which the model cannot take (the model's input \"x\" is \
                 string[?, 2])",
            ),
        );
    }

    /// Compares with serde_json, which reads the same text into the same Rust type: numbers in any notation of JSON,
    /// with white space.
    fn agrees_with_serde_json<T>(dtype: DType, text: &str)
    where
        T: crate::tensor::Element + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        let signature = Signature { inputs: vec![spec("x", dtype, &[None])], ..Signature::default() };
        let stage = of_settings(make, r#"{"kind": "tensor"}"#, &signature).unwrap();
        let raw: Box<RawValue> = serde_json::from_str(text).unwrap();
        let ours = stage
            .transform(&raw, Deadline::never())
            .ok()
            .map(|prepared| prepared.inputs.at(0).unwrap().values::<T>().unwrap().to_vec());
        let theirs: Option<Vec<Vec<T>>> = serde_json::from_str(text).ok();
        assert_eq!(ours, theirs.map(|rows| rows.concat()), "{text}");
    }

    proptest! {
        #[test]
        fn numbers_are_those_that_serde_json_reads(
            numbers in prop::collection::vec("-?(0|[1-9][0-9]{0,9})(\\.[0-9]{1,12})?([eE][+-]?[0-9]{1,2})?", 1..20),
            space in "[ \n\r\t]{0,3}",
        ) {
            let text = format!("[{space}[{space}{}{space}]{space}]", numbers.join(&format!("{space},{space}")));
            agrees_with_serde_json::<f64>(DType::F64, &text);
        }

        #[test]
        fn integers_are_those_that_serde_json_reads(numbers in prop::collection::vec("-?(0|[1-9][0-9]{0,19})", 1..9)) {
            // serde_json reads -0 as a float, and refuses it for an integer. Here, -0 is the integer 0.
            prop_assume!(!numbers.iter().any(|number| number == "-0"));
            let text = format!("[[{}]]", numbers.join(", "));
            agrees_with_serde_json::<i8>(DType::I8, &text);
            agrees_with_serde_json::<i64>(DType::I64, &text);
            agrees_with_serde_json::<u16>(DType::U16, &text);
            agrees_with_serde_json::<u64>(DType::U64, &text);
        }

        /// Any valid JSON becomes a tensor or an error message, for any input.
        #[test]
        fn no_json_breaks_the_reader(
            text in "[\\[\\]{}:, \"a1.e\\-]{0,24}|\\[(\\[|\\]|,|1|-0|\"\"|null|true|\\{\"x\":|\\}| )*\\]",
            dtype in prop::sample::select(vec![DType::F32, DType::I8, DType::Bool, DType::Text]),
            rank in 0usize..3,
        ) {
            if let Ok(raw) = serde_json::from_str::<Box<RawValue>>(&text) {
                let signature = Signature { inputs: vec![spec("x", dtype, &vec![None; rank])], ..Signature::default() };
                let stage = of_settings(make, r#"{"kind": "tensor"}"#, &signature).unwrap();
                let _ = stage.transform(&raw, Deadline::never());
            }
        }
    }

    #[test]
    fn the_elements_of_a_row_can_be_named() {
        let of = |columns: &str, inputs: Vec<TensorSpec>| {
            let signature = Signature { inputs, ..Signature::default() };
            of_settings(make, &format!(r#"{{"kind": "tensor", "columns": {columns}}}"#), &signature)
        };
        let pair = || vec![spec("x", DType::F32, &[Some(2)])];
        let stage = of(r#"["age", "income"]"#, pair()).unwrap();
        assert_eq!(stage.features().numbers, ["age".into(), "income".into()]);
        let table = stage.table().unwrap();
        let names: Vec<&str> = table.columns.iter().map(|column| &*column.name).collect();
        assert_eq!((names, table.rows), (vec!["age", "income"], TableRows::Arrays));
        let problem = |columns: &str, inputs| of(columns, inputs).err().unwrap().to_string();
        assert_eq!(
            problem(r#"["age"]"#, pair()),
            "columns: there are 1, but a row of the model's input \"x\" has 2 elements"
        );
        assert_eq!(problem(r#"["age", "age"]"#, pair()), "columns: \"age\" occurs twice");
        let two = vec![spec("x", DType::F32, &[]), spec("y", DType::F32, &[])];
        assert!(problem(r#"["age"]"#, two).contains("the model has 2 inputs"));
        assert!(
            problem(r#"["age"]"#, vec![spec("x", DType::F32, &[Some(2), Some(2)])]).contains("not lists of elements")
        );
    }

    #[test]
    fn a_setting_that_does_not_exist_is_refused() {
        let error = of_settings(make, r#"{"kind": "tensor", "scale": 16}"#, &Signature::default()).err().unwrap();
        assert!(error.to_string().contains("scale"), "{error}");
    }
}
