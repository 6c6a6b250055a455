//! Counts of bad events for the judgement of a new version: for each guardrail, events among trials.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Numbers of trials, and of those that were an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventCounts {
    /// Number of requests, predictions or outcomes that could have been an event.
    pub trials: u64,
    /// Number of events.
    pub events: u64,
}

/// Counts of one version since its process started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GuardrailCounts {
    /// Counts by the name of the guardrail.
    pub guardrails: BTreeMap<String, EventCounts>,
    /// Clustering of the events, by the name of the guardrail.
    pub dispersions: BTreeMap<String, Dispersion>,
    /// Number of workers that were restarted because of a panic or the end of the model's process.
    pub crashes: u64,
    /// Number of times that five requests failed one after the other.
    pub streaks: u64,
}

/// Differences between successive windows of about a second, from which the variance of the events is estimated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Dispersion {
    /// Sum of squared differences of the rates, each divided by (1/n + 1/n') of the numbers of trials.
    squares: f64,
    /// Number of differences.
    pairs: u64,
    /// Number of windows with events.
    with_events: u64,
}

/// The last window of each guardrail, and the differences so far.
#[derive(Debug, Default)]
pub struct DispersionWatch {
    counted: BTreeMap<String, EventCounts>,
    last: BTreeMap<String, EventCounts>,
    dispersions: BTreeMap<String, Dispersion>,
}

/// Number of windows with events from which their variance is known well enough.
const KNOWN_FROM: u64 = 30;

/// Origin of a request's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routing {
    /// The traffic split has chosen the version.
    BySplit,
    /// The request has named the version.
    ByName,
}

// ===== impl EventCounts =====

impl EventCounts {
    /// Returns the sum of both.
    pub fn plus(self, other: EventCounts) -> EventCounts {
        EventCounts { trials: self.trials + other.trials, events: self.events + other.events }
    }

    /// Returns the counts since `before`. If they have fallen, the process or the version has been started again, and all
    /// are new.
    ///
    /// ```
    /// use leeway::monitor::EventCounts;
    /// let counts = |trials, events| EventCounts { trials, events };
    /// assert_eq!(counts(10, 3).since(counts(4, 1)), counts(6, 2));
    /// assert_eq!(counts(2, 1).since(counts(4, 1)), counts(2, 1));
    /// ```
    pub fn since(self, before: EventCounts) -> EventCounts {
        if self.trials < before.trials {
            return self;
        }
        // Corrected feedback takes events back.
        let events = self.events.saturating_sub(before.events);
        let trials = self.trials - before.trials;
        EventCounts { trials, events: events.min(trials) }
    }

    /// Returns the share of events; `None` without trials.
    pub fn rate(self) -> Option<f64> {
        (self.trials > 0).then(|| self.events as f64 / self.trials as f64)
    }
}

// ===== impl Dispersion =====

impl Dispersion {
    /// Returns the sum of both.
    pub fn plus(self, other: Dispersion) -> Dispersion {
        Dispersion {
            squares: self.squares + other.squares,
            pairs: self.pairs + other.pairs,
            with_events: self.with_events + other.with_events,
        }
    }

    /// Returns the variance of events divided by that of independent ones with this rate; `None` if too few windows had
    /// events.
    pub fn overdispersion(self, of: EventCounts) -> Option<f64> {
        let rate = of.rate()?;
        let variance = rate * (1.0 - rate);
        (self.with_events >= KNOWN_FROM && self.pairs > 0 && variance > 0.0)
            .then(|| self.squares / self.pairs as f64 / variance)
    }
}

impl DispersionWatch {
    /// The differences so far, by guardrail.
    pub fn dispersions(&self) -> &BTreeMap<String, Dispersion> {
        &self.dispersions
    }

    /// Adds the window since the last call, of these counts in total.
    pub fn look(&mut self, counts: BTreeMap<String, EventCounts>) {
        for (name, total) in counts {
            let counted = self.counted.insert(name.clone(), total).unwrap_or_default();
            let window = total.since(counted);
            if window.trials == 0 {
                continue;
            }
            let dispersion = self.dispersions.entry(name.clone()).or_default();
            dispersion.with_events += u64::from(window.events > 0);
            let last = self.last.insert(name, window);
            if let Some((before, last)) = last.and_then(|last| Some((last.rate()?, last)))
                && let Some(rate) = window.rate()
            {
                let of_variance = 1.0 / window.trials as f64 + 1.0 / last.trials as f64;
                dispersion.squares += (rate - before).powi(2) / of_variance;
                dispersion.pairs += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden numbers: Σ(x/n − x'/n')²/(1/n + 1/n')/pairs/(p(1 − p)) with numpy.
    #[test]
    fn clustered_events_vary_more_than_independent_ones() {
        let mut watch = DispersionWatch::default();
        let mut total = EventCounts::default();
        for window in 0..40 {
            let events = if window % 4 == 0 { 8 } else { 1 };
            total = total.plus(EventCounts { trials: 100 + window, events });
            watch.look(BTreeMap::from([("errors".to_owned(), total)]));
            // Without requests there is no window.
            watch.look(BTreeMap::from([("errors".to_owned(), total)]));
        }
        let dispersion = watch.dispersions["errors"];
        assert!(
            (dispersion.overdispersion(total).unwrap() - 4.504_157_280_898_723).abs() < 1e-9,
            "{:?}",
            dispersion.overdispersion(total)
        );
        let twice = dispersion.plus(dispersion);
        assert!((twice.overdispersion(total).unwrap() - 4.504_157_280_898_723).abs() < 1e-9);
        assert_eq!(Dispersion { with_events: 29, ..dispersion }.overdispersion(total), None);
    }
}
