//! The bins in which the values of requests are counted: those of the baseline, and bins for values that the training
//! data do not have.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::baseline::{FeatureBaseline, Summary};
use super::bins::{Bins, MAX_NUMBER_BINS, MISSING, OTHER, RARE, quoted, shown};
use super::drift::{BinPositions, BinRole, Reference, Share};

/// The bins of a feature, in which requests are counted.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct WatchedBins {
    /// Names of the bins. The last two are `missing` and `other`.
    pub(super) names: Vec<String>,
    /// The edges of the bins of a numeric feature.
    pub(super) edges: Vec<f64>,
    /// Roles of the bins, and their counts in the training data.
    pub(super) reference: Reference,
}

/// Side of the model that a monitored value is on: its inputs or its predictions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// A feature of the preprocessor.
    Feature,
    /// A part of the prediction.
    Prediction,
}

/// Bins of a numeric feature at both ends, for values out of range.
const OUT_OF_RANGE_BINS: usize = 2;

impl WatchedBins {
    /// Returns the bins of a feature. A numeric feature of requests, whose smallest and largest training values are
    /// known, has one bin below and one above them, if its counters have room for them.
    pub(super) fn new(feature: &FeatureBaseline, side: Side) -> WatchedBins {
        match &feature.bins {
            Bins::Text { values } => WatchedBins::texts(feature, values),
            Bins::Number { edges } => {
                let range = feature.summary.as_ref().filter(|_| side == Side::Feature);
                let bounded = range.and_then(|summary| WatchedBins::numbers_in(feature, edges, summary));
                bounded.unwrap_or_else(|| WatchedBins::numbers(feature, edges))
            }
        }
    }

    fn texts(feature: &FeatureBaseline, values: &[String]) -> WatchedBins {
        let rare = feature.rare.as_ref();
        let own = values.iter().map(|value| quoted(value)).chain(rare.map(|_| RARE.to_owned()));
        let counts = feature.counts.iter().copied().chain(rare.map(|rare| rare.count));
        WatchedBins::with_outside(feature, own.collect(), counts.collect(), Vec::new(), None)
    }

    fn numbers(feature: &FeatureBaseline, edges: &[f64]) -> WatchedBins {
        let own = edges.iter().map(|edge| shown(*edge)).chain(["+Inf".to_owned()]).collect();
        let positions = feature.summary.as_ref().map(|summary| positions(summary, edges));
        WatchedBins::with_outside(feature, own, feature.counts.clone(), edges.to_vec(), positions)
    }

    fn numbers_in(feature: &FeatureBaseline, edges: &[f64], summary: &Summary) -> Option<WatchedBins> {
        // Values are compared in single precision.
        let [min, max] = [summary.min, summary.max].map(|value| f64::from(value as f32));
        let inner: Vec<f64> = edges.iter().copied().filter(|edge| (min..max).contains(edge)).collect();
        if inner.len() + 1 + OUT_OF_RANGE_BINS > MAX_NUMBER_BINS {
            return None;
        }
        // The bins of the baseline that end at or below the minimum, or begin at the maximum, are empty.
        let mut own = vec![0; inner.len() + 1];
        let ends = edges.iter().copied().chain([f64::INFINITY]);
        for (count, end) in feature.counts.iter().zip(ends) {
            own[inner.partition_point(|edge| *edge < end)] += count;
        }
        let below = f64::from((min as f32).next_down());
        let edges: Vec<f64> = [below].into_iter().chain(inner.iter().copied()).chain([max]).collect();
        let names = inner.iter().chain([&max]).map(|edge| shown(*edge));
        let positions = positions(summary, &inner);
        let mut bins = WatchedBins::with_outside(feature, names.collect(), own, edges, Some(positions));
        for (at, share) in [(0, Share::Below), (1 + inner.len() + 1, Share::Above)] {
            bins.names.insert(at, share.name().to_owned());
            bins.reference.roles.insert(at, BinRole::Share(share));
            bins.reference.counts.insert(at, 0);
        }
        Some(bins)
    }

    /// Returns these compared bins, and the bins `missing` and `other`.
    fn with_outside(
        feature: &FeatureBaseline,
        mut names: Vec<String>,
        mut counts: Vec<u64>,
        edges: Vec<f64>,
        positions: Option<BinPositions>,
    ) -> WatchedBins {
        let mut roles = vec![BinRole::Compared; names.len()];
        roles.extend([Share::Missing, Share::Other].map(BinRole::Share));
        names.extend([MISSING, OTHER].map(str::to_owned));
        counts.extend([feature.missing, feature.other]);
        WatchedBins { names, edges, reference: Reference { roles, counts, positions } }
    }
}

/// Returns the positions of the bins between these edges. A few extreme values of the training data must not determine
/// those of the outermost bins.
fn positions(Summary { min, max, quantiles, .. }: &Summary, edges: &[f64]) -> BinPositions {
    let quantile = |share: &str, otherwise: f64| {
        let known = quantiles.get(share).copied().filter(|quantile| (*min..=*max).contains(quantile));
        known.unwrap_or(otherwise)
    };
    match (quantile("0.01", *min), quantile("0.99", *max)) {
        (first, last) if first < last => BinPositions::new(first, edges, last),
        _ => BinPositions::new(*min, edges, *max),
    }
}

#[cfg(test)]
mod tests {
    use super::super::baseline::Baseline;
    use super::*;

    fn number(edges: &[f64], counts: &[u64], range: Option<(f64, f64)>) -> FeatureBaseline {
        let text = br#"{"format": 1, "rows": 1, "sampled_rows": 1, "predictions": [], "features": [
            {"name": "a", "bins": {"kind": "number", "edges": []}, "counts": [1], "missing": 3, "other": 4}]}"#;
        let mut feature = Baseline::parse(text).unwrap().features.remove(0);
        feature.bins = Bins::Number { edges: edges.to_vec() };
        feature.counts = counts.to_vec();
        let summary = |(min, max)| Summary { mean: 0.0, deviation: 1.0, min, max, quantiles: Default::default() };
        feature.summary = range.map(summary);
        feature
    }

    fn check(feature: &FeatureBaseline, names: &[&str], counts: &[u64]) -> WatchedBins {
        let bins = WatchedBins::new(feature, Side::Feature);
        assert_eq!((&*bins.names.join(" "), &*bins.reference.counts), (&*names.join(" "), counts));
        assert_eq!(bins.edges.len() + 3, bins.names.len());
        bins
    }

    #[test]
    fn values_out_of_range_have_their_own_bins() {
        let range = Some((1.0, 9.0));
        check(
            &number(&[2.0, 5.0], &[10, 20, 30], range),
            &["below", "2", "5", "9", "above", "missing", "other"],
            &[0, 10, 20, 30, 0, 3, 4],
        );
        // The baseline has a bin for values below 0 that never occurred. All values are 0 or 4.
        let below = f64::from(0f32.next_down());
        check(
            &number(&[below, 0.0, 4.0], &[0, 7, 5, 0], Some((0.0, 4.0))),
            &["below", "0", "4", "above", "missing", "other"],
            &[0, 7, 5, 0, 3, 4],
        );
        check(
            &number(&[f64::from(7f32.next_down()), 7.0], &[0, 9, 0], Some((7.0, 7.0))),
            &["below", "7", "above", "missing", "other"],
            &[0, 9, 0, 3, 4],
        );
    }

    #[test]
    fn without_a_range_the_outermost_bins_are_open() {
        check(&number(&[2.0], &[1, 2], None), &["2", "+Inf", "missing", "other"], &[1, 2, 3, 4]);
        let many: Vec<f64> = (1..=13).map(f64::from).collect();
        let bins = WatchedBins::new(&number(&many, &[1; 14], Some((0.0, 20.0))), Side::Feature);
        assert_eq!((&*bins.names[0], bins.names.len()), ("1", 16));
        let predicted = WatchedBins::new(&number(&[2.0], &[1, 2], Some((1.0, 9.0))), Side::Prediction);
        assert_eq!(predicted.names, ["2", "+Inf", "missing", "other"]);
    }
}
