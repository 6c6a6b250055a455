//! The confusion matrix of a version: how often each class was predicted for each true class, as far as outcomes are known.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bins::OTHER;

/// Maximum number of classes with a row and a column of their own. The rest share one.
const MAX_CLASSES: usize = 20;

/// Counts of pairs of a true and a predicted class. A corrected label moves from one pair to another, possibly on another
/// replica, so a count may be below 0 here.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ConfusionMatrix {
    classes: Vec<String>,
    /// One row for each true class and one for all others, each with one count for each predicted class and one for all
    /// others.
    counts: Vec<i64>,
}

/// Numbers of predictions by true and predicted class.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfusionCounts {
    /// Names of the classes, 20 at most. The last one is `other` if there are further ones.
    pub classes: Vec<String>,
    /// A row for each true class, with a count for each predicted class.
    pub counts: Vec<Vec<u64>>,
}

impl ConfusionMatrix {
    /// Creates an empty matrix. Known classes have rows of their own in this order; without any, classes get them in the
    /// order in which they are seen.
    pub(super) fn of_classes(classes: &[String]) -> ConfusionMatrix {
        let mut matrix = ConfusionMatrix::default();
        classes.iter().take(MAX_CLASSES).for_each(|class| matrix.place(class).map_or((), drop));
        matrix
    }

    /// Adds `amount` to the count of a true and a predicted class.
    pub(super) fn add(&mut self, actual: &str, predicted: &str, amount: i64) {
        let (row, column) = (self.place(actual), self.place(predicted));
        let width = MAX_CLASSES + 1;
        self.counts.resize(width * width, 0);
        self.counts[row.unwrap_or(MAX_CLASSES) * width + column.unwrap_or(MAX_CLASSES)] += amount;
    }

    /// Returns the index of a class, which gets a new one if there is room; `None` if it shares that of the others.
    fn place(&mut self, class: &str) -> Option<usize> {
        if let Some(known) = self.classes.iter().position(|known| known == class) {
            return Some(known);
        }
        (self.classes.len() < MAX_CLASSES).then(|| {
            self.classes.push(class.to_owned());
            self.classes.len() - 1
        })
    }

    /// Returns the counts; `None` before the first outcome.
    pub(super) fn counts(&self) -> Option<ConfusionCounts> {
        let width = MAX_CLASSES + 1;
        let count = |row: usize, column: usize| {
            self.counts.get(row * width + column).map_or(0, |count| u64::try_from(*count).unwrap_or_default())
        };
        let has_others = (0..width).any(|index| count(index, MAX_CLASSES) + count(MAX_CLASSES, index) > 0);
        let places: Vec<usize> = (0..self.classes.len()).chain(has_others.then_some(MAX_CLASSES)).collect();
        let names = places.iter().map(|place| self.classes.get(*place).map_or(OTHER, String::as_str).to_owned());
        let row = |row: &usize| places.iter().map(|column| count(*row, *column)).collect();
        (!self.counts.is_empty())
            .then(|| ConfusionCounts { classes: names.collect(), counts: places.iter().map(row).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_a_true_class_and_a_column_a_predicted_one() {
        let mut matrix = ConfusionMatrix::of_classes(&["cat".to_owned(), "dog".to_owned()]);
        assert_eq!(matrix.counts(), None);
        for (actual, predicted) in [("cat", "cat"), ("cat", "dog"), ("dog", "dog"), ("cat", "dog")] {
            matrix.add(actual, predicted, 1);
        }
        assert_eq!(matrix.counts().unwrap().counts, [[1, 2], [0, 1]]);
        // A correction; and one of a label that another replica counted.
        matrix.add("cat", "dog", -1);
        matrix.add("dog", "dog", 1);
        matrix.add("dog", "cat", -1);
        assert_eq!(matrix.counts().unwrap().counts, [[1, 1], [0, 2]]);
    }

    #[test]
    fn it_is_bounded() {
        let mut matrix = ConfusionMatrix::default();
        (0..1_000).for_each(|class| matrix.add(&class.to_string(), "0", 1));
        let ConfusionCounts { classes, counts } = matrix.counts().unwrap();
        assert_eq!((classes.len(), classes[0].as_str(), classes[20].as_str()), (21, "0", OTHER));
        assert_eq!((counts[0][0], counts[20][0], counts[20][20]), (1, 980, 0));
    }
}
