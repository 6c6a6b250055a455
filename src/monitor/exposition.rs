//! The text of `/metrics`: the declared metrics of all sources, in a fixed order.

use std::sync::Arc;
use std::time::Duration;

use super::deployment::{self, DeploymentRecorder, SeenDeployments};
use super::drift_metrics::{self, ShownDrift};
use super::metric::Metric;
use super::metric_family::Family;
use super::outcome_metrics::{self, OutcomeReading};
use super::quantiles::{self, LatencyStats};
use super::server_recorder::{self, ServerRecorder};
use super::shadow_counters;
use super::step_counters;
use super::text::{NO_LABELS, Series, SourceLabels, process};
use super::triton_metrics::{self, TritonReading};
use super::version_recorder::{self, VersionRecorder};
use super::version_stats::VersionReading;
use super::{drift_counters, prediction_log_metrics, tracing_metrics, version_metrics};

/// All sources of metrics, each read once for one response of `/metrics`.
struct Scrape<'a> {
    server: &'a ServerRecorder,
    versions: Vec<ShownVersion>,
    deployments: SeenDeployments,
    /// True if the versions are also shown under the names of Triton.
    has_triton_metrics: bool,
}

/// A version, and the values that were read for its metrics.
struct ShownVersion {
    labels: SourceLabels,
    recorder: Arc<VersionRecorder>,
    latency: LatencyStats,
    drift: ShownDrift,
    outcomes: OutcomeReading,
    /// `None` if the names of Triton are off.
    triton: Option<TritonReading>,
}

/// Receiver of the metrics of `/metrics`, section by section.
trait Sections {
    /// Adds a section: metrics that are read from the same sources.
    fn add<'a, S>(
        &mut self,
        families: &'static [Family<S>],
        sources: impl Iterator<Item = (&'a SourceLabels, &'a S)> + Clone,
    );
}

/// Visits all metrics in the order of `/metrics`.
fn visit(scrape: &Scrape<'_>, sections: &mut impl Sections) {
    let Scrape { server, versions, deployments, has_triton_metrics } = scrape;
    let versions = versions.iter();
    sections.add(server_recorder::FAMILIES, [(&NO_LABELS, *server)].into_iter());
    let metrics = versions.clone().map(|version| (&version.labels, &version.recorder.metrics));
    sections.add(version_metrics::METRICS.families(), metrics);
    sections.add(quantiles::FAMILIES, versions.clone().map(|version| (&version.labels, &version.latency)));
    sections.add(version_recorder::FAMILIES, versions.clone().map(|version| (&version.labels, &*version.recorder)));
    sections.add(step_counters::FAMILIES, versions.clone().map(|version| (&version.labels, &version.recorder.steps)));
    sections
        .add(shadow_counters::FAMILIES, versions.clone().map(|version| (&version.labels, version.recorder.shadow())));
    for families in drift_metrics::FAMILIES {
        sections.add(families, versions.clone().map(|version| (&version.labels, &version.drift)));
    }
    let predictions = versions.clone().map(|version| (&version.labels, &version.recorder.drift_counters));
    sections.add(drift_counters::METRICS.families(), predictions);
    for families in outcome_metrics::FAMILIES {
        sections.add(families, versions.clone().map(|version| (&version.labels, &version.outcomes)));
    }
    sections.add(deployment::FAMILIES, [(&NO_LABELS, deployments)].into_iter());
    sections.add(prediction_log_metrics::FAMILIES, [(&NO_LABELS, server.prediction_log())].into_iter());
    sections.add(tracing_metrics::FAMILIES, [(&NO_LABELS, server.tracing())].into_iter());
    if *has_triton_metrics {
        let read = versions.filter_map(|version| Some((&version.labels, version.triton.as_ref()?)));
        sections.add(triton_metrics::FAMILIES, read);
    }
}

// ===== the list of metrics =====

/// Returns all of Leeway's own metrics, in the order of `/metrics`. On Linux, `/metrics` also has the usual `process_*`
/// metrics.
pub fn metrics() -> Vec<Metric> {
    let nothing = Scrape {
        server: &ServerRecorder::default(),
        versions: Vec::new(),
        deployments: DeploymentRecorder::default().seen(),
        has_triton_metrics: true,
    };
    let mut metrics = Vec::new();
    visit(&nothing, &mut metrics);
    metrics
}

impl Sections for Vec<Metric> {
    fn add<'a, S>(
        &mut self,
        families: &'static [Family<S>],
        _sources: impl Iterator<Item = (&'a SourceLabels, &'a S)> + Clone,
    ) {
        self.extend(families.iter().map(Family::metric));
    }
}

// ===== the text =====

/// Returns all metrics in Prometheus' text format.
pub(super) fn render(
    server: &ServerRecorder,
    versions: Vec<Arc<VersionRecorder>>,
    deployments: &DeploymentRecorder,
    now: Duration,
    has_triton_metrics: bool,
) -> String {
    let versions = versions.into_iter().map(|version| ShownVersion::read(version, now, has_triton_metrics)).collect();
    let mut text = String::new();
    visit(&Scrape { server, versions, deployments: deployments.seen(), has_triton_metrics }, &mut text);
    text.push_str(&process());
    text
}

impl Sections for String {
    fn add<'a, S>(
        &mut self,
        families: &'static [Family<S>],
        sources: impl Iterator<Item = (&'a SourceLabels, &'a S)> + Clone,
    ) {
        for family in families {
            let mut series = Series::new(self, family.metric());
            for (labels, source) in sources.clone() {
                series.set_source(labels);
                family.write(source, &mut series);
            }
        }
    }
}

impl ShownVersion {
    fn read(recorder: Arc<VersionRecorder>, now: Duration, has_triton_metrics: bool) -> ShownVersion {
        let VersionReading { latency, drift, outcomes } = recorder.read(now, recorder.drift_window());
        let mut shown = recorder.drift_counters.shown.lock();
        let verdict = recorder.drift_counters.verdict(now, recorder.drift_window());
        let drift = ShownDrift::new(drift, verdict, recorder.windows.top_features, &mut shown);
        drop(shown);
        let labels = recorder.labels();
        let labels = SourceLabels::new(&[("model", &labels.model), ("version", &labels.version)]);
        let triton = has_triton_metrics.then(|| TritonReading::new(&recorder.metrics, &latency));
        ShownVersion { labels, recorder, latency, drift, outcomes, triton }
    }
}
