//! Records as columns: the schemas of the files, and the arrays of their rows.

use std::sync::Arc;
use std::time::Duration;

use arrow_array::builder::{
    ArrayBuilder, Float32Builder, Float64Builder, Int32Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef, TimeUnit};
use serde_json::value::RawValue;

use super::record::{LoggedInstances, LoggedVersion, OutcomeRecord, PredictionRecord};
use crate::feature::{Observation, PredictionNumber};
use crate::feedback::{PredictionId, Signer};

/// Maximum length of an instance or an answer, in bytes.
pub(super) const MAX_TEXT: usize = 64 << 10;
/// Prefix of the columns with features, which keeps them apart from the others.
pub const FEATURE_PREFIX: &str = "feature.";
/// Time zone of all times.
const UTC: &str = "UTC";

/// Numbers of instances and answers that were left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LeftOutTexts {
    pub(super) too_long: usize,
    pub(super) not_redactable: usize,
}

/// Returns the schema of predictions of a version.
pub(super) fn prediction_schema(version: &LoggedVersion) -> SchemaRef {
    let (text, number) = (DataType::Utf8, DataType::Float32);
    let mut fields = vec![
        Field::new("time", time_type(), false),
        Field::new("prediction_id", text.clone(), false),
        Field::new("request_id", text.clone(), true),
        Field::new("index", DataType::Int32, false),
        Field::new("model", text.clone(), false),
        Field::new("version", DataType::Int32, false),
        Field::new("class", text.clone(), true),
        Field::new("confidence", number.clone(), true),
        Field::new("margin", number.clone(), true),
        Field::new("entropy", number.clone(), true),
        Field::new("value", DataType::Float64, true),
        Field::new("answer", text.clone(), true),
        Field::new("instance", text.clone(), true),
    ];
    let features = |names: &[(usize, Arc<str>)], dtype: &DataType| {
        let field = |(_, name): &(usize, Arc<str>)| Field::new(format!("{FEATURE_PREFIX}{name}"), dtype.clone(), true);
        names.iter().map(field).collect::<Vec<_>>()
    };
    fields.extend(features(&version.numbers, &number));
    fields.extend(features(&version.texts, &text));
    Arc::new(Schema::new(fields))
}

/// Returns the schema of outcomes.
pub(super) fn outcome_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("time", time_type(), false),
        Field::new("prediction_id", DataType::Utf8, false),
        Field::new("kind", DataType::Utf8, false),
        Field::new("label", DataType::Utf8, true),
        Field::new("value", DataType::Float64, true),
    ]))
}

fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()))
}

/// The arrays of predictions, while they are built.
struct PredictionArrays<'a> {
    version: &'a LoggedVersion,
    time: TimestampMicrosecondBuilder,
    prediction_id: StringBuilder,
    request_id: StringBuilder,
    index: Int32Builder,
    model: StringBuilder,
    version_number: Int32Builder,
    class: StringBuilder,
    /// In the order of [`CERTAINTY`].
    certainty: [Float32Builder; CERTAINTY.len()],
    value: Float64Builder,
    answer: StringBuilder,
    instance: StringBuilder,
    numbers: Vec<Float32Builder>,
    texts: Vec<StringBuilder>,
    left_out: LeftOutTexts,
}

/// The numbers of a predicted class, in the order of their columns.
const CERTAINTY: [PredictionNumber; 3] =
    [PredictionNumber::Confidence, PredictionNumber::Margin, PredictionNumber::Entropy];

/// Returns the rows of records of a version as columns, and counts the texts that are left out.
pub(super) fn prediction_batch(
    version: &LoggedVersion,
    records: &[PredictionRecord],
    signer: &Signer,
) -> Result<(RecordBatch, LeftOutTexts), ArrowError> {
    let mut arrays = PredictionArrays::new(version);
    for record in records {
        arrays.add(record, signer);
    }
    arrays.finish()
}

impl PredictionArrays<'_> {
    fn new(version: &LoggedVersion) -> PredictionArrays<'_> {
        PredictionArrays {
            version,
            time: TimestampMicrosecondBuilder::new().with_timezone(UTC),
            prediction_id: StringBuilder::new(),
            request_id: StringBuilder::new(),
            index: Int32Builder::new(),
            model: StringBuilder::new(),
            version_number: Int32Builder::new(),
            class: StringBuilder::new(),
            certainty: Default::default(),
            value: Float64Builder::new(),
            answer: StringBuilder::new(),
            instance: StringBuilder::new(),
            numbers: version.numbers.iter().map(|_| Float32Builder::new()).collect(),
            texts: version.texts.iter().map(|_| StringBuilder::new()).collect(),
            left_out: LeftOutTexts::default(),
        }
    }

    fn add(&mut self, record: &PredictionRecord, signer: &Signer) {
        let LoggedVersion { model, version, redaction, .. } = self.version;
        let shown = |column: &str| !redaction.has(column);
        let instances = self.instances(record);
        for (index, prediction) in record.predictions.iter().enumerate() {
            let predicted = prediction.observation;
            let id = PredictionId {
                request: record.request,
                // A request with that many instances is refused long before.
                index: u32::try_from(index).unwrap_or(u32::MAX),
                version: record.made_by,
                predicted,
            };
            self.time.append_value(microseconds(record.time()));
            self.prediction_id.append_value(signer.sign(&id));
            self.request_id.append_option(Some(&record.request_id).filter(|_| shown("request_id")));
            self.index.append_value(i32::try_from(index).unwrap_or(i32::MAX));
            self.model.append_value(model.as_str());
            self.version_number.append_value(i32::try_from(version.get()).unwrap_or(i32::MAX));
            self.class.append_option(prediction.class.as_ref().filter(|_| shown("class")));
            for (number, column) in CERTAINTY.into_iter().zip(&mut self.certainty) {
                let found = predicted.numbers().find(|(name, _)| *name == number).map(|(_, value)| value);
                column.append_option(found.filter(|_| shown(number.name())));
            }
            let value = match predicted {
                Observation::Value(value) => Some(value),
                Observation::Class { .. } | Observation::Nothing => None,
            };
            self.value.append_option(value.filter(|_| shown("value")));
            self.left_out.too_long += usize::from(prediction.answer.is_none());
            self.answer.append_option(prediction.answer.as_ref().filter(|_| shown("answer")));
            self.instance.append_option(instances.get(index).and_then(Option::as_ref));
            let (numbers, texts) = (record.features.numbers_of(index), record.features.texts_of(index));
            for ((place, _), column) in self.version.numbers.iter().zip(&mut self.numbers) {
                column.append_option(numbers.get(*place).copied().filter(|value| !value.is_nan()));
            }
            for ((place, _), column) in self.version.texts.iter().zip(&mut self.texts) {
                column.append_option(texts.get(*place).and_then(Option::as_ref));
            }
        }
    }

    /// Returns the text of each instance of a request that is written.
    fn instances(&mut self, record: &PredictionRecord) -> Vec<Option<String>> {
        let text = match &record.instances {
            LoggedInstances::Off | LoggedInstances::NoMemory => return Vec::new(),
            LoggedInstances::TooLong => {
                self.left_out.too_long += record.rows();
                return Vec::new();
            }
            LoggedInstances::Json(text) => text,
        };
        let instances: Vec<&RawValue> = serde_json::from_str(text).unwrap_or_default();
        // A preprocessor with one row for several instances, or the reverse: nothing says which belong together.
        if instances.len() != record.rows() {
            return Vec::new();
        }
        let mut written = |instance: &RawValue| {
            if instance.get().len() > MAX_TEXT {
                self.left_out.too_long += 1;
                return None;
            }
            let written = self.version.redaction.apply(instance);
            self.left_out.not_redactable += usize::from(written.is_none());
            written
        };
        instances.into_iter().map(&mut written).collect()
    }

    fn finish(self) -> Result<(RecordBatch, LeftOutTexts), ArrowError> {
        let schema = prediction_schema(self.version);
        let mut columns: Vec<Box<dyn ArrayBuilder>> = vec![
            Box::new(self.time),
            Box::new(self.prediction_id),
            Box::new(self.request_id),
            Box::new(self.index),
            Box::new(self.model),
            Box::new(self.version_number),
            Box::new(self.class),
        ];
        columns.extend(self.certainty.into_iter().map(|column| Box::new(column) as Box<dyn ArrayBuilder>));
        columns.extend([Box::new(self.value) as Box<dyn ArrayBuilder>]);
        columns.extend([self.answer, self.instance].map(|column| Box::new(column) as Box<dyn ArrayBuilder>));
        columns.extend(self.numbers.into_iter().map(|column| Box::new(column) as Box<dyn ArrayBuilder>));
        columns.extend(self.texts.into_iter().map(|column| Box::new(column) as Box<dyn ArrayBuilder>));
        let columns: Vec<ArrayRef> = columns.iter_mut().map(|column| column.finish()).collect();
        Ok((RecordBatch::try_new(schema, columns)?, self.left_out))
    }
}

/// Returns outcomes as columns.
pub(super) fn outcome_batch(records: &[OutcomeRecord], signer: &Signer) -> Result<RecordBatch, ArrowError> {
    let mut time = TimestampMicrosecondBuilder::new().with_timezone(UTC);
    let (mut prediction_id, mut kind, mut label) = (StringBuilder::new(), StringBuilder::new(), StringBuilder::new());
    let mut value = Float64Builder::new();
    for record in records {
        time.append_value(microseconds(record.at));
        prediction_id.append_value(signer.sign(&record.prediction));
        kind.append_value(&record.kind);
        label.append_option(record.label.as_ref());
        value.append_option(record.value);
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(time.finish()),
        Arc::new(prediction_id.finish()),
        Arc::new(kind.finish()),
        Arc::new(label.finish()),
        Arc::new(value.finish()),
    ];
    RecordBatch::try_new(outcome_schema(), columns)
}

fn microseconds(since_1970: Duration) -> i64 {
    i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX)
}
