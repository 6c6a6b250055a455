//! `baseline.json`: the distributions of the features of the training data, and of the predictions for them.
//!
//! A baseline is a part of a version and does not change, because the training data of a version do not change. It is
//! made by running the version's own pipeline over the training data (`leeway add --baseline-data`, `leeway baseline`),
//! so that its features are computed exactly as in serving.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::bins::{Bins, MAX_RARE_TEXTS, MAX_TEXT_BYTES};
use super::labelled_baseline::LabelledBaseline;
use super::profile::Profile;
use super::projection::Projection;
use crate::feature::prediction_features;

/// The only supported format of the file.
pub(super) const FORMAT: u32 = 1;
/// Maximum number of features of a baseline.
const MAX_FEATURES: usize = 1 << 14;
/// Maximum length of the name of a feature, in bytes. The name becomes a label.
const MAX_NAME: usize = 128;

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
    /// All numeric features together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconstruction: Option<Reconstruction>,
    /// All numbers of a predicted embedding together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<Reconstruction>,
    /// Quality of the predictions for rows whose truth is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labelled: Option<LabelledBaseline>,
    /// Profile by time of day, if the training data have times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
}

/// The principal components of several numbers, and the distribution of the reconstruction error in the training data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reconstruction {
    /// The components.
    pub projection: Projection,
    /// The reconstruction error of rows that the components were not fitted to.
    pub error: FeatureBaseline,
}

/// Name of the reconstruction error, in baselines and metrics. A feature of this name is monitored instead of the error.
pub const RECONSTRUCTION_ERROR: &str = "reconstruction_error";

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
        if baseline.reconstruction.is_some()
            && let Some(feature) = baseline.features.iter().find(|feature| feature.name == RECONSTRUCTION_ERROR)
        {
            return Err(format!("features: {:?} is the name of the error of the reconstruction", feature.name));
        }
        for (section, reconstruction) in
            [("reconstruction", &baseline.reconstruction), ("embedding", &baseline.embedding)]
        {
            let problem = reconstruction.as_ref().and_then(Reconstruction::problem);
            problem.map_or(Ok(()), |problem| Err(format!("{section}: {problem}")))?;
        }
        if let Some(problem) = baseline.profile.as_ref().and_then(Profile::problem) {
            return Err(format!("profile: {problem}"));
        }
        match baseline.labelled.as_ref().and_then(LabelledBaseline::problem) {
            Some(problem) => Err(format!("labelled: {problem}")),
            None => Ok(baseline),
        }
    }
}

impl Reconstruction {
    fn problem(&self) -> Option<String> {
        if self.error.name != RECONSTRUCTION_ERROR || !matches!(self.error.bins, Bins::Number { .. }) {
            return Some(format!("error: expected a numeric feature with the name {RECONSTRUCTION_ERROR:?}"));
        }
        self.projection.problem().or_else(|| self.error.check().err().map(|problem| format!("error: {problem}")))
    }
}

impl FeatureBaseline {
    /// A feature with these bins, in which no row is counted yet.
    pub(super) fn without_rows(name: &str, bins: Bins) -> FeatureBaseline {
        FeatureBaseline {
            name: name.to_owned(),
            counts: vec![0; bins.len()],
            bins,
            missing: 0,
            other: 0,
            rare: None,
            summary: None,
        }
    }

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
        if let Some(Summary { min, max, .. }) = &self.summary
            && min > max
        {
            return Err(format!("summary: min is {min}, above max, which is {max}"));
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

#[cfg(test)]
mod tests {
    use super::*;

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
