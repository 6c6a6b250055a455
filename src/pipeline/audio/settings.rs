//! Settings of `kind = "audio"`, and their checks against the model's signature.

use serde::Deserialize;

use super::decoding::Pcm;
use super::recording::SAMPLE_RATES;
use crate::error::SetupError;
use crate::tensor::{DType, Dim, Shape, Signature, TensorSpec};

/// Maximum number of samples of one instance at the model's sample rate. A request may have 8 times as many, which is the
/// maximum number of elements of its tensors.
const MAX_SAMPLES: f64 = (1u64 << 23) as f64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Sample rate that the model takes, in Hz.
    pub(crate) sample_rate: u32,
    /// Name of the model's input that takes the sound; by default, its only input.
    pub(crate) input: Option<String>,
    /// Number of samples of an instance; by default, the one that the model declares.
    pub(crate) samples: Option<usize>,
    /// Handling of sound with fewer samples.
    pub(crate) short: Option<Short>,
    /// Handling of sound with more samples.
    pub(crate) long: Option<Long>,
    /// Factor for samples from −1 to 1.
    pub(crate) scale: Option<f32>,
    /// Encoding of the sound in requests.
    #[serde(default)]
    pub(crate) encoding: Encoding,
    /// Maximum duration of an instance in seconds. A longer one is refused before it is decoded.
    #[serde(default = "max_seconds")]
    pub(crate) max_seconds: f64,
}

/// Default maximum duration: a minute, which takes 46 MB at 192 kHz. Models of longer recordings take them in parts.
fn max_seconds() -> f64 {
    60.0
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Short {
    #[default]
    Refuse,
    /// Adds silence at the end.
    Pad,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Long {
    #[default]
    Refuse,
    /// Leaves out the end.
    Cut,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Encoding {
    /// WAV or FLAC.
    #[default]
    File,
    /// Integers of 16 bits at the model's sample rate, without a header.
    PcmInt16,
    /// Floating-point numbers of 32 bits at the model's sample rate, without a header.
    PcmFloat32,
}

impl Encoding {
    /// Format of sound without a header.
    pub(crate) fn pcm(self) -> Option<Pcm> {
        match self {
            Encoding::File => None,
            Encoding::PcmInt16 => Some(Pcm::Int16),
            Encoding::PcmFloat32 => Some(Pcm::Float32),
        }
    }
}

/// Number of samples of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// Every row has this number.
    Fixed { samples: usize, short: Short, long: Long },
    /// All rows of a request have the same number.
    Open,
}

/// Input of a model that takes sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AudioInput {
    /// Index of the input in the signature.
    pub(crate) index: usize,
    pub(crate) length: Length,
    /// Number of dimensions of length 1 before and after that of the samples.
    ones: (usize, usize),
}

impl AudioInput {
    /// Shape of a tensor with this number of rows and of samples in a row.
    pub(crate) fn shape(&self, rows: usize, samples: usize) -> Shape {
        let ones = |count| std::iter::repeat_n(1, count);
        [rows].into_iter().chain(ones(self.ones.0)).chain([samples]).chain(ones(self.ones.1)).collect()
    }
}

impl Settings {
    /// Finds the input for the sound, and checks the settings.
    pub(crate) fn audio_input(&self, signature: &Signature) -> Result<AudioInput, SetupError> {
        let wrong = |problem: String| Err(SetupError::Config(problem));
        let names = || signature.inputs.iter().map(|input| format!("{:?}", input.name)).collect::<Vec<_>>().join(", ");
        let index = match (&self.input, &*signature.inputs) {
            (None, [_]) => 0,
            (None, _) => return wrong(format!("input: say which input takes the sound; the model has {}", names())),
            (Some(name), inputs) => match inputs.iter().position(|input| *input.name == **name) {
                Some(index) => index,
                None => return wrong(format!("input: the model has no input {name:?}; it has {}", names())),
            },
        };
        if let Some(sequence) = signature.inputs.iter().find(|input| input.dtype == DType::Sequence) {
            return wrong(format!(
                "the model's input {:?} is a sequence of tensors; only kind = \"tensor\" reads one",
                sequence.name
            ));
        }
        let spec = &signature.inputs[index];
        if !matches!(spec.dtype, DType::F32 | DType::F16) {
            return wrong(format!("the model's input is {}; samples are float32 or float16", spec.describe()));
        }
        if !SAMPLE_RATES.contains(&self.sample_rate) {
            let (least, most) = (SAMPLE_RATES.start(), SAMPLE_RATES.end());
            return wrong(format!("sample_rate: is {}, expected {least} to {most} Hz", self.sample_rate));
        }
        let is_limited = self.max_seconds > 0.0 && self.max_seconds * f64::from(self.sample_rate) <= MAX_SAMPLES;
        if !is_limited {
            return wrong(format!(
                "max_seconds: must be more than 0, and at most {:.0} at this sample rate",
                MAX_SAMPLES / f64::from(self.sample_rate)
            ));
        }
        if self.scale.is_some_and(|scale| !scale.is_finite() || scale == 0.0) {
            return wrong("scale: must be a finite number other than 0".to_owned());
        }
        let (ones, declared) = samples_of(spec)?;
        Ok(AudioInput { index, length: self.length(spec, declared)?, ones })
    }

    fn length(&self, spec: &TensorSpec, declared: Option<usize>) -> Result<Length, SetupError> {
        let wrong = |problem: String| Err(SetupError::Config(problem));
        let samples = match (self.samples, declared) {
            (Some(samples), Some(declared)) if samples != declared => {
                return wrong(format!("samples: is {samples}, but the model's input is {}", spec.describe()));
            }
            (Some(0), _) => return wrong("samples: must be more than 0".to_owned()),
            (samples, declared) => samples.or(declared),
        };
        match samples {
            Some(samples) if samples as f64 > self.max_seconds * f64::from(self.sample_rate) => {
                wrong(format!("samples: {samples} are more than max_seconds = {} allows", self.max_seconds))
            }
            Some(samples) => {
                let (short, long) = (self.short.unwrap_or_default(), self.long.unwrap_or_default());
                Ok(Length::Fixed { samples, short, long })
            }
            None if self.short.is_some() || self.long.is_some() => {
                wrong("short, long: only apply to a number of samples; set samples".to_owned())
            }
            None => Ok(Length::Open),
        }
    }

    /// Describes the defaults that are used for unset settings and that change the model's input.
    pub(crate) fn assumptions(&self) -> Vec<String> {
        match self.scale {
            Some(_) => Vec::new(),
            None => vec![
                "samples are prepared with scale = 1 (from −1 to 1), because [preprocess] does not set it".to_owned(),
            ],
        }
    }
}

/// Returns the number of dimensions of length 1 before and after that of the samples, and the declared number of
/// samples.
fn samples_of(spec: &TensorSpec) -> Result<((usize, usize), Option<usize>), SetupError> {
    let row = spec.dims.get(1..).unwrap_or_default();
    let is_one = |dim: &Dim| *dim == Dim::Fixed(1);
    let mut others = row.iter().enumerate().filter(|(_, dim)| !is_one(dim));
    match (others.next(), others.next()) {
        (Some((at, dim)), None) => {
            let declared = match dim {
                Dim::Fixed(samples) => Some(*samples),
                Dim::Dynamic(_) => None,
            };
            Ok(((at, row.len() - at - 1), declared))
        }
        _ => Err(SetupError::Config(format!(
            "the model's input is {}; sound is [rows, samples], or the same with dimensions of length 1",
            spec.describe()
        ))),
    }
}
