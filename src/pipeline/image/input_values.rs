//! Writes images as values of the model's input: scaled, channel by channel, with the frame around them.

use half::f16;

use super::decoding::Pixels;
use super::settings::{Colour, Fill, Layout, Levels};
use super::side::Side;
use crate::tensor::Data;

/// Form of images in the model's input.
pub(crate) struct InputValues {
    pub(crate) layout: Layout,
    pub(crate) colour: Colour,
    /// Converted values of each channel of the input.
    pub(crate) levels: Vec<Levels>,
    /// Value of the frame around an image.
    pub(crate) fill: Fill,
}

impl InputValues {
    /// Appends the values of the row that has this part of a resized image.
    pub(crate) fn append(&self, part: &Pixels, sides: &[Side; 2], data: &mut Data) {
        let scaled = |channel: usize, level: u8| self.levels[channel][usize::from(level)];
        let frame: Vec<f32> = (0..self.levels.len())
            .map(|channel| match self.fill {
                Fill::Level(level) => scaled(channel, level),
                Fill::Scaled(value) => value,
            })
            .collect();
        match data {
            Data::F32(values) => self.write(part, sides, values, scaled, &frame),
            Data::F16(values) => {
                let frame: Vec<f16> = frame.into_iter().map(f16::from_f32).collect();
                let made = |channel, level| f16::from_f32(scaled(channel, level));
                self.write(part, sides, values, made, &frame);
            }
            Data::U8(values) => {
                let level = if let Fill::Level(level) = self.fill { level } else { 0 };
                self.write(part, sides, values, |_, level| level, &vec![level; self.levels.len()]);
            }
            _ => {}
        }
    }

    /// Appends the values in the model's layout. `made` converts a value of a channel, and `frame` has the value of the
    /// frame in each channel.
    fn write<T: Copy>(
        &self,
        part: &Pixels,
        [across, down]: &[Side; 2],
        values: &mut Vec<T>,
        made: impl Fn(usize, u8) -> T,
        frame: &[T],
    ) {
        let channels = self.levels.len();
        let (left, width) = (across.start as usize, across.row as usize);
        let right = width - left - part.width as usize;
        let above = down.start as usize * width;
        let below = down.row as usize * width - above - part.height as usize * width;
        let rows = || part.values.chunks_exact(part.width as usize * channels);
        values.reserve(width * down.row as usize * channels);
        match self.layout {
            Layout::ChannelsFirst => {
                for (channel, frame) in frame.iter().enumerate() {
                    let place = self.place_of(channel);
                    let framed = |count: usize| std::iter::repeat_n(*frame, count);
                    values.extend(framed(above));
                    for row in rows() {
                        values.extend(framed(left));
                        values.extend(row.chunks_exact(channels).map(|pixel| made(channel, pixel[place])));
                        values.extend(framed(right));
                    }
                    values.extend(framed(below));
                }
            }
            Layout::ChannelsLast => {
                let framed = |count: usize| (0..count).flat_map(|_| frame.iter().copied());
                values.extend(framed(above));
                for row in rows() {
                    values.extend(framed(left));
                    for pixel in row.chunks_exact(channels) {
                        values.extend((0..channels).map(|channel| made(channel, pixel[self.place_of(channel)])));
                    }
                    values.extend(framed(right));
                }
                values.extend(framed(below));
            }
        }
    }

    /// Returns the position of a channel of the model in a decoded pixel.
    fn place_of(&self, channel: usize) -> usize {
        if self.colour == Colour::Bgr { 2 - channel } else { channel }
    }
}
