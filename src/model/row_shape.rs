//! Shape of the rows of a model's inputs, for rows that are made up.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::SetupError;
use crate::tensor::{Dim, Signature, TensorSpec, Tensors};

/// Maximum number of elements of a row of `model.warm_up`.
const MAX_ELEMENTS: usize = 1 << 26;

/// Shape of one row in each input, in the order of the signature, without the dimension of the rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowShape(Vec<Vec<usize>>);

impl RowShape {
    /// Returns the shape of rows whose open dimensions all have the length `size`.
    ///
    /// ```
    /// use leeway::model::RowShape;
    /// use leeway::tensor::{DType, Dim, Signature, TensorSpec};
    /// let dims = vec![Dim::Dynamic(None), Dim::Fixed(3), Dim::Dynamic(Some("width".to_owned()))];
    /// let inputs = vec![TensorSpec { name: "x".into(), dtype: DType::F32, dims }];
    /// let signature = Signature { inputs, ..Signature::default() };
    /// assert_eq!(RowShape::of_size(&signature, 32).describe(&signature), "x [3, 32]");
    /// ```
    pub fn of_size(signature: &Signature, size: usize) -> RowShape {
        let length = |dim: &Dim| if let Dim::Fixed(length) = dim { *length } else { size };
        RowShape(signature.inputs.iter().map(|input| row_dims(input).iter().map(length).collect()).collect())
    }

    /// Returns the shape of the rows of these inputs.
    pub fn of(inputs: &Tensors) -> RowShape {
        RowShape(inputs.iter().map(|(_, tensor)| tensor.row_shape().to_vec()).collect())
    }

    /// Returns the shape that `model.warm_up` gives, which has a list of lengths for each input with open dimensions. An
    /// open dimension with the same name as that of a listed input has the same length.
    pub fn of_settings(signature: &Signature, settings: &BTreeMap<String, Vec<usize>>) -> Result<RowShape, SetupError> {
        let wrong = |key: &str, problem: String| Err(SetupError::Config(format!("model.warm_up{key}: {problem}")));
        let mut named: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, lengths) in settings {
            let Some(input) = signature.inputs.iter().find(|input| *input.name == **name) else {
                let inputs = signature.inputs.iter().map(|input| format!("\"{}\" {}", input.name, input.describe()));
                let inputs = inputs.collect::<Vec<_>>().join(", ");
                return wrong("", format!("the model has no input {name:?}; its inputs are: {inputs}"));
            };
            if let Some(problem) = misfit(input, lengths) {
                return wrong(&format!(".{name}"), problem);
            }
            for (dim, length) in row_dims(input).iter().zip(lengths) {
                if let Dim::Dynamic(Some(dimension)) = dim {
                    named.insert(dimension, *length);
                }
            }
        }
        let mut rows = Vec::with_capacity(signature.inputs.len());
        for input in &signature.inputs {
            let length = |dim: &Dim| match dim {
                Dim::Fixed(length) => Some(*length),
                Dim::Dynamic(name) => named.get(name.as_deref()?).copied(),
            };
            let derived = || row_dims(input).iter().map(length).collect::<Option<Vec<usize>>>();
            let Some(lengths) = settings.get(&*input.name).cloned().or_else(derived) else {
                let (name, declared) = (&input.name, input.describe());
                let example = RowShape::template(input);
                return wrong("", format!("\"{name}\" is {declared}; give its lengths, too, as in {name} = {example}"));
            };
            rows.push(lengths);
        }
        let shape = RowShape(rows);
        match shape.elements() {
            elements if elements > MAX_ELEMENTS => {
                wrong("", format!("a row has {elements} elements; at most {MAX_ELEMENTS} are tried"))
            }
            _ => Ok(shape),
        }
    }

    /// Returns the number of elements of a row.
    pub fn elements(&self) -> usize {
        let elements = |lengths: &Vec<usize>| lengths.iter().copied().fold(1, usize::saturating_mul);
        self.0.iter().map(elements).fold(0, usize::saturating_add)
    }

    /// Returns the lengths of a row of the input at this index.
    pub(super) fn at(&self, input: usize) -> &[usize] {
        self.0.get(input).map(Vec::as_slice).unwrap_or_default()
    }

    /// Describes the shape, as in `x [3, 320, 320], mask [320]`.
    pub fn describe(&self, signature: &Signature) -> String {
        let inputs = signature.inputs.iter().zip(&self.0);
        inputs.map(|(input, lengths)| format!("{} {lengths:?}", input.name)).collect::<Vec<_>>().join(", ")
    }

    /// Returns a `warm_up` with the inputs that have open dimensions, as an example to adapt. Open dimensions have the
    /// length 320 in images, and 128 elsewhere.
    pub fn example(signature: &Signature) -> String {
        let is_open = |input: &&TensorSpec| row_dims(input).iter().any(|dim| matches!(dim, Dim::Dynamic(_)));
        let inputs = signature.inputs.iter().filter(is_open);
        let lengths = inputs.map(|input| format!("{} = {}", key(&input.name), RowShape::template(input)));
        format!("warm_up = {{ {} }}", lengths.collect::<Vec<_>>().join(", "))
    }

    fn template(input: &TensorSpec) -> String {
        let dims = row_dims(input);
        let open = dims.iter().filter(|dim| matches!(dim, Dim::Dynamic(_))).count();
        let size = if dims.len() == 3 && open == 2 { 320 } else { 128 };
        let length = |dim: &Dim| if let Dim::Fixed(length) = dim { *length } else { size };
        format!("{:?}", dims.iter().map(length).collect::<Vec<_>>())
    }
}

/// Returns the dimensions of a row of an input.
fn row_dims(input: &TensorSpec) -> &[Dim] {
    input.dims.get(1..).unwrap_or_default()
}

/// Describes the contradiction between the lengths in `model.warm_up` and the declared shape of an input.
fn misfit(input: &TensorSpec, lengths: &[usize]) -> Option<String> {
    let (dims, declared) = (row_dims(input), input.describe());
    if lengths.len() != dims.len() {
        let example = RowShape::template(input);
        return Some(format!(
            "{lengths:?} has {} lengths, but the input is {declared}; give the lengths of one row, without the dimension of \
             the rows, as in {example}",
            lengths.len()
        ));
    }
    let is_wrong = |(dim, length): &(&Dim, &usize)| match dim {
        Dim::Fixed(fixed) => fixed != *length,
        Dim::Dynamic(_) => **length == 0,
    };
    let (dim, length) = dims.iter().zip(lengths).find(is_wrong)?;
    Some(match dim {
        Dim::Fixed(fixed) => {
            format!("{lengths:?} does not fit the input, which is {declared}: {length} should be {fixed}")
        }
        Dim::Dynamic(_) => format!("{lengths:?} has the length 0; the input is {declared}, and lengths start at 1"),
    })
}

/// Returns the name of an input as a key of TOML.
fn key(name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(is_bare) { name.to_owned() } else { format!("{name:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    fn open(name: &str) -> Dim {
        Dim::Dynamic(Some(name.to_owned()))
    }

    fn signature() -> Signature {
        let input = |name: &str, dims: &[Dim]| {
            let dims = std::iter::once(open("batch")).chain(dims.iter().cloned()).collect();
            TensorSpec { name: name.into(), dtype: DType::F32, dims }
        };
        let inputs = vec![
            input("images", &[Dim::Fixed(3), open("height"), open("width")]),
            input("mask", &[open("width")]),
            input("a.b", &[Dim::Dynamic(None)]),
        ];
        Signature { inputs, ..Signature::default() }
    }

    #[test]
    fn settings_name_the_inputs_that_no_other_input_determines() {
        let check = |settings: &[(&str, &[usize])], expected: Result<&str, &str>| {
            let settings = settings.iter().map(|(name, lengths)| ((*name).to_owned(), lengths.to_vec())).collect();
            match (RowShape::of_settings(&signature(), &settings), expected) {
                (Ok(shape), Ok(expected)) => assert_eq!(shape.describe(&signature()), expected),
                (Err(error), Err(expected)) => assert_eq!(error.to_string(), expected),
                (found, _) => panic!("{found:?}"),
            }
        };
        check(&[("images", &[3, 64, 320]), ("a.b", &[7])], Ok("images [3, 64, 320], mask [320], a.b [7]"));
        check(
            &[("images", &[3, 64, 320])],
            Err("model.warm_up: \"a.b\" is float32[batch, ?]; give its lengths, too, as in a.b = [128]"),
        );
        check(
            &[("images", &[1, 3, 64, 320])],
            Err(
                "model.warm_up.images: [1, 3, 64, 320] has 4 lengths, but the input is float32[batch, 3, height, width]; \
                 give the lengths of one row, without the dimension of the rows, as in [3, 320, 320]",
            ),
        );
        check(
            &[("images", &[1, 64, 320])],
            Err(
                "model.warm_up.images: [1, 64, 320] does not fit the input, which is float32[batch, 3, height, width]: 1 \
                 should be 3",
            ),
        );
        check(
            &[("images", &[3, 64, 0])],
            Err(
                "model.warm_up.images: [3, 64, 0] has the length 0; the input is float32[batch, 3, height, width], and \
                 lengths start at 1",
            ),
        );
        check(
            &[("image", &[3, 64, 64])],
            Err(
                "model.warm_up: the model has no input \"image\"; its inputs are: \"images\" float32[batch, 3, height, \
                 width], \"mask\" float32[batch, width], \"a.b\" float32[batch, ?]",
            ),
        );
        check(
            &[("images", &[3, 1 << 20, 1 << 20]), ("a.b", &[1])],
            Err("model.warm_up: a row has 3298535931905 elements; at most 67108864 are tried"),
        );
    }

    #[test]
    fn the_example_has_every_input_with_open_dimensions() {
        assert_eq!(
            RowShape::example(&signature()),
            "warm_up = { images = [3, 320, 320], mask = [128], \"a.b\" = [128] }"
        );
    }
}
