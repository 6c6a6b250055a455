//! Checks of scores of made-up rows against `model.toml`: scores that are no probabilities of exclusive classes, and
//! models that themselves choose any number of classes.

use std::sync::Arc;

use super::score_rows::RowScores;
use crate::pipeline::outputs::ROUNDING;
use crate::tensor::{Data, Tensors};

/// Largest difference of the sum of a row's probabilities from 1: that of ten classes whose probabilities are rounded to
/// multiples of 1/256, as in a quantised model.
const SUM_TOLERANCE: f32 = 0.02;

/// Probability above which a model chooses a class by itself.
pub(super) const CHOSEN_FROM: f32 = 0.5;

/// Returns true if each row of scores is a probability distribution.
pub(super) fn are_distributions(rows: &RowScores<'_>) -> bool {
    let is_distribution =
        |row: &[f32]| row.iter().all(is_probability) && (row.iter().sum::<f32>() - 1.0).abs() <= 10.0 * ROUNDING;
    rows.scores.chunks_exact(rows.width).all(is_distribution)
}

/// Returns the first sum of a row's probabilities that is not 1. A sum of 0 is not returned: made-up rows can be so far
/// from those of the training that every probability is rounded to 0.
pub(super) fn sum_other_than_one(scores: &[f32], width: usize) -> Option<f32> {
    let mut sums = scores.chunks_exact(width).filter(|row| row.iter().all(is_probability)).map(|row| row.iter().sum());
    sums.find(|sum: &f32| *sum != 0.0 && (sum - 1.0).abs() > SUM_TOLERANCE)
}

fn is_probability(score: &f32) -> bool {
    (-ROUNDING..=1.0 + ROUNDING).contains(score)
}

/// Choice of any number of classes by the model itself: 0 or 1 for each class.
#[derive(Debug)]
pub(super) struct OwnChoice<'a> {
    /// The output with the choice.
    pub(super) output: &'a Arc<str>,
    /// 0 or 1 for each class of each row.
    marks: &'a [i64],
}

impl<'a> OwnChoice<'a> {
    /// Finds an output that has 0 or 1 for each score.
    pub(super) fn find(outputs: &'a Tensors, rows: &RowScores<'_>) -> Option<OwnChoice<'a>> {
        outputs.iter().find_map(|(output, tensor)| match tensor.data() {
            Data::I64(marks)
                if tensor.row_shape() == [rows.width]
                    && marks.len() == rows.scores.len()
                    && marks.iter().all(|mark| [0, 1].contains(mark)) =>
            {
                Some(OwnChoice { output, marks })
            }
            _ => None,
        })
    }

    /// Returns the number of classes that are chosen in a row, if it is not one, and if the choice is that of the scores
    /// above `least`. In such a model, any number of classes can be right.
    pub(super) fn several(&self, rows: &RowScores<'_>, least: f32) -> Option<i64> {
        let width = rows.width;
        let of_rows = rows.scores.chunks_exact(width).zip(self.marks.chunks_exact(width));
        of_rows
            .filter(|(scores, marks)| is_choice_of(scores, marks, least))
            .map(|(_, marks)| marks.iter().sum())
            .find(|chosen| *chosen != 1)
    }

    /// Returns true if the choice shows that scores are probabilities, and no logits.
    pub(super) fn is_of_probabilities(&self, rows: &RowScores<'_>) -> bool {
        let width = rows.width;
        let mut of_rows = rows.scores.chunks_exact(width).zip(self.marks.chunks_exact(width));
        rows.scores.iter().all(is_probability)
            && of_rows.clone().all(|(scores, marks)| is_choice_of(scores, marks, CHOSEN_FROM))
            && !of_rows.all(|(scores, marks)| is_choice_of(scores, marks, 0.0))
    }
}

fn is_choice_of(scores: &[f32], marks: &[i64], least: f32) -> bool {
    scores.iter().zip(marks).all(|(score, mark)| (*score > least) == (*mark == 1) || *score == least)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Tensor;

    fn rows(scores: &[f32], width: usize) -> RowScores<'_> {
        RowScores { scores: scores.into(), width }
    }

    #[test]
    fn probabilities_of_exclusive_classes_add_up_to_one() {
        let check = |scores: &[f32], expected| assert_eq!(sum_other_than_one(scores, 2), expected, "{scores:?}");
        check(&[0.25, 0.75, 0.5, 0.5], None);
        check(&[0.25, 0.75, 0.75, 0.75], Some(1.5));
        check(&[0.25, 0.25], Some(0.5));
        check(&[0.49, 0.5], None);
        check(&[0.0, 0.0], None);
        // Such scores are an error anyway.
        check(&[-3.0, 7.0], None);
    }

    #[test]
    fn a_model_that_chooses_several_classes_shows_it() {
        let check = |marks: &[i64], scores: &[f32], several: Option<i64>, is_of_probabilities: bool| {
            let tensor = Tensor::new(vec![1, marks.len()], Data::I64(marks.to_vec())).unwrap();
            let outputs: Tensors = [("label".into(), tensor)].into_iter().collect();
            let rows = rows(scores, scores.len());
            let choice = OwnChoice::find(&outputs, &rows);
            assert_eq!(choice.as_ref().and_then(|choice| choice.several(&rows, CHOSEN_FROM)), several, "{marks:?}");
            assert_eq!(
                choice.is_some_and(|choice| choice.is_of_probabilities(&rows)),
                is_of_probabilities,
                "{marks:?}"
            );
        };
        check(&[1, 1, 0], &[0.9, 0.8, 0.1], Some(2), true);
        check(&[0, 0, 0], &[0.3, 0.3, 0.4], Some(0), true);
        // One of several: a class in one-hot encoding. A choice by other rules, numbers, and another shape.
        check(&[1, 0, 0], &[0.9, 0.05, 0.05], None, true);
        check(&[1, 1, 0], &[0.9, 0.3, 0.1], None, false);
        check(&[2, 7, 1], &[0.9, 0.8, 0.1], None, false);
        check(&[1, 1], &[0.9, 0.8, 0.1], None, false);
    }
}
