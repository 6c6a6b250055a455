//! `kind = "image"`: PNG, JPEG and WebP images become the pixels that a vision model takes.
//!
//! An image is decoded, turned upright, resized, cropped or framed, and its values are scaled channel by channel:
//! `(value · scale − mean) ÷ deviation`. An instance is `{"b64": "…"}`, or the whole body is one image. The images of a
//! request become one tensor, so their rows have one height and width.

use std::num::NonZeroUsize;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use serde_json::value::RawValue;

use super::decoding::{Channels, decode};
use super::features::{self, Frame};
use super::input_values::InputValues;
use super::pixel_layout::Form;
use super::placing::{Placing, placement};
use super::row_size::RowSize;
use super::settings::{Fill, Settings};
use super::side::Side;
use crate::budget::Deadline;
use crate::error::{Error, Result, SetupError};
use crate::feature::{FeatureSchema, Features};
use crate::pipeline::json::encoded_file::encoded_file;
use crate::pipeline::json::reader::{Reader, misfit};
use crate::pipeline::{ImagePlacement, InstanceForm, Origin, Prepared, Preprocessor, StageContext, json_schema};
use crate::tensor::{DType, Data, Tensor};

/// Maximum number of pixels of all images of a request together, as a multiple of the maximum of one image.
const IMAGES_OF_MOST_PIXELS: u64 = 8;

/// Maximum width and height of the samples.
const MAX_SAMPLE_SIDE: u32 = 256;

/// Media types of bodies that are an image. The format is detected from the bytes, because senders also call JPEG
/// `image/jpg` or `image/pjpeg`, or do not know it.
const MEDIA_TYPES: [&str; 2] = ["image/*", "application/octet-stream"];

/// An instance, for messages.
const EXAMPLE: &str = r#"an object with an image, as in {"b64": "iVBORw0…"}"#;

struct ImagePreprocessor {
    input: Arc<str>,
    dtype: DType,
    form: Form,
    channels: Channels,
    placing: Placing,
    values: InputValues,
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
    let channels = colour.channels();
    let form = Form::of(spec, &settings, channels.count())?;
    if !matches!(spec.dtype, DType::F32 | DType::F16 | DType::U8) {
        let described = spec.describe();
        return Err(SetupError::Config(format!(
            "the model's input is {described}; images are float32, float16 or uint8"
        )));
    }
    let fill = settings.fill(spec.dtype)?;
    let placing = Placing::new(form.size, channels.count(), fill, &settings)?;
    let levels = settings.levels(channels.count(), spec.dtype)?;
    let most_rows = context.most_rows(form.row(form.size.largest()).iter().product());
    Ok(Box::new(ImagePreprocessor {
        input: Arc::clone(&spec.name),
        dtype: spec.dtype,
        form,
        channels,
        placing,
        values: InputValues { layout: form.layout, colour, levels, fill },
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

    /// Returns three images of noise: dark, mixed and bright. They are large enough for models that take images in
    /// their own size.
    fn samples(&self) -> Option<[String; 3]> {
        let side = self.sample_side();
        let mut random = fastrand::Rng::with_seed(0x5eed);
        let mut sample = |range: std::ops::Range<u8>| {
            encoded_image(side, (0..side * side * 3).map(|_| random.u8(range.clone())).collect())
        };
        Some([sample(0..60)?, sample(0..255)?, sample(190..255)?])
    }

    fn instance_schema(&self) -> Value {
        json_schema::encoded_file("an image: PNG, JPEG or WebP")
    }

    /// Returns an image whose colour changes from left to right: as large as the samples, and compressed well.
    fn example(&self) -> Option<String> {
        let side = self.sample_side();
        let shade = |at: u32| (at / 3 % side * 255 / side) as u8;
        encoded_image(side, (0..side * side * 3).map(shade).collect())
    }

    fn assumptions(&self) -> Vec<String> {
        self.assumptions.clone()
    }

    /// Returns true, because a few bytes can become millions of pixels.
    fn is_heavy(&self) -> bool {
        true
    }

    fn instance_form(&self) -> Option<InstanceForm> {
        Some(InstanceForm::file("image"))
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
        features::schema(self.channels)
    }
}

/// Rows that were made from the images of a request so far.
struct Batch {
    data: Data,
    numbers: Vec<f32>,
    placements: Vec<ImagePlacement>,
    /// Width and height of the rows; `None` before the first.
    row: Option<[u32; 2]>,
    /// Number of pixels of the decoded images together.
    pixels: u64,
}

impl Batch {
    fn finish(self, stage: &ImagePreprocessor) -> Result<Prepared> {
        let rows = self.placements.len();
        let row = stage.form.row(self.row.unwrap_or(stage.form.size.largest()));
        let shape = [rows].into_iter().chain(row).collect();
        let inputs = [(Arc::clone(&stage.input), Tensor::new(shape, self.data)?)].into_iter().collect();
        let mut features = Features::with_rows(rows);
        features.numbers = self.numbers;
        Ok(Prepared { inputs, features, origin: Origin::Images(self.placements) })
    }
}

/// Returns an instance with a square image of these values.
fn encoded_image(side: u32, values: Vec<u8>) -> Option<String> {
    let mut file = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_raw(side, side, values)?.write_to(&mut file, image::ImageFormat::Png).ok()?;
    Some(format!(r#"{{"b64": "{}"}}"#, STANDARD.encode(file.into_inner())))
}

impl ImagePreprocessor {
    /// Returns the width and height of samples.
    fn sample_side(&self) -> u32 {
        match self.form.size {
            RowSize::Fixed(_) | RowSize::ByHeight(_) => 16,
            RowSize::BySides(sides) => sides.max_side.min(MAX_SAMPLE_SIDE).min(self.max_pixels.isqrt() as u32).max(1),
        }
    }

    fn batch(&self) -> Batch {
        let data = match self.dtype {
            DType::F16 => Data::F16(Vec::new()),
            DType::U8 => Data::U8(Vec::new()),
            _ => Data::F32(Vec::new()),
        };
        Batch { data, numbers: Vec::new(), placements: Vec::new(), row: None, pixels: 0 }
    }

    /// Decodes one image, and adds it to the batch as a row.
    fn add(&self, bytes: &[u8], batch: &mut Batch) -> Result<(), String> {
        let decoded = decode(bytes, self.max_pixels, self.channels)?;
        let original = [decoded.width, decoded.height];
        batch.pixels += u64::from(decoded.width) * u64::from(decoded.height);
        let most = self.max_pixels.saturating_mul(IMAGES_OF_MOST_PIXELS);
        if batch.pixels > most {
            return Err(format!(
                "the images up to this one have more than {most} pixels together; send them in several requests"
            ));
        }
        let sides = self.placing.sides(original)?;
        let row = sides.map(|side| side.row);
        let first = *batch.row.get_or_insert(row);
        if row != first {
            return Err(format!(
                "found an image of {} x {} pixels, which the model takes as {} x {} pixels, but the first one of the \
                 request as {} x {}; send it in a request of its own",
                original[0], original[1], row[0], row[1], first[0], first[1]
            ));
        }
        let part = self.placing.resized(decoded, sides);
        batch.numbers.extend(features::features_of(&part, self.frame(&sides), self.channels, original));
        batch.placements.push(placement(&sides));
        self.values.append(&part, &sides, &mut batch.data);
        Ok(())
    }

    /// Returns the frame around an image, for its features. A frame whose value is not one of pixels is left out.
    fn frame(&self, sides: &[Side; 2]) -> Frame {
        let pixels = |length: fn(&Side) -> u32| u64::from(length(&sides[0])) * u64::from(length(&sides[1]));
        match self.values.fill {
            Fill::Level(level) => Frame { pixels: pixels(|side| side.row) - pixels(|side| side.part), level },
            Fill::Scaled(_) => Frame { pixels: 0, level: 0 },
        }
    }
}

#[cfg(test)]
mod tests;
