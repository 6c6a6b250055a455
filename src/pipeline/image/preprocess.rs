//! `kind = "image"`: PNG, JPEG and WebP images become the pixels that a vision model takes.
//!
//! An image is decoded, turned upright, resized, cut or set in a frame, and its values scaled: `(value · scale − mean) ÷
//! deviation`, channel by channel. An instance is `{"b64": "…"}`, or the body as it is.

use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use half::f16;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::budget::Deadline;
use crate::error::{Error, Result, SetupError};
use crate::feature::{FeatureSchema, Features};
use crate::pipeline::image::base64_text::decoded;
use crate::pipeline::image::decoding::{Channels, Pixels, decode};
use crate::pipeline::image::resizing::{Filter, Target, resize};
use crate::pipeline::json::reader::{Fits, Reader, misfit, quoted};
use crate::pipeline::{ImagePlacement, Origin, Prepared, Preprocessor, StageContext};
use crate::tensor::{DType, Data, Dim, Shape, Tensor, TensorSpec};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Height and width that the model takes; without it, what the model declares.
    size: Option<[u32; 2]>,
    /// Method of resizing an image to that size.
    resize: Option<Resize>,
    /// Before it is cut: the length of the shorter side; without it, as long as the longer side of `size`.
    shortest: Option<u32>,
    /// Value around an image that is set in a frame, 0 to 255.
    fill: Option<u8>,
    /// Filter of the resizing.
    filter: Option<Filter>,
    /// Which channels there are, in which order.
    colour: Option<Colour>,
    /// Factor of values of 0 to 255.
    scale: Option<f32>,
    /// Value that is subtracted then, per channel or for all.
    mean: Option<PerChannel>,
    /// Divisor after that.
    deviation: Option<PerChannel>,
    /// Position of the channels, before or after height and width; without it, as the model declares it.
    layout: Option<Layout>,
    /// The most pixels of an image: what has more is refused before it is decoded.
    #[serde(default = "max_pixels")]
    max_pixels: NonZeroU64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Resize {
    /// Each side by itself: the aspect changes.
    #[default]
    Stretch,
    /// The shorter side to `shortest`, and the middle is cut out.
    Crop,
    /// The whole image, set in the middle of a frame.
    Fit,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Colour {
    #[default]
    Rgb,
    Bgr,
    Gray,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged, expecting = "expected a number, or one per channel")]
enum PerChannel {
    All(f32),
    Each(Vec<f32>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Layout {
    ChannelsFirst,
    ChannelsLast,
}

/// As many as a camera of 40 megapixels has, which take 120 MB, and some times that if they are 16 bits deep.
fn max_pixels() -> NonZeroU64 {
    const MAX_PIXELS: NonZeroU64 = NonZeroU64::new(40_000_000).unwrap();
    MAX_PIXELS
}

/// All images of a request together may have so many times the pixels that one may have.
const IMAGES_OF_MOST_PIXELS: u64 = 8;

/// Maximum number of pixels of a resized image: 64 Mi.
const MAX_RESIZED_PIXELS: u64 = 1 << 26;

/// The media types of bodies that are an image. Which of the formats it is, its bytes say: senders call JPEG `image/jpg` and
/// `image/pjpeg`, too, or do not know.
const MEDIA_TYPES: [&str; 2] = ["image/*", "application/octet-stream"];

/// Features of an image; those of the channels come after them.
const FEATURES: [&str; 5] = ["brightness", "contrast", "width", "height", "aspect"];

struct ImagePreprocessor {
    input: Arc<str>,
    dtype: DType,
    /// The shape of a row.
    row: Shape,
    height: u32,
    width: u32,
    resize: Resize,
    shortest: u32,
    fill: u8,
    filter: Filter,
    colour: Colour,
    layout: Layout,
    /// Result for a value of 0 to 255, per channel.
    levels: Vec<[f32; 256]>,
    max_pixels: u64,
    most_rows: NonZeroUsize,
    assumptions: Vec<String>,
}

pub(crate) fn make(context: StageContext<'_>) -> Result<Box<dyn Preprocessor>, SetupError> {
    let settings: Settings = context.config.settings()?;
    let wrong = |problem: String| SetupError::Config(problem);
    let [spec] = &*context.signature.inputs else {
        return Err(wrong(format!(
            "an image feeds a model with one input; this has {}",
            context.signature.inputs.len()
        )));
    };
    let assumptions = assumptions(&settings, spec.dtype);
    let (resize, colour) = (settings.resize.unwrap_or_default(), settings.colour.unwrap_or_default());
    let channels = match colour {
        Colour::Rgb | Colour::Bgr => 3,
        Colour::Gray => 1,
    };
    let (layout, [height, width]) = form(spec, &settings, channels)?;
    let row = match (&*spec.dims, layout) {
        ([_, _], _) => vec![channels * height as usize * width as usize],
        ([_, _, _], _) => vec![height as usize, width as usize],
        (_, Layout::ChannelsFirst) => vec![channels, height as usize, width as usize],
        (_, Layout::ChannelsLast) => vec![height as usize, width as usize, channels],
    };
    let is_whole = match spec.dtype {
        DType::F32 | DType::F16 => false,
        DType::U8 => true,
        _ => {
            return Err(wrong(format!(
                "the model's input is {}; images are float32, float16 or uint8",
                spec.describe()
            )));
        }
    };
    let is_scaled = settings.scale.is_some() || settings.mean.is_some() || settings.deviation.is_some();
    if is_whole && is_scaled {
        return Err(wrong(
            "scale, mean, deviation: the model takes uint8, which are the values as they are".to_owned(),
        ));
    }
    let per_channel = |key: &str, value: &Option<PerChannel>, default: f32| match value {
        None => Ok(vec![default; channels]),
        Some(PerChannel::All(value)) => Ok(vec![*value; channels]),
        Some(PerChannel::Each(values)) if values.len() == channels => Ok(values.clone()),
        Some(PerChannel::Each(values)) => {
            Err(wrong(format!("{key}: there are {}, and {channels} channels", values.len())))
        }
    };
    let (mean, deviation) =
        (per_channel("mean", &settings.mean, 0.0)?, per_channel("deviation", &settings.deviation, 1.0)?);
    let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
    if !finite(&mean) || !finite(&deviation) || deviation.contains(&0.0) || !settings.scale.is_none_or(f32::is_finite) {
        return Err(wrong("scale, mean, deviation: finite numbers, and no deviation of 0".to_owned()));
    }
    let level = |value: usize, channel: usize| {
        let value = value as f32;
        // v / 255 is not v · (1 / 255) to the last bit, and the former is what everybody trains with.
        let scaled = settings.scale.map_or(value / 255.0, |scale| value * scale);
        (scaled - mean[channel]) / deviation[channel]
    };
    let levels = (0..channels).map(|channel| std::array::from_fn(|value| level(value, channel))).collect();
    let least = height.max(width);
    let shortest = settings.shortest.unwrap_or(least);
    if resize != Resize::Crop && settings.shortest.is_some() {
        return Err(wrong("shortest: only resize = \"crop\" has it".to_owned()));
    }
    if resize != Resize::Fit && settings.fill.is_some() {
        return Err(wrong("fill: only resize = \"fit\" has it".to_owned()));
    }
    if u64::from(shortest).pow(2) > MAX_RESIZED_PIXELS {
        return Err(wrong(format!("shortest: {shortest} pixels are too many")));
    }
    if shortest < least {
        return Err(wrong(format!("shortest: {shortest} pixels are fewer than the {least} that are cut out")));
    }
    let most_rows = context.most_rows(row.iter().product());
    Ok(Box::new(ImagePreprocessor {
        input: Arc::clone(&spec.name),
        dtype: spec.dtype,
        row,
        height,
        width,
        resize,
        shortest,
        fill: settings.fill.unwrap_or(0),
        filter: settings.filter.unwrap_or_default(),
        colour,
        layout,
        levels,
        max_pixels: settings.max_pixels.get(),
        most_rows,
        assumptions,
    }))
}

/// Defaults in use, all of which change the model's input.
fn assumptions(settings: &Settings, dtype: DType) -> Vec<String> {
    let mut taken = Vec::new();
    if settings.colour.is_none() {
        taken.push("colour = \"rgb\"");
    }
    if settings.resize.is_none() {
        taken.push("resize = \"stretch\"");
    }
    if settings.filter.is_none() {
        taken.push("filter = \"bilinear\" (antialiased)");
    }
    if dtype != DType::U8 {
        if settings.scale.is_none() {
            taken.push("scale = 1/255");
        }
        if settings.mean.is_none() {
            taken.push("mean = 0");
        }
        if settings.deviation.is_none() {
            taken.push("deviation = 1");
        }
    }
    match &*taken {
        [] => Vec::new(),
        taken => {
            vec![format!("images are prepared with {}, because [preprocess] does not say otherwise", taken.join(", "))]
        }
    }
}

/// The order of the dimensions, and height and width, of what the model declares and what is configured.
fn form(spec: &TensorSpec, settings: &Settings, channels: usize) -> Result<(Layout, [u32; 2]), SetupError> {
    let fixed = |dim: &Dim| match dim {
        Dim::Fixed(length) => u32::try_from(*length).ok(),
        Dim::Dynamic(_) => None,
    };
    let wrong = |problem: &str| {
        SetupError::Config(format!("{problem} (the model's input {:?} is {})", spec.name, spec.describe()))
    };
    let is_channels = |dim: &Dim| *dim == Dim::Fixed(channels);
    let (layout, declared) = match &*spec.dims {
        [_, a, b, c] => {
            let layout = match settings.layout {
                Some(layout) => layout,
                None if is_channels(a) && !is_channels(c) => Layout::ChannelsFirst,
                None if is_channels(c) && !is_channels(a) => Layout::ChannelsLast,
                None => {
                    return Err(wrong(
                        "layout: say \"channels-first\" or \"channels-last\"; the model does not, or has other channels than \
                         colour",
                    ));
                }
            };
            let declared = if layout == Layout::ChannelsFirst { a } else { c };
            if matches!(declared, Dim::Fixed(_)) && !is_channels(declared) {
                return Err(wrong("layout, colour: the model has another number of channels there"));
            }
            match layout {
                Layout::ChannelsFirst => (layout, [fixed(b), fixed(c)]),
                Layout::ChannelsLast => (layout, [fixed(a), fixed(b)]),
            }
        }
        [_, height, width] if channels == 1 => (Layout::ChannelsLast, [fixed(height), fixed(width)]),
        [_, _] if channels == 1 => (settings.layout.unwrap_or(Layout::ChannelsFirst), [None, None]),
        [_, _] => match settings.layout {
            Some(layout) => (layout, [None, None]),
            None => {
                return Err(wrong(
                    "layout: say \"channels-first\" or \"channels-last\": a row is one list, which does not show it",
                ));
            }
        },
        _ => return Err(wrong("an image has height, width and channels")),
    };
    let size = match (settings.size, declared) {
        (None, [Some(height), Some(width)]) => [height, width],
        (None, _) => return Err(wrong("size: say height and width, as in size = [224, 224]; the model does not")),
        (Some(size), declared) => {
            if declared.into_iter().zip(size).any(|(declared, size)| declared.is_some_and(|declared| declared != size))
            {
                return Err(wrong("size: the model declares another one"));
            }
            size
        }
    };
    // What the tensor and the frame of one image may take.
    if size.contains(&0) || u64::from(size[0]) * u64::from(size[1]) > MAX_RESIZED_PIXELS {
        return Err(wrong("size: between 1 and 67,108,864 pixels in all"));
    }
    let elements = channels * size[0] as usize * size[1] as usize;
    match &*spec.dims {
        [_, Dim::Fixed(row)] if *row != elements => {
            Err(wrong("size: the model's rows have another number of elements"))
        }
        _ => Ok((layout, size)),
    }
}

impl Preprocessor for ImagePreprocessor {
    fn transform(&self, instances: &RawValue, deadline: Deadline) -> Result<Prepared> {
        let mut batch = self.batch();
        let read = |json: &mut Reader<'_>| {
            deadline.check()?;
            let bytes = image_of(json)?;
            self.add(&bytes, &mut batch).map_err(misfit)
        };
        Reader::instances(instances.get(), (self.most_rows, deadline), read, Error::from)?;
        batch.finish(self)
    }

    /// Noise, dark, bright and in between.
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

    /// A few bytes can be millions of pixels.
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
        let channels: &[&str] = match self.colour {
            Colour::Rgb | Colour::Bgr => &["red", "green", "blue"],
            Colour::Gray => &[],
        };
        FeatureSchema {
            numbers: FEATURES.iter().chain(channels).map(|name| (*name).into()).collect(),
            texts: Vec::new(),
        }
    }
}

/// The bytes of an instance: `{"b64": "…"}`.
fn image_of(json: &mut Reader<'_>) -> Fits<Vec<u8>> {
    if json.peek() != b'{' {
        return Err(json.found_instead_of("an object with an image, as in {\"b64\": \"iVBORw0…\"}"));
    }
    let mut bytes = None;
    json.object(|json, key| {
        if &*key != "b64" {
            return Err(misfit(format!("unknown key {}, expected \"b64\"", quoted(&key))));
        }
        if json.peek() != b'"' {
            return Err(json.found_instead_of("a string").at_key("b64"));
        }
        let text = json.string()?;
        let decoded = decoded(&text).map_err(|problem| misfit(problem).at_key("b64"))?;
        match bytes.replace(decoded) {
            None => Ok(()),
            Some(_) => Err(misfit("the key \"b64\" is there twice".to_owned())),
        }
    })?;
    bytes.ok_or_else(|| misfit("the key \"b64\" is missing".to_owned()))
}

/// The rows of a request, as they are made.
struct Batch {
    data: Data,
    numbers: Vec<f32>,
    placements: Vec<ImagePlacement>,
    /// Number of decoded pixels.
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

    fn channels(&self) -> Channels {
        match self.colour {
            Colour::Rgb | Colour::Bgr => Channels::Rgb,
            Colour::Gray => Channels::Gray,
        }
    }

    /// Adds one image as a row.
    fn add(&self, bytes: &[u8], batch: &mut Batch) -> Result<(), String> {
        let decoded = decode(bytes, self.max_pixels, self.channels())?;
        let original = [decoded.width, decoded.height];
        batch.pixels += u64::from(decoded.width) * u64::from(decoded.height);
        let most = self.max_pixels.saturating_mul(IMAGES_OF_MOST_PIXELS);
        if batch.pixels > most {
            return Err(format!(
                "the images up to here have more than {most} pixels together; send them in several requests"
            ));
        }
        let (placed, placement) = self.place(decoded)?;
        batch.numbers.extend(self.features_of(&placed, original));
        batch.placements.push(placement);
        match &mut batch.data {
            Data::F32(values) => self.write(&placed, values, |level| level),
            Data::F16(values) => self.write(&placed, values, f16::from_f32),
            Data::U8(values) => self.write_as_they_are(&placed, values),
            _ => {}
        }
        Ok(())
    }

    /// An image brought to the model's size.
    fn place(&self, image: Pixels) -> Result<(Pixels, ImagePlacement), String> {
        let original = [image.width, image.height];
        let [width, height] = match self.resize {
            Resize::Stretch => [self.width, self.height].map(u64::from),
            Resize::Crop => with_shortest(original, self.shortest),
            Resize::Fit => within(original, [self.width, self.height]).map(u64::from),
        };
        let scale = [width as f64 / f64::from(original[0]), height as f64 / f64::from(original[1])];
        let middle = |inner: u64, outer: u64| (inner as f64 - outer as f64) / 2.0;
        let (own_width, own_height) = (u64::from(self.width), u64::from(self.height));
        // As torchvision's CenterCrop, which rounds halves to the even number.
        let cut = [middle(width, own_width), middle(height, own_height)].map(f64::round_ties_even);
        let to = match self.resize {
            Resize::Crop => Target {
                width,
                height,
                left: cut[0] as u64,
                top: cut[1] as u64,
                part_width: self.width,
                part_height: self.height,
            },
            Resize::Stretch | Resize::Fit => Target::whole(width as u32, height as u32),
        };
        // Rows are resized before columns: in between there are as many rows as there were.
        if u64::from(to.part_width) * u64::from(image.height) > MAX_RESIZED_PIXELS {
            let [width, height] = original;
            return Err(format!(
                "found an image of {width} x {height} pixels, which is too high for the model's width"
            ));
        }
        let resized = resize(image, to, self.channels().count(), self.filter);
        let (pixels, offset) = match self.resize {
            Resize::Stretch => (resized, [0.0, 0.0]),
            Resize::Crop => (resized, cut.map(|cut| -cut)),
            Resize::Fit => {
                let [left, top] = [middle(own_width, width), middle(own_height, height)].map(f64::floor);
                (self.framed(&resized, left as u32, top as u32), [left, top])
            }
        };
        Ok((pixels, ImagePlacement { original, scale, offset }))
    }

    /// An image in a frame of the model's size.
    fn framed(&self, image: &Pixels, left: u32, top: u32) -> Pixels {
        let channels = self.channels().count();
        let (width, length) = (self.width as usize * channels, image.width as usize * channels);
        let mut values = vec![self.fill; width * self.height as usize];
        let start = left as usize * channels;
        let rows = values.chunks_exact_mut(width).skip(top as usize);
        for (row, from) in rows.zip(image.values.chunks_exact(length)) {
            row[start..start + length].copy_from_slice(from);
        }
        Pixels { width: self.width, height: self.height, values }
    }

    /// The values of a row, in the model's layout.
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
        let channels = self.channels().count();
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

    /// Position of a channel of the model in a pixel.
    fn place_of(&self, channel: usize) -> usize {
        if self.colour == Colour::Bgr { 2 - channel } else { channel }
    }

    /// Mean and deviation of the luminance, 0 to 1, as the model sees it; the size as it was sent; the channels' means.
    fn features_of(&self, image: &Pixels, [width, height]: [u32; 2]) -> impl Iterator<Item = f32> + use<> {
        let channels = self.channels().count();
        let (mut sums, mut luminance, mut squares) = ([0u64; 3], 0u64, 0u64);
        for pixel in image.values.chunks_exact(channels) {
            let level = match *pixel {
                [red, green, blue] => {
                    let [red, green, blue] = [red, green, blue].map(u64::from);
                    sums = [sums[0] + red, sums[1] + green, sums[2] + blue];
                    (red * 299 + green * 587 + blue * 114 + 500) / 1000
                }
                [gray, ..] => u64::from(gray),
                [] => 0,
            };
            luminance += level;
            squares += level * level;
        }
        let count = (image.values.len() / channels).max(1) as f64;
        let mean = luminance as f64 / count;
        let deviation = (squares as f64 / count - mean * mean).max(0.0).sqrt();
        let [width, height] = [width, height].map(f64::from);
        let of_channels =
            sums.map(|sum| sum as f64 / count / 255.0).into_iter().take(if channels == 3 { 3 } else { 0 });
        let all = [mean / 255.0, deviation / 255.0, width, height, width / height].into_iter().chain(of_channels);
        all.map(|value| value as f32)
    }
}

/// Width and height with the shorter side of this length; the other is rounded down, as torchvision does.
fn with_shortest([width, height]: [u32; 2], shortest: u32) -> [u64; 2] {
    let shortest = u64::from(shortest);
    let longer = shortest * u64::from(width.max(height)) / u64::from(width.min(height)).max(1);
    if width <= height { [shortest, longer] } else { [longer, shortest] }
}

/// The largest width and height of the same aspect within a frame.
fn within([width, height]: [u32; 2], [most_wide, most_high]: [u32; 2]) -> [u32; 2] {
    let scale = (f64::from(most_wide) / f64::from(width)).min(f64::from(most_high) / f64::from(height));
    let side = |length: u32, most: u32| ((f64::from(length) * scale).round() as u32).clamp(1, most);
    [side(width, most_wide), side(height, most_high)]
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::stage_context::of_settings;
    use crate::tensor::Signature;

    fn stage(settings: &str, dtype: DType, row: &[Option<usize>]) -> Result<Box<dyn Preprocessor>, SetupError> {
        let row = row.iter().map(|length| length.map_or(Dim::Dynamic(None), Dim::Fixed));
        let dims = [Dim::Dynamic(None)].into_iter().chain(row).collect();
        let inputs = vec![TensorSpec { name: "x".into(), dtype, dims }];
        let settings = format!(r#"{{"kind": "image"{settings}}}"#);
        of_settings(make, &settings, &Signature { inputs, ..Signature::default() })
    }

    fn png(width: u32, height: u32, pixel: impl Fn(u32, u32) -> [u8; 3]) -> Vec<u8> {
        let image = image::RgbImage::from_fn(width, height, |x, y| image::Rgb(pixel(x, y)));
        let mut file = Cursor::new(Vec::new());
        image.write_to(&mut file, image::ImageFormat::Png).unwrap();
        file.into_inner()
    }

    /// One pixel: its channels where the layout has them, scaled.
    #[test]
    fn layouts_colours_and_types() {
        let file = png(2, 1, |x, _| [10 + x as u8, 20, 30]);
        let values = |settings: &str, dtype, row: &[Option<usize>]| {
            let prepared =
                stage(settings, dtype, row).unwrap().transform_raw("image/png", &file, Deadline::never()).unwrap();
            prepared.inputs.get("x").unwrap().data().clone()
        };
        let (one, two, three) = (Some(1), Some(2), Some(3));
        let whole = r#", "scale": 1"#;
        assert_eq!(values(whole, DType::F32, &[three, one, two]), Data::F32(vec![10.0, 11.0, 20.0, 20.0, 30.0, 30.0]));
        assert_eq!(values(whole, DType::F32, &[one, two, three]), Data::F32(vec![10.0, 20.0, 30.0, 11.0, 20.0, 30.0]));
        let bgr = r#", "colour": "bgr""#;
        assert_eq!(values(bgr, DType::U8, &[one, two, three]), Data::U8(vec![30, 20, 10, 30, 20, 11]));
        assert_eq!(values(bgr, DType::U8, &[three, one, two]), Data::U8(vec![30, 30, 20, 20, 10, 11]));
        // 0.299 · 10 + 0.587 · 20 + 0.114 · 30 = 18.15
        let gray = r#", "colour": "gray", "scale": 2, "mean": 6, "deviation": 10"#;
        assert_eq!(values(gray, DType::F32, &[one, two]), Data::F32(vec![3.0, 3.0]));
        assert_eq!(values(r#", "colour": "gray", "size": [1, 2]"#, DType::U8, &[two]), Data::U8(vec![18, 18]));
        assert_eq!(values("", DType::F16, &[three, one, one]).dtype(), DType::F16);
    }

    #[test]
    fn settings_that_do_not_fit_say_what_to_change() {
        let (three, open, size) = (Some(3), None, Some(224));
        let check = |settings: &str, dtype, row: &[Option<usize>], problem: &str| {
            let error = stage(settings, dtype, row).err().unwrap().to_string();
            assert!(error.contains(problem), "{settings}: {error}");
        };
        check("", DType::F32, &[three, open, open], "say height and width");
        check(r#", "size": [8, 8]"#, DType::F32, &[three, size, size], "the model declares another one");
        check("", DType::F32, &[open, size, size], "say \"channels-first\" or \"channels-last\"");
        check(r#", "colour": "gray""#, DType::F32, &[three, size, size], "or has other channels than colour");
        check(r#", "layout": "channels-last""#, DType::F32, &[three, size, size], "another number of channels there");
        check(r#", "mean": [1, 2]"#, DType::F32, &[three, size, size], "mean: there are 2, and 3 channels");
        check(r#", "deviation": 0"#, DType::F32, &[three, size, size], "no deviation of 0");
        check(r#", "scale": 2"#, DType::U8, &[three, size, size], "the values as they are");
        check("", DType::I64, &[three, size, size], "images are float32, float16 or uint8");
        check(r#", "shortest": 256"#, DType::F32, &[three, size, size], "only resize = \"crop\" has it");
        check(r#", "resize": "crop", "shortest": 100"#, DType::F32, &[three, size, size], "fewer than the 224");
        check(r#", "fill": 1"#, DType::F32, &[three, size, size], "only resize = \"fit\" has it");
        check(r#", "size": [8, 8], "colour": "gray""#, DType::F32, &[Some(63)], "another number of elements");
    }

    proptest! {
        /// Whatever its size, it becomes the model's, and the corners of what is seen are within it.
        #[test]
        fn every_image_finds_its_place(
            width in 1u32..80, height in 1u32..80, mode in prop::sample::select(vec!["stretch", "crop", "fit"]),
        ) {
            let settings = format!(r#", "resize": "{mode}""#);
            let stage = stage(&settings, DType::U8, &[Some(3), Some(12), Some(16)]).unwrap();
            let prepared = stage.transform_raw("image/png", &png(width, height, |x, y| [x as u8, y as u8, 9]), Deadline::never()).unwrap();
            prop_assert_eq!(prepared.inputs.get("x").unwrap().shape(), &[1, 3, 12, 16]);
            let Origin::Images(placements) = &prepared.origin else { panic!() };
            let [left, top] = placements[0].to_original([0.0, 0.0]);
            let [right, bottom] = placements[0].to_original([16.0, 12.0]);
            prop_assert!(left >= 0.0 && top >= 0.0 && right <= f64::from(width) && bottom <= f64::from(height));
            prop_assert!(left < right && top < bottom);
            if mode != "crop" {
                let is_all = [right - left - f64::from(width), bottom - top - f64::from(height)];
                prop_assert!(is_all.iter().all(|difference| difference.abs() < 1e-9), "{:?}", is_all);
            }
        }
    }
}
