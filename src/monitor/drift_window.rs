//! The window in which drift is measured.

use std::time::Duration;

/// Length of a window in which drift is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriftWindow {
    /// Minimum length of the window.
    pub length: Duration,
    /// Number of instances that the window should have. A window with fewer is extended by hours, up to a week.
    pub rows: u64,
}

impl From<Duration> for DriftWindow {
    /// A window of exactly this length.
    fn from(length: Duration) -> DriftWindow {
        DriftWindow { length, rows: 0 }
    }
}
