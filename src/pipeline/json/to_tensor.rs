//! Conversion of JSON to tensors: reads `instances` straight into the input buffers of a model.
//!
//! No value tree is built (`reader.rs`): each number goes from its text into the buffer of its element type. A value
//! that does not fit the model is an error with its path, as in
//! `instances[2].pixels[5]: found null, expected a number`.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::budget::Deadline;
use crate::error::{Error, Result};
use crate::pipeline::json::reader::{Fits, FromJson, MAX_SEQUENCE_ITEMS, Misfit, NonFinite, Reader, misfit, quoted};
use crate::tensor::{DType, Data, Dim, Element, Tensor, TensorSpec, Tensors, for_each_element_type, with_element_type};

/// Maximum number of dimensions of a tensor in a sequence. The caller chooses it, and each is a level of the reader's
/// recursion.
const MAX_ITEM_DIMENSIONS: usize = 16;

/// Reads the `instances` of a request into one row per instance for every input of a model.
///
/// With one input, an instance is its value (a number, an array or nested arrays, depending on the shape). With several
/// inputs, an instance is an object of such values by input name. This form is also accepted for one input. The value of
/// an input that is a sequence of tensors is an array of such values.
pub(crate) fn read_instances(
    instances: &RawValue,
    inputs: &[TensorSpec],
    sequences: &BTreeMap<Arc<str>, DType>,
    bounds: (NonZeroUsize, Deadline),
    non_finite: NonFinite,
) -> Result<Tensors> {
    let mut columns: Vec<Column<'_>> =
        inputs.iter().map(|input| Column::new(input, sequences.get(&input.name).copied())).collect();
    let read = |json: &mut Reader<'_>| {
        json.non_finite = non_finite;
        json.instance(&mut columns)
    };
    let rows = Reader::instances(instances.get(), bounds, read, |misfit| explained(misfit, inputs))?;
    if columns.is_empty() && rows > 1 {
        let problem = "instances: the model has no inputs, so all instances would have the same answer; send \
                       {\"instances\": [{}]}";
        return Err(Error::InvalidInput(problem.to_owned()));
    }
    columns.into_iter().map(|column| column.into_tensor(rows)).collect()
}

/// Values of one input of the model, for all instances read so far.
pub(crate) struct Column<'a> {
    pub(crate) spec: &'a TensorSpec,
    data: Data,
    /// Lengths of the dimensions of a row.
    row: Vec<Length>,
    /// Number of elements to reserve for a row, from the lengths that the model declares.
    expected: usize,
    /// Type of the elements of the items, if the input is a sequence of tensors.
    items: Option<DType>,
}

/// Length of a dimension of a row, as far as it is known.
#[derive(Clone, Copy)]
enum Length {
    /// Declared by the model.
    Declared(usize),
    /// Left open by the model, and no array of this dimension has been read yet.
    Open,
    /// Left open by the model; the length of the first array of this dimension.
    AsBefore(usize),
}

impl Length {
    fn known(self) -> Option<usize> {
        match self {
            Length::Declared(length) | Length::AsBefore(length) => Some(length),
            Length::Open => None,
        }
    }
}

impl<'a> Column<'a> {
    pub(crate) fn new(spec: &'a TensorSpec, items: Option<DType>) -> Column<'a> {
        let length = |dim: &Dim| match dim {
            Dim::Fixed(length) => Length::Declared(*length),
            Dim::Dynamic(_) => Length::Open,
        };
        let row: Vec<Length> = spec.dims.iter().skip(1).map(length).collect();
        // Capped, because the memory is reserved before anything is read, and the model can declare any lengths.
        let known = row.iter().filter_map(|length| length.known());
        let expected = known.fold(1usize, usize::saturating_mul).min(1 << 20);
        Column { spec, data: with_element_type!(spec.dtype, T => T::into_data(Vec::new())), row, expected, items }
    }

    pub(crate) fn into_tensor(self, rows: usize) -> Result<(Arc<str>, Tensor)> {
        let shape = [rows].into_iter().chain(self.row.into_iter().map(|length| length.known().unwrap_or(0))).collect();
        Ok((Arc::clone(&self.spec.name), Tensor::new(shape, self.data)?))
    }
}

/// Turns a misfit into an error that includes the model's declaration of the input.
pub(crate) fn explained(mut misfit: Box<Misfit>, inputs: &[TensorSpec]) -> Error {
    let named = |key: &str| inputs.iter().find(|input| *input.name == *key);
    let input = misfit.first_key().map_or_else(|| inputs.first().filter(|_| inputs.len() == 1), named);
    if let Some(input) = input {
        misfit.problem = format!("{} (the model's input {:?} is {})", misfit.problem, input.name, input.describe());
    }
    Error::from(misfit)
}

// ===== instances, rows, elements =====

impl Reader<'_> {
    fn instance(&mut self, columns: &mut [Column<'_>]) -> Fits<()> {
        match columns {
            _ if self.peek() == b'{' => self.object_by_input(columns),
            [only] => self.column(only),
            [] => Err(self.found_instead_of("an empty object: the model has no inputs")),
            several => Err(self.found_instead_of(&format!("an object with {}", keys(several)))),
        }
    }

    /// Reads an instance that is an object of values by input name.
    fn object_by_input(&mut self, columns: &mut [Column<'_>]) -> Fits<()> {
        let mut is_read = vec![false; columns.len()];
        self.object(|json, key| {
            let Some(index) = columns.iter().position(|column| *column.spec.name == *key) else {
                return Err(misfit(format!("unknown key {}, expected {}", quoted(&key), keys(columns))));
            };
            if std::mem::replace(&mut is_read[index], true) {
                return Err(misfit(format!("the key {key:?} occurs twice")));
            }
            json.column(&mut columns[index]).map_err(|misfit| misfit.at_key(&key))
        })?;
        match is_read.iter().position(|is_read| !is_read) {
            Some(missing) => Err(misfit(format!("the key {:?} is missing", columns[missing].spec.name))),
            None => Ok(()),
        }
    }

    /// Reads the value of one input in one instance.
    pub(crate) fn column(&mut self, column: &mut Column<'_>) -> Fits<()> {
        let Column { spec, data, row, expected, items } = column;
        if let (Data::Sequence(sequences), Some(items)) = (&mut *data, *items) {
            sequences.push(self.sequence(items)?);
            return Ok(());
        }
        for_each_element_type!(data, values => {
            values.reserve(*expected);
            self.row(spec, row, values)
        })
    }

    /// Reads a sequence of tensors, whose shapes may differ.
    fn sequence(&mut self, dtype: DType) -> Fits<Vec<Tensor>> {
        let mut items = Vec::new();
        self.array("an array of tensors", |json| {
            let dimensions = json.nesting();
            if dimensions > MAX_ITEM_DIMENSIONS {
                return Err(misfit(format!("found a tensor of more than {MAX_ITEM_DIMENSIONS} dimensions")));
            }
            json.sequence_items_left = json.sequence_items_left.checked_sub(1).ok_or_else(|| {
                misfit(format!(
                    "the request has more than {MAX_SEQUENCE_ITEMS} tensors in sequences; send them in several"
                ))
            })?;
            let spec = TensorSpec { name: "item".into(), dtype, dims: vec![Dim::Dynamic(None); 1 + dimensions] };
            let mut column = Column::new(&spec, None);
            json.column(&mut column)?;
            let (_, item) = column.into_tensor(1)?;
            items.push(item);
            Ok(())
        })?;
        match items.is_empty() {
            true => Err(misfit("found an empty array, but ONNX Runtime takes no sequence without tensors".to_owned())),
            false => Ok(items),
        }
    }

    /// Reads nested arrays of the lengths in `row`, or one element if `row` is empty.
    fn row<T: FromJson>(&mut self, spec: &TensorSpec, row: &mut [Length], values: &mut Vec<T>) -> Fits<()> {
        let Some((length, inner)) = row.split_first_mut() else {
            values.push(self.element()?);
            return Ok(());
        };
        if self.peek() != b'[' {
            return Err(self.found_instead_of(&describe(length.known(), inner.len(), spec.dtype)));
        }
        let count = self.array("an array", |json| {
            if inner.is_empty() {
                values.push(json.element()?);
                Ok(())
            } else {
                json.row(spec, inner, values)
            }
        })?;
        let what = if inner.is_empty() { "values" } else { "arrays" };
        match *length {
            Length::Declared(expected) if expected != count => {
                Err(misfit(format!("found {count} {what}, expected {expected}")))
            }
            Length::AsBefore(before) if before != count => {
                Err(misfit(format!("found {count} {what}, expected {before} as in the array before it")))
            }
            Length::Open => {
                *length = Length::AsBefore(count);
                Ok(())
            }
            Length::Declared(_) | Length::AsBefore(_) => Ok(()),
        }
    }
}

fn keys(columns: &[Column<'_>]) -> String {
    let names: Vec<String> = columns.iter().map(|column| format!("{:?}", column.spec.name)).collect();
    format!("the key{} {}", if names.len() == 1 { "" } else { "s" }, names.join(", "))
}

/// Describes the value that is expected at a level of nesting, as in `an array of 64 numbers`.
fn describe(length: Option<usize>, levels_below: usize, dtype: DType) -> String {
    let what = match (levels_below, dtype) {
        (0, DType::Bool) => "booleans",
        (0, DType::Text) => "strings",
        (0, _) => "numbers",
        _ => "arrays",
    };
    length.map_or_else(|| format!("an array of {what}"), |length| format!("an array of {length} {what}"))
}
