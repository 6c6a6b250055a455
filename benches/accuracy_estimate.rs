//! Estimates of accuracy without labels, by Leeway and by NannyML, beside the true accuracy.
//!
//!     make bench-estimate
//!
//! `benches/python/accuracy.py` trains models on data sets that scikit-learn has, draws labelled rows, and windows whose
//! distribution shifts. This program gives the labelled predictions to a baseline, and each window to the counters that
//! the server uses. NannyML's CBPE, with its defaults, sees the same predictions. All random numbers have fixed seeds. The
//! Python packages are installed into `.bench/accuracy`, once.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;

use leeway::budget::LatencyBudget;
use leeway::config::MonitoringWindows;
use leeway::feature::{Certainty, FeatureSchema, Features, Observation};
use leeway::monitor::{Baseline, LabelledCounter, Monitor, MonitoringSpec, OutcomeStats, Sample, VersionLabels};
use leeway_testkit::{checkout, python};
use serde::Deserialize;

/// A model with predictions for labelled rows and for windows.
#[derive(Deserialize)]
struct Case {
    data_set: String,
    model: String,
    /// Version of NannyML.
    nannyml: String,
    /// Number of classes.
    classes: usize,
    labelled: Vec<Prediction>,
    windows: Vec<Vec<Prediction>>,
    /// NannyML's estimate of the accuracy of each window.
    estimates: Vec<f64>,
}

/// Predicted class, confidence in it, and true class.
#[derive(Deserialize)]
struct Prediction(usize, f32, usize);

/// Mean absolute errors of estimates over all windows of a case.
#[derive(Default)]
struct Errors {
    leeway: f64,
    nannyml: f64,
    mean_confidence: f64,
    /// Number of windows whose accuracy is within two standard errors of Leeway's estimate.
    within: usize,
}

fn main() {
    let python = python("accuracy", "benches/python/accuracy-requirements.txt", "NannyML and scikit-learn");
    let program = checkout().join("benches/python/accuracy.py");
    let mut process = Command::new(python).arg(program).stdout(Stdio::piped()).spawn().unwrap();
    println!(
        "Mean absolute error of the estimated accuracy, in points\n\n\
         | data | model | accuracy: labelled rows, windows | Leeway | NannyML | mean confidence |\n|---|---|---|---|---|---|"
    );
    let mut nannyml = String::new();
    for line in BufReader::new(process.stdout.take().unwrap()).lines() {
        let case: Case = serde_json::from_str(&line.unwrap()).unwrap();
        print_case(&case);
        nannyml = case.nannyml;
    }
    assert!(process.wait().unwrap().success(), "accuracy.py failed");
    println!("\nNannyML {nannyml}, CBPE with its defaults");
}

fn print_case(case: &Case) {
    let baseline = Arc::new(baseline(case));
    let mut errors = Errors::default();
    for (window, estimate) in case.windows.iter().zip(&case.estimates) {
        let accuracy = accuracy(window);
        let found = outcomes(&baseline, case.classes, window);
        let error = found.accuracy_estimate.unwrap() - accuracy;
        let confidence = window.iter().map(|row| f64::from(row.1)).sum::<f64>() / window.len() as f64;
        errors.leeway += error.abs();
        errors.nannyml += (estimate - accuracy).abs();
        errors.mean_confidence += (confidence - accuracy).abs();
        errors.within += usize::from(error.abs() < 2.0 * found.accuracy_estimate_error.unwrap());
    }
    let windows = case.windows.len();
    let [leeway, nannyml, mean_confidence] =
        [errors.leeway, errors.nannyml, errors.mean_confidence].map(|error| 100.0 * error / windows as f64);
    let (lowest, highest) = case
        .windows
        .iter()
        .map(|window| accuracy(window))
        .fold((1.0f64, 0.0f64), |(low, high), accuracy| (low.min(accuracy), high.max(accuracy)));
    println!(
        "| {} | {} | {:.2}, {lowest:.2}–{highest:.2} | {leeway:.2} | {nannyml:.2} | {mean_confidence:.2} |",
        case.data_set,
        case.model,
        accuracy(&case.labelled)
    );
    eprintln!("{}, {}: {} of {windows} windows within two standard errors", case.data_set, case.model, errors.within);
}

fn accuracy(rows: &[Prediction]) -> f64 {
    rows.iter().filter(|row| row.0 == row.2).count() as f64 / rows.len() as f64
}

fn names(classes: usize) -> Vec<String> {
    (0..classes).map(|class| class.to_string()).collect()
}

fn observation(&Prediction(class, confidence, _): &Prediction) -> Observation {
    Observation::Class { class, certainty: Certainty { confidence, margin: 0.0, entropy: 0.0 } }
}

/// Returns a baseline with the labelled rows.
fn baseline(case: &Case) -> Baseline {
    let mut counter = LabelledCounter::new(Some(names(case.classes)));
    case.labelled.iter().for_each(|row| counter.class(observation(row), &row.2.to_string()));
    let builder = Sample::new(FeatureSchema::default(), Some(names(case.classes))).freeze();
    Baseline { labelled: counter.finish(), ..builder.finish() }
}

/// Returns what a server says about these predictions.
fn outcomes(baseline: &Arc<Baseline>, classes: usize, window: &[Prediction]) -> OutcomeStats {
    let monitor = Monitor::new("", MonitoringWindows::default());
    let labels = VersionLabels { model: "m".into(), version: "1".into(), sha256: String::new(), provider: "cpu" };
    let spec = MonitoringSpec {
        classes: Some(names(classes)),
        baseline: Some(Arc::clone(baseline)),
        ..MonitoringSpec::default()
    };
    let recorder = monitor.version(labels, LatencyBudget::DEFAULT, spec);
    recorder.observe(Features::with_rows(window.len()), window.iter().map(observation));
    recorder.stats(monitor.now(), None).outcomes
}
