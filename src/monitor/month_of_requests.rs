//! A month of requests in simulated time: days and weeks, a probe, a loud client, and at last a real shift.

use std::f64::consts::TAU;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::{SignedDuration, Timestamp};

use super::drift::DriftStatus;
use super::drift_verdict::{DriftVerdict, VerdictReason};
use super::{
    Baseline, HourlyCounters, LearnedProfile, Monitor, MonitoringSpec, ProfileOrigin, Sample, VersionLabels,
    VersionRecorder,
};
use crate::budget::LatencyBudget;
use crate::config::{MonitoringConfig, MonitoringWindows};
use crate::feature::{FeatureSchema, Features, Observation};

/// Number of steps in a day.
const DAY: usize = 144;
/// Number of steps in an hour.
const HOUR: usize = DAY / 24;
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

/// Baseline and profile of a version in a simulated month.
#[derive(Clone)]
struct Known {
    baseline: Arc<Baseline>,
    learned: Option<Arc<LearnedProfile>>,
    /// Days between restarts of the server.
    days_up: usize,
    /// Number of steps between two verdicts.
    steps_per_verdict: usize,
    /// First day with verdicts.
    judged_from: usize,
}

fn schema() -> FeatureSchema {
    FeatureSchema { numbers: ["load", "amount", "age"].map(Arc::from).to_vec(), texts: Vec::new() }
}

/// The time of a step of the month. The month begins on a Friday.
fn time_of(step: usize) -> Timestamp {
    let begin: Timestamp = "2026-05-01T00:00:00Z".parse().unwrap();
    begin + SignedDuration::from_secs((STEP * step as u64) as i64)
}

/// The baseline of a fifth of the requests of some weeks, with their times or without.
fn trained_on(weeks: usize, has_times: bool) -> Arc<Baseline> {
    let mut traffic = Traffic::new(1);
    let rows: Vec<(usize, [f32; 3])> = (0..7 * weeks * DAY)
        .flat_map(|step| (0..Traffic::requests(step) / 5).map(move |_| step))
        .map(|step| (step, traffic.row(step)))
        .collect();
    let all = features(&rows.iter().map(|(_, row)| *row).collect::<Vec<_>>());
    let nothing = vec![Observation::Nothing; all.rows()];
    let mut sample = Sample::new(schema(), None);
    sample.add(&all, &nothing);
    let mut builder = sample.freeze();
    builder.count(&all, &nothing);
    if !has_times {
        return Arc::new(builder.finish());
    }
    let mut by_hour = builder.by_hour(MonitoringConfig::default(), "UTC").unwrap();
    for (step, row) in rows {
        by_hour.count(Some(time_of(step)), features(&[row]), &nothing[..1]);
    }
    Arc::new(builder.finish_with_profile(&by_hour))
}

/// A profile of what was really sent in some weeks, with the probe and users.
fn learned_from(weeks: usize, baseline: &Arc<Baseline>) -> Arc<LearnedProfile> {
    let mut traffic = Traffic::new(3);
    let mut by_hour = HourlyCounters::new(Arc::clone(baseline), MonitoringConfig::default(), "UTC").unwrap();
    for step in 0..7 * weeks * DAY {
        let mut rows: Vec<[f32; 3]> = (0..Traffic::requests(step)).map(|_| traffic.of_users(step)).collect();
        rows.extend([[0.5, 1.0, 40.0]; 30]);
        by_hour.count(Some(time_of(step)), features(&rows), &vec![Observation::Nothing; rows.len()]);
    }
    let origin = ProfileOrigin {
        since: time_of(0),
        until: time_of(7 * weeks * DAY),
        rows: by_hour.rows().0,
        by: "ops".to_owned(),
        reason: String::new(),
        at: time_of(7 * weeks * DAY),
    };
    Arc::new(LearnedProfile::new("0".to_owned(), origin, by_hour.finish(None)))
}

fn recorder(known: &Known) -> (Monitor, Arc<VersionRecorder>) {
    let monitor = Monitor::new("1.31.1", MonitoringWindows::default());
    let [model, version, sha256] = ["shop", "1", "0"].map(str::to_owned);
    let labels = VersionLabels { model, version, sha256, provider: "cpu" };
    let baseline = Some(Arc::clone(&known.baseline));
    let spec = MonitoringSpec { schema: schema(), baseline, ..MonitoringSpec::default() };
    let recorder = monitor.version(labels, LatencyBudget::default(), spec);
    recorder.use_profile(known.learned.clone());
    (monitor, recorder)
}

/// Sends the requests of each step, changed by `change`, and returns the verdicts after each step.
fn run(days: usize, change: impl FnMut(usize, &mut Traffic, &mut Vec<[f32; 3]>)) -> Vec<DriftVerdict> {
    run_with(
        &Known { baseline: trained_on(1, false), learned: None, days_up: days, steps_per_verdict: 1, judged_from: 0 },
        days,
        change,
    )
}

fn run_with(
    known: &Known,
    days: usize,
    mut change: impl FnMut(usize, &mut Traffic, &mut Vec<[f32; 3]>),
) -> Vec<DriftVerdict> {
    let mut server = recorder(known);
    let mut started = 0;
    let mut traffic = Traffic::new(2);
    let step = |step: usize| {
        if step == started + known.days_up * DAY {
            (server, started) = (recorder(known), step);
        }
        let recorder = &server.1;
        let mut rows: Vec<[f32; 3]> = (0..Traffic::requests(step)).map(|_| traffic.of_users(step)).collect();
        change(step, &mut traffic, &mut rows);
        recorder.observe(features(&rows), std::iter::empty());
        let now = Duration::from_secs(STEP * (step - started + 1) as u64);
        recorder.tick(now, SystemTime::UNIX_EPOCH + time_of(step + 1).as_duration().unsigned_abs());
        match (step + 1) % known.steps_per_verdict {
            0 if step >= known.judged_from * DAY => recorder.drift_counters.verdict(now, recorder.drift_window()),
            _ => DriftVerdict::default(),
        }
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

/// Versions with a profile of the training data, and with a learned one; servers that start again every day, and one that
/// does not.
fn with_profiles(judged_from: usize) -> [Known; 3] {
    let untimed = trained_on(1, false);
    let learned = Some(learned_from(1, &untimed));
    let known = |baseline: &Arc<Baseline>, learned: &Option<Arc<LearnedProfile>>, days_up: usize| Known {
        baseline: Arc::clone(baseline),
        learned: learned.clone(),
        days_up,
        steps_per_verdict: HOUR,
        judged_from,
    };
    [known(&trained_on(8, true), &None, 1), known(&untimed, &learned, 1), known(&untimed, &learned, 30)]
}

/// With a profile, a month from its first hour on.
#[test]
fn with_a_profile_days_and_weeks_page_nobody_from_the_first_day_on() {
    for known in with_profiles(0) {
        let verdicts = run_with(&known, 30, probe_and_loud_client);
        let (pages, of) = (pages(&verdicts), (known.learned.is_some(), known.days_up));
        let first = pages.first().map(|step| (step / DAY, step % DAY / HOUR, &verdicts[*step]));
        assert!(pages.is_empty(), "(learned, days up) {of:?}: {} pages, the first on day, hour {first:?}", pages.len());
    }
}

/// Half a deviation is found within 5,000 rows, although the server starts again every day.
#[test]
fn with_a_profile_half_a_deviation_pages_in_spite_of_restarts() {
    for known in with_profiles(19) {
        let mut rows_sent = 0;
        let mut rows_at = Vec::new();
        let verdicts = run_with(&known, 21, |step, traffic, rows| {
            if step >= 20 * DAY {
                rows.iter_mut().for_each(|row| row[2] += 6.0);
                rows_sent += rows.len();
            }
            rows_at.push(rows_sent);
            probe_and_loud_client(step, traffic, rows);
        });
        let (pages, of) = (pages(&verdicts), (known.learned.is_some(), known.days_up));
        let first =
            pages.first().copied().unwrap_or_else(|| panic!("(learned, days up) {of:?}: {:?}", verdicts.last()));
        assert!(first >= 20 * DAY && rows_at[first] <= 5_000, "{of:?}: {} rows", rows_at[first]);
        let DriftVerdict { features, reason, .. } = &verdicts[first];
        assert_eq!((&**features, *reason), (&["age".to_owned()][..], Some(VerdictReason::TimeOfDay)));
    }
}
