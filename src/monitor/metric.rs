//! The documented part of a metric: its name, kind, labels and help text. `metric_family.rs` reads its series.

/// The documented part of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Name of the metric.
    pub name: &'static str,
    /// Help text of the metric in Prometheus.
    pub help: &'static str,
    /// Names of the labels, in order.
    pub labels: &'static [&'static str],
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
}
