//! The values of monitored versions: quantiles, drift, predictions and outcomes.

use std::sync::Arc;
use std::time::Duration;

use super::table::*;
use super::text::{
    MetricFamily, Series, counter, counter_of, estimate, family, gauge, gauge_of, histogram, rounded, summary,
};
use crate::monitor::drift::{Drift, DriftStatus, smoothed};
use crate::monitor::drift_counters::{BILLION, CERTAINTY_BUCKETS, CertaintyMeasure, MonitoredFeature, Side};
use crate::monitor::outcomes::{CALIBRATION_BINS, ClassOutcomes, DELAY_BUCKETS, Outcomes};
use crate::monitor::quantiles::{QUANTILES, Timed};
use crate::monitor::version_recorder::{HistogramSum, VersionRecorder};
use crate::stage::Stage;

/// Assumed number of counting threads, for the memory that is stated: those that serve connections and those of heavy
/// stages, on a machine of sixteen cores.
const THREADS: usize = 32;

/// Makes the series of a version; the labels are its model and its number.
type Make<'a> = &'a dyn Fn(&Seen, [&str; 2]) -> Vec<Series>;

/// A version, and what was read of it once for all families.
struct Seen {
    version: Arc<VersionRecorder>,
    /// The drifts that are shown.
    drifts: Vec<Drifted>,
    /// Number of features and parts of predictions with each status, over all of them.
    statuses: Vec<(DriftStatus, u64)>,
    /// The largest and the mean adjusted index, over all that have one.
    summaries: Vec<(Side, f64, f64)>,
    /// True if all features are shown, with all their bins.
    has_bins: bool,
    latencies: Vec<(Timed, Option<[Duration; QUANTILES.len()]>)>,
    outcomes: Outcomes,
    /// True if it predicts classes: metrics of classes are not shown of others.
    is_classifier: bool,
}

/// The shown drift of a feature or of a part of the predictions.
struct Drifted {
    side: Side,
    name: String,
    drift: Drift,
    /// The shares of the window that are missing, and that belong to no bin.
    outside: [f64; 2],
}

impl Drifted {
    fn new((feature, drift, counts): &(&MonitoredFeature, Drift, Vec<u64>)) -> Drifted {
        // The last two bins of every feature.
        let share = |from_last: usize| {
            let count = counts.iter().rev().nth(from_last).copied().unwrap_or_default();
            count as f64 / drift.window_count as f64
        };
        Drifted { side: feature.side, name: feature.name.clone(), drift: *drift, outside: [share(1), share(0)] }
    }
}

impl Seen {
    fn new(version: &Arc<VersionRecorder>, now: Duration) -> Seen {
        let (drift_counters, windows) = (version.drift_counters(), version.windows());
        let drifts = drift_counters.drifts(now, windows.drift);
        let shown = match windows.top_features {
            Some(most) => drift_counters.shown(&drifts, most),
            None => (0..drifts.len()).collect(),
        };
        let count = |status: DriftStatus| {
            let count = drifts.iter().filter(|(_, drift, _)| drift.status() == status).count();
            (status, count as u64)
        };
        let summary = |side: Side| {
            let of_side = drifts.iter().filter(|(feature, drift, _)| feature.side == side && drift.window_count > 0);
            let psi: Vec<f64> = of_side.map(|(_, drift, _)| drift.psi_adjusted).collect();
            let largest = psi.iter().copied().reduce(f64::max)?;
            Some((side, largest, psi.iter().sum::<f64>() / psi.len() as f64))
        };
        let stages = Stage::ALL.map(Timed::Stage);
        let kinds: Vec<Timed> = stages.into_iter().chain([Timed::Total, Timed::Shed, Timed::Failed]).collect();
        Seen {
            drifts: shown.iter().filter_map(|index| drifts.get(*index)).map(Drifted::new).collect(),
            statuses: DriftStatus::ALL.map(count).to_vec(),
            summaries: [Side::Feature, Side::Prediction].into_iter().filter_map(summary).collect(),
            has_bins: windows.top_features.is_none(),
            latencies: version.latencies().quantiles(now, &kinds),
            outcomes: version.outcomes(|outcomes| outcomes.clone()),
            is_classifier: drift_counters.is_classifier(),
            version: Arc::clone(version),
        }
    }
}

pub(super) fn families(versions: &[Arc<VersionRecorder>], now: Duration) -> Vec<MetricFamily> {
    let seen: Vec<Seen> = versions.iter().map(|version| Seen::new(version, now)).collect();
    let each = |make: Make<'_>| {
        let series = |seen: &Seen| {
            let labels = seen.version.labels();
            make(seen, [labels.model.as_str(), labels.version.as_str()])
        };
        seen.iter().flat_map(series).collect::<Vec<Series>>()
    };
    let mut families = latency_families(&each);
    families.extend(drift_families(FEATURE, Side::Feature, &each));
    families.extend(drift_families(PREDICTION_FEATURE, Side::Prediction, &each));
    families.push(family(
        DRIFT_FEATURES,
        each(&|seen, [model, number]| {
            let statuses = seen.statuses.iter();
            statuses.map(|(status, count)| gauge(&[model, number, status.name()], *count)).collect()
        }),
    ));
    families.push(family(
        DRIFT_SUMMARY,
        each(&|seen, [model, number]| {
            let both = |(side, largest, mean): &(Side, f64, f64)| {
                let of = match side {
                    Side::Feature => "features",
                    Side::Prediction => "predictions",
                };
                [("max", *largest), ("mean", *mean)].map(|(measure, psi)| estimate(&[model, number, of, measure], psi))
            };
            seen.summaries.iter().flat_map(both).collect()
        }),
    ));
    families.extend(prediction_families(&each));
    families.extend(outcome_families(&each));
    families
}

fn latency_families(each: &dyn Fn(Make<'_>) -> Vec<Series>) -> Vec<MetricFamily> {
    let quantiles = |seen: &Seen, [model, number]: [&str; 2], name: fn(Timed) -> Option<&'static str>| {
        let mut all = Vec::new();
        for (timed, found) in &seen.latencies {
            let Some(name) = name(*timed) else { continue };
            let (count, sum) = seen.version.latencies().total(*timed);
            if count == 0 {
                continue;
            }
            // As Prometheus' own clients have it: a quantile of nothing is not a number.
            let seconds = |index: usize| found.map_or(f64::NAN, |found| rounded(found[index].as_secs_f64()));
            let quantiles = QUANTILES.into_iter().enumerate().map(|(index, share)| (share, seconds(index)));
            all.push(summary(&[model, number, name], quantiles, sum.as_secs_f64(), count));
        }
        all
    };
    let answered = |timed| match timed {
        Timed::Stage(stage) => Some(stage.name()),
        Timed::Total => Some("total"),
        Timed::Shed | Timed::Failed => None,
    };
    let unanswered = |timed| match timed {
        Timed::Shed => Some("shed"),
        Timed::Failed => Some("failed"),
        Timed::Stage(_) | Timed::Total => None,
    };
    vec![
        family(LATENCY_QUANTILE, each(&|seen, labels| quantiles(seen, labels, answered))),
        family(UNANSWERED_QUANTILE, each(&|seen, labels| quantiles(seen, labels, unanswered))),
        family(
            MONITORING_MEMORY,
            each(&|seen, labels| {
                let bytes = seen.version.drift_counters().memory(THREADS) + seen.version.latencies().memory(THREADS);
                vec![gauge(&labels, bytes as u64)]
            }),
        ),
        family(
            BASELINE_ROWS,
            each(&|seen, labels| {
                let baseline = seen.version.spec().baseline.as_ref();
                vec![gauge(&labels, baseline.map_or(0, |baseline| baseline.rows))]
            }),
        ),
    ]
}

fn drift_families(metrics: DriftMetrics, side: Side, each: &dyn Fn(Make<'_>) -> Vec<Series>) -> Vec<MetricFamily> {
    let by_bin = |seen: &Seen, [model, number]: [&str; 2], value: &dyn Fn(&MonitoredFeature, &[u64]) -> Vec<Bin>| {
        let mut all = Vec::new();
        if !seen.has_bins {
            return all;
        }
        for (feature, counts) in seen.version.drift_counters().totals().filter(|(feature, _)| feature.side == side) {
            for (bin, value) in feature.bins.iter().zip(value(feature, &counts)) {
                let labels = [model, number, &feature.name, bin];
                all.push(match value {
                    Bin::Count(count) => counter(&labels, count),
                    Bin::Ratio(ratio) => gauge_of(&labels, ratio),
                });
            }
        }
        all
    };
    let of_drift = |seen: &Seen, [model, number]: [&str; 2], value: fn(&Drift) -> f64| -> Vec<Series> {
        let drifts = seen.drifts.iter().filter(|drifted| drifted.side == side);
        drifts.map(|drifted| estimate(&[model, number, &drifted.name], value(&drifted.drift))).collect()
    };
    let gauges =
        |metric: Metric, value: fn(&Drift) -> f64| family(metric, each(&|seen, labels| of_drift(seen, labels, value)));
    let counted = |metric: Metric, value: fn(&Drift) -> u64| {
        family(
            metric,
            each(&|seen, [model, number]| {
                let drifts = seen.drifts.iter().filter(|drifted| drifted.side == side);
                drifts.map(|drifted| gauge(&[model, number, &drifted.name], value(&drifted.drift))).collect()
            }),
        )
    };
    let counts = |_: &MonitoredFeature, counts: &[u64]| counts.iter().copied().map(Bin::Count).collect();
    let ratios = |feature: &MonitoredFeature, _: &[u64]| smoothed(&feature.baseline).map(Bin::Ratio).collect();
    vec![
        family(metrics.bins, each(&|seen, labels| by_bin(seen, labels, &counts))),
        family(metrics.baseline_ratio, each(&|seen, labels| by_bin(seen, labels, &ratios))),
        family(
            metrics.baseline,
            each(&|seen, [model, number]| {
                let of = |(feature, _): (&MonitoredFeature, Vec<u64>)| {
                    let (count, known) = (feature.baseline.iter().sum(), feature.summary.as_ref());
                    let quantiles = known.into_iter().flat_map(|known| &known.quantiles);
                    let quantiles = quantiles.filter_map(|(share, value)| Some((share.parse().ok()?, *value)));
                    // Of the finite values: those are summed up as the mean is of them.
                    let finite = count - feature.baseline.iter().rev().take(2).sum::<u64>();
                    let sum = known.map_or(0.0, |known| known.mean * finite as f64);
                    summary(&[model, number, &feature.name], quantiles, sum, count)
                };
                let all =
                    seen.version.drift_counters().totals().filter(|(feature, _)| seen.has_bins && feature.side == side);
                all.map(of).collect()
            }),
        ),
        counted(metrics.bin_count, |drift| drift.bins as u64),
        counted(metrics.window_values, |drift| drift.window_count),
        gauges(metrics.psi, |drift| drift.psi),
        gauges(metrics.psi_adjusted, |drift| drift.psi_adjusted),
        gauges(metrics.drift_z, |drift| drift.z),
        family(
            metrics.kl,
            each(&|seen, [model, number]| {
                let drifts = seen.drifts.iter().filter(|drifted| drifted.side == side);
                let both = |Drifted { name, drift, .. }: &Drifted| {
                    let directions = [
                        ("window_from_baseline", drift.kl_window_from_baseline),
                        ("baseline_from_window", drift.kl_baseline_from_window),
                    ];
                    directions.map(|(direction, nats)| estimate(&[model, number, name, direction], nats))
                };
                drifts.flat_map(both).collect()
            }),
        ),
        family(
            metrics.outside,
            each(&|seen, [model, number]| {
                let drifts =
                    seen.drifts.iter().filter(|drifted| drifted.side == side && drifted.drift.window_count > 0);
                let both = |Drifted { name, outside: [missing, other], .. }: &Drifted| {
                    [("missing", *missing), ("other", *other)]
                        .map(|(bin, share)| estimate(&[model, number, name, bin], share))
                };
                drifts.flat_map(both).collect()
            }),
        ),
    ]
}

/// The value of a bin.
enum Bin {
    Count(u64),
    Ratio(f64),
}

fn prediction_families(each: &dyn Fn(Make<'_>) -> Vec<Series>) -> Vec<MetricFamily> {
    let certainty = |metric: Metric, which: CertaintyMeasure| {
        family(
            metric,
            each(&|seen, labels| {
                let (counts, sum) = seen.version.drift_counters().certainty(which);
                let read = HistogramSum { counts, sum };
                let series = || histogram(&labels, &CERTAINTY_BUCKETS, 1e3, &read, BILLION);
                seen.is_classifier.then(series).into_iter().collect()
            }),
        )
    };
    vec![
        family(PREDICTIONS, each(&|seen, labels| vec![counter(&labels, seen.version.drift_counters().rows())])),
        family(
            PREDICTION_CLASS,
            each(&|seen, [model, number]| {
                let classes = seen.version.drift_counters().classes();
                classes.iter().map(|(class, count)| counter(&[model, number, class], *count)).collect()
            }),
        ),
        certainty(CONFIDENCE, CertaintyMeasure::Confidence),
        certainty(MARGIN, CertaintyMeasure::Margin),
        certainty(ENTROPY, CertaintyMeasure::Entropy),
        family(
            LOW_CONFIDENCE,
            each(&|seen, labels| {
                let series = || counter(&labels, seen.version.drift_counters().low_confidence());
                seen.is_classifier.then(series).into_iter().collect()
            }),
        ),
    ]
}

/// Returns true if there is a truth that can be replaced. The series of corrections exist from then on, because a rate
/// misses the first count of a new series.
fn has_labels(seen: &Seen) -> bool {
    seen.outcomes.labels + seen.outcomes.withdrawn.labels > 0
}

fn outcome_families(each: &dyn Fn(Make<'_>) -> Vec<Series>) -> Vec<MetricFamily> {
    let counted = |metric: Metric, is_shown: fn(&Seen) -> bool, value: fn(&Outcomes) -> f64| {
        let series = |seen: &Seen, labels: &[&str]| is_shown(seen).then(|| counter_of(labels, value(&seen.outcomes)));
        family(metric, each(&|seen, labels| series(seen, &labels).into_iter().collect()))
    };
    let measured = |metric: Metric, value: fn(&Outcomes) -> Option<f64>| {
        family(
            metric,
            each(&|seen, labels| value(&seen.outcomes).map(|value| gauge_of(&labels, value)).into_iter().collect()),
        )
    };
    let by_class = |metric: Metric, value: fn(&Outcomes, &str) -> Option<f64>| {
        family(
            metric,
            each(&|seen, [model, number]| {
                let classes = seen.outcomes.classes.keys();
                let series = |class: &String| Some(estimate(&[model, number, class], value(&seen.outcomes, class)?));
                classes.filter_map(series).collect()
            }),
        )
    };
    let by_bin = |metric: Metric, value: fn(&Outcomes, usize) -> f64| {
        family(
            metric,
            each(&|seen, [model, number]| {
                let series = |bin: usize| {
                    let edge = ((bin + 1) as f64 / CALIBRATION_BINS as f64).to_string();
                    counter_of(&[model, number, &edge], value(&seen.outcomes, bin))
                };
                (0..CALIBRATION_BINS).filter(|_| seen.is_classifier).map(series).collect()
            }),
        )
    };
    let of_business = |metric: Metric, make: fn(&[&str; 4], &crate::monitor::outcomes::BusinessOutcome) -> Series| {
        family(
            metric,
            each(&|seen, [model, number]| {
                let named = seen.outcomes.business.iter();
                named.map(|(name, found)| make(&[model, number, name, found.kind.name()], found)).collect()
            }),
        )
    };
    vec![
        counted(OUTCOME_LABELS, |_| true, |outcomes| outcomes.labels as f64),
        counted(OUTCOME_CORRECT, |seen| seen.is_classifier, |outcomes| outcomes.correct as f64),
        family(
            OUTCOME_CLASS,
            each(&|seen, [model, number]| {
                let series = |(class, found): (&String, &ClassOutcomes)| {
                    [("predicted", found.predicted), ("actual", found.actual), ("correct", found.correct)]
                        .map(|(of, count)| counter(&[model, number, class, of], count))
                };
                seen.outcomes.classes.iter().flat_map(series).collect()
            }),
        ),
        measured(ACCURACY, Outcomes::accuracy),
        family(
            ACCURACY_ESTIMATE,
            each(&|seen, labels| {
                let (counts, sum) = seen.version.drift_counters().certainty(CertaintyMeasure::Confidence);
                let count: u64 = counts.iter().sum();
                (count > 0).then(|| gauge_of(&labels, sum as f64 / BILLION / count as f64)).into_iter().collect()
            }),
        ),
        measured(BRIER_SCORE, Outcomes::brier_score),
        measured(CALIBRATION_ERROR, Outcomes::expected_calibration_error),
        by_class(PRECISION, |outcomes, class| outcomes.holding(class).precision()),
        by_class(RECALL, |outcomes, class| outcomes.holding(class).recall()),
        by_bin(CALIBRATION_COUNT, |outcomes, bin| outcomes.calibration.bins()[bin].count as f64),
        // To a millionth: further digits are only those of a float32.
        by_bin(CALIBRATION_CONFIDENCE, |outcomes, bin| {
            (outcomes.calibration.bins()[bin].confidence * 1e6).round() / 1e6
        }),
        by_bin(CALIBRATION_CORRECT, |outcomes, bin| outcomes.calibration.bins()[bin].correct as f64),
        counted(SQUARED_ERROR, |_| true, |outcomes| outcomes.squared_error),
        measured(MEAN_ABSOLUTE_ERROR, Outcomes::mean_absolute_error),
        measured(BIAS, Outcomes::bias),
        counted(ABSOLUTE_ERROR, |seen| !seen.is_classifier, |outcomes| outcomes.absolute_error),
        measured(ERROR_SUM, |outcomes| Some(outcomes.error).filter(|_| outcomes.values > 0)),
        counted(CORRECTIONS, has_labels, |outcomes| outcomes.withdrawn.labels as f64),
        family(
            WITHDRAWN,
            each(&|seen, [model, number]| {
                let withdrawn = &seen.outcomes.withdrawn;
                let of_classes = [("correct", withdrawn.correct as f64)];
                let of_numbers = [("absolute_error", withdrawn.absolute_error)];
                let own = if seen.is_classifier { of_classes } else { of_numbers };
                let all = own.into_iter().chain([("squared_error", withdrawn.squared_error)]);
                all.filter(|_| has_labels(seen)).map(|(of, sum)| counter_of(&[model, number, of], sum)).collect()
            }),
        ),
        family(
            CLASS_WITHDRAWN,
            each(&|seen, [model, number]| {
                let series = |class: &String| {
                    let found = seen.outcomes.withdrawn.classes.get(class).copied().unwrap_or_default();
                    [("actual", found.actual), ("correct", found.correct)]
                        .map(|(of, count)| counter(&[model, number, class, of], count))
                };
                let has_any = seen.outcomes.withdrawn.labels > 0;
                seen.outcomes.classes.keys().filter(|_| has_any).flat_map(series).collect()
            }),
        ),
        family(
            CALIBRATION_WITHDRAWN,
            each(&|seen, [model, number]| {
                let series = |(bin, count): (usize, &u64)| {
                    let edge = ((bin + 1) as f64 / CALIBRATION_BINS as f64).to_string();
                    counter(&[model, number, &edge], *count)
                };
                let bins = seen.outcomes.withdrawn.calibration_correct.iter().enumerate();
                bins.filter(|_| seen.is_classifier && seen.outcomes.withdrawn.labels > 0).map(series).collect()
            }),
        ),
        family(
            LABEL_DELAY,
            each(&|seen, labels| {
                let read = HistogramSum {
                    counts: seen.outcomes.delays.to_vec(),
                    // In milliseconds.
                    sum: (seen.outcomes.delay_sum * 1e3).round() as u64,
                };
                vec![histogram(&labels, &DELAY_BUCKETS, 1.0, &read, 1e3)]
            }),
        ),
        family(
            LABEL_COVERAGE,
            each(&|seen, labels| {
                let predictions = seen.version.drift_counters().rows();
                let ratio = || gauge_of(&labels, seen.outcomes.labels as f64 / predictions as f64);
                (predictions > 0).then(ratio).into_iter().collect()
            }),
        ),
        of_business(BUSINESS, |labels, found| gauge_of(labels, found.value())),
        of_business(BUSINESS_SUM, |labels, found| gauge_of(labels, found.sum)),
        of_business(BUSINESS_ITEMS, |labels, found| counter(labels, found.items)),
    ]
}
