//! Quantiles of durations over a sliding window, within 1 % of the true ones.
//!
//! Durations are counted in buckets of 64 to each power of two, as HdrHistogram has them: a bucket is at most 1/64 as
//! wide as its least value, and its middle therefore at most 1/128 (0.8 %) away from any value within.

use std::sync::Arc;
use std::time::Duration;

use super::history::History;
use super::shards::Shards;
use crate::stage::Stage;

/// Buckets to each power of two, as a power of two itself.
const PRECISION: u32 = 6;
/// Below 2¹⁰ ns = 1 µs, buckets are as wide as just above it: 16 ns.
const MIN_EXPONENT: u32 = 10;
/// Durations from 2³⁷ ns = 137 s on are in the last bucket: no request takes so long.
const MAX_EXPONENT: u32 = 37;
const BUCKETS: usize = (((MAX_EXPONENT - MIN_EXPONENT) as usize) + 1) << PRECISION;

/// Intervals that a window slides by.
const INTERVALS: u32 = 30;

/// Timed quantities: the stages and the whole of answered requests, and the whole of those that were not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timed {
    Stage(Stage),
    Total,
    Shed,
    Failed,
}

const KINDS: usize = Stage::ALL.len() + 3;

/// The quantiles that are shown.
pub(super) const QUANTILES: [f64; 3] = [0.5, 0.95, 0.99];

/// The durations of one version's requests.
#[derive(Debug)]
pub(super) struct Latencies {
    window: Duration,
    cells: Shards,
    history: History<u32>,
}

impl Timed {
    fn index(self) -> usize {
        match self {
            Timed::Stage(stage) => stage as usize,
            Timed::Total => Stage::ALL.len(),
            Timed::Shed => Stage::ALL.len() + 1,
            Timed::Failed => Stage::ALL.len() + 2,
        }
    }
}

impl Latencies {
    pub(super) fn new(born: Duration, window: Duration) -> Latencies {
        let history = History::new(born, window / INTERVALS, window);
        Latencies { window, cells: Shards::new(KINDS * BUCKETS + 2 * KINDS), history }
    }

    pub(super) fn observe(&self, what: Timed, took: Duration) {
        let cells = self.cells.local();
        cells.add(what.index() * BUCKETS + bucket(took), 1);
        cells.add(KINDS * BUCKETS + 2 * what.index(), 1);
        cells.add(KINDS * BUCKETS + 2 * what.index() + 1, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(super) fn tick(&self, now: Duration) {
        // Differences within a window are far below 2³²: the lower half is enough.
        self.history.tick(now, || self.cells.sums().map(|sum| sum as u32).collect());
    }

    /// The [`QUANTILES`] of what was observed within the window, for each kind; `None` of what was not.
    pub(super) fn quantiles(
        &self,
        now: Duration,
        kinds: &[Timed],
    ) -> Vec<(Timed, Option<[Duration; QUANTILES.len()]>)> {
        let begin = self.history.begin(now, self.window);
        let before = |cell: usize| begin.counts.as_ref().map_or(0, |counts| counts[cell]);
        let quantiles = |kind: Timed| {
            // Most versions never shed or fail.
            if self.total(kind).0 == 0 {
                return None;
            }
            let at = kind.index() * BUCKETS;
            let sums = self.cells.sums_of(at..at + BUCKETS).into_iter().zip(at..);
            let counts: Vec<u32> = sums.map(|(sum, cell)| (sum as u32).wrapping_sub(before(cell))).collect();
            let mut found = [Duration::ZERO; QUANTILES.len()];
            for (found, share) in found.iter_mut().zip(QUANTILES) {
                *found = quantile(&counts, share)?;
            }
            Some(found)
        };
        kinds.iter().map(|kind| (*kind, quantiles(*kind))).collect()
    }

    /// Number of them since the beginning, and their total duration.
    pub(super) fn total(&self, kind: Timed) -> (u64, Duration) {
        let at = KINDS * BUCKETS + 2 * kind.index();
        (self.cells.sum(at), Duration::from_nanos(self.cells.sum(at + 1)))
    }

    /// The most bytes that it takes, if so many threads observe.
    pub(super) fn memory(&self, threads: usize) -> usize {
        self.cells.len() * (8 * threads + 4 * self.history.capacity())
    }
}

/// The bucket of a duration.
fn bucket(took: Duration) -> usize {
    let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    let power = nanos.max(1).ilog2();
    match power {
        ..MIN_EXPONENT => (nanos >> (MIN_EXPONENT - PRECISION)) as usize,
        MIN_EXPONENT..MAX_EXPONENT => {
            let within = (nanos >> (power - PRECISION)) as usize - (1 << PRECISION);
            (((power - MIN_EXPONENT) as usize + 1) << PRECISION) + within
        }
        MAX_EXPONENT.. => BUCKETS - 1,
    }
}

/// The middle of a bucket.
fn middle(bucket: usize) -> Duration {
    let (group, within) = (bucket >> PRECISION, (bucket & ((1 << PRECISION) - 1)) as u64);
    let (least, width) = match group.checked_sub(1) {
        None => (within << (MIN_EXPONENT - PRECISION), 1 << (MIN_EXPONENT - PRECISION)),
        Some(group) => {
            let width = 1u64 << (group as u32 + MIN_EXPONENT - PRECISION);
            (((1 << PRECISION) + within) * width, width)
        }
    };
    Duration::from_nanos(least + width / 2)
}

/// The middle of the bucket that holds the value which at least this share of all values does not exceed.
fn quantile(counts: &[u32], share: f64) -> Option<Duration> {
    let all: u64 = counts.iter().map(|count| u64::from(*count)).sum();
    let rank = ((share * all as f64).ceil() as u64).max(1);
    let mut seen = 0;
    let holds = |count: &u32| {
        seen += u64::from(*count);
        seen >= rank
    };
    (all > 0).then(|| counts.iter().position(holds).map(middle)).flatten()
}

/// For [`History`]: all cells, in order.
impl Shards {
    fn sums(&self) -> impl Iterator<Item = u64> + '_ {
        self.sums_of(0..self.len()).into_iter()
    }

    /// The same, shared.
    pub(super) fn snapshot(&self) -> Arc<[u64]> {
        self.sums().collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against sorted samples, over the range in which requests are: 1 µs to 100 s.
        #[test]
        fn quantiles_are_within_one_percent(exponents in prop::collection::vec(3.0f64..11.0, 1..500)) {
            let mut samples: Vec<u64> = exponents.iter().map(|exponent| 10f64.powf(*exponent) as u64).collect();
            let latencies = Latencies::new(Duration::ZERO, Duration::from_secs(300));
            for sample in &samples {
                latencies.observe(Timed::Total, Duration::from_nanos(*sample));
            }
            samples.sort_unstable();
            let found = latencies.quantiles(Duration::from_secs(1), &[Timed::Total]);
            for (share, found) in QUANTILES.iter().zip(found[0].1.unwrap()) {
                let exact = samples[(share * samples.len() as f64).ceil() as usize - 1] as f64;
                let error = (found.as_nanos() as f64 - exact).abs() / exact;
                prop_assert!(error <= 0.01, "{found:?} is not {exact} ns: off by {error}");
            }
        }

        #[test]
        fn a_duration_is_next_to_the_middle_of_its_bucket(nanos in 0u64..1 << MAX_EXPONENT) {
            let middle = middle(bucket(Duration::from_nanos(nanos))).as_nanos() as i128;
            prop_assert!((middle - i128::from(nanos)).abs() <= (i128::from(nanos) / 128).max(8));
        }
    }

    #[test]
    fn only_the_window_counts() {
        let latencies = Latencies::new(Duration::ZERO, Duration::from_secs(300));
        let p50 = |second| {
            let found = latencies.quantiles(Duration::from_secs(second), &[Timed::Total, Timed::Shed]);
            found[0].1.map(|quantiles| quantiles[0].as_millis())
        };
        assert_eq!(p50(0), None);
        latencies.observe(Timed::Total, Duration::from_millis(200));
        latencies.tick(Duration::from_secs(10));
        assert!((198..202).contains(&p50(20).unwrap()));
        (0..3).for_each(|_| latencies.observe(Timed::Total, Duration::from_millis(20)));
        latencies.tick(Duration::from_secs(30));
        assert_eq!(p50(31).unwrap(), 20);
        // After five minutes, the first are forgotten, and then all.
        let tick = |seconds: std::ops::RangeInclusive<u64>| {
            seconds.for_each(|second| latencies.tick(Duration::from_secs(second)));
        };
        tick(31..=320);
        assert_eq!(p50(320).unwrap(), 20);
        tick(321..=331);
        assert_eq!(p50(331), None);
    }

    #[test]
    fn what_is_too_long_is_in_the_last_bucket() {
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
        assert_eq!(bucket(Duration::from_nanos((1 << MAX_EXPONENT) - 1)), BUCKETS - 1);
        assert_eq!(bucket(Duration::ZERO), 0);
    }
}
