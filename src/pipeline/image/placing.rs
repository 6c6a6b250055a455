//! Resizing an image to the size that a model takes: stretched, cropped to the middle, or framed.

use super::decoding::Pixels;
use super::resizing::{Filter, Target, resize};
use super::settings::{Resize, Settings};
use crate::error::SetupError;
use crate::pipeline::ImagePlacement;

/// Maximum number of pixels of a resized image: 64 Mi.
pub(crate) const MAX_RESIZED_PIXELS: u64 = 1 << 26;

/// Resizing of images to the size that a model takes, as configured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placing {
    height: u32,
    width: u32,
    channels: usize,
    resize: Resize,
    /// Length of the shorter side of the resized image, before cropping.
    shortest: u32,
    /// Value of the frame around an image.
    fill: u8,
    filter: Filter,
}

impl Placing {
    /// Creates the resizing to this height and width, as configured.
    pub(crate) fn new([height, width]: [u32; 2], channels: usize, settings: &Settings) -> Result<Placing, SetupError> {
        let resize = settings.resize.unwrap_or_default();
        if resize != Resize::Crop && settings.shortest.is_some() {
            return Err(SetupError::Config("shortest: only applies to resize = \"crop\"".to_owned()));
        }
        if resize != Resize::Fit && settings.fill.is_some() {
            return Err(SetupError::Config("fill: only applies to resize = \"fit\"".to_owned()));
        }
        let least = height.max(width);
        let shortest = settings.shortest.unwrap_or(least);
        if u64::from(shortest).pow(2) > MAX_RESIZED_PIXELS {
            return Err(SetupError::Config(format!("shortest: {shortest} pixels are too many")));
        }
        if shortest < least {
            return Err(SetupError::Config(format!(
                "shortest: {shortest} pixels are fewer than the {least} that are cut out"
            )));
        }
        let (fill, filter) = (settings.fill.unwrap_or(0), settings.filter.unwrap_or_default());
        Ok(Placing { height, width, channels, resize, shortest, fill, filter })
    }

    /// Returns the image resized to the model's size, and the placement of the original in it.
    pub(crate) fn place(&self, image: Pixels) -> Result<(Pixels, ImagePlacement), String> {
        let original = [image.width, image.height];
        let [width, height] = match self.resize {
            Resize::Stretch => [self.width, self.height].map(u64::from),
            Resize::Crop => with_shortest(original, self.shortest),
            Resize::Fit => within(original, [self.width, self.height]).map(u64::from),
        };
        let scale = [width as f64 / f64::from(original[0]), height as f64 / f64::from(original[1])];
        let middle = |inner: u64, outer: u64| (inner as f64 - outer as f64) / 2.0;
        let (own_width, own_height) = (u64::from(self.width), u64::from(self.height));
        // Rounds halves to the even number, like torchvision's CenterCrop.
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
        // Rows are resized before columns, so the intermediate image has the original number of rows.
        if u64::from(to.part_width) * u64::from(image.height) > MAX_RESIZED_PIXELS {
            let [width, height] = original;
            return Err(format!(
                "found an image of {width} x {height} pixels, which is too tall for the model's width"
            ));
        }
        let resized = resize(image, to, self.channels, self.filter);
        let (pixels, offset) = match self.resize {
            Resize::Stretch => (resized, [0.0, 0.0]),
            Resize::Crop => (resized, cut.map(|cut| -cut)),
            Resize::Fit => {
                let [left, top] = [middle(own_width, width), middle(own_height, height)].map(f64::floor);
                (self.framed(&resized, left as u32, top as u32), [left, top])
            }
        };
        Ok((pixels, ImagePlacement { original, input: [self.width, self.height], scale, offset }))
    }

    /// Puts a resized image into a frame of the model's size.
    fn framed(&self, image: &Pixels, left: u32, top: u32) -> Pixels {
        let channels = self.channels;
        let (width, length) = (self.width as usize * channels, image.width as usize * channels);
        let mut values = vec![self.fill; width * self.height as usize];
        let start = left as usize * channels;
        let rows = values.chunks_exact_mut(width).skip(top as usize);
        for (row, from) in rows.zip(image.values.chunks_exact(length)) {
            row[start..start + length].copy_from_slice(from);
        }
        Pixels { width: self.width, height: self.height, values }
    }
}

/// Returns width and height of an image resized so that its shorter side has this length. The longer side is rounded
/// down, as in torchvision.
fn with_shortest([width, height]: [u32; 2], shortest: u32) -> [u64; 2] {
    let shortest = u64::from(shortest);
    let longer = shortest * u64::from(width.max(height)) / u64::from(width.min(height)).max(1);
    if width <= height { [shortest, longer] } else { [longer, shortest] }
}

/// Returns the largest width and height that fit into a frame without a change of the aspect.
fn within([width, height]: [u32; 2], [most_wide, most_high]: [u32; 2]) -> [u32; 2] {
    let scale = (f64::from(most_wide) / f64::from(width)).min(f64::from(most_high) / f64::from(height));
    let side = |length: u32, most: u32| ((f64::from(length) * scale).round() as u32).clamp(1, most);
    [side(width, most_wide), side(height, most_high)]
}
