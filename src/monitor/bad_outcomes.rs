//! Bad outcomes, as rollouts count them: wrong predictions, and amounts of business metrics below their limits.

use std::collections::BTreeMap;

use super::event_counts::EventCounts;
use super::predicted::{Predicted, Truth};
use crate::config::EventLimits;

/// Numbers of outcomes, and of bad ones. Corrected feedback moves an outcome from one to the other.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct BadOutcomes {
    limits: EventLimits,
    wrong: EventCounts,
    business: BTreeMap<String, EventCounts>,
}

impl BadOutcomes {
    pub(super) fn new(limits: EventLimits) -> BadOutcomes {
        let business = limits.business_below.keys().map(|name| (name.clone(), EventCounts::default())).collect();
        BadOutcomes { limits, wrong: EventCounts::default(), business }
    }

    /// Adds the true outcome of a prediction.
    pub(super) fn label(&mut self, predicted: &Predicted, truth: &Truth) {
        if let Some(is_wrong) = self.is_wrong(predicted, truth) {
            add(&mut self.wrong, is_wrong);
        }
    }

    /// Replaces the true outcome `before` of a prediction with `truth`.
    pub(super) fn correct(&mut self, predicted: &Predicted, before: &Truth, truth: &Truth) {
        if let (Some(before), Some(now)) = (self.is_wrong(predicted, before), self.is_wrong(predicted, truth)) {
            replace(&mut self.wrong, before, now);
        }
    }

    /// Adds the amount of a business metric.
    pub(super) fn business(&mut self, name: &str, amount: f64) {
        if let (Some(counts), Some(limit)) = (self.business.get_mut(name), self.limits.business_below.get(name)) {
            add(counts, amount < *limit);
        }
    }

    /// Replaces the amount `before` of a business metric with `amount`.
    pub(super) fn correct_business(&mut self, name: &str, before: f64, amount: f64) {
        if let (Some(counts), Some(limit)) = (self.business.get_mut(name), self.limits.business_below.get(name)) {
            replace(counts, before < *limit, amount < *limit);
        }
    }

    /// Numbers of predictions with a known outcome, and of wrong ones.
    pub(super) fn wrong(&self) -> EventCounts {
        self.wrong
    }

    /// Numbers of amounts, and of those below the limit, by business metric.
    pub(super) fn of_business(&self) -> impl Iterator<Item = (&str, EventCounts)> {
        self.business.iter().map(|(name, counts)| (name.as_str(), *counts))
    }

    /// Returns true if the prediction is wrong; `None` for a number without a limit of its error.
    fn is_wrong(&self, predicted: &Predicted, truth: &Truth) -> Option<bool> {
        match (predicted, truth) {
            (Predicted::Class(class, _), Truth::Label { name, .. }) => Some(class != name),
            (Predicted::Value(value), Truth::Value(truth)) => {
                self.limits.error_above.map(|limit| (value - truth).abs() > limit)
            }
            (Predicted::Class(..), Truth::Value(_)) | (Predicted::Value(_), Truth::Label { .. }) => None,
        }
    }
}

fn add(counts: &mut EventCounts, is_event: bool) {
    counts.trials += 1;
    counts.events += u64::from(is_event);
}

fn replace(counts: &mut EventCounts, before: bool, now: bool) {
    // The replaced outcome may have been counted by another process.
    counts.events = (counts.events + u64::from(now)).saturating_sub(u64::from(before));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(trials: u64, events: u64) -> EventCounts {
        EventCounts { trials, events }
    }

    #[test]
    fn wrong_predictions_are_counted_and_corrected() {
        let truth = |name: &str| Truth::Label { class: 0, name: name.to_owned() };
        let cat = Predicted::Class("cat".to_owned(), 0.9);
        let mut bad = BadOutcomes::new(EventLimits::default());
        bad.label(&cat, &truth("cat"));
        bad.label(&cat, &truth("dog"));
        assert_eq!(bad.wrong(), counts(2, 1));
        bad.correct(&cat, &truth("dog"), &truth("cat"));
        assert_eq!(bad.wrong(), counts(2, 0));
        bad.correct(&cat, &truth("dog"), &truth("cat"));
        assert_eq!(bad.wrong(), counts(2, 0));
    }

    #[test]
    fn numbers_are_wrong_beyond_the_configured_error() {
        let (predicted, near, far) = (Predicted::Value(10.0), Truth::Value(11.0), Truth::Value(7.5));
        let mut bad = BadOutcomes::new(EventLimits::default());
        bad.label(&predicted, &far);
        assert_eq!(bad.wrong(), counts(0, 0));
        let mut bad = BadOutcomes::new(EventLimits { error_above: Some(2.0), ..EventLimits::default() });
        bad.label(&predicted, &near);
        bad.label(&predicted, &far);
        assert_eq!(bad.wrong(), counts(2, 1));
    }

    #[test]
    fn amounts_below_the_limit_are_bad() {
        let business_below = BTreeMap::from([("basket".to_owned(), 10.0)]);
        let mut bad = BadOutcomes::new(EventLimits { business_below, ..EventLimits::default() });
        bad.business("basket", 9.0);
        bad.business("basket", 10.0);
        bad.business("clicks", 0.0);
        bad.correct_business("basket", 10.0, 3.0);
        assert_eq!(bad.of_business().collect::<Vec<_>>(), [("basket", counts(2, 2))]);
    }
}
