//! Layout, height and width of a model input that is an image, from the model's declaration and the settings.

use super::row_size::{ByHeight, RowSize};
use super::settings::{Layout, Settings};
use crate::error::SetupError;
use crate::tensor::{Dim, Shape, TensorSpec};

/// Layout, channels, height and width of images in rows of the model's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) layout: Layout,
    pub(crate) channels: usize,
    pub(crate) size: RowSize,
    dimensions: Dimensions,
}

/// Dimensions of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dimensions {
    /// All elements in one.
    List,
    /// Height and width.
    Plane,
    /// Height, width and channels.
    Planes,
}

/// Layout that the model declares, with height and width as far as they are declared.
struct Declared {
    layout: Layout,
    size: [Option<u32>; 2],
}

impl Form {
    /// Returns the form of the images in an input, from its declaration and the settings.
    pub(crate) fn of(spec: &TensorSpec, settings: &Settings, channels: usize) -> Result<Form, SetupError> {
        let described = |problem: &str| described(problem, spec);
        let Declared { layout, size } = Declared::of(&spec.dims, settings.layout, channels).map_err(described)?;
        let size = size_of(size, settings.size).map_err(described)?;
        size.check().map_err(described)?;
        let dimensions = match spec.dims.len() {
            2 => Dimensions::List,
            3 => Dimensions::Plane,
            _ => Dimensions::Planes,
        };
        let form = Form { layout, channels, size, dimensions };
        let is_of_size = |elements: usize| form.row(size.largest()) == [elements];
        match (&*spec.dims, size) {
            ([_, _], RowSize::ByHeight(_) | RowSize::BySides(_)) => {
                Err(described("size: a row that is one list has one size, as in size = [224, 224]"))
            }
            ([_, Dim::Fixed(elements)], _) if !is_of_size(*elements) => {
                Err(described("size: it does not match the number of elements in the model's rows"))
            }
            _ => Ok(form),
        }
    }

    /// Returns the shape of a row with an image of this width and height.
    pub(crate) fn row(self, [width, height]: [u32; 2]) -> Shape {
        let (height, width) = (height as usize, width as usize);
        match (self.dimensions, self.layout) {
            (Dimensions::List, _) => vec![self.channels * height * width],
            (Dimensions::Plane, _) => vec![height, width],
            (Dimensions::Planes, Layout::ChannelsFirst) => vec![self.channels, height, width],
            (Dimensions::Planes, Layout::ChannelsLast) => vec![height, width, self.channels],
        }
    }
}

impl Declared {
    fn of(dims: &[Dim], configured: Option<Layout>, channels: usize) -> Result<Declared, &'static str> {
        const NOT_SHOWN: &str =
            "layout: say \"channels-first\" or \"channels-last\": a row is one list, which does not show it";
        match dims {
            [_, a, b, c] => {
                let layout = layout_of([a, c], configured, channels)?;
                let size = if layout == Layout::ChannelsFirst { [b, c] } else { [a, b] };
                Ok(Declared { layout, size: size.map(fixed) })
            }
            [_, height, width] if channels == 1 => {
                Ok(Declared { layout: Layout::ChannelsLast, size: [fixed(height), fixed(width)] })
            }
            [_, _] => {
                // With one channel, both layouts are the same, so either is right.
                let layout = configured.or((channels == 1).then_some(Layout::ChannelsFirst)).ok_or(NOT_SHOWN)?;
                Ok(Declared { layout, size: [None, None] })
            }
            _ => Err("an image has height, width and channels"),
        }
    }
}

/// Returns the layout of an image whose first and last dimension are these.
fn layout_of([first, last]: [&Dim; 2], configured: Option<Layout>, channels: usize) -> Result<Layout, &'static str> {
    let is_channels = |dim: &Dim| *dim == Dim::Fixed(channels);
    let layout = match configured {
        Some(layout) => layout,
        None if is_channels(first) && !is_channels(last) => Layout::ChannelsFirst,
        None if is_channels(last) && !is_channels(first) => Layout::ChannelsLast,
        None => {
            return Err(
                "layout: say \"channels-first\" or \"channels-last\"; the model does not show it, or its channels do not match \
                        colour",
            );
        }
    };
    let declared = if layout == Layout::ChannelsFirst { first } else { last };
    if matches!(declared, Dim::Fixed(_)) && !is_channels(declared) {
        return Err("layout, colour: they do not match the number of channels of the model's input");
    }
    Ok(layout)
}

/// Returns height and width of the input, from the model's declaration, the settings, or both.
fn size_of(declared: [Option<u32>; 2], configured: Option<RowSize>) -> Result<RowSize, &'static str> {
    let Some(size) = configured else {
        let [Some(height), Some(width)] = declared else {
            return Err(
                "size: say height and width, as in size = [224, 224], or how they follow from an image, as in size = { \
                 max_side = 1920, multiple = 32 }; the model does not fix them",
            );
        };
        return Ok(RowSize::Fixed([height, width]));
    };
    let fits = match size {
        RowSize::Fixed(size) => {
            declared.iter().zip(size).all(|(declared, size)| declared.is_none_or(|one| one == size))
        }
        RowSize::ByHeight(ByHeight { height, min_width, max_width, .. }) => {
            declared[0].is_none_or(|declared| declared == height)
                && declared[1].is_none_or(|declared| [min_width, max_width] == [declared; 2])
        }
        RowSize::BySides(_) => declared == [None, None],
    };
    if fits { Ok(size) } else { Err("size: the model declares a different one") }
}

fn fixed(dim: &Dim) -> Option<u32> {
    match dim {
        Dim::Fixed(length) => u32::try_from(*length).ok(),
        Dim::Dynamic(_) => None,
    }
}

fn described(problem: &str, spec: &TensorSpec) -> SetupError {
    SetupError::Config(format!("{problem} (the model's input {:?} is {})", spec.name, spec.describe()))
}
