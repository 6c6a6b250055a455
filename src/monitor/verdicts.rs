//! Makes the verdict on the drift of a version from the windows of its counters.

use std::sync::Arc;
use std::time::Duration;

use super::baseline::Baseline;
use super::drift::MIN_VALUES;
use super::drift_counters::{DriftCounters, HOUR};
use super::drift_reading::DriftReading;
use super::drift_verdict::{DAY, DaysWindow, DriftVerdict, HOURS, SeasonalWindow, VerdictWindows, WEEK};
use super::drift_window::DriftWindow;
use super::profile::LearnedProfile;
use super::usual_by_hour::UsualByHour;

/// Maximum age of a verdict in `/metrics`. It takes several windows, so it is not made for every scrape.
const VERDICT_AGE: Duration = Duration::from_secs(15);

impl DriftCounters {
    /// Reads the drift within a window of this length that ended a week ago. Counts were stored every hour, so the window
    /// is extended to whole hours at both ends.
    fn read_week_ago(&self, now: Duration, length: Duration) -> DriftReading {
        let end = self.days.begin(now, WEEK - HOUR);
        let marks = self.days.since(end.at, length + HOUR);
        self.reading(end, marks)
    }

    /// Makes a verdict. `recent` is the window in which shares count at once.
    pub(super) fn new_verdict(&self, now: Duration, recent: DriftWindow) -> DriftVerdict {
        let known = self.days.length(now);
        let usual = self.usual();
        let seasonal = |window: DriftWindow| {
            let reading = self.read(now, window);
            let is_known = known >= WEEK + reading.window;
            let week_ago = is_known.then(|| self.read_week_ago(now, reading.window));
            // A few requests say nothing about what is usual at this hour.
            let week_ago = week_ago.filter(|week_ago| week_ago.rows >= MIN_VALUES);
            let usual = usual
                .as_ref()
                .filter(|usual| usual.is_by_hour())
                .map(|usual| usual.compare(&reading, &self.wall_clock));
            SeasonalWindow { usual: usual.unwrap_or_default(), now: reading, week_ago }
        };
        let days = known.min(WEEK).as_secs() / DAY.as_secs();
        let windows = VerdictWindows {
            recent: seasonal(recent),
            hours: seasonal(DriftWindow { length: HOURS, rows: recent.rows }),
            days: (days > 0).then(|| {
                let now = self.read(now, Duration::from_secs(days * DAY.as_secs()).into());
                let compared = usual.as_ref().map(|usual| usual.compare(&now, &self.wall_clock));
                let knows_hours = usual.as_ref().is_some_and(|usual| usual.is_by_hour());
                DaysWindow { usual: compared.unwrap_or_default(), knows_hours, now }
            }),
        };
        windows.verdict()
    }

    /// Returns the latest verdict, which is renewed after 15 seconds.
    pub(super) fn verdict(&self, now: Duration, recent: DriftWindow) -> DriftVerdict {
        let mut latest = self.latest_verdict.lock();
        match &*latest {
            Some((made, verdict)) if now < *made + VERDICT_AGE => verdict.clone(),
            _ => {
                let verdict = self.new_verdict(now, recent);
                *latest = Some((now, verdict.clone()));
                verdict
            }
        }
    }

    /// Profile by time of day, if there is one.
    pub(super) fn usual(&self) -> Option<Arc<UsualByHour>> {
        self.usual.lock().clone()
    }

    /// Uses a learned profile instead of that of the baseline; `None` takes it back.
    pub(super) fn use_profile(&self, learned: Option<&Arc<LearnedProfile>>, baseline: Option<&Baseline>) {
        let of_baseline = || baseline.and_then(|baseline| baseline.profile.as_ref());
        let usual = match learned {
            Some(learned) => UsualByHour::of(&learned.profile, Some(&learned.origin), &self.monitored.all),
            None => of_baseline().and_then(|profile| UsualByHour::of(profile, None, &self.monitored.all)),
        };
        *self.usual.lock() = usual.map(Arc::new);
        *self.latest_verdict.lock() = None;
    }
}
