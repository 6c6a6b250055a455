//! Removal of members from instances. An instance from which a name cannot be removed is not logged at all.

use std::collections::BTreeSet;

use serde_json::Value;
use serde_json::value::RawValue;

/// Names that are never written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Redaction {
    names: BTreeSet<String>,
    /// True if a name may be a part of an instance that is no object, such as an array of the columns of a table.
    has_parts_of_instances: bool,
}

impl Redaction {
    /// Creates a redaction of these names. `columns` are the columns of the log that can be redacted, and `is_feature`
    /// finds the names that are features as well.
    pub(super) fn new<'a>(
        names: impl Iterator<Item = &'a String>,
        columns: &[&str],
        is_feature: impl Fn(&str) -> bool,
    ) -> Redaction {
        let names: BTreeSet<String> = names.cloned().collect();
        let has_parts_of_instances = names.iter().any(|name| !columns.contains(&&**name) || is_feature(name));
        Redaction { names, has_parts_of_instances }
    }

    /// Returns true if this name is never written.
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Returns the text of an instance without the redacted members, at any depth; `None` if it must not be written,
    /// because its parts have no names.
    pub(super) fn apply(&self, instance: &RawValue) -> Option<String> {
        if self.names.is_empty() {
            return Some(instance.get().to_owned());
        }
        let mut value: Value = serde_json::from_str(instance.get()).ok()?;
        if !value.is_object() && self.has_parts_of_instances {
            return None;
        }
        self.remove_from(&mut value);
        Some(value.to_string())
    }

    fn remove_from(&self, value: &mut Value) {
        match value {
            Value::Object(members) => {
                members.retain(|name, _| !self.names.contains(name));
                members.values_mut().for_each(|value| self.remove_from(value));
            }
            Value::Array(elements) => elements.iter_mut().for_each(|value| self.remove_from(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(names: &[&str], instance: &str, expected: Option<&str>) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let redaction = Redaction::new(names.iter(), &["answer", "value"], |name| name == "value");
        let instance: Box<RawValue> = serde_json::from_str(instance).unwrap();
        assert_eq!(redaction.apply(&instance).as_deref(), expected, "{names:?}");
    }

    #[test]
    fn members_are_removed_at_any_depth() {
        check(&[], r#"{ "a": 1 }"#, Some(r#"{ "a": 1 }"#));
        check(&["a"], r#"{"a": 1, "b": [{"a": 2, "c": 3}]}"#, Some(r#"{"b":[{"c":3}]}"#));
        // A name that is written with an escape is the same name.
        check(&["age"], r#"{"\u0061ge": 30}"#, Some("{}"));
        check(&["age"], r#"{"Age": 30}"#, Some(r#"{"Age":30}"#));
    }

    #[test]
    fn an_instance_without_names_is_not_written() {
        check(&["a"], "[1, 2]", None);
        check(&["a"], "\"text\"", None);
        // Only a column of the log is redacted.
        check(&["answer"], "[1, 2]", Some("[1,2]"));
        // A feature has the name of a column.
        check(&["value"], "[1, 2]", None);
    }
}
