//! Prometheus' text format, version 0.0.4. This is the only file that names the `prometheus` crate, which reads the
//! metrics of the process. Everything else is written here, directly into one text: a server has tens of thousands of
//! series.

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

use super::table::{Kind, Metric};
use crate::identity::{is_unprintable, printable};
use crate::monitor::version_recorder::HistogramSum;

/// The content type of the text format.
pub const TEXT_FORMAT: &str = "text/plain; version=0.0.4";

/// Maximum length of a label, in bytes. Names of classes, for example, come from model files.
const MAX_LABEL_BYTES: usize = 128;

/// A metric and its series.
pub(super) struct MetricFamily {
    metric: Metric,
    series: Vec<Series>,
}

/// One series: its escaped labels, and its value.
#[derive(Clone)]
pub(super) struct Series {
    /// In the order of the metric's labels.
    labels: Vec<String>,
    value: Value,
}

#[derive(Clone)]
enum Value {
    Whole(u64),
    Number(f64),
    Summary {
        quantiles: Vec<(f64, f64)>,
        sum: f64,
        count: u64,
    },
    /// Upper bounds with cumulative counts.
    Histogram {
        buckets: Vec<(f64, u64)>,
        sum: f64,
        count: u64,
    },
}

impl MetricFamily {
    pub(super) fn is_empty(&self) -> bool {
        self.series.is_empty()
    }
}

/// Families as text.
pub(super) fn encode(families: &[MetricFamily]) -> String {
    let mut text = String::with_capacity(128 * families.iter().map(|family| family.series.len()).sum::<usize>());
    families.iter().for_each(|family| write_family(&mut text, family));
    text.push_str(&process());
    text
}

fn write_family(text: &mut String, MetricFamily { metric, series }: &MetricFamily) {
    let kind = match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
        Kind::Summary => "summary",
    };
    let Metric { name, help, .. } = metric;
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    let mut labels = String::new();
    let mut edges = Edges::default();
    for Series { labels: values, value } in series {
        labels.clear();
        for (label, value) in metric.labels.iter().zip(values) {
            let separator = if labels.is_empty() { "" } else { "," };
            let _ = write!(labels, "{separator}{label}=\"{value}\"");
        }
        let mut line = |suffix: &str, extra: Option<(&str, &str)>, value: Number| {
            text.push_str(name);
            text.push_str(suffix);
            if !labels.is_empty() || extra.is_some() {
                text.push('{');
                text.push_str(&labels);
                if let Some((label, value)) = extra {
                    let separator = if labels.is_empty() { "" } else { "," };
                    let _ = write!(text, "{separator}{label}=\"{value}\"");
                }
                text.push('}');
            }
            let _ = writeln!(text, " {value}");
        };
        match value {
            Value::Whole(whole) => line("", None, Number::Whole(*whole)),
            Value::Number(number) => line("", None, Number::Float(*number)),
            Value::Summary { quantiles, sum, count } => {
                for (place, (share, value)) in quantiles.iter().enumerate() {
                    line("", Some(("quantile", edges.text(place, *share))), Number::Float(*value));
                }
                line("_sum", None, Number::Float(*sum));
                line("_count", None, Number::Whole(*count));
            }
            Value::Histogram { buckets, sum, count } => {
                for (place, (edge, cumulative)) in buckets.iter().enumerate() {
                    line("_bucket", Some(("le", edges.text(place, *edge))), Number::Whole(*cumulative));
                }
                line("_bucket", Some(("le", "+Inf")), Number::Whole(*count));
                line("_sum", None, Number::Float(*sum));
                line("_count", None, Number::Whole(*count));
            }
        }
    }
}

/// The texts of the quantiles or bucket bounds of one family. They are the same in nearly all of its series.
#[derive(Default)]
struct Edges(Vec<(f64, String)>);

impl Edges {
    /// Text of `value`, which is at `place` in its series.
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

/// A number in the notation of the format.
enum Number {
    Whole(u64),
    Float(f64),
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
/// long value ends with a part of its digest, so that two long values differ.
fn label(value: &str) -> String {
    let is_plain = |c: char| !is_unprintable(c) && !matches!(c, '\\' | '"');
    if value.len() <= MAX_LABEL_BYTES && value.chars().all(is_plain) {
        return value.to_owned();
    }
    let shown: Cow<'_, str> = match value.len() {
        ..=MAX_LABEL_BYTES => printable(value, MAX_LABEL_BYTES),
        _ => {
            let digest = hex::encode(&Sha256::digest(value)[..4]);
            format!("{}{digest}", printable(value, MAX_LABEL_BYTES - 16)).into()
        }
    };
    shown.replace('\\', "\\\\").replace('"', "\\\"")
}

/// Metrics of the operating system about this process.
fn process() -> String {
    // One for all times: it reads when the process began, which would move with the clock of the machine.
    #[cfg(target_os = "linux")]
    static COLLECTOR: LazyLock<ProcessCollector> = LazyLock::new(ProcessCollector::for_self);
    #[cfg(target_os = "linux")]
    {
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&COLLECTOR.collect(), &mut text) {
            tracing::error!(%error, "the numbers of the process could not be written");
        }
        text
    }
    #[cfg(not(target_os = "linux"))]
    String::new()
}

pub(super) fn family(metric: Metric, series: impl IntoIterator<Item = Series>) -> MetricFamily {
    MetricFamily { metric, series: series.into_iter().collect() }
}

fn series(labels: &[&str], value: Value) -> Series {
    Series { labels: labels.iter().map(|value| label(value)).collect(), value }
}

pub(super) fn counter(labels: &[&str], value: u64) -> Series {
    series(labels, Value::Whole(value))
}

pub(super) fn counter_of(labels: &[&str], value: f64) -> Series {
    series(labels, Value::Number(value))
}

pub(super) fn gauge(labels: &[&str], value: u64) -> Series {
    series(labels, Value::Whole(value))
}

pub(super) fn gauge_of(labels: &[&str], value: f64) -> Series {
    series(labels, Value::Number(value))
}

/// A gauge of an estimate: four digits carry all the information, and more would be most of the answer's size.
pub(super) fn estimate(labels: &[&str], value: f64) -> Series {
    gauge_of(labels, rounded(value))
}

/// Rounds a number to four significant digits.
pub(super) fn rounded(value: f64) -> f64 {
    const DIGITS: i32 = 4;
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let places = DIGITS - 1 - value.abs().log10().floor() as i32;
    // The power of ten would overflow.
    if places.abs() > 300 {
        return value;
    }
    let scale = 10f64.powi(places.abs());
    if places < 0 { (value / scale).round() * scale } else { (value * scale).round() / scale }
}

/// `quantiles` as pairs of share and value.
pub(super) fn summary(labels: &[&str], quantiles: impl Iterator<Item = (f64, f64)>, sum: f64, count: u64) -> Series {
    series(labels, Value::Summary { quantiles: quantiles.collect(), sum, count })
}

/// `edges` are divided by `edge_unit` and the sum by `sum_unit` to come to base units.
pub(super) fn histogram(labels: &[&str], edges: &[u64], edge_unit: f64, read: &HistogramSum, sum_unit: f64) -> Series {
    let mut cumulative = 0;
    let buckets = edges.iter().zip(&read.counts).map(|(edge, count)| {
        cumulative += count;
        (*edge as f64 / edge_unit, cumulative)
    });
    let buckets = buckets.collect();
    let (sum, count) = (read.sum as f64 / sum_unit, read.counts.iter().sum());
    series(labels, Value::Histogram { buckets, sum, count })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn metric(kind: Kind, labels: &'static [&'static str]) -> Metric {
        Metric { name: "m", help: "What it is.", labels, kind }
    }

    #[test]
    fn every_kind_is_written_as_the_format_has_it() {
        let read = HistogramSum { counts: vec![1, 2, 4], sum: 5_500 };
        let families = [
            family(metric(Kind::Counter, &["a", "b"]), [counter(&["x", "y"], 7)]),
            family(metric(Kind::Gauge, &[]), [gauge_of(&[], f64::NAN)]),
            family(metric(Kind::Summary, &["a"]), [summary(&["x"], [(0.5, 1.25)].into_iter(), 1e-7, 3)]),
            family(metric(Kind::Histogram, &["a"]), [histogram(&["x"], &[100, 2_000], 1e3, &read, 1e3)]),
            family(metric(Kind::Histogram, &[]), [histogram(&[], &[1], 1.0, &read, 1.0)]),
        ];
        let mut text = String::new();
        families.iter().for_each(|family| write_family(&mut text, family));
        let expected = "# HELP m What it is.\n# TYPE m counter\nm{a=\"x\",b=\"y\"} 7\n\
            # HELP m What it is.\n# TYPE m gauge\nm NaN\n\
            # HELP m What it is.\n# TYPE m summary\nm{a=\"x\",quantile=\"0.5\"} 1.25\nm_sum{a=\"x\"} 0.0000001\nm_count{a=\"x\"} 3\n\
            # HELP m What it is.\n# TYPE m histogram\nm_bucket{a=\"x\",le=\"0.1\"} 1\nm_bucket{a=\"x\",le=\"2\"} 3\n\
            m_bucket{a=\"x\",le=\"+Inf\"} 7\nm_sum{a=\"x\"} 5.5\nm_count{a=\"x\"} 7\n\
            # HELP m What it is.\n# TYPE m histogram\nm_bucket{le=\"1\"} 1\nm_bucket{le=\"+Inf\"} 7\nm_sum 5500\nm_count 7\n";
        assert_eq!(text, expected);
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
        let long = |end: &str| label(&format!("{}{end}", "x".repeat(1 << 20)));
        assert!(long("a").len() <= MAX_LABEL_BYTES && long("a") != long("b"), "{}", long("a"));
    }
}
