//! A month of requests in simulated time: days and weeks, a probe, a loud client, and at last a real shift.

use std::f64::consts::TAU;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::drift::DriftStatus;
use super::drift_verdict::{DriftVerdict, VerdictReason};
use super::{Monitor, MonitoringSpec, Sample, VersionLabels, VersionRecorder};
use crate::budget::LatencyBudget;
use crate::config::MonitoringWindows;
use crate::feature::{FeatureSchema, Features, Observation};

/// Number of steps in a day.
const DAY: usize = 144;
/// Length of a step, in seconds.
const STEP: u64 = 86_400 / DAY as u64;
/// Mean number of requests in a step: 10,000 a day are 417 an hour.
const REQUESTS: f64 = 10_000.0 / DAY as f64;

struct Traffic {
    random: fastrand::Rng,
    /// The last row of a user, who sends several similar rows one after the other.
    user: [f32; 3],
    left: usize,
}

impl Traffic {
    fn new(seed: u64) -> Traffic {
        Traffic { random: fastrand::Rng::with_seed(seed), user: [0.0; 3], left: 0 }
    }

    /// A standard normal deviate (Box and Muller).
    fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.random.f64()).ln()).sqrt() * (TAU * self.random.f64()).cos()
    }

    /// Draws a row at a step: `load` by time of day and weekday, `amount` by weekday, and `age`.
    fn row(&mut self, step: usize) -> [f32; 3] {
        let hour = (step % DAY) as f64 / DAY as f64;
        // The month begins on a Friday, so that the first whole days are a weekend.
        let is_weekend = (step / DAY + 4) % 7 >= 5;
        let load = 2.0 * (TAU * hour).sin() + if is_weekend { -1.5 } else { 0.0 } + self.normal();
        let amount = (self.normal() + if is_weekend { 1.0 } else { 0.0 }).exp();
        let age = 40.0 + 12.0 * self.normal();
        [load, amount, age].map(|number| number as f32)
    }

    /// Draws a row of a user: up to four rows after each other differ little.
    fn of_users(&mut self, step: usize) -> [f32; 3] {
        if self.left == 0 {
            (self.user, self.left) = (self.row(step), self.random.usize(1..=4));
        }
        self.left -= 1;
        let noise = [0, 1, 2].map(|_| 1.0 + 0.01 * self.normal() as f32);
        [0, 1, 2].map(|at| self.user[at] * noise[at])
    }

    /// Number of requests in a step: few at night.
    fn requests(step: usize) -> usize {
        (REQUESTS * (1.0 + 0.9 * (TAU * (step % DAY) as f64 / DAY as f64).sin())).round() as usize
    }
}

fn features(rows: &[[f32; 3]]) -> Features {
    let mut features = Features::with_rows(rows.len());
    features.numbers = rows.concat();
    features
}

fn recorder() -> (Monitor, Arc<VersionRecorder>) {
    let names = ["load", "amount", "age"].map(Arc::from).to_vec();
    let schema = FeatureSchema { numbers: names, texts: Vec::new() };
    let mut traffic = Traffic::new(1);
    let rows: Vec<[f32; 3]> = (0..7 * DAY)
        .flat_map(|step| (0..Traffic::requests(step) / 5).map(move |_| step))
        .map(|step| traffic.row(step))
        .collect();
    let (rows, nothing) = (features(&rows), vec![Observation::Nothing; rows.len()]);
    let mut sample = Sample::new(schema.clone(), None);
    sample.add(&rows, &nothing);
    let mut builder = sample.freeze();
    builder.count(&rows, &nothing);
    let baseline = Some(Arc::new(builder.finish()));
    let monitor = Monitor::new("1.31.1", MonitoringWindows::default());
    let [model, version, sha256] = ["shop", "1", "0"].map(str::to_owned);
    let labels = VersionLabels { model, version, sha256, provider: "cpu" };
    let spec = MonitoringSpec { schema, baseline, ..MonitoringSpec::default() };
    let recorder = monitor.version(labels, LatencyBudget::default(), spec);
    (monitor, recorder)
}

/// Sends the requests of each step, changed by `change`, and returns the verdicts after each step.
fn run(days: usize, mut change: impl FnMut(usize, &mut Traffic, &mut Vec<[f32; 3]>)) -> Vec<DriftVerdict> {
    let (_monitor, recorder) = recorder();
    let mut traffic = Traffic::new(2);
    let step = |step: usize| {
        let mut rows: Vec<[f32; 3]> = (0..Traffic::requests(step)).map(|_| traffic.of_users(step)).collect();
        change(step, &mut traffic, &mut rows);
        recorder.observe(features(&rows), std::iter::empty());
        let now = Duration::from_secs(STEP * (step as u64 + 1));
        recorder.tick(now, SystemTime::UNIX_EPOCH);
        recorder.drift_counters.verdict(now, recorder.drift_window())
    };
    (0..days * DAY).map(step).collect()
}

fn pages(verdicts: &[DriftVerdict]) -> Vec<usize> {
    let drifted = verdicts.iter().enumerate().filter(|(_, verdict)| verdict.status == DriftStatus::Drifted);
    drifted.map(|(step, _)| step).collect()
}

/// A probe sends the same row three times a minute; for two hours of some days, a client sends one row with noise, as
/// often as all others together.
fn probe_and_loud_client(step: usize, traffic: &mut Traffic, rows: &mut Vec<[f32; 3]>) {
    rows.extend([[0.5, 1.0, 40.0]; 30]);
    if [3, 9, 13, 17].contains(&(step / DAY)) && (50..62).contains(&(step % DAY)) {
        let noisy = |_| [2.5, 0.3, 30.0].map(|value| value * (1.0 + 0.05 * traffic.normal() as f32));
        rows.extend((0..rows.len()).map(noisy).collect::<Vec<_>>());
    }
}

#[test]
fn days_and_weeks_and_a_loud_client_page_nobody() {
    let verdicts = run(30, probe_and_loud_client);
    let pages = pages(&verdicts);
    let first = pages.first().map(|step| (step / DAY, step % DAY / 12, &verdicts[*step]));
    assert!(pages.is_empty(), "{} pages, the first on day, hour {first:?}", pages.len());
}

#[test]
fn a_shift_pages_within_hours_and_until_it_ends() {
    let shift = |step: usize, traffic: &mut Traffic, rows: &mut Vec<[f32; 3]>| {
        if step >= 20 * DAY {
            rows.iter_mut().for_each(|row| row[2] += 12.0);
        }
        probe_and_loud_client(step, traffic, rows);
    };
    let verdicts = run(30, shift);
    let pages = pages(&verdicts);
    let first = pages[0];
    assert!((20 * DAY..20 * DAY + DAY / 4).contains(&first), "day {}, step {}", first / DAY, first % DAY);
    assert_eq!(
        (&*verdicts[first].features, verdicts[first].reason),
        (&["age".to_owned()][..], Some(VerdictReason::SinceLastWeek))
    );
    // An alert bridges a single step.
    let quiet: Vec<(usize, &DriftVerdict)> =
        (first..30 * DAY).filter(|step| !pages.contains(step)).map(|step| (step, &verdicts[step])).collect();
    assert!(quiet.is_empty(), "the page ends: {quiet:?}");
}

/// Values that no training row has page within an hour, also on the first day.
#[test]
fn values_out_of_range_page_at_once() {
    let sentinel = |step: usize, traffic: &mut Traffic, rows: &mut Vec<[f32; 3]>| {
        if step >= DAY / 2 {
            rows.iter_mut().filter(|_| traffic.random.usize(0..20) == 0).for_each(|row| row[2] = -999.0);
        }
    };
    let verdicts = run(2, sentinel);
    let first = pages(&verdicts)[0];
    assert!((DAY / 2..DAY / 2 + DAY / 12).contains(&first), "step {first}");
    assert_eq!(
        (&*verdicts[first].features, verdicts[first].reason),
        (&["age".to_owned()][..], Some(VerdictReason::Shares))
    );
}
