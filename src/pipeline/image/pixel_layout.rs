//! Layout, height and width of a model input that is an image, from the model's declaration and the settings.

use super::placing::MAX_RESIZED_PIXELS;
use super::settings::{Layout, Settings};
use crate::error::SetupError;
use crate::tensor::{Dim, Shape, TensorSpec};

/// Layout, channels, height and width of an image in a row of the model's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) layout: Layout,
    pub(crate) channels: usize,
    pub(crate) height: u32,
    pub(crate) width: u32,
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
        let [height, width] = size_of(size, settings.size).map_err(described)?;
        let form = Form { layout, channels, height, width };
        match &*spec.dims {
            [_, Dim::Fixed(row)] if *row != form.elements() => {
                Err(described("size: it does not match the number of elements in the model's rows"))
            }
            _ => Ok(form),
        }
    }

    fn elements(self) -> usize {
        self.channels * self.height as usize * self.width as usize
    }

    /// Returns the shape of a row of an input with these dimensions.
    pub(crate) fn row(self, dims: &[Dim]) -> Shape {
        let (height, width) = (self.height as usize, self.width as usize);
        match (dims, self.layout) {
            ([_, _], _) => vec![self.elements()],
            ([_, _, _], _) => vec![height, width],
            (_, Layout::ChannelsFirst) => vec![self.channels, height, width],
            (_, Layout::ChannelsLast) => vec![height, width, self.channels],
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
fn size_of(declared: [Option<u32>; 2], configured: Option<[u32; 2]>) -> Result<[u32; 2], &'static str> {
    let size = match (configured, declared) {
        (None, [Some(height), Some(width)]) => [height, width],
        (None, _) => return Err("size: say height and width, as in size = [224, 224]; the model does not fix them"),
        (Some(size), declared) => {
            if declared.into_iter().zip(size).any(|(declared, size)| declared.is_some_and(|declared| declared != size))
            {
                return Err("size: the model declares a different one");
            }
            size
        }
    };
    // Limits the size of the tensor of one image, and of a frame around an image.
    if size.contains(&0) || u64::from(size[0]) * u64::from(size[1]) > MAX_RESIZED_PIXELS {
        return Err("size: between 1 and 67,108,864 pixels in all");
    }
    Ok(size)
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
