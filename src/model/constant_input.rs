//! Inputs that are the same in all runs (`model.inputs.NAME.value`): reads the value in the configuration as a tensor.

use serde_json::Value;

use crate::tensor::{DType, Data, Dim, Tensor, TensorSpec, bf16_of, f16_of};

/// Reads the value of an input. The tensor has one row: the whole value. An error says what was expected.
pub(super) fn read_constant(value: &Value, input: &TensorSpec) -> Result<Tensor, String> {
    let mut shape = vec![1];
    let mut first = value;
    while let Value::Array(values) = first {
        shape.push(values.len());
        let Some(inner) = values.first() else { break };
        first = inner;
    }
    let described = || format!("the model's input {:?} is {}", input.name, input.describe());
    let fits = |(length, dim): (&usize, &Dim)| matches!(dim, Dim::Dynamic(_)) || *dim == Dim::Fixed(*length);
    if shape.len() != input.dims.len() + 1 || !shape[1..].iter().zip(&input.dims).all(fits) {
        return Err(format!("the value has the shape {:?}, but {}", &shape[1..], described()));
    }
    let mut leaves = Vec::new();
    collect(value, &shape[1..], &mut leaves)?;
    let data = elements(input.dtype, &leaves)
        .map_err(|wrong| format!("{wrong} is not a value of type {}; {}", input.dtype, described()))?;
    Tensor::new(shape, data).map_err(|error| error.to_string())
}

/// Appends the elements of nested arrays that have these lengths.
fn collect<'a>(value: &'a Value, lengths: &[usize], leaves: &mut Vec<&'a Value>) -> Result<(), String> {
    match (value, lengths) {
        (Value::Array(values), [length, inner @ ..]) if values.len() == *length => {
            values.iter().try_for_each(|value| collect(value, inner, leaves))
        }
        (Value::Array(_), _) | (_, [_, ..]) => Err("the arrays of the value differ in length or depth".to_owned()),
        (element, []) => {
            leaves.push(element);
            Ok(())
        }
    }
}

/// Converts values to elements of a type. Returns the first value that the type does not have.
fn elements<'a>(dtype: DType, values: &[&'a Value]) -> Result<Data, &'a Value> {
    fn all<'a, T>(values: &[&'a Value], read: impl Fn(&Value) -> Option<T>) -> Result<Vec<T>, &'a Value> {
        values.iter().map(|value| read(value).ok_or(*value)).collect()
    }
    fn whole<T: TryFrom<i64> + TryFrom<u64>>(value: &Value) -> Option<T> {
        value.as_i64().and_then(|value| value.try_into().ok()).or_else(|| value.as_u64()?.try_into().ok())
    }
    Ok(match dtype {
        DType::F32 => {
            Data::F32(all(values, |value| value.as_f64().map(|value| value as f32).filter(|v| v.is_finite()))?)
        }
        DType::F64 => Data::F64(all(values, Value::as_f64)?),
        DType::F16 => Data::F16(all(values, |value| value.as_f64().map(f16_of).filter(|v| v.is_finite()))?),
        DType::BF16 => Data::BF16(all(values, |value| value.as_f64().map(bf16_of).filter(|v| v.is_finite()))?),
        DType::I8 => Data::I8(all(values, whole)?),
        DType::I16 => Data::I16(all(values, whole)?),
        DType::I32 => Data::I32(all(values, whole)?),
        DType::I64 => Data::I64(all(values, whole)?),
        DType::U8 => Data::U8(all(values, whole)?),
        DType::U16 => Data::U16(all(values, whole)?),
        DType::U32 => Data::U32(all(values, whole)?),
        DType::U64 => Data::U64(all(values, whole)?),
        DType::Bool => Data::Bool(all(values, Value::as_bool)?),
        DType::Sequence => return values.first().map_or(Ok(Data::Sequence(Vec::new())), |value| Err(value)),
        DType::Text => {
            Data::Text(all(values, |value| value.as_str().filter(|t| !t.contains('\0')).map(str::to_owned))?)
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(dtype: DType, dims: &[Dim], value: &Value, expected: Result<Tensor, &str>) {
        let input = TensorSpec { name: "k".into(), dtype, dims: dims.to_vec() };
        assert_eq!(read_constant(value, &input), expected.map_err(str::to_owned), "{value}");
    }

    fn tensor(shape: &[usize], data: Data) -> Result<Tensor, &'static str> {
        Ok(Tensor::new(shape.to_vec(), data).unwrap())
    }

    #[test]
    fn values_become_tensors_of_the_declared_shape() {
        check(DType::I64, &[], &json!(16000), tensor(&[1], Data::I64(vec![16000])));
        check(DType::F32, &[Dim::Fixed(2)], &json!([1, 0.5]), tensor(&[1, 2], Data::F32(vec![1.0, 0.5])));
        let open = [Dim::Dynamic(None), Dim::Fixed(1)];
        check(DType::Bool, &open, &json!([[true], [false]]), tensor(&[1, 2, 1], Data::Bool(vec![true, false])));
        check(DType::Text, &[Dim::Fixed(1)], &json!(["en"]), tensor(&[1, 1], Data::Text(vec!["en".to_owned()])));
        check(DType::U64, &[], &json!(u64::MAX), tensor(&[1], Data::U64(vec![u64::MAX])));
        check(DType::F32, &[Dim::Fixed(0)], &json!([]), tensor(&[1, 0], Data::F32(vec![])));
    }

    #[test]
    fn values_that_do_not_fit_are_refused() {
        let pair = [Dim::Fixed(2)];
        check(
            DType::F32,
            &pair,
            &json!(1),
            Err("the value has the shape [], but the model's input \"k\" is float32[2]"),
        );
        check(
            DType::F32,
            &pair,
            &json!([1, 2, 3]),
            Err("the value has the shape [3], but the model's input \"k\" is float32[2]"),
        );
        let ragged = Err("the arrays of the value differ in length or depth");
        check(DType::F32, &[Dim::Fixed(2), Dim::Fixed(2)], &json!([[1, 2], [3]]), ragged);
        check(DType::F32, &pair, &json!([1, [2]]), Err("the arrays of the value differ in length or depth"));
        check(DType::I8, &[], &json!(128), Err("128 is not a value of type int8; the model's input \"k\" is int8[]"));
        check(
            DType::I64,
            &[],
            &json!(0.5),
            Err("0.5 is not a value of type int64; the model's input \"k\" is int64[]"),
        );
        check(DType::Bool, &[], &json!(1), Err("1 is not a value of type bool; the model's input \"k\" is bool[]"));
    }
}
