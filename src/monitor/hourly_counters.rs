//! Counts rows by hour of day and day of the week, and makes a profile of them.
//!
//! Every hour has counters like those of a server, so values are in the same bins, and repeated rows count once.
//! Four weeks are counted apart, so that the days of the same kind can be compared: if they differ by more than chance,
//! their values count as fewer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::baseline::{Baseline, FeatureBaseline};
use super::bins::Bins;
use super::drift::{Comparison, MIN_SLOT_VALUES, WindowCounts, dispersion, judge};
use super::drift_counters::DriftCounters;
use super::monitored_features::{MonitoredFeature, MonitoringSpec};
use super::profile::{DayKinds, FeatureProfile, Profile, time_zone, weekday_and_hour};
use super::watched_bins::{Side, WatchedBins};
use crate::config::MonitoringConfig;
use crate::feature::{FeatureSchema, Features, Observation, PREDICTED_CLASS};

/// Number of weeks that are counted apart. Further weeks are counted with one of them.
const WEEKS: i64 = 4;
/// Share of the rows that must be at slots with enough rows, so that each day of the week has its own slots.
const MIN_JUDGED: f64 = 0.9;
/// Minimum number of days for each day of the week that has slots of its own: one Friday may be unusual.
const MIN_DAYS: usize = 2;

/// Counts rows by hour.
#[derive(Debug)]
pub struct HourlyCounters {
    spec: MonitoringSpec,
    zone: (String, TimeZone),
    hours: BTreeMap<Group, DriftCounters>,
    /// The days with rows.
    days: BTreeSet<(usize, i64)>,
    untimed: u64,
}

/// Rows that are counted together: week, day of the week and hour.
type Group = (i64, usize, usize);

impl HourlyCounters {
    /// Creates counters for a version with this baseline. Its features are those of the baseline, in its order: first the
    /// numbers, then the texts.
    pub fn new(baseline: Arc<Baseline>, settings: MonitoringConfig, zone: &str) -> Result<HourlyCounters, String> {
        let names = |is_text: bool| {
            let all = baseline.features.iter();
            let of_kind = all.filter(move |feature| matches!(feature.bins, Bins::Text { .. }) == is_text);
            of_kind.map(|feature| feature.name.as_str().into()).collect()
        };
        let schema = FeatureSchema { numbers: names(false), texts: names(true) };
        let classes = classes_in(&baseline);
        let spec = MonitoringSpec { schema, classes, baseline: Some(baseline), settings, ..MonitoringSpec::default() };
        HourlyCounters::with_spec(spec, zone)
    }

    /// Creates counters of what is monitored of a version.
    pub fn with_spec(spec: MonitoringSpec, zone: &str) -> Result<HourlyCounters, String> {
        let zone = (zone.to_owned(), time_zone(zone)?);
        Ok(HourlyCounters { spec, zone, hours: BTreeMap::new(), days: BTreeSet::new(), untimed: 0 })
    }

    /// The features, in the order of their values.
    pub fn schema(&self) -> &FeatureSchema {
        &self.spec.schema
    }

    /// The names of the classes, if they are known.
    pub fn classes(&self) -> &[String] {
        self.spec.classes.as_deref().unwrap_or_default()
    }

    /// Counts rows that all have the same time. Rows without a time have no hour.
    pub fn count(&mut self, time: Option<Timestamp>, features: Features, predictions: &[Observation]) {
        let Some(time) = time else {
            self.untimed += features.rows() as u64;
            return;
        };
        let (weekday, hour) = weekday_and_hour(time, &self.zone.1);
        let monday = jiff::civil::date(1970, 1, 5);
        let week = (self.zone.1.to_datetime(time).date().duration_since(monday).as_hours() / 24).div_euclid(7);
        if self.days.len() < 10_000 {
            self.days.insert((weekday, week));
        }
        let group = (week.rem_euclid(WEEKS), weekday, hour);
        let spec = &self.spec;
        let counters = self.hours.entry(group).or_insert_with(|| DriftCounters::new(spec, Duration::ZERO));
        counters.observe(features, predictions.iter().copied());
    }

    /// Number of rows with a time, and without one.
    pub fn rows(&self) -> (u64, u64) {
        (self.hours.values().map(DriftCounters::counted_rows).sum(), self.untimed)
    }

    /// Returns the profile of the counted rows. By default, each day of the week has its own slots if nine of ten rows are
    /// at slots with at least 100 rows then, of at least two days; otherwise, there are weekdays and the weekend.
    pub fn finish(&self, days: Option<DayKinds>) -> Profile {
        let days = days.unwrap_or_else(|| self.judged_days());
        let counted: Vec<(usize, Vec<Vec<u64>>)> = self
            .hours
            .iter()
            .map(|((_, weekday, hour), of)| (days.slot(*weekday, *hour), of.counts_of_features()))
            .collect();
        let mut profile = Profile {
            time_zone: self.zone.0.clone(),
            days,
            rows: self.rows_at(days),
            untimed_rows: self.untimed,
            features: Vec::new(),
            predictions: Vec::new(),
        };
        let Some(any) = self.hours.values().next() else { return profile };
        for (index, feature) in any.features().iter().enumerate() {
            let of_feature = counted.iter().map(|(slot, counts)| (*slot, &*counts[index])).collect();
            let Some(found) = profile_of(feature, of_feature, days) else { continue };
            match feature.side {
                Side::Feature => profile.features.push(found),
                Side::Prediction => profile.predictions.push(found),
            }
        }
        profile
    }

    /// Compares all counted rows with the training data, and returns the features and parts of predictions, those first
    /// that differ most.
    pub fn differences(&self) -> Vec<(String, Comparison)> {
        let Some(any) = self.hours.values().next() else { return Vec::new() };
        let counted: Vec<Vec<Vec<u64>>> = self.hours.values().map(DriftCounters::counts_of_features).collect();
        let compare = |(index, feature): (usize, &MonitoredFeature)| {
            let bins = 0..feature.bins.len();
            let total: Vec<u64> = bins.map(|bin| counted.iter().map(|counts| counts[index][bin]).sum()).collect();
            feature.reference.compare(&WindowCounts::from(&*total))
        };
        let mut found: Vec<Comparison> = any.features().iter().enumerate().map(compare).collect();
        judge(&mut found);
        let mut found: Vec<(String, Comparison)> =
            any.features().iter().map(MonitoredFeature::title).zip(found).collect();
        found.sort_by(|(_, one), (_, other)| other.size().total_cmp(&one.size()));
        found
    }

    fn rows_at(&self, days: DayKinds) -> Vec<u64> {
        let mut rows = vec![0; days.slots()];
        for ((_, weekday, hour), counters) in &self.hours {
            rows[days.slot(*weekday, *hour)] += counters.counted_rows();
        }
        rows
    }

    fn judged_days(&self) -> DayKinds {
        let rows = self.rows_at(DayKinds::Weekdays);
        let all: u64 = rows.iter().sum();
        let judged: u64 = rows.iter().filter(|rows| **rows >= MIN_SLOT_VALUES).sum();
        let is_often = |weekday: usize| self.days.iter().filter(|(of, _)| *of == weekday).count() >= MIN_DAYS;
        match judged as f64 >= MIN_JUDGED * all as f64 && (0..7).all(is_often) {
            true => DayKinds::Weekdays,
            false => DayKinds::Weekend,
        }
    }
}

/// Returns the names of the classes in a baseline.
fn classes_in(baseline: &Baseline) -> Option<Vec<String>> {
    let class = baseline.predictions.iter().find(|feature| feature.name == PREDICTED_CLASS)?;
    match &class.bins {
        Bins::Text { values } => Some(values.clone()),
        Bins::Number { .. } => None,
    }
}

/// Returns the counts of a feature by slot; `None` if it has no values.
fn profile_of(feature: &MonitoredFeature, groups: Vec<(usize, &[u64])>, days: DayKinds) -> Option<FeatureProfile> {
    let missing = feature.bins.len().checked_sub(2)?;
    let has_values =
        groups.iter().any(|(_, counts)| counts.iter().enumerate().any(|(bin, count)| bin != missing && *count > 0));
    if !has_values {
        return None;
    }
    let mut slots: Vec<Vec<Vec<u64>>> = vec![Vec::new(); days.slots()];
    for (slot, counts) in groups {
        slots[slot].push(counts.to_vec());
    }
    let sum = |groups: &Vec<Vec<u64>>| match groups.first() {
        Some(first) => (0..first.len()).map(|bin| groups.iter().map(|group| group[bin]).sum()).collect(),
        None => Vec::new(),
    };
    Some(FeatureProfile {
        name: feature.name.clone(),
        independent: independent_of(&slots),
        counts: slots.iter().map(sum).collect(),
    })
}

/// Returns the share of the values that counts as independent, from the dispersion of the groups of each slot.
fn independent_of(slots: &[Vec<Vec<u64>>]) -> f64 {
    let (statistic, freedom) =
        slots.iter().map(|groups| dispersion(groups)).fold((0.0, 0), |(a, b), (c, d)| (a + c, b + d));
    if freedom == 0 { 1.0 } else { 1.0 / (statistic / freedom as f64).max(1.0) }
}

// ===== training data =====

/// Returns a profile that was counted in the bins of an unfinished baseline, in the bins in which requests are counted.
///
/// Only the finished baseline knows the range of a number, and the texts that are too rare for a bin. No row of the training
/// data is out of range.
pub(super) fn in_watched_bins(mut profile: Profile, baseline: &Baseline) -> Profile {
    for (side, profiles, features) in [
        (Side::Feature, &mut profile.features, &baseline.features),
        (Side::Prediction, &mut profile.predictions, &baseline.predictions),
    ] {
        profiles.retain_mut(|profile| {
            let Some(feature) = features.iter().find(|feature| feature.name == profile.name) else { return false };
            profile.counts.iter_mut().filter(|counts| !counts.is_empty()).for_each(|counts| {
                *counts = WatchedBins::new(&counted(feature, counts), side).reference.counts;
            });
            true
        });
    }
    profile
}

/// Returns a feature of the baseline with the counts of a slot: of its own bins, `missing`, and all others.
fn counted(feature: &FeatureBaseline, counts: &[u64]) -> FeatureBaseline {
    let own = feature.counts.len();
    let outside = counts.get(own + 1).copied().unwrap_or_default();
    let mut found = FeatureBaseline {
        counts: counts[..own].to_vec(),
        missing: counts.get(own).copied().unwrap_or_default(),
        other: outside,
        ..feature.clone()
    };
    if let Some(rare) = &mut found.rare {
        // In the proportion of all rows: one of the two is almost always 0.
        let of_all = rare.count as f64 / (rare.count + feature.other).max(1) as f64;
        rare.count = (outside as f64 * of_all).round() as u64;
        found.other = outside - rare.count;
    }
    found
}
