//! The profile of a version in use: what is usual for each monitored feature by time of day.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::drift::{Comparison, CountsByHour, SliceAtHours, judge};
use super::drift_reading::DriftReading;
use super::monitored_features::MonitoredFeature;
use super::profile::{DayKinds, FeatureProfile, Profile, ProfileOrigin, slots_of_span, time_zone};
use super::watched_bins::Side;

/// Usual counts of each monitored feature by time of day.
#[derive(Debug)]
pub(super) struct UsualByHour {
    days: DayKinds,
    zone: TimeZone,
    /// The monitored features, each with its counts, if the profile has it in the same bins.
    features: Vec<Option<CountsByHour>>,
    /// Description, for reports.
    pub(super) about: ProfileInUse,
}

/// The profile that a verdict is made with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProfileInUse {
    /// Kinds of days that are distinguished.
    pub days: DayKinds,
    /// Time zone of the hours.
    pub time_zone: String,
    /// Number of rows.
    pub rows: u64,
    /// Number of hours with at least 100 rows; the others are not judged by the profile.
    pub hours_known: usize,
    /// Number of hours.
    pub hours: usize,
    /// Origin of a learned profile; absent if the profile is of the training data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learned: Option<ProfileOrigin>,
}

/// The time of day at the beginning of the monitor's time, in microseconds since 1970.
#[derive(Debug, Default)]
pub(super) struct WallClock(AtomicI64);

impl WallClock {
    /// Notes that the monitor's time is `now` at this time of day. The clock of a machine may be set.
    pub(super) fn set(&self, now: Duration, clock: SystemTime) {
        let since_1970 = clock.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        self.0.store(micros(since_1970) - micros(now), Relaxed);
    }

    fn at(&self, moment: Duration) -> Timestamp {
        let since = i64::try_from(moment.as_micros()).unwrap_or(i64::MAX);
        Timestamp::from_microsecond(self.0.load(Relaxed).saturating_add(since)).unwrap_or_default()
    }
}

impl UsualByHour {
    /// Returns the profile of these features; `None` if this machine does not know its time zone.
    pub(super) fn of(
        profile: &Profile,
        learned: Option<&ProfileOrigin>,
        features: &[MonitoredFeature],
    ) -> Option<UsualByHour> {
        let zone = time_zone(&profile.time_zone)
            .inspect_err(|problem| tracing::warn!(problem, "the profile by time of day is not used: its time zone"))
            .ok()?;
        let counts = |feature: &MonitoredFeature| {
            let profiles = match feature.side {
                Side::Feature => &profile.features,
                Side::Prediction => &profile.predictions,
            };
            let has_bins = |profile: &&FeatureProfile| {
                profile.counts.iter().all(|counts| counts.is_empty() || counts.len() == feature.bins.len())
            };
            let found = profiles.iter().find(|profile| profile.name == feature.name).filter(has_bins);
            found.map(|found| CountsByHour { slots: found.counts.clone(), independent: found.independent })
        };
        let about = ProfileInUse {
            days: profile.days,
            time_zone: profile.time_zone.clone(),
            rows: profile.rows.iter().sum(),
            hours_known: profile.known_slots(),
            hours: profile.days.slots(),
            learned: learned.cloned(),
        };
        Some(UsualByHour { days: profile.days, zone, features: features.iter().map(counts).collect(), about })
    }

    /// Returns true if the time of day is distinguished.
    pub(super) fn is_by_hour(&self) -> bool {
        self.days != DayKinds::All
    }

    /// Compares a window with what is usual at its hours. `None` for features of which that is not known.
    pub(super) fn compare(&self, reading: &DriftReading, clock: &WallClock) -> Vec<Option<Comparison>> {
        let slots: Vec<Vec<(usize, f64)>> = reading
            .spans()
            .into_iter()
            .map(|(start, end)| slots_of_span(clock.at(start), clock.at(end), self.days, &self.zone))
            .collect();
        let compare = |(index, by_hour): (usize, &Option<CountsByHour>)| {
            let feature = reading.get(index)?.feature;
            let slices = reading.slices(feature).into_iter().zip(&slots);
            let slices: Vec<SliceAtHours> =
                slices.map(|(counts, slots)| SliceAtHours { counts, slots: slots.clone() }).collect();
            feature.reference.compare_by_hour(by_hour.as_ref()?, &slices)
        };
        let found: Vec<Option<Comparison>> = self.features.iter().enumerate().map(compare).collect();
        // All comparisons that there are have one rate of false alarms.
        let mut judged: Vec<Comparison> = found.iter().flatten().cloned().collect();
        judge(&mut judged);
        let mut judged = judged.into_iter();
        found.into_iter().map(|found| found.and_then(|_| judged.next())).collect()
    }
}
