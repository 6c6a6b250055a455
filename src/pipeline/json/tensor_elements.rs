//! Reads the elements of one tensor whose shape is given: as a flat array, or as nested arrays of the shape.

use serde_json::value::RawValue;

use super::reader::{Fits, FromJson, Reader, misfit};
use crate::tensor::{DType, Data, Element, Tensor, with_element_type};

/// Reads the elements of a tensor, row-major. Fails with a problem that begins with the path to the value.
///
/// ```
/// use leeway::pipeline::tensor_elements;
/// use leeway::tensor::{DType, Data};
/// let json = |text: &str| serde_json::value::RawValue::from_string(text.to_owned()).unwrap();
/// let four = Ok(Data::I32(vec![1, 2, 3, 4]));
/// assert_eq!(tensor_elements(&json("[1, 2, 3, 4]"), DType::I32, &[2, 2]), four);
/// assert_eq!(tensor_elements(&json("[[1, 2], [3, 4]]"), DType::I32, &[2, 2]), four);
/// assert_eq!(
///     tensor_elements(&json("[1, 2, 3]"), DType::I32, &[2, 2]),
///     Err(": found 3 values, expected 4 for the shape [2, 2]".to_owned())
/// );
/// ```
pub fn tensor_elements(json: &RawValue, dtype: DType, shape: &[usize]) -> Result<Data, String> {
    let text = json.get();
    with_element_type!(dtype, T => elements::<T>(text, shape).map(T::into_data))
}

fn elements<T: Element + FromJson>(text: &str, shape: &[usize]) -> Result<Vec<T>, String> {
    let expected = shape.iter().try_fold(1usize, |product, length| product.checked_mul(*length));
    // Capped, because the shape comes from the caller: each element takes two bytes of the text, or more.
    let mut values = Vec::with_capacity(expected.unwrap_or(0).min(text.len() / 2 + 1));
    let mut json = Reader::new(text);
    json.peek();
    let read = match json.nesting() {
        0 | 1 => json.array("an array", |json| {
            values.push(json.element()?);
            Ok(())
        }),
        _ => nested(&mut json, shape, &mut values),
    };
    match read {
        Ok(_) if Some(values.len()) == expected => Ok(values),
        Ok(_) => {
            let expected = expected.map_or_else(|| "more than there is memory".to_owned(), |all| all.to_string());
            Err(format!(": found {} values, expected {expected} for the shape {shape:?}", values.len()))
        }
        Err(misfit) => Err(misfit.described()),
    }
}

/// Reads nested arrays of the lengths in `shape`.
fn nested<T: FromJson>(json: &mut Reader<'_>, shape: &[usize], values: &mut Vec<T>) -> Fits<usize> {
    let Some((length, inner)) = shape.split_first() else {
        return Err(misfit("the arrays are nested deeper than the shape has dimensions".to_owned()));
    };
    let count = json.array("an array", |json| match inner {
        [] if json.peek() == b'[' => {
            Err(misfit("the arrays are nested deeper than the shape has dimensions".to_owned()))
        }
        [] => {
            values.push(json.element()?);
            Ok(())
        }
        _ => nested(json, inner, values).map(drop),
    })?;
    match count == *length {
        true => Ok(count),
        false => Err(misfit(format!("found {count} values, expected {length} as in the shape"))),
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    fn check(text: &str, shape: &[usize], expected: Result<Data, &str>) {
        let json = RawValue::from_string(text.to_owned()).unwrap();
        let dtype = expected.as_ref().map_or(DType::I64, Data::dtype);
        assert_eq!(tensor_elements(&json, dtype, shape), expected.map_err(str::to_owned), "{text}");
    }

    #[test]
    fn elements_are_flat_or_nested() {
        check("[9007199254740993]", &[1], Ok(Data::I64(vec![9_007_199_254_740_993])));
        check(" [ 1.5 ] ", &[], Ok(Data::F32(vec![1.5])));
        check("[]", &[2, 0], Ok(Data::F32(vec![])));
        check("[[],[]]", &[2, 0], Ok(Data::F32(vec![])));
        check(r#"["a","ü\n"]"#, &[2, 1], Ok(Data::Text(vec!["a".into(), "ü\n".into()])));
        check("[true,false]", &[2], Ok(Data::Bool(vec![true, false])));
        check("[[[0.5],[0.25]]]", &[1, 2, 1], Ok(Data::F16(vec![f16::from_f32(0.5), f16::from_f32(0.25)])));
    }

    #[test]
    fn values_that_do_not_fill_the_shape_are_refused_with_their_place() {
        check("[[1,2],[3]]", &[2, 2], Err("[1]: found 1 values, expected 2 as in the shape"));
        check("[[1,2],3]", &[2, 2], Err("[1]: found the number 3, expected an array"));
        check("[[1,[2]]]", &[1, 2], Err("[0][1]: the arrays are nested deeper than the shape has dimensions"));
        check("[[[1]]]", &[1, 1], Err("[0][0]: the arrays are nested deeper than the shape has dimensions"));
        check("[[1]]", &[], Err(": the arrays are nested deeper than the shape has dimensions"));
        check("[1,\"x\"]", &[2], Err("[1]: found the string \"x\", expected a number"));
        check("5", &[], Err(": found the number 5, expected an array"));
        check(
            "[]",
            &[usize::MAX, 2],
            Err(&format!(": found 0 values, expected more than there is memory for the shape [{}, 2]", usize::MAX)),
        );
    }
}
