//! Inputs and predictions of one version, counted bin by bin beside its baseline.
//!
//! Recording is a few loads and stores per value, into cells of the thread's own, some requests at a time. What comes of
//! it is computed when someone asks.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::baseline::{Baseline, FeatureBaseline, Summary};
use super::bins::{Bins, LANES, MAX_TALLIED, MAX_TEXT_BINS, NumberBins, NumberLanes, OTHER, TextBins};
use super::drift::{Drift, DriftStatus, smoothed};
use super::history::History;
use super::shards::{BLOCK, LocalShard, PerThread, Shards};
use crate::config::MonitoringConfig;
use crate::feature::{Certainty, FeatureSchema, Features, Observation, PREDICTION_FEATURES};

/// Counts are kept at moments five minutes apart, for a day: so any window up to a day can be asked for.
pub(super) const INTERVAL: Duration = Duration::from_secs(300);
/// The longest window.
pub const MAX_WINDOW: Duration = Duration::from_secs(24 * 3600);

/// Upper bounds of the histograms of confidence, margin and entropy, in thousandths.
pub(super) const CERTAINTY_BUCKETS: [u64; 12] = [100, 200, 300, 400, 500, 600, 700, 800, 900, 950, 990, 1000];

/// Positions of the cells that do not depend on the baseline.
const ROWS_AT: usize = 0;
const LOW_CONFIDENCE_AT: usize = ROWS_AT + 1;
const CERTAINTY_AT: usize = LOW_CONFIDENCE_AT + 1;
const CERTAINTY_CELLS: usize = CERTAINTY_BUCKETS.len() + 2;
const CLASSES_AT: usize = CERTAINTY_AT + 3 * CERTAINTY_CELLS;
/// One for each class that is told apart, and one for all others.
const CLASS_CELLS: usize = MAX_TEXT_BINS + 1;
/// The blocks of numbers begin here.
const BLOCKS_AT: usize = (CLASSES_AT + CLASS_CELLS).next_multiple_of(BLOCK);

/// Monitoring settings of a version.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MonitoringSpec {
    /// The features that its preprocessor gives.
    pub schema: FeatureSchema,
    /// The names of the classes, if it is a classifier that knows them.
    pub classes: Option<Vec<String>>,
    /// Its baseline, if it has one.
    pub baseline: Option<Arc<Baseline>>,
    /// Settings of `model.toml`.
    pub settings: MonitoringConfig,
}

/// The counts of one version.
#[derive(Debug)]
pub(super) struct DriftCounters {
    classes: Vec<String>,
    low_confidence: f32,
    numbers: Vec<NumberGroup>,
    texts: Vec<TextCells>,
    class: Option<ClassCells>,
    /// Of confidence, margin, entropy and value.
    observed: [Option<NumberCells>; 4],
    features: Vec<MonitoredFeature>,
    left_out: Vec<String>,
    pending: PerThread<Pending>,
    /// Memory of a row that is not counted yet.
    row_bytes: usize,
    cells: Shards,
    history: History<u64>,
    /// Indexes of the features whose drift was in `/metrics` last.
    shown: Mutex<Vec<usize>>,
}

/// Observations that are not counted yet. Counting several requests at one time takes less than half as long: the
/// edges and the cells of a feature are seldom in a cache when a request comes.
#[derive(Debug, Default)]
struct Pending {
    features: Vec<Features>,
    predictions: Vec<Observation>,
}

/// So many predictions, or more, are counted.
const MAX_PENDING: usize = MAX_TALLIED;

/// Cells of a number.
#[derive(Debug)]
struct NumberCells {
    bins: NumberBins,
    at: usize,
}

/// Columns and cells of several numbers.
#[derive(Debug)]
struct NumberGroup {
    lanes: NumberLanes,
    columns: Vec<usize>,
    /// True if the columns follow one another and fill all lanes.
    is_run: bool,
    /// The block of cells of the first: those of the others follow.
    block: usize,
}

#[derive(Debug)]
struct TextCells {
    column: usize,
    bins: TextBins,
    at: usize,
}

#[derive(Debug)]
struct ClassCells {
    /// The cell of each class.
    cells: Vec<usize>,
    /// That of any other.
    other: usize,
}

/// A feature or a part of the predictions that has a baseline.
#[derive(Debug)]
pub(super) struct MonitoredFeature {
    pub(super) name: String,
    pub(super) side: Side,
    /// The names of its bins, `missing` and `other` among them.
    pub(super) bins: Vec<String>,
    /// The baseline's counts.
    pub(super) baseline: Vec<u64>,
    /// Summary of a number in the baseline.
    pub(super) summary: Option<Summary>,
    /// The cells of the bins.
    cells: Vec<usize>,
}

/// Before the model or after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// A feature that the preprocessor gave.
    Feature,
    /// A part of the prediction.
    Prediction,
}

/// Drift of a version's window from its baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DriftReport {
    /// The worst of all.
    pub status: DriftStatus,
    /// Length of the window, in seconds.
    pub window_s: f64,
    /// Number of instances that were answered within it.
    pub rows: u64,
    /// The features, the worst first.
    pub features: Vec<FeatureDrift>,
    /// The predictions, the worst first.
    pub predictions: Vec<FeatureDrift>,
    /// Features that have no baseline, or that the baseline has and nobody gives, or that are too many.
    pub not_watched: Vec<String>,
}

/// Drift of a feature from its baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeatureDrift {
    /// Its name.
    pub name: String,
    /// Its verdict.
    pub status: DriftStatus,
    /// The numbers.
    #[serde(flatten)]
    pub drift: Drift,
    /// Both distributions.
    pub bins: Vec<BinDrift>,
}

/// A bin of both distributions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BinDrift {
    /// Its name.
    pub bin: String,
    /// The baseline's count.
    pub baseline_count: u64,
    /// The window's count.
    pub window_count: u64,
    /// The baseline's share, 0 to 1, a half being added to each count.
    pub baseline_ratio: f64,
    /// The window's share, likewise.
    pub window_ratio: f64,
}

/// Returns the indexes of the `most` worst drifts, in ascending order. Among drifts of the same status, those that were
/// shown before go first, because an alert needs a series that lasts.
fn worst(drifts: &[(usize, &Drift)], before: &[usize], most: usize) -> Vec<usize> {
    let mut seen: Vec<&(usize, &Drift)> = drifts.iter().filter(|(_, drift)| drift.window_count > 0).collect();
    let rank = |(index, drift): &(usize, &Drift)| (drift.status(), before.contains(index));
    seen.sort_by(|one, other| {
        rank(other).cmp(&rank(one)).then_with(|| other.1.psi_adjusted.total_cmp(&one.1.psi_adjusted))
    });
    let mut worst: Vec<usize> = seen.into_iter().take(most).map(|(index, _)| *index).collect();
    worst.sort_unstable();
    worst
}

/// The histograms of how sure a classifier is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CertaintyMeasure {
    Confidence,
    Margin,
    Entropy,
}

/// Sums of parts of one are counted in billionths.
pub(super) const BILLION: f64 = 1e9;

// ===== monitored features =====

/// Hands out cells: a whole block for each number, and whatever is needed for a text.
struct Layout {
    next: usize,
    features: Vec<MonitoredFeature>,
}

impl Layout {
    fn number(&mut self, side: Side, edges: &[f64], of: &FeatureBaseline) -> NumberCells {
        let bins = NumberBins::new(edges);
        let at = self.next.next_multiple_of(BLOCK);
        self.next = at + BLOCK;
        self.add(side, of, bins.slots().map(|slot| at + slot).collect());
        NumberCells { bins, at }
    }

    fn text(&mut self, side: Side, values: &[String], of: &FeatureBaseline) -> (TextBins, usize) {
        let bins = TextBins::new(values);
        let at = self.next;
        self.next += bins.slots();
        self.add(side, of, (at..at + bins.slots()).collect());
        (bins, at)
    }

    fn add(&mut self, side: Side, of: &FeatureBaseline, cells: Vec<usize>) {
        self.features.push(MonitoredFeature {
            name: of.name.clone(),
            side,
            bins: of.bins.names(),
            baseline: of.all_counts(),
            summary: of.summary.clone(),
            cells,
        });
    }
}

impl NumberGroup {
    fn new(numbers: &[(usize, NumberCells)]) -> NumberGroup {
        let columns: Vec<usize> = numbers.iter().map(|(column, _)| *column).collect();
        NumberGroup {
            lanes: NumberLanes::new(numbers.iter().map(|(_, number)| &number.bins)),
            is_run: columns.len() == LANES && columns.windows(2).all(|pair| pair[0] + 1 == pair[1]),
            block: numbers.first().map_or(0, |(_, number)| number.at / BLOCK),
            columns,
        }
    }

    /// The values of one row.
    #[inline]
    fn values(&self, numbers: &[f32]) -> [f32; LANES] {
        if let (true, Some(first)) = (self.is_run, self.columns.first())
            && let Some(Ok(values)) = numbers.get(*first..first + LANES).map(TryInto::try_into)
        {
            return values;
        }
        let mut values = [f32::NAN; LANES];
        for (value, column) in values.iter_mut().zip(&self.columns) {
            *value = numbers.get(*column).copied().unwrap_or(f32::NAN);
        }
        values
    }
}

impl DriftCounters {
    pub(super) fn new(spec: &MonitoringSpec, born: Duration) -> DriftCounters {
        let MonitoringSpec { schema, classes, baseline, settings } = spec;
        let none = Baseline { format: 1, rows: 0, sampled_rows: 0, features: Vec::new(), predictions: Vec::new() };
        let baseline = baseline.as_deref().unwrap_or(&none);
        let mut layout = Layout { next: BLOCKS_AT, features: Vec::new() };
        let (mut numbers, mut texts, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
        // By name: in which order a preprocessor gives its features has nothing to say.
        for feature in &baseline.features {
            let column = |names: &[Arc<str>]| names.iter().position(|name| **name == *feature.name);
            match (&feature.bins, column(&schema.numbers), column(&schema.texts)) {
                _ if layout.features.len() >= settings.max_features => left_out.push(feature.name.clone()),
                (Bins::Number { edges }, Some(column), _) => {
                    numbers.push((column, layout.number(Side::Feature, edges, feature)));
                }
                (Bins::Text { values }, _, Some(column)) => {
                    let (bins, at) = layout.text(Side::Feature, values, feature);
                    texts.push(TextCells { column, bins, at });
                }
                _ => left_out.push(feature.name.clone()),
            }
        }
        let is_known = |name: &str| baseline.features.iter().any(|feature| feature.name == name);
        let unknown = schema.numbers.iter().chain(&schema.texts).filter(|name| !is_known(name));
        left_out.extend(unknown.map(|name| name.to_string()));

        let class_values = baseline.predictions.iter().find_map(|feature| match &feature.bins {
            Bins::Text { values } if feature.name == PREDICTION_FEATURES[0] => Some((feature, values)),
            _ => None,
        });
        let classes = classes.clone().or_else(|| class_values.map(|(_, values)| values.clone())).unwrap_or_default();
        let class = class_values.map(|(feature, values)| {
            let (bins, at) = layout.text(Side::Prediction, values, feature);
            let cell = |class: usize| {
                let name = classes.get(class).cloned().unwrap_or_else(|| class.to_string());
                at + bins.slot(Some(&name))
            };
            ClassCells { cells: (0..classes.len().max(values.len())).map(cell).collect(), other: at + values.len() + 1 }
        });
        let observed = std::array::from_fn(|index| {
            let is_it = |feature: &&FeatureBaseline| feature.name == PREDICTION_FEATURES[index + 1];
            let feature = baseline.predictions.iter().find(is_it)?;
            let Bins::Number { edges } = &feature.bins else { return None };
            Some(layout.number(Side::Prediction, edges, feature))
        });
        // A text between two numbers has its cells between theirs.
        let groups = numbers.chunk_by(|(_, one), (_, next)| one.at + BLOCK == next.at);
        DriftCounters {
            classes,
            low_confidence: settings.low_confidence,
            numbers: groups.flat_map(|next| next.chunks(LANES)).map(NumberGroup::new).collect(),
            texts,
            class,
            observed,
            left_out,
            pending: PerThread::new(),
            row_bytes: size_of::<Features>() + size_of::<Observation>() + size_of::<f32>() * schema.numbers.len(),
            cells: Shards::new(layout.next),
            features: layout.features,
            history: History::new(born, INTERVAL, MAX_WINDOW),
            shown: Mutex::default(),
        }
    }

    // ===== recording =====

    /// Takes in what was given and what was made of it: both of the same instances.
    pub(super) fn observe(&self, features: Features, predictions: impl Iterator<Item = Observation>) {
        let mut pending = self.pending.own().lock();
        // Texts are of any length: they are not kept.
        let at_once = !features.texts.is_empty();
        pending.features.push(features);
        pending.predictions.extend(predictions);
        if at_once || pending.predictions.len() >= MAX_PENDING || pending.features.len() >= MAX_PENDING {
            self.count(&mut pending, &self.cells.local());
        }
    }

    /// Counts what all threads have observed. None of them waits for that.
    fn settle(&self) {
        for pending in self.pending.all() {
            let mut taken = std::mem::take(&mut *pending.lock());
            self.count(&mut taken, &self.cells.common());
        }
    }

    /// Feature by feature, so that each is looked up once.
    fn count(&self, pending: &mut Pending, cells: &LocalShard<'_>) {
        let rows = || pending.features.iter().flat_map(|features| (0..features.rows()).map(move |row| (features, row)));
        for group in &self.numbers {
            let mut rows = rows();
            let mut values = [[0.0; LANES]; MAX_TALLIED];
            loop {
                let filled = values.iter_mut().zip(&mut rows).map(|(values, (features, row))| {
                    *values = group.values(features.numbers_of(row));
                });
                let filled = filled.count();
                group.lanes.tally(&values[..filled], |lane, slot, count| {
                    if lane < group.columns.len() {
                        cells.add((group.block + lane) * BLOCK + slot, count);
                    }
                });
                if filled < MAX_TALLIED {
                    break;
                }
            }
        }
        for text in &self.texts {
            for (features, row) in rows() {
                if let Some(value) = features.texts_of(row).get(text.column) {
                    cells.add(text.at + text.bins.slot(value.as_deref()), 1);
                }
            }
        }
        for prediction in &pending.predictions {
            match *prediction {
                Observation::Class { class, certainty } => self.observe_class(cells, class, certainty),
                Observation::Value(value) => self.observe_number(cells, 3, value as f32),
                Observation::Nothing => {}
            }
        }
        cells.add(ROWS_AT, pending.predictions.len() as u64);
        pending.features.clear();
        pending.predictions.clear();
        pending.predictions.shrink_to(MAX_PENDING);
    }

    fn observe_class(&self, cells: &LocalShard<'_>, class: usize, certainty: Certainty) {
        cells.add(CLASSES_AT + class.min(CLASS_CELLS - 1), 1);
        if certainty.confidence < self.low_confidence {
            cells.add(LOW_CONFIDENCE_AT, 1);
        }
        if let Some(spec) = &self.class {
            cells.add(spec.cells.get(class).copied().unwrap_or(spec.other), 1);
        }
        for (index, value) in [certainty.confidence, certainty.margin, certainty.entropy].into_iter().enumerate() {
            self.observe_number(cells, index, value);
            let value = f64::from(value);
            let at = CERTAINTY_AT + index * CERTAINTY_CELLS;
            let bucket = CERTAINTY_BUCKETS.iter().filter(|edge| **edge as f64 / 1000.0 < value).count();
            cells.add(at + bucket, 1);
            cells.add(at + CERTAINTY_BUCKETS.len() + 1, (value.max(0.0) * BILLION).round() as u64);
        }
    }

    fn observe_number(&self, cells: &LocalShard<'_>, which: usize, value: f32) {
        if let Some(number) = &self.observed[which] {
            cells.add(number.at + number.bins.slot(value), 1);
        }
    }

    pub(super) fn tick(&self, now: Duration) {
        self.history.tick(now, || {
            self.settle();
            self.cells.snapshot()
        });
    }

    // ===== what came of it =====

    pub(super) fn rows(&self) -> u64 {
        self.cells.sum(ROWS_AT)
    }

    pub(super) fn low_confidence(&self) -> u64 {
        self.cells.sum(LOW_CONFIDENCE_AT)
    }

    /// Predictions by class: those that are known by name, or else those that there were, and all others.
    pub(super) fn classes(&self) -> Vec<(String, u64)> {
        let counts = self.cells.sums_of(CLASSES_AT..CLASSES_AT + CLASS_CELLS);
        let count = |class: usize| counts[class];
        let is_known = !self.classes.is_empty();
        let name = |class: usize| match self.classes.get(class) {
            None if is_known => OTHER.to_owned(),
            None => class.to_string(),
            Some(name) => name.clone(),
        };
        let mut mix: Vec<(String, u64)> = Vec::new();
        let all = (0..MAX_TEXT_BINS).map(|class| (name(class), count(class)));
        for (name, count) in all.chain([(OTHER.to_owned(), count(MAX_TEXT_BINS))]) {
            // Two classes of one name are one series.
            match mix.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += count,
                None if is_known || count > 0 => mix.push((name, count)),
                None => {}
            }
        }
        mix
    }

    /// The names of the classes, if they are known.
    pub(super) fn class_names(&self) -> &[String] {
        &self.classes
    }

    /// Returns true if classes are predicted, as far as that is known.
    pub(super) fn is_classifier(&self) -> bool {
        !self.classes.is_empty()
            || self.cells.sums_of(CLASSES_AT..CLASSES_AT + CLASS_CELLS).iter().any(|count| *count > 0)
    }

    /// Counts per bucket and the sum in billionths.
    pub(super) fn certainty(&self, which: CertaintyMeasure) -> (Vec<u64>, u64) {
        let at = CERTAINTY_AT + which as usize * CERTAINTY_CELLS;
        let edges = CERTAINTY_BUCKETS.len();
        let mut counts = self.cells.sums_of(at..at + edges + 2);
        let sum = counts.pop().unwrap_or_default();
        (counts, sum)
    }

    /// Everything with a baseline, with its counts since the beginning.
    pub(super) fn totals(&self) -> impl Iterator<Item = (&MonitoredFeature, Vec<u64>)> {
        let sums = self.cells.sums_of(0..self.cells.len());
        self.features.iter().map(move |feature| (feature, feature.cells.iter().map(|cell| sums[*cell]).collect()))
    }

    /// Everything with a baseline, with its drift within a window.
    pub(super) fn drifts(&self, now: Duration, window: Duration) -> Vec<(&MonitoredFeature, Drift, Vec<u64>)> {
        self.settle();
        let begin = self.history.begin(now, window);
        let sums = self.cells.sums_of(0..self.cells.len());
        let count = |cell: &usize| {
            let before = begin.counts.as_ref().map_or(0, |counts| counts[*cell]);
            sums[*cell].wrapping_sub(before)
        };
        let drift = |feature: &'_ MonitoredFeature| {
            let counts: Vec<u64> = feature.cells.iter().map(count).collect();
            (Drift::between(&feature.baseline, &counts), counts)
        };
        let all = self.features.iter().map(|feature| {
            let (drift, counts) = drift(feature);
            (feature, drift, counts)
        });
        all.collect()
    }

    /// Returns the indexes of the drifts that are shown: at most `most` of each side.
    pub(super) fn shown(&self, drifts: &[(&MonitoredFeature, Drift, Vec<u64>)], most: usize) -> Vec<usize> {
        let mut shown = self.shown.lock();
        let of_side = |side: Side| {
            let seen = drifts.iter().enumerate().filter(|(_, (feature, ..))| feature.side == side);
            let seen: Vec<(usize, &Drift)> = seen.map(|(index, (_, drift, _))| (index, drift)).collect();
            worst(&seen, &shown, most)
        };
        let now = [of_side(Side::Feature), of_side(Side::Prediction)].concat();
        shown.clone_from(&now);
        now
    }

    pub(super) fn report(&self, now: Duration, window: Duration) -> DriftReport {
        let begin = self.history.begin(now, window);
        let (mut features, mut predictions) = (Vec::new(), Vec::new());
        for (feature, drift, counts) in self.drifts(now, window) {
            let ratios = smoothed(&feature.baseline).zip(smoothed(&counts));
            let bins = feature.bins.iter().zip(feature.baseline.iter().zip(&counts)).zip(ratios);
            let bins = bins.map(|((bin, (baseline, window)), (baseline_ratio, window_ratio))| BinDrift {
                bin: bin.clone(),
                baseline_count: *baseline,
                window_count: *window,
                baseline_ratio,
                window_ratio,
            });
            let found =
                FeatureDrift { name: feature.name.clone(), status: drift.status(), drift, bins: bins.collect() };
            match feature.side {
                Side::Feature => features.push(found),
                Side::Prediction => predictions.push(found),
            }
        }
        for found in [&mut features, &mut predictions] {
            found.sort_by(|a: &FeatureDrift, b: &FeatureDrift| {
                b.status
                    .cmp(&a.status)
                    .then_with(|| b.drift.psi_adjusted.total_cmp(&a.drift.psi_adjusted))
                    .then_with(|| b.drift.z.total_cmp(&a.drift.z))
            });
        }
        let before = begin.counts.as_ref().map_or(0, |counts| counts[ROWS_AT]);
        let statuses = features.iter().chain(&predictions).map(|found| found.status);
        DriftReport {
            status: statuses.max().unwrap_or(DriftStatus::NotEnoughData),
            window_s: now.saturating_sub(begin.at).as_secs_f64(),
            rows: self.rows().wrapping_sub(before),
            features,
            predictions,
            not_watched: self.left_out.clone(),
        }
    }

    /// Features on which the baseline and the preprocessor do not agree, for the log.
    pub(super) fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// The most bytes that it takes, if so many threads observe.
    pub(super) fn memory(&self, threads: usize) -> usize {
        8 * self.cells.len() * (threads + self.history.capacity()) + MAX_PENDING * self.row_bytes * threads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_are_shown_and_stay_while_they_are_as_bad() {
        let even = [250u64; 4];
        let drifts: Vec<Drift> = [
            [500, 500, 500, 500],  // ok
            [100, 200, 700, 1000], // drifted
            [0, 0, 0, 0],          // nothing was seen
            [120, 220, 660, 1000], // drifted, less
            [90, 190, 720, 1000],  // drifted, most
            [1, 2, 3, 4],          // too little to say
        ]
        .iter()
        .map(|window| Drift::between(&even, window))
        .collect();
        let seen: Vec<(usize, &Drift)> = drifts.iter().enumerate().collect();
        assert_eq!(worst(&seen, &[], 2), [1, 4]);
        // A drift that was shown stays while it has the same status as the others. One with a better status does not.
        assert_eq!(worst(&seen, &[3], 2), [3, 4]);
        assert_eq!(worst(&seen, &[0], 2), [1, 4]);
        assert_eq!(worst(&seen, &[], 10), [0, 1, 3, 4, 5]);
        assert_eq!(worst(&seen, &[], 0), [0usize; 0]);
    }
}
