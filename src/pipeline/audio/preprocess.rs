//! `kind = "audio"`: sound becomes the samples that a model takes, with one channel and the model's sample rate.
//!
//! An instance is `{"b64": "…"}`, or the whole body is one recording. If the model has more inputs, such as its state
//! after the sound before, an instance is an object of the inputs by name.

use std::num::NonZeroUsize;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use half::f16;
use serde_json::Value;
use serde_json::value::RawValue;

use super::decoding::{decode, decode_pcm};
use super::features;
use super::recording::Recording;
use super::resampling::resample;
use super::settings::{AudioInput, Encoding, Length, Long, Settings, Short};
use super::wav;
use crate::budget::Deadline;
use crate::error::{Error, Result, SetupError};
use crate::feature::{FeatureSchema, Features};
use crate::pipeline::json::encoded_file::encoded_file;
use crate::pipeline::json::reader::{Fits, Misfit, Reader, misfit, quoted};
use crate::pipeline::json::to_tensor::{Column, explained};
use crate::pipeline::json_schema::{self, closed_object, input_element, nested};
use crate::pipeline::{FormColumn, InstanceForm, Origin, Prepared, Preprocessor, StageContext};
use crate::tensor::{DType, Data, Dim, Tensor, TensorSpec, Tensors};

/// Maximum duration of all recordings of a request together, as a multiple of the maximum of one.
const RECORDINGS_OF_MAX_SECONDS: f64 = 8.0;

/// Media types of bodies that are a file. The format is detected from the bytes, because senders call WAV
/// `audio/x-wav`, `audio/wave` or `audio/vnd.wave`.
const FILE_TYPES: [&str; 2] = ["audio/*", "application/octet-stream"];

/// Media types of bodies without a header. `audio/L16` is not one of them, because its bytes are in the other order.
const PCM_TYPES: [&str; 4] = ["audio/pcm", "audio/raw", "audio/x-raw", "application/octet-stream"];

/// An instance of sound, for messages.
const EXAMPLE: &str = r#"an object with sound, as in {"b64": "UklGRi…"}"#;

struct AudioPreprocessor {
    /// All inputs of the model.
    inputs: Vec<TensorSpec>,
    audio: AudioInput,
    sample_rate: u32,
    scale: f32,
    encoding: Encoding,
    max_seconds: f64,
    most_rows: NonZeroUsize,
    assumptions: Vec<String>,
}

pub(crate) fn make(context: StageContext<'_>) -> Result<Box<dyn Preprocessor>, SetupError> {
    let settings: Settings = context.config.settings()?;
    let audio = settings.audio_input(context.signature)?;
    let most_rows = match audio.length {
        Length::Fixed { samples, .. } => context.most_rows(samples),
        Length::Open => context.max_instances,
    };
    Ok(Box::new(AudioPreprocessor {
        inputs: context.signature.inputs.clone(),
        audio,
        sample_rate: settings.sample_rate,
        scale: settings.scale.unwrap_or(1.0),
        encoding: settings.encoding,
        max_seconds: settings.max_seconds,
        most_rows,
        assumptions: settings.assumptions(),
    }))
}

impl Preprocessor for AudioPreprocessor {
    fn transform(&self, instances: &RawValue, deadline: Deadline) -> Result<Prepared> {
        let (mut batch, mut columns) = (Batch::default(), self.columns());
        let read = |json: &mut Reader<'_>| {
            deadline.check()?;
            let bytes = self.instance(json, &mut columns)?;
            self.add(&bytes, &mut batch, deadline).map_err(|refusal| match refusal {
                Refusal::Sound(problem) if columns.is_empty() => misfit(problem),
                Refusal::Sound(problem) => misfit(problem).at_key(&self.spec().name),
                Refusal::Other(error) => error.into(),
            })
        };
        let explain = |misfit: Box<Misfit>| match misfit.first_key() {
            Some(key) if *key != *self.spec().name => explained(misfit, &self.inputs),
            _ => Error::from(misfit),
        };
        Reader::instances(instances.get(), (self.most_rows, deadline), read, explain)?;
        self.finish(batch, columns)
    }

    fn instance_form(&self) -> Option<InstanceForm> {
        if self.inputs.len() == 1 {
            return Some(InstanceForm::file("audio"));
        }
        let column = |(index, spec): (usize, &TensorSpec)| match index == self.audio.index {
            true => FormColumn::file(&spec.name),
            false => FormColumn::of_input(spec, false),
        };
        let columns = self.inputs.iter().enumerate().map(column).collect();
        Some(InstanceForm::Object { columns, ignores_others: false })
    }

    fn media_types(&self) -> &'static [&'static str] {
        match self.encoding {
            // A body of sound has no place for the other inputs.
            _ if self.inputs.len() > 1 => &[],
            Encoding::File => &FILE_TYPES,
            Encoding::PcmInt16 | Encoding::PcmFloat32 => &PCM_TYPES,
        }
    }

    fn transform_raw(&self, _media_type: &str, body: &[u8], deadline: Deadline) -> Result<Prepared> {
        let mut batch = Batch::default();
        self.add(body, &mut batch, deadline).map_err(|refusal| match refusal {
            Refusal::Sound(problem) => Error::InvalidInput(format!("the body: {problem}")),
            Refusal::Other(error) => error,
        })?;
        self.finish(batch, Vec::new())
    }

    fn instance_schema(&self) -> Value {
        let sound = || {
            json_schema::encoded_file(match self.encoding {
                Encoding::File => "sound: WAV or FLAC",
                Encoding::PcmInt16 => "samples: little-endian integers of 16 bits",
                Encoding::PcmFloat32 => "samples: little-endian floating-point numbers of 32 bits",
            })
        };
        if self.inputs.len() == 1 {
            return sound();
        }
        closed_object(self.inputs.iter().enumerate().map(|(index, spec)| {
            let row = || nested(spec.dims.get(1..).unwrap_or_default(), input_element(spec.dtype));
            (spec.name.to_string(), if index == self.audio.index { sound() } else { row() })
        }))
    }

    /// Returns true for files, because a few bytes can become minutes of sound.
    fn is_heavy(&self) -> bool {
        self.encoding == Encoding::File
    }

    /// Returns three instances of noise of different loudness. `None` if another input has an open dimension.
    fn samples(&self) -> Option<[String; 3]> {
        let samples = match self.audio.length {
            Length::Fixed { samples, .. } => samples,
            Length::Open => (self.sample_rate as f64 * self.max_seconds.min(0.5)) as usize,
        };
        let mut random = fastrand::Rng::with_seed(0x5eed);
        let mut sample = |number: usize| {
            let loudness = [300, 3_000, 30_000][number];
            let noise: Vec<i16> = (0..samples.max(1)).map(|_| random.i16(-loudness..=loudness)).collect();
            let sound = format!(r#"{{"b64": "{}"}}"#, STANDARD.encode(self.encoded(&noise)));
            if self.inputs.len() == 1 {
                return Some(sound);
            }
            let member = |(index, spec): (usize, &TensorSpec)| {
                let value = if index == self.audio.index { sound.clone() } else { made_up(spec, number)? };
                Some(format!("{}: {value}", serde_json::to_string(&spec.name).ok()?))
            };
            let members: Option<Vec<String>> = self.inputs.iter().enumerate().map(member).collect();
            Some(format!("{{{}}}", members?.join(", ")))
        };
        Some([sample(0)?, sample(1)?, sample(2)?])
    }

    fn assumptions(&self) -> Vec<String> {
        self.assumptions.clone()
    }

    fn features(&self) -> FeatureSchema {
        features::schema()
    }
}

/// Returns a value of an input that is no sound, as JSON: a small number, everywhere the same.
fn made_up(spec: &TensorSpec, number: usize) -> Option<String> {
    let element = match spec.dtype {
        DType::Text => "\"\"".to_owned(),
        DType::Bool => (number > 0).to_string(),
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 => format!("{}", number as f32 / 8.0),
        _ => number.min(1).to_string(),
    };
    spec.dims.get(1..).unwrap_or_default().iter().rev().try_fold(element, |inner, dim| match dim {
        Dim::Fixed(length) if length.saturating_mul(inner.len()) < 1 << 20 => {
            Some(format!("[{}]", vec![inner; *length].join(", ")))
        }
        Dim::Fixed(_) | Dim::Dynamic(_) => None,
    })
}

/// Rows that were made from the sound of a request so far.
#[derive(Default)]
struct Batch {
    values: Vec<f32>,
    numbers: Vec<f32>,
    rows: usize,
    /// Number of samples of each row.
    samples: usize,
    /// Duration of the decoded sound, all together.
    seconds: f64,
}

/// Reason for which sound is refused.
enum Refusal {
    /// A problem with the sound itself.
    Sound(String),
    /// An error that is not about the sound.
    Other(Error),
}

impl AudioPreprocessor {
    fn spec(&self) -> &TensorSpec {
        &self.inputs[self.audio.index]
    }

    /// Returns columns for the inputs that are not sound.
    fn columns(&self) -> Vec<Column<'_>> {
        let others = self.inputs.iter().enumerate().filter(|(index, _)| *index != self.audio.index);
        others.map(|(_, spec)| Column::new(spec, None)).collect()
    }

    /// Reads the bytes of the sound, and the values of the other inputs into their columns.
    fn instance(&self, json: &mut Reader<'_>, columns: &mut [Column<'_>]) -> Fits<Vec<u8>> {
        if columns.is_empty() {
            return encoded_file(json, EXAMPLE);
        }
        let keys = || self.inputs.iter().map(|input| format!("{:?}", input.name)).collect::<Vec<_>>().join(", ");
        if json.peek() != b'{' {
            return Err(json.found_instead_of(&format!("an object with the keys {}", keys())));
        }
        let (mut sound, mut is_read) = (None, vec![false; columns.len()]);
        json.object(|json, key| {
            let is_twice = if *key == *self.spec().name {
                let bytes = encoded_file(json, EXAMPLE).map_err(|misfit| misfit.at_key(&key))?;
                sound.replace(bytes).is_some()
            } else if let Some(index) = columns.iter().position(|column| *column.spec.name == *key) {
                if !is_read[index] {
                    json.column(&mut columns[index]).map_err(|misfit| misfit.at_key(&key))?;
                }
                std::mem::replace(&mut is_read[index], true)
            } else {
                return Err(misfit(format!("unknown key {}, expected the keys {}", quoted(&key), keys())));
            };
            if is_twice { Err(misfit(format!("the key {key:?} occurs twice"))) } else { Ok(()) }
        })?;
        if let Some(missing) = is_read.iter().position(|is_read| !is_read) {
            return Err(misfit(format!("the key {:?} is missing", columns[missing].spec.name)));
        }
        sound.ok_or_else(|| misfit(format!("the key {:?} is missing", self.spec().name)))
    }

    /// Decodes one recording, and adds it to the batch as a row.
    fn add(&self, bytes: &[u8], batch: &mut Batch, deadline: Deadline) -> Result<(), Refusal> {
        let Recording { sample_rate, samples } = match self.encoding.pcm() {
            None => decode(bytes, self.max_seconds),
            Some(pcm) => decode_pcm(bytes, pcm, self.sample_rate, self.max_seconds),
        }
        .map_err(Refusal::Sound)?;
        let sent = samples.len();
        batch.seconds += sent as f64 / f64::from(sample_rate);
        let most = self.max_seconds * RECORDINGS_OF_MAX_SECONDS;
        if batch.seconds > most {
            return Err(Refusal::Sound(format!(
                "the sound up to this instance has more than {most} seconds together; send it in several requests"
            )));
        }
        let mut samples = resample(samples, sample_rate, self.sample_rate, deadline).map_err(Refusal::Other)?;
        batch.numbers.extend(features::features_of(&samples, sample_rate, sent));
        self.fit(&mut samples, batch).map_err(Refusal::Sound)?;
        samples.iter_mut().for_each(|sample| *sample *= self.scale);
        if let Some(large) = samples.iter().find(|sample| !self.is_element(**sample)) {
            return Err(Refusal::Sound(format!("a sample is {large}, which is not a value of {}", self.spec().dtype)));
        }
        batch.values.append(&mut samples);
        batch.rows += 1;
        Ok(())
    }

    /// Returns true if the model's element type holds this number.
    fn is_element(&self, sample: f32) -> bool {
        match self.spec().dtype {
            DType::F16 => f16::from_f32(sample).is_finite(),
            _ => sample.is_finite(),
        }
    }

    /// Gives a row its number of samples.
    fn fit(&self, samples: &mut Vec<f32>, batch: &mut Batch) -> Result<(), String> {
        let found = || format!("found {} samples at {} Hz", samples.len(), self.sample_rate);
        match self.audio.length {
            Length::Open if batch.rows > 0 && samples.len() != batch.samples => {
                return Err(format!("{}, expected {} as in the instance before it", found(), batch.samples));
            }
            Length::Open => {}
            Length::Fixed { samples: expected, short, long } => match samples.len().cmp(&expected) {
                std::cmp::Ordering::Less if short == Short::Refuse => {
                    return Err(format!("{}, expected {expected} (preprocess.short)", found()));
                }
                std::cmp::Ordering::Greater if long == Long::Refuse => {
                    return Err(format!("{}, expected {expected} (preprocess.long)", found()));
                }
                _ => samples.resize(expected, 0.0),
            },
        }
        batch.samples = samples.len();
        Ok(())
    }

    fn finish(&self, batch: Batch, columns: Vec<Column<'_>>) -> Result<Prepared> {
        let shape = self.audio.shape(batch.rows, batch.samples);
        let data = match self.spec().dtype {
            DType::F16 => Data::F16(batch.values.into_iter().map(f16::from_f32).collect()),
            _ => Data::F32(batch.values),
        };
        let mut sound = Some((Arc::clone(&self.spec().name), Tensor::new(shape, data)?));
        let mut others = columns.into_iter().map(|column| column.into_tensor(batch.rows));
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for index in 0..self.inputs.len() {
            match sound.take_if(|_| index == self.audio.index) {
                Some(sound) => inputs.push(sound),
                None => inputs.extend(others.next().transpose()?),
            }
        }
        let mut features = Features::with_rows(batch.rows);
        features.numbers = batch.numbers;
        let inputs: Tensors = inputs.into_iter().collect();
        Ok(Prepared { inputs, features, origin: Origin::Unknown })
    }

    /// Encodes samples as requests have them.
    fn encoded(&self, samples: &[i16]) -> Vec<u8> {
        match self.encoding {
            Encoding::File => wav::encoded(samples.iter().copied(), self.sample_rate),
            Encoding::PcmInt16 => samples.iter().flat_map(|sample| sample.to_le_bytes()).collect(),
            Encoding::PcmFloat32 => {
                samples.iter().flat_map(|sample| (f32::from(*sample) / 32768.0).to_le_bytes()).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests;
