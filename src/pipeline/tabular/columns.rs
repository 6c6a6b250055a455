//! Settings of the columns of `kind = "tabular"`, and the conversion of their values.

use serde::Deserialize;

use super::categories::{Category, Encoding, MissingCategory, Unknown};
use super::numbers::{Number, Quantity, Standardise};
use crate::error::SetupError;
use crate::pipeline::Label;
use crate::tensor::DType;

/// Settings of a column: one section `[[preprocess.columns]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ColumnSettings {
    /// Name of the column, which is its key in an instance.
    pub(crate) name: String,
    /// Kind of the column's values; by default, it follows from the type of its input.
    pub(crate) kind: Option<ColumnKind>,
    /// The model's input that the column is part of; by default, the input with the column's name, or the only input.
    pub(crate) input: Option<String>,
    /// Replacement of a value that is null or missing; by default, such a value is an error.
    missing: Option<Missing>,
    /// Numbers: minimum and maximum. A value outside is replaced by the nearer of the two.
    clip: Option<[f64; 2]>,
    /// Numbers: true if x is replaced by ln (1 + x).
    #[serde(default)]
    log1p: bool,
    /// Numbers: mean and deviation of the standardisation (x − mean) ÷ deviation.
    standardise: Option<Standardise>,
    /// Categories: the known categories, in order.
    vocabulary: Option<Vec<Label>>,
    /// Categories: their encoding.
    encoding: Option<Encoding>,
    /// Categories: treatment of a category that is not in the vocabulary.
    unknown: Option<Unknown>,
}

/// Kind of the values of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ColumnKind {
    Number,
    Category,
    Boolean,
    Text,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged, expecting = "missing is a value, \"nan\" or \"error\"")]
enum Missing {
    Boolean(bool),
    Integer(i64),
    Number(f64),
    Text(String),
}

/// Conversion of the values of a column to elements of a tensor.
#[derive(Debug)]
pub(crate) enum Values {
    /// A number, converted as in [`Number::transformed`].
    Number(Number),
    /// A category, converted to its position in a vocabulary.
    Category(Category),
    /// A boolean, which becomes 1 or 0.
    Boolean {
        /// Replacement of a missing value: 1, 0 or NaN.
        missing: Option<Quantity>,
    },
    /// A text, unchanged.
    Text {
        /// Replacement of a missing value.
        missing: Option<String>,
    },
}

impl ColumnSettings {
    /// Creates the settings of a column that has only a name.
    pub(crate) fn named(name: &str) -> ColumnSettings {
        ColumnSettings {
            name: name.to_owned(),
            kind: None,
            input: None,
            missing: None,
            clip: None,
            log1p: false,
            standardise: None,
            vocabulary: None,
            encoding: None,
            unknown: None,
        }
    }

    /// Returns the conversion of the column's values for an input of this type.
    pub(crate) fn values(self, dtype: DType) -> Result<Values, SetupError> {
        let kind = match (self.kind, &self.vocabulary, dtype) {
            (Some(kind), ..) => kind,
            (None, Some(_), _) => ColumnKind::Category,
            (None, None, DType::Text) => ColumnKind::Text,
            (None, None, DType::Bool) => ColumnKind::Boolean,
            (None, None, _) => ColumnKind::Number,
        };
        let name = self.name.clone();
        self.values_of(kind, dtype).map_err(|problem| SetupError::Config(format!("column {name:?}: {problem}")))
    }

    fn values_of(self, kind: ColumnKind, dtype: DType) -> Result<Values, String> {
        use ColumnKind::{Category as C, Number as N};
        let given = [
            ("clip", self.clip.is_some(), N),
            ("log1p", self.log1p, N),
            ("standardise", self.standardise.is_some(), N),
            ("vocabulary", self.vocabulary.is_some(), C),
            ("encoding", self.encoding.is_some(), C),
            ("unknown", self.unknown.is_some(), C),
        ];
        if let Some((key, _, of)) = given.into_iter().find(|(_, is_given, of)| *is_given && *of != kind) {
            return Err(format!("{key}: only applies to a column of kind {:?}", of.name()));
        }
        if (dtype == DType::Text) != (kind == ColumnKind::Text) {
            return Err(format!("kind: a {} does not go into an input of type {dtype}", kind.name()));
        }
        let missing = self.missing.clone().filter(|missing| *missing != Missing::Text("error".to_owned()));
        match kind {
            ColumnKind::Number => self.number(missing, dtype).map(Values::Number),
            ColumnKind::Category => self.category(missing).map(Values::Category),
            ColumnKind::Boolean => match missing {
                None => Ok(Values::Boolean { missing: None }),
                Some(Missing::Boolean(missing)) => {
                    Ok(Values::Boolean { missing: Some(Quantity::Integer(missing.into())) })
                }
                Some(Missing::Text(word)) if word == "nan" => {
                    Ok(Values::Boolean { missing: Some(Quantity::Float(not_a_number(dtype)?)) })
                }
                Some(_) => Err("missing: true, false, \"nan\" or \"error\" for a boolean".to_owned()),
            },
            ColumnKind::Text => match missing {
                None => Ok(Values::Text { missing: None }),
                Some(Missing::Text(missing)) if missing.contains('\0') => {
                    Err("missing: a text without a NUL character, which the model cannot take".to_owned())
                }
                Some(Missing::Text(missing)) => Ok(Values::Text { missing: Some(missing) }),
                Some(_) => Err("missing: a text in quotes, or \"error\"".to_owned()),
            },
        }
    }

    fn number(self, missing: Option<Missing>, dtype: DType) -> Result<Number, String> {
        let missing = match missing {
            None => None,
            Some(Missing::Number(value)) if value.is_finite() => Some(Quantity::Float(value)),
            Some(Missing::Integer(value)) => Some(Quantity::Integer(value.into())),
            Some(Missing::Text(word)) if word == "nan" => Some(Quantity::Float(not_a_number(dtype)?)),
            Some(_) => return Err("missing: a number, \"nan\" or \"error\"".to_owned()),
        };
        if let Some([least, most]) = self.clip
            && (least.is_nan() || most.is_nan() || least > most)
        {
            return Err(format!("clip: {least} is not below {most}"));
        }
        if let Some(Standardise { mean, deviation }) = self.standardise
            && !(mean.is_finite() && deviation > 0.0 && deviation.is_finite())
        {
            return Err("standardise: the deviation has to be above 0".to_owned());
        }
        Ok(Number { missing, clip: self.clip, log1p: self.log1p, standardise: self.standardise })
    }

    fn category(self, missing: Option<Missing>) -> Result<Category, String> {
        let vocabulary = self.vocabulary.filter(|vocabulary| !vocabulary.is_empty());
        let vocabulary = vocabulary.ok_or("vocabulary: list the categories, in the order of training")?;
        let is_one_hot = self.encoding == Some(Encoding::OneHot);
        let unknown = self.unknown.unwrap_or(Unknown::Error);
        if unknown == Unknown::Ignore && !is_one_hot {
            return Err("unknown: only a one-hot encoding can ignore what is not in the vocabulary".to_owned());
        }
        let category = Category::of(&vocabulary, is_one_hot, unknown)?;
        let place = match &missing {
            None => return Ok(category),
            Some(Missing::Text(text)) => category.place_of_text(text),
            Some(Missing::Integer(number)) => category.place_of_number(*number),
            Some(Missing::Boolean(_) | Missing::Number(_)) => None,
        };
        match (place, missing) {
            (Some(place), _) => Ok(category.with_missing(MissingCategory::Known(place))),
            (None, Some(Missing::Text(word))) if word == "unknown" && unknown != Unknown::Error => {
                Ok(category.with_missing(MissingCategory::Unknown))
            }
            _ => Err("missing: a category of the vocabulary, or \"unknown\" if unknown is not \"error\"".to_owned()),
        }
    }
}

/// Returns NaN, or an error for an input of a type that has no NaN.
fn not_a_number(dtype: DType) -> Result<f64, String> {
    let is_float = matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16);
    is_float.then_some(f64::NAN).ok_or_else(|| format!("missing: {dtype} has no NaN"))
}

impl ColumnKind {
    fn name(self) -> &'static str {
        match self {
            ColumnKind::Number => "number",
            ColumnKind::Category => "category",
            ColumnKind::Boolean => "boolean",
            ColumnKind::Text => "text",
        }
    }
}

impl Values {
    /// Number of elements of a row that a value of the column takes.
    pub(crate) fn width(&self) -> usize {
        match self {
            Values::Category(category) => category.width(),
            Values::Number(_) | Values::Boolean { .. } | Values::Text { .. } => 1,
        }
    }

    /// Returns the type of the values as they are sent, of a column that is part of an input of this type.
    pub(crate) fn dtype_sent(&self, input: DType) -> DType {
        match self {
            Values::Number(_) => input,
            Values::Boolean { .. } => DType::Bool,
            Values::Text { .. } => DType::Text,
            Values::Category(category) if category.takes_texts() => DType::Text,
            Values::Category(_) => DType::I64,
        }
    }

    /// Returns true if every row must have a value for the column.
    pub(crate) fn is_needed(&self) -> bool {
        match self {
            Values::Number(number) => number.missing.is_none(),
            Values::Category(category) => category.of_missing().is_none(),
            Values::Boolean { missing } => missing.is_none(),
            Values::Text { missing } => missing.is_none(),
        }
    }

    /// Returns a made-up value, which depends on the row and on the position of the column.
    pub(crate) fn sample(&self, row: usize, place: usize, dtype: DType) -> serde_json::Value {
        let is_float = matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16);
        match self {
            Values::Number(number) => {
                // Takes values around the mean if it is known; otherwise positive values, which have a logarithm.
                let (mean, deviation) = number.standardise.map_or((1.5, 1.0), |by| (by.mean, by.deviation));
                let away = [-0.9, 0.1, 1.7][row] + 0.2 * ((place * 7 + row * 3) % 5) as f64;
                let value = (mean + deviation * away).max(if number.log1p { -0.9 } else { f64::NEG_INFINITY });
                if is_float { value.into() } else { (value.abs().round().min(100.0) as i64).into() }
            }
            Values::Category(category) => category.sample(row + place),
            Values::Boolean { .. } => (row + place).is_multiple_of(2).into(),
            Values::Text { .. } => format!("w{}", (row * 3 + place) % 7).into(),
        }
    }

    /// Returns true if the values are monitored as categories, not as numbers.
    pub(crate) fn are_categories(&self) -> bool {
        !matches!(self, Values::Number(_))
    }

    /// Returns true if the values are texts, even where they look like numbers.
    pub(crate) fn are_texts(&self) -> bool {
        match self {
            Values::Text { .. } => true,
            Values::Category(category) => category.takes_texts(),
            Values::Number(_) | Values::Boolean { .. } => false,
        }
    }
}
