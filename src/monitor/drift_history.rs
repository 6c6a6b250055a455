//! The drift of a version over the last day, for a console: a point a minute in the last hour, and one every five minutes
//! before that.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::drift::DriftStatus;
use super::drift_report::{DriftReport, FeatureDrift};

/// Interval of recent points, and their number.
const MINUTE: Duration = Duration::from_secs(60);
const MINUTES: usize = 60;
/// Interval of older points, and their number: those of 23 hours.
const FIVE_MINUTES: Duration = Duration::from_secs(300);
const OLDER: usize = 276;
/// Number of features that a point names.
const WORST: usize = 5;

/// Drift of a version at a moment.
#[derive(Debug, Clone, PartialEq)]
pub struct DriftPoint {
    /// Time of the monitor.
    pub at: Duration,
    /// The drift.
    pub drift: DriftAt,
}

/// Drift of a version at a moment: the verdict, and the population stability indexes (PSI) of the window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DriftAt {
    /// The verdict on the model.
    pub status: DriftStatus,
    /// Number of instances in the window.
    pub rows: u64,
    /// The features; absent if none has values in the window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<PsiSummary>,
    /// The parts of the predictions; absent if none has values in the window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predictions: Option<PsiSummary>,
    /// The features with the worst drift, five at most, the worst first.
    pub worst: Vec<FeaturePsi>,
}

/// Maximum and mean of the adjusted PSI of several features.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PsiSummary {
    /// The largest one.
    pub max_psi: f64,
    /// The mean.
    pub mean_psi: f64,
}

/// Adjusted PSI of a feature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FeaturePsi {
    /// Name of the feature.
    pub name: String,
    /// Verdict on its drift in the window.
    pub status: DriftStatus,
    /// The adjusted PSI.
    pub psi: f64,
}

/// The stored points of a version.
#[derive(Debug)]
pub(super) struct DriftHistory {
    born: Duration,
    points: Mutex<Points>,
}

#[derive(Debug, Default)]
struct Points {
    recent: VecDeque<DriftPoint>,
    older: VecDeque<DriftPoint>,
}

impl DriftHistory {
    pub(super) fn new(born: Duration) -> DriftHistory {
        DriftHistory { born, points: Mutex::default() }
    }

    /// Stores the point of this moment if a minute has passed since the last one.
    pub(super) fn tick(&self, now: Duration, drift: impl FnOnce() -> DriftAt) {
        let last = self.points.lock().recent.back().map_or(self.born, |last| last.at);
        if now >= last + MINUTE {
            // Computed without the lock, so that readers do not wait.
            let point = DriftPoint { at: now, drift: drift() };
            self.points.lock().push(point);
        }
    }

    /// Returns the stored points, the oldest first.
    pub(super) fn points(&self) -> Vec<DriftPoint> {
        let points = self.points.lock();
        points.older.iter().chain(&points.recent).cloned().collect()
    }
}

impl Points {
    fn push(&mut self, point: DriftPoint) {
        self.recent.push_back(point);
        if self.recent.len() <= MINUTES {
            return;
        }
        let Some(oldest) = self.recent.pop_front() else { return };
        if self.older.back().is_none_or(|last| oldest.at >= last.at + FIVE_MINUTES) {
            self.older.push_back(oldest);
        }
        if self.older.len() > OLDER {
            self.older.pop_front();
        }
    }
}

impl From<&DriftReport> for DriftAt {
    fn from(report: &DriftReport) -> DriftAt {
        let worst = |feature: &FeatureDrift| FeaturePsi {
            name: feature.name.clone(),
            status: feature.status,
            psi: rounded(feature.drift.psi_adjusted),
        };
        DriftAt {
            status: report.verdict.status,
            rows: report.rows,
            features: summary(&report.features),
            predictions: summary(&report.predictions),
            worst: with_values(&report.features).take(WORST).map(worst).collect(),
        }
    }
}

/// Features that have values in the window.
fn with_values(features: &[FeatureDrift]) -> impl Iterator<Item = &FeatureDrift> + Clone {
    features.iter().filter(|feature| feature.drift.window_count > 0)
}

fn summary(features: &[FeatureDrift]) -> Option<PsiSummary> {
    let indexes = with_values(features).map(|feature| feature.drift.psi_adjusted);
    let max = indexes.clone().reduce(f64::max)?;
    let mean = indexes.clone().sum::<f64>() / indexes.count() as f64;
    Some(PsiSummary { max_psi: rounded(max), mean_psi: rounded(mean) })
}

/// Rounds a PSI to four decimals.
fn rounded(psi: f64) -> f64 {
    (psi * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_hour_has_a_point_a_minute_and_the_day_one_every_five() {
        let history = DriftHistory::new(Duration::ZERO);
        let drift = DriftAt { status: DriftStatus::Ok, rows: 0, features: None, predictions: None, worst: Vec::new() };
        for second in (0..3 * 86_400).step_by(7) {
            history.tick(Duration::from_secs(second), || drift.clone());
        }
        let at: Vec<u64> = history.points().iter().map(|point| point.at.as_secs()).collect();
        assert_eq!(at.len(), MINUTES + OLDER);
        let gap = |index: usize| at[index + 1] - at[index];
        assert!((OLDER..at.len() - 1).all(|index| (60..67).contains(&gap(index))));
        assert!((0..OLDER - 1).all(|index| (300..370).contains(&gap(index))));
        assert!(at[at.len() - 1] - at[0] >= 86_400 - 600);
    }
}
