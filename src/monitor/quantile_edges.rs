//! Edges of the bins of a numeric feature, chosen from a sample of its values.

use super::bins::MAX_NUMBER_BINS;

/// Number of bins of a numeric feature. Each bin has the same number of sampled rows.
const QUANTILE_BINS: usize = 10;
/// Maximum number of edges of these bins. Together with the bins for values out of range, they fill a block of counters.
const MAX_QUANTILE_EDGES: usize = 10;

/// Returns the edges of bins that have about the same number of these sorted values each. A value that is more frequent
/// than that has a bin of its own, and the others share the rest of the bins. If the first edge is the smallest value, an
/// edge is added just below it, so that smaller values get a bin of their own, like values above the last edge.
pub(super) fn quantile_edges(sorted: &[f64]) -> Vec<f64> {
    let is_frequent = |values: &&[f64]| values.len() * QUANTILE_BINS > sorted.len();
    let frequent: Vec<f64> = sorted.chunk_by(f64::eq).filter(is_frequent).map(|values| values[0]).collect();
    let rest: Vec<f64> = sorted.iter().copied().filter(|value| !frequent.contains(value)).collect();
    // A frequent value has an edge at itself, and one just below itself if other values are there.
    let bins = (QUANTILE_BINS + 1).saturating_sub(2 * frequent.len()).clamp(1, QUANTILE_BINS);
    let quantiles = (1..bins).filter_map(|bin| quantile(&rest, bin as f64 / bins as f64));
    let mut edges: Vec<f64> = frequent.iter().copied().chain(quantiles).collect();
    for value in &frequent {
        let below = edges.iter().copied().filter(|edge| edge < value).fold(f64::NEG_INFINITY, f64::max);
        if edges.len() < MAX_QUANTILE_EDGES && rest.iter().any(|other| *other > below && other < value) {
            edges.push(f64::from((*value as f32).next_down()));
        }
    }
    edges.sort_by(f64::total_cmp);
    edges.dedup();
    if let (Some(least), Some(first)) = (sorted.first(), edges.first())
        && least == first
    {
        edges.insert(0, f64::from((*least as f32).next_down()));
    }
    debug_assert!(edges.len() < MAX_NUMBER_BINS);
    edges.retain(|edge| edge.is_finite());
    edges
}

/// Returns a quantile of sorted values: the smallest value such that at least this share of the values are not above
/// it.
pub(super) fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edges(values: &[f64]) -> Vec<f64> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        quantile_edges(&sorted)
    }

    #[test]
    fn bins_are_deciles_and_merged_where_values_are_the_same() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(edges(&hundred), [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0]);
        // Half of the values are 0, the least.
        let half_zero: Vec<f64> = (1..=100).map(|i| f64::from((i - 50).max(0))).collect();
        assert_eq!(
            edges(&half_zero),
            [f64::from(0f32.next_down()), 0.0, 6.0, 12.0, 17.0, 23.0, 28.0, 34.0, 39.0, 45.0]
        );
        // 92 of 100 values are 0; the others have bins of their own, below and above it.
        let mostly_zero: Vec<f64> = (1..=200).map(|i| f64::from((i - 192).max(0) + (i - 9).min(0))).collect();
        assert_eq!(edges(&mostly_zero), [-7.0, -5.0, -3.0, -1.0, 0.0, 1.0, 3.0, 5.0, 7.0]);
        assert_eq!(edges(&[7.0; 20]), [f64::from(7f32.next_down()), 7.0]);
        let dice: Vec<f64> = (0..600).map(|i| f64::from(i % 6 + 1)).collect();
        assert_eq!(edges(&dice), [f64::from(1f32.next_down()), 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(edges(&[]), [0.0; 0]);
    }
}
