//! Features: the named values of requests and predictions that are monitored.
//!
//! A preprocessor declares its features once ([`FeatureSchema`]) and gives their values with every request
//! ([`Features`]), so that monitoring needs no knowledge of any stage. Predictions give their values in the same way
//! ([`Observation`]).

#![warn(missing_docs)]

use std::sync::Arc;

/// Names of the features of a preprocessor, in the order of their values. Numbers and texts are separate, because they
/// are counted differently.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FeatureSchema {
    /// Names of the features that are numbers.
    pub numbers: Vec<Arc<str>>,
    /// Names of the features that are texts, which are counted as categories.
    pub texts: Vec<Arc<str>>,
}

/// Values of the features of one request, with one row per instance.
///
/// ```
/// use leeway::feature::Features;
/// let mut features = Features::with_rows(2);
/// features.numbers = vec![1.0, 0.5, f32::NAN, 2.0];
/// assert_eq!(features.numbers_of(1).len(), 2);
/// assert!(features.numbers_of(1)[0].is_nan(), "a missing number");
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Features {
    /// Number of instances.
    rows: usize,
    /// Values of the number features, row by row, in the order of the schema. NaN is a missing value. Single precision
    /// is enough: its seven digits tell neighbouring bins apart.
    pub numbers: Vec<f32>,
    /// Values of the text features, row by row, in the order of the schema. `None` is a missing value.
    pub texts: Vec<Option<String>>,
    /// Numbers of the predicted embeddings, row by row; empty if the predictions are no embeddings.
    pub embeddings: Vec<f32>,
}

/// Monitored value of one prediction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Observation {
    /// The prediction is a class.
    Class {
        /// Index of the class, from 0.
        class: usize,
        /// Certainty of the model.
        certainty: Certainty,
    },
    /// The prediction is a number.
    Value(f64),
    /// The prediction has nothing that can be monitored, as for an embedding.
    Nothing,
}

/// Certainty of a classifier, from the probabilities p of all classes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Certainty {
    /// The highest probability, 0 to 1.
    pub confidence: f32,
    /// The highest minus the second highest probability, 0 to 1.
    pub margin: f32,
    /// Shannon's entropy −Σ p ln p, divided by ln of the number of classes: 0 (sure) to 1 (all classes equally likely).
    pub entropy: f32,
}

/// Name of a monitored number of a prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PredictionNumber {
    /// The highest probability, [`Certainty::confidence`].
    Confidence,
    /// The distance to the second highest probability, [`Certainty::margin`].
    Margin,
    /// The normalised entropy, [`Certainty::entropy`].
    Entropy,
    /// The predicted number, [`Observation::Value`].
    Value,
}

/// Name of the monitored class of a prediction, in baselines and metrics.
pub const PREDICTED_CLASS: &str = "class";

/// Returns the names of all monitored values of predictions.
pub fn prediction_features() -> impl Iterator<Item = &'static str> {
    [PREDICTED_CLASS].into_iter().chain(PredictionNumber::ALL.map(PredictionNumber::name))
}

// ===== impl FeatureSchema =====

impl FeatureSchema {
    /// Number of features, numbers and texts together.
    pub fn len(&self) -> usize {
        self.numbers.len() + self.texts.len()
    }

    /// Returns true if there are no features.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

// ===== impl Features =====

impl Features {
    /// Creates the features of a request with `rows` instances, still without values.
    pub fn with_rows(rows: usize) -> Features {
        Features { rows, ..Features::default() }
    }

    /// Number of instances.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Keeps only the features of the first `rows` instances.
    pub fn truncate(&mut self, rows: usize) {
        let rows = rows.min(self.rows);
        let per_row = |values: usize| values / self.rows.max(1);
        self.numbers.truncate(rows * per_row(self.numbers.len()));
        self.texts.truncate(rows * per_row(self.texts.len()));
        self.embeddings.truncate(rows * per_row(self.embeddings.len()));
        self.rows = rows;
    }

    /// Keeps only the features of the instances for which `is_kept` is true.
    ///
    /// ```
    /// use leeway::feature::Features;
    /// let mut features = Features::with_rows(3);
    /// features.numbers = vec![1.0, 2.0, 3.0];
    /// features.retain(|row| row != 1);
    /// assert_eq!((features.rows(), features.numbers), (2, vec![1.0, 3.0]));
    /// ```
    pub fn retain(&mut self, is_kept: impl Fn(usize) -> bool) {
        let kept: Vec<usize> = (0..self.rows).filter(|row| is_kept(*row)).collect();
        let numbers = kept.iter().flat_map(|row| self.numbers_of(*row)).copied().collect();
        let texts = kept.iter().flat_map(|row| self.texts_of(*row)).cloned().collect();
        let embeddings = kept.iter().flat_map(|row| self.embedding_of(*row)).copied().collect();
        *self = Features { rows: kept.len(), numbers, texts, embeddings };
    }

    /// Returns the features of one instance alone.
    pub fn of_row(&self, row: usize) -> Features {
        Features {
            rows: 1,
            numbers: self.numbers_of(row).to_vec(),
            texts: self.texts_of(row).to_vec(),
            embeddings: self.embedding_of(row).to_vec(),
        }
    }

    /// Returns the values of the number features of one instance.
    pub fn numbers_of(&self, row: usize) -> &[f32] {
        part(&self.numbers, self.rows, row)
    }

    /// Returns the values of the text features of one instance.
    pub fn texts_of(&self, row: usize) -> &[Option<String>] {
        part(&self.texts, self.rows, row)
    }

    /// Returns the numbers of the predicted embedding of one instance.
    pub fn embedding_of(&self, row: usize) -> &[f32] {
        part(&self.embeddings, self.rows, row)
    }
}

// ===== impl Observation =====

impl Observation {
    /// Returns the name of the predicted class: one of `classes`, if they are known, or its index. `None` if the prediction
    /// is no class.
    pub fn class_name(self, classes: Option<&[String]>) -> Option<String> {
        let Observation::Class { class, .. } = self else { return None };
        Some(classes.and_then(|classes| classes.get(class).cloned()).unwrap_or_else(|| class.to_string()))
    }

    /// Returns the monitored numbers of a prediction with their names, in the precision in which they are monitored.
    ///
    /// ```
    /// use leeway::feature::{Observation, PredictionNumber};
    /// assert!(Observation::Value(0.5).numbers().eq([(PredictionNumber::Value, 0.5)]));
    /// assert_eq!(Observation::Nothing.numbers().count(), 0);
    /// ```
    pub fn numbers(self) -> impl Iterator<Item = (PredictionNumber, f32)> {
        let numbers = match self {
            Observation::Class { certainty: Certainty { confidence, margin, entropy }, .. } => [
                Some((PredictionNumber::Confidence, confidence)),
                Some((PredictionNumber::Margin, margin)),
                Some((PredictionNumber::Entropy, entropy)),
            ],
            Observation::Value(value) => [Some((PredictionNumber::Value, value as f32)), None, None],
            Observation::Nothing => [None; 3],
        };
        numbers.into_iter().flatten()
    }
}

// ===== impl PredictionNumber =====

impl PredictionNumber {
    /// All monitored numbers of predictions.
    pub const ALL: [PredictionNumber; 4] =
        [PredictionNumber::Confidence, PredictionNumber::Margin, PredictionNumber::Entropy, PredictionNumber::Value];

    /// Returns the name of the number in baselines and metrics.
    pub fn name(self) -> &'static str {
        match self {
            PredictionNumber::Confidence => "confidence",
            PredictionNumber::Margin => "margin",
            PredictionNumber::Entropy => "entropy",
            PredictionNumber::Value => "value",
        }
    }
}

fn part<T>(values: &[T], rows: usize, row: usize) -> &[T] {
    let width = values.len() / rows.max(1);
    values.get(row * width..(row + 1) * width).unwrap_or_default()
}
