//! The shapes of Prometheus' text format. The only file that names the `prometheus` crate.

#[cfg(target_os = "linux")]
use std::sync::LazyLock;

use prometheus::TextEncoder;
#[cfg(target_os = "linux")]
use prometheus::core::Collector;
#[cfg(target_os = "linux")]
use prometheus::process_collector::ProcessCollector;
use prometheus::proto;
pub(super) use prometheus::proto::MetricFamily;

use super::table::{Kind, Metric};
use crate::monitor::version_recorder::HistogramSum;

/// The content type of the text format.
pub const TEXT_FORMAT: &str = prometheus::TEXT_FORMAT;

/// Families as text.
pub(super) fn encode(families: &[MetricFamily]) -> String {
    let mut text = String::new();
    if let Err(error) = TextEncoder::new().encode_utf8(families, &mut text) {
        tracing::error!(%error, "the metrics could not be written");
    }
    text
}

/// What the operating system knows of this process.
pub(super) fn process() -> Vec<MetricFamily> {
    // One for all times: it reads when the process began, which would move with the clock of the machine.
    #[cfg(target_os = "linux")]
    static COLLECTOR: LazyLock<ProcessCollector> = LazyLock::new(ProcessCollector::for_self);
    #[cfg(target_os = "linux")]
    return COLLECTOR.collect();
    #[cfg(not(target_os = "linux"))]
    Vec::new()
}

/// One series: its label values, in the order of the metric's labels, and its value.
#[derive(Clone)]
pub(super) struct Series {
    labels: Vec<String>,
    value: proto::Metric,
}

pub(super) fn family(metric: Metric, series: impl IntoIterator<Item = Series>) -> proto::MetricFamily {
    let mut family = proto::MetricFamily::default();
    family.set_name(metric.name.to_owned());
    family.set_help(metric.help.to_owned());
    family.set_field_type(match metric.kind {
        Kind::Counter => proto::MetricType::COUNTER,
        Kind::Gauge => proto::MetricType::GAUGE,
        Kind::Histogram => proto::MetricType::HISTOGRAM,
        Kind::Summary => proto::MetricType::SUMMARY,
    });
    let with_labels = |Series { labels, mut value }: Series| {
        let pair = |(name, label): (&&str, String)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value(label);
            pair
        };
        value.set_label(metric.labels.iter().zip(labels).map(pair).collect());
        value
    };
    family.set_metric(series.into_iter().map(with_labels).collect());
    family
}

fn series(labels: &[&str], value: proto::Metric) -> Series {
    Series { labels: labels.iter().map(|label| (*label).to_owned()).collect(), value }
}

pub(super) fn counter(labels: &[&str], value: u64) -> Series {
    counter_of(labels, value as f64)
}

pub(super) fn counter_of(labels: &[&str], value: f64) -> Series {
    let mut counter = proto::Counter::default();
    counter.set_value(value);
    let mut metric = proto::Metric::default();
    metric.set_counter(counter);
    series(labels, metric)
}

pub(super) fn gauge(labels: &[&str], value: u64) -> Series {
    gauge_of(labels, value as f64)
}

pub(super) fn gauge_of(labels: &[&str], value: f64) -> Series {
    let mut gauge = proto::Gauge::default();
    gauge.set_value(value);
    series(labels, proto::Metric::from_gauge(gauge))
}

/// `quantiles` as pairs of share and value.
pub(super) fn summary(labels: &[&str], quantiles: impl Iterator<Item = (f64, f64)>, sum: f64, count: u64) -> Series {
    let quantile = |(share, value)| {
        let mut quantile = proto::Quantile::default();
        quantile.set_quantile(share);
        quantile.set_value(value);
        quantile
    };
    let mut summary = proto::Summary::default();
    summary.set_quantile(quantiles.map(quantile).collect());
    summary.set_sample_sum(sum);
    summary.set_sample_count(count);
    let mut metric = proto::Metric::default();
    metric.set_summary(summary);
    series(labels, metric)
}

/// `edges` are divided by `edge_unit` and the sum by `sum_unit` to come to base units.
pub(super) fn histogram(labels: &[&str], edges: &[u64], edge_unit: f64, read: &HistogramSum, sum_unit: f64) -> Series {
    let mut cumulative = 0;
    let mut buckets = Vec::with_capacity(edges.len());
    for (&edge, &count) in edges.iter().zip(&read.counts) {
        cumulative += count;
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(edge as f64 / edge_unit);
        bucket.set_cumulative_count(cumulative);
        buckets.push(bucket);
    }
    let mut histogram = proto::Histogram::default();
    histogram.set_sample_count(read.counts.iter().sum());
    histogram.set_sample_sum(read.sum as f64 / sum_unit);
    histogram.set_bucket(buckets);
    let mut metric = proto::Metric::default();
    metric.set_histogram(histogram);
    series(labels, metric)
}
