//! Admission, simulated and compared with other policies: a discrete-event simulation of one worker that uses the
//! server's own decision functions and ends useless runs as the server does.
//!
//! The reference table was published for this setting: a batch of b rows takes 2 + 0.25·b ms, b ≤ 32 (at most 3,200
//! rows a second), and a request is good if it is answered within 50 ms. The table does not define its bursts and its
//! slowdown; those below were chosen so that the six other policies have the published results. Nothing else was
//! fitted.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use leeway::model::{
    Admission, Backlog, BatchPolicy, Candidate, Lengths, Next, Plan, RunRows, ServiceTime, admit, full_batch, plan,
    residual,
};
use leeway::tensor::{Data, Tensor, Tensors};

const BATCH: usize = 32;
const DEADLINE: f64 = 50.0;
/// Rows per millisecond.
const CAPACITY: f64 = 3.2;

/// The one worker, in milliseconds.
#[derive(Default)]
struct Worker {
    /// Arrival times of waiting requests.
    waiting: VecDeque<f64>,
    /// Arrival times of requests in the current run.
    running: Vec<f64>,
    since: f64,
    /// Time when the queue was last empty.
    empty: f64,
}

/// A policy: the parts that differ.
trait Policy {
    fn admits(&mut self, now: f64, worker: &Worker) -> bool;

    /// Takes the next batch from the queue.
    fn take(&mut self, _now: f64, worker: &mut Worker) -> Vec<f64> {
        let rows = worker.waiting.len().min(BATCH);
        worker.waiting.drain(..rows).collect()
    }

    fn completed(&mut self, _now: f64, _worker: &Worker) {}

    /// Returns true if a run is ended when its last request is late.
    fn ends_runs(&self) -> bool {
        false
    }

    fn ended(&mut self, _now: f64, _worker: &Worker) {}
}

// ===== the policies =====

struct NoShedding;

impl Policy for NoShedding {
    fn admits(&mut self, _: f64, _: &Worker) -> bool {
        true
    }
}

/// A fixed limit on requests in flight.
struct FixedLimit(usize);

impl Policy for FixedLimit {
    fn admits(&mut self, _: f64, worker: &Worker) -> bool {
        worker.waiting.len() + worker.running.len() < self.0
    }
}

/// Netflix' concurrency-limits, Gradient2: a limit on requests in flight that follows the ratio of long-term to
/// short-term latency.
struct Gradient2 {
    limit: f64,
    long: f64,
    updates: usize,
    window: (f64, f64, usize, usize),
}

impl Gradient2 {
    const LEAST: f64 = 20.0;
    const MOST: f64 = 128.0;
    const QUEUE: f64 = 4.0;
    const TOLERANCE: f64 = 1.5;
    const SMOOTHING: f64 = 0.2;
    const WARM_UP: usize = 10;
    const LONG_WINDOW: f64 = 600.0;
    const SAMPLE_MS: f64 = 500.0;

    fn new() -> Gradient2 {
        Gradient2 { limit: 40.0, long: 0.0, updates: 0, window: (0.0, 0.0, 0, 0) }
    }
}

impl Policy for Gradient2 {
    fn admits(&mut self, _: f64, worker: &Worker) -> bool {
        let in_flight = worker.waiting.len() + worker.running.len();
        if in_flight >= self.limit as usize {
            return false;
        }
        self.window.3 = self.window.3.max(in_flight + 1);
        true
    }

    fn completed(&mut self, now: f64, worker: &Worker) {
        let (begun, latency, rows, peak) = &mut self.window;
        *latency += worker.running.iter().map(|arrived| now - arrived).sum::<f64>();
        *rows += worker.running.len();
        if now - *begun < Self::SAMPLE_MS || *rows < 10 {
            return;
        }
        let (short, peak) = (*latency / *rows as f64, *peak);
        self.window = (now, 0.0, 0, 0);
        self.updates += 1;
        let factor =
            if self.updates <= Self::WARM_UP { 1.0 / self.updates as f64 } else { 2.0 / (Self::LONG_WINDOW + 1.0) };
        self.long += (short - self.long) * factor;
        if self.long / short > 2.0 {
            self.long *= 0.95;
        }
        if (peak as f64) < self.limit / 2.0 {
            return;
        }
        let gradient = (Self::TOLERANCE * self.long / short).clamp(0.5, 1.0);
        let limit = self.limit * gradient + Self::QUEUE;
        self.limit += (limit - self.limit) * Self::SMOOTHING;
        self.limit = self.limit.clamp(Self::LEAST, Self::MOST);
    }
}

/// Controlled delay in Facebook's version: a request is dropped at its turn if it has waited too long. The limit is low
/// if the queue was not empty for some time.
struct ControlledDelay;

impl Policy for ControlledDelay {
    fn admits(&mut self, _: f64, _: &Worker) -> bool {
        true
    }

    fn take(&mut self, now: f64, worker: &mut Worker) -> Vec<f64> {
        let longest = if now - worker.empty > 100.0 { 20.0 } else { 100.0 };
        let mut batch = Vec::new();
        while batch.len() < BATCH
            && let Some(arrived) = worker.waiting.pop_front()
        {
            if now - arrived <= longest {
                batch.push(arrived);
            }
        }
        batch
    }
}

/// Leeway: the functions of the server.
struct Leeway {
    epoch: Instant,
    service: ServiceTime,
    row: Tensors,
}

impl Leeway {
    fn new() -> Leeway {
        let row = Tensor::new(vec![1, 1], Data::F32(vec![0.0])).unwrap();
        Leeway {
            epoch: Instant::now(),
            service: ServiceTime::default(),
            row: [("x".into(), row)].into_iter().collect(),
        }
    }

    fn at(&self, ms: f64) -> Instant {
        self.epoch + millis(ms)
    }

    fn full_batch(&self) -> usize {
        full_batch(BATCH, &self.service, millis(DEADLINE))
    }

    fn residual(&self, now: f64, worker: &Worker) -> Duration {
        if worker.running.is_empty() {
            return Duration::ZERO;
        }
        let expected = self.service.tail(worker.running.len()).unwrap_or_default();
        residual(expected, millis(now - worker.since))
    }
}

impl Policy for Leeway {
    fn admits(&mut self, now: f64, worker: &Worker) -> bool {
        let residuals = [self.residual(now, worker)];
        let backlog = Backlog { rows_ahead: worker.waiting.len(), residuals: &residuals };
        matches!(admit(backlog, self.full_batch(), &self.service, 1, millis(DEADLINE)), Admission::Admit(_))
    }

    fn take(&mut self, now: f64, worker: &mut Worker) -> Vec<f64> {
        let policy = BatchPolicy {
            run_rows: RunRows::UpTo(BATCH.try_into().unwrap()),
            max_elements: None,
            max_row_elements: None,
            max_wait: Duration::ZERO,
            max_instances: BATCH.try_into().unwrap(),
            workers: 1.try_into().unwrap(),
            lengths: Lengths::Alike,
        };
        let candidate = |arrived: &f64| Candidate {
            rows: 1,
            inputs: &self.row,
            entered: self.at(*arrived),
            finish_by: Some(self.at(arrived + DEADLINE)),
        };
        let waiting = worker.waiting.iter().map(candidate);
        let Plan { hopeless, next } =
            plan(self.at(now), waiting, policy, self.full_batch(), self.service.typical_line());
        let shares = if let Next::Run(shares) = next { shares } else { Vec::new() };
        let batch: Vec<f64> = shares.iter().map(|share| worker.waiting[share.index]).collect();
        let mut gone: Vec<usize> = shares.into_iter().map(|share| share.index).chain(hopeless).collect();
        gone.sort_unstable();
        for place in gone.into_iter().rev() {
            worker.waiting.remove(place);
        }
        batch
    }

    fn completed(&mut self, now: f64, worker: &Worker) {
        self.service.observe(worker.running.len(), millis(now - worker.since));
    }

    fn ends_runs(&self) -> bool {
        true
    }

    fn ended(&mut self, now: f64, worker: &Worker) {
        if worker.running.len() > 1 {
            self.service.observe_ended(worker.running.len(), millis(now - worker.since));
        }
    }
}

/// As Leeway, but with the batch of a request estimated from the rows that wait now.
struct LastBatchUnderestimated(Leeway);

impl Policy for LastBatchUnderestimated {
    fn admits(&mut self, now: f64, worker: &Worker) -> bool {
        if worker.running.is_empty() && worker.waiting.is_empty() {
            return true;
        }
        let (full, last) = (worker.waiting.len() / BATCH, worker.waiting.len() % BATCH + 1);
        let time = |rows| self.0.service.typical(rows).unwrap_or_default().as_secs_f64() * 1e3;
        let residual = self.0.residual(now, worker).as_secs_f64() * 1e3;
        residual + (full as f64 * time(BATCH) + time(last)) * 1.05 <= DEADLINE
    }

    fn completed(&mut self, now: f64, worker: &Worker) {
        self.0.completed(now, worker);
    }
}

fn millis(ms: f64) -> Duration {
    Duration::from_secs_f64(ms.max(0.0) / 1e3)
}

// ===== the simulation =====

/// Reproducible random numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Load as a multiple of the capacity, and duration of a batch as a multiple of the usual one, over time.
#[derive(Clone, Copy)]
struct Scenario {
    load: fn(f64) -> f64,
    peak: f64,
    slowness: fn(f64) -> f64,
}

const DURATION: f64 = 20_000.0;

/// Load in bursts: five times the capacity in the last 200 ms of every second, half of the capacity otherwise.
fn bursts(t: f64) -> f64 {
    if t % 1000.0 >= 800.0 { 5.0 } else { 0.5 }
}

fn from_5_to_10_s<const FACTOR: u32>(t: f64) -> f64 {
    if (5_000.0..10_000.0).contains(&t) { f64::from(FACTOR) } else { 1.0 }
}

const SCENARIOS: [Scenario; 4] = [
    Scenario { load: |_| 1.3, peak: 1.3, slowness: |_| 1.0 },
    Scenario { load: |_| 2.0, peak: 2.0, slowness: |_| 1.0 },
    Scenario { load: bursts, peak: 5.0, slowness: |_| 1.0 },
    Scenario { load: |_| 0.7, peak: 0.7, slowness: from_5_to_10_s::<3> },
];

/// End of a run: completed, or ended because it was useless.
#[derive(Clone, Copy)]
enum End {
    Whole,
    Cut,
}

/// Returns the number of requests per second that are answered in time.
fn goodput(scenario: Scenario, policy: &mut dyn Policy, seed: u64) -> f64 {
    let (mut arrivals, mut jitter) = (Random(seed), Random(seed + 1000));
    let (mut worker, mut ends, mut good) = (Worker::default(), None::<(f64, End)>, 0);

    let begin = |now: f64, worker: &mut Worker, policy: &mut dyn Policy, jitter: &mut Random| {
        worker.running = policy.take(now, worker);
        worker.since = now;
        if worker.waiting.is_empty() {
            worker.empty = now;
        }
        let time = (2.0 + 0.25 * worker.running.len() as f64) * (scenario.slowness)(now);
        let end = now + time * (0.95 + 0.1 * jitter.next());
        let of_use_until = worker.running.iter().copied().reduce(f64::max)? + DEADLINE;
        let is_cut = policy.ends_runs() && end > of_use_until;
        Some(if is_cut { (of_use_until, End::Cut) } else { (end, End::Whole) })
    };
    let mut now = 0.0;
    loop {
        // Poisson arrivals, thinned to the load of the moment.
        now += -(1.0 - arrivals.next()).ln() / (scenario.peak * CAPACITY);
        let arrived = now < DURATION;
        while let Some((end, how)) = ends.filter(|&(end, _)| !arrived || end <= now) {
            match how {
                End::Whole => {
                    good += worker.running.iter().filter(|arrived| end - **arrived <= DEADLINE).count();
                    policy.completed(end, &worker);
                }
                End::Cut => policy.ended(end, &worker),
            }
            ends = begin(end, &mut worker, policy, &mut jitter);
        }
        if !arrived {
            return f64::from(u32::try_from(good).unwrap()) * 1e3 / DURATION;
        }
        if arrivals.next() * scenario.peak < (scenario.load)(now) && policy.admits(now, &worker) {
            if worker.waiting.is_empty() && worker.running.is_empty() {
                worker.empty = now;
            }
            worker.waiting.push_back(now);
            if ends.is_none() {
                ends = begin(now, &mut worker, policy, &mut jitter);
            }
        }
    }
}

/// A policy: its name, its constructor, and its published goodput at 1.3 and 2 times the capacity, in bursts, and while
/// the machine is three times as slow.
type Row = (&'static str, fn() -> Box<dyn Policy>, [f64; 4]);

const PUBLISHED: [Row; 7] = [
    ("no shedding", || Box::new(NoShedding), [28.0, 14.0, 79.0, 1018.0]),
    ("fixed queue of 64", || Box::new(FixedLimit(64)), [3194.0, 3199.0, 1949.0, 1764.0]),
    ("fixed queue of 512", || Box::new(FixedLimit(512)), [28.0, 14.0, 1140.0, 1640.0]),
    ("Gradient2", || Box::new(Gradient2::new()), [3080.0, 3086.0, 1922.0, 1881.0]),
    ("CoDel-like", || Box::new(ControlledDelay), [3194.0, 3193.0, 1766.0, 1923.0]),
    ("predicted at full batch", || Box::new(Leeway::new()), [3202.0, 3203.0, 2028.0, 1941.0]),
    (
        "last batch underestimated",
        || Box::new(LastBatchUnderestimated(Leeway::new())),
        [1448.0, 1207.0, 1686.0, 1720.0],
    ),
];

fn mean_goodput(scenario: Scenario, make: fn() -> Box<dyn Policy>) -> f64 {
    const SEEDS: u64 = 5;
    (1..=SEEDS).map(|seed| goodput(scenario, &mut *make(), seed)).sum::<f64>() / SEEDS as f64
}

#[test]
fn policies_rank_as_published() {
    let found: Vec<[f64; 4]> =
        PUBLISHED.iter().map(|(_, make, _)| SCENARIOS.map(|scenario| mean_goodput(scenario, *make))).collect();
    let mut table = String::new();
    for ((name, _, published), found) in PUBLISHED.iter().zip(&found) {
        let column = |index: usize| format!("{:6.0} ({:4.0})", found[index], published[index]);
        writeln!(table, "{name:26}{}{}{}{}", column(0), column(1), column(2), column(3)).unwrap();
    }
    for (a, (better, _, published_better)) in PUBLISHED.iter().enumerate() {
        for (b, (worse, _, published_worse)) in PUBLISHED.iter().enumerate() {
            for column in 0..4 {
                // A difference of less than a percent counts as a tie.
                if published_better[column] > 1.01 * published_worse[column] {
                    let (found_better, found_worse) = (found[a][column], found[b][column]);
                    assert!(
                        found_better > found_worse,
                        "column {column}: {better} is not above {worse}; found (published):\n{table}"
                    );
                }
            }
        }
    }
}

/// A model may become so slow that a full batch cannot be in time any more, so that all its runs are ended early.
/// Smaller batches can be in time, and must be found.
#[test]
fn nobody_is_locked_out_by_a_slowdown() {
    let usual = mean_goodput(Scenario { slowness: |_| 1.0, ..SCENARIOS[3] }, || Box::new(Leeway::new()));
    // Fifteen of the twenty seconds have the usual speed. In the others a batch of 16 takes 24 ms, 30 ms and 48 ms, so
    // that at most 667, 533 and about 300 a second are possible.
    for (slowness, slow_goodput) in
        [(from_5_to_10_s::<4> as fn(f64) -> f64, 667.0), (from_5_to_10_s::<5>, 533.0), (from_5_to_10_s::<8>, 300.0)]
    {
        let found = mean_goodput(Scenario { slowness, ..SCENARIOS[3] }, || Box::new(Leeway::new()));
        let possible = (15.0 * usual + 5.0 * slow_goodput) / 20.0;
        assert!(found > 0.95 * possible, "{found} of {possible}");
    }
}
