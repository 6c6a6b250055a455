//! Chooses the preprocessor from the evidence. Where nothing shows how data are prepared, the preprocessor is `tensor`,
//! which takes the model's own inputs.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::evidence::{Evidence, ImageInput, Ultralytics, is_float, is_one_element, row, width};
use super::image_processor::image_settings;
use super::proposal::{Hint, Stage, key};
use crate::tensor::{DType, Dim, TensorSpec};

/// Usual names of the inputs of a transformer.
const OF_TEXTS: [&str; 3] = ["input_ids", "attention_mask", "token_type_ids"];

/// A preprocessor, and the files that it reads.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Input {
    pub(super) stage: Stage,
    pub(super) files: Vec<PathBuf>,
}

/// Chooses the preprocessor.
pub(super) fn choose(evidence: &Evidence<'_>) -> Input {
    text(evidence)
        .or_else(|| image(evidence).map(of_stage))
        .or_else(|| table(evidence).map(of_stage))
        .unwrap_or_else(|| of_stage(tensors(evidence)))
}

fn of_stage(stage: Stage) -> Input {
    Input { stage, files: Vec::new() }
}

/// Returns the preprocessor that takes the model's own inputs.
pub(super) fn tensors(evidence: &Evidence<'_>) -> Stage {
    let stage = Stage::new(
        "tensor",
        "An instance is the model's own input as JSON arrays; with several inputs, an object with the inputs as keys.",
    );
    let is_text = evidence.signature.inputs.iter().any(|input| &*input.name == OF_TEXTS[0]);
    match (image_hint(evidence), columns_hint(evidence)) {
        (Some(hint), _) => stage.with_hint(hint),
        (None, Some(hint)) => stage.with_hint(hint),
        (None, None) if is_text && evidence.files.tokenizer.is_none() => stage.with_hint(Hint {
            text: "CHECK: The inputs are tokens. To send texts instead, put the model's tokenizer.json beside its ONNX file \
                   (save_pretrained of a fast tokenizer writes it), and run leeway init again."
                .to_owned(),
            lines: Vec::new(),
        }),
        (None, None) => stage,
    }
}

// ===== texts =====

fn text(evidence: &Evidence<'_>) -> Option<Input> {
    let tokenizer = evidence.files.tokenizer.clone()?;
    let inputs = &evidence.signature.inputs;
    let is_tokens = |input: &TensorSpec| {
        OF_TEXTS.contains(&&*input.name) && input.dims.len() == 2 && matches!(input.dtype, DType::I64 | DType::I32)
    };
    if !inputs.iter().all(is_tokens) || !inputs.iter().any(|input| &*input.name == OF_TEXTS[0]) {
        return None;
    }
    let mut stage = Stage::new(
        "text",
        "An instance is a text, because the inputs are those of a transformer, and tokenizer.json is beside the model.",
    );
    let fixed = inputs.iter().find_map(|input| match row(input) {
        [Dim::Fixed(length)] => Some(*length),
        _ => None,
    });
    stage = match (evidence.files.hugging_face.max_tokens(), fixed) {
        (_, Some(length)) => stage.with("max_tokens", length, "The model fixes the number of tokens."),
        (Some((tokens, file)), None) => stage.with("max_tokens", tokens, format!("The limit in {file}.")),
        (None, None) => stage,
    };
    stage = stage.with_guess(
        "too_long",
        "truncate",
        "The end of a longer text is cut off, as Transformers' pipelines do; \"error\" refuses such texts.",
    );
    let has_mask = inputs.iter().any(|input| &*input.name == OF_TEXTS[1]);
    if !has_mask {
        let token = evidence.files.hugging_face.pad_token()?;
        stage = stage.with_guess(
            "pad_token",
            token,
            "The padding token in tokenizer_config.json; the model takes no mask.",
        );
    }
    if let Some(step) = evidence.files.hugging_face.step_before_tokenizer() {
        let text = format!("CHECK: sentence-transformers {step}, which Leeway does not: clients have to do it.");
        stage = stage.with_hint(Hint { text, lines: Vec::new() });
    }
    Some(Input { stage, files: vec![tokenizer] })
}

// ===== images =====

fn image(evidence: &Evidence<'_>) -> Option<Stage> {
    let input = evidence.image_input()?;
    if let Some(ultralytics) = evidence.ultralytics() {
        return of_ultralytics(&ultralytics, input);
    }
    let settings = image_settings(evidence.files.hugging_face.image_processor.as_ref()?).ok()?;
    let stage =
        Stage::new("image", "An instance is an image, prepared as preprocessor_config.json beside the model says.");
    let fits = |settings: &[(&str, Value, String)]| {
        let size = settings.iter().find(|(key, ..)| *key == "size").map(|(_, size, _)| size.clone());
        let sides = [input.height, input.width].map(|side| side.map(Value::from));
        let is_same = |(place, side): (usize, &Option<Value>)| {
            side.is_none() || size.as_ref().and_then(|size| size.get(place)) == side.as_ref()
        };
        sides.iter().enumerate().all(is_same)
    };
    fits(&settings).then(|| {
        settings.into_iter().fold(stage, |stage, (key, value, of)| stage.with(key, value, format!("From {of}.")))
    })
}

/// Images are prepared as by `LetterBox` and `classify_transforms` of Ultralytics.
fn of_ultralytics(ultralytics: &Ultralytics, input: ImageInput) -> Option<Stage> {
    let stage = Stage::new("image", "An instance is an image: the metadata in the file are those of Ultralytics.");
    let is_open = input.height.is_none() || input.width.is_none();
    let stage = match (is_open, ultralytics.size) {
        (false, _) => stage,
        (true, Some(size)) => stage.with("size", json!(size), "imgsz in the metadata; the model leaves the size open."),
        (true, None) => return None,
    };
    Some(match ultralytics.task.as_str() {
        "classify" => stage.with(
            "resize",
            "crop",
            "Ultralytics resizes the shorter side and cuts out the centre, for classifiers.",
        ),
        _ => stage
            .with("resize", "fit", "Ultralytics fits the whole image into a frame (LetterBox).")
            .with("fill", 114, "The colour of that frame.")
            .with("filter", "opencv-linear", "The filter of OpenCV's resize, which LetterBox uses."),
    })
}

/// Returns the settings of an image for a model whose input looks like images, but nothing says how they are prepared.
fn image_hint(evidence: &Evidence<'_>) -> Option<Hint> {
    let input = evidence.image_input()?;
    let why_not = match evidence.files.hugging_face.image_processor.as_ref().map(image_settings) {
        Some(Err(problem)) => format!("preprocessor_config.json cannot be used: {problem}"),
        _ => "nothing says how images are prepared".to_owned(),
    };
    let mut lines = vec!["[preprocess]".to_owned(), "kind = \"image\"".to_owned()];
    if input.height.is_none() || input.width.is_none() {
        lines.push("size = [224, 224]".to_owned());
    }
    lines.push("mean = [0.485, 0.456, 0.406]        # ImageNet's, as in torchvision".to_owned());
    lines.push("deviation = [0.229, 0.224, 0.225]".to_owned());
    Some(Hint {
        text: format!(
            "CHECK: The input looks like images, but {why_not}. To send PNG, JPEG or WebP files, replace the section above \
             by one with the numbers of the training, for example:"
        ),
        lines,
    })
}

// ===== tables =====

fn table(evidence: &Evidence<'_>) -> Option<Stage> {
    match &*evidence.signature.inputs {
        // A pipeline that vectorises texts.
        inputs @ [text] if text.dtype == DType::Text && width(text) == Some(Some(1)) => {
            columns_as_inputs(evidence, inputs)
        }
        [only] => columns_of_one_input(evidence, only),
        several => columns_as_inputs(evidence, several),
    }
}

/// Each input is a column, as in a scikit-learn pipeline that is exported whole.
fn columns_as_inputs(evidence: &Evidence<'_>, inputs: &[TensorSpec]) -> Option<Stage> {
    let is_column = |input: &TensorSpec| {
        let is_row = matches!(input.dims.first(), Some(Dim::Dynamic(_))) && input.dims.len() <= 2;
        is_row && is_one_element(input) && !matches!(input.dtype, DType::Sequence)
    };
    if inputs.is_empty() || !inputs.iter().all(is_column) {
        return None;
    }
    let stage =
        Stage::new("tabular", "An instance is an object by column: each input of the model is a column of its own.");
    let has_missing = |input: &&TensorSpec| {
        let columns = evidence.columns.unwrap_or_default();
        columns.iter().any(|column| column.name == *input.name && column.has_missing)
    };
    let with_gaps: Vec<&TensorSpec> = inputs.iter().filter(has_missing).collect();
    if with_gaps.is_empty() {
        return Some(stage);
    }
    let column = |input: &TensorSpec| {
        let mut column = Map::from_iter([("name".to_owned(), Value::from(&*input.name))]);
        if is_float(input.dtype) && with_gaps.iter().any(|gap| gap.name == input.name) {
            column.insert("missing".to_owned(), "nan".into());
        }
        Value::Object(column)
    };
    let texts: Vec<&str> = with_gaps.iter().filter(|input| !is_float(input.dtype)).map(|input| &*input.name).collect();
    let others = match texts.is_empty() {
        true => String::new(),
        false => format!(
            " Missing values of {} are refused: add missing = \"…\" with the value that stood for them in the training.",
            texts.join(", ")
        ),
    };
    let reason = format!(
        "Numbers that are missing in the training data are passed to the model as NaN, which has to impute them.{others}"
    );
    Some(stage.with_guess("columns", inputs.iter().map(column).collect::<Value>(), reason))
}

/// All columns form one input, in the order of the training.
fn columns_of_one_input(evidence: &Evidence<'_>, input: &TensorSpec) -> Option<Stage> {
    let (names, source) = evidence.column_names()?;
    let is_number = !matches!(input.dtype, DType::Text | DType::Bool | DType::Sequence);
    if !is_number || width(input)?.is_some_and(|width| width != names.len()) {
        return None;
    }
    let missing = |name: &str| {
        let column = evidence.columns.and_then(|columns| columns.iter().find(|column| column.name == name));
        is_float(input.dtype) && column.is_some_and(|column| column.has_missing)
    };
    let column = |name: &String| {
        let mut column = Map::from_iter([("name".to_owned(), Value::from(name.as_str()))]);
        if missing(name) {
            column.insert("missing".to_owned(), "nan".into());
        }
        Value::Object(column)
    };
    let reason = format!(
        "The names of {source}, in this order. The model knows only the order: it must be that of the training."
    );
    let stage = Stage::new("tabular", "An instance is an object by column; the columns form the model's only input.");
    Some(stage.with_guess("columns", names.iter().map(column).collect::<Value>(), reason))
}

/// Returns advice for a model whose only input is a row of numbers without names.
fn columns_hint(evidence: &Evidence<'_>) -> Option<Hint> {
    let [input] = &*evidence.signature.inputs else { return None };
    let width = width(input)??;
    let is_table = is_float(input.dtype) && (2..=1_000).contains(&width);
    is_table.then(|| Hint {
        text: format!(
            "The {width} numbers of a row have no names. With names, clients send them by name, and drift is reported by \
             name: leeway init --data train.csv takes them from a header, or write"
        ),
        lines: vec![format!("columns = [\"…\", …]        # {width} names, in the order of the training")],
    })
}

/// Returns a comment with the setting that makes inputs without rows the same for all requests.
pub(super) fn constant_hint(evidence: &Evidence<'_>) -> Option<Hint> {
    let constants: Vec<&TensorSpec> = evidence.signature.inputs.iter().filter(|input| input.dims.is_empty()).collect();
    let lines =
        constants.iter().flat_map(|input| [format!("[model.inputs.{}]", key(&input.name)), "value = …".to_owned()]);
    (!constants.is_empty()).then(|| Hint {
        text: "If an input is the same for all requests, such as a sample rate, set its value, and leave out rows = \"none\": \
               requests then share runs."
            .to_owned(),
        lines: lines.collect(),
    })
}
