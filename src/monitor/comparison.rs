//! Comparison of two versions: their requests, latencies, predictions and outcomes, and what the differences prove. Pure.
//! The sums are those of `compared_sums.rs`; the statistics are in `always_valid.rs`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::always_valid::{Mean, MeasuredDifference, Rate, compare_means, compare_quantiles, compare_rates};
use super::compared_sums::{AmountSums, ConfidenceSums, OutcomeSums, VersionSums};
use super::labels::Outcome;
use super::quantiles::DurationCounts;
use crate::config::BusinessKind;

/// Quantiles of the latency that are compared, with their names.
const QUANTILES: [(&str, f64); 3] = [("latency_p50", 0.5), ("latency_p95", 0.95), ("latency_p99", 0.99)];

/// p-value below which a difference counts.
const SIGNIFICANT: f64 = 0.05;

/// A measure of two versions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ComparedMeasure {
    /// Name of the measure: `errors`, `accuracy`, `mae`, `confidence`, `low_confidence`, `latency_p50`, `latency_p95`,
    /// `latency_p99`, or `business.` and the name of a business metric.
    pub name: String,
    /// Kind of the measure.
    pub kind: MeasureKind,
    /// Unit of `of`: requests, predictions, labels or amounts.
    pub counted: String,
    /// The first version.
    pub one: MeasuredValue,
    /// The second version.
    pub other: MeasuredValue,
    /// The difference; absent if there is too little data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difference: Option<MeasuredDifference>,
    /// Finding about the second version.
    pub finding: ComparedFinding,
    /// The finding in words and numbers.
    pub explanation: String,
}

/// Kind of a measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MeasureKind {
    /// A share, 0 to 1.
    Share,
    /// A mean of values.
    Mean,
    /// A duration, in seconds.
    Seconds,
}

/// Value of a measure of a version.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MeasuredValue {
    /// The value; absent if nothing was counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Number of observations that the value is of.
    pub of: u64,
}

/// Finding about the second version of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ComparedFinding {
    /// There is too little data of one of the versions.
    NoData,
    /// No difference is shown.
    Undecided,
    /// The second version is better.
    Better,
    /// The second version is worse.
    Worse,
    /// The value of the second version is higher, which is neither better nor worse in itself.
    Higher,
    /// The value of the second version is lower, which is neither better nor worse in itself.
    Lower,
}

/// The better direction of a measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    HigherIsBetter,
    LowerIsBetter,
    Neither,
}

/// A measure of two versions, before it is put into words.
struct Measure {
    name: String,
    counted: &'static str,
    kind: MeasureKind,
    direction: Direction,
    values: [MeasuredValue; 2],
    difference: Option<MeasuredDifference>,
}

// ===== comparing =====

/// Compares two versions in all measures that both have, or could have.
pub fn compare_versions(one: &VersionSums, other: &VersionSums) -> Vec<ComparedMeasure> {
    let versions = [one.version.as_str(), other.version.as_str()];
    let mut measures = vec![share(
        ("errors", "requests", Direction::LowerIsBetter),
        [one, other].map(|version| {
            let of = |outcomes: &[Outcome]| -> f64 {
                outcomes.iter().filter_map(|outcome| version.requests.get(outcome)).map(|count| *count as f64).sum()
            };
            let errors = of(&[Outcome::Expired, Outcome::ModelError, Outcome::ServerError]);
            Rate { events: errors, trials: errors + of(&[Outcome::Ok]) }
        }),
    )];
    measures.push(accuracy([&one.outcomes, &other.outcomes]));
    measures.push(mean(
        ("mae", "labels", Direction::LowerIsBetter),
        [one, other].map(|version| {
            let (values, sum, squares) = version.outcomes.numbers;
            AmountSums { items: values, sum, squares }
        }),
    ));
    measures.extend(business([&one.outcomes, &other.outcomes]));
    if let (Some(one), Some(other)) = (one.confidence, other.confidence) {
        let sums =
            |found: ConfidenceSums| AmountSums { items: found.predictions, sum: found.sum, squares: found.squares };
        measures.push(mean(("confidence", "predictions", Direction::Neither), [one, other].map(sums)));
        let low = |found: ConfidenceSums| Rate { events: found.low, trials: found.predictions };
        measures.push(share(("low_confidence", "predictions", Direction::Neither), [one, other].map(low)));
    }
    measures.extend(QUANTILES.map(|(name, share)| latency(name, share, [&one.durations, &other.durations])));
    let is_known = |measure: &Measure| measure.values.iter().any(|value| value.of > 0) || measure.name == "errors";
    measures.into_iter().filter(is_known).map(|measure| measure.in_words(versions)).collect()
}

fn share((name, counted, direction): (&str, &'static str, Direction), [one, other]: [Rate; 2]) -> Measure {
    let value = |rate: Rate| MeasuredValue {
        value: (rate.trials > 0.0).then(|| rate.events / rate.trials),
        of: rate.trials as u64,
    };
    Measure {
        name: name.to_owned(),
        counted,
        kind: MeasureKind::Share,
        direction,
        values: [value(one), value(other)],
        difference: compare_rates(one, other),
    }
}

/// Compares the shares of wrong predictions, which are rarer, and shows them as those of right ones.
fn accuracy(outcomes: [&OutcomeSums; 2]) -> Measure {
    let rates =
        outcomes.map(|OutcomeSums { classes: (labels, right), .. }| Rate { events: labels - right, trials: *labels });
    let wrong = share(("accuracy", "labels", Direction::HigherIsBetter), rates);
    let right = |value: MeasuredValue| MeasuredValue { value: value.value.map(|wrong| 1.0 - wrong), ..value };
    let difference = wrong.difference.map(|found| MeasuredDifference {
        difference: -found.difference,
        lower: found.upper.map(|upper| -upper),
        upper: found.lower.map(|lower| -lower),
        ..found
    });
    Measure { values: wrong.values.map(right), difference, ..wrong }
}

fn mean((name, counted, direction): (&str, &'static str, Direction), [one, other]: [AmountSums; 2]) -> Measure {
    let value = |sums: AmountSums| MeasuredValue {
        value: (sums.items > 0.0).then(|| sums.sum / sums.items),
        of: sums.items as u64,
    };
    let of = |AmountSums { items, sum, squares }: AmountSums| Mean::of(items, sum, squares);
    Measure {
        name: name.to_owned(),
        counted,
        kind: MeasureKind::Mean,
        direction,
        values: [value(one), value(other)],
        difference: compare_means(of(one), of(other)),
    }
}

/// Compares the business metrics that either version has: a rate as a share, and amounts by their mean.
fn business(outcomes: [&OutcomeSums; 2]) -> Vec<Measure> {
    let names: BTreeMap<&String, BusinessKind> =
        outcomes.iter().flat_map(|outcomes| &outcomes.business).map(|(name, (kind, _))| (name, *kind)).collect();
    let measure = |(name, kind): (&String, BusinessKind)| {
        let nothing = AmountSums { items: 0.0, sum: 0.0, squares: 0.0 };
        let sums = outcomes.map(|outcomes| outcomes.business.get(name).map_or(nothing, |(_, sums)| *sums));
        let about = (&*format!("business.{name}"), "amounts", Direction::Neither);
        match kind {
            BusinessKind::Rate => share(about, sums.map(|sums| Rate { events: sums.sum, trials: sums.items })),
            BusinessKind::Sum | BusinessKind::Mean => mean(about, sums),
        }
    };
    names.into_iter().map(measure).collect()
}

fn latency(name: &str, share: f64, [one, other]: [&DurationCounts; 2]) -> Measure {
    let seconds = |counts: &DurationCounts, share: f64| counts.quantile(share).as_ref().map(Duration::as_secs_f64);
    let value = |counts: &DurationCounts| MeasuredValue { value: seconds(counts, share), of: counts.count() };
    let of = |counts: &DurationCounts| counts.count() as f64;
    Measure {
        name: name.to_owned(),
        counted: "requests",
        kind: MeasureKind::Seconds,
        direction: Direction::LowerIsBetter,
        values: [value(one), value(other)],
        difference: compare_quantiles(
            share,
            (of(one), |share| seconds(one, share)),
            (of(other), |share| seconds(other, share)),
        ),
    }
}

// ===== words =====

impl Measure {
    fn in_words(self, versions: [&str; 2]) -> ComparedMeasure {
        let finding = self.finding();
        let explanation = self.explanation(finding, versions);
        let Measure { name, counted, kind, values: [one, other], difference, .. } = self;
        ComparedMeasure { name, kind, counted: counted.to_owned(), one, other, difference, finding, explanation }
    }

    fn finding(&self) -> ComparedFinding {
        let Some(MeasuredDifference { difference, p_value, .. }) = self.difference else {
            return ComparedFinding::NoData;
        };
        match (p_value < SIGNIFICANT, difference > 0.0, self.direction) {
            (false, ..) => ComparedFinding::Undecided,
            (_, true, Direction::HigherIsBetter) | (_, false, Direction::LowerIsBetter) => ComparedFinding::Better,
            (_, false, Direction::HigherIsBetter) | (_, true, Direction::LowerIsBetter) => ComparedFinding::Worse,
            (_, true, Direction::Neither) => ComparedFinding::Higher,
            (_, false, Direction::Neither) => ComparedFinding::Lower,
        }
    }

    fn explanation(&self, finding: ComparedFinding, [one, other]: [&str; 2]) -> String {
        let ([of_one, of_other], counted) = (self.values.map(|value| value.of), self.counted);
        let Some(MeasuredDifference { difference, lower, upper, p_value, more }) = self.difference else {
            return match (of_one, of_other) {
                (0, 0) => format!("There are no {counted} of either version yet."),
                (0, _) => format!("There are no {counted} of version {one} yet."),
                (_, 0) => format!("There are no {counted} of version {other} yet."),
                _ => format!("There are too few {counted}, or all of them are the same: {of_one} and {of_other}."),
            };
        };
        let change = |change: Option<f64>, none: &str| change.map_or(none.to_owned(), |change| self.change(change));
        let says = match finding {
            ComparedFinding::Undecided | ComparedFinding::NoData => "No difference is shown".to_owned(),
            ComparedFinding::Better => format!("Version {other} is better"),
            ComparedFinding::Worse => format!("Version {other} is worse"),
            ComparedFinding::Higher => format!("Version {other} is higher"),
            ComparedFinding::Lower => format!("Version {other} is lower"),
        };
        let (lower, upper) = (change(lower, "no bound"), change(upper, "no bound"));
        let mut text = format!(
            "{says}: {} ({lower} to {upper}), p = {}, of {of_one} and {of_other} {counted}.",
            self.change(difference),
            shown_p(p_value)
        );
        let _ = match (finding, more) {
            (ComparedFinding::Undecided, Some(more)) => {
                write!(text, " About {more} more {counted} would decide this difference, if it lasts.")
            }
            (ComparedFinding::Undecided, None) => {
                write!(text, " If it lasts, more than a million times as many {counted} would be needed to decide it.")
            }
            _ => Ok(()),
        };
        text
    }

    /// Formats a difference with its sign and unit.
    fn change(&self, change: f64) -> String {
        match self.kind {
            MeasureKind::Share => format!("{:+.2} points", 100.0 * change),
            MeasureKind::Mean => format!("{change:+.4}"),
            MeasureKind::Seconds => format!("{:+.2} ms", 1e3 * change),
        }
    }
}

/// Formats a p-value.
fn shown_p(p_value: f64) -> String {
    match p_value {
        0.9995.. => "1".to_owned(),
        0.0001.. => format!("{p_value:.4}"),
        _ => format!("{p_value:.0e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(version: &str) -> VersionSums {
        VersionSums {
            version: version.to_owned(),
            requests: Outcome::ALL.map(|outcome| (outcome, 0)).into(),
            durations: DurationCounts::default(),
            confidence: None,
            outcomes: OutcomeSums::default(),
        }
    }

    fn of<'a>(measures: &'a [ComparedMeasure], name: &str) -> &'a ComparedMeasure {
        measures.iter().find(|measure| measure.name == name).unwrap()
    }

    #[test]
    fn without_data_only_the_requests_are_named() {
        let measures = compare_versions(&sums("2"), &sums("3"));
        let found: Vec<_> = measures.iter().map(|measure| (&*measure.name, &*measure.explanation)).collect();
        assert_eq!(found, [("errors", "There are no requests of either version yet.")]);
        assert_eq!(measures[0].finding, ComparedFinding::NoData);
    }

    #[test]
    fn a_worse_version_is_called_worse_with_the_numbers() {
        let (mut two, mut three) = (sums("2"), sums("3"));
        two.requests.insert(Outcome::Ok, 9_950);
        two.requests.insert(Outcome::Expired, 50);
        three.requests.insert(Outcome::Ok, 9_900);
        three.requests.insert(Outcome::ServerError, 100);
        three.requests.insert(Outcome::Invalid, 9_000);
        (two.outcomes.classes, three.outcomes.classes) = ((1_000.0, 950.0), (400.0, 378.0));
        let amounts = |items: f64, sum: f64, squares: f64| AmountSums { items, sum, squares };
        let revenue = |sums| BTreeMap::from([("revenue".to_owned(), (BusinessKind::Sum, sums))]);
        two.outcomes.business = revenue(amounts(5_000.0, 10_000.0, 40_000.0));
        three.outcomes.business = revenue(amounts(5_000.0, 11_000.0, 46_000.0));
        let measures = compare_versions(&two, &three);
        let errors = of(&measures, "errors");
        assert_eq!((errors.finding, errors.other.of), (ComparedFinding::Worse, 10_000));
        assert_eq!(
            errors.explanation,
            "Version 3 is worse: +0.50 points (+0.10 points to +0.85 points), p = 0.0031, of 10000 and 10000 requests."
        );
        let accuracy = of(&measures, "accuracy");
        assert_eq!((accuracy.finding, accuracy.one.value), (ComparedFinding::Undecided, Some(0.95)));
        let Some(MeasuredDifference { lower: Some(lower), upper: Some(upper), difference, .. }) = accuracy.difference
        else {
            panic!("{accuracy:?}")
        };
        assert!(lower < difference && difference < upper && difference < 0.0, "{accuracy:?}");
        assert!(accuracy.explanation.contains("more labels would decide this difference"), "{}", accuracy.explanation);
        let revenue = of(&measures, "business.revenue");
        assert_eq!((revenue.finding, revenue.other.value), (ComparedFinding::Higher, Some(2.2)));
        assert!(measures.iter().all(|measure| measure.name != "mae"));
    }

    #[test]
    fn small_p_values_are_written_shortly() {
        let shown: Vec<String> = [1.0, 0.99972, 0.25, 0.00012, 4.2e-9, 0.0].into_iter().map(shown_p).collect();
        assert_eq!(shown, ["1", "1", "0.2500", "0.0001", "4e-9", "0e0"]);
    }
}
