//! Layout of the scores in an output: the scores of a row, whatever the dimensions of the output.

use std::borrow::Cow;

use super::scores::Scores;
use crate::error::{Error, Result, SetupError};
use crate::pipeline::outputs::{refuse_non_finite, unexpected_shape};
use crate::tensor::{Dim, Signature, Tensor};

/// Layout of the scores of a row, according to the dimensions that the model declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScoreRows {
    /// `[rows]` or `[rows, 1]`.
    One,
    /// `[rows, classes]`, with this number of classes.
    Several(usize),
    /// `[rows, classes]`, with a number of classes that is known only from the output of a run.
    Open,
    /// `[rows, labels, 2]`: for each label the scores of its absence and of its presence. The number of labels, if the
    /// model declares it.
    Pairs(Option<usize>),
    /// `[rows, targets, classes]`, for the target at this index. A target with fewer classes than another has zeros at
    /// the end. The number of classes, if the model declares it.
    OfTarget {
        /// Index of the target.
        target: usize,
        /// Number of targets.
        targets: usize,
        /// Number of classes of the target that has most.
        most_classes: Option<usize>,
    },
}

/// Scores of some rows, one row after the other.
#[derive(Debug)]
pub(super) struct RowScores<'a> {
    pub(super) scores: Cow<'a, [f32]>,
    /// Number of scores of a row.
    pub(super) width: usize,
}

impl ScoreRows {
    /// Returns the layout of an output with the scores of one target.
    pub(super) fn of(signature: &Signature, output: &str, is_multi_label: bool) -> Result<ScoreRows, SetupError> {
        let rank_of = |dims: &[Dim]| format!("output: {output:?} has {} dimensions", dims.len());
        match signature.output(output).map(|spec| &*spec.dims) {
            Some([_, Dim::Fixed(1)] | [_]) => Ok(ScoreRows::One),
            Some([_, Dim::Fixed(scores)]) => Ok(ScoreRows::Several(*scores)),
            Some([_, Dim::Dynamic(_)]) | Some([]) | None => Ok(ScoreRows::Open),
            Some([_, labels, Dim::Fixed(2) | Dim::Dynamic(_)]) if is_multi_label => Ok(ScoreRows::Pairs(fixed(labels))),
            Some(dims @ [_, _, _]) => Err(SetupError::Config(format!(
                "{}; a classifier needs one row of scores per instance. If they are [rows, labels, 2], set multi_label = \
                 true; if they are [rows, targets, classes], name the targets, as in targets = [\"colour\", \"size\"]",
                rank_of(dims)
            ))),
            Some(dims) => {
                Err(SetupError::Config(format!("{}; a classifier needs one row of scores per instance", rank_of(dims))))
            }
        }
    }

    /// Returns the layout of an output `[rows, targets, classes]`, for the target at this index.
    pub(super) fn of_target(
        signature: &Signature,
        output: &str,
        (target, targets): (usize, usize),
    ) -> Result<ScoreRows, SetupError> {
        let of_target = |most_classes| Ok(ScoreRows::OfTarget { target, targets, most_classes });
        match signature.output(output) {
            None => of_target(None),
            Some(spec) => match &*spec.dims {
                [] => of_target(None),
                [_, _, Dim::Fixed(0 | 1)] => Err(SetupError::Config(format!(
                    "targets: the output {output:?} is {}; each target needs a score for each of at least two classes",
                    spec.describe()
                ))),
                [_, declared, classes] if fixed(declared).is_none_or(|declared| declared == targets) => {
                    of_target(fixed(classes))
                }
                _ => Err(SetupError::Config(format!(
                    "targets: there are {targets}, but the output {output:?} is {}; it must be [rows, targets, classes], \
                     or each target must have an output of its own",
                    spec.describe()
                ))),
            },
        }
    }

    /// Returns the number of classes, if the model declares it; that of the target that has most, if there are several.
    pub(super) fn classes(self, is_multi_label: bool) -> Option<usize> {
        match self {
            ScoreRows::One if is_multi_label => Some(1),
            // The single score belongs to the second of two classes.
            ScoreRows::One => Some(2),
            ScoreRows::Several(scores) => Some(scores),
            ScoreRows::Open => None,
            ScoreRows::Pairs(classes) | ScoreRows::OfTarget { most_classes: classes, .. } => classes,
        }
    }

    /// Returns true if there can be this many labels.
    pub(super) fn takes(self, labels: usize, is_multi_label: bool) -> bool {
        self.classes(is_multi_label).is_none_or(|classes| match self {
            ScoreRows::OfTarget { .. } => (2..=classes).contains(&labels),
            _ => labels == classes,
        })
    }

    pub(super) fn describe(self, is_multi_label: bool) -> String {
        match self {
            ScoreRows::One if !is_multi_label => {
                "one score a row, which is that of the second of two classes".to_owned()
            }
            ScoreRows::One => "1 scores a row".to_owned(),
            ScoreRows::Several(scores) => format!("{scores} scores a row"),
            ScoreRows::Open => "any number of scores a row".to_owned(),
            ScoreRows::Pairs(labels) => format!("two scores for each of {} labels", number(labels)),
            ScoreRows::OfTarget { most_classes, .. } => format!("{} scores for each target", number(most_classes)),
        }
    }

    /// Reads the scores of all rows. `labels` is the number of classes, if it is known.
    pub(super) fn read<'a>(
        self,
        name: &str,
        tensor: &'a Tensor,
        kind: Scores,
        labels: Option<usize>,
    ) -> Result<RowScores<'a>> {
        refuse_non_finite(name, tensor)?;
        let scores = tensor.to_f32().ok_or_else(|| Error::internal("a classifier's scores are not floats"))?;
        match (self, tensor.row_shape()) {
            (ScoreRows::One | ScoreRows::Several(_) | ScoreRows::Open, [] | [_]) if tensor.row_len() > 0 => {
                Ok(RowScores { scores, width: tensor.row_len() })
            }
            (ScoreRows::Pairs(_), &[width, 2]) if width > 0 => {
                let presence = |pair: &[f32]| match kind {
                    Scores::Probabilities => pair[1],
                    // Softmax of two logits is the logistic function of their difference.
                    Scores::Logits => pair[1] - pair[0],
                };
                Ok(RowScores { scores: scores.chunks_exact(2).map(presence).collect(), width })
            }
            (ScoreRows::OfTarget { target, targets, .. }, &[all, classes]) if all == targets && classes > 0 => {
                let width = labels.filter(|labels| kind == Scores::Probabilities && *labels < classes);
                let width = width.unwrap_or(classes);
                let rows = scores.chunks_exact(all * classes).map(|row| &row[target * classes..(target + 1) * classes]);
                if rows.clone().any(|row| row[width..].iter().any(|score| *score != 0.0)) {
                    let problem = format!("has scores of {classes} classes, but there are {width} labels");
                    return Err(Error::UnusableOutput { output: name.to_owned(), problem });
                }
                Ok(RowScores { scores: rows.flat_map(|row| &row[..width]).copied().collect(), width })
            }
            (ScoreRows::Pairs(_), _) => Err(unexpected_shape(name, tensor, "[rows, labels, 2]")),
            (ScoreRows::OfTarget { targets, .. }, _) => {
                Err(unexpected_shape(name, tensor, &format!("[rows, {targets} targets, classes]")))
            }
            _ => Err(unexpected_shape(name, tensor, "[rows, classes]")),
        }
    }
}

fn fixed(dim: &Dim) -> Option<usize> {
    match dim {
        Dim::Fixed(length) => Some(*length),
        Dim::Dynamic(_) => None,
    }
}

fn number(count: Option<usize>) -> String {
    count.map_or_else(|| "any number of".to_owned(), |count| count.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Data;

    fn check(
        rows: ScoreRows,
        kind: Scores,
        labels: Option<usize>,
        scores: &[f32],
        expected: Result<(&[f32], usize), &str>,
    ) {
        let tensor = Tensor::new(vec![1, 2, scores.len() / 2], Data::F32(scores.to_vec())).unwrap();
        let read = rows.read("p", &tensor, kind, labels).map(|read| (read.scores.to_vec(), read.width));
        let expected = expected.map(|(scores, width)| (scores.to_vec(), width)).map_err(str::to_owned);
        assert_eq!(read.map_err(|error| error.to_string()), expected);
    }

    #[test]
    fn the_second_score_of_a_pair_is_that_of_the_presence_of_a_label() {
        let pairs = ScoreRows::Pairs(Some(2));
        check(pairs, Scores::Probabilities, None, &[0.75, 0.25, 0.5, 0.5], Ok((&[0.25, 0.5], 2)));
        check(pairs, Scores::Logits, None, &[1.0, 3.0, 2.0, 0.0], Ok((&[2.0, -2.0], 2)));
        let error = "the model's output \"p\" has the shape [1, 2, 3], but [rows, labels, 2] was expected";
        check(pairs, Scores::Logits, None, &[0.0; 6], Err(error));
    }

    #[test]
    fn a_target_may_have_fewer_classes_than_another() {
        let of_target = |target| ScoreRows::OfTarget { target, targets: 2, most_classes: Some(3) };
        let scores = [0.25, 0.75, 0.0, 0.5, 0.25, 0.25];
        check(of_target(0), Scores::Probabilities, Some(2), &scores, Ok((&scores[..2], 2)));
        check(of_target(1), Scores::Probabilities, Some(3), &scores, Ok((&scores[3..], 3)));
        check(of_target(0), Scores::Probabilities, None, &scores, Ok((&scores[..3], 3)));
        let error = "the model's output \"p\" has scores of 3 classes, but there are 2 labels";
        check(of_target(1), Scores::Probabilities, Some(2), &scores, Err(error));
    }
}
