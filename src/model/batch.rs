//! How a batch is formed: which waiting requests go into the next run, and how their rows are joined and
//! given back. Pure: no clock, no lock, no I/O.

use std::num::NonZeroUsize;
use std::ops::Range;

use crate::config::SessionConfig;
use crate::error::{Error, Result};
use crate::tensor::{Dim, Signature, Tensors};

/// The limits of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchPolicy {
    /// How many rows a run takes.
    pub run_rows: RunRows,
    /// The most rows of one request.
    pub max_instances: NonZeroUsize,
}

/// How many rows a run takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunRows {
    /// Any number up to this one: requests are joined.
    UpTo(NonZeroUsize),
    /// Exactly this many, because the model fixes its batch dimension: requests run one by one.
    Exactly(NonZeroUsize),
}

impl BatchPolicy {
    /// The policy for a model: its own batch dimension, if that is fixed, else `max_batch_size`.
    pub fn new(signature: &Signature, config: &SessionConfig) -> BatchPolicy {
        let run_rows = match signature.batch_dim() {
            Dim::Fixed(rows) => RunRows::Exactly(NonZeroUsize::new(rows).unwrap_or(NonZeroUsize::MIN)),
            Dim::Dynamic(_) => RunRows::UpTo(config.max_batch_size),
        };
        BatchPolicy { run_rows, max_instances: config.max_instances }
    }

    /// Whether a request of so many rows can be run at all.
    pub(super) fn check(self, rows: usize) -> Result<()> {
        if rows > self.max_instances.get() {
            return Err(Error::InvalidInput(format!(
                "instances: {rows} are too many for one request, at most {}; send them in several",
                self.max_instances
            )));
        }
        match self.run_rows {
            RunRows::Exactly(size) if !rows.is_multiple_of(size.get()) => Err(Error::InvalidInput(format!(
                "instances: the model's batch dimension is fixed at {size}, so a request needs a multiple of {size} \
                 instances, not {rows}; export the model with a dynamic batch dimension to lift this"
            ))),
            _ => Ok(()),
        }
    }

    /// How many requests, from the oldest on, go into the next run. At least one, if any is waiting; more
    /// only while their rows fit together and their shapes match.
    pub(super) fn plan<'a>(self, waiting: impl IntoIterator<Item = &'a Tensors>) -> usize {
        let mut waiting = waiting.into_iter();
        let Some(first) = waiting.next() else { return 0 };
        let RunRows::UpTo(limit) = self.run_rows else { return 1 };
        let mut rows = first.rows();
        let fits = |next: &&Tensors| {
            rows += next.rows();
            rows <= limit.get() && first.stacks_with(next)
        };
        1 + waiting.take_while(fits).count()
    }

    /// The runs that `rows` rows are divided into.
    ///
    /// ```
    /// use leeway::model::{BatchPolicy, RunRows};
    /// let policy = BatchPolicy {
    ///     run_rows: RunRows::UpTo(32.try_into().unwrap()),
    ///     max_instances: 4096.try_into().unwrap(),
    /// };
    /// assert_eq!(policy.runs(70).collect::<Vec<_>>(), [0..32, 32..64, 64..70]);
    /// ```
    pub fn runs(self, rows: usize) -> impl Iterator<Item = Range<usize>> {
        let (RunRows::UpTo(size) | RunRows::Exactly(size)) = self.run_rows;
        (0..rows).step_by(size.get()).map(move |start| start..rows.min(start + size.get()))
    }
}

/// Puts the outputs of the runs of one request together; `rows` are those of each run. An output that lacks a row
/// per instance in any of the runs belongs to no instance and is left out of all.
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

/// Gives each request its rows of the outputs of a run they shared. An output that has not one row per row of the
/// inputs belongs to no request and is left out.
pub(super) fn split(outputs: Tensors, rows_of_each: &[usize]) -> Vec<Tensors> {
    let rows: usize = rows_of_each.iter().sum();
    let is_per_row: Vec<bool> = outputs.iter().map(|(_, tensor)| tensor.rows() == rows).collect();
    let mut is_per_row = is_per_row.into_iter();
    let per_row = outputs.keep(|_| is_per_row.next().unwrap_or(false));
    if rows_of_each.len() == 1 {
        return vec![per_row];
    }
    let mut start = 0;
    let slice = |&rows: &usize| {
        let range = start..start + rows;
        start += rows;
        per_row.slice_rows(range)
    };
    rows_of_each.iter().map(slice).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tensor::{Data, Tensor};

    /// A request whose rows are `width` numbers each.
    fn request(rows: usize, width: usize) -> Tensors {
        let values = (0..rows * width).map(|v| v as f32).collect();
        [("x".into(), Tensor::new(vec![rows, width], Data::F32(values)).unwrap())].into_iter().collect()
    }

    fn policy(run_rows: RunRows) -> BatchPolicy {
        BatchPolicy { run_rows, max_instances: 4096.try_into().unwrap() }
    }

    fn up_to(limit: usize) -> BatchPolicy {
        policy(RunRows::UpTo(limit.try_into().unwrap()))
    }

    fn check(policy: BatchPolicy, waiting: &[(usize, usize)], expected: usize) {
        let waiting: Vec<Tensors> = waiting.iter().map(|&(rows, width)| request(rows, width)).collect();
        assert_eq!(policy.plan(&waiting), expected);
    }

    #[test]
    fn plan_takes_what_fits_from_the_oldest_on() {
        check(up_to(8), &[], 0);
        check(up_to(8), &[(1, 4)], 1);
        check(up_to(8), &[(3, 4), (5, 4), (1, 4)], 2);
        check(up_to(8), &[(3, 4), (6, 4), (1, 4)], 1);
        check(up_to(8), &[(100, 4), (1, 4)], 1);
        check(up_to(8), &[(1, 4), (1, 5), (1, 4)], 1);
        check(policy(RunRows::Exactly(NonZeroUsize::MIN)), &[(1, 4), (1, 4)], 1);
    }

    #[test]
    fn a_fixed_batch_dimension_refuses_a_remainder() {
        let policy = policy(RunRows::Exactly(4.try_into().unwrap()));
        assert!(policy.check(8).is_ok());
        assert!(policy.check(8000).unwrap_err().to_string().contains("at most 4096"));
        assert!(policy.check(6).unwrap_err().to_string().contains("multiple of 4"));
    }

    #[test]
    fn an_output_without_a_row_per_instance_is_left_out() {
        let outputs: Tensors = [
            ("scores".into(), Tensor::new(vec![3, 1], Data::F32(vec![1.0, 2.0, 3.0])).unwrap()),
            ("loss".into(), Tensor::new(vec![1], Data::F32(vec![9.0])).unwrap()),
        ]
        .into_iter()
        .collect();
        let parts = split(outputs, &[1, 2]);
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[1].get("scores").unwrap().values::<f32>().unwrap(), [2.0, 3.0]);
        assert!(parts[1].get("loss").is_none());
    }

    /// Three rows in runs of two and one: the last run's loss has as many rows as its instances, by chance.
    #[test]
    fn an_output_that_is_per_row_by_chance_is_left_out_of_all_runs() {
        let part = |loss: f32, y: &[f32]| -> Tensors {
            let tensor = |values: &[f32]| Tensor::new(vec![values.len()], Data::F32(values.to_vec())).unwrap();
            [("loss".into(), tensor(&[loss])), ("y".into(), tensor(y))].into_iter().collect()
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
        fn a_batch_never_exceeds_the_limit_unless_one_request_does(
            sizes in prop::collection::vec(1usize..40, 1..40), limit in 1usize..64,
        ) {
            let waiting: Vec<Tensors> = sizes.iter().map(|&rows| request(rows, 2)).collect();
            let taken = up_to(limit).plan(&waiting);
            let rows: usize = sizes[..taken].iter().sum();
            prop_assert!(taken == 1 || rows <= limit);
            prop_assert!(taken == sizes.len() || rows + sizes[taken] > limit);
        }

        #[test]
        fn what_is_joined_and_split_comes_back(sizes in prop::collection::vec(1usize..9, 1..9)) {
            let requests: Vec<Tensors> = sizes.iter().map(|&rows| request(rows, 3)).collect();
            let joined = Tensors::stack(&requests.iter().collect::<Vec<_>>()).unwrap();
            prop_assert_eq!(split(joined, &sizes), requests);
        }

        #[test]
        fn runs_cover_every_row_once(rows in 1usize..500, limit in 1usize..64) {
            let runs: Vec<_> = up_to(limit).runs(rows).collect();
            prop_assert!(runs.iter().all(|run| run.len() <= limit && !run.is_empty()));
            prop_assert_eq!(runs.into_iter().flatten().collect::<Vec<_>>(), (0..rows).collect::<Vec<_>>());
        }
    }
}
