//! Makes a baseline: chooses the bins from a sample of the training data, and counts all rows in them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::baseline::{Baseline, FORMAT, FeatureBaseline, RECONSTRUCTION_ERROR, RareValues, Reconstruction, Summary};
use super::bins::{Bins, MAX_RARE_TEXTS, MAX_TEXT_BINS, MAX_TEXT_BYTES, NumberBins, TextBins};
use super::hourly_counters::{HourlyCounters, in_watched_bins};
use super::monitored_features::MonitoringSpec;
use super::principal_components::{Fitted, VectorSample};
use super::quantile_edges::{quantile, quantile_edges};
use super::repeated_rows::EqualRows;
use crate::config::MonitoringConfig;
use crate::feature::{FeatureSchema, Features, Observation, PREDICTED_CLASS, PredictionNumber};

/// Quantiles in the summary of a numeric feature, by name.
const NOTED_QUANTILES: [(&str, f64); 7] =
    [("0.01", 0.01), ("0.05", 0.05), ("0.25", 0.25), ("0.5", 0.5), ("0.75", 0.75), ("0.95", 0.95), ("0.99", 0.99)];

/// A baseline that is being made: its bins, chosen from a sample, and the counts of the rows so far.
#[derive(Debug)]
pub struct BaselineBuilder {
    schema: FeatureSchema,
    classes: Option<Vec<String>>,
    sampled_rows: u64,
    rows: u64,
    repeated_pairs: Option<f64>,
    numbers: Vec<CountedNumber>,
    texts: Vec<CountedText>,
    class: CountedText,
    /// Indexed by [`PredictionNumber`].
    observed: [CountedNumber; PredictionNumber::ALL.len()],
    reconstruction: Option<Reconstruction>,
    embedding: Option<Reconstruction>,
}

/// A random sample of rows of the training data, with all their values. The bins of a baseline are chosen from it.
#[derive(Debug)]
pub struct Sample {
    schema: FeatureSchema,
    classes: Option<Vec<String>>,
    rows: u64,
    numbers: Vec<Vec<f64>>,
    texts: Vec<BTreeMap<String, u64>>,
    class: BTreeMap<String, u64>,
    equal_rows: EqualRows,
    /// Indexed by [`PredictionNumber`].
    observed: [Vec<f64>; PredictionNumber::ALL.len()],
    /// Columns of the numbers that are projected together.
    projected: Vec<usize>,
    rows_of_numbers: VectorSample,
    /// The embeddings, once there is one.
    embeddings: Option<VectorSample>,
}

#[derive(Debug)]
struct CountedNumber {
    bins: NumberBins,
    edges: Vec<f64>,
    quantiles: BTreeMap<String, f64>,
    counts: [u64; 16],
    finite: u64,
    mean: f64,
    /// The sum of squared differences from the mean, by Welford's method.
    squares: f64,
    min: f64,
    max: f64,
}

#[derive(Debug)]
struct CountedText {
    bins: TextBins,
    values: Vec<String>,
    counts: Vec<u64>,
    /// The counted values without a bin of their own, with their number of rows.
    rare: BTreeMap<String, u64>,
    /// False if there are too many rare values to keep them, or if they are not wanted.
    keeps_rare: bool,
}

impl Sample {
    /// Creates an empty sample of training data. `classes` has the names of the predicted classes, if they are known.
    pub fn new(schema: FeatureSchema, classes: Option<Vec<String>>) -> Sample {
        let (numbers, texts) = (vec![Vec::new(); schema.numbers.len()], vec![BTreeMap::new(); schema.texts.len()]);
        let projected: Vec<usize> = (0..schema.numbers.len()).collect();
        Sample {
            schema,
            classes,
            rows: 0,
            numbers,
            texts,
            class: BTreeMap::new(),
            equal_rows: EqualRows::default(),
            observed: Default::default(),
            rows_of_numbers: VectorSample::new(projected.len()),
            projected,
            embeddings: None,
        }
    }

    /// Leaves these features out of the projection of all features. They still have baselines of their own.
    #[must_use]
    pub fn without(mut self, ignored: &[String]) -> Sample {
        self.projected.retain(|column| ignored.iter().all(|ignored| **ignored != *self.schema.numbers[*column]));
        self.rows_of_numbers = VectorSample::new(self.projected.len());
        self
    }

    /// Adds rows to the sample: their features and the predictions for them.
    pub fn add(&mut self, features: &Features, predictions: &[Observation]) {
        self.equal_rows.add(features);
        for row in 0..features.rows() {
            for (values, value) in self.numbers.iter_mut().zip(features.numbers_of(row)) {
                values.extend(Some(f64::from(*value)).filter(|value| value.is_finite()));
            }
            for (values, value) in self.texts.iter_mut().zip(features.texts_of(row)) {
                if let Some(value) = value {
                    *values.entry(value.clone()).or_default() += 1;
                }
            }
            let numbers = features.numbers_of(row);
            let number = |column: &usize| numbers.get(*column).copied().unwrap_or(f32::NAN);
            self.rows_of_numbers.add(self.projected.iter().map(number));
            let embedding = features.embedding_of(row);
            if !embedding.is_empty() {
                let sample = self.embeddings.get_or_insert_with(|| VectorSample::new(embedding.len()));
                sample.add(embedding.iter().copied());
            }
        }
        for prediction in predictions {
            self.rows += 1;
            if let Some(class) = prediction.class_name(self.classes.as_deref()) {
                *self.class.entry(class).or_default() += 1;
            }
            for (number, value) in prediction.numbers() {
                self.observed[number as usize].push(f64::from(value));
            }
        }
    }

    /// Chooses the bins of the baseline from the sample.
    pub fn freeze(self) -> BaselineBuilder {
        let known = self.classes.iter().flatten().map(|class| (class.clone(), 1)).collect();
        let class = if self.classes.is_some() { known } else { self.class };
        let names = &self.schema.numbers;
        let is_free = names.iter().chain(&self.schema.texts).all(|name| **name != *RECONSTRUCTION_ERROR);
        let reconstruction = self.rows_of_numbers.fit(|column| names[self.projected[column]].to_string());
        let embedding = self.embeddings.and_then(|sample| sample.fit(|position| position.to_string()));
        BaselineBuilder {
            reconstruction: reconstruction.filter(|_| is_free).map(reconstruction_of),
            embedding: embedding.map(reconstruction_of),
            schema: self.schema,
            classes: self.classes,
            sampled_rows: self.rows,
            rows: 0,
            repeated_pairs: self.equal_rows.share_of_pairs(),
            numbers: self.numbers.into_iter().map(CountedNumber::new).collect(),
            texts: self.texts.into_iter().map(|texts| CountedText::new(texts, true)).collect(),
            class: CountedText::new(class, false),
            observed: self.observed.map(CountedNumber::new),
        }
    }
}

impl BaselineBuilder {
    /// Counts rows of the training data in their bins. They may differ from the rows of the sample.
    pub fn count(&mut self, features: &Features, predictions: &[Observation]) {
        for row in 0..features.rows() {
            for (counted, value) in self.numbers.iter_mut().zip(features.numbers_of(row)) {
                counted.count(f64::from(*value));
            }
            for (counted, value) in self.texts.iter_mut().zip(features.texts_of(row)) {
                counted.count(value.as_deref());
            }
        }
        for prediction in predictions {
            self.rows += 1;
            if let Observation::Class { .. } = prediction {
                self.class.count(prediction.class_name(self.classes.as_deref()).as_deref());
            }
            for (number, value) in prediction.numbers() {
                self.observed[number as usize].count(f64::from(value));
            }
        }
    }

    /// Returns the baseline of all counted rows.
    pub fn finish(self) -> Baseline {
        let schema = &self.schema;
        let numbers = schema.numbers.iter().zip(self.numbers).map(|(name, counted)| counted.finish(name));
        let texts = schema.texts.iter().zip(self.texts).map(|(name, counted)| counted.finish(name));
        let observed = PredictionNumber::ALL.into_iter().zip(self.observed);
        let observed = observed.map(|(number, counted)| counted.finish(number.name()));
        let has_values = |feature: &FeatureBaseline| feature.all_counts().iter().any(|count| *count > 0);
        Baseline {
            format: FORMAT,
            rows: self.rows,
            sampled_rows: self.sampled_rows,
            repeated_pairs: self.repeated_pairs.filter(|_| !schema.is_empty()),
            features: numbers.chain(texts).collect(),
            predictions: [self.class.finish(PREDICTED_CLASS)].into_iter().chain(observed).filter(has_values).collect(),
            reconstruction: self.reconstruction,
            embedding: self.embedding,
            labelled: None,
            profile: None,
        }
    }

    /// Creates counters of rows by hour, in the bins of this baseline.
    pub fn by_hour(&self, settings: MonitoringConfig, zone: &str) -> Result<HourlyCounters, String> {
        let numbers = self.schema.numbers.iter().zip(&self.numbers);
        let texts = self.schema.texts.iter().zip(&self.texts);
        let observed = PredictionNumber::ALL.into_iter().zip(&self.observed);
        let features = numbers.map(|(name, of)| of.unfinished(name)).chain(texts.map(|(name, of)| of.unfinished(name)));
        let predictions = observed.map(|(number, of)| of.unfinished(number.name()));
        let baseline = Baseline {
            format: FORMAT,
            rows: 0,
            sampled_rows: self.sampled_rows,
            repeated_pairs: None,
            features: features.collect(),
            predictions: [self.class.unfinished(PREDICTED_CLASS)].into_iter().chain(predictions).collect(),
            reconstruction: None,
            embedding: None,
            labelled: None,
            profile: None,
        };
        let (schema, classes) = (self.schema.clone(), self.classes.clone());
        let spec = MonitoringSpec {
            schema,
            classes,
            baseline: Some(Arc::new(baseline)),
            settings,
            ..MonitoringSpec::default()
        };
        HourlyCounters::with_spec(spec, zone)
    }

    /// Returns the baseline of all counted rows, with the profile of the rows that were counted by hour.
    pub fn finish_with_profile(self, by_hour: &HourlyCounters) -> Baseline {
        let mut baseline = self.finish();
        baseline.profile = Some(in_watched_bins(by_hour.finish(None), &baseline));
        baseline
    }
}

fn reconstruction_of(Fitted { projection, errors }: Fitted) -> Reconstruction {
    let errors: Vec<f64> = errors.into_iter().map(f64::from).collect();
    let mut counted = CountedNumber::new(errors.iter().copied().filter(|error| error.is_finite()).collect());
    errors.into_iter().for_each(|error| counted.count(error));
    Reconstruction { projection, error: counted.finish(RECONSTRUCTION_ERROR) }
}

impl CountedNumber {
    fn new(mut sample: Vec<f64>) -> CountedNumber {
        sample.sort_by(f64::total_cmp);
        let edges = quantile_edges(&sample);
        CountedNumber {
            bins: NumberBins::new(&edges),
            edges,
            quantiles: NOTED_QUANTILES
                .into_iter()
                .filter_map(|(name, share)| Some((name.to_owned(), quantile(&sample, share)?)))
                .collect(),
            counts: [0; 16],
            finite: 0,
            mean: 0.0,
            squares: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
        }
    }

    /// The feature with its bins only.
    fn unfinished(&self, name: &str) -> FeatureBaseline {
        let bins = Bins::Number { edges: self.edges.clone() };
        FeatureBaseline::without_rows(name, bins)
    }

    fn count(&mut self, value: f64) {
        self.counts[self.bins.slot(value as f32)] += 1;
        if value.is_finite() {
            self.finite += 1;
            let difference = value - self.mean;
            self.mean += difference / self.finite as f64;
            self.squares += difference * (value - self.mean);
            self.min = self.min.min(value);
            self.max = self.max.max(value);
        }
    }

    fn finish(self, name: &str) -> FeatureBaseline {
        let counts: Vec<u64> = self.bins.slots().map(|slot| self.counts[slot]).collect();
        let own = self.edges.len() + 1;
        let summary = Summary {
            mean: self.mean,
            deviation: (self.squares / self.finite.max(1) as f64).sqrt(),
            min: self.min,
            max: self.max,
            quantiles: self.quantiles,
        };
        // The squares of numbers near the largest float overflow, and JSON has no infinity.
        let is_finite = summary.mean.is_finite() && summary.deviation.is_finite();
        FeatureBaseline {
            name: name.to_owned(),
            missing: counts[own],
            other: counts[own + 1],
            counts: counts[..own].to_vec(),
            rare: None,
            bins: Bins::Number { edges: self.edges },
            summary: Some(summary).filter(|_| self.finite > 0 && is_finite),
        }
    }
}

impl CountedText {
    /// Creates a bin for each text of the sample. If there are too many texts, only the most frequent get one.
    fn new(sample: BTreeMap<String, u64>, keeps_rare: bool) -> CountedText {
        let mut values: Vec<(String, u64)> =
            sample.into_iter().filter(|(value, _)| value.len() <= MAX_TEXT_BYTES).collect();
        values.sort_by(|(a, a_count), (b, b_count)| b_count.cmp(a_count).then_with(|| a.cmp(b)));
        values.truncate(MAX_TEXT_BINS);
        let mut values: Vec<String> = values.into_iter().map(|(value, _)| value).collect();
        values.sort();
        let bins = TextBins::new(&values, None);
        CountedText { counts: vec![0; bins.slots()], bins, values, rare: BTreeMap::new(), keeps_rare }
    }

    /// The feature with its bins only.
    fn unfinished(&self, name: &str) -> FeatureBaseline {
        FeatureBaseline::without_rows(name, Bins::Text { values: self.values.clone() })
    }

    fn count(&mut self, value: Option<&str>) {
        let slot = self.bins.slot(value);
        self.counts[slot] += 1;
        let Some(value) = value.filter(|value| self.keeps_rare && value.len() <= MAX_TEXT_BYTES) else { return };
        if slot != self.values.len() + 1 {
            return;
        }
        if self.rare.len() == MAX_RARE_TEXTS && !self.rare.contains_key(value) {
            (self.keeps_rare, self.rare) = (false, BTreeMap::new());
            return;
        }
        *self.rare.entry(value.to_owned()).or_default() += 1;
    }

    fn finish(self, name: &str) -> FeatureBaseline {
        let own = self.values.len();
        let count = self.rare.values().sum();
        let rare = (self.keeps_rare && !self.rare.is_empty())
            .then(|| RareValues { values: self.rare.into_keys().collect(), count });
        FeatureBaseline {
            name: name.to_owned(),
            missing: self.counts[own],
            other: self.counts[own + 1] - rare.as_ref().map_or(0, |rare| rare.count),
            counts: self.counts[..own].to_vec(),
            rare,
            bins: Bins::Text { values: self.values },
            summary: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feature::Certainty;

    #[test]
    fn everything_that_was_counted_is_in_a_bin() {
        let schema = FeatureSchema { numbers: vec!["n".into()], texts: vec!["t".into()] };
        let certainty = Certainty { confidence: 0.75, margin: 0.5, entropy: 0.25 };
        let classes = ["no".to_owned(), "yes".to_owned()];
        let row = |number: f32, text: Option<&str>| {
            let mut features = Features::with_rows(1);
            features.numbers = vec![number];
            features.texts = vec![text.map(str::to_owned)];
            features
        };
        let predicted = [Observation::Class { class: 1, certainty }];
        let mut sample = Sample::new(schema.clone(), Some(classes.to_vec()));
        for number in [1.0, 2.0, 3.0] {
            sample.add(&row(number, Some("a")), &predicted);
        }
        let mut builder = sample.freeze();
        for (number, text) in
            [(1.0, Some("a")), (2.0, Some("b")), (f32::NAN, None), (f32::INFINITY, Some("a")), (4.0, Some("a"))]
        {
            builder.count(&row(number, text), &predicted);
        }
        let baseline = builder.finish();
        let [number, text] = &*baseline.features else { panic!("{baseline:?}") };
        assert_eq!((number.missing, number.other, number.counts.iter().sum::<u64>()), (1, 1, 3));
        let summary = number.summary.as_ref().unwrap();
        assert_eq!((summary.min, summary.max, summary.quantiles["0.5"]), (1.0, 4.0, 2.0));
        assert!((summary.mean - 7.0 / 3.0).abs() < 1e-12 && (summary.deviation - (14.0f64 / 9.0).sqrt()).abs() < 1e-12);
        assert_eq!((text.all_counts(), &text.bins), (vec![3, 1, 1, 0], &Bins::Text { values: vec!["a".to_owned()] }));
        assert_eq!(text.rare, Some(RareValues { values: vec!["b".to_owned()], count: 1 }));
        let names: Vec<&str> = baseline.predictions.iter().map(|feature| feature.name.as_str()).collect();
        assert_eq!(names, ["class", "confidence", "margin", "entropy"]);
        assert_eq!(baseline.predictions[0].all_counts(), [0, 5, 0, 0]);
        // Reading the written baseline gives it back.
        assert_eq!(Baseline::parse(&serde_json::to_vec(&baseline).unwrap()).unwrap(), baseline);
    }
}
