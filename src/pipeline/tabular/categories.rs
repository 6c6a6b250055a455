//! Conversion of the categories of a table to their positions in a vocabulary.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;

use crate::pipeline::Label;

/// Encoding of a category as elements of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Encoding {
    /// One element: the position of the category in the vocabulary, counted from 0.
    Index,
    /// One element per category: 1 at the position of the category, and 0 at all others.
    OneHot,
}

/// Treatment of a category that is not in the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Unknown {
    /// An unknown category is refused.
    Error,
    /// All unknown categories share one additional category, the last one.
    Other,
    /// One-hot: all elements of an unknown category are 0, as with scikit-learn's `handle_unknown="ignore"`.
    Ignore,
}

/// Conversion of the categories of a column to their positions in its vocabulary.
#[derive(Debug)]
pub(crate) struct Category {
    texts: HashMap<Arc<str>, usize>,
    numbers: HashMap<i64, usize>,
    is_one_hot: bool,
    unknown: Unknown,
    missing: Option<MissingCategory>,
}

/// Replacement of a missing value in a column of categories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MissingCategory {
    /// The category at this position in the vocabulary.
    Known(usize),
    /// A category that is not in the vocabulary.
    Unknown,
}

/// Position of a category among the elements of its column in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The category has this position, counted from 0.
    At(usize),
    /// The category has no position: all elements are 0.
    Nowhere,
}

impl Category {
    /// Creates the conversion for a vocabulary. Fails if a category occurs twice.
    pub(crate) fn of(vocabulary: &[Label], is_one_hot: bool, unknown: Unknown) -> Result<Category, String> {
        let mut category =
            Category { texts: HashMap::new(), numbers: HashMap::new(), is_one_hot, unknown, missing: None };
        for (place, label) in vocabulary.iter().enumerate() {
            let before = match label {
                Label::Text(text) => category.texts.insert(Arc::clone(text), place),
                Label::Number(number) => category.numbers.insert(*number, place),
            };
            if before.is_some() {
                return Err(format!("vocabulary: {label} occurs twice"));
            }
        }
        Ok(category)
    }

    /// Sets the replacement of missing values of the column.
    pub(crate) fn with_missing(self, missing: MissingCategory) -> Category {
        Category { missing: Some(missing), ..self }
    }

    /// Returns the position of a text in the vocabulary.
    pub(crate) fn place_of_text(&self, text: &str) -> Option<usize> {
        self.texts.get(text).copied()
    }

    /// Returns the position of a number in the vocabulary.
    pub(crate) fn place_of_number(&self, number: i64) -> Option<usize> {
        self.numbers.get(&number).copied()
    }

    /// Number of elements of a row that the column takes.
    pub(crate) fn width(&self) -> usize {
        match (self.is_one_hot, self.unknown) {
            (false, _) => 1,
            (true, Unknown::Other) => self.len() + 1,
            (true, Unknown::Error | Unknown::Ignore) => self.len(),
        }
    }

    fn len(&self) -> usize {
        self.texts.len() + self.numbers.len()
    }

    /// Describes the JSON types in the vocabulary, for messages.
    pub(crate) fn expected(&self) -> &'static str {
        match (self.takes_texts(), self.takes_numbers()) {
            (true, true) => "a string or a whole number, as in the vocabulary",
            (true, false) => "a string, as in the vocabulary",
            (false, _) => "a whole number, as in the vocabulary",
        }
    }

    /// Returns true if the vocabulary contains texts.
    pub(crate) fn takes_texts(&self) -> bool {
        !self.texts.is_empty()
    }

    /// Returns true if the vocabulary contains numbers.
    pub(crate) fn takes_numbers(&self) -> bool {
        !self.numbers.is_empty()
    }

    /// Returns one of the categories in the vocabulary, as JSON.
    pub(crate) fn sample(&self, index: usize) -> serde_json::Value {
        let place = index % self.len().max(1);
        let text = self.texts.iter().find(|(_, at)| **at == place).map(|(text, _)| text.to_string().into());
        let number = || self.numbers.iter().find(|(_, at)| **at == place).map(|(number, _)| (*number).into());
        text.or_else(number).unwrap_or_default()
    }

    /// Returns the categories in the vocabulary, as JSON.
    pub(crate) fn vocabulary(&self) -> Vec<serde_json::Value> {
        let texts = self.texts.iter().map(|(text, place)| (*place, text.to_string().into()));
        let numbers = self.numbers.iter().map(|(number, place)| (*place, (*number).into()));
        let mut all: Vec<(usize, serde_json::Value)> = texts.chain(numbers).collect();
        all.sort_by_key(|(place, _)| *place);
        all.into_iter().map(|(_, category)| category).collect()
    }

    pub(crate) fn is_one_hot(&self) -> bool {
        self.is_one_hot
    }

    /// Returns the position of a category that is a text; `None` if the category is refused.
    pub(crate) fn of_text(&self, text: &str) -> Option<Place> {
        self.place_of_text(text).map(Place::At).or_else(|| self.of_unknown())
    }

    /// Returns the position of a category that is a number; `None` if the category is refused.
    pub(crate) fn of_number(&self, number: i64) -> Option<Place> {
        self.place_of_number(number).map(Place::At).or_else(|| self.of_unknown())
    }

    /// Returns the position for a missing value; `None` if a value is required.
    pub(crate) fn of_missing(&self) -> Option<Place> {
        match self.missing? {
            MissingCategory::Known(place) => Some(Place::At(place)),
            MissingCategory::Unknown => self.of_unknown(),
        }
    }

    /// Returns the position for a category that is not in the vocabulary; `None` if such categories are refused.
    pub(crate) fn of_unknown(&self) -> Option<Place> {
        match self.unknown {
            Unknown::Error => None,
            Unknown::Other => Some(Place::At(self.len())),
            Unknown::Ignore => Some(Place::Nowhere),
        }
    }

    /// Lists the first categories in the vocabulary, for an error.
    pub(crate) fn some_of_it(&self) -> String {
        let mut all: Vec<(usize, String)> =
            self.texts.iter().map(|(text, place)| (*place, format!("{text:?}"))).collect();
        all.extend(self.numbers.iter().map(|(number, place)| (*place, number.to_string())));
        all.sort_unstable();
        let more = if all.len() > 10 { format!(" and {} more", all.len() - 10) } else { String::new() };
        let shown: Vec<String> = all.into_iter().take(10).map(|(_, label)| label).collect();
        format!("{}{more}", shown.join(", "))
    }
}
