//! The columns of `kind = "tabular"`: their settings, and what becomes of a value.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;

use crate::error::{Result, SetupError};
use crate::pipeline::Label;
use crate::tensor::{DType, Data};

/// `[[preprocess.columns]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ColumnSettings {
    /// The key in an instance.
    pub(crate) name: String,
    /// Kind of its values; without it, what the type of its input suggests.
    pub(crate) kind: Option<ColumnKind>,
    /// The model's input that it is part of; without it, the one of its name, or the only one.
    pub(crate) input: Option<String>,
    /// Replacement of a value that is null or missing; without it, such a value is an error.
    missing: Option<Missing>,
    /// Numbers: the least and the greatest; what is beyond is taken for them.
    clip: Option<[f64; 2]>,
    /// Numbers: whether ln (1 + x) is taken.
    #[serde(default)]
    log1p: bool,
    /// Numbers: (x − mean) ÷ deviation.
    standardise: Option<Standardise>,
    /// Categories: what they are, in order.
    vocabulary: Option<Vec<Label>>,
    /// Categories: how they are written.
    encoding: Option<Encoding>,
    /// Categories: what becomes of one that is not in the vocabulary.
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

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Standardise {
    mean: f64,
    deviation: f64,
}

/// Encoding of a category.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Encoding {
    /// Its place in the vocabulary, counted from 0.
    Index,
    /// A 1 in its place, and 0 in all others.
    OneHot,
}

/// Treatment of a category that is not in the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Unknown {
    /// It is refused.
    Error,
    /// All of these are one category more, the last.
    Other,
    /// One-hot: all places are 0, as with scikit-learn's `handle_unknown="ignore"`.
    Ignore,
}

/// Conversion of the values of a column.
#[derive(Debug)]
pub(crate) enum Values {
    /// As in [`Number::transformed`].
    Number(Number),
    /// A place in a vocabulary.
    Category(Category),
    /// 1 or 0.
    Boolean {
        /// Replacement of a missing value.
        missing: Option<bool>,
    },
    /// As they are.
    Text {
        /// Replacement of a missing value.
        missing: Option<String>,
    },
}

/// Conversion of a number.
#[derive(Debug)]
pub(crate) struct Number {
    /// Replacement of a missing value; NaN where the model itself handles it.
    pub(crate) missing: Option<Quantity>,
    clip: Option<[f64; 2]>,
    log1p: bool,
    standardise: Option<Standardise>,
}

/// A number before it becomes an element of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Quantity {
    /// An exact whole number.
    Integer(i128),
    /// Any number, in double precision.
    Float(f64),
}

/// Index of categories in the vocabulary.
#[derive(Debug)]
pub(crate) struct Category {
    texts: HashMap<Arc<str>, usize>,
    numbers: HashMap<i64, usize>,
    is_one_hot: bool,
    unknown: Unknown,
    missing: Option<MissingCategory>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MissingCategory {
    Known(usize),
    Unknown,
}

/// The place of a category within its part of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// This one, counted from 0.
    At(usize),
    /// None: all are 0.
    Nowhere,
}

impl ColumnSettings {
    /// A column of which only the name is known.
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

    /// Returns the conversion of its values for an input of this type.
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
            return Err(format!("{key}: only a column of kind {:?} has it", of.name()));
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
                Some(Missing::Boolean(missing)) => Ok(Values::Boolean { missing: Some(missing) }),
                Some(_) => Err("missing: true, false or \"error\" for a boolean".to_owned()),
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
        let is_float = matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16);
        let missing = match missing {
            None => None,
            Some(Missing::Number(value)) if value.is_finite() => Some(Quantity::Float(value)),
            Some(Missing::Integer(value)) => Some(Quantity::Integer(value.into())),
            Some(Missing::Text(word)) if word == "nan" && is_float => Some(Quantity::Float(f64::NAN)),
            Some(Missing::Text(word)) if word == "nan" => return Err(format!("missing: {dtype} has no NaN")),
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
        let mut category =
            Category { texts: HashMap::new(), numbers: HashMap::new(), is_one_hot, unknown, missing: None };
        for (place, label) in vocabulary.iter().enumerate() {
            let before = match label {
                Label::Text(text) => category.texts.insert(Arc::clone(text), place),
                Label::Number(number) => category.numbers.insert(*number, place),
            };
            if before.is_some() {
                return Err(format!("vocabulary: {label} is there twice"));
            }
        }
        let place = match &missing {
            None => return Ok(category),
            Some(Missing::Text(text)) => category.texts.get(text.as_str()).copied(),
            Some(Missing::Integer(number)) => category.numbers.get(number).copied(),
            Some(Missing::Boolean(_) | Missing::Number(_)) => None,
        };
        category.missing = Some(match (place, missing) {
            (Some(place), _) => MissingCategory::Known(place),
            (None, Some(Missing::Text(word))) if word == "unknown" && unknown != Unknown::Error => {
                MissingCategory::Unknown
            }
            _ => {
                return Err(
                    "missing: a category of the vocabulary, or \"unknown\" if those are not an error".to_owned()
                );
            }
        });
        Ok(category)
    }
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
    /// Number of elements of a row that they take.
    pub(crate) fn width(&self) -> usize {
        match self {
            Values::Category(category) => category.width(),
            Values::Number(_) | Values::Boolean { .. } | Values::Text { .. } => 1,
        }
    }

    /// Returns true if a row must have a value.
    pub(crate) fn is_needed(&self) -> bool {
        match self {
            Values::Number(number) => number.missing.is_none(),
            Values::Category(category) => category.missing.is_none(),
            Values::Boolean { missing } => missing.is_none(),
            Values::Text { missing } => missing.is_none(),
        }
    }

    /// A value that is made up, for a row and the place of a column: different rows have different ones.
    pub(crate) fn sample(&self, row: usize, place: usize, dtype: DType) -> serde_json::Value {
        let is_float = matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16);
        match self {
            Values::Number(number) => {
                // Around what is usual, if that is known; else positive, for a logarithm.
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

    /// Returns true if they are monitored as categories, and not as numbers.
    pub(crate) fn are_categories(&self) -> bool {
        !matches!(self, Values::Number(_))
    }

    /// Returns true if they are texts, even where they look like numbers.
    pub(crate) fn are_texts(&self) -> bool {
        match self {
            Values::Text { .. } => true,
            Values::Category(category) => !category.texts.is_empty(),
            Values::Number(_) | Values::Boolean { .. } => false,
        }
    }
}

impl Number {
    /// Returns true if the value is not changed.
    pub(crate) fn leaves_as_is(&self) -> bool {
        self.clip.is_none() && !self.log1p && self.standardise.is_none()
    }

    /// Returns the value after clip, logarithm and standardisation, in this order, as far as they are configured;
    /// `None` if it has no logarithm. A whole number that is only clipped stays exact.
    pub(crate) fn transformed(&self, value: Quantity) -> Option<Quantity> {
        if let (Quantity::Integer(value), false, None) = (value, self.log1p, self.standardise) {
            return Some(match self.clip {
                Some([least, _]) if value < least.ceil() as i128 => Quantity::Float(least),
                Some([_, most]) if value > most.floor() as i128 => Quantity::Float(most),
                _ => Quantity::Integer(value),
            });
        }
        let value = value.as_f64();
        let value = self.clip.map_or(value, |[least, most]| value.clamp(least, most));
        if self.log1p && value <= -1.0 {
            return None;
        }
        let value = if self.log1p { value.ln_1p() } else { value };
        Some(Quantity::Float(self.standardise.map_or(value, |by| (value - by.mean) / by.deviation)))
    }
}

impl Quantity {
    pub(crate) fn as_f64(self) -> f64 {
        match self {
            Quantity::Integer(value) => value as f64,
            Quantity::Float(value) => value,
        }
    }

    /// Returns the value as a whole number, if it is one.
    fn as_integer(self) -> Option<i128> {
        match self {
            Quantity::Integer(value) => Some(value),
            // The cast is exact within ±2^126, which includes all tensor types.
            Quantity::Float(value) if value.fract() == 0.0 && value.abs() < 2f64.powi(126) => Some(value as i128),
            Quantity::Float(_) => None,
        }
    }
}

/// The shortest form: 1e300, not three hundred zeros.
impl std::fmt::Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Quantity::Integer(value) => write!(f, "{value}"),
            Quantity::Float(value) => write!(f, "{value:?}"),
        }
    }
}

impl Category {
    fn width(&self) -> usize {
        match (self.is_one_hot, self.unknown) {
            (false, _) => 1,
            (true, Unknown::Other) => self.len() + 1,
            (true, Unknown::Error | Unknown::Ignore) => self.len(),
        }
    }

    fn len(&self) -> usize {
        self.texts.len() + self.numbers.len()
    }

    /// Returns the JSON types of the vocabulary, for messages.
    pub(crate) fn expected(&self) -> &'static str {
        match (self.takes_texts(), self.takes_numbers()) {
            (true, true) => "a string or a whole number, as in the vocabulary",
            (true, false) => "a string, as in the vocabulary",
            (false, _) => "a whole number, as in the vocabulary",
        }
    }

    /// Returns true if the vocabulary has texts.
    pub(crate) fn takes_texts(&self) -> bool {
        !self.texts.is_empty()
    }

    /// Returns true if the vocabulary has numbers.
    pub(crate) fn takes_numbers(&self) -> bool {
        !self.numbers.is_empty()
    }

    /// One of the categories.
    fn sample(&self, index: usize) -> serde_json::Value {
        let place = index % self.len().max(1);
        let text = self.texts.iter().find(|(_, at)| **at == place).map(|(text, _)| text.to_string().into());
        let number = || self.numbers.iter().find(|(_, at)| **at == place).map(|(number, _)| (*number).into());
        text.or_else(number).unwrap_or_default()
    }

    pub(crate) fn is_one_hot(&self) -> bool {
        self.is_one_hot
    }

    /// The place of a category that is a text; `None` if it is an error.
    pub(crate) fn of_text(&self, text: &str) -> Option<Place> {
        self.texts.get(text).map(|place| Place::At(*place)).or_else(|| self.of_unknown())
    }

    /// The place of a category that is a number.
    pub(crate) fn of_number(&self, number: i64) -> Option<Place> {
        self.numbers.get(&number).map(|place| Place::At(*place)).or_else(|| self.of_unknown())
    }

    /// The place of what is missing.
    pub(crate) fn of_missing(&self) -> Option<Place> {
        match self.missing? {
            MissingCategory::Known(place) => Some(Place::At(place)),
            MissingCategory::Unknown => self.of_unknown(),
        }
    }

    /// The place of what is not in the vocabulary.
    pub(crate) fn of_unknown(&self) -> Option<Place> {
        match self.unknown {
            Unknown::Error => None,
            Unknown::Other => Some(Place::At(self.len())),
            Unknown::Ignore => Some(Place::Nowhere),
        }
    }

    /// Some of the vocabulary, for an error.
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

/// Puts a number into its place in a tensor; false if the tensor's type does not have it.
pub(crate) fn put(data: &mut Data, index: usize, value: Quantity) -> bool {
    macro_rules! whole {
        ($values:expr) => {{
            let fits = value.as_integer().and_then(|value| value.try_into().ok());
            fits.map(|value| $values[index] = value).is_some()
        }};
    }
    match data {
        Data::F32(values) => {
            values[index] = value.as_f64() as f32;
            values[index].is_finite() || !value.as_f64().is_finite()
        }
        Data::F64(values) => {
            values[index] = value.as_f64();
            true
        }
        Data::F16(values) => {
            values[index] = half::f16::from_f64(value.as_f64());
            values[index].is_finite() || !value.as_f64().is_finite()
        }
        Data::BF16(values) => {
            values[index] = half::bf16::from_f64(value.as_f64());
            values[index].is_finite() || !value.as_f64().is_finite()
        }
        Data::I8(values) => whole!(values),
        Data::I16(values) => whole!(values),
        Data::I32(values) => whole!(values),
        Data::I64(values) => whole!(values),
        Data::U8(values) => whole!(values),
        Data::U16(values) => whole!(values),
        Data::U32(values) => whole!(values),
        Data::U64(values) => whole!(values),
        Data::Bool(values) => {
            values[index] = value.as_f64() != 0.0;
            value.as_f64() == 0.0 || value.as_f64() == 1.0
        }
        Data::Text(_) => false,
    }
}
