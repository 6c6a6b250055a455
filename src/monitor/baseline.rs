//! `baseline.json`: the distributions of the features of the training data, and of the predictions for them.
//!
//! A baseline is a part of a version and does not change, because the training data of a version do not change. It is
//! made by running the version's own pipeline over the training data (`leeway add --baseline-data`, `leeway baseline`),
//! so that its features are computed exactly as in serving.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::bins::{Bins, MAX_NUMBER_BINS, MAX_RARE_TEXTS, MAX_TEXT_BINS, MAX_TEXT_BYTES, NumberBins, TextBins};
use super::repeated_rows::EqualRows;
use crate::feature::{FeatureSchema, Features, Observation, PREDICTED_CLASS, PredictionNumber, prediction_features};

/// The only supported format of the file.
const FORMAT: u32 = 1;
/// Maximum number of features of a baseline.
const MAX_FEATURES: usize = 1 << 14;
/// Maximum length of the name of a feature, in bytes. The name becomes a label.
const MAX_NAME: usize = 128;
/// Number of bins of a numeric feature. Each bin has the same number of sampled rows.
const QUANTILE_BINS: usize = 10;
/// Maximum number of edges of these bins. Together with the bins for values out of range, they fill a block of counters.
const MAX_QUANTILE_EDGES: usize = 10;
/// Quantiles in the summary of a numeric feature, by name.
const NOTED_QUANTILES: [(&str, f64); 7] =
    [("0.01", 0.01), ("0.05", 0.05), ("0.25", 0.25), ("0.5", 0.5), ("0.75", 0.75), ("0.95", 0.95), ("0.99", 0.99)];

/// The baseline of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// Format of the file: 1.
    pub format: u32,
    /// Number of counted rows.
    pub rows: u64,
    /// Number of rows in the random sample that the bins were chosen from.
    pub sampled_rows: u64,
    /// Share of the pairs of two sampled rows whose features are the same, 0 to 1. If it is almost 0, repeated rows of
    /// requests count once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeated_pairs: Option<f64>,
    /// The features, under the preprocessor's names.
    pub features: Vec<FeatureBaseline>,
    /// Predictions: `class`, `confidence`, `margin` and `entropy`, or `value`.
    pub predictions: Vec<FeatureBaseline>,
}

/// Distribution of one feature in the training data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureBaseline {
    /// Name of the feature.
    pub name: String,
    /// Bins of the feature.
    pub bins: Bins,
    /// Number of rows in each bin.
    pub counts: Vec<u64>,
    /// Number of rows without a value.
    pub missing: u64,
    /// Number of rows with a text that has no bin, or with an infinite number.
    pub other: u64,
    /// The texts that are too rare for a bin of their own, so that a text that never occurred can be told from them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rare: Option<RareValues>,
    /// Summary of a numeric feature, for readers of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
}

/// Texts that share one bin, because each of them is rare.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RareValues {
    /// The texts, in order.
    pub values: Vec<String>,
    /// Number of rows with one of them.
    pub count: u64,
}

/// Mean, deviation, range and quantiles of a numeric feature in the training data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// The mean of all finite values.
    pub mean: f64,
    /// The standard deviation of all finite values (of the population).
    pub deviation: f64,
    /// The smallest finite value.
    pub min: f64,
    /// The largest finite value.
    pub max: f64,
    /// Quantiles of the sampled values, by share: "0.5" is the median.
    pub quantiles: BTreeMap<String, f64>,
}

// ===== impl Baseline =====

impl Baseline {
    /// Reads and checks the text of a `baseline.json`.
    ///
    /// ```
    /// use leeway::monitor::Baseline;
    /// let text = br#"{"format": 1, "rows": 3, "sampled_rows": 3, "predictions": [], "features": [
    ///     {"name": "age", "bins": {"kind": "number", "edges": [30]}, "counts": [1, 1], "missing": 1, "other": 0}]}"#;
    /// assert_eq!(Baseline::parse(text).unwrap().features[0].all_counts(), [1, 1, 1, 0]);
    /// assert!(Baseline::parse(&text[..90]).is_err());
    /// ```
    pub fn parse(text: &[u8]) -> Result<Baseline, String> {
        let baseline: Baseline = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if baseline.format != FORMAT {
            return Err(format!("format: found {}, and this Leeway reads {FORMAT}", baseline.format));
        }
        if let Some(pairs) = baseline.repeated_pairs.filter(|pairs| !(0.0..=1.0).contains(pairs)) {
            return Err(format!("repeated_pairs: found {pairs}, expected 0 to 1"));
        }
        if baseline.features.len() > MAX_FEATURES {
            return Err(format!(
                "there are {} features, but at most {MAX_FEATURES} are allowed",
                baseline.features.len()
            ));
        }
        for feature in &baseline.predictions {
            if !prediction_features().any(|known| known == feature.name) {
                let known = prediction_features().collect::<Vec<&str>>().join(", ");
                return Err(format!("predictions: {:?} is not one of {known}", feature.name));
            }
        }
        for (section, features) in [("features", &baseline.features), ("predictions", &baseline.predictions)] {
            let mut names: Vec<&str> = features.iter().map(|feature| feature.name.as_str()).collect();
            names.sort_unstable();
            if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(format!("{section}: {:?} occurs twice", pair[0]));
            }
            for feature in features {
                feature.check().map_err(|problem| format!("{section}: {:?}: {problem}", feature.name))?;
            }
        }
        Ok(baseline)
    }
}

impl FeatureBaseline {
    /// The counts of all bins: of its own bins, of rare, missing and other values.
    pub fn all_counts(&self) -> Vec<u64> {
        let rare = self.rare.iter().map(|rare| rare.count);
        self.counts.iter().copied().chain(rare).chain([self.missing, self.other]).collect()
    }

    fn check(&self) -> Result<(), String> {
        if self.name.is_empty() || self.name.len() > MAX_NAME {
            return Err(format!("the name must have 1 to {MAX_NAME} bytes"));
        }
        if self.counts.len() != self.bins.len() {
            return Err(format!("there are {} counts for {} bins", self.counts.len(), self.bins.len()));
        }
        // The limit is far below the point where a sum could overflow, or where a count would not be exact as a number
        // in JSON.
        if self.all_counts().iter().any(|count| *count > 1 << 50) {
            return Err("a count is too large".to_owned());
        }
        if self.all_counts().iter().all(|count| *count == 0) {
            return Err("all counts are 0".to_owned());
        }
        self.bins.problem().or_else(|| self.problem_of_rare()).map_or(Ok(()), Err)
    }

    fn problem_of_rare(&self) -> Option<String> {
        let RareValues { values, .. } = self.rare.as_ref()?;
        let Bins::Text { values: frequent } = &self.bins else {
            return Some("rare: only a feature of texts has rare values".to_owned());
        };
        if values.len() > MAX_RARE_TEXTS {
            return Some(format!("rare: there are {} values, but at most {MAX_RARE_TEXTS} are allowed", values.len()));
        }
        if values.iter().any(|value| value.len() > MAX_TEXT_BYTES) {
            return Some(format!("rare: a value is longer than {MAX_TEXT_BYTES} bytes"));
        }
        let known: BTreeSet<&String> = frequent.iter().chain(values).collect();
        (known.len() < frequent.len() + values.len())
            .then(|| "rare: a value occurs twice, or has its own bin".to_owned())
    }
}

// ===== making a baseline =====

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
        Sample {
            schema,
            classes,
            rows: 0,
            numbers,
            texts,
            class: BTreeMap::new(),
            equal_rows: EqualRows::default(),
            observed: Default::default(),
        }
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
        }
        for prediction in predictions {
            self.rows += 1;
            if let Some(class) = class_name(*prediction, self.classes.as_deref()) {
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
        BaselineBuilder {
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
                self.class.count(class_name(*prediction, self.classes.as_deref()).as_deref());
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
        }
    }
}

/// Returns the name of the predicted class, or its number if the names are not known; `None` if no class was predicted.
pub(super) fn class_name(prediction: Observation, classes: Option<&[String]>) -> Option<String> {
    match prediction {
        Observation::Class { class, .. } => {
            Some(classes.and_then(|classes| classes.get(class).cloned()).unwrap_or_else(|| class.to_string()))
        }
        Observation::Value(_) | Observation::Nothing => None,
    }
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

/// Returns the edges of bins that have about the same number of these sorted values each. A value that is more frequent
/// than that has a bin of its own, and the others share the rest of the bins. If the first edge is the smallest value, an
/// edge is added just below it, so that smaller values get a bin of their own, like values above the last edge.
fn quantile_edges(sorted: &[f64]) -> Vec<f64> {
    let is_frequent = |values: &&[f64]| values.len() * QUANTILE_BINS > sorted.len();
    let frequent: Vec<f64> = sorted.chunk_by(f64::eq).filter(is_frequent).map(|values| values[0]).collect();
    let rest: Vec<f64> = sorted.iter().copied().filter(|value| !frequent.contains(value)).collect();
    // A frequent value has an edge at itself, and one just below itself if other values are there.
    let bins = (QUANTILE_BINS + 1).saturating_sub(2 * frequent.len()).clamp(1, QUANTILE_BINS);
    let quantiles = (1..bins).filter_map(|bin| quantile(&rest, bin as f64 / bins as f64));
    let mut edges: Vec<f64> = frequent.iter().copied().chain(quantiles).collect();
    for value in &frequent {
        let below = edges.iter().copied().filter(|edge| edge < value).fold(f64::NEG_INFINITY, f64::max);
        if edges.len() < MAX_QUANTILE_EDGES && rest.iter().any(|other| *other > below && other < value) {
            edges.push(f64::from((*value as f32).next_down()));
        }
    }
    edges.sort_by(f64::total_cmp);
    edges.dedup();
    if let (Some(least), Some(first)) = (sorted.first(), edges.first())
        && least == first
    {
        edges.insert(0, f64::from((*least as f32).next_down()));
    }
    debug_assert!(edges.len() < MAX_NUMBER_BINS);
    edges.retain(|edge| edge.is_finite());
    edges
}

/// Returns a quantile of sorted values: the smallest value such that at least this share of the values are not above
/// it.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feature::Certainty;

    fn edges(values: &[f64]) -> Vec<f64> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        quantile_edges(&sorted)
    }

    #[test]
    fn bins_are_deciles_and_merged_where_values_are_the_same() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(edges(&hundred), [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0]);
        // Half of the values are 0, the least.
        let half_zero: Vec<f64> = (1..=100).map(|i| f64::from((i - 50).max(0))).collect();
        assert_eq!(
            edges(&half_zero),
            [f64::from(0f32.next_down()), 0.0, 6.0, 12.0, 17.0, 23.0, 28.0, 34.0, 39.0, 45.0]
        );
        // 92 of 100 values are 0; the others have bins of their own, below and above it.
        let mostly_zero: Vec<f64> = (1..=200).map(|i| f64::from((i - 192).max(0) + (i - 9).min(0))).collect();
        assert_eq!(edges(&mostly_zero), [-7.0, -5.0, -3.0, -1.0, 0.0, 1.0, 3.0, 5.0, 7.0]);
        assert_eq!(edges(&[7.0; 20]), [f64::from(7f32.next_down()), 7.0]);
        let dice: Vec<f64> = (0..600).map(|i| f64::from(i % 6 + 1)).collect();
        assert_eq!(edges(&dice), [f64::from(1f32.next_down()), 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(edges(&[]), [0.0; 0]);
    }

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

    #[test]
    fn a_baseline_that_cannot_be_is_refused() {
        let text = |feature: &str| {
            format!(r#"{{"format": 1, "rows": 1, "sampled_rows": 1, "predictions": [], "features": [{feature}]}}"#)
        };
        let number = |edges: &str, counts: &str| {
            text(&format!(
                r#"{{"name": "a", "bins": {{"kind": "number", "edges": {edges}}}, "counts": {counts}, "missing": 0, "other": 0}}"#
            ))
        };
        assert!(Baseline::parse(number("[1]", "[1, 2]").as_bytes()).is_ok());
        for (text, problem) in [
            (number("[1]", "[1]"), "features: \"a\": there are 1 counts for 2 bins"),
            (number("[2, 1]", "[1, 1, 1]"), "the edges do not ascend"),
            (number("[1]", "[0, 0]"), "all counts are 0"),
            (number("[1]", "[1, 9223372036854775807]"), "a count is too large"),
            (number("[1]", "[1, -1]"), "invalid value"),
            (text("1").replace("\"format\": 1", "\"format\": 2"), "invalid type"),
            (text("").replace("\"format\": 1", "\"format\": 2"), "format: found 2"),
        ] {
            let error = Baseline::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }
}
