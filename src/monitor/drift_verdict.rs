//! The verdict on the drift of a model, for alerts: one for all features, that knows the time of day.
//!
//! The training data are usually of all hours and weekdays, and a window of an hour is not. So a difference from the
//! training data counts only if it is not explained by the hour:
//!
//! 1. Shares of values that the training data do not have (missing, unknown, out of range) count at once, over the
//!    recent window, unless the same window one week earlier had at least half of the increase.
//! 2. The distributions of the last six hours count if they differ from the training data *and* from the same six hours
//!    one week earlier.
//! 3. The distributions and shares of the last whole days, up to seven, count if they differ from the training data, and
//!    the last six hours still do.
//!
//! A difference that is in only a part of its window does not count.
//!
//! Until a week is known, nothing is known of weekends: then a difference of distributions is a warning at most.
//!
//! If a profile says what is usual at this hour, it is used instead of the training data, where it has enough rows: in 1,
//! a share counts only if it is also larger than usual; in 2 and 3, distributions are compared with what is usual at the
//! hours of the window, and from the first hour on.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::drift::{Comparison, DriftStatus, ShareDrift};
use super::drift_reading::DriftReading;

/// Length of the window that is compared with the same hours one week earlier.
pub(super) const HOURS: Duration = Duration::from_secs(6 * 3_600);
/// An hour, a day, and a week.
const HOUR: Duration = Duration::from_secs(3_600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);
pub(super) const WEEK: Duration = Duration::from_secs(7 * 86_400);
/// Maximum number of features that a verdict names.
const MAX_NAMED: usize = 5;

/// Verdict on the drift of a model, for alerts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DriftVerdict {
    /// The verdict: `drifted` calls for a person, `warning` does not.
    pub status: DriftStatus,
    /// The comparison that the verdict is from; absent if nothing was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<VerdictReason>,
    /// Names of the features with this status, the worst first, five at most. Parts of the predictions are named like
    /// `prediction class`.
    pub features: Vec<String>,
}

/// The comparison that a verdict is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VerdictReason {
    /// More values are missing, unknown or out of range than in the training data.
    Shares,
    /// The last hours differ from the training data and from the same hours one week earlier.
    SinceLastWeek,
    /// The last hours differ from what the profile says is usual at these hours.
    TimeOfDay,
    /// The last whole days differ from the training data, or from what the profile says is usual.
    WholeDays,
    /// The recent window differs from the training data. Less than a day of history is known, so it may be the time of
    /// day.
    RecentWindow,
}

/// The windows that a verdict is made from.
pub(super) struct VerdictWindows {
    /// The recent window.
    pub(super) recent: SeasonalWindow,
    /// The last hours.
    pub(super) hours: SeasonalWindow,
    /// The last whole days, if at least one is known.
    pub(super) days: Option<DaysWindow>,
}

/// A window, and the same window one week earlier, if it is known.
pub(super) struct SeasonalWindow {
    pub(super) now: DriftReading,
    pub(super) week_ago: Option<DriftReading>,
    /// Comparison of each feature with what is usual at these hours, if it is known.
    pub(super) usual: Vec<Option<Comparison>>,
}

/// A window of whole days.
pub(super) struct DaysWindow {
    pub(super) now: DriftReading,
    /// Comparison of each feature with what is usual on these days, if it is known.
    pub(super) usual: Vec<Option<Comparison>>,
    /// True if the time of day is distinguished in what is usual.
    pub(super) knows_hours: bool,
}

impl Default for DriftVerdict {
    fn default() -> DriftVerdict {
        DriftVerdict { status: DriftStatus::NotEnoughData, reason: None, features: Vec::new() }
    }
}

impl VerdictReason {
    /// Name of the comparison in metrics and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            VerdictReason::Shares => "shares",
            VerdictReason::SinceLastWeek => "since_last_week",
            VerdictReason::TimeOfDay => "time_of_day",
            VerdictReason::WholeDays => "whole_days",
            VerdictReason::RecentWindow => "recent_window",
        }
    }
}

/// Status and size of the drift of each feature by one comparison.
type Found = Vec<(DriftStatus, f64)>;

impl VerdictWindows {
    /// Returns the verdict.
    pub(super) fn verdict(&self) -> DriftVerdict {
        let mut all = vec![(VerdictReason::Shares, self.recent.shares())];
        if self.hours.usual.iter().any(Option::is_some) {
            all.push((VerdictReason::TimeOfDay, self.hours.at_this_time()));
        }
        if self.hours.week_ago.is_some() {
            all.push((VerdictReason::SinceLastWeek, self.hours.since_last_week()));
        }
        all.push(match &self.days {
            Some(days) => (VerdictReason::WholeDays, self.whole_days(days)),
            None => (VerdictReason::RecentWindow, self.recent_window()),
        });
        let worst_of = |found: &Found| found.iter().map(|(status, _)| *status).max();
        let Some((reason, found)) = all.into_iter().rev().max_by_key(|(_, found)| worst_of(found)) else {
            return DriftVerdict::default();
        };
        let status = worst_of(&found).unwrap_or(DriftStatus::NotEnoughData);
        if status <= DriftStatus::Ok {
            return DriftVerdict { status, ..DriftVerdict::default() };
        }
        let of_status = found.iter().enumerate().filter(|(_, (of, _))| *of == status);
        let mut worst: Vec<(usize, f64)> = of_status.map(|(at, (_, size))| (at, *size)).collect();
        worst.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        let names = worst.into_iter().take(MAX_NAMED).filter_map(|(at, _)| self.recent.now.title(at));
        DriftVerdict { status, reason: Some(reason), features: names.collect() }
    }

    /// Returns the differences of the last whole days that the last hours still have.
    fn whole_days(&self, days: &DaysWindow) -> Found {
        let status = |(at, found): (usize, &Comparison)| {
            let usual = days.usual.get(at).and_then(Option::as_ref);
            // The hours of whole days are all there, but not the days of the week.
            let knows_days = days.now.window >= WEEK || days.knows_hours && usual.is_some();
            let reference = usual.unwrap_or(found);
            let of_distribution = if knows_days { distribution(reference) } else { warning(reference) };
            let status = of_distribution.max(worst_share(reference).min(worst_share(found)));
            (status.min(self.hours.still(at)), reference.size())
        };
        days.now.comparisons().iter().enumerate().map(status).collect()
    }

    /// Returns the differences of the recent window, as long as no whole day is known.
    fn recent_window(&self) -> Found {
        let status = |(at, found): (usize, &Comparison)| match self.recent.usual.get(at) {
            Some(Some(_)) => (DriftStatus::Ok, 0.0),
            _ => (warning(found), found.size()),
        };
        self.recent.now.comparisons().iter().enumerate().map(status).collect()
    }
}

impl SeasonalWindow {
    /// Returns the increases of shares that were not there one week earlier, and are not usual at this time.
    fn shares(&self) -> Found {
        let week_ago = self.week_ago.as_ref().map_or(&[][..], DriftReading::comparisons);
        let now = self.now.comparisons().iter().enumerate();
        let of =
            |found: &Comparison, share: &ShareDrift| found.shares.iter().find(|other| other.of == share.of).copied();
        let is_new = |at: usize, share: &ShareDrift| {
            let before = week_ago.get(at).and_then(|found| of(found, share));
            // NaN, without values one week earlier, explains nothing.
            !before.is_some_and(|before| before.increase() >= share.increase() / 2.0)
        };
        let status = |(at, found): (usize, &Comparison)| {
            let new = found.shares.iter().filter(|share| is_new(at, share) || share.status <= DriftStatus::Ok);
            let usual = |share: &ShareDrift| of(self.usual.get(at)?.as_ref()?, share);
            let status = new.map(|share| {
                let from_usual = usual(share).map_or(DriftStatus::Drifted, |usual| lasting(usual.status, usual.lasts));
                lasting(share.status, share.lasts).min(from_usual)
            });
            (status.max().unwrap_or(DriftStatus::Ok), found.size())
        };
        now.map(status).collect()
    }

    /// Returns the differences of distributions from what is usual at these hours, and one week earlier.
    fn at_this_time(&self) -> Found {
        let mut found: Found = self
            .usual
            .iter()
            .map(|usual| match usual {
                // An hour has parts, in which a difference can last.
                Some(usual) if self.now.window >= HOUR => (distribution(usual), usual.size()),
                Some(usual) => (warning(usual), usual.size()),
                None => (DriftStatus::NotEnoughData, 0.0),
            })
            .collect();
        self.explain_by_last_week(&mut found);
        found
    }

    /// Returns the differences of distributions from the training data that are also differences from one week earlier, of
    /// the features of which it is not known what is usual.
    fn since_last_week(&self) -> Found {
        let mut found = each(self.now.comparisons(), distribution);
        for (found, _) in
            self.usual.iter().zip(&mut found).filter_map(|(usual, found)| usual.is_some().then_some(found))
        {
            *found = DriftStatus::Ok;
        }
        self.explain_by_last_week(&mut found);
        found
    }

    /// Lowers the differences that are not differences from one week earlier.
    fn explain_by_last_week(&self, found: &mut Found) {
        if let Some(week_ago) = &self.week_ago {
            for ((found, _), from_week_ago) in found.iter_mut().zip(self.now.against(week_ago)) {
                *found = (*found).min(distribution(&from_week_ago));
            }
        }
    }

    /// Returns the status that a longer difference of a feature may have: `Ok` if it has ended.
    fn still(&self, at: usize) -> DriftStatus {
        let usual = self.usual.get(at).and_then(Option::as_ref).map(|usual| usual.status);
        match usual.or_else(|| self.now.comparisons().get(at).map(|now| now.status)) {
            Some(DriftStatus::Ok) => DriftStatus::Ok,
            _ => DriftStatus::Drifted,
        }
    }
}

fn each(comparisons: &[Comparison], status: impl Fn(&Comparison) -> DriftStatus) -> Found {
    comparisons.iter().map(|found| (status(found), found.size())).collect()
}

fn distribution(found: &Comparison) -> DriftStatus {
    lasting(found.drift.status(), found.drift.lasts)
}

fn worst_share(found: &Comparison) -> DriftStatus {
    let statuses = found.shares.iter().map(|share| lasting(share.status, share.lasts));
    statuses.max().unwrap_or(DriftStatus::NotEnoughData)
}

fn warning(found: &Comparison) -> DriftStatus {
    distribution(found).min(DriftStatus::Warning)
}

/// Returns the status of a difference; `Ok` at most if it does not last.
fn lasting(status: DriftStatus, lasts: bool) -> DriftStatus {
    if lasts { status } else { status.min(DriftStatus::Ok) }
}
