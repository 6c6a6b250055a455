//! The smallest windows in which Leeway and Evidently see shifts of real data, and their false alarms.
//!
//!     make bench-drift
//!
//! `benches/python/drift.py` draws a baseline and windows of 30 features and a category from scikit-learn's breast cancer
//! data, with a known shift or none. It streams each window to this program, together with the verdict of Evidently's
//! defaults, so both tools see the same numbers. This program counts the window by the library that the server uses.
//! All random numbers have fixed seeds. The Python packages are installed into `.bench/drift`, once.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use leeway::budget::LatencyBudget;
use leeway::config::MonitoringWindows;
use leeway::feature::{FeatureSchema, Features, Observation};
use leeway::monitor::{Baseline, DriftStatus, MAX_WINDOW, Monitor, MonitoringSpec, Sample, VersionLabels};
use leeway_testkit::{checkout, python};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A shift is found at a size of windows if at least this share of them, in percent, has a finding.
const FOUND_PERCENT: u64 = 95;
/// Evidently's findings count from the size on at which at most this share of quiet windows, in percent, has one.
const QUIET_PERCENT: u64 = 1;

fn main() {
    let begin = Instant::now();
    let python = python("drift", "benches/python/drift-requirements.txt", "Evidently and scikit-learn");
    let mut stream = WindowStream::start(&python);
    print_introduction(&stream.introduction);
    let spec = spec(&mut stream);
    let monitor = Monitor::new("", MonitoringWindows::default());
    let (mut shifts, mut checked): (Vec<Shift>, u32) = Default::default();
    while let Some(Window { header, features }) = stream.next() {
        if shifts.last().is_none_or(|shift| shift.name != header.shift) {
            eprintln!("{:4.0} s: windows with the shift {:?} ...", begin.elapsed().as_secs_f64(), header.shift);
            shifts.push(Shift { name: header.shift, sizes: BTreeMap::new() });
        }
        let findings = shifts.last_mut().unwrap().sizes.entry(header.rows).or_default();
        findings.count(verdict(&monitor, &spec, features), header.is_flagged);
        checked += u32::from(header.is_checked);
    }
    stream.finish();
    let (quiet, shifted) = shifts.split_first().unwrap();
    print_false_alarms(quiet, checked);
    print_sizes(quiet, shifted);
    print_shares(&shifts);
    print_late(quiet, shifted);
    println!("\nTime: {:.0} s", begin.elapsed().as_secs_f64());
}

// ===== windows from Python =====

/// The output of `drift.py`.
struct WindowStream {
    process: Child,
    output: BufReader<ChildStdout>,
    introduction: Introduction,
}

/// The first line of `drift.py`. The rows of the baseline follow.
#[derive(Default, Deserialize)]
struct Introduction {
    /// Names of the numeric features.
    numbers: Vec<Arc<str>>,
    /// Names of the categories.
    categories: Vec<String>,
    /// Number of rows of the baseline.
    rows: usize,
    /// Version of Evidently.
    evidently: String,
}

/// The line of `drift.py` before the rows of a window.
#[derive(Deserialize)]
struct Header {
    /// Name of the shift of the window.
    shift: String,
    /// Number of rows.
    rows: usize,
    /// True if Evidently flags any column.
    is_flagged: bool,
    /// True if the distances of all columns were compared with those of Evidently's own report.
    is_checked: bool,
}

struct Window {
    header: Header,
    features: Features,
}

impl WindowStream {
    fn start(python: &Path) -> WindowStream {
        let program = checkout().join("benches/python/drift.py");
        let mut process = Command::new(python).arg(program).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::with_capacity(1 << 20, process.stdout.take().unwrap());
        let mut stream = WindowStream { process, output, introduction: Introduction::default() };
        stream.introduction = stream.line().unwrap();
        stream
    }

    /// Reads a line of JSON; `None` at the end.
    fn line<T: DeserializeOwned>(&mut self) -> Option<T> {
        let mut line = String::new();
        let length = self.output.read_line(&mut line).unwrap();
        (length > 0).then(|| serde_json::from_str(&line).unwrap())
    }

    /// Reads rows: the numbers, and the index of the category.
    fn features(&mut self, rows: usize) -> Features {
        let Introduction { numbers, categories, .. } = &self.introduction;
        let row_bytes = (numbers.len() + 1) * size_of::<f32>();
        let mut bytes = vec![0; rows * row_bytes];
        self.output.read_exact(&mut bytes).unwrap();
        let mut features = Features::with_rows(rows);
        for row in bytes.chunks_exact(row_bytes) {
            let mut values =
                row.chunks_exact(size_of::<f32>()).map(|value| f32::from_le_bytes(value.try_into().unwrap()));
            features.numbers.extend(values.by_ref().take(numbers.len()));
            features.texts.extend(values.map(|category| Some(categories[category as usize].clone())));
        }
        features
    }

    /// Reads the next window; `None` at the end.
    fn next(&mut self) -> Option<Window> {
        let header: Header = self.line()?;
        let features = self.features(header.rows);
        Some(Window { header, features })
    }

    /// Waits for the end of the program, which must not have failed.
    fn finish(mut self) {
        assert!(self.process.wait().unwrap().success(), "drift.py failed");
    }
}

// ===== verdicts =====

/// Reads the rows of the baseline, and returns what is monitored.
fn spec(stream: &mut WindowStream) -> MonitoringSpec {
    let schema = FeatureSchema { numbers: stream.introduction.numbers.clone(), texts: vec!["category".into()] };
    let features = stream.features(stream.introduction.rows);
    let nothing = vec![Observation::Nothing; features.rows()];
    let mut sample = Sample::new(schema.clone(), None);
    sample.add(&features, &nothing);
    let mut builder = sample.freeze();
    builder.count(&features, &nothing);
    let baseline: Baseline = builder.finish();
    assert_eq!(baseline.features.len(), schema.numbers.len() + schema.texts.len());
    MonitoringSpec { schema, baseline: Some(Arc::new(baseline)), ..MonitoringSpec::default() }
}

/// Returns the worst status of all features of a window.
fn verdict(monitor: &Monitor, spec: &MonitoringSpec, features: Features) -> DriftStatus {
    let labels = VersionLabels { model: "m".into(), version: "1".into(), sha256: String::new(), provider: "cpu" };
    // The recorder of the last window is gone, so this one is new, and its counts begin at 0.
    let recorder = monitor.version(labels, LatencyBudget::DEFAULT, spec.clone());
    let rows = features.rows() as u64;
    recorder.observe(features, std::iter::empty());
    let drift = recorder.stats(monitor.now(), Some(MAX_WINDOW)).drift;
    assert_eq!((drift.rows, drift.not_watched.len()), (rows, 0));
    drift.features.iter().map(|feature| feature.status).max().unwrap()
}

/// All windows with one shift.
struct Shift {
    name: String,
    /// Findings by the number of rows of the windows.
    sizes: BTreeMap<usize, Findings>,
}

/// Numbers of windows of one size.
#[derive(Default)]
struct Findings {
    windows: u64,
    /// Windows in which Leeway's worst status is `warning` or `drifted`.
    found: u64,
    /// Windows in which Leeway's worst status is `drifted`.
    drifted: u64,
    /// Windows in which Evidently flags a column.
    flagged: u64,
}

impl Findings {
    fn count(&mut self, status: DriftStatus, is_flagged: bool) {
        self.windows += 1;
        self.found += u64::from(status >= DriftStatus::Warning);
        self.drifted += u64::from(status == DriftStatus::Drifted);
        self.flagged += u64::from(is_flagged);
    }

    fn percent(&self, count: u64) -> f64 {
        100.0 * count as f64 / self.windows as f64
    }
}

impl Shift {
    /// Returns the smallest size from which on all larger sizes fulfil the condition, too.
    fn smallest_size(&self, holds: impl Fn(&Findings) -> bool) -> Option<usize> {
        self.sizes.iter().rev().take_while(|(_, findings)| holds(findings)).last().map(|(size, _)| *size)
    }

    /// Returns the smallest size from which on nearly all windows are counted by `of`.
    fn found_from(&self, of: impl Fn(&Findings) -> u64) -> Option<usize> {
        self.smallest_size(|findings| of(findings) * 100 >= findings.windows * FOUND_PERCENT)
    }

    /// Returns the smallest size from which on Evidently finds the shift, and has few false alarms in `quiet` windows.
    fn flagged_from(&self, quiet: &Shift) -> Option<usize> {
        Some(self.found_from(|findings| findings.flagged)?.max(quiet.quiet_from()?))
    }

    /// Returns the smallest size from which on Evidently has few false alarms, if these windows have no shift.
    fn quiet_from(&self) -> Option<usize> {
        self.smallest_size(|findings| findings.flagged * 100 <= findings.windows * QUIET_PERCENT)
    }
}

// ===== tables =====

fn or_never(size: Option<usize>) -> String {
    size.map_or("never".to_owned(), |size| size.to_string())
}

fn print_introduction(Introduction { numbers, rows, evidently, .. }: &Introduction) {
    println!(
        "{} features of scikit-learn's breast cancer data, by a smoothed bootstrap, and a category; one baseline of {rows} \
         rows.\nUnless the shift says otherwise, it is of the first feature. Leeway's finding: a feature is `warning` or \
         `drifted`.\nEvidently's finding: by the defaults of Evidently {evidently}, the normed Wasserstein distance of a \
         number\nor the Jensen-Shannon distance of a category is at least 0.1.",
        numbers.len()
    );
}

fn print_false_alarms(quiet: &Shift, checked: u32) {
    println!(
        "\nIn {checked} windows, the distances were compared with those of Evidently's own report, and were the same.\n\n\
         False alarms: windows without a shift in which any feature has a finding\n\n\
         | rows | windows | Leeway: warning or drifted | Leeway: drifted | Evidently: any column |\n|---|---|---|---|---|"
    );
    for (size, findings) in &quiet.sizes {
        println!(
            "| {size} | {} | {:.2} % | {:.2} % | {:.2} % |",
            findings.windows,
            findings.percent(findings.found),
            findings.percent(findings.drifted),
            findings.percent(findings.flagged)
        );
    }
}

fn print_sizes(quiet: &Shift, shifted: &[Shift]) {
    println!(
        "\nThe smallest window, in rows, from which on at least {FOUND_PERCENT} % of windows have a finding. In small \
         windows, Evidently's defaults\nflag a column of most windows without a shift, too. So its findings count only \
         from {} rows on, where at most\n{QUIET_PERCENT} % of windows without a shift have one: its column has the larger \
         of both sizes.\n\n\
         | shift | Leeway: finding from | Leeway: drifted from | Evidently: finding from |\n|---|---|---|---|",
        or_never(quiet.quiet_from())
    );
    for shift in shifted {
        println!(
            "| {} | {} | {} | {} |",
            shift.name,
            or_never(shift.found_from(|findings| findings.found)),
            or_never(shift.found_from(|findings| findings.drifted)),
            or_never(shift.flagged_from(quiet)),
        );
    }
}

fn print_shares(shifts: &[Shift]) {
    let sizes: Vec<String> = shifts[0].sizes.keys().map(ToString::to_string).collect();
    println!(
        "\nShare of windows with a finding, in percent, by rows: Leeway / Evidently\n\n| shift | {} |",
        sizes.join(" | ")
    );
    println!("|---|{}", "---|".repeat(sizes.len()));
    for shift in shifts {
        let share = |findings: &Findings| {
            format!("{:.0} / {:.0}", findings.percent(findings.found), findings.percent(findings.flagged))
        };
        let shares: Vec<String> = shift.sizes.values().map(share).collect();
        println!("| {} | {} |", shift.name, shares.join(" | "));
    }
}

/// Prints the shifts that Leeway finds only in larger windows than Evidently.
fn print_late(quiet: &Shift, shifted: &[Shift]) {
    println!("\nShifts that Leeway finds later than Evidently:");
    let late = shifted.iter().filter_map(|shift| {
        let (ours, theirs) = (shift.found_from(|findings| findings.found), shift.flagged_from(quiet)?);
        ours.is_none_or(|ours| ours > theirs)
            .then(|| format!("- {}: from {}, Evidently from {theirs}", shift.name, or_never(ours)))
    });
    let late: Vec<String> = late.collect();
    println!("{}", if late.is_empty() { "none".to_owned() } else { late.join("\n") });
}
