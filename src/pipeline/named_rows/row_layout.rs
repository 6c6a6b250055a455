//! Places of the values of a row in its instance.

use std::collections::HashMap;

use super::instance_form::{CellKind, Elements, FormColumn, InstanceForm};
use crate::error::{Error, Result};
use crate::pipeline::json::reader::quoted;
use crate::pipeline::some_of;
use crate::tensor::DType;

/// Places of the values of a row in its instance: the same for all rows of a request.
#[derive(Debug)]
pub(super) struct RowLayout {
    members: Vec<Member>,
    closing: &'static str,
}

/// A value of an instance.
#[derive(Debug)]
struct Member {
    /// Position of the value in the row as it was sent.
    place: usize,
    /// Text before the value.
    opening: String,
    cells: CellKind,
    dtype: DType,
}

impl RowLayout {
    /// Returns the layout of rows whose values have these names. Fails if a column is unknown, missing, or occurs twice.
    pub(super) fn named<S: AsRef<str>>(names: &[S], form: &InstanceForm) -> Result<RowLayout> {
        let mut places: HashMap<&str, usize> = HashMap::with_capacity(names.len());
        for (place, name) in names.iter().enumerate() {
            if places.insert(name.as_ref(), place).is_some() {
                return Err(wrong(&format!("the column {} occurs twice", quoted(name.as_ref())), form));
            }
        }
        match form {
            InstanceForm::Object { columns, ignores_others } => {
                if !ignores_others {
                    refuse_unknown(names, columns.iter().map(FormColumn::name), form)?;
                }
                let mut members = Vec::with_capacity(columns.len());
                for column in columns {
                    match places.get(column.name()) {
                        Some(place) => members.push((*place, column)),
                        None if column.is_required => return Err(missing(column.name(), form)),
                        None => {}
                    }
                }
                Ok(RowLayout::object(&members))
            }
            InstanceForm::Value { column, elements } => {
                RowLayout::named_value(names, &places, (column, elements), form)
            }
        }
    }

    fn named_value<S: AsRef<str>>(
        names: &[S],
        places: &HashMap<&str, usize>,
        (column, elements): (&FormColumn, &Elements),
        form: &InstanceForm,
    ) -> Result<RowLayout> {
        let place = |name: &str| places.get(name).copied();
        match (elements, names.len()) {
            (_, 1) if place(column.name()) == Some(0) => Ok(RowLayout::value(column)),
            (Elements::Unnamed(length), count) if count > 0 && length.is_none_or(|length| length == count) => {
                // The names that pandas gives to the columns of a matrix.
                let is_place = |(place, name): (usize, &S)| name.as_ref() == place.to_string();
                match names.iter().enumerate().all(is_place) {
                    true => Ok(RowLayout::list(0..count, column)),
                    false => Err(wrong("the columns do not have the names 0, 1, 2, …", form)),
                }
            }
            (Elements::Unnamed(Some(length)), count) if count > 1 => {
                Err(wrong(&format!("found {count} columns, expected {length}"), form))
            }
            (Elements::Named(known), _) => {
                refuse_unknown(names, known.iter().map(|name| &**name), form)?;
                let places = known.iter().map(|name| place(name).ok_or_else(|| missing(name, form)));
                Ok(RowLayout::list(places.collect::<Result<Vec<_>>>()?, column))
            }
            (Elements::Second(second), _) => {
                refuse_unknown(names, [column.name(), second].into_iter(), form)?;
                let first = place(column.name()).ok_or_else(|| missing(column.name(), form))?;
                Ok(RowLayout::list([first].into_iter().chain(place(second)), column))
            }
            (Elements::None | Elements::Unnamed(_), _) => {
                refuse_unknown(names, [column.name()].into_iter(), form)?;
                Err(missing(column.name(), form))
            }
        }
    }

    /// Returns the layout of rows with this number of values, in the order of the columns. `None` if there should be
    /// another number of values.
    pub(super) fn positional(count: usize, form: &InstanceForm) -> Option<RowLayout> {
        match form {
            InstanceForm::Object { columns, .. } if columns.len() == count => {
                Some(RowLayout::object(&columns.iter().enumerate().collect::<Vec<_>>()))
            }
            InstanceForm::Object { .. } => None,
            InstanceForm::Value { column, elements } => match elements {
                Elements::None => (count == 1).then(|| RowLayout::value(column)),
                Elements::Named(names) => (names.len() == count).then(|| RowLayout::list(0..count, column)),
                Elements::Unnamed(length) => {
                    length.is_none_or(|length| length == count).then(|| RowLayout::list(0..count, column))
                }
                Elements::Second(_) if count == 1 => Some(RowLayout::value(column)),
                Elements::Second(_) => (count == 2).then(|| RowLayout::list(0..2, column)),
            },
        }
    }

    fn object(columns: &[(usize, &FormColumn)]) -> RowLayout {
        let member = |(index, (place, column)): (usize, &(usize, &FormColumn))| Member {
            place: *place,
            // Texts without control characters serialize without failure.
            opening: format!("{}{}:", if index == 0 { "{" } else { "," }, serde_json::Value::from(column.name())),
            cells: column.cells,
            dtype: column.spec.dtype,
        };
        let members: Vec<Member> = columns.iter().enumerate().map(member).collect();
        let closing = if members.is_empty() { "{}" } else { "}" };
        RowLayout { members, closing }
    }

    fn list(places: impl IntoIterator<Item = usize>, column: &FormColumn) -> RowLayout {
        let member = |(index, place)| Member {
            place,
            opening: (if index == 0 { "[" } else { "," }).to_owned(),
            cells: CellKind::Scalar,
            dtype: column.spec.dtype,
        };
        RowLayout { members: places.into_iter().enumerate().map(member).collect(), closing: "]" }
    }

    fn value(column: &FormColumn) -> RowLayout {
        let member = Member { place: 0, opening: String::new(), cells: column.cells, dtype: column.spec.dtype };
        RowLayout { members: vec![member], closing: "" }
    }

    /// Returns true if an instance is the value of a row as it was sent.
    pub(super) fn is_plain(&self) -> bool {
        matches!(&*self.members, [Member { cells: CellKind::Any, opening, .. }] if opening.is_empty())
    }

    /// Number of bytes that an instance has beside the values of its row, at most.
    pub(super) fn overhead(&self) -> usize {
        // A comma behind the instance, and the text around the base64 of a file.
        let members = self.members.iter().map(|member| member.opening.len() + FILE[0].len() + FILE[1].len());
        members.sum::<usize>() + self.closing.len() + 1
    }

    /// Writes the instance of a row whose values are these JSON texts. Fails if the row has too few values.
    pub(super) fn write<S: AsRef<str>>(&self, row: &[S], text: &mut String) -> Option<()> {
        self.write_with(text, |member, text| {
            write_cell(row.get(member.place)?.as_ref(), member.cells, text);
            Some(())
        })
    }

    /// Writes the instance of a row of CSV. Fails if the row has too few values.
    pub(super) fn write_fields<'a>(&self, field: impl Fn(usize) -> Option<&'a str>, text: &mut String) -> Option<()> {
        let mut value = String::new();
        self.write_with(text, |member, text| {
            value.clear();
            write_field(field(member.place)?, member.dtype, &mut value);
            write_cell(&value, member.cells, text);
            Some(())
        })
    }

    fn write_with(&self, text: &mut String, mut value: impl FnMut(&Member, &mut String) -> Option<()>) -> Option<()> {
        for member in &self.members {
            text.push_str(&member.opening);
            value(member, text)?;
        }
        text.push_str(self.closing);
        Some(())
    }
}

/// Texts around the base64 of a file.
const FILE: [&str; 2] = ["{\"b64\":", "}"];

/// Writes a value in the form that it has in an instance.
fn write_cell(value: &str, cells: CellKind, text: &mut String) {
    match (cells, value.as_bytes().first()) {
        (CellKind::Scalar, Some(b'[')) => text.push_str(only_element(value).unwrap_or(value)),
        (CellKind::ListOfOne, Some(first)) if *first != b'[' => text.extend(["[", value, "]"]),
        (CellKind::File, Some(b'"')) => text.extend([FILE[0], value, FILE[1]]),
        _ => text.push_str(value),
    }
}

/// Returns the element of a list that has only one.
fn only_element(list: &str) -> Option<&str> {
    let mut elements = crate::pipeline::json::items::Items::of(list)?;
    elements.next().filter(|_| elements.next().is_none())
}

/// Writes a field of CSV as a JSON value. An empty field is null.
fn write_field(field: &str, dtype: DType, value: &mut String) {
    let trimmed = field.trim_ascii();
    match (dtype, trimmed) {
        _ if field.is_empty() => value.push_str("null"),
        (DType::Bool, "true" | "True" | "TRUE") => value.push_str("true"),
        (DType::Bool, "false" | "False" | "FALSE") => value.push_str("false"),
        (dtype, number) if dtype != DType::Text && is_number(number) => value.push_str(number),
        _ => value.push_str(&serde_json::Value::from(field).to_string()),
    }
}

/// Returns true if a text is a number of JSON.
fn is_number(text: &str) -> bool {
    matches!(text.as_bytes().first(), Some(b'-' | b'0'..=b'9')) && serde_json::from_str::<NumberOnly>(text).is_ok()
}

/// A number of any size, whose value does not matter.
struct NumberOnly;

impl<'de> serde::Deserialize<'de> for NumberOnly {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        // The first byte is that of a number, so what is ignored is a number.
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| NumberOnly)
    }
}

fn refuse_unknown<'a, S: AsRef<str>>(
    names: &[S],
    known: impl Iterator<Item = &'a str>,
    form: &InstanceForm,
) -> Result<()> {
    let known: std::collections::HashSet<&str> = known.collect();
    match names.iter().find(|name| !known.contains(name.as_ref())) {
        Some(unknown) => Err(wrong(&format!("unknown column {}", quoted(unknown.as_ref())), form)),
        None => Ok(()),
    }
}

fn missing(name: &str, form: &InstanceForm) -> Error {
    wrong(&format!("the column {name:?} is missing"), form)
}

/// Returns the error about columns, with the columns that are known.
fn wrong(problem: &str, form: &InstanceForm) -> Error {
    Error::InvalidInput(format!("{problem}; {}", known(form)))
}

/// Describes the columns of an instance.
pub(super) fn known(form: &InstanceForm) -> String {
    let names: Vec<&str> = form.columns().iter().map(FormColumn::name).collect();
    match form {
        InstanceForm::Object { .. } if names.is_empty() => "the model takes no values".to_owned(),
        InstanceForm::Object { .. } => format!("the columns are: {}", some_of(&names)),
        InstanceForm::Value { column, elements } => match elements {
            Elements::None => format!("the only column is {:?}", column.name()),
            Elements::Named(names) => format!("the columns are: {}; or {:?} with lists", some_of(names), column.name()),
            Elements::Unnamed(length) => {
                let of = length.map(|length| format!(" of {length} elements")).unwrap_or_default();
                format!(
                    "the only column is {:?} with lists{of}, whose elements have no names (columns in [preprocess] of \
                     model.toml)",
                    column.name()
                )
            }
            Elements::Second(second) => format!("the columns are: {}, and optionally {second}", column.name()),
        },
    }
}
