//! Named tensors as columns of the pipeline: each has one row for each instance.

use std::borrow::Cow;

use super::input::{Elements, NamedInput};
use super::named_tensors::elements;
use crate::error::{Error, Result};
use crate::identity::shown;
use crate::pipeline::{CellKind, Cells, InstanceForm, NamedColumn, NamedRows};
use crate::tensor::{DType, Data, RawBytes, Signature, Tensor, raw_texts};

/// A decoded column.
pub(super) enum Column<'a> {
    Tensor(Tensor),
    /// The bytes of the file of each instance.
    Files(Vec<&'a [u8]>),
}

/// Returns the form of the instances if the names of a request mean columns of the pipeline: if one of them is a column,
/// and not an input of the model.
pub(super) fn form_by_names(
    inputs: &[NamedInput<'_>],
    signature: &Signature,
    form: Option<InstanceForm>,
) -> Option<InstanceForm> {
    let is_input = |input: &NamedInput<'_>| signature.inputs.iter().any(|spec| *spec.name == *input.name);
    form.filter(|form| inputs.iter().any(|input| !is_input(input) && form.has_column(&input.name)))
}

/// Decodes the columns of a request.
pub(super) fn decoded<'a>(inputs: Vec<NamedInput<'a>>, form: &InstanceForm) -> Result<Vec<(Cow<'a, str>, Column<'a>)>> {
    let decode = |input: NamedInput<'a>| {
        let NamedInput { name, dtype, shape, elements: sent } = input;
        let at = |problem: String| Error::InvalidInput(format!("the column \"{}\"{problem}", shown(&name)));
        let Some(&rows) = shape.first() else {
            return Err(at(": found a scalar, expected a tensor whose first dimension is the rows".to_owned()));
        };
        let is_file = form.columns().iter().any(|column| *column.name() == *name && column.cells == CellKind::File);
        let is_flat = shape.iter().skip(1).all(|length| *length == 1);
        let files = match sent {
            Elements::Raw(RawBytes::One(bytes)) if is_file && is_flat && dtype == DType::Text => {
                Some(raw_texts(rows, bytes).map_err(|problem| at(format!(": {problem}")))?)
            }
            _ => None,
        };
        let column = match files {
            Some(files) => Column::Files(files),
            None => {
                let data: Data = elements(sent, dtype, &shape).map_err(at)?;
                if let Some(place) = data.first_infinite() {
                    let problem = ": found infinity; send a finite number, or NaN if it is missing";
                    return Err(at(format!("[{place}]{problem}")));
                }
                Column::Tensor(Tensor::new(shape, data)?)
            }
        };
        Ok((name, column))
    };
    inputs.into_iter().map(decode).collect()
}

/// Returns decoded columns as rows of the pipeline.
pub(super) fn rows_of<'a>(columns: &'a [(Cow<'a, str>, Column<'a>)]) -> NamedRows<'a> {
    let named = |(name, column): &'a (Cow<'a, str>, Column<'a>)| NamedColumn {
        name: Cow::Borrowed(name),
        cells: match column {
            Column::Tensor(tensor) => Cells::Tensor(tensor),
            Column::Files(files) => Cells::Files(files),
        },
    };
    NamedRows::Columns(columns.iter().map(named).collect())
}
