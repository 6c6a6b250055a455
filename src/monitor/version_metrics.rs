//! The metrics of the requests and runs of one version: their declarations, their handles and their values.
//!
//! To add a counter, declare it in one of the groups here, count it through its handle in [`HANDLES`], and document it
//! in `docs/metrics.md`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::cells::{Buckets, Counter, CounterBy, Histogram, HistogramBy};
use super::labels::{BatchElements, Outcome, RequestPart, ShedReason, VersionLabels};
use super::last_request::LastRequest;
use super::metric_family::{Declarations, gauge, histogram};
use super::overload::RequestCounts;
use super::runs::Runs;
use super::shards::Shards;
use crate::budget::LatencyBudget;
use crate::stage::Stage;

/// The metrics of the requests and runs of one version.
#[derive(Debug)]
pub(super) struct VersionMetrics {
    pub(super) labels: VersionLabels,
    pub(super) budget: LatencyBudget,
    /// The edges of each histogram of durations, in microseconds.
    duration_edges: [Vec<u64>; RequestPart::ALL.len()],
    /// The cells of the [`HANDLES`].
    pub(super) cells: Shards,
    pub(super) load_seconds: Gauge,
    pub(super) queue_depth: Gauge,
    pub(super) service_per_row: EstimateGauges,
    pub(super) service_per_run: EstimateGauges,
    pub(super) batching: Mutex<Batching>,
    last_request: LastRequest,
    /// Counts of requests at the last look for overload.
    looked_at: Mutex<RequestCounts>,
    /// The runs of each generation of workers.
    runs: Mutex<Vec<Weak<Runs>>>,
}

/// A gauge: a number that is set, not counted.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    bits: AtomicU64,
}

/// A learned coefficient of the time of a run, in seconds: for the typical run and for the tail.
#[derive(Debug, Default)]
pub(super) struct EstimateGauges {
    pub(super) typical: Gauge,
    pub(super) tail: Gauge,
}

/// The finding on the independence of a version's rows (a name out of a closed set), and if requests share runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batching {
    pub(super) rows: &'static str,
    pub(super) is_on: bool,
}

// ===== declarations =====

/// Handles of the metrics that are counted in cells.
#[derive(Debug, Clone, Copy)]
pub(super) struct VersionHandles {
    pub(super) requests: RequestHandles,
    pub(super) batches: BatchHandles,
    pub(super) workers: WorkerHandles,
    pub(super) budget: BudgetHandles,
    pub(super) guardrails: GuardrailHandles,
}

const DECLARED: (VersionHandles, Declarations<VersionMetrics>) = {
    let mut all = Declarations::new(|version: &VersionMetrics| &version.cells);
    let handles = VersionHandles {
        requests: RequestHandles::declare(&mut all),
        batches: BatchHandles::declare(&mut all),
        workers: WorkerHandles::declare(&mut all),
        budget: BudgetHandles::declare(&mut all),
        guardrails: GuardrailHandles::declare(&mut all),
    };
    declare_times(&mut all);
    (handles, all)
};

/// The handles, which are the same for every version. Their positions are constants.
pub(super) const HANDLES: VersionHandles = DECLARED.0;

/// The metrics, in the order of `/metrics`.
pub(super) static METRICS: Declarations<VersionMetrics> = DECLARED.1;

/// Handles of the metrics of requests and their durations.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestHandles {
    pub(super) outcomes: CounterBy<Outcome>,
    pub(super) in_flight: Counter,
    /// Durations in nanoseconds, with edges in whole microseconds.
    pub(super) durations: HistogramBy<RequestPart>,
}

/// Upper bounds of the duration histograms, in microseconds: 10 µs to 10 s. Each histogram has a further bound at the
/// stage's part of the budget, so that the share of requests beyond it is exact.
const DURATIONS: Buckets<'static> = Buckets {
    edges: &[
        10, 20, 35, 50, 75, 100, 150, 200, 350, 500, 750, 1_000, 1_500, 2_500, 5_000, 7_500, 10_000, 15_000, 20_000,
        30_000, 50_000, 75_000, 100_000, 150_000, 200_000, 300_000, 500_000, 1_000_000, 2_500_000, 10_000_000,
    ],
    edge_unit: 1e6,
    sum_unit: 1e9,
};

/// Maximum number of edges of a duration histogram. A budget adds at most two.
const MAX_DURATION_EDGES: usize = DURATIONS.edges.len() + 2;

impl RequestHandles {
    const fn declare(all: &mut Declarations<VersionMetrics>) -> RequestHandles {
        all.add(gauge(
            "leeway_model_info",
            &["model", "version", "sha256", "provider"],
            "Always 1 for a loaded version; its labels are the version's digest and the execution provider in use.",
            |version, series| series.value(&[&version.labels.sha256, version.labels.provider], 1u64),
        ));
        RequestHandles {
            outcomes: all.counters_by(
                "leeway_requests_total",
                &["model", "version", "outcome"],
                "Prediction requests that reached a version, by outcome.",
            ),
            in_flight: all
                .add(gauge(
                    "leeway_requests_in_flight",
                    &["model", "version"],
                    "Prediction requests to a version: those not answered yet, and abandoned ones that still run in a worker.",
                    |version, series| series.value(&[], version.in_flight()),
                ))
                .counter(),
            durations: all
                .add(histogram(
                    "leeway_stage_duration_seconds",
                    &["model", "version", "stage"],
                    "Duration of each stage of answered prediction requests; stage total is the whole request, from its head on.",
                    |version, series| {
                        for part in RequestPart::ALL {
                            series.histogram(&[part.name()], &version.cells.histogram(version.durations(part)));
                        }
                    },
                ))
                .histograms_by(DURATIONS, MAX_DURATION_EDGES),
        }
    }
}

/// Handles of the metrics of batches: their sizes and their tensor elements.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchHandles {
    pub(super) sizes: Histogram<'static>,
    pub(super) elements: CounterBy<BatchElements>,
}

/// Upper bounds of the sizes of batches, in rows.
const BATCH_SIZES: Buckets<'static> =
    Buckets { edges: &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512], edge_unit: 1.0, sum_unit: 1.0 };

impl BatchHandles {
    const fn declare(all: &mut Declarations<VersionMetrics>) -> BatchHandles {
        all.add(gauge(
            "leeway_batching_info",
            &["model", "version", "rows", "batching"],
            "Always 1; its labels are the finding about the version's rows, and whether requests share runs (on, off).",
            |version, series| {
                let Batching { rows, is_on } = *version.batching.lock();
                series.value(&[rows, if is_on { "on" } else { "off" }], 1u64);
            },
        ));
        BatchHandles {
            sizes: all.histogram(
                "leeway_batch_size",
                &["model", "version"],
                "Rows in one run of the model.",
                BATCH_SIZES,
            ),
            elements: all.counters_by(
                "leeway_batch_elements_total",
                &["model", "version", "kind"],
                "Elements of all inputs in runs of the model, by kind: input (from requests) or padding (which extends short rows to the longest of the run).",
            ),
        }
    }
}

/// Handle of the counter of restarted workers.
#[derive(Debug, Clone, Copy)]
pub(super) struct WorkerHandles {
    pub(super) restarts: Counter,
}

impl WorkerHandles {
    const fn declare(all: &mut Declarations<VersionMetrics>) -> WorkerHandles {
        all.add(gauge(
            "leeway_queue_depth",
            &["model", "version"],
            "Requests that wait for a worker.",
            |version, series| series.value(&[], version.queue_depth.get()),
        ));
        all.add(gauge(
            "leeway_oldest_run_seconds",
            &["model", "version"],
            "Age of the oldest current run of a worker, even if no request waits for it any more; 0 without a run.",
            |version, series| series.value(&[], version.oldest_run().as_secs_f64()),
        ));
        WorkerHandles {
            restarts: all.counter(
                "leeway_worker_restarts_total",
                &["model", "version"],
                "Workers that were restarted because they panicked or the process of their model ended.",
            ),
        }
    }
}

/// Handles of the metrics of the latency budget's use, and of refused, expired and terminated work.
#[derive(Debug, Clone, Copy)]
pub(super) struct BudgetHandles {
    pub(super) remaining: HistogramBy<Stage>,
    pub(super) overruns: CounterBy<Stage>,
    pub(super) shed: CounterBy<ShedReason>,
    pub(super) expired: CounterBy<Stage>,
    pub(super) terminated: Counter,
    pub(super) moved: Counter,
    pub(super) prediction_ratio: Histogram<'static>,
}

/// Buckets of the remaining time, in thousandths of the budget.
const REMAINING: Buckets<'static> =
    Buckets { edges: &[0, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900], edge_unit: 1e3, sum_unit: 1e3 };

/// Buckets of the ratio of actual to predicted time, in thousandths.
const PREDICTION_RATIOS: Buckets<'static> = Buckets {
    edges: &[100, 250, 500, 667, 800, 900, 1_000, 1_100, 1_250, 1_500, 2_000, 3_000, 5_000],
    edge_unit: 1e3,
    sum_unit: 1e3,
};

impl BudgetHandles {
    const fn declare(all: &mut Declarations<VersionMetrics>) -> BudgetHandles {
        all.add(gauge(
            "leeway_budget_seconds",
            &["model", "version", "part"],
            "The configured latency budget: part total, and the parts that it is divided into; part tail is the buffer.",
            |version, series| {
                for (part, time) in version.budget_parts() {
                    // In whole microseconds, so that the value equals the edge of the stage's histogram.
                    series.value(&[part], time.as_micros() as f64 / 1e6);
                }
            },
        ));
        BudgetHandles {
            remaining: all.histograms_by(
                "leeway_budget_remaining_ratio",
                &["model", "version", "stage"],
                "The share of a request's budget that was left when it entered a stage.",
                REMAINING,
            ),
            overruns: all.counters_by(
                "leeway_stage_overruns_total",
                &["model", "version", "stage"],
                "Requests in which a stage took longer than its part of the budget; queue and run count as stage inference.",
            ),
            shed: all.counters_by(
                "leeway_requests_shed_total",
                &["model", "version", "reason"],
                "Prediction requests refused because of too little time or capacity, by reason.",
            ),
            expired: all.counters_by(
                "leeway_requests_expired_total",
                &["model", "version", "stage"],
                "Prediction requests whose time ran out, by the stage they were in; stage network means that the body had not arrived.",
            ),
            terminated: all.counter(
                "leeway_runs_terminated_total",
                &["model", "version"],
                "Runs of the model that were ended because no request waited for them any more.",
            ),
            moved: all.counter(
                "leeway_inline_runs_moved_total",
                &["model", "version"],
                "Runs on the thread of a request that took too long, so that a worker made them again.",
            ),
            prediction_ratio: all.histogram(
                "leeway_completion_prediction_ratio",
                &["model", "version"],
                "Actual time in queue and run, divided by the time predicted on admission; only for requests that a worker took.",
                PREDICTION_RATIOS,
            ),
        }
    }
}

/// Handles of the counts that rollouts judge a version by: of requests that named no version. They are no metrics.
#[derive(Debug, Clone, Copy)]
pub(super) struct GuardrailHandles {
    pub(super) outcomes: CounterBy<Outcome>,
    /// Answers that took longer than the limit.
    pub(super) slow: Counter,
    /// Requests with an output that is not a finite number.
    pub(super) non_finite: Counter,
    /// Predictions with a confidence.
    pub(super) confidences: Counter,
    /// Predictions with a low confidence.
    pub(super) low_confidences: Counter,
    /// Streaks of failed requests.
    pub(super) streaks: Counter,
}

impl GuardrailHandles {
    const fn declare(all: &mut Declarations<VersionMetrics>) -> GuardrailHandles {
        let layout = all.without_metric();
        GuardrailHandles {
            outcomes: layout.counters_by(),
            slow: layout.counter(),
            non_finite: layout.counter(),
            confidences: layout.counter(),
            low_confidences: layout.counter(),
            streaks: layout.counter(),
        }
    }
}

/// Declares the metrics of learned and measured times of the model itself.
const fn declare_times(all: &mut Declarations<VersionMetrics>) {
    all.add(gauge(
        "leeway_service_time_per_row_seconds",
        &["model", "version", "estimate"],
        "The learned time of a run is a*rows + b: this is a, for the typical run and for the tail.",
        |version, series| {
            series.value(&["typical"], version.service_per_row.typical.get());
            series.value(&["tail"], version.service_per_row.tail.get());
        },
    ));
    all.add(gauge(
        "leeway_service_time_per_run_seconds",
        &["model", "version", "estimate"],
        "The learned time of a run is a*rows + b: this is b, for the typical run and for the tail.",
        |version, series| {
            series.value(&["typical"], version.service_per_run.typical.get());
            series.value(&["tail"], version.service_per_run.tail.get());
        },
    ));
    all.add(gauge(
        "leeway_load_duration_seconds",
        &["model", "version"],
        "Time it took to verify, try out and open a loaded version.",
        |version, series| series.value(&[], version.load_seconds.get()),
    ));
}

// ===== impl VersionMetrics =====

impl VersionMetrics {
    pub(super) fn new(labels: VersionLabels, budget: LatencyBudget) -> VersionMetrics {
        VersionMetrics {
            duration_edges: RequestPart::ALL.map(|part| duration_edges(part, &budget)),
            labels,
            budget,
            cells: Shards::new(METRICS.layout().cells()),
            load_seconds: Gauge::default(),
            queue_depth: Gauge::default(),
            service_per_row: EstimateGauges::default(),
            service_per_run: EstimateGauges::default(),
            batching: Mutex::new(Batching { rows: "unknown", is_on: false }),
            last_request: LastRequest::default(),
            looked_at: Mutex::default(),
            runs: Mutex::default(),
        }
    }

    /// Returns the histogram of the durations of a part of requests.
    #[inline]
    pub(super) fn durations(&self, part: RequestPart) -> Histogram<'_> {
        HANDLES.requests.durations.with_edges(part, &self.duration_edges[part as usize])
    }

    pub(super) fn requests(&self, outcome: Outcome) -> u64 {
        self.cells.sum(HANDLES.requests.outcomes.of(outcome))
    }

    /// Notices the time of the last request. Called once a second.
    pub(super) fn look_for_requests(&self, now: SystemTime) {
        self.last_request.look(Outcome::ALL.into_iter().map(|outcome| self.requests(outcome)).sum(), now);
    }

    pub(super) fn last_request_ms(&self) -> u64 {
        self.last_request.at_ms()
    }

    /// Returns the counts of requests since the last call. Called once a second.
    pub(super) fn counts_since_last_look(&self) -> RequestCounts {
        let counts = RequestCounts {
            requests: Outcome::ALL.into_iter().map(|outcome| self.requests(outcome)).sum(),
            shed: ShedReason::ALL.map(|reason| self.cells.sum(HANDLES.budget.shed.of(reason))),
            expired: Stage::ALL.into_iter().map(|stage| self.cells.sum(HANDLES.budget.expired.of(stage))).sum(),
        };
        let before = std::mem::replace(&mut *self.looked_at.lock(), counts);
        counts.since(&before)
    }

    /// Number of runs, and number of rows in them.
    pub(super) fn runs_and_rows(&self) -> (u64, u64) {
        let sizes = self.cells.histogram(HANDLES.batches.sizes);
        (sizes.counts.iter().sum(), sizes.sum)
    }

    pub(super) fn in_flight(&self) -> u64 {
        // The cells are summed while threads write, so a decrement may be seen before its increment.
        let waited_for = (self.cells.sum(HANDLES.requests.in_flight) as i64).max(0) as u64;
        waited_for + self.runs().map(|runs| runs.abandoned()).sum::<u64>()
    }

    /// Adds the runs of new workers.
    pub(super) fn watch_runs(&self, runs: &Arc<Runs>) {
        let mut all = self.runs.lock();
        all.retain(|runs| runs.strong_count() > 0);
        all.push(Arc::downgrade(runs));
    }

    /// Returns the age of the oldest run.
    fn oldest_run(&self) -> Duration {
        self.runs().filter_map(|runs| runs.oldest()).max().unwrap_or_default()
    }

    fn runs(&self) -> impl Iterator<Item = Arc<Runs>> {
        let alive: Vec<Arc<Runs>> = self.runs.lock().iter().filter_map(Weak::upgrade).collect();
        alive.into_iter()
    }

    fn budget_parts(&self) -> [(&'static str, Duration); 6] {
        let budget = &self.budget;
        [
            ("total", budget.total),
            ("network", budget.network),
            ("preprocess", budget.preprocess),
            ("inference", budget.inference),
            ("postprocess", budget.postprocess),
            ("tail", budget.tail()),
        ]
    }
}

/// Returns the edges of a duration histogram: the usual ones, and those at the parts of the budget.
fn duration_edges(part: RequestPart, budget: &LatencyBudget) -> Vec<u64> {
    let limits = match part {
        RequestPart::Network => vec![budget.network],
        RequestPart::Preprocess => vec![budget.preprocess],
        RequestPart::Queue | RequestPart::Inference => vec![budget.inference],
        RequestPart::Postprocess => vec![budget.postprocess],
        RequestPart::Total => vec![budget.total, budget.on_the_server()],
    };
    let micros = limits.iter().map(|limit| u64::try_from(limit.as_micros()).unwrap_or(u64::MAX));
    let mut edges: Vec<u64> = micros.filter(|micros| *micros > 0).chain(DURATIONS.edges.iter().copied()).collect();
    edges.sort_unstable();
    edges.dedup();
    edges
}

// ===== impl Gauge =====

impl Gauge {
    pub(super) fn set(&self, value: f64) {
        self.bits.store(value.to_bits(), Relaxed);
    }

    pub(super) fn get(&self) -> f64 {
        f64::from_bits(self.bits.load(Relaxed))
    }
}
