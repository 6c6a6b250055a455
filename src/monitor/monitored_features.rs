//! The features and parts of predictions that have a baseline, and the cells that count them bin by bin.

use std::sync::Arc;

use super::baseline::{Baseline, FeatureBaseline, RareValues, Reconstruction, Summary};
use super::bins::{Bins, LANES, MAX_TALLIED, NumberBins, NumberLanes, TextBins};
use super::cells::{BLOCK, Counter, Counters, Layout};
use super::drift::Reference;
use super::projection::{ProjectedInput, Projection};
use super::shards::LocalShard;
use super::watched_bins::{Side, WatchedBins};
use crate::config::{EventLimits, MonitoringConfig};
use crate::feature::{FeatureSchema, Features, Observation, PREDICTED_CLASS, PredictionNumber};

/// Facts and settings of a version that determine what is monitored.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MonitoringSpec {
    /// The features of the version's preprocessor.
    pub schema: FeatureSchema,
    /// The names of the classes, if the version is a classifier and its class names are known.
    pub classes: Option<Vec<String>>,
    /// The version's baseline, if it has one.
    pub baseline: Option<Arc<Baseline>>,
    /// Monitoring settings of `model.toml`.
    pub settings: MonitoringConfig,
    /// Names of the steps, if the version is a chain.
    pub steps: Vec<String>,
    /// Limits that make an event for rollouts.
    pub limits: EventLimits,
}

/// A feature or a part of the predictions that has a baseline.
#[derive(Debug)]
pub(super) struct MonitoredFeature {
    pub(super) name: String,
    pub(super) side: Side,
    /// The names of the bins; the last two are `missing` and `other`.
    pub(super) bins: Vec<String>,
    /// The bins' roles, and their counts in the baseline.
    pub(super) reference: Reference,
    /// Summary of a numeric feature in the baseline.
    pub(super) summary: Option<Summary>,
    /// The counters of the bins.
    pub(super) counters: Vec<Counter>,
}

impl MonitoredFeature {
    /// Returns the name of the feature, or of the part of the predictions with a word that says so.
    pub(super) fn title(&self) -> String {
        match self.side {
            Side::Feature => self.name.clone(),
            Side::Prediction => format!("prediction {}", self.name),
        }
    }
}

/// All features and parts of predictions of a version that have a baseline.
#[derive(Debug)]
pub(super) struct MonitoredFeatures {
    /// The names of the classes, if they are known.
    pub(super) classes: Vec<String>,
    pub(super) all: Arc<[MonitoredFeature]>,
    /// Features that only the baseline or only the preprocessor has, and features beyond the limit.
    pub(super) left_out: Vec<String>,
    numbers: Vec<NumberGroup>,
    texts: Vec<TextCounters>,
    class: Option<ClassCounters>,
    /// Indexed by [`PredictionNumber`].
    predicted: [Option<NumberCounters>; PredictionNumber::ALL.len()],
    reconstruction: Option<ReconstructionCounters>,
    embedding: Option<ReconstructionCounters>,
}

/// Counters of the reconstruction error of features or of embeddings.
#[derive(Debug)]
struct ReconstructionCounters {
    projection: Projection,
    /// Columns of the inputs, in their order.
    columns: Vec<usize>,
    counters: NumberCounters,
}

/// Counters of a numeric feature or of a number of the prediction.
#[derive(Debug)]
struct NumberCounters {
    bins: NumberBins,
    slots: Counters,
}

/// Columns and counters of several numeric features, which are looked up together.
#[derive(Debug)]
struct NumberGroup {
    lanes: NumberLanes,
    columns: Vec<usize>,
    /// True if the columns are consecutive and fill all lanes.
    is_run: bool,
    /// A block for each feature, in order.
    slots: Counters,
}

#[derive(Debug)]
struct TextCounters {
    column: usize,
    bins: TextBins,
    slots: Counters,
}

#[derive(Debug)]
struct ClassCounters {
    known: Vec<Counter>,
    other: Counter,
}

/// Multiplications for each row, on average, that a reconstruction error may cost under load. Of the rows that are counted
/// together, only every n-th has its error computed, so that there are no more.
const WEIGHTS_PER_ROW: usize = 2_048;
/// Maximum number of classes without names whose counters are looked up.
const MAX_NUMBERED_CLASSES: usize = 1 << 20;

// ===== laying out =====

/// Assigns counters to features: a block to each numeric feature, and a counter to each bin of a text feature.
struct FeatureLayout<'a> {
    layout: &'a mut Layout,
    all: Vec<MonitoredFeature>,
    numbers: Vec<NumberColumn>,
    texts: Vec<TextCounters>,
    left_out: Vec<String>,
}

/// A numeric feature: its column among the numbers of a row, and its counters.
struct NumberColumn {
    column: usize,
    counters: NumberCounters,
}

impl MonitoredFeatures {
    /// Lays out the counters of the features that both the version and its baseline have.
    pub(super) fn new(spec: &MonitoringSpec, layout: &mut Layout) -> MonitoredFeatures {
        let (all, numbers, texts, left_out) = Default::default();
        let mut layout = FeatureLayout { layout, all, numbers, texts, left_out };
        let (features, predictions) = match spec.baseline.as_deref() {
            Some(Baseline { features, predictions, .. }) => (&**features, &**predictions),
            None => (&[][..], &[][..]),
        };
        layout.features(spec, features);
        let reconstruction = spec.baseline.as_ref().and_then(|baseline| layout.reconstruction(spec, baseline));

        let class_baseline = predictions.iter().find_map(|feature| match &feature.bins {
            Bins::Text { values } if feature.name == PREDICTED_CLASS => Some((feature, values)),
            _ => None,
        });
        let classes = spec.classes.clone().unwrap_or_default();
        let class = class_baseline.map(|(feature, values)| layout.class(feature, values, &classes));
        let predicted = PredictionNumber::ALL.map(|number| {
            let feature = predictions.iter().find(|feature| feature.name == number.name())?;
            matches!(feature.bins, Bins::Number { .. }).then(|| layout.number(Side::Prediction, feature))
        });
        let embedding = spec.baseline.as_ref().and_then(|baseline| baseline.embedding.as_ref());
        let embedding = embedding.and_then(|of| layout.embedding(of));
        let FeatureLayout { all, numbers, texts, left_out, .. } = layout;
        // A group needs consecutive blocks, but the cells of a text may lie between those of two numbers.
        let groups = numbers.chunk_by(|one, next| one.counters.slots.block() + 1 == next.counters.slots.block());
        let numbers = groups.flat_map(|next| next.chunks(LANES)).filter_map(NumberGroup::new).collect();
        MonitoredFeatures {
            classes,
            all: all.into(),
            left_out,
            numbers,
            texts,
            class,
            predicted,
            reconstruction,
            embedding,
        }
    }
}

impl FeatureLayout<'_> {
    fn features(&mut self, MonitoringSpec { schema, settings, .. }: &MonitoringSpec, of: &[FeatureBaseline]) {
        // Matches by name, because the order of a preprocessor's features has no meaning.
        for feature in of {
            let column = |names: &[Arc<str>]| names.iter().position(|name| **name == *feature.name);
            match (&feature.bins, column(&schema.numbers), column(&schema.texts)) {
                _ if settings.ignored_features.contains(&feature.name) => self.left_out.push(feature.name.clone()),
                _ if self.all.len() >= settings.max_features => self.left_out.push(feature.name.clone()),
                (Bins::Number { .. }, Some(column), _) => {
                    let counters = self.number(Side::Feature, feature);
                    self.numbers.push(NumberColumn { column, counters });
                }
                (Bins::Text { values }, _, Some(column)) => {
                    let (bins, slots) = self.text(Side::Feature, values, feature);
                    self.texts.push(TextCounters { column, bins, slots });
                }
                _ => self.left_out.push(feature.name.clone()),
            }
        }
        let is_known = |name: &str| of.iter().any(|feature| feature.name == name);
        let unknown = schema.numbers.iter().chain(&schema.texts).filter(|name| !is_known(name));
        self.left_out.extend(unknown.map(|name| name.to_string()));
    }

    /// Lays out the reconstruction error of the features. It needs all of them, so it is left out if one is.
    fn reconstruction(&mut self, spec: &MonitoringSpec, baseline: &Baseline) -> Option<ReconstructionCounters> {
        let Reconstruction { projection, error } = baseline.reconstruction.as_ref()?;
        let column = |input: &ProjectedInput| spec.schema.numbers.iter().position(|name| **name == *input.name);
        let is_ignored = |input: &ProjectedInput| spec.settings.ignored_features.contains(&input.name);
        let columns: Option<Vec<usize>> = projection.inputs.iter().map(column).collect();
        match columns {
            Some(columns) if spec.settings.max_features > 0 && !projection.inputs.iter().any(is_ignored) => {
                let counters = self.number(Side::Feature, error);
                Some(ReconstructionCounters { projection: projection.clone(), columns, counters })
            }
            _ => {
                self.left_out.push(error.name.clone());
                None
            }
        }
    }

    /// Lays out the reconstruction error of embeddings, whose inputs are positions.
    fn embedding(&mut self, Reconstruction { projection, error }: &Reconstruction) -> Option<ReconstructionCounters> {
        let columns = projection.inputs.iter().map(|input| input.name.parse().ok()).collect::<Option<Vec<usize>>>()?;
        let counters = self.number(Side::Prediction, error);
        Some(ReconstructionCounters { projection: projection.clone(), columns, counters })
    }

    fn class(&mut self, feature: &FeatureBaseline, values: &[String], classes: &[String]) -> ClassCounters {
        let (bins, slots) = self.text(Side::Prediction, values, feature);
        let counter = |class: usize| {
            let name = classes.get(class).cloned().unwrap_or_else(|| class.to_string());
            slots.at(bins.slot(Some(&name)))
        };
        // Classes without names are named by their numbers.
        let numbers = values.iter().filter_map(|value| value.parse::<usize>().ok());
        let last = numbers.filter(|_| classes.is_empty()).max().map_or(0, |last| last.saturating_add(1));
        let known = (0..classes.len().max(last.min(MAX_NUMBERED_CLASSES))).map(counter).collect();
        ClassCounters { known, other: slots.at(bins.slots() - 1) }
    }

    fn number(&mut self, side: Side, of: &FeatureBaseline) -> NumberCounters {
        let watched = WatchedBins::new(of, side);
        let (bins, slots) = (NumberBins::new(&watched.edges), self.layout.block());
        self.add(side, of, watched, bins.slots().map(|slot| slots.at(slot)).collect());
        NumberCounters { bins, slots }
    }

    fn text(&mut self, side: Side, values: &[String], of: &FeatureBaseline) -> (TextBins, Counters) {
        let bins = TextBins::new(values, of.rare.as_ref().map(|RareValues { values, .. }| &**values));
        let slots = self.layout.counters(bins.slots());
        self.add(side, of, WatchedBins::new(of, side), slots.iter().collect());
        (bins, slots)
    }

    fn add(&mut self, side: Side, of: &FeatureBaseline, watched: WatchedBins, counters: Vec<Counter>) {
        self.all.push(MonitoredFeature {
            name: of.name.clone(),
            side,
            bins: watched.names,
            reference: watched.reference,
            summary: of.summary.clone(),
            counters,
        });
    }
}

// ===== counting =====

impl MonitoredFeatures {
    /// Returns true if there are features of inputs to count.
    pub(super) fn counts_inputs(&self) -> bool {
        !self.numbers.is_empty() || !self.texts.is_empty()
    }

    /// Returns true if the embeddings of predictions are counted.
    pub(super) fn counts_embeddings(&self) -> bool {
        self.embedding.is_some()
    }

    /// Number of numbers of an embedding that are counted.
    pub(super) fn embedding_numbers(&self) -> usize {
        self.embedding.as_ref().map_or(0, |embedding| embedding.columns.len())
    }

    /// Counts the features of several requests, feature by feature, so that the bins of each are loaded only once.
    pub(super) fn count(&self, cells: &LocalShard<'_>, features: &[Features]) {
        let rows = || features.iter().flat_map(|features| (0..features.rows()).map(move |row| (features, row)));
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
                        cells.add(group.slots.at(lane * BLOCK + slot), count);
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
                    cells.add(text.slots.at(text.bins.slot(value.as_deref())), 1);
                }
            }
        }
        if let Some(reconstruction) = &self.reconstruction {
            reconstruction.count(cells, rows().map(|(features, row)| features.numbers_of(row)));
        }
        if let Some(embedding) = &self.embedding {
            embedding.count(cells, rows().map(|(features, row)| features.embedding_of(row)));
        }
    }

    /// Counts the parts of a prediction in their bins.
    pub(super) fn count_prediction(&self, cells: &LocalShard<'_>, prediction: Observation) {
        if let (Observation::Class { class, .. }, Some(counters)) = (prediction, &self.class) {
            cells.add(counters.known.get(class).copied().unwrap_or(counters.other), 1);
        }
        for (number, value) in prediction.numbers() {
            if let Some(NumberCounters { bins, slots }) = &self.predicted[number as usize] {
                cells.add(slots.at(bins.slot(value)), 1);
            }
        }
    }
}

impl ReconstructionCounters {
    fn count<'a>(&self, cells: &LocalShard<'_>, rows: impl Iterator<Item = &'a [f32]>) {
        let ReconstructionCounters { projection, columns, counters: NumberCounters { bins, slots } } = self;
        let mut scratch = Vec::new();
        let weights = projection.inputs.len() * projection.components.len();
        // Few rows are counted together if there are few requests, and then none is left out.
        let rows = rows.step_by(weights.div_ceil(WEIGHTS_PER_ROW).max(1));
        // Embeddings are empty if a request asked for outputs of the model itself.
        for row in rows.filter(|row| !row.is_empty()) {
            let inputs = columns.iter().map(|column| row.get(*column).copied().unwrap_or(f32::NAN));
            cells.add(slots.at(bins.slot(projection.error(inputs, &mut scratch))), 1);
        }
    }
}

impl NumberGroup {
    /// Creates the group of these features, whose blocks must be consecutive; `None` without features.
    fn new(numbers: &[NumberColumn]) -> Option<NumberGroup> {
        let first = numbers.first()?;
        let columns: Vec<usize> = numbers.iter().map(|number| number.column).collect();
        Some(NumberGroup {
            lanes: NumberLanes::new(numbers.iter().map(|number| &number.counters.bins)),
            is_run: columns.len() == LANES && columns.windows(2).all(|pair| pair[0] + 1 == pair[1]),
            slots: first.counters.slots.repeated(numbers.len()),
            columns,
        })
    }

    /// Returns the values of this group's features in one row.
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
