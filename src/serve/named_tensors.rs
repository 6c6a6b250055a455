//! Inputs that a caller sends as named tensors: checked against the model's signature, and put into its order.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::identity::shown;
use crate::pipeline::some_of;
use crate::tensor::{Dim, Signature, Tensor, TensorSpec, Tensors};

/// Returns the inputs in the order of the signature. Fails if an input is missing, unknown, given twice, or does not
/// fit.
pub(super) fn inputs_of(
    named: Vec<(String, Tensor)>,
    signature: &Signature,
    max_rows: NonZeroUsize,
) -> Result<Tensors> {
    let mut slots: Vec<Option<Tensor>> = signature.inputs.iter().map(|_| None).collect();
    for (name, tensor) in named {
        let known = signature.inputs.iter().position(|input| *input.name == *name);
        let slot = known.and_then(|index| slots.get_mut(index)).ok_or_else(|| {
            let known: Vec<&str> = signature.inputs.iter().map(|input| &*input.name).collect();
            wrong(format!("the model has no input \"{}\"; it has: {}", shown(&name), some_of(&known)))
        })?;
        if slot.replace(tensor).is_some() {
            return Err(wrong(format!("the input \"{}\" occurs twice", shown(&name))));
        }
    }
    let mut inputs = Vec::with_capacity(slots.len());
    for (spec, tensor) in signature.inputs.iter().zip(slots) {
        let tensor = tensor.ok_or_else(|| wrong(format!("the input {:?} is missing", spec.name)))?;
        check(&tensor, spec)?;
        inputs.push((Arc::clone(&spec.name), tensor));
    }
    let inputs: Tensors = inputs.into_iter().collect();
    check_rows(&inputs, max_rows)?;
    check_named_lengths(&inputs, signature)?;
    Ok(inputs)
}

fn check(tensor: &Tensor, spec: &TensorSpec) -> Result<()> {
    let fits = |(length, dim): (&usize, &Dim)| match dim {
        Dim::Fixed(fixed) => length == fixed,
        Dim::Dynamic(_) => true,
    };
    let has_shape = tensor.shape().len() == spec.dims.len() && tensor.shape().iter().zip(&spec.dims).all(fits);
    if has_shape && tensor.dtype() == spec.dtype {
        // ONNX Runtime takes C strings, which end at the first NUL.
        let has_nul = tensor.values::<String>().is_some_and(|texts| texts.iter().any(|text| text.contains('\0')));
        return match has_nul {
            true => Err(wrong(format!(
                "the input {:?}: found a string with a NUL character, which the model cannot take",
                spec.name
            ))),
            false => Ok(()),
        };
    }
    let found = format!("{}{:?}", tensor.dtype(), tensor.shape());
    Err(wrong(format!("the input {:?}: found {found}, expected {}", spec.name, spec.describe())))
}

/// Checks that all inputs have the same number of rows, at least 1 and at most `max_rows`.
fn check_rows(inputs: &Tensors, max_rows: NonZeroUsize) -> Result<()> {
    let rows = inputs.rows();
    if let Some((name, other)) = inputs.iter().find(|(_, tensor)| tensor.rows() != rows) {
        return Err(wrong(format!("the input {name:?} has {} rows, but the first input has {rows}", other.rows())));
    }
    match rows {
        0 => Err(wrong("the inputs have no rows".to_owned())),
        rows if rows > max_rows.get() => Err(wrong(format!(
            "the inputs have {rows} rows, but a request may have at most {max_rows} (model.max_instances of model.toml)"
        ))),
        _ => Ok(()),
    }
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
    use crate::tensor::{DType, Data};

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
        let named = named.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect();
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
}
