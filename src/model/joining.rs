//! Joins rows of several requests into the inputs of one run, and splits the outputs among them. Pure: no clock, no
//! lock, no I/O.
//!
//! An output belongs to the rows of a run if it has one row for each of them. These outputs are determined once, when a
//! version is tried ([`RowOutputs::Known`]): an output that merely happens to have three rows is not an answer to three
//! instances.

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::tensor::{Dim, Padding, Signature, Tensor, Tensors};

/// The way to join rows of several requests into one run of a model, and to divide its outputs again.
#[derive(Debug, Clone, Default)]
pub struct Joining {
    /// Padding of short rows; `None` if only rows of one shape are run together.
    pub(super) padding: Option<Padding>,
    /// Outputs whose rows are as long as those of the inputs. They are cut where the inputs were padded.
    long_outputs: Vec<Arc<str>>,
    pub(super) outputs: RowOutputs,
}

/// The outputs that have one row per row of the inputs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum RowOutputs {
    /// The outputs that had one row per input row in runs of different sizes. If one of them lacks rows in a later run,
    /// the run fails.
    Known(Vec<Arc<str>>),
    /// No run was observed. In each run, the outputs that have as many rows as the run are assumed.
    #[default]
    Unknown,
    /// All outputs, as a whole, belong to the only row of a run: they have no dimension for rows.
    OfOneRow,
}

impl Joining {
    /// Returns the way to join rows for a model of which only the signature is known, because it has not been run.
    pub fn new(signature: &Signature, padding: Option<Padding>) -> Joining {
        let is_long = |output: &&crate::tensor::TensorSpec| matches!(output.dims.get(1), Some(Dim::Dynamic(_)));
        let long_outputs = match &padding {
            // By `can_be_padded`, their only open dimension besides the rows is the length of the inputs.
            Some(_) => signature.outputs.iter().filter(is_long).map(|output| Arc::clone(&output.name)).collect(),
            None => Vec::new(),
        };
        Joining { padding, long_outputs, outputs: RowOutputs::Unknown }
    }

    /// Replaces the outputs that have one row per row of the inputs.
    pub fn with_outputs(self, outputs: RowOutputs) -> Joining {
        Joining { outputs, ..self }
    }

    /// Concatenates rows of several requests; `None` if they cannot be joined.
    pub(super) fn gather(&self, rows: &[(&Tensors, Range<usize>)]) -> Option<Tensors> {
        match &self.padding {
            Some(padding) => Tensors::gather_padded(rows, padding),
            None => Tensors::gather(rows),
        }
    }

    /// Splits the outputs of a shared run by request. `rows` has the number and the length of each request's rows.
    pub(super) fn split(&self, outputs: Tensors, rows: &[(usize, usize)]) -> Result<Vec<Tensors>> {
        let all = rows.iter().map(|(count, _)| count).sum();
        let per_row = self.per_row(outputs, all)?;
        if let [(_, length)] = *rows {
            return Ok(vec![self.unpad(per_row, length)]);
        }
        let mut start = 0;
        let slice = |&(count, length): &(usize, usize)| {
            let range = start..start + count;
            start += count;
            self.unpad(per_row.slice_rows(range), length)
        };
        Ok(rows.iter().map(slice).collect())
    }

    /// Returns the outputs that belong to the rows of a run of this many rows. Fails if an output that is known to have
    /// rows lacks them.
    pub fn per_row(&self, outputs: Tensors, rows: usize) -> Result<Tensors> {
        match &self.outputs {
            RowOutputs::Known(names) => {
                for name in names {
                    let shape = outputs.get(name).map(Tensor::shape).unwrap_or_default();
                    if shape.first() != Some(&rows) {
                        let problem = format!(
                            "has the shape {shape:?} for {rows} input rows: it must have one row for each of them"
                        );
                        return Err(Error::UnusableOutput { output: name.to_string(), problem });
                    }
                }
                Ok(outputs.keep(|name| names.iter().any(|known| **known == *name)))
            }
            RowOutputs::Unknown => Ok(outputs.keep_rows(rows)),
            RowOutputs::OfOneRow => {
                let whole = outputs.iter().map(|(name, tensor)| (Arc::clone(name), tensor.clone().into_row()));
                Ok(whole.collect())
            }
        }
    }

    /// Cuts outputs that are as long as the padded inputs to the length of the request's own inputs.
    fn unpad(&self, outputs: Tensors, length: usize) -> Tensors {
        match self.long_outputs.is_empty() {
            true => outputs,
            false => outputs.shortened(length, |name| self.long_outputs.iter().any(|long| **long == *name)),
        }
    }
}

/// Joins the outputs of the runs of one request; `rows` has the number of rows of each run. An output that does not
/// have one row per instance in every run is left out.
pub(super) fn join(parts: &[Tensors], rows: &[usize]) -> Option<Tensors> {
    let is_per_row = |name: &str| {
        parts.iter().zip(rows).all(|(part, &rows)| part.get(name).is_some_and(|tensor| tensor.rows() == rows))
    };
    let of_rows = |part: &Tensors| part.clone().keep(is_per_row);
    match parts {
        [only] => Some(of_rows(only)),
        several => {
            let parts: Vec<Tensors> = several.iter().map(of_rows).collect();
            Tensors::stack(&parts.iter().collect::<Vec<_>>())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tensor::Data;

    fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
        Tensor::new(shape.to_vec(), Data::F32(values.to_vec())).unwrap()
    }

    fn request(rows: usize, width: usize) -> Tensors {
        let values: Vec<f32> = (0..rows * width).map(|v| v as f32).collect();
        [("x".into(), tensor(&[rows, width], &values))].into_iter().collect()
    }

    fn known(names: &[&str]) -> Joining {
        Joining { outputs: RowOutputs::Known(names.iter().map(|name| (*name).into()).collect()), ..Joining::default() }
    }

    /// Three rows, and an output of three numbers that do not belong to them.
    #[test]
    fn an_output_that_is_known_not_to_have_rows_is_left_out_whatever_its_shape() {
        let outputs: Tensors =
            [("scores".into(), tensor(&[3, 1], &[1.0, 2.0, 3.0])), ("loss".into(), tensor(&[3], &[9.0, 9.0, 9.0]))]
                .into_iter()
                .collect();
        let parts = known(&["scores"]).split(outputs, &[(1, 1), (2, 1)]).unwrap();
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[1].get("scores").unwrap().values::<f32>().unwrap(), [2.0, 3.0]);
        assert!(parts[1].get("loss").is_none());
    }

    #[test]
    fn an_output_that_lacks_its_rows_is_an_error_and_no_answer() {
        let outputs: Tensors = [("y".into(), tensor(&[1, 2], &[1.0, 2.0]))].into_iter().collect();
        let error = known(&["y"]).split(outputs, &[(1, 1), (2, 1)]).unwrap_err().to_string();
        assert_eq!(
            error,
            "the model's output \"y\" has the shape [1, 2] for 3 input rows: it must have one row for each of them"
        );
    }

    /// A detector of one image answers with as many boxes as it found.
    #[test]
    fn outputs_without_rows_are_those_of_the_only_row() {
        let joining = Joining { outputs: RowOutputs::OfOneRow, ..Joining::default() };
        let outputs: Tensors = [("scores".into(), tensor(&[2], &[0.9, 0.8]))].into_iter().collect();
        let parts = joining.split(outputs, &[(1, 1)]).unwrap();
        assert_eq!(parts[0].get("scores").unwrap().shape(), [1, 2]);
    }

    /// Three rows in runs of two and one: the last run's loss has as many rows as its instances, by chance.
    #[test]
    fn an_output_that_is_per_row_by_chance_is_left_out_of_all_runs() {
        let part = |loss: f32, y: &[f32]| -> Tensors {
            [("loss".into(), tensor(&[1], &[loss])), ("y".into(), tensor(&[y.len()], y))].into_iter().collect()
        };
        let joined = join(&[part(-1.0, &[1.0, 2.0]), part(-2.0, &[3.0])], &[2, 1]).unwrap();
        assert_eq!(joined.len(), 1);
        assert_eq!(joined.get("y").unwrap().values::<f32>().unwrap(), [1.0, 2.0, 3.0]);
    }

    #[test]
    fn runs_whose_rows_differ_in_shape_cannot_be_joined() {
        assert!(join(&[request(1, 4), request(1, 2)], &[1, 1]).is_none());
        assert!(join(&[request(1, 4), request(1, 2), request(1, 6)], &[1, 1, 1]).is_none());
    }

    proptest! {
        #[test]
        fn what_is_joined_and_split_comes_back(sizes in prop::collection::vec(1usize..9, 1..9)) {
            let requests: Vec<Tensors> = sizes.iter().map(|&rows| request(rows, 3)).collect();
            let joined = Tensors::stack(&requests.iter().collect::<Vec<_>>()).unwrap();
            let rows: Vec<(usize, usize)> = sizes.iter().map(|&rows| (rows, 3)).collect();
            prop_assert_eq!(known(&["x"]).split(joined, &rows).unwrap(), requests);
        }
    }
}
