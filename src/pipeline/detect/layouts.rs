//! Layouts of the outputs of detectors, by name, and reading of boxes from them, for `kind = "detector"`.
//!
//! | layout | outputs | boxes | score | already suppressed |
//! |---|---|---|---|---|
//! | `yolov5`, `yolov7` | `[rows, boxes, 5 + classes]` | centre, pixels | objectness × class | no |
//! | `yolox` | the same, relative to a grid | see [`Grid`] | objectness × class | no |
//! | `yolov8`, `yolo11` | `[rows, 4 + classes, boxes]` | centre, pixels | class | no |
//! | `yolov10` | `[rows, boxes, 6]`: box, score, class | corners, pixels | unchanged | yes |
//! | `rt-detr`, `ssd` | boxes `[rows, boxes, 4]`, scores, classes `[rows, boxes]` | corners | unchanged | yes |
//! | `torchvision` | boxes `[boxes, 4]`, scores, classes `[boxes]`, of one image | corners, pixels | unchanged | yes |

use std::borrow::Cow;
use std::sync::Arc;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::pipeline::outputs::{ROUNDING, output, refuse_non_finite};
use crate::tensor::{Data, Tensor, Tensors};

/// The setting `layout` in `model.toml`, named after a family of detectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum Layout {
    #[serde(rename = "yolov5")]
    YoloV5,
    #[serde(rename = "yolov7")]
    YoloV7,
    #[serde(rename = "yolox")]
    YoloX,
    #[serde(rename = "yolov8")]
    YoloV8,
    #[serde(rename = "yolo11")]
    Yolo11,
    #[serde(rename = "yolov10")]
    YoloV10,
    #[serde(rename = "rt-detr")]
    RtDetr,
    #[serde(rename = "ssd")]
    Ssd,
    #[serde(rename = "torchvision")]
    Torchvision,
}

/// Meaning of the four numbers of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Format {
    /// Left, top, right, bottom.
    Corners,
    /// Top, left, bottom, right, as in TensorFlow.
    CornersDownFirst,
    /// The centre's x and y, width, height.
    Centre,
}

/// Unit of the numbers of a box.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Unit {
    /// Pixels of the model's input.
    #[default]
    Pixels,
    /// Fractions of the width and the height of the model's input.
    Parts,
}

/// Positions of boxes, scores and classes within the outputs of a detector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrangement {
    /// Each box has a score for each class, after its four numbers or in a separate output.
    ScorePerClass {
        /// True if the last two dimensions are swapped.
        boxes_last: bool,
        /// Use of the objectness, which is between the box and the scores; `None` if the output has no objectness.
        objectness: Option<Objectness>,
        /// True if boxes are relative to a grid.
        grid: bool,
    },
    /// One output with six columns: the box, its score, its class.
    Columns,
    /// Separate outputs for boxes, scores and classes, with a dimension for rows.
    Separate,
    /// Separate outputs for one image, without a dimension for rows.
    SeparateOfOneImage,
}

/// Use of the objectness, the probability that a box contains any object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Objectness {
    /// The objectness is multiplied by the score of the class.
    Times,
    /// Like `Times`, except for a model with only one class: the score of the class is not trained there, so the
    /// objectness alone is the score (`yolov7/utils/general.py`, `non_max_suppression`).
    TimesUnlessOnlyClass,
}

/// Form of the outputs of a family of detectors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form {
    pub(crate) arrangement: Arrangement,
    pub(crate) format: Format,
    pub(crate) unit: Unit,
    /// The number of the first class: 1 if 0 is the background.
    pub(crate) first_class: usize,
}

impl Layout {
    pub(crate) fn form(self) -> Form {
        use Arrangement::{Columns, Separate, SeparateOfOneImage};
        let score_per_class =
            |boxes_last, objectness, grid| Arrangement::ScorePerClass { boxes_last, objectness, grid };
        let (arrangement, format, unit, first_class) = match self {
            Layout::YoloV5 => (score_per_class(false, Some(Objectness::Times), false), Format::Centre, Unit::Pixels, 0),
            Layout::YoloV7 => {
                let objectness = Some(Objectness::TimesUnlessOnlyClass);
                (score_per_class(false, objectness, false), Format::Centre, Unit::Pixels, 0)
            }
            Layout::YoloX => (score_per_class(false, Some(Objectness::Times), true), Format::Centre, Unit::Pixels, 0),
            Layout::YoloV8 | Layout::Yolo11 => (score_per_class(true, None, false), Format::Centre, Unit::Pixels, 0),
            Layout::YoloV10 => (Columns, Format::Corners, Unit::Pixels, 0),
            Layout::RtDetr => (Separate, Format::Corners, Unit::Pixels, 0),
            Layout::Ssd => (Separate, Format::Corners, Unit::Parts, 1),
            Layout::Torchvision => (SeparateOfOneImage, Format::Corners, Unit::Pixels, 1),
        };
        Form { arrangement, format, unit, first_class }
    }
}

impl Arrangement {
    /// Returns true if the model suppresses overlapping boxes itself.
    pub(crate) fn is_suppressed(self) -> bool {
        !matches!(self, Arrangement::ScorePerClass { .. })
    }
}

/// A box that was read from the outputs, with its class and score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Found {
    /// The class, counted from 0, without the background.
    pub(crate) class: usize,
    pub(crate) score: f32,
    /// The four numbers of the box, as the model returns them.
    pub(crate) numbers: [f32; 4],
}

/// Names of the outputs that boxes are read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) boxes: Arc<str>,
    pub(crate) scores: Option<Arc<str>>,
    pub(crate) classes: Option<Arc<str>>,
    /// The output with the number of valid boxes, if there is one.
    pub(crate) count: Option<Arc<str>>,
}

/// Reader of boxes from the outputs of a detector.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) names: Names,
    pub(crate) arrangement: Arrangement,
    pub(crate) first_class: usize,
    /// The number of classes, if it is known.
    pub(crate) classes: Option<usize>,
    /// Width and height of the model's input, if they are known.
    pub(crate) input: Option<[usize; 2]>,
    /// Minimum score of a box. Boxes with a lower score are skipped.
    pub(crate) threshold: f32,
}

impl Reading {
    /// Reads the boxes of each row, in any order.
    pub(crate) fn read(&self, outputs: &Tensors) -> Result<Vec<Vec<Found>>> {
        match self.arrangement {
            Arrangement::ScorePerClass { boxes_last, objectness, grid } => {
                self.score_per_class(outputs, boxes_last, objectness, grid)
            }
            Arrangement::Columns => self.columns(outputs),
            Arrangement::Separate | Arrangement::SeparateOfOneImage => self.separate(outputs),
        }
    }

    fn score_per_class(
        &self,
        outputs: &Tensors,
        boxes_last: bool,
        objectness: Option<Objectness>,
        grid: bool,
    ) -> Result<Vec<Vec<Found>>> {
        let boxes = Cells::of(outputs, &self.names.boxes, boxes_last)?;
        let own = self.names.scores.as_deref().map(|name| Cells::of(outputs, name, boxes_last)).transpose()?;
        // Without a separate output, the scores follow the boxes.
        let box_width = if own.is_some() { 4 } else { 4 + usize::from(objectness.is_some()) };
        let (scores, first) = own.as_ref().map_or((&boxes, box_width), |scores| (scores, 0));
        // Scores before the first class belong to the background.
        let first = first + self.first_class;
        let classes = scores.width.saturating_sub(first);
        if boxes.width < box_width || classes == 0 || scores.rows != boxes.rows || scores.boxes != boxes.boxes {
            let with = if objectness.is_some() { "a box, its objectness and scores" } else { "a box and scores" };
            return Err(boxes.unusable(&format!("{with} were expected; is it another layout?")));
        }
        if let Some(expected) = self.classes.filter(|expected| *expected != classes) {
            return Err(scores.unusable(&format!(
                "{classes} of them are scores of classes, but there are {expected} labels; is it another layout?"
            )));
        }
        let grid = grid.then(|| Grid::new(self.input, boxes.boxes, &boxes)).transpose()?;
        let mut found = Vec::with_capacity(boxes.rows);
        for row in 0..boxes.rows {
            let mut of_row = Vec::new();
            for index in 0..boxes.boxes {
                let object = match objectness {
                    Some(_) => self.probability(&boxes, boxes.at(row, index, 4))?,
                    None => 1.0,
                };
                let (mut class, mut best) = (0, f32::NEG_INFINITY);
                for candidate in 0..classes {
                    let score = self.probability(scores, scores.at(row, index, first + candidate))?;
                    if score > best {
                        (class, best) = (candidate, score);
                    }
                }
                let score = match objectness {
                    Some(Objectness::TimesUnlessOnlyClass) if classes == 1 => object,
                    Some(Objectness::Times | Objectness::TimesUnlessOnlyClass) | None => object * best,
                };
                if score >= self.threshold {
                    let numbers = [0, 1, 2, 3].map(|place| boxes.at(row, index, place));
                    let numbers = grid.as_ref().map_or(numbers, |grid| grid.decoded(index, numbers));
                    of_row.push(Found { class, score, numbers });
                }
            }
            found.push(of_row);
        }
        Ok(found)
    }

    fn columns(&self, outputs: &Tensors) -> Result<Vec<Vec<Found>>> {
        let cells = Cells::of(outputs, &self.names.boxes, false)?;
        if cells.width != 6 {
            return Err(cells.unusable("six numbers were expected for each box: the box, its score, its class"));
        }
        let row = |row: usize| {
            let candidates = (0..cells.boxes).map(|index| [0, 1, 2, 3, 4, 5].map(|place| cells.at(row, index, place)));
            candidates
                .filter_map(|[a, b, c, d, score, class]| {
                    self.suppressed(&cells, [a, b, c, d], score, class).transpose()
                })
                .collect()
        };
        (0..cells.rows).map(row).collect()
    }

    fn separate(&self, outputs: &Tensors) -> Result<Vec<Vec<Found>>> {
        let boxes = Cells::of(outputs, &self.names.boxes, false)?;
        let (Some(scores), Some(classes)) = (&self.names.scores, &self.names.classes) else {
            return Err(Error::internal("a detector without its outputs"));
        };
        let (scores, classes) = (Column::of(outputs, scores)?, Column::of(outputs, classes)?);
        if boxes.width != 4 {
            return Err(boxes.unusable("four numbers were expected for each box"));
        }
        for other in [&scores, &classes] {
            if (other.rows, other.width) != (boxes.rows, boxes.boxes) {
                let problem = format!("and {:?} has {} rows of {}", other.name, other.rows, other.width);
                return Err(boxes.unusable(&problem));
            }
        }
        let counts = self.names.count.as_deref().map(|name| Column::of(outputs, name)).transpose()?;
        if let Some(other) = counts.as_ref().filter(|counts| (counts.rows, counts.width) != (boxes.rows, 1)) {
            let problem =
                format!("and {:?}, which counts them, has {} rows of {}", other.name, other.rows, other.width);
            return Err(boxes.unusable(&problem));
        }
        let row = |row: usize| {
            let count = counts.as_ref().map_or(boxes.boxes, |counts| counts.at(row, 0) as usize).min(boxes.boxes);
            (0..count)
                .filter_map(|index| {
                    let numbers = [0, 1, 2, 3].map(|place| boxes.at(row, index, place));
                    self.suppressed(&boxes, numbers, scores.at(row, index), classes.at(row, index)).transpose()
                })
                .collect()
        };
        (0..boxes.rows).map(row).collect()
    }

    /// Returns a box that the model itself has selected, if its score reaches the threshold.
    fn suppressed(&self, cells: &Cells<'_>, numbers: [f32; 4], score: f32, class: f32) -> Result<Option<Found>> {
        let score = self.probability(cells, score)?;
        // Models that return a fixed number of boxes fill it up with boxes of score 0.
        if score < self.threshold || score <= 0.0 {
            return Ok(None);
        }
        let most = self.classes.map_or(usize::MAX, |classes| self.first_class + classes - 1);
        let number = class as usize;
        if class.fract() != 0.0 || class < 0.0 || number < self.first_class || number > most {
            let expected = match self.classes {
                Some(labels) => format!("one from {} to {most} ({labels} labels)", self.first_class),
                None => format!("a whole number of at least {}", self.first_class),
            };
            let problem = format!(
                "has class {class}, but {expected} was expected; first_class sets the number of the first class"
            );
            return Err(Error::UnusableOutput { output: cells.name.to_owned(), problem });
        }
        Ok(Some(Found { class: number - self.first_class, score, numbers }))
    }

    fn probability(&self, cells: &Cells<'_>, score: f32) -> Result<f32> {
        if (-ROUNDING..=1.0 + ROUNDING).contains(&score) {
            return Ok(score);
        }
        let problem =
            format!("has {score} where a score was expected, a probability from 0 to 1; is it another layout?");
        Err(Error::UnusableOutput { output: cells.name.to_owned(), problem })
    }
}

/// An output with several numbers per box, in either order of the dimensions.
struct Cells<'a> {
    name: &'a str,
    values: Cow<'a, [f32]>,
    rows: usize,
    boxes: usize,
    width: usize,
    boxes_last: bool,
}

impl Cells<'_> {
    fn of<'a>(outputs: &'a Tensors, name: &'a str, boxes_last: bool) -> Result<Cells<'a>> {
        let tensor: &Tensor = output(outputs, name)?;
        refuse_non_finite(name, tensor)?;
        let values = tensor.to_f32().ok_or_else(|| Error::internal("a detector's outputs are not floats"))?;
        match *tensor.shape() {
            [rows, boxes, width] if !boxes_last => Ok(Cells { name, values, rows, boxes, width, boxes_last }),
            [rows, width, boxes] => Ok(Cells { name, values, rows, boxes, width, boxes_last }),
            _ => Err(Error::UnusableOutput {
                output: name.to_owned(),
                problem: format!("has the shape {:?}; boxes have three dimensions", tensor.shape()),
            }),
        }
    }

    fn at(&self, row: usize, index: usize, place: usize) -> f32 {
        let within = if self.boxes_last { place * self.boxes + index } else { index * self.width + place };
        self.values[row * self.boxes * self.width + within]
    }

    fn unusable(&self, problem: &str) -> Error {
        let (boxes, width) = (self.boxes, self.width);
        let problem = format!("has {width} numbers for each of {boxes} boxes; {problem}");
        Error::UnusableOutput { output: self.name.to_owned(), problem }
    }
}

/// An output with one number per box.
struct Column<'a> {
    name: &'a str,
    values: Vec<f32>,
    rows: usize,
    width: usize,
}

impl Column<'_> {
    fn of<'a>(outputs: &'a Tensors, name: &'a str) -> Result<Column<'a>> {
        let tensor = output(outputs, name)?;
        refuse_non_finite(name, tensor)?;
        let values = match tensor.data() {
            Data::I64(values) => values.iter().map(|&value| value as f32).collect(),
            Data::I32(values) => values.iter().map(|&value| value as f32).collect(),
            Data::U8(values) => values.iter().map(|&value| f32::from(value)).collect(),
            _ => tensor.to_f32().map(Cow::into_owned).ok_or_else(|| Error::UnusableOutput {
                output: name.to_owned(),
                problem: format!("is {}; numbers were expected", tensor.dtype()),
            })?,
        };
        Ok(Column { name, values, rows: tensor.rows(), width: tensor.row_len() })
    }

    fn at(&self, row: usize, index: usize) -> f32 {
        self.values[row * self.width + index]
    }
}

/// Grid cells of YOLOX that boxes are relative to, one per box. For each of the strides 8, 16 and 32 pixels, the
/// model's input is divided into cells of one stride across and down, row by row. The centre of a box is
/// `(x + column) · stride, (y + row) · stride`; its width and height are `exp(w) · stride, exp(h) · stride`
/// (`YOLOX/yolox/utils/demo_utils.py`, `demo_postprocess`).
struct Grid {
    /// Column, row and stride of each box.
    cells: Vec<[f32; 3]>,
}

impl Grid {
    fn new(input: Option<[usize; 2]>, boxes: usize, cells: &Cells<'_>) -> Result<Grid> {
        let [width, height] = input.ok_or_else(|| Error::internal("a grid over an input of unknown size"))?;
        let of_stride = |stride: usize| {
            let [columns, rows] = [width / stride, height / stride];
            (0..rows).flat_map(move |row| (0..columns).map(move |column| [column as f32, row as f32, stride as f32]))
        };
        let grid: Vec<[f32; 3]> = [8, 16, 32].into_iter().flat_map(of_stride).collect();
        if grid.len() != boxes {
            let expected = grid.len();
            return Err(cells.unusable(&format!(
                "the grids of YOLOX have {expected} cells for {width} x {height} pixels; is it another layout?"
            )));
        }
        Ok(Grid { cells: grid })
    }

    fn decoded(&self, index: usize, [x, y, w, h]: [f32; 4]) -> [f32; 4] {
        let [column, row, stride] = self.cells[index];
        [(x + column) * stride, (y + row) * stride, w.exp() * stride, h.exp() * stride]
    }
}
