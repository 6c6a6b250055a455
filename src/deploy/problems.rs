//! What is wrong with the repository and the journal, remembered so that each change of it is logged once.

use std::collections::BTreeMap;

/// What is wrong at present, by what it is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Problems(BTreeMap<String, String>);

/// A change of what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ProblemChange {
    /// It is new, or another than before.
    Appeared(String),
    /// It is gone; this is what it was.
    Resolved(String),
}

impl Problems {
    /// What is wrong now, and how that differs from what was.
    pub(super) fn replace(&mut self, now: BTreeMap<String, String>) -> Vec<ProblemChange> {
        let appeared = now.iter().filter(|(about, problem)| self.0.get(*about) != Some(problem));
        let appeared = appeared.map(|(_, problem)| ProblemChange::Appeared(problem.clone()));
        let resolved = self.0.iter().filter(|(about, _)| !now.contains_key(*about));
        let resolved = resolved.map(|(_, problem)| ProblemChange::Resolved(problem.clone()));
        let changes = appeared.chain(resolved).collect();
        self.0 = now;
        changes
    }

    /// What is wrong with this.
    pub(super) fn about(&self, about: &str) -> Option<&str> {
        self.0.get(about).map(String::as_str)
    }

    /// The problems, in words.
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
