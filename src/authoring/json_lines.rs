//! JSON lines: each line is an instance, or an instance with its label and its time.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::Path;

use serde_json::Value;
use serde_json::value::RawValue;

use super::columns::LabelColumn;
use super::data_file::open_text;
use super::row::{Place, Row, Rows};
use crate::error::{Result, SetupError};

/// Member of a line that is no part of the instance: it has the label, or the time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum LabelMember {
    /// All of a line is the instance.
    #[default]
    None,
    /// The member is read, and the others are the instance.
    Read(String),
    /// The member is left out, if a line has it.
    LeftOut(String),
}

/// Member with the instance, if it is no object of its own: `{"instance": "a text", "label": "spam"}`.
const INSTANCE: &str = "instance";

/// Reads the instances of a file, with their labels.
pub(super) fn json_lines<'a>(
    path: &'a Path,
    label: &'a LabelMember,
    time: &'a LabelMember,
) -> Result<Rows<'a>, SetupError> {
    let wrong =
        move |line: u64, problem: String| SetupError::Repository(format!("{}: line {line}{problem}", path.display()));
    let lines = (1..).zip(open_text(path)?.lines());
    let is_empty = |line: &std::io::Result<String>| line.as_ref().is_ok_and(|line| line.trim().is_empty());
    Ok(Box::new(lines.filter(move |(_, line)| !is_empty(line)).map(move |(number, line)| {
        let line = line.map_err(|error| wrong(number, format!(": {error}")))?;
        let instance: Box<RawValue> = serde_json::from_str(&line).map_err(|error| {
            // Removes "at line 1", which counts within this line only.
            let (problem, column) = (error.to_string(), error.column());
            let problem = problem.split(" at line ").next().unwrap_or_default();
            wrong(number, format!(", column {column}: this is not an instance as JSON: {problem}"))
        })?;
        let (instance, value) = label.split(instance).map_err(|problem| wrong(number, format!(": {problem}")))?;
        let (instance, time) = time.split(instance).map_err(|problem| wrong(number, format!(": {problem}")))?;
        Ok(Row { label: value, time, ..Row::new(Place::Line(number), instance) })
    })))
}

// ===== impl LabelMember =====

impl LabelMember {
    pub(super) fn new(label: Option<LabelColumn<'_>>) -> LabelMember {
        match label {
            None => LabelMember::None,
            Some(LabelColumn::Read(name)) => LabelMember::Read(name.to_owned()),
            Some(LabelColumn::LeftOut(name)) => LabelMember::LeftOut(name.to_owned()),
        }
    }

    /// The member with the time, if one is named.
    pub(super) fn of_time(column: Option<&str>) -> LabelMember {
        column.map_or(LabelMember::None, |name| LabelMember::Read(name.to_owned()))
    }

    /// Divides a line into the instance and the member.
    fn split(&self, line: Box<RawValue>) -> Result<(Box<RawValue>, Option<Value>), String> {
        let (name, is_read) = match self {
            LabelMember::None => return Ok((line, None)),
            LabelMember::Read(name) => (name, true),
            LabelMember::LeftOut(name) => (name, false),
        };
        let Ok(mut members) = serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(line.get()) else {
            return match is_read {
                true => Err(format!(
                    "expected an object with the member {name:?}: the columns of a row, or {{\"{INSTANCE}\": …, \
                     {name:?}: …}}"
                )),
                false => Ok((line, None)),
            };
        };
        let label = members.remove(name).and_then(|label| serde_json::from_str(label.get()).ok());
        if label.is_none() && !is_read {
            return Ok((line, None));
        }
        let instance = match members.remove(INSTANCE) {
            Some(instance) if members.is_empty() => instance,
            others => {
                members.extend(others.map(|value| (INSTANCE.to_owned(), value)));
                serde_json::value::to_raw_value(&members).map_err(|error| error.to_string())?
            }
        };
        Ok((instance, label))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(member: &LabelMember, line: &str, instance: &str, label: Option<Value>) {
        let line = RawValue::from_string(line.to_owned()).unwrap();
        let (found, found_label) = member.split(line).unwrap();
        assert_eq!((found.get(), found_label), (instance, label));
    }

    #[test]
    fn a_label_is_a_member_beside_the_instance() {
        let read = LabelMember::Read("y".to_owned());
        check(&read, r#"{"y": "no", "age": 3}"#, r#"{"age":3}"#, Some("no".into()));
        check(&read, r#"{"instance": [1, 2], "y": 1}"#, "[1, 2]", Some(1.into()));
        check(&read, r#"{"instance": 5, "age": 3, "y": null}"#, r#"{"age":3,"instance":5}"#, Some(Value::Null));
        check(&read, r#"{"age": 3}"#, r#"{"age":3}"#, None);
        let left_out = LabelMember::LeftOut("y".to_owned());
        check(&left_out, r#"{"y": 1, "age": 3}"#, r#"{"age":3}"#, Some(1.into()));
        check(&left_out, r#"{"instance": "x"}"#, r#"{"instance": "x"}"#, None);
        check(&left_out, r#""a text""#, r#""a text""#, None);
        check(&LabelMember::None, r#"{"y": 1}"#, r#"{"y": 1}"#, None);
        let problem = read.split(RawValue::from_string("[1]".to_owned()).unwrap()).unwrap_err();
        assert!(problem.starts_with("expected an object with the member \"y\""), "{problem}");
    }
}
