//! Quantiles of durations over a sliding window, within 1 % of the true ones, and their metrics.
//!
//! Durations are counted in 64 buckets per power of two, as in HdrHistogram. The width of a bucket is at most 1/64 of
//! its smallest value, so its middle is at most 1/128 (0.8 %) away from any value in it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cells::{CounterBy, Counters, Layout};
use super::history::{History, Moment};
use super::labels::{Label, RequestPart, Unanswered};
use super::metric_family::{Family, summary};
use super::shards::Shards;
use super::text::{Series, rounded};

/// Binary logarithm of the number of buckets per power of two.
const PRECISION: u32 = 6;
/// Binary logarithm of the duration (2¹⁰ ns, 1 µs) below which all buckets are 16 ns wide, like the first one above it.
const MIN_EXPONENT: u32 = 10;
/// Binary logarithm of the duration (2³⁷ ns, 137 s) from which on all durations are in the last bucket. Requests do not
/// take that long.
const MAX_EXPONENT: u32 = 37;
const BUCKETS: usize = (((MAX_EXPONENT - MIN_EXPONENT) as usize) + 1) << PRECISION;

/// Number of intervals of a window. The window slides by one interval at a time.
const INTERVALS: u32 = 30;

/// Timed quantity: a part of answered requests, or the whole time of unanswered ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timed {
    Answered(RequestPart),
    Unanswered(Unanswered),
}

/// Counts of the durations of one version's requests, for their quantiles.
#[derive(Debug)]
pub(super) struct Latencies {
    window: Duration,
    cells: Shards,
    history: History<u32>,
}

/// Counts of durations, in the buckets of [`Latencies`].
#[derive(Debug, Clone, Default)]
pub(super) struct DurationCounts(Vec<u64>);

/// Durations of the requests of a version, as plain values.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencyStats {
    /// Durations of answered requests. A part that was never timed has no entry.
    pub answered: BTreeMap<RequestPart, Latency>,
    /// Time until refusal or failure, for requests without a prediction.
    pub unanswered: BTreeMap<Unanswered, Latency>,
}

/// Count, sum and quantiles of the durations of one part of requests.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Number of durations since the version was loaded.
    pub count: u64,
    /// Sum of the durations, in seconds.
    pub sum_s: f64,
    /// Quantiles of the durations within the window; `None` if the window is empty.
    pub quantiles: Option<Quantiles>,
}

/// Quantiles of durations, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// The median duration.
    pub p50_s: f64,
    /// The duration that one in twenty exceeds.
    pub p95_s: f64,
    /// The duration that one in a hundred exceeds.
    pub p99_s: f64,
}

// ===== metrics =====

/// The metrics, in the order of `/metrics`.
pub(super) static FAMILIES: &[Family<LatencyStats>] = &[
    summary(
        "leeway_latency_quantile_seconds",
        &["model", "version", "stage"],
        "Quantiles of the duration of each stage of requests answered in the last minutes, on this replica; off by at most 1 %.",
        |latency, series| latency.answered.iter().for_each(|(part, found)| found.write(series, part.name())),
    ),
    summary(
        "leeway_unanswered_quantile_seconds",
        &["model", "version", "outcome"],
        "Quantiles of the time until requests were refused (shed) or had failed (failed), in the last minutes, on this replica.",
        |latency, series| latency.unanswered.iter().for_each(|(outcome, found)| found.write(series, outcome.name())),
    ),
];

impl Latency {
    fn write(&self, series: &mut Series<'_>, name: &str) {
        let quantiles = match self.quantiles {
            Some(Quantiles { p50_s, p95_s, p99_s }) => [p50_s, p95_s, p99_s],
            // As in Prometheus' own clients, the quantiles of an empty window are NaN.
            None => [f64::NAN; 3],
        };
        let quantiles = [0.5, 0.95, 0.99].into_iter().zip(quantiles.map(rounded));
        series.summary(&[name], quantiles, self.sum_s, self.count);
    }
}

// ===== cells =====

/// Handles of the cells of [`Latencies`].
#[derive(Debug, Clone, Copy)]
struct LatencyHandles {
    buckets: Counters,
    counts: CounterBy<Timed>,
    nanos: CounterBy<Timed>,
    layout: Layout,
}

const HANDLES: LatencyHandles = {
    let mut layout = Layout::new();
    LatencyHandles {
        buckets: layout.counters(Timed::ALL.len() * BUCKETS),
        counts: layout.counters_by(),
        nanos: layout.counters_by(),
        layout,
    }
};

impl LatencyHandles {
    fn buckets_of(self, timed: Timed) -> Counters {
        self.buckets.part(timed.index() * BUCKETS, BUCKETS)
    }
}

impl Label for Timed {
    const ALL: &'static [Timed] = &[
        Timed::Answered(RequestPart::Network),
        Timed::Answered(RequestPart::Preprocess),
        Timed::Answered(RequestPart::Queue),
        Timed::Answered(RequestPart::Inference),
        Timed::Answered(RequestPart::Postprocess),
        Timed::Answered(RequestPart::Total),
        Timed::Unanswered(Unanswered::Shed),
        Timed::Unanswered(Unanswered::Failed),
    ];

    fn name(self) -> &'static str {
        match self {
            Timed::Answered(part) => part.name(),
            Timed::Unanswered(outcome) => outcome.name(),
        }
    }

    fn index(self) -> usize {
        match self {
            Timed::Answered(part) => part.index(),
            Timed::Unanswered(outcome) => RequestPart::ALL.len() + outcome.index(),
        }
    }
}

// ===== impl Latencies =====

impl Latencies {
    pub(super) fn new(born: Duration, window: Duration) -> Latencies {
        let history = History::new(born, window / INTERVALS, window);
        Latencies { window, cells: Shards::new(HANDLES.layout.cells()), history }
    }

    pub(super) fn observe(&self, timed: Timed, took: Duration) {
        let cells = self.cells.local();
        cells.add(HANDLES.buckets_of(timed).at(bucket(took)), 1);
        cells.add(HANDLES.counts.of(timed), 1);
        cells.add(HANDLES.nanos.of(timed), u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Returns the counts of the durations of whole answered requests since the version was loaded.
    pub(super) fn answered(&self) -> DurationCounts {
        let cells = HANDLES.buckets_of(Timed::Answered(RequestPart::Total)).range();
        DurationCounts(self.cells.sums_of(cells))
    }

    pub(super) fn tick(&self, now: Duration) {
        // Differences within a window are far below 2³², so the lower 32 bits are enough.
        self.history.tick(now, || self.cells.sums().into_iter().map(|sum| sum as u32).collect());
    }

    /// Returns the number and sum of the durations since the version was loaded, and the quantiles within the window.
    pub(super) fn stats(&self, now: Duration) -> LatencyStats {
        let begin = self.history.begin(now, self.window);
        let mut stats = LatencyStats::default();
        for timed in Timed::ALL {
            // Skips quantities without durations, such as those of a version that never sheds or fails.
            let count = self.cells.sum(HANDLES.counts.of(*timed));
            if count == 0 {
                continue;
            }
            let sum_s = Duration::from_nanos(self.cells.sum(HANDLES.nanos.of(*timed))).as_secs_f64();
            let latency = Latency { count, sum_s, quantiles: self.quantiles(*timed, &begin) };
            match *timed {
                Timed::Answered(part) => stats.answered.insert(part, latency),
                Timed::Unanswered(outcome) => stats.unanswered.insert(outcome, latency),
            };
        }
        stats
    }

    /// Returns the quantiles of the durations observed since `begin`.
    fn quantiles(&self, timed: Timed, begin: &Moment<u32>) -> Option<Quantiles> {
        let cells = HANDLES.buckets_of(timed).range();
        let mut counts: Vec<u32> = self.cells.sums_of(cells.clone()).into_iter().map(|sum| sum as u32).collect();
        if let Some(before) = begin.counts.as_ref().and_then(|before| before.get(cells)) {
            counts.iter_mut().zip(before).for_each(|(count, before)| *count = count.wrapping_sub(*before));
        }
        let seconds = |share| quantile(&counts, share).map(|found| found.as_secs_f64());
        Some(Quantiles { p50_s: seconds(0.5)?, p95_s: seconds(0.95)?, p99_s: seconds(0.99)? })
    }

    /// Returns the maximum memory of these counts in bytes, for this number of recording threads.
    pub(super) fn memory(&self, threads: usize) -> usize {
        self.cells.len() * (8 * threads + 4 * self.history.capacity())
    }
}

// ===== impl DurationCounts =====

impl DurationCounts {
    /// Number of durations.
    pub(super) fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Returns a quantile of the durations; `None` if there are none.
    pub(super) fn quantile(&self, share: f64) -> Option<Duration> {
        quantile(&self.0, share)
    }
}

/// Returns the index of the bucket that a duration is in.
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

/// Returns the duration in the middle of a bucket.
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

/// Returns a quantile of the counted durations: the middle of the first bucket such that at least this share of all
/// durations is in it or in earlier buckets.
fn quantile<N: Copy + Into<u64>>(counts: &[N], share: f64) -> Option<Duration> {
    let all: u64 = counts.iter().map(|count| (*count).into()).sum();
    let rank = ((share * all as f64).ceil() as u64).max(1);
    let mut seen: u64 = 0;
    let holds = |count: &N| {
        seen += (*count).into();
        seen >= rank
    };
    (all > 0).then(|| counts.iter().position(holds).map(middle)).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOTAL: Timed = Timed::Answered(RequestPart::Total);

    proptest! {
        /// The quantiles are close to those of the sorted samples, over the usual range of requests: 1 µs to 100 s.
        #[test]
        fn quantiles_are_within_one_percent(exponents in prop::collection::vec(3.0f64..11.0, 1..500)) {
            let mut samples: Vec<u64> = exponents.iter().map(|exponent| 10f64.powf(*exponent) as u64).collect();
            let latencies = Latencies::new(Duration::ZERO, Duration::from_secs(300));
            for sample in &samples {
                latencies.observe(TOTAL, Duration::from_nanos(*sample));
            }
            samples.sort_unstable();
            let found = latencies.stats(Duration::from_secs(1)).answered[&RequestPart::Total].quantiles.unwrap();
            for (share, found) in [(0.5, found.p50_s), (0.95, found.p95_s), (0.99, found.p99_s)] {
                let exact = samples[(share * samples.len() as f64).ceil() as usize - 1] as f64;
                let error = (found * 1e9 - exact).abs() / exact;
                prop_assert!(error <= 0.01, "{found} s is not {exact} ns: off by {error}");
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
            let found = latencies.stats(Duration::from_secs(second));
            assert!(found.unanswered.is_empty());
            found.answered.get(&RequestPart::Total)?.quantiles.map(|found| (found.p50_s * 1e3) as u64)
        };
        assert_eq!(p50(0), None);
        latencies.observe(TOTAL, Duration::from_millis(200));
        latencies.tick(Duration::from_secs(10));
        assert!((198..202).contains(&p50(20).unwrap()));
        (0..3).for_each(|_| latencies.observe(TOTAL, Duration::from_millis(20)));
        latencies.tick(Duration::from_secs(30));
        assert_eq!(p50(31).unwrap(), 20);
        // After five minutes, the window has lost the first duration, and then the other ones.
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

    #[test]
    fn the_index_of_what_is_timed_is_its_place() {
        assert!(Timed::ALL.iter().enumerate().all(|(place, timed)| timed.index() == place));
    }
}
