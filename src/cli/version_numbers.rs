//! The numbers of a version that `leeway status` and `leeway top` show, from its metrics.

use super::metrics_text::Metrics;

/// The stages, in the order of a request, and their names in tables.
pub(super) const STAGES: [(&str, &str); 6] = [
    ("network", "network"),
    ("preprocess", "preproc."),
    ("queue", "queue"),
    ("inference", "infer."),
    ("postprocess", "postpr."),
    ("total", "total"),
];

/// Outcomes of requests that failed, not because of their callers.
const ERRORS: [&str; 3] = ["expired", "model_error", "server_error"];

/// The numbers of one version.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct VersionNumbers {
    pub(super) model: String,
    pub(super) version: String,
    /// Share of the requests, 0 to 1.
    pub(super) traffic: f64,
    /// Requests since the version was loaded.
    pub(super) requests: f64,
    /// Requests that failed, not because of their callers: expired, or an error of the model or the server.
    pub(super) errors: f64,
    /// Requests that were refused because of too little time or capacity.
    pub(super) shed: f64,
    pub(super) queue: f64,
    /// P95 of each of the [`STAGES`] in the quantile window, in seconds.
    pub(super) p95: [Option<f64>; STAGES.len()],
    /// Part of the latency budget of each of the [`STAGES`], in seconds. Queue and run share one.
    pub(super) budget: [Option<f64>; STAGES.len()],
    pub(super) drift: DriftCounts,
    /// The worst features, if the verdict on the drift of the version is `drifted`.
    pub(super) drifted: Vec<String>,
    /// Share of the predicted classes that were right, among those whose true class is known.
    pub(super) accuracy: Option<f64>,
    /// Mean absolute error of predicted numbers.
    pub(super) mae: Option<f64>,
    pub(super) shadow: ShadowNumbers,
}

/// Numbers of the copies of requests that a version got.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct ShadowNumbers {
    /// Compared predictions that agree with those of the stable version.
    pub(super) agreed: f64,
    pub(super) disagreed: f64,
    /// Requests that the stable version has answered, and this one has not.
    pub(super) only_it_failed: f64,
    /// Copies that were dropped, or found no room in time.
    pub(super) not_run: f64,
}

/// Numbers of features and parts of predictions by drift status.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct DriftCounts {
    pub(super) drifted: u64,
    pub(super) warning: u64,
    ok: u64,
    not_enough_data: u64,
    has_baseline: bool,
}

impl VersionNumbers {
    /// Returns the numbers of all loaded versions.
    pub(super) fn all(metrics: &Metrics) -> Vec<VersionNumbers> {
        metrics.versions().into_iter().map(|(model, version)| VersionNumbers::of(metrics, model, version)).collect()
    }

    fn of(metrics: &Metrics, model: String, version: String) -> VersionNumbers {
        let labels = [("model", &*model), ("version", &*version)];
        let value = |name| metrics.value(name, &labels).filter(|value| !value.is_nan());
        let outcome = |outcome| metrics.sum("requests_total", &[labels[0], labels[1], ("outcome", outcome)]);
        let copies = |outcome| metrics.sum("shadow_requests_total", &[labels[0], labels[1], ("outcome", outcome)]);
        let p95 = |(stage, _): (&str, &str)| {
            let labels = [labels[0], labels[1], ("stage", stage), ("quantile", "0.95")];
            metrics.value("latency_quantile_seconds", &labels).filter(|value| !value.is_nan())
        };
        let budget = |(stage, _): (&str, &str)| {
            let part = if stage == "queue" { "inference" } else { stage };
            metrics.value("budget_seconds", &[labels[0], labels[1], ("part", part)])
        };
        let features = |status| metrics.sum("drift_features", &[labels[0], labels[1], ("status", status)]) as u64;
        let is_drifted = metrics.value("drift_verdict", &[labels[0], labels[1], ("status", "drifted")]) == Some(1.0);
        let worst = metrics.of("drift_verdict_feature", &labels).filter_map(|series| series.label("feature"));
        VersionNumbers {
            drifted: worst.filter(|_| is_drifted).map(str::to_owned).collect(),
            traffic: value("traffic_share_ratio").unwrap_or_default(),
            requests: metrics.sum("requests_total", &labels),
            errors: ERRORS.map(outcome).iter().sum(),
            shed: outcome("shed"),
            queue: value("queue_depth").unwrap_or_default(),
            p95: STAGES.map(p95),
            budget: STAGES.map(budget),
            drift: DriftCounts {
                drifted: features("drifted"),
                warning: features("warning"),
                ok: features("ok"),
                not_enough_data: features("not_enough_data"),
                has_baseline: value("baseline_rows").unwrap_or_default() > 0.0,
            },
            accuracy: value("outcome_accuracy"),
            mae: value("outcome_mae"),
            shadow: ShadowNumbers {
                agreed: metrics.sum("shadow_predictions_total", &[labels[0], labels[1], ("agreement", "agreed")]),
                disagreed: metrics.sum("shadow_predictions_total", &[labels[0], labels[1], ("agreement", "disagreed")]),
                only_it_failed: copies("only_shadow_failed"),
                not_run: copies("dropped") + copies("starved"),
            },
            model,
            version,
        }
    }

    /// P95 of whole requests, in seconds.
    pub(super) fn p95_of_requests(&self) -> Option<f64> {
        self.p95[STAGES.len() - 1]
    }

    /// Returns the accuracy, or else the mean absolute error, for a table.
    pub(super) fn quality(&self) -> String {
        match (self.accuracy, self.mae) {
            (Some(accuracy), _) => format!("{:.1}%", 100.0 * accuracy),
            (None, Some(mae)) => format!("MAE {mae:.3}"),
            (None, None) => "-".to_owned(),
        }
    }
}

impl DriftCounts {
    /// Returns the worst status, for a table.
    pub(super) fn shown(self) -> String {
        match self {
            DriftCounts { drifted: 1.., .. } => format!("{} drifted", self.drifted),
            DriftCounts { warning: 1.., .. } => format!("{} warning", self.warning),
            DriftCounts { has_baseline: false, .. } => "-".to_owned(),
            DriftCounts { ok: 1.., .. } => "ok".to_owned(),
            DriftCounts { .. } => "too few".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_a_version_are_read_from_its_metrics() {
        let labels = "model=\"digits\",version=\"2\"";
        let text = format!(
            "leeway_model_info{{{labels},provider=\"cpu\"}} 1\n\
             leeway_traffic_share_ratio{{{labels}}} 0.9\n\
             leeway_requests_total{{{labels},outcome=\"ok\"}} 90\n\
             leeway_requests_total{{{labels},outcome=\"shed\"}} 6\n\
             leeway_requests_total{{{labels},outcome=\"expired\"}} 3\n\
             leeway_requests_total{{{labels},outcome=\"server_error\"}} 1\n\
             leeway_latency_quantile_seconds{{{labels},stage=\"total\",quantile=\"0.95\"}} 0.012\n\
             leeway_latency_quantile_seconds{{{labels},stage=\"queue\",quantile=\"0.95\"}} NaN\n\
             leeway_budget_seconds{{{labels},part=\"inference\"}} 0.1\n\
             leeway_baseline_rows{{{labels}}} 100\n\
             leeway_drift_features{{{labels},status=\"ok\"}} 7\n\
             leeway_drift_verdict{{{labels},status=\"drifted\"}} 1\n\
             leeway_drift_verdict_feature{{{labels},feature=\"age\",reason=\"shares\"}} 1\n\
             leeway_outcome_accuracy{{{labels}}} 0.975\n"
        );
        let all = VersionNumbers::all(&Metrics::parse(&text));
        let [numbers] = &*all else { panic!("{all:?}") };
        assert_eq!((numbers.requests, numbers.errors, numbers.shed), (100.0, 4.0, 6.0));
        assert_eq!((numbers.p95_of_requests(), numbers.p95[2]), (Some(0.012), None));
        assert_eq!((numbers.budget[2], numbers.budget[3]), (Some(0.1), Some(0.1)));
        assert_eq!((numbers.drift.shown(), numbers.quality()), ("ok".to_owned(), "97.5%".to_owned()));
        assert_eq!(numbers.drifted, ["age"]);
    }

    #[test]
    fn the_worst_status_is_shown() {
        let shown = |drifted, warning, ok, has_baseline| {
            DriftCounts { drifted, warning, ok, not_enough_data: 3, has_baseline }.shown()
        };
        assert_eq!(shown(2, 1, 1, true), "2 drifted");
        assert_eq!(shown(0, 1, 1, true), "1 warning");
        assert_eq!(shown(0, 0, 1, true), "ok");
        assert_eq!(shown(0, 0, 0, true), "too few");
        assert_eq!(shown(0, 0, 0, false), "-");
    }
}
