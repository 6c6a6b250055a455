//! Prometheus' text format, version 0.0.4. Only this file uses the `prometheus` crate, which reads the metrics of the
//! process. All other series are written here, directly into one text, because a server has tens of thousands of
//! series: an object for each would be too expensive.

use std::borrow::Cow;
use std::fmt::Write as _;
#[cfg(target_os = "linux")]
use std::sync::LazyLock;

#[cfg(target_os = "linux")]
use prometheus::TextEncoder;
#[cfg(target_os = "linux")]
use prometheus::core::Collector;
#[cfg(target_os = "linux")]
use prometheus::process_collector::ProcessCollector;
use sha2::{Digest, Sha256};

use super::cells::HistogramCounts;
use super::metric::{Kind, Metric};
use crate::identity::{is_unprintable, printable};

/// The content type of the text format.
pub const TEXT_FORMAT: &str = "text/plain; version=0.0.4";

/// Maximum length of a label, in bytes. Names of classes, for example, come from model files.
const MAX_LABEL_BYTES: usize = 128;

/// The labels that all series of a source have in common, as text. They come before the other labels.
#[derive(Debug)]
pub(super) struct SourceLabels {
    count: usize,
    text: String,
}

/// The labels of a source whose series have no label in common.
pub(super) static NO_LABELS: SourceLabels = SourceLabels { count: 0, text: String::new() };

/// Writer of the series of one metric. A metric without series is omitted, and so is its help text.
pub(super) struct Series<'a> {
    lines: Lines<'a>,
    metric: Metric,
    source: &'a SourceLabels,
    edges: Edges,
    is_begun: bool,
}

/// Writer of the lines of one series.
struct Lines<'a> {
    text: &'a mut String,
    name: &'static str,
    /// The labels of the series, as text.
    labels: String,
}

// ===== impl SourceLabels =====

impl SourceLabels {
    pub(super) fn new(labels: &[(&str, &str)]) -> SourceLabels {
        let mut text = String::new();
        labels.iter().for_each(|(name, value)| write_label(&mut text, name, value));
        SourceLabels { count: labels.len(), text }
    }
}

// ===== impl Series =====

impl<'a> Series<'a> {
    pub(super) fn new(text: &'a mut String, metric: Metric) -> Series<'a> {
        let lines = Lines { text, name: metric.name, labels: String::new() };
        Series { lines, metric, source: &NO_LABELS, edges: Edges::default(), is_begun: false }
    }

    /// Sets the source of the following series.
    pub(super) fn set_source(&mut self, source: &'a SourceLabels) {
        self.source = source;
    }

    /// Writes a series of a counter or a gauge. `labels` are the values of the labels that the source does not have.
    pub(super) fn value(&mut self, labels: &[&str], value: impl Into<Number>) {
        self.begin(labels);
        self.lines.write("", None, value.into());
    }

    /// Writes a gauge with four significant digits. An estimate is not more precise, and further digits would be most
    /// of the response.
    pub(super) fn estimate(&mut self, labels: &[&str], value: f64) {
        self.value(labels, rounded(value));
    }

    /// Writes a summary. `quantiles` are pairs of share and value.
    pub(super) fn summary(
        &mut self,
        labels: &[&str],
        quantiles: impl IntoIterator<Item = (f64, f64)>,
        sum: f64,
        count: u64,
    ) {
        self.begin(labels);
        for (place, (share, value)) in quantiles.into_iter().enumerate() {
            self.lines.write("", Some(("quantile", self.edges.text(place, share))), value.into());
        }
        self.lines.write("_sum", None, sum.into());
        self.lines.write("_count", None, count.into());
    }

    pub(super) fn histogram(&mut self, labels: &[&str], read: &HistogramCounts<'_>) {
        self.begin(labels);
        let mut cumulative = 0;
        for (place, (edge, count)) in read.buckets.edges.iter().zip(&read.counts).enumerate() {
            cumulative += count;
            let edge = self.edges.text(place, *edge as f64 / read.buckets.edge_unit);
            self.lines.write("_bucket", Some(("le", edge)), cumulative.into());
        }
        let count: u64 = read.counts.iter().sum();
        self.lines.write("_bucket", Some(("le", "+Inf")), count.into());
        self.lines.write("_sum", None, (read.sum as f64 / read.buckets.sum_unit).into());
        self.lines.write("_count", None, count.into());
    }

    fn begin(&mut self, labels: &[&str]) {
        if !self.is_begun {
            self.is_begun = true;
            let Metric { name, help, kind, .. } = self.metric;
            let kind = match kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
                Kind::Summary => "summary",
            };
            // Writing to a string cannot fail.
            let _ = writeln!(self.lines.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        }
        self.lines.labels.clear();
        self.lines.labels.push_str(&self.source.text);
        for (name, value) in self.metric.labels.iter().skip(self.source.count).zip(labels) {
            write_label(&mut self.lines.labels, name, value);
        }
    }
}

// ===== impl Lines =====

impl Lines<'_> {
    fn write(&mut self, suffix: &str, extra: Option<(&str, &str)>, value: Number) {
        let Lines { text, name, labels } = self;
        text.push_str(name);
        text.push_str(suffix);
        if !labels.is_empty() || extra.is_some() {
            text.push('{');
            text.push_str(labels);
            if let Some((label, value)) = extra {
                let separator = if labels.is_empty() { "" } else { "," };
                let _ = write!(text, "{separator}{label}=\"{value}\"");
            }
            text.push('}');
        }
        let _ = writeln!(text, " {value}");
    }
}

/// Appends a label, its name and its value, to the text of a list of labels.
fn write_label(labels: &mut String, name: &str, value: &str) {
    let separator = if labels.is_empty() { "" } else { "," };
    let _ = write!(labels, "{separator}{name}=\"{}\"", label(value));
}

/// Cache of the texts of a family's quantiles or bucket bounds, which are the same in nearly all of its series.
#[derive(Default)]
struct Edges(Vec<(f64, String)>);

impl Edges {
    /// Returns the text of `value`, the quantile or bound at index `place`.
    fn text(&mut self, place: usize, value: f64) -> &str {
        if self.0.len() == place {
            self.0.push((value, Number::Float(value).to_string()));
        }
        let (known, text) = &mut self.0[place];
        if known.to_bits() != value.to_bits() {
            (*known, *text) = (value, Number::Float(value).to_string());
        }
        text
    }
}

/// A number that is written in the notation of Prometheus' text format.
#[derive(Debug, Clone, Copy)]
pub(super) enum Number {
    Whole(u64),
    Float(f64),
}

impl From<u64> for Number {
    fn from(whole: u64) -> Number {
        Number::Whole(whole)
    }
}

impl From<f64> for Number {
    fn from(float: f64) -> Number {
        Number::Float(float)
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Number::Whole(whole) => write!(f, "{whole}"),
            Number::Float(number) if number == f64::INFINITY => f.write_str("+Inf"),
            Number::Float(number) if number == f64::NEG_INFINITY => f.write_str("-Inf"),
            Number::Float(number) => write!(f, "{number}"),
        }
    }
}

/// Escapes the value of a label and bounds its length. Replaces characters that are unsafe for terminals and logs. A
/// truncated value ends with a part of its digest, so that different long values stay different.
fn label(value: &str) -> Cow<'_, str> {
    let is_plain = |c: char| !is_unprintable(c) && !matches!(c, '\\' | '"');
    if value.len() <= MAX_LABEL_BYTES && value.chars().all(is_plain) {
        return value.into();
    }
    let shown: Cow<'_, str> = match value.len() {
        ..=MAX_LABEL_BYTES => printable(value, MAX_LABEL_BYTES),
        _ => {
            let digest = hex::encode(&Sha256::digest(value)[..4]);
            format!("{}{digest}", printable(value, MAX_LABEL_BYTES - 16)).into()
        }
    };
    shown.replace('\\', "\\\\").replace('"', "\\\"").into()
}

/// Returns the `process_*` metrics, from the operating system, as text.
pub(super) fn process() -> String {
    // Created only once: it reads the start time of the process, which would otherwise move with the machine's clock.
    #[cfg(target_os = "linux")]
    static COLLECTOR: LazyLock<ProcessCollector> = LazyLock::new(ProcessCollector::for_self);
    #[cfg(target_os = "linux")]
    {
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&COLLECTOR.collect(), &mut text) {
            tracing::error!(%error, "the metrics of the process could not be written");
        }
        text
    }
    #[cfg(not(target_os = "linux"))]
    String::new()
}

/// Rounds a number to four significant digits.
pub(super) fn rounded(value: f64) -> f64 {
    const DIGITS: i32 = 4;
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let places = DIGITS - 1 - value.abs().log10().floor() as i32;
    // For such numbers, the power of ten would overflow.
    if places.abs() > 300 {
        return value;
    }
    let scale = 10f64.powi(places.abs());
    if places < 0 { (value / scale).round() * scale } else { (value * scale).round() / scale }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::cells::Buckets;

    /// Checks the text of a metric with these labels. Its source sets the first of them.
    fn check(kind: Kind, labels: &'static [&'static str], write: fn(&mut Series<'_>), expected: &str) {
        let metric = Metric { name: "m", help: "What it is.", labels, kind };
        let source = match labels {
            [first, ..] => SourceLabels::new(&[(first, "x")]),
            [] => SourceLabels::new(&[]),
        };
        let mut text = String::new();
        let mut series = Series::new(&mut text, metric);
        series.set_source(&source);
        write(&mut series);
        assert_eq!(text, expected);
    }

    fn read(edges: &[u64]) -> HistogramCounts<'_> {
        HistogramCounts { buckets: Buckets { edges, edge_unit: 1e3, sum_unit: 1e3 }, counts: vec![1, 2, 4], sum: 5_500 }
    }

    #[test]
    fn every_kind_is_written_as_the_format_has_it() {
        check(
            Kind::Counter,
            &["a", "b"],
            |series| series.value(&["y"], 7u64),
            "# HELP m What it is.\n# TYPE m counter\nm{a=\"x\",b=\"y\"} 7\n",
        );
        check(Kind::Gauge, &[], |series| series.value(&[], f64::NAN), "# HELP m What it is.\n# TYPE m gauge\nm NaN\n");
        check(
            Kind::Summary,
            &["a"],
            |series| series.summary(&[], [(0.5, 1.25)], 1e-7, 3),
            "# HELP m What it is.\n# TYPE m summary\nm{a=\"x\",quantile=\"0.5\"} 1.25\nm_sum{a=\"x\"} 0.0000001\nm_count{a=\"x\"} 3\n",
        );
        check(
            Kind::Histogram,
            &["a"],
            |series| series.histogram(&[], &read(&[100, 2_000])),
            "# HELP m What it is.\n# TYPE m histogram\nm_bucket{a=\"x\",le=\"0.1\"} 1\nm_bucket{a=\"x\",le=\"2\"} 3\n\
             m_bucket{a=\"x\",le=\"+Inf\"} 7\nm_sum{a=\"x\"} 5.5\nm_count{a=\"x\"} 7\n",
        );
        check(
            Kind::Histogram,
            &[],
            |series| series.histogram(&[], &read(&[1_000])),
            "# HELP m What it is.\n# TYPE m histogram\nm_bucket{le=\"1\"} 1\nm_bucket{le=\"+Inf\"} 7\nm_sum 5.5\nm_count 7\n",
        );
        check(Kind::Counter, &["a"], |_| {}, "");
    }

    #[test]
    fn an_estimate_has_four_digits() {
        for (value, expected) in [
            (0.123456789, 0.1235),
            (123456.7, 123500.0),
            (-2.5, -2.5),
            (0.0, 0.0),
            (9.999999, 10.0),
            (1.23456789e-9, 1.235e-9),
            (f64::INFINITY, f64::INFINITY),
        ] {
            assert_eq!(rounded(value), expected);
        }
        assert!(rounded(f64::NAN).is_nan());
        assert!(rounded(f64::MIN_POSITIVE / 8.0).is_finite());
    }

    #[test]
    fn labels_from_model_files_are_escaped_and_bounded() {
        assert_eq!(label("grün"), "grün");
        assert_eq!(label("a\"b\\c"), "a\\\"b\\\\c");
        assert_eq!(label("\u{1b}[2J\u{0}\n"), "\\\\u{1b}[2J\\\\u{0}\\\\n");
        let long = |end: &str| label(&format!("{}{end}", "x".repeat(1 << 20))).into_owned();
        assert!(long("a").len() <= MAX_LABEL_BYTES && long("a") != long("b"), "{}", long("a"));
    }
}
