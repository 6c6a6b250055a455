//! Chooses the postprocessor from the evidence. Where nothing shows how outputs are read, the postprocessor is `tensor`,
//! which answers the model's own outputs.

use std::path::PathBuf;

use serde_json::Value;

use super::evidence::{Evidence, Ultralytics, is_float, is_one_element, row, texts, width};
use super::inputs::Input;
use super::proposal::{Hint, Stage};
use crate::tensor::{DType, Dim, TensorSpec};

/// Maximum number of class names in `model.toml`. More are read from `config.json`.
const MAX_LISTED: usize = 100;

/// Operators of `ai.onnx.ml` whose outputs are the scores of classes.
const CLASSIFIERS: [&str; 3] = ["LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier"];

/// Operators of `ai.onnx.ml` whose output is a number.
const REGRESSORS: [&str; 3] = ["LinearRegressor", "SVMRegressor", "TreeEnsembleRegressor"];

/// Operators whose outputs are sums of products, which are no probabilities.
const LINEAR: [&str; 4] = ["Gemm", "MatMul", "Add", "Conv"];

/// A postprocessor, and the files that it reads.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Output {
    pub(super) stage: Stage,
    pub(super) files: Vec<PathBuf>,
}

/// Chooses the postprocessor.
pub(super) fn choose(evidence: &Evidence<'_>, input: &Input) -> Output {
    let stage = match input.stage.kind {
        "image" => of_ultralytics(evidence).or_else(|| of_hugging_face(evidence, "image")),
        "text" => of_hugging_face(evidence, "text").or_else(|| embedding(evidence)),
        _ => None,
    };
    let stage = stage
        .or_else(|| anomaly(evidence))
        .or_else(|| classifier(evidence))
        .or_else(|| network_with_class_names(evidence))
        .or_else(|| regressor(evidence))
        .unwrap_or_else(|| tensors(evidence, &input.stage));
    let reads_config = stage.settings.iter().any(|setting| setting.key == "labels" && setting.value.is_string());
    let files = evidence.files.config.clone().filter(|_| reads_config).into_iter().collect();
    Output { stage, files }
}

/// Returns the postprocessor that answers the model's own outputs.
pub(super) fn tensors(evidence: &Evidence<'_>, preprocess: &Stage) -> Stage {
    let stage = Stage::new("tensor", "A prediction is the model's own outputs, by name.");
    let hint = match preprocess.kind {
        "text" => pooling_hint(evidence),
        _ => detector_hint(evidence).or_else(|| class_hint(evidence)),
    };
    match hint {
        Some(hint) => stage.with_hint(hint),
        None => stage,
    }
}

// ===== scikit-learn, gradient boosting =====

/// Outputs of scikit-learn's detectors of anomalies: a label and a score.
fn anomaly(evidence: &Evidence<'_>) -> Option<Stage> {
    let [label, scores] = &*evidence.signature.outputs else { return None };
    let is_pair = label.dtype == DType::I64
        && &*label.name == "label"
        && &*scores.name == "scores"
        && is_float(scores.dtype)
        && [label, scores].into_iter().all(is_one_element);
    let has_classifier = CLASSIFIERS.iter().any(|operator| evidence.facts.operators.contains(*operator));
    (is_pair && !has_classifier).then(|| {
        let reason = "A prediction is a label, -1 for an anomaly and 1 for a normal row, and a score: the outputs are named as \
                      those of scikit-learn's detectors of anomalies.";
        Stage::new("anomaly", reason).with("output", "scores", "The output with the scores.")
    })
}

/// Outputs of a classifier whose classes the graph names.
fn classifier(evidence: &Evidence<'_>) -> Option<Stage> {
    let floats = evidence.float_outputs();
    let named = |output: &&&TensorSpec| {
        let classes = evidence.classes.of_scores.get(&*output.name);
        classes.is_some_and(|classes| !classes.names.is_empty())
    };
    let mut with_names = floats.iter().filter(named);
    let (Some(scores), None) = (with_names.next(), with_names.next()) else { return None };
    let names = evidence.classes.of_scores.get(&*scores.name)?.names.first()?;
    let listed: Vec<String> = names.labels.iter().take(10).map(ToString::to_string).collect();
    let more = names.labels.len().saturating_sub(listed.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let reason = format!(
        "A prediction is a class, its confidence, and the runners-up. The names of the classes are in the file ({}): {}{more}. \
         To give others, set labels, in the order of the scores.",
        names.source,
        listed.join(", ")
    );
    let mut stage = Stage::new("classifier", reason);
    if floats.len() > 1 {
        stage = stage.with("output", &*scores.name, "The output with a score for each class.");
    }
    stage = stage.with("scores", "probabilities", "The scores of the rows that were tried add up to 1.");
    // scikit-learn's classifiers of several labels answer 0 or 1 for each.
    let is_choice =
        |output: &TensorSpec| output.dtype == DType::I64 && width(output).flatten().is_some_and(|width| width > 1);
    Some(match evidence.signature.outputs.iter().any(is_choice) {
        true => stage.with("multi_label", true, "The model's own output of labels has 0 or 1 for each class."),
        false => stage,
    })
}

/// The only output of a regressor of one target.
fn regressor(evidence: &Evidence<'_>) -> Option<Stage> {
    let [output] = &*evidence.signature.outputs else { return None };
    let is_usual = ["variable", "predictions"].contains(&&*output.name);
    let is_regressor = evidence.last_operator(&output.name).is_some_and(|last| REGRESSORS.contains(&last));
    let is_number = is_float(output.dtype) && is_one_element(output);
    (is_number && (is_usual || is_regressor)).then(|| {
        let reason = "A prediction is one number: the model has one output with one number for each row. If the target was \
                      scaled or its logarithm was taken, set scale, offset or inverse to convert it back.";
        Stage::new("regressor", reason)
    })
}

// ===== networks =====

/// A network with a score for each class that the metadata of the file name.
fn network_with_class_names(evidence: &Evidence<'_>) -> Option<Stage> {
    let [output] = &*evidence.signature.outputs else { return None };
    let count = evidence.named_classes()?;
    if !is_float(output.dtype) || width(output)? != Some(count) {
        return None;
    }
    let reason = "A prediction is a class, its confidence, and the runners-up: the metadata of the file name as many classes \
                  as the output has scores. To give other names, set labels, in the order of the scores.";
    let stage = Stage::new("classifier", reason);
    match evidence.last_operator(&output.name)? {
        "Softmax" => Some(stage.with("scores", "probabilities", "The last operator is Softmax.")),
        last if LINEAR.contains(&last) => {
            let reason = format!(
                "The last operator is {last}, so that the scores are taken for logits of which one class is true. If several \
                 can be true, set multi_label = true."
            );
            Some(stage.with_guess("scores", "logits", reason))
        }
        _ => None,
    }
}

/// Outputs of Ultralytics' exports.
fn of_ultralytics(evidence: &Evidence<'_>) -> Option<Stage> {
    let Ultralytics { task, .. } = evidence.ultralytics()?;
    let [output] = &*evidence.signature.outputs else { return None };
    if task == "classify" {
        return network_with_class_names(evidence);
    }
    let is_suppressed = evidence.facts.metadata.get("end2end").is_some_and(|value| value == "True")
        || evidence.facts.operators.contains("NonMaxSuppression");
    let (layout, why) = ultralytics_layout(&task, row(output), evidence.named_classes()?, is_suppressed)?;
    let reason =
        "A prediction is the boxes in the image that was sent, with the class names in the metadata of the file.";
    let stage = Stage::new("detector", reason).with("layout", layout, why).with_guess(
        "threshold",
        0.25,
        "Boxes with a lower score are left out, as in Ultralytics' predict.",
    );
    let overlap = "Of boxes of one class that overlap by more, only the best is answered, as in Ultralytics' predict.";
    Some(match layout {
        "yolov8" => stage.with_guess("overlap", 0.7, overlap),
        "yolov5" => stage.with_guess("overlap", 0.45, overlap),
        _ => stage,
    })
}

/// Returns the layout of the boxes of an Ultralytics detector, by the shape of a row. `is_suppressed` is true if the
/// model itself leaves overlapping boxes out: RT-DETR has the shape of YOLOv10, but other boxes.
fn ultralytics_layout(task: &str, row: &[Dim], classes: usize, is_suppressed: bool) -> Option<(&'static str, String)> {
    let fixed = |dim: &Dim| if let Dim::Fixed(length) = dim { Some(*length) } else { None };
    let [first, second] = row else { return None };
    let (first, second) = (fixed(first), fixed(second));
    match task {
        "detect" if is_suppressed && second == Some(6) && first != Some(4 + classes) => Some((
            "yolov10",
            "A row of the output has boxes of six numbers: the model leaves overlapping boxes out.".to_owned(),
        )),
        "detect" if !is_suppressed && first == Some(4 + classes) => Some((
            "yolov8",
            format!("A row of the output has 4 numbers and {classes} scores for each box, boxes last."),
        )),
        "detect" if !is_suppressed && second == Some(5 + classes) && first.is_some_and(|boxes| boxes > 300) => Some((
            "yolov5",
            format!(
                "A row of the output has 4 numbers, the objectness and {classes} scores for each box, boxes first."
            ),
        )),
        _ => None,
    }
}

/// Outputs of a model whose architecture `config.json` names.
fn of_hugging_face(evidence: &Evidence<'_>, kind: &str) -> Option<Stage> {
    let config = evidence.files.hugging_face.config.as_ref()?;
    let floats = evidence.float_outputs();
    let logits = match &*floats {
        [only] => only,
        several => several.iter().find(|output| &*output.name == "logits")?,
    };
    let last = evidence.last_operator(&logits.name);
    let (scores, why) = match last {
        Some("Softmax" | "Sigmoid") => ("probabilities", "The last operator makes probabilities."),
        _ => ("logits", "Models of this architecture answer logits."),
    };
    let architecture = config.architecture()?;
    let of = |stage: &'static str, prediction: &str| {
        let stage = Stage::new(stage, format!("{prediction}: config.json says {architecture}."));
        if floats.len() > 1 { stage.with("output", &*logits.name, "The output with the scores.") } else { stage }
    };
    let labels = config.labels()?;
    let labelled = |stage: Stage| {
        let value: Value = if labels.len() <= MAX_LISTED { texts(&labels) } else { "config.json".into() };
        stage.with("scores", scores, why).with("labels", value, "id2label in config.json.")
    };
    let is_classifier = kind == "text" && config.is_for("ForSequenceClassification")
        || kind == "image" && config.is_for("ForImageClassification");
    match config.problem_type.as_deref() {
        Some("regression") if is_classifier => {
            (labels.len() == 1).then(|| of("regressor", "A prediction is one number"))
        }
        _ if is_classifier && labels.len() == 1 => Some(of("regressor", "A prediction is the model's score")),
        Some("multi_label_classification") if is_classifier => {
            Some(labelled(of("classifier", "A prediction is any number of classes")).with(
                "multi_label",
                true,
                "problem_type in config.json.",
            ))
        }
        _ if is_classifier && last == Some("Sigmoid") => None,
        _ if is_classifier => {
            Some(labelled(of("classifier", "A prediction is a class, its confidence, and the runners-up")))
        }
        _ if kind == "text" && config.is_for("ForTokenClassification") => {
            Some(labelled(of("token-classifier", "A prediction is the entities in the text")))
        }
        _ if kind == "image" && config.is_for("ForSemanticSegmentation") => {
            Some(labelled(of("mask", "A prediction is the class of each pixel")))
        }
        _ => None,
    }
}

/// Vectors of texts, as sentence-transformers makes them.
fn embedding(evidence: &Evidence<'_>) -> Option<Stage> {
    let floats = evidence.float_outputs();
    if let Some(pooled) = floats.iter().find(|output| &*output.name == "sentence_embedding" && output.dims.len() == 2) {
        let stage = Stage::new("embedding", "A prediction is the vector of the text, which the model itself makes.");
        return Some(stage.with("output", &*pooled.name, "The output with one vector for each text.").with(
            "normalise",
            false,
            "Vectors are answered as the model makes them.",
        ));
    }
    let (pooling, normalise) = evidence.files.hugging_face.pooling()?;
    let names = ["last_hidden_state", "token_embeddings"];
    let tokens = floats.iter().find(|output| names.contains(&&*output.name) && output.dims.len() == 3)?;
    let stage = Stage::new("embedding", "A prediction is the vector of the text, as sentence-transformers makes it.");
    Some(
        stage
            .with("output", &*tokens.name, "The output with a vector for each token.")
            .with("pooling", pooling, "1_Pooling/config.json.")
            .with("normalise", normalise, "The module Normalize in modules.json."),
    )
}

// ===== hints =====

fn pooling_hint(evidence: &Evidence<'_>) -> Option<Hint> {
    let floats = evidence.float_outputs();
    let tokens = floats.iter().find(|output| output.dims.len() == 3)?;
    Some(Hint {
        text: "CHECK: For one vector for each text, say how those of the tokens are combined (there is no \
               1_Pooling/config.json of sentence-transformers beside the model), for example:"
            .to_owned(),
        lines: vec![
            "[postprocess]".to_owned(),
            "kind = \"embedding\"".to_owned(),
            format!("output = {}", Value::from(&*tokens.name)),
            "pooling = \"mean\"                   # or \"cls\", \"max\"".to_owned(),
        ],
    })
}

/// Returns the postprocessor of a classifier without names for its classes.
fn class_hint(evidence: &Evidence<'_>) -> Option<Hint> {
    let floats = evidence.float_outputs();
    let [output] = &*floats else { return None };
    let classes = width(output)?.filter(|classes| *classes > 1)?;
    let scores = match evidence.last_operator(&output.name)? {
        "Softmax" => "probabilities",
        last if LINEAR.contains(&last) => "logits",
        _ => return None,
    };
    Some(Hint {
        text: format!(
            "CHECK: If the {classes} numbers of the output are scores of classes, replace the section above by one with the \
             names of the classes, in the order of the scores:"
        ),
        lines: vec![
            "[postprocess]".to_owned(),
            "kind = \"classifier\"".to_owned(),
            format!("scores = \"{scores}\""),
            "labels = [\"…\", …]".to_owned(),
        ],
    })
}

/// Returns the layout of a detector that the shape of the output suggests.
fn detector_hint(evidence: &Evidence<'_>) -> Option<Hint> {
    let input = evidence.image_input()?;
    let floats = evidence.float_outputs();
    let [output] = &*floats else { return None };
    let (layout, why) = layout_by_shape(row(output), input.height, input.width)?;
    Some(Hint {
        text: format!(
            "CHECK: The output looks like the boxes of a detector: {why}. Nothing in the file says so, and another layout of \
             this shape would give wrong boxes. If it is right, replace both stages by:"
        ),
        lines: vec![
            "[preprocess]".to_owned(),
            "kind = \"image\"".to_owned(),
            "resize = \"fit\"".to_owned(),
            "fill = 114".to_owned(),
            "[postprocess]".to_owned(),
            "kind = \"detector\"".to_owned(),
            format!("layout = \"{layout}\""),
        ],
    })
}

/// Returns the layout that the shape of a row suggests. YOLOv5 has three boxes for each cell of three grids, YOLOX one.
fn layout_by_shape(row: &[Dim], height: Option<usize>, width: Option<usize>) -> Option<(&'static str, String)> {
    let [Dim::Fixed(first), Dim::Fixed(second)] = *row else { return None };
    let cells: usize =
        [8, 16, 32].iter().map(|step| Some((height? / step) * (width? / step))).sum::<Option<usize>>()?;
    match (first, second) {
        (boxes, 6) if (100..=1_000).contains(&boxes) => {
            Some(("yolov10", format!("{boxes} boxes of six numbers each, as YOLOv10 has them")))
        }
        (boxes, 5..) if boxes == 3 * cells => Some((
            "yolov5",
            format!("{boxes} boxes, three for each cell of three grids, as YOLOv5 and YOLOv7 have them"),
        )),
        (boxes, 6..) if boxes == cells => {
            Some(("yolox", format!("{boxes} boxes, one for each cell of three grids, as YOLOX has them")))
        }
        (5.., boxes) if boxes == cells => Some((
            "yolov8",
            format!("{boxes} boxes in the last dimension, one for each cell, as YOLOv8 and YOLO11 have them"),
        )),
        _ => None,
    }
}
