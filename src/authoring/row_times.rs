//! Times of rows of training data, for a profile by time of day.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::Value;

use crate::identity::printable;

/// The times of the rows of data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowTimes {
    /// Column of a table, or member of JSON lines, with the times. Without it, the rows are those of a prediction log,
    /// which have times.
    pub column: Option<String>,
    /// Time zone of the hours of the profile, and of times without one.
    pub time_zone: String,
}

/// Units of numbers since 1970, by their number in a second.
const UNITS: [f64; 4] = [1.0, 1e3, 1e6, 1e9];
/// The times that numbers can mean, in seconds since 1970: 1990 to 2100. In this range, no number has two meanings.
const FIRST: f64 = 631_152_000.0;
const LAST: f64 = 4_102_444_800.0;
/// Maximum length of a time that an error message quotes, in bytes.
const QUOTED: usize = 64;

/// Returns the moment that a cell means; `None` if it is empty. A time without a time zone is in `zone`.
pub(super) fn moment_of(cell: &Value, zone: &TimeZone) -> Result<Option<Timestamp>, String> {
    match cell {
        Value::Null => Ok(None),
        Value::Number(number) => {
            number.as_f64().and_then(since_1970).map(Some).ok_or_else(|| wrong(&number.to_string()))
        }
        Value::String(text) => match text.trim() {
            "" => Ok(None),
            text => of_text(text, zone).map(Some).ok_or_else(|| wrong(text)),
        },
        other => Err(wrong(&other.to_string())),
    }
}

fn of_text(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    if let Ok(number) = text.parse::<f64>() {
        return since_1970(number);
    }
    // A day alone has no hour.
    let local = || text.parse::<DateTime>().ok().filter(|_| text.contains(':'));
    text.parse::<Timestamp>().ok().or_else(|| zone.to_timestamp(local()?).ok())
}

/// Returns the moment that a number means: seconds, milliseconds, microseconds or nanoseconds since 1970.
fn since_1970(number: f64) -> Option<Timestamp> {
    let seconds = UNITS.into_iter().map(|unit| number / unit).find(|seconds| (FIRST..LAST).contains(seconds))?;
    Timestamp::from_microsecond((seconds * 1e6).round() as i64).ok()
}

fn wrong(found: &str) -> String {
    format!(
        "expected a time, as in 2026-11-27T12:00:00Z or 2026-11-27 12:00:00, or seconds, milliseconds, microseconds or \
         nanoseconds since 1970 (between 1990 and 2100), found \"{}\"",
        printable(found, QUOTED)
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_cell_means_a_moment_in_any_usual_notation() {
        let noon = "2026-11-27T12:00:00Z".parse::<Timestamp>().unwrap();
        let zone = crate::monitor::time_zone("+01:00").unwrap();
        for cell in [
            json!("2026-11-27T12:00:00Z"),
            json!("2026-11-27T14:00:00+02:00"),
            json!("2026-11-27 12:00:00+00:00"),
            json!("2026-11-27 13:00:00"),
            json!(" 2026-11-27T13:00 "),
            json!(1_795_780_800),
            json!(1_795_780_800_000_i64),
            json!(1_795_780_800_000_000_000_i64),
            json!("1795780800.0"),
        ] {
            assert_eq!(moment_of(&cell, &zone), Ok(Some(noon)), "{cell}");
        }
        assert_eq!([Value::Null, json!(" ")].map(|cell| moment_of(&cell, &zone)), [Ok(None), Ok(None)]);
        for cell in [json!("2026-11-27"), json!("noon"), json!(20_261_127), json!(43_000), json!(true), json!(1e300)] {
            assert!(moment_of(&cell, &zone).unwrap_err().starts_with("expected a time"), "{cell}");
        }
    }
}
