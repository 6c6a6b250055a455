//! Texts or images that the rows of a request were made from, for postprocessors.

use std::ops::Range;

/// Texts or images that the rows of a request were made from, one per row.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Origin {
    /// The origin is not known, or not used by any postprocessor.
    #[default]
    Unknown,
    /// The rows are texts that were split into tokens.
    Texts(Vec<TokenisedText>),
    /// The rows are images that were resized to the model's input.
    Images(Vec<ImagePlacement>),
}

/// A text of a request, and the positions of its tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenisedText {
    /// The text as it was sent.
    pub text: String,
    /// Span of each token in the text, in bytes; `None` for special tokens, and for tokens of a second text.
    pub spans: Vec<Option<Range<usize>>>,
}

/// Scale and position of an image within the model's input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ImagePlacement {
    /// Width and height of the image as it was sent, upright, in pixels.
    pub original: [u32; 2],
    /// Width and height of the model's input, in pixels.
    pub input: [u32; 2],
    /// The pixels of the model's input per pixel of the original, across and down.
    pub scale: [f64; 2],
    /// Position of the original's upper left corner in the model's input, across and down; negative if it was cut off.
    pub offset: [f64; 2],
}

impl Origin {
    /// Number of tokens of a row, if it was made from a text. The rest of the row is padding.
    pub fn tokens(&self, row: usize) -> Option<usize> {
        match self {
            Origin::Texts(texts) => texts.get(row).map(|text| text.spans.len()),
            Origin::Unknown | Origin::Images(_) => None,
        }
    }
}

impl ImagePlacement {
    /// Converts a point of the model's input to a point of the original image, within the bounds of the image.
    ///
    /// ```
    /// use leeway::pipeline::ImagePlacement;
    /// // 400 x 200 resized to 100 x 50, in the middle of 100 x 100.
    /// let placement = ImagePlacement { original: [400, 200], input: [100, 100], scale: [0.25, 0.25], offset: [0.0, 25.0] };
    /// assert_eq!(placement.to_original([50.0, 50.0]), [200.0, 100.0]);
    /// assert_eq!(placement.to_original([50.0, 0.0]), [200.0, 0.0]);
    /// ```
    pub fn to_original(&self, point: [f64; 2]) -> [f64; 2] {
        [0, 1].map(|axis| {
            let value = (point[axis] - self.offset[axis]) / self.scale[axis];
            value.clamp(0.0, f64::from(self.original[axis]))
        })
    }
}
