//! Named tensors as inputs of the model itself: checked against its signature, decoded, and put into its order.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use super::input::{Elements, NamedInput, NamedOutput};
use crate::error::{Error, Result};
use crate::identity::shown;
use crate::pipeline::{some_of, tensor_elements};
use crate::tensor::{DType, Data, Dim, RowDimension, Signature, Tensor, TensorSpec, Tensors};

/// Returns the inputs in the order of the signature, with the rows first. Fails if an input is missing, unknown, given
/// twice, or does not fit.
pub(super) fn inputs_of(named: Vec<NamedInput<'_>>, signature: &Signature, max_rows: NonZeroUsize) -> Result<Tensors> {
    let mut slots: Vec<Option<NamedInput<'_>>> = signature.inputs.iter().map(|_| None).collect();
    for input in named {
        let known = signature.inputs.iter().position(|spec| *spec.name == *input.name);
        let slot = known.and_then(|index| slots.get_mut(index)).ok_or_else(|| {
            let known: Vec<&str> = signature.inputs.iter().map(|input| &*input.name).collect();
            wrong(format!("the model has no input \"{}\"; it has: {}", shown(&input.name), some_of(&known)))
        })?;
        if let Some(twice) = slot.replace(input) {
            return Err(wrong(format!("the input \"{}\" occurs twice", shown(&twice.name))));
        }
    }
    let mut inputs = Vec::with_capacity(slots.len());
    for (spec, input) in signature.inputs.iter().zip(slots) {
        let input = input.ok_or_else(|| wrong(format!("the input {:?} is missing", spec.name)))?;
        inputs.push((Arc::clone(&spec.name), read(input, spec, signature, max_rows)?));
    }
    let inputs: Tensors = inputs.into_iter().collect();
    check_rows(&inputs)?;
    check_named_lengths(&inputs, signature)?;
    Ok(inputs)
}

/// Checks the type and the shape of an input before its elements are decoded, so that a small body cannot become a large
/// tensor that the model does not take.
fn read(input: NamedInput<'_>, spec: &TensorSpec, signature: &Signature, max_rows: NonZeroUsize) -> Result<Tensor> {
    if spec.dtype == DType::Sequence {
        return Err(wrong(format!(
            "the model's input {:?} is a sequence of tensors, which this protocol does not have; send instances to \
             /v1/models/{{model}}:predict",
            spec.name
        )));
    }
    let (rows, declared) = (signature.rows_of(&spec.name), signature.in_the_file(spec));
    let fits = |(length, dim): (&usize, &Dim)| match dim {
        Dim::Fixed(fixed) => length == fixed,
        Dim::Dynamic(_) => true,
    };
    let has_shape = input.shape.len() == declared.dims.len() && input.shape.iter().zip(&declared.dims).all(fits);
    if !has_shape || input.dtype != spec.dtype {
        let (found, expected) = (format!("{}{:?}", input.dtype, input.shape), declared.describe());
        return Err(wrong(format!("the input {:?}: found {found}, expected {expected}", spec.name)));
    }
    if let RowDimension::At(index) = rows
        && let Some(too_many) = input.shape.get(index).filter(|rows| **rows > max_rows.get())
    {
        return Err(wrong(format!(
            "the inputs have {too_many} rows, but a request may have at most {max_rows} (model.max_instances of \
             model.toml)"
        )));
    }
    let data = elements(input.elements, input.dtype, &input.shape)
        .map_err(|problem| wrong(format!("the input {:?}{problem}", spec.name)))?;
    // ONNX Runtime takes C strings, which end at the first NUL.
    if matches!(&data, Data::Text(texts) if texts.iter().any(|text| text.contains('\0'))) {
        return Err(wrong(format!(
            "the input {:?}: found a string with a NUL character, which the model cannot take",
            spec.name
        )));
    }
    let lacks_rows = || Error::internal(format_args!("the input {:?} lacks the dimension of its rows", spec.name));
    match rows {
        RowDimension::None => Tensor::new([&[1], &*input.shape].concat(), data),
        RowDimension::At(index) => Tensor::new(input.shape, data)?.with_dimension_first(index).ok_or_else(lacks_rows),
    }
}

/// Maximum product of the lengths of a tensor, with 1 in the place of 0: lengths are numbers of 64 bits in ONNX.
const MAX_SPANNED: usize = i64::MAX as usize;
/// Maximum product of the lengths of a tensor without elements.
const MAX_EMPTY: usize = 1 << 20;

/// Decodes the elements of an input. Fails with a problem that follows the name of the input.
pub(super) fn elements(elements: Elements<'_>, dtype: DType, shape: &[usize]) -> Result<Data, String> {
    let count = shape.iter().try_fold(1usize, |product, length| product.checked_mul(*length));
    let described = |problem: String| format!(": {problem}");
    // The lengths beside a length of 0 cost nothing to send, and may cost a model, or a text of nested arrays, very much.
    let spanned = shape.iter().try_fold(1usize, |product, length| product.checked_mul((*length).max(1)));
    let is_too_large = spanned.is_none_or(|spanned| spanned > MAX_SPANNED || (count == Some(0) && spanned > MAX_EMPTY));
    let count =
        count.filter(|_| !is_too_large).ok_or_else(|| described(format!("the shape {shape:?} is too large")))?;
    match elements {
        Elements::Json(json) => tensor_elements(json, dtype, shape),
        Elements::Raw(bytes) => Data::from_raw(dtype, count, &bytes).map_err(described),
        Elements::Values(data) if data.len() == count => Ok(data),
        Elements::Values(data) => {
            Err(described(format!("found {} elements, expected {count} for the shape {shape:?}", data.len())))
        }
    }
}

/// Returns the outputs that were asked for, with their dimensions in the order of the model's file. Empty names stand
/// for all outputs.
pub(super) fn outputs_of(outputs: Tensors, names: &[String], signature: &Signature) -> Result<Vec<NamedOutput>> {
    let known: Vec<Arc<str>> = outputs.iter().map(|(name, _)| Arc::clone(name)).collect();
    if let Some(unknown) = names.iter().find(|name| known.iter().all(|known| **known != **name)) {
        let (unknown, known) = (shown(unknown), some_of(&known));
        return Err(wrong(format!("the model does not answer an output \"{unknown}\"; it answers: {known}")));
    }
    let asked = outputs.keep(|name| names.is_empty() || names.iter().any(|asked| *asked == *name));
    let in_the_file = |(name, tensor): (Arc<str>, Tensor)| {
        let tensor = match signature.rows_of(&name) {
            RowDimension::None => {
                let (mut shape, data) = tensor.into_parts();
                drop(shape.drain(..1));
                return Ok(NamedOutput { name, shape, data });
            }
            RowDimension::At(0) => tensor,
            RowDimension::At(index) => tensor
                .with_first_dimension_at(index)
                .ok_or_else(|| Error::internal(format_args!("the output {name:?} lacks the dimension of its rows")))?,
        };
        let (shape, data) = tensor.into_parts();
        Ok(NamedOutput { name, shape, data })
    };
    asked.into_iter().map(in_the_file).collect()
}

/// Checks that all inputs have the same number of rows, at least 1.
fn check_rows(inputs: &Tensors) -> Result<()> {
    let rows = inputs.rows();
    if let Some((name, other)) = inputs.iter().find(|(_, tensor)| tensor.rows() != rows) {
        return Err(wrong(format!("the input {name:?} has {} rows, but the first input has {rows}", other.rows())));
    }
    if rows == 0 { Err(wrong("the inputs have no rows".to_owned())) } else { Ok(()) }
}

/// Checks that dimensions of the same name have the same length, as the model declares. All inputs of a request can
/// then be padded to one length.
fn check_named_lengths(inputs: &Tensors, signature: &Signature) -> Result<()> {
    let mut known: BTreeMap<&str, (&str, usize)> = BTreeMap::new();
    for ((input, tensor), spec) in inputs.iter().zip(&signature.inputs) {
        for (length, dim) in tensor.shape().iter().zip(&spec.dims) {
            let Dim::Dynamic(Some(name)) = dim else { continue };
            let (first, expected) = *known.entry(name).or_insert((input, *length));
            if *length != expected {
                return Err(wrong(format!(
                    "the input {input:?}: its dimension {name:?} is {length}, and that of the input {first:?} {expected}"
                )));
            }
        }
    }
    Ok(())
}

fn wrong(problem: String) -> Error {
    Error::InvalidInput(problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::RawBytes;

    fn floats(shape: &[usize]) -> Tensor {
        let elements = shape.iter().product();
        Tensor::new(shape.to_vec(), Data::F32(vec![0.5; elements])).unwrap()
    }

    fn check(named: &[(&str, Tensor)], expected: std::result::Result<&[&str], &str>) {
        let spec = |name: &str, dims| TensorSpec { name: name.into(), dtype: DType::F32, dims };
        let any = || Dim::Dynamic(None);
        check_with(vec![spec("a", vec![any(), Dim::Fixed(2)]), spec("b", vec![any()])], named, expected);
    }

    fn check_with(inputs: Vec<TensorSpec>, named: &[(&str, Tensor)], expected: std::result::Result<&[&str], &str>) {
        let signature = Signature { inputs, ..Signature::default() };
        let input = |(name, tensor): &(&str, Tensor)| NamedInput {
            name: (*name).to_owned().into(),
            dtype: tensor.dtype(),
            shape: tensor.shape().to_vec(),
            elements: Elements::Values(tensor.data().clone()),
        };
        let named = named.iter().map(input).collect();
        let found = inputs_of(named, &signature, NonZeroUsize::new(3).unwrap());
        let names = |inputs: Tensors| inputs.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>();
        let expected = expected.map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(found.map(names).map_err(|error| error.to_string()), expected.map_err(str::to_owned));
    }

    #[test]
    fn inputs_are_put_into_the_models_order() {
        check(&[("b", floats(&[3])), ("a", floats(&[3, 2]))], Ok(&["a", "b"]));
    }

    #[test]
    fn inputs_that_do_not_fit_are_refused_with_what_was_expected() {
        let a = || ("a", floats(&[3, 2]));
        check(&[a()], Err("the input \"b\" is missing"));
        check(&[a(), a()], Err("the input \"a\" occurs twice"));
        check(&[a(), ("c", floats(&[3]))], Err("the model has no input \"c\"; it has: a, b"));
        check(&[a(), ("b", floats(&[3, 1]))], Err("the input \"b\": found float32[3, 1], expected float32[?]"));
        check(
            &[("a", floats(&[3, 4])), ("b", floats(&[3]))],
            Err("the input \"a\": found float32[3, 4], expected float32[?, 2]"),
        );
        let whole = Tensor::new(vec![3], Data::I64(vec![1, 2, 3])).unwrap();
        check(&[a(), ("b", whole)], Err("the input \"b\": found int64[3], expected float32[?]"));
        check(&[a(), ("b", floats(&[2]))], Err("the input \"b\" has 2 rows, but the first input has 3"));
        check(&[("a", floats(&[0, 2])), ("b", floats(&[0]))], Err("the inputs have no rows"));
        let problem = "the inputs have 4 rows, but a request may have at most 3 (model.max_instances of model.toml)";
        check(&[("a", floats(&[4, 2])), ("b", floats(&[4]))], Err(problem));
    }

    #[test]
    fn dimensions_of_one_name_have_one_length() {
        let dims = || vec![Dim::Dynamic(Some("batch".to_owned())), Dim::Dynamic(Some("length".to_owned()))];
        let spec = |name: &str| TensorSpec { name: name.into(), dtype: DType::F32, dims: dims() };
        let check = |lengths: [usize; 2], expected| {
            let [ids, mask] = lengths.map(|length| floats(&[1, length]));
            check_with(vec![spec("ids"), spec("mask")], &[("ids", ids), ("mask", mask)], expected);
        };
        check([50, 50], Ok(&["ids", "mask"]));
        let problem = "the input \"mask\": its dimension \"length\" is 51, and that of the input \"ids\" 50";
        check([50, 51], Err(problem));
    }

    #[test]
    fn a_nul_in_a_text_is_refused() {
        let text = TensorSpec { name: "t".into(), dtype: DType::Text, dims: vec![Dim::Dynamic(None)] };
        let tensor = Tensor::new(vec![1], Data::Text(vec!["a\0b".to_owned()])).unwrap();
        let problem = "the input \"t\": found a string with a NUL character, which the model cannot take";
        check_with(vec![text], &[("t", tensor)], Err(problem));
    }

    fn spec(name: &str, dims: &[Option<usize>]) -> TensorSpec {
        let dims = dims.iter().map(|length| length.map_or(Dim::Dynamic(None), Dim::Fixed)).collect();
        TensorSpec { name: name.into(), dtype: DType::F32, dims }
    }

    /// The model has `x` as float32[time, batch], a scalar `k`, and answers `y` as float32[time, batch].
    fn time_first() -> Signature {
        Signature {
            inputs: vec![spec("x", &[None, None]), spec("k", &[Some(1)])],
            outputs: vec![spec("y", &[None, None])],
            row_dimensions: [
                ("x".into(), RowDimension::At(1)),
                ("k".into(), RowDimension::None),
                ("y".into(), RowDimension::At(1)),
            ]
            .into_iter()
            .collect(),
            ..Signature::default()
        }
    }

    #[test]
    fn a_shape_without_elements_is_not_large() {
        let check = |shape: &[usize], is_accepted: bool| {
            let read = elements(Elements::Raw(RawBytes::One(&[])), DType::F32, shape);
            assert_eq!(read.is_ok(), is_accepted, "{shape:?}: {read:?}");
        };
        check(&[2, 0], true);
        check(&[0, 1 << 20], true);
        check(&[1, 1_000_000_000_000, 0], false);
        check(&[0, usize::MAX, usize::MAX], false);
        check(&[usize::MAX], false);
    }

    #[test]
    fn shapes_are_those_of_the_models_file() {
        let signature = time_first();
        let input = |name: &'static str, shape: &[usize], json: &str| {
            let json = serde_json::value::RawValue::from_string(json.to_owned()).unwrap();
            (name, shape.to_vec(), json)
        };
        let check = |inputs: &[(&'static str, Vec<usize>, Box<serde_json::value::RawValue>)]| {
            let named = inputs.iter().map(|(name, shape, json)| NamedInput {
                name: (*name).into(),
                dtype: DType::F32,
                shape: shape.clone(),
                elements: Elements::Json(json),
            });
            inputs_of(named.collect(), &signature, NonZeroUsize::new(2).unwrap()).map_err(|error| error.to_string())
        };
        let found = check(&[input("k", &[], "[7]"), input("x", &[3, 1], "[1, 2, 3]")]).unwrap();
        let x = Tensor::new(vec![1, 3], Data::F32(vec![1.0, 2.0, 3.0])).unwrap();
        let k = Tensor::new(vec![1], Data::F32(vec![7.0])).unwrap();
        assert_eq!(found, [("x".into(), x.clone()), ("k".into(), k)].into_iter().collect());
        assert_eq!(
            check(&[input("k", &[1], "[7]"), input("x", &[3, 1], "[1, 2, 3]")]).unwrap_err(),
            "the input \"k\": found float32[1], expected float32[]"
        );
        assert_eq!(
            check(&[input("k", &[], "[7]"), input("x", &[3, 3], "[]")]).unwrap_err(),
            "the inputs have 3 rows, but a request may have at most 2 (model.max_instances of model.toml)"
        );
        assert_eq!(
            check(&[input("k", &[], "[7]"), input("x", &[3, 1], "[[1], [2], [null]]")]).unwrap_err(),
            "the input \"x\"[2][0]: found null, expected a number"
        );
        let outputs: Tensors = [("y".into(), x)].into_iter().collect();
        let y = outputs_of(outputs.clone(), &["y".into()], &signature).unwrap();
        assert_eq!(y, [NamedOutput { name: "y".into(), shape: vec![3, 1], data: Data::F32(vec![1.0, 2.0, 3.0]) }]);
        assert_eq!(
            outputs_of(outputs, &["z".into()], &signature).unwrap_err().to_string(),
            "the model does not answer an output \"z\"; it answers: y"
        );
    }
}
