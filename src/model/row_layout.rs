//! Layout of a model's inputs and outputs: the dimension of each that holds the rows, and the inputs that are
//! constants.
//!
//! All other parts of Leeway see the rows in the first dimension. Here, tensors are rearranged for a run, and the
//! outputs after it. So a model with its rows in the second dimension (time first, states of recurrent networks), with
//! scalars, or without any rows is batched, checked and answered like every other model.
//!
//! - Rows in dimension `k`: the dimension is moved to the front and back.
//! - No rows: the tensor as a whole belongs to one instance. It gets a first dimension of length 1, and each instance is
//!   a run of its own.
//! - A constant is not part of the signature.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::constant_input::read_constant;
use crate::config::SessionConfig;
use crate::error::{Error, Result, SetupError};
use crate::tensor::{DType, Data, Dim, RowDimension, Shape, Signature, Tensor, TensorSpec, Tensors};

/// Inputs and outputs as the model's file declares them.
#[derive(Debug, Clone, Default)]
pub(super) struct Declared {
    pub(super) inputs: Vec<TensorSpec>,
    /// The outputs that are tensors.
    pub(super) outputs: Vec<TensorSpec>,
    /// The names of the other outputs.
    pub(super) other_outputs: Vec<Arc<str>>,
    /// Type of the elements of the inputs that are sequences.
    pub(super) sequences: BTreeMap<Arc<str>, DType>,
}

/// Layout of the inputs and outputs of a model.
#[derive(Debug, Clone)]
pub(super) struct RowLayout {
    /// The signature with the rows first.
    pub(super) signature: Signature,
    /// The inputs, in the order of the file.
    inputs: Vec<Source>,
    /// The outputs that are tensors, in the order of the file.
    outputs: Vec<RowDimension>,
}

/// Source of an input in a run.
#[derive(Debug, Clone)]
enum Source {
    /// The request, with the rows in this dimension.
    Request(RowDimension),
    /// The configuration. The tensor has one row: the whole value.
    Constant(Tensor),
}

impl RowLayout {
    /// Returns the layout of a model with these settings.
    pub(super) fn new(declared: Declared, config: &SessionConfig) -> Result<RowLayout, SetupError> {
        check_names("inputs", config.inputs.keys(), &declared.inputs)?;
        check_names("outputs", config.outputs.keys(), &declared.outputs)?;
        let mut signature =
            Signature { other_outputs: declared.other_outputs, sequences: declared.sequences, ..Signature::default() };
        let mut inputs = Vec::with_capacity(declared.inputs.len());
        let mut names_of_rows = Vec::new();
        for input in declared.inputs {
            let settings = config.inputs.get(&*input.name);
            if let Some(value) = settings.and_then(|settings| settings.value.as_ref()) {
                let constant = read_constant(value, &input)
                    .map_err(|problem| SetupError::Config(format!("model.inputs.{}.value: {problem}", input.name)))?;
                inputs.push(Source::Constant(constant));
                continue;
            }
            let rows = settings.and_then(|settings| settings.rows).or(config.rows);
            let rows = rows.or_else(|| named_rows(&input.dims, is_batch)).unwrap_or(RowDimension::At(0));
            check_dimension(&input, rows)?;
            if let RowDimension::At(index) = rows
                && let Some(Dim::Dynamic(Some(name))) = input.dims.get(index)
            {
                names_of_rows.push(name.clone());
            }
            signature.inputs.push(rows_first(input, rows, &mut signature.row_dimensions));
            inputs.push(Source::Request(rows));
        }
        if signature.inputs.is_empty() && config.rows != Some(RowDimension::None) {
            return Err(SetupError::Config(
                "the model has no inputs that requests send, so it has no rows: set `rows = \"none\"` below [model], and send \
                 the instance {}"
                    .to_owned(),
            ));
        }
        let mut outputs = Vec::with_capacity(declared.outputs.len());
        for output in declared.outputs {
            let rows = config.outputs.get(&*output.name).and_then(|settings| settings.rows).or(config.rows);
            let is_rows = |name: &str| is_batch(name) || names_of_rows.iter().any(|rows| rows == name);
            let rows = rows.or_else(|| named_rows(&output.dims, is_rows)).unwrap_or(RowDimension::At(0));
            if output.dtype == DType::Sequence && rows != RowDimension::None {
                signature.other_outputs.push(output.name);
                continue;
            }
            outputs.push(rows);
            signature.outputs.push(rows_first(output, rows, &mut signature.row_dimensions));
        }
        Ok(RowLayout { signature, inputs, outputs })
    }

    /// Moves the rows of inputs to the dimensions where the model has them.
    pub(super) fn arranged<'a>(&self, inputs: &'a Tensors) -> Result<Cow<'a, Tensors>> {
        let of_requests = || {
            self.inputs.iter().filter_map(|source| match source {
                Source::Request(rows) => Some(*rows),
                Source::Constant(_) => None,
            })
        };
        if !of_requests().any(|rows| matches!(rows, RowDimension::At(1..))) {
            return Ok(Cow::Borrowed(inputs));
        }
        let arranged = inputs.iter().zip(of_requests()).map(|((name, tensor), rows)| {
            let moved = match rows {
                RowDimension::At(index) => tensor.with_first_dimension_at(index),
                RowDimension::None => Some(tensor.clone()),
            };
            let missing = || Error::internal(format_args!("the input {name:?} lacks the dimension of its rows"));
            Ok((Arc::clone(name), moved.ok_or_else(missing)?))
        });
        arranged.collect::<Result<_>>().map(Cow::Owned)
    }

    /// Returns shape and elements of every input of a run, in the order of the file.
    pub(super) fn of_the_model<'a>(&'a self, arranged: &'a Tensors) -> impl Iterator<Item = (&'a [usize], &'a Data)> {
        let mut of_request = arranged.iter().map(|(_, tensor)| tensor);
        self.inputs.iter().filter_map(move |source| match source {
            Source::Constant(tensor) => Some((tensor.row_shape(), tensor.data())),
            Source::Request(RowDimension::At(_)) => of_request.next().map(|tensor| (tensor.shape(), tensor.data())),
            Source::Request(RowDimension::None) => of_request.next().map(|tensor| (tensor.row_shape(), tensor.data())),
        })
    }

    /// Returns an output with its rows first; `None` if it has too few dimensions.
    pub(super) fn of_rows(&self, output: usize, mut shape: Shape, data: Data) -> Result<Option<Tensor>> {
        match self.outputs.get(output) {
            Some(RowDimension::None) => {
                shape.insert(0, 1);
                Tensor::new(shape, data).map(Some)
            }
            Some(RowDimension::At(index)) if *index < shape.len() => {
                Ok(Tensor::new(shape, data)?.with_dimension_first(*index))
            }
            Some(RowDimension::At(_)) | None => Ok(None),
        }
    }
}

/// Returns the declaration of a tensor with its rows first.
fn rows_first(
    mut spec: TensorSpec,
    rows: RowDimension,
    row_dimensions: &mut BTreeMap<Arc<str>, RowDimension>,
) -> TensorSpec {
    match rows {
        RowDimension::At(0) => return spec,
        RowDimension::At(index) => {
            if let Some(moved) = spec.dims.get_mut(..=index) {
                moved.rotate_right(1);
            }
        }
        RowDimension::None => spec.dims.insert(0, Dim::Fixed(1)),
    }
    row_dimensions.insert(Arc::clone(&spec.name), rows);
    spec
}

/// Returns the dimension whose name says that it holds the rows, if there is exactly one.
fn named_rows(dims: &[Dim], is_rows: impl Fn(&str) -> bool) -> Option<RowDimension> {
    let mut named = dims.iter().enumerate().filter(|(_, dim)| match dim {
        Dim::Dynamic(Some(name)) => is_rows(name),
        Dim::Dynamic(None) | Dim::Fixed(_) => false,
    });
    match (named.next(), named.next()) {
        (Some((index, _)), None) => Some(RowDimension::At(index)),
        _ => None,
    }
}

/// Returns true for a name such as `batch` or `batch_size`, but not for an expression such as `batch*heads`.
fn is_batch(name: &str) -> bool {
    name.to_ascii_lowercase().contains("batch") && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Checks that the model has the inputs or outputs that the configuration names.
fn check_names<'a>(
    kind: &str,
    mut configured: impl Iterator<Item = &'a String>,
    declared: &[TensorSpec],
) -> Result<(), SetupError> {
    match configured.find(|name| declared.iter().all(|spec| *spec.name != ***name)) {
        None => Ok(()),
        Some(unknown) => {
            let names: Vec<&str> = declared.iter().map(|spec| &*spec.name).collect();
            let singular = kind.trim_end_matches('s');
            Err(SetupError::Config(format!(
                "model.{kind}.{unknown}: the model has no tensor {singular} {unknown:?}; it has: {}",
                names.join(", ")
            )))
        }
    }
}

/// Checks that an input has the dimension of its rows.
fn check_dimension(input: &TensorSpec, rows: RowDimension) -> Result<(), SetupError> {
    let RowDimension::At(index) = rows else { return Ok(()) };
    let (name, declared) = (&input.name, input.describe());
    let problem = match index < input.dims.len() {
        true => return Ok(()),
        false if input.dtype == DType::Sequence => {
            format!("the model's input {name:?} is a sequence of tensors, which has no rows")
        }
        false if input.dims.is_empty() => format!("the model's input {name:?} has no dimensions, so it has no rows"),
        false => format!("the model's input {name:?} is {declared}, so it has no dimension {index} for the rows"),
    };
    Err(SetupError::Config(format!(
        "{problem}: set `value` below [model.inputs.{name}] if it is the same for all requests, or `rows = \"none\"` \
         below [model] if a request is one call of the model with whole tensors"
    )))
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::config::InputConfig;

    fn spec(name: &str, dims: &[&str]) -> TensorSpec {
        let dim = |text: &&str| match text.parse() {
            Ok(length) => Dim::Fixed(length),
            Err(_) if text.is_empty() => Dim::Dynamic(None),
            Err(_) => Dim::Dynamic(Some((*text).to_owned())),
        };
        TensorSpec { name: name.into(), dtype: DType::F32, dims: dims.iter().map(dim).collect() }
    }

    fn config(toml: &str) -> SessionConfig {
        toml::from_str(toml).unwrap()
    }

    fn layout(inputs: &[TensorSpec], outputs: &[TensorSpec], toml: &str) -> Result<RowLayout, String> {
        let declared = Declared { inputs: inputs.to_vec(), outputs: outputs.to_vec(), ..Declared::default() };
        RowLayout::new(declared, &config(toml)).map_err(|error| error.to_string())
    }

    /// Compares the signature that requests see.
    fn check(inputs: &[TensorSpec], outputs: &[TensorSpec], toml: &str, expected: Result<&[&str], &str>) {
        let described = layout(inputs, outputs, toml).map(|layout| {
            let Signature { inputs, outputs, .. } = layout.signature;
            inputs.iter().chain(&outputs).map(|spec| format!("{} {}", spec.name, spec.describe())).collect::<Vec<_>>()
        });
        let expected = expected.map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(described, expected.map_err(str::to_owned));
    }

    #[test]
    fn rows_are_where_the_model_names_the_batch() {
        let (x, h) = (spec("x", &["time", "batch", "4"]), spec("h", &["2", "batch", "6"]));
        let y = spec("y", &["time", "batch", "3"]);
        check(
            &[x, h],
            &[y],
            "",
            Ok(&["x float32[batch, time, 4]", "h float32[batch, 2, 6]", "y float32[batch, time, 3]"]),
        );
        // Without such a name, the rows are the first dimension.
        check(&[spec("x", &["time", "n", "4"])], &[], "", Ok(&["x float32[time, n, 4]"]));
        check(&[spec("x", &["batch", "2*batch"])], &[], "", Ok(&["x float32[batch, 2*batch]"]));
        check(&[spec("x", &["batch_a", "batch_b"])], &[], "", Ok(&["x float32[batch_a, batch_b]"]));
    }

    #[test]
    fn the_configuration_says_where_the_rows_are() {
        let (x, y) = (spec("x", &["time", "streams"]), spec("y", &["3", "streams"]));
        let rows_second = ["x float32[streams, time]", "y float32[streams, 3]"];
        check(from_ref(&x), from_ref(&y), "rows = 1", Ok(&rows_second));
        // An output has its rows in the dimension with the name of the input's rows.
        check(from_ref(&x), from_ref(&y), "[inputs.x]\nrows = 1", Ok(&rows_second));
        check(
            from_ref(&x),
            from_ref(&y),
            "rows = 1\n[outputs.y]\nrows = 0",
            Ok(&["x float32[streams, time]", "y float32[3, streams]"]),
        );
        check(&[x], &[y], "rows = \"none\"", Ok(&["x float32[1, time, streams]", "y float32[1, 3, streams]"]));
    }

    #[test]
    fn constants_are_not_part_of_requests() {
        let (x, sr) = (spec("x", &["", "4"]), spec("sr", &[]));
        check(&[sr.clone(), x.clone()], &[], "[inputs.sr]\nvalue = 16000", Ok(&["x float32[?, 4]"]));
        check(
            &[sr.clone(), x],
            &[],
            "",
            Err(
                "the model's input \"sr\" has no dimensions, so it has no rows: set `value` below [model.inputs.sr] if it is \
                 the same for all requests, or `rows = \"none\"` below [model] if a request is one call of the model with \
                 whole tensors",
            ),
        );
        check(
            &[sr],
            &[],
            "[inputs.sr]\nvalue = 16000",
            Err(
                "the model has no inputs that requests send, so it has no rows: set `rows = \"none\"` below [model], and send \
                 the instance {}",
            ),
        );
    }

    #[test]
    fn a_whole_output_makes_each_instance_a_run_of_its_own() {
        let (x, y) = (spec("x", &["batch", "4"]), spec("loss", &[]));
        let batch = |toml: &str| layout(from_ref(&x), from_ref(&y), toml).unwrap().signature.batch_dim();
        assert_eq!(batch(""), Dim::Dynamic(Some("batch".to_owned())));
        assert_eq!(batch("[outputs.loss]\nrows = \"none\""), Dim::Fixed(1));
    }

    #[test]
    fn a_model_without_inputs_is_one_whole_call() {
        check(&[], &[spec("y", &["2"])], "rows = \"none\"", Ok(&["y float32[1, 2]"]));
    }

    #[test]
    fn settings_of_tensors_that_do_not_exist_are_refused() {
        check(
            &[spec("x", &[""])],
            &[],
            "[inputs.y]\nrows = 1",
            Err("model.inputs.y: the model has no tensor input \"y\"; it has: x"),
        );
        check(
            &[spec("x", &["", "2"])],
            &[],
            "[inputs.x]\nrows = 2",
            Err("the model's input \"x\" is float32[?, 2], so it has no dimension 2 for the rows: set `value` below \
                 [model.inputs.x] if it is the same for all requests, or `rows = \"none\"` below [model] if a request is one \
                 call of the model with whole tensors"),
        );
        assert!(toml::from_str::<InputConfig>("rows = \"first\"").is_err());
        assert!(toml::from_str::<InputConfig>("rows = -1").is_err());
    }

    #[test]
    fn tensors_are_rearranged_for_a_run_and_after_it() {
        let inputs = [spec("k", &[]), spec("x", &["time", "batch"]), spec("w", &["2"])];
        let toml =
            "[inputs.k]\nvalue = 7\n[inputs.w]\nrows = \"none\"\n[outputs.y]\nrows = 1\n[outputs.z]\nrows = \"none\"";
        let layout = layout(&inputs, &[spec("y", &["", ""]), spec("z", &[])], toml).unwrap();
        let tensor = |shape: &[usize], values: &[f32]| Tensor::new(shape.to_vec(), Data::F32(values.to_vec())).unwrap();
        let request: Tensors =
            [("x".into(), tensor(&[1, 3], &[1.0, 2.0, 3.0])), ("w".into(), tensor(&[1, 2], &[8.0, 9.0]))]
                .into_iter()
                .collect();
        let arranged = layout.arranged(&request).unwrap();
        let of_the_model: Vec<_> =
            layout.of_the_model(&arranged).map(|(shape, data)| (shape.to_vec(), data.clone())).collect();
        assert_eq!(
            of_the_model,
            [
                (vec![], Data::F32(vec![7.0])),
                (vec![3, 1], Data::F32(vec![1.0, 2.0, 3.0])),
                (vec![2], Data::F32(vec![8.0, 9.0])),
            ]
        );
        let four = || Data::F32(vec![1.0, 2.0, 3.0, 4.0]);
        let y = layout.of_rows(0, vec![2, 2], four()).unwrap();
        assert_eq!(y, Some(tensor(&[2, 2], &[1.0, 3.0, 2.0, 4.0])));
        assert_eq!(layout.of_rows(0, vec![4], four()).unwrap(), None);
        assert_eq!(layout.of_rows(1, vec![], Data::F32(vec![5.0])).unwrap(), Some(tensor(&[1], &[5.0])));
    }
}
