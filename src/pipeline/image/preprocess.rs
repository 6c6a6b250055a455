//! `kind = "image"`: PNG, JPEG and WebP images become the pixels that a vision model takes.
//!
//! An image is decoded, turned upright, resized, cropped or framed, and its values are scaled channel by channel:
//! `(value · scale − mean) ÷ deviation`. An instance is `{"b64": "…"}`, or the whole body is one image.

use std::num::NonZeroUsize;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use half::f16;
use serde_json::value::RawValue;

use super::decoding::{Pixels, decode};
use super::features;
use super::pixel_layout::Form;
use super::placing::Placing;
use super::settings::{Colour, Layout, Levels, Settings};
use crate::budget::Deadline;
use crate::error::{Error, Result, SetupError};
use crate::feature::{FeatureSchema, Features};
use crate::pipeline::json::encoded_file::encoded_file;
use crate::pipeline::json::reader::{Reader, misfit};
use crate::pipeline::{ImagePlacement, Origin, Prepared, Preprocessor, StageContext};
use crate::tensor::{DType, Data, Shape, Tensor};

/// Maximum number of pixels of all images of a request together, as a multiple of the maximum of one image.
const IMAGES_OF_MOST_PIXELS: u64 = 8;

/// Media types of bodies that are an image. The format is detected from the bytes, because senders also call JPEG
/// `image/jpg` or `image/pjpeg`, or do not know it.
const MEDIA_TYPES: [&str; 2] = ["image/*", "application/octet-stream"];

/// An instance, for messages.
const EXAMPLE: &str = r#"an object with an image, as in {"b64": "iVBORw0…"}"#;

struct ImagePreprocessor {
    input: Arc<str>,
    dtype: DType,
    /// Shape of a row of the model's input.
    row: Shape,
    placing: Placing,
    colour: Colour,
    layout: Layout,
    levels: Vec<Levels>,
    max_pixels: u64,
    most_rows: NonZeroUsize,
    assumptions: Vec<String>,
}

pub(crate) fn make(context: StageContext<'_>) -> Result<Box<dyn Preprocessor>, SetupError> {
    let settings: Settings = context.config.settings()?;
    let [spec] = &*context.signature.inputs else {
        let count = context.signature.inputs.len();
        return Err(SetupError::Config(format!("kind = \"image\" needs a model with one input; this one has {count}")));
    };
    let colour = settings.colour.unwrap_or_default();
    let channels = colour.channels().count();
    let form = Form::of(spec, &settings, channels)?;
    if !matches!(spec.dtype, DType::F32 | DType::F16 | DType::U8) {
        let described = spec.describe();
        return Err(SetupError::Config(format!(
            "the model's input is {described}; images are float32, float16 or uint8"
        )));
    }
    let levels = settings.levels(channels, spec.dtype)?;
    let placing = Placing::new([form.height, form.width], channels, &settings)?;
    let row = form.row(&spec.dims);
    let most_rows = context.most_rows(row.iter().product());
    Ok(Box::new(ImagePreprocessor {
        input: Arc::clone(&spec.name),
        dtype: spec.dtype,
        row,
        placing,
        colour,
        layout: form.layout,
        levels,
        max_pixels: settings.max_pixels.get(),
        most_rows,
        assumptions: settings.assumptions(spec.dtype),
    }))
}

impl Preprocessor for ImagePreprocessor {
    fn transform(&self, instances: &RawValue, deadline: Deadline) -> Result<Prepared> {
        let mut batch = self.batch();
        let read = |json: &mut Reader<'_>| {
            deadline.check()?;
            let bytes = encoded_file(json, EXAMPLE)?;
            self.add(&bytes, &mut batch).map_err(misfit)
        };
        Reader::instances(instances.get(), (self.most_rows, deadline), read, Error::from)?;
        batch.finish(self)
    }

    /// Returns three images of noise: dark, mixed and bright.
    fn samples(&self) -> Option<[String; 3]> {
        const SIDE: u32 = 16;
        let mut random = fastrand::Rng::with_seed(0x5eed);
        let mut sample = |range: std::ops::Range<u8>| {
            let values = (0..SIDE * SIDE * 3).map(|_| random.u8(range.clone())).collect();
            let mut file = std::io::Cursor::new(Vec::new());
            image::RgbImage::from_raw(SIDE, SIDE, values)?.write_to(&mut file, image::ImageFormat::Png).ok()?;
            Some(format!(r#"{{"b64": "{}"}}"#, STANDARD.encode(file.into_inner())))
        };
        Some([sample(0..60)?, sample(0..255)?, sample(190..255)?])
    }

    fn assumptions(&self) -> Vec<String> {
        self.assumptions.clone()
    }

    /// Returns true, because a few bytes can become millions of pixels.
    fn is_heavy(&self) -> bool {
        true
    }

    fn media_types(&self) -> &'static [&'static str] {
        &MEDIA_TYPES
    }

    fn transform_raw(&self, _media_type: &str, body: &[u8], _deadline: Deadline) -> Result<Prepared> {
        let mut batch = self.batch();
        self.add(body, &mut batch).map_err(|problem| Error::InvalidInput(format!("the body: {problem}")))?;
        batch.finish(self)
    }

    fn features(&self) -> FeatureSchema {
        features::schema(self.colour.channels())
    }
}

/// Rows that were made from the images of a request so far.
struct Batch {
    data: Data,
    numbers: Vec<f32>,
    placements: Vec<ImagePlacement>,
    /// Number of pixels of the decoded images together.
    pixels: u64,
}

impl Batch {
    fn finish(self, stage: &ImagePreprocessor) -> Result<Prepared> {
        let rows = self.placements.len();
        let shape = [rows].into_iter().chain(stage.row.iter().copied()).collect();
        let inputs = [(Arc::clone(&stage.input), Tensor::new(shape, self.data)?)].into_iter().collect();
        let mut features = Features::with_rows(rows);
        features.numbers = self.numbers;
        Ok(Prepared { inputs, features, origin: Origin::Images(self.placements) })
    }
}

impl ImagePreprocessor {
    fn batch(&self) -> Batch {
        let data = match self.dtype {
            DType::F16 => Data::F16(Vec::new()),
            DType::U8 => Data::U8(Vec::new()),
            _ => Data::F32(Vec::new()),
        };
        Batch { data, numbers: Vec::new(), placements: Vec::new(), pixels: 0 }
    }

    /// Decodes one image, and adds it to the batch as a row.
    fn add(&self, bytes: &[u8], batch: &mut Batch) -> Result<(), String> {
        let decoded = decode(bytes, self.max_pixels, self.colour.channels())?;
        let original = [decoded.width, decoded.height];
        batch.pixels += u64::from(decoded.width) * u64::from(decoded.height);
        let most = self.max_pixels.saturating_mul(IMAGES_OF_MOST_PIXELS);
        if batch.pixels > most {
            return Err(format!(
                "the images up to this one have more than {most} pixels together; send them in several requests"
            ));
        }
        let (placed, placement) = self.placing.place(decoded)?;
        batch.numbers.extend(features::features_of(&placed, self.colour.channels(), original));
        batch.placements.push(placement);
        match &mut batch.data {
            Data::F32(values) => self.write(&placed, values, |level| level),
            Data::F16(values) => self.write(&placed, values, f16::from_f32),
            Data::U8(values) => self.write_as_they_are(&placed, values),
            _ => {}
        }
        Ok(())
    }

    /// Writes the values of an image in the model's layout.
    fn write<T>(&self, image: &Pixels, values: &mut Vec<T>, made: impl Fn(f32) -> T) {
        let channels = self.levels.len();
        values.reserve(image.values.len());
        match self.layout {
            Layout::ChannelsFirst => {
                for channel in 0..channels {
                    let (levels, place) = (&self.levels[channel], self.place_of(channel));
                    let pixels = image.values.chunks_exact(channels);
                    values.extend(pixels.map(|pixel| made(levels[usize::from(pixel[place])])));
                }
            }
            Layout::ChannelsLast => {
                for pixel in image.values.chunks_exact(channels) {
                    for channel in 0..channels {
                        values.push(made(self.levels[channel][usize::from(pixel[self.place_of(channel)])]));
                    }
                }
            }
        }
    }

    fn write_as_they_are(&self, image: &Pixels, values: &mut Vec<u8>) {
        let channels = self.levels.len();
        match self.layout {
            Layout::ChannelsFirst => {
                for channel in 0..channels {
                    let pixels = image.values.chunks_exact(channels);
                    values.extend(pixels.map(|pixel| pixel[self.place_of(channel)]));
                }
            }
            Layout::ChannelsLast => {
                let channel = |pixel: &[u8], channel| pixel[self.place_of(channel)];
                let pixels = image.values.chunks_exact(channels);
                values.extend(pixels.flat_map(|pixel| (0..channels).map(move |index| channel(pixel, index))));
            }
        }
    }

    /// Returns the position of a channel of the model in a decoded pixel.
    fn place_of(&self, channel: usize) -> usize {
        if self.colour == Colour::Bgr { 2 - channel } else { channel }
    }
}

#[cfg(test)]
mod tests;
