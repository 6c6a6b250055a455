//! A profile: what is usual by hour of day and day of the week.
//!
//! Training data are of all hours together, and a window of an hour is not. A profile has the counts of each feature, in
//! the bins of the version's baseline, for each hour of each kind of day. It is a part of a baseline, made of training data
//! with times; or it is learned from the prediction log and accepted by an operator. Then it is a file of its own, because
//! a version that is in use does not change.
//!
//! It is bounded: 24 hours for two or seven kinds of days, for the features that are monitored.

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::drift::MIN_SLOT_VALUES;

/// The only supported format of the file of a learned profile.
const FORMAT: u32 = 1;
/// Number of hours of a day.
const HOURS: usize = 24;
/// Maximum number of counts of a profile, in all features, slots and bins.
const MAX_COUNTS: usize = 1 << 23;

/// Usual counts of the features by time of day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Time zone of the hours: UTC, an offset as in +01:00, or a name as in Europe/Amsterdam.
    pub time_zone: String,
    /// Kinds of days that are distinguished.
    pub days: DayKinds,
    /// Number of rows at each slot.
    pub rows: Vec<u64>,
    /// Number of rows without a time.
    #[serde(default)]
    pub untimed_rows: u64,
    /// Features, under the names of the baseline.
    pub features: Vec<FeatureProfile>,
    /// Parts of predictions, under the names of the baseline.
    pub predictions: Vec<FeatureProfile>,
}

/// The counts of a feature by slot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureProfile {
    /// Name of the feature.
    pub name: String,
    /// The share of the values that counts as independent of each other, above 0 to 1.
    pub independent: f64,
    /// For each slot, the counts of the bins in which requests are counted. Empty for a slot without rows.
    pub counts: Vec<Vec<u64>>,
}

/// Kinds of days with a profile of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DayKinds {
    /// None, and no hours either: a single slot has all rows. It says nothing about the time of day.
    All,
    /// Monday to Friday, and the weekend: 48 slots.
    Weekend,
    /// Each day of the week: 168 slots.
    Weekdays,
}

/// A profile that was learned from the prediction log, with its origin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearnedProfile {
    /// Format of the file: 1.
    pub format: u32,
    /// Digest of the version that it is for.
    pub version_sha256: String,
    /// Origin of the profile.
    pub origin: ProfileOrigin,
    /// The profile.
    pub profile: Profile,
}

/// The window that a profile was learned from, and who accepted it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProfileOrigin {
    /// Start of the window.
    #[schemars(with = "String")]
    pub since: Timestamp,
    /// End of the window.
    #[schemars(with = "String")]
    pub until: Timestamp,
    /// Number of rows in the window.
    pub rows: u64,
    /// Person who accepted it.
    pub by: String,
    /// The reason that was given.
    pub reason: String,
    /// Time of the acceptance.
    #[schemars(with = "String")]
    pub at: Timestamp,
}

// ===== impl Profile =====

impl Profile {
    /// Returns the problem with a profile that was read; `None` if it can be used.
    pub(super) fn problem(&self) -> Option<String> {
        let slots = self.days.slots();
        if self.rows.len() != slots {
            return Some(format!("rows: found {} slots, expected {slots}", self.rows.len()));
        }
        let mut counts = 0;
        for feature in self.features.iter().chain(&self.predictions) {
            let name = &feature.name;
            if feature.counts.len() != slots {
                return Some(format!("{name:?}: found {} slots, expected {slots}", feature.counts.len()));
            }
            if !(feature.independent > 0.0 && feature.independent <= 1.0) {
                return Some(format!("{name:?}: independent: found {}, expected above 0 to 1", feature.independent));
            }
            counts += feature.counts.iter().map(Vec::len).sum::<usize>();
            if feature.counts.iter().flatten().any(|count| *count > 1 << 50) {
                return Some(format!("{name:?}: a count is too large"));
            }
        }
        (counts > MAX_COUNTS).then(|| format!("there are {counts} counts, but at most {MAX_COUNTS} are allowed"))
    }

    /// Number of slots with enough rows to say what is usual then.
    pub fn known_slots(&self) -> usize {
        self.rows.iter().filter(|rows| **rows >= MIN_SLOT_VALUES).count()
    }
}

impl LearnedProfile {
    /// Creates a profile that was learned.
    pub fn new(version_sha256: String, origin: ProfileOrigin, profile: Profile) -> LearnedProfile {
        LearnedProfile { format: FORMAT, version_sha256, origin, profile }
    }

    /// Reads and checks the text of the file of a learned profile.
    pub fn parse(text: &[u8]) -> Result<LearnedProfile, String> {
        let learned: LearnedProfile = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if learned.format != FORMAT {
            return Err(format!("format: found {}, and this Leeway reads {FORMAT}", learned.format));
        }
        match learned.profile.problem().or_else(|| time_zone(&learned.profile.time_zone).err()) {
            Some(problem) => Err(format!("profile: {problem}")),
            None => Ok(learned),
        }
    }
}

// ===== impl DayKinds =====

impl DayKinds {
    /// Number of slots.
    pub fn slots(self) -> usize {
        match self {
            DayKinds::All => 1,
            DayKinds::Weekend => 2 * HOURS,
            DayKinds::Weekdays => 7 * HOURS,
        }
    }

    /// Returns the slot of an hour (0 to 23) of a day of the week, counted from Monday (0).
    ///
    /// ```
    /// use leeway::monitor::DayKinds;
    /// assert_eq!([DayKinds::All, DayKinds::Weekend, DayKinds::Weekdays].map(|days| days.slot(5, 8)), [0, 32, 128]);
    /// ```
    pub fn slot(self, weekday: usize, hour: usize) -> usize {
        match self {
            DayKinds::All => 0,
            DayKinds::Weekend => usize::from(weekday >= 5) * HOURS + hour,
            DayKinds::Weekdays => weekday * HOURS + hour,
        }
    }

    /// Returns the name of a slot: `weekday 08:00`.
    pub fn name_of(self, slot: usize) -> String {
        const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
        let (day, hour) = (slot / HOURS, slot % HOURS);
        match self {
            DayKinds::All => "all hours".to_owned(),
            DayKinds::Weekend => format!("{} {hour:02}:00", ["weekday", "weekend"][day.min(1)]),
            DayKinds::Weekdays => format!("{} {hour:02}:00", DAYS[day.min(6)]),
        }
    }
}

// ===== time =====

/// Parses a time zone: UTC, an offset as in +01:00, or a name of the IANA database of this machine.
///
/// ```
/// use leeway::monitor::time_zone;
/// assert!(time_zone("UTC").is_ok() && time_zone("-05:30").is_ok());
/// assert!(time_zone("Mars/Olympus").unwrap_err().contains("found \"Mars/Olympus\""));
/// ```
pub fn time_zone(text: &str) -> Result<TimeZone, String> {
    if text.eq_ignore_ascii_case("utc") || text == "Z" {
        return Ok(TimeZone::UTC);
    }
    let offset = || {
        let (sign, rest) = match text.as_bytes().first()? {
            b'+' => (1, &text[1..]),
            b'-' => (-1, &text[1..]),
            _ => return None,
        };
        let (hours, minutes) = rest.split_once(':').unwrap_or((rest, "0"));
        let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
        let is_offset = (0..=14).contains(&hours) && (0..60).contains(&minutes);
        let seconds = sign * (hours * 3_600 + minutes * 60);
        Offset::from_seconds(seconds).ok().filter(|_| is_offset).map(TimeZone::fixed)
    };
    offset().or_else(|| TimeZone::get(text).ok()).ok_or_else(|| {
        format!(
            "found {text:?}, expected UTC, an offset as in +01:00, or a name as in Europe/Amsterdam, if this machine has a \
             database of time zones"
        )
    })
}

/// Returns the day of the week, counted from Monday (0), and the hour of a moment.
pub(super) fn weekday_and_hour(moment: Timestamp, zone: &TimeZone) -> (usize, usize) {
    let local = zone.to_datetime(moment);
    let weekday = usize::try_from(local.weekday().to_monday_zero_offset()).unwrap_or_default();
    (weekday, usize::try_from(local.hour()).unwrap_or_default())
}

/// Returns the slots of a span of time, and the share of the span that each of them has.
pub(super) fn slots_of_span(start: Timestamp, end: Timestamp, days: DayKinds, zone: &TimeZone) -> Vec<(usize, f64)> {
    /// Maximum number of hours that are looked at. A longer slice is that of a server that was asleep.
    const MAX_HOURS: usize = 200;
    let (first, last) = (start.as_microsecond(), end.as_microsecond());
    let length = (last - first).max(1) as f64;
    let mut slots: Vec<(usize, f64)> = Vec::new();
    let mut at = first;
    for _ in 0..MAX_HOURS {
        let Ok(moment) = Timestamp::from_microsecond(at) else { break };
        let local = zone.to_datetime(moment);
        let into_hour = i64::from(local.minute()) * 60_000_000
            + i64::from(local.second()) * 1_000_000
            + i64::from(local.subsec_nanosecond()) / 1_000;
        let next = (at + 3_600_000_000 - into_hour).min(last).max(at + 1);
        let (weekday, hour) = weekday_and_hour(moment, zone);
        let (slot, share) = (days.slot(weekday, hour), (next - at) as f64 / length);
        match slots.iter_mut().find(|(known, _)| *known == slot) {
            Some((_, sum)) => *sum += share,
            None => slots.push((slot, share)),
        }
        at = next;
        if at >= last {
            break;
        }
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_the_share_of_its_time_in_each_hour() {
        let zone = time_zone("+05:30").unwrap();
        let moment = |text: &str| text.parse::<Timestamp>().unwrap();
        // 2026-11-27 is a Friday. In India, it is 23:15 to 00:45.
        let slots =
            slots_of_span(moment("2026-11-27T17:45:00Z"), moment("2026-11-27T19:15:00Z"), DayKinds::Weekend, &zone);
        assert_eq!(slots, [(23, 0.5), (24, 0.5)]);
        let (start, end) = (moment("2026-11-23T00:00:00Z"), moment("2026-11-30T00:00:00Z"));
        let all = slots_of_span(start, end, DayKinds::Weekdays, &TimeZone::UTC);
        assert_eq!(all.len(), 168);
        assert!((all.iter().map(|(_, share)| share).sum::<f64>() - 1.0).abs() < 1e-9);
        assert_eq!(slots_of_span(start, end, DayKinds::All, &TimeZone::UTC).len(), 1);
    }

    #[test]
    fn a_profile_that_cannot_be_is_refused() {
        let profile = |rows: usize, independent: f64, slots: usize| Profile {
            time_zone: "UTC".to_owned(),
            days: DayKinds::Weekend,
            rows: vec![1; rows],
            untimed_rows: 0,
            features: vec![FeatureProfile { name: "a".to_owned(), independent, counts: vec![vec![1, 2]; slots] }],
            predictions: Vec::new(),
        };
        assert_eq!(profile(48, 1.0, 48).problem(), None);
        for (rows, independent, slots, expected) in [
            (24, 1.0, 48, "rows: found 24 slots, expected 48"),
            (48, 1.0, 24, "\"a\": found 24 slots, expected 48"),
            (48, 0.0, 48, "\"a\": independent: found 0, expected above 0 to 1"),
            (48, f64::NAN, 48, "\"a\": independent: found NaN, expected above 0 to 1"),
        ] {
            assert_eq!(profile(rows, independent, slots).problem().unwrap(), expected);
        }
    }
}
