//! Problems with the repository and the journal, remembered so that each change is logged once.

use std::collections::BTreeMap;

/// The current problems, by subject.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Problems(BTreeMap<String, String>);

/// A problem that has appeared or is resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ProblemChange {
    /// The problem is new, or its text has changed.
    Appeared(String),
    /// The problem is gone. Holds its former text.
    Resolved(String),
}

impl Problems {
    /// Replaces the current problems with these, and returns the problems that have appeared or are resolved.
    pub(super) fn replace(&mut self, now: BTreeMap<String, String>) -> Vec<ProblemChange> {
        let appeared = now.iter().filter(|(about, problem)| self.0.get(*about) != Some(problem));
        let appeared = appeared.map(|(_, problem)| ProblemChange::Appeared(problem.clone()));
        let resolved = self.0.iter().filter(|(about, _)| !now.contains_key(*about));
        let resolved = resolved.map(|(_, problem)| ProblemChange::Resolved(problem.clone()));
        let changes = appeared.chain(resolved).collect();
        self.0 = now;
        changes
    }

    /// Returns the problem with this subject.
    pub(super) fn about(&self, about: &str) -> Option<&str> {
        self.0.get(about).map(String::as_str)
    }

    /// Returns the texts of the problems.
    pub(super) fn texts(&self) -> Vec<String> {
        self.0.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::ProblemChange::{Appeared, Resolved};
    use super::*;

    #[test]
    fn each_change_is_told_once() {
        let mut problems = Problems::default();
        let mut check = |now: &[(&str, &str)], expected: &[ProblemChange]| {
            let now = now.iter().map(|(about, problem)| (about.to_string(), problem.to_string())).collect();
            assert_eq!(problems.replace(now), expected);
        };
        check(&[], &[]);
        check(&[("a", "a: wrong")], &[Appeared("a: wrong".into())]);
        check(&[("a", "a: wrong")], &[]);
        check(&[("a", "a: worse"), ("b", "b: wrong")], &[Appeared("a: worse".into()), Appeared("b: wrong".into())]);
        check(&[("b", "b: wrong")], &[Resolved("a: worse".into())]);
        check(&[("b", "b: wrong")], &[]);
        check(&[], &[Resolved("b: wrong".into())]);
        check(&[("a", "a: wrong")], &[Appeared("a: wrong".into())]);
    }
}
