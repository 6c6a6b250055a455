//! Names of the targets of a model that predicts several things for a row, and the target that is monitored.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::SetupError;
use crate::identity::shown;

/// Maximum length of a name, in bytes: it is in every response.
const MAX_NAME: usize = 256;

/// Names of several targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TargetNames {
    /// The names, in the order of the predictions.
    pub(super) names: Arc<[Arc<str>]>,
    /// Index of the target that is monitored and compared with feedback.
    pub(super) monitored: usize,
    /// True if `model.toml` does not choose the monitored target.
    is_default: bool,
}

impl TargetNames {
    /// Checks the names, and finds the monitored target among them; by default, it is the first.
    pub(super) fn new(names: Vec<String>, monitored: Option<&str>) -> Result<TargetNames, SetupError> {
        let wrong = |problem: String| Err(SetupError::Config(problem));
        if names.is_empty() {
            return wrong(
                "targets: the list is empty; name the targets, as in targets = [\"price\", \"days\"]".to_owned(),
            );
        }
        let is_name = |name: &str| (1..=MAX_NAME).contains(&name.len()) && !name.contains(|c: char| c.is_control());
        let mut once = BTreeSet::new();
        for name in &names {
            if !is_name(name) {
                return wrong(format!(
                    "targets: \"{}\" is not a name: it has 1 to {MAX_NAME} bytes, without control characters",
                    shown(name)
                ));
            }
            if !once.insert(name) {
                return wrong(format!("targets: {name:?} occurs twice"));
            }
        }
        let place = match monitored {
            None => 0,
            Some(monitored) => match names.iter().position(|name| name == monitored) {
                Some(place) => place,
                None => {
                    let names = names.join(", ");
                    return wrong(format!("monitored: there is no target \"{}\"; there are {names}", shown(monitored)));
                }
            },
        };
        let is_default = monitored.is_none() && names.len() > 1;
        Ok(TargetNames { names: names.into_iter().map(Into::into).collect(), monitored: place, is_default })
    }

    /// Describes the assumption about the monitored target, if `model.toml` does not choose it.
    pub(super) fn assumption(&self) -> Option<String> {
        self.is_default.then(|| {
            format!(
                "of the targets, only {:?} is monitored and compared with feedback; set monitored in [postprocess] to choose \
                 another",
                self.names[self.monitored]
            )
        })
    }
}

/// Returns the error for a setting that only a model with several targets has.
pub(super) fn only_with_targets(key: &str) -> SetupError {
    SetupError::Config(format!("{key}: it chooses one of several targets; name them with targets"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_one_is_monitored() {
        let of = |names: &[&str], monitored: Option<&str>| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            TargetNames::new(names, monitored).map_err(|error| error.to_string())
        };
        assert_eq!(of(&["a", "b"], Some("b")).map(|names| (names.monitored, names.assumption())), Ok((1, None)));
        assert!(of(&["a", "b"], None).unwrap().assumption().unwrap().contains("only \"a\" is monitored"));
        assert_eq!(of(&["a"], None).unwrap().assumption(), None);
        for (names, monitored, problem) in [
            (&[][..], None, "targets: the list is empty"),
            (&["a", "b", "a"], None, "targets: \"a\" occurs twice"),
            (&["a", ""], None, "targets: \"\" is not a name"),
            (&["a\u{1b}"], None, "is not a name: it has 1 to 256 bytes, without control characters"),
            (&["a", "b"], Some("c"), "monitored: there is no target \"c\"; there are a, b"),
        ] {
            let found = of(names, monitored).unwrap_err();
            assert!(found.contains(problem), "{found}");
        }
    }
}
