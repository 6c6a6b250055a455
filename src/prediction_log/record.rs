//! Records of requests and of items of feedback. A record owns its data, and holds memory for them until they
//! are in a file.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::redaction::Redaction;
use crate::budget::{Held, HeldBytes};
use crate::feature::{FeatureSchema, Features, Observation};
use crate::feedback::PredictionId;
use crate::identity::{ModelName, Version, VersionKey};

/// Columns of predictions that can be redacted.
pub(super) const REDACTABLE: [&str; 8] =
    ["request_id", "class", "confidence", "margin", "entropy", "value", "answer", "instance"];

/// Logged columns of the requests to a version.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LoggedVersion {
    pub(super) model: ModelName,
    pub(super) version: Version,
    /// Features with a column, with their positions among the features of a row.
    pub(super) numbers: Vec<(usize, Arc<str>)>,
    pub(super) texts: Vec<(usize, Arc<str>)>,
    /// True if instances are logged.
    pub(super) has_instances: bool,
    pub(super) redaction: Redaction,
}

/// The predictions of a request.
#[derive(Debug)]
pub(super) struct PredictionRecord {
    pub(super) version: Arc<LoggedVersion>,
    pub(super) request: Uuid,
    /// Id of the request in the response.
    pub(super) request_id: Box<str>,
    /// The version in the ids of the predictions.
    pub(super) made_by: VersionKey,
    pub(super) predictions: Vec<LoggedPrediction>,
    pub(super) features: Features,
    pub(super) instances: LoggedInstances,
    /// Memory of everything except the instances.
    pub(super) _held: HeldBytes,
}

/// A prediction, as it is logged.
#[derive(Debug)]
pub(super) struct LoggedPrediction {
    pub(super) observation: Observation,
    /// Name of the predicted class.
    pub(super) class: Option<String>,
    /// The prediction as JSON; `None` if it is too long.
    pub(super) answer: Option<Box<str>>,
}

/// The instances of a request, as they are logged.
#[derive(Debug, Default)]
pub enum LoggedInstances {
    /// They are not logged.
    #[default]
    Off,
    /// They are too long.
    TooLong,
    /// There was no memory for them, so the request cannot be logged.
    NoMemory,
    /// A JSON array, with the memory that it takes.
    Json(Held<Box<str>>),
}

/// An accepted item of feedback.
#[derive(Debug)]
pub(super) struct OutcomeRecord {
    pub(super) model: ModelName,
    pub(super) version: Version,
    pub(super) prediction: PredictionId,
    /// Time of the feedback, since 1970.
    pub(super) at: Duration,
    /// `label`, `value`, or `metrics.` and the name of a business metric.
    pub(super) kind: Cow<'static, str>,
    pub(super) label: Option<String>,
    pub(super) value: Option<f64>,
    pub(super) _held: HeldBytes,
}

/// Memory of a record beyond its texts and numbers, in bytes.
const RECORD: usize = size_of::<PredictionRecord>() + 64;

impl LoggedVersion {
    /// Returns what is logged of a version with these features, of which at most `max_features` have a column.
    pub(super) fn new(
        (model, version): (ModelName, Version),
        schema: &FeatureSchema,
        max_features: usize,
        has_instances: bool,
        redacted: &[&[String]],
    ) -> LoggedVersion {
        let is_feature = |name: &str| schema.numbers.iter().chain(&schema.texts).any(|feature| **feature == *name);
        let redaction = Redaction::new(redacted.iter().copied().flatten(), &REDACTABLE, is_feature);
        let columns = |names: &[Arc<str>], most: usize| {
            let names = names.iter().enumerate().filter(|(_, name)| !redaction.has(name));
            names.take(most).map(|(place, name)| (place, Arc::clone(name))).collect::<Vec<_>>()
        };
        let numbers = columns(&schema.numbers, max_features);
        let texts = columns(&schema.texts, max_features.saturating_sub(numbers.len()));
        let has_instances = has_instances && !redaction.has("instance");
        LoggedVersion { model, version, numbers, texts, has_instances, redaction }
    }
}

impl PredictionRecord {
    /// Returns the number of rows.
    pub(super) fn rows(&self) -> usize {
        self.predictions.len()
    }

    /// Time of the request, since 1970.
    pub(super) fn time(&self) -> Duration {
        time_of(self.request)
    }

    /// Returns the bytes that the record takes in memory, with its instances.
    pub(super) fn bytes(&self) -> usize {
        let instances = match &self.instances {
            LoggedInstances::Json(text) => text.len(),
            LoggedInstances::Off | LoggedInstances::TooLong | LoggedInstances::NoMemory => 0,
        };
        instances + size_without_instances(&self.request_id, &self.predictions, &self.features)
    }
}

#[cfg(test)]
impl OutcomeRecord {
    /// A label.
    pub(super) fn for_tests() -> OutcomeRecord {
        let version = VersionKey::of(&"m".parse().unwrap(), Version::FIRST);
        let request = Uuid::now_v7();
        OutcomeRecord {
            model: "m".parse().unwrap(),
            version: Version::FIRST,
            prediction: PredictionId { request, index: 0, version, predicted: Observation::Nothing },
            at: Duration::ZERO,
            kind: "label".into(),
            label: Some("a".to_owned()),
            value: None,
            _held: crate::budget::MemoryBudget::new(1 << 20, std::num::NonZeroUsize::MIN).hold(64).unwrap(),
        }
    }
}

impl OutcomeRecord {
    /// Returns the bytes that a record takes in memory.
    pub(super) fn size(kind: &str, label: Option<&str>) -> usize {
        size_of::<OutcomeRecord>() + kind.len() + label.map_or(0, str::len)
    }

    /// Returns the bytes that the record takes in memory.
    pub(super) fn bytes(&self) -> usize {
        OutcomeRecord::size(&self.kind, self.label.as_deref())
    }
}

/// Returns the bytes that these parts of a record take in memory.
pub(super) fn size_without_instances(request_id: &str, predictions: &[LoggedPrediction], features: &Features) -> usize {
    let text = |text: &Option<String>| size_of::<Option<String>>() + text.as_ref().map_or(0, String::len);
    let prediction = |prediction: &LoggedPrediction| {
        let class = prediction.class.as_ref().map_or(0, String::len);
        size_of::<LoggedPrediction>() + class + prediction.answer.as_ref().map_or(0, |answer| answer.len())
    };
    RECORD
        + request_id.len()
        + predictions.iter().map(prediction).sum::<usize>()
        + size_of_val(&*features.numbers)
        + features.texts.iter().map(text).sum::<usize>()
}

/// Returns the time in the id of a request, since 1970.
pub(super) fn time_of(request: Uuid) -> Duration {
    let (seconds, nanoseconds) = request.get_timestamp().map_or((0, 0), |time| time.to_unix());
    Duration::new(seconds, nanoseconds)
}
