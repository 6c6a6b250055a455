//! Says in a few words what has changed in a feature.

use crate::identity::printable;
use crate::monitor::{BinDrift, BinSummary, DriftStatus, FeatureDrift, MIN_VALUES, Share, ShareDrift};

/// Maximum length of the name of a bin, in bytes.
const MAX_NAME: usize = 24;

/// Returns the largest change of a feature with a warning or drift, and the number of rows that a verdict needs for one
/// without enough data; otherwise an empty text.
pub(super) fn change(feature: &FeatureDrift) -> String {
    match feature.status {
        DriftStatus::NotEnoughData => {
            let rows: u64 = feature.bins.iter().map(|bin| bin.window_count).sum();
            let copies = if rows >= MIN_VALUES { " different" } else { "" };
            let has = if rows >= MIN_VALUES { feature.drift.independent_count } else { rows };
            format!("needs {MIN_VALUES}{copies} rows, has {has}")
        }
        DriftStatus::Ok => String::new(),
        DriftStatus::Warning | DriftStatus::Drifted => {
            let of_feature = |share: &&ShareDrift| share.status == feature.status;
            let worst = feature.shares.iter().filter(of_feature).max_by(|a, b| a.increase().total_cmp(&b.increase()));
            match (worst, feature.drift.baseline_summary, feature.drift.window_summary) {
                (Some(share), ..) => of_share(share, &feature.bins),
                (None, Some(baseline), Some(window)) => of_number(&baseline, &window),
                _ => of_bins(&feature.bins),
            }
        }
    }
}

fn of_share(share: &ShareDrift, bins: &[BinDrift]) -> String {
    let now = percent(share.window_share);
    // The bins of a number with a known range: `below`, its own bins, `above`, `missing` and `other`.
    let max = bins.len().checked_sub(4).and_then(|last| bins.get(last)).map_or("", |bin| &*bin.bin);
    match share.of {
        Share::Below => format!("{now} below all training data"),
        Share::Above => format!("{now} above {max}, the most in training"),
        Share::Missing => format!("{now} missing, {} in training", percent(share.baseline_share)),
        Share::Other => format!("{now} unknown, {} in training", percent(share.baseline_share)),
    }
}

fn of_number(baseline: &BinSummary, window: &BinSummary) -> String {
    let shift = (window.mean - baseline.mean).abs() / baseline.deviation;
    let spread = (window.deviation / baseline.deviation).ln().abs();
    match shift >= spread {
        true => format!("mean {} → {}", significant(baseline.mean), significant(window.mean)),
        false => format!("deviation {} → {}", significant(baseline.deviation), significant(window.deviation)),
    }
}

/// Returns the bin whose share has changed most.
fn of_bins(bins: &[BinDrift]) -> String {
    let difference = |bin: &BinDrift| (bin.window_ratio - bin.baseline_ratio).abs();
    let Some(most) = bins.iter().max_by(|a, b| difference(a).total_cmp(&difference(b))) else { return String::new() };
    let name = printable(&most.bin, MAX_NAME);
    format!("{name}: {} → {}", percent(most.baseline_ratio), percent(most.window_ratio))
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// Formats a number with three significant digits.
fn significant(number: f64) -> String {
    let magnitude = number.abs().max(f64::MIN_POSITIVE).log10().floor();
    match magnitude {
        _ if number == 0.0 => "0".to_owned(),
        m if !(-4.0..6.0).contains(&m) => format!("{number:.2e}"),
        m => format!("{number:.*}", (2.0 - m).max(0.0) as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::{BinPositions, BinRole, Reference, judge};

    fn check(window: &[u64], expected: &str) {
        let names = ["below", "1", "2", "above", "missing", "other"];
        let [below, above, missing, other] =
            [Share::Below, Share::Above, Share::Missing, Share::Other].map(BinRole::Share);
        let roles = vec![below, BinRole::Compared, BinRole::Compared, above, missing, other];
        let counts = vec![0, 500, 490, 0, 10, 0];
        let positions = Some(BinPositions::new(0.0, &[1.0], 2.0));
        let mut all = [Reference { roles, counts: counts.clone(), positions }.compare(&window.into())];
        judge(&mut all);
        let [found] = all;
        let ratio = |counts: &[u64], bin: usize| counts[bin] as f64 / counts.iter().sum::<u64>() as f64;
        let bin = |(bin, name): (usize, &str)| BinDrift {
            bin: name.to_owned(),
            baseline_count: counts[bin],
            window_count: window[bin],
            baseline_ratio: ratio(&counts, bin),
            window_ratio: ratio(window, bin),
        };
        let feature = FeatureDrift {
            name: "x".to_owned(),
            status: found.status,
            drift: found.drift,
            shares: found.shares,
            bins: names.into_iter().enumerate().map(bin).collect(),
        };
        assert_eq!(change(&feature), expected);
    }

    #[test]
    fn the_largest_change_is_said_in_words() {
        check(&[0, 500, 490, 0, 10, 0], "");
        check(&[0, 20, 20, 0, 0, 0], "needs 100 rows, has 40");
        check(&[50, 475, 475, 0, 0, 0], "5.0 % below all training data");
        check(&[0, 475, 425, 100, 0, 0], "10.0 % above 2, the most in training");
        check(&[0, 450, 450, 0, 100, 0], "10.0 % missing, 1.0 % in training");
        check(&[0, 450, 450, 0, 20, 80], "8.0 % unknown, 0.0 % in training");
        check(&[0, 100, 900, 0, 0, 0], "mean 0.995 → 1.40");
    }

    #[test]
    fn numbers_have_three_digits() {
        let shown = [0.0, 14.127, -39.7, 0.000_123_4, 123_456.0, 1e-9, 2.5e12].map(significant);
        assert_eq!(shown, ["0", "14.1", "-39.7", "0.000123", "123456", "1.00e-9", "2.50e12"]);
    }
}
