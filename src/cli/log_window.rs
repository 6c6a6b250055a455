//! Flags for a span of time in the prediction log.

use anyhow::{Result, anyhow, bail};
use clap::Args;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::authoring::LogWindow;

/// The span of time of the rows that are used.
#[derive(Debug, Clone, Args)]
pub(super) struct LogWindowArgs {
    /// Only predictions from this time on: as in 2026-11-27T12:00:00Z, 2026-11-27 (UTC), or 24h (before now)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,

    /// Only predictions before this time, written like --since
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

impl LogWindowArgs {
    /// Returns true if one of the flags is given.
    pub(super) fn is_given(&self) -> bool {
        self.since.is_some() || self.until.is_some()
    }

    pub(super) fn window(&self) -> Result<LogWindow> {
        let now = Timestamp::now();
        let read = |flag: &str, text: &Option<String>| {
            let moment = text.as_deref().map(|text| moment(text, now)).transpose();
            moment.map_err(|problem| anyhow!("{flag}: {problem}"))
        };
        Ok(LogWindow { since: read("--since", &self.since)?, until: read("--until", &self.until)? })
    }
}

/// Parses a moment: a time, a day, or a duration before `now`.
pub(super) fn moment(text: &str, now: Timestamp) -> Result<Timestamp> {
    let ago = |number: &str, seconds: i64| {
        let number: i64 = number.parse().ok()?;
        now.checked_sub(SignedDuration::from_secs(number.checked_mul(seconds)?)).ok()
    };
    let units = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)];
    let before = units.into_iter().find_map(|(unit, seconds)| ago(text.strip_suffix(unit)?, seconds));
    let day = || TimeZone::UTC.to_timestamp(text.parse::<jiff::civil::Date>().ok()?.at(0, 0, 0, 0)).ok();
    match before.or_else(|| text.parse().ok()).or_else(day) {
        Some(moment) => Ok(moment),
        None => bail!("found {text:?}, expected a time as in 2026-11-27T12:00:00Z, a day as in 2026-11-27, or 24h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_a_day_or_a_duration_before_now() {
        let now: Timestamp = "2026-11-27T12:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("24h", "2026-11-26T12:00:00Z"),
            ("90s", "2026-11-27T11:58:30Z"),
            ("7d", "2026-11-20T12:00:00Z"),
            ("2026-11-27", "2026-11-27T00:00:00Z"),
            ("2026-11-27T13:00:00+01:00", "2026-11-27T12:00:00Z"),
        ] {
            assert_eq!(moment(text, now).unwrap().to_string(), expected, "{text}");
        }
        for text in ["", "h", "yesterday", "12:00", "9999999999999d", "-x"] {
            assert!(moment(text, now).unwrap_err().to_string().contains("expected a time"), "{text}");
        }
    }
}
