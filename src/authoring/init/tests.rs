//! Proposals for evidence of many kinds of models.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::json;

use super::decide::proposals;
use super::evidence::Evidence;
use super::hugging_face::HuggingFaceFiles;
use super::mlflow::MlflowModel;
use super::model_files::ModelFiles;
use super::proposal::{Proposal, Stage};
use crate::authoring::table_columns::TableColumn;
use crate::pipeline::{Label, ModelClasses, NamedClasses, OutputClasses};
use crate::repository::ModelFacts;
use crate::tensor::{DType, Dim, Signature, TensorSpec};

/// Evidence that owns its parts.
#[derive(Default)]
struct Known {
    signature: Signature,
    classes: ModelClasses,
    facts: ModelFacts,
    files: ModelFiles,
    columns: Option<Vec<TableColumn>>,
}

/// Returns a tensor written as in `x: float32 ? 4`, in which `?` is an open dimension.
fn tensor(text: &str) -> TensorSpec {
    let (name, rest) = text.split_once(": ").unwrap();
    let mut words = rest.split(' ');
    let dtype = match words.next().unwrap() {
        "float32" => DType::F32,
        "int64" => DType::I64,
        "string" => DType::Text,
        other => panic!("{other}"),
    };
    let dim = |word: &str| word.parse().map_or(Dim::Dynamic(None), Dim::Fixed);
    TensorSpec { name: name.into(), dtype, dims: words.map(dim).collect() }
}

fn model(inputs: &[&str], outputs: &[&str]) -> Known {
    let specs = |texts: &[&str]| texts.iter().map(|text| tensor(text)).collect();
    let signature = Signature { inputs: specs(inputs), outputs: specs(outputs), ..Signature::default() };
    Known { signature, ..Known::default() }
}

impl Known {
    /// Names the classes of an output in the graph.
    fn named(mut self, output: &str, labels: &[&str]) -> Known {
        let labels = labels.iter().map(|label| Label::Text((*label).into())).collect();
        let names = vec![NamedClasses { labels, source: "classlabels_strings".to_owned() }];
        self.classes.of_scores.insert(output.to_owned(), OutputClasses { names, label_output: None });
        self
    }

    /// Adds metadata; those called `names` also name the classes.
    fn metadata(mut self, metadata: &[(&str, &str)], classes: usize) -> Known {
        self.facts.metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let labels = (0..classes).map(|class| Label::Text(format!("c{class}").into())).collect();
        self.classes.of_metadata = vec![NamedClasses { labels, source: "metadata".to_owned() }];
        self
    }

    fn operators(mut self, output: &str, operators: &[&str]) -> Known {
        let operators: Vec<String> = operators.iter().map(|operator| (*operator).to_owned()).collect();
        self.facts.operators.extend(operators.iter().cloned());
        self.facts.before_output.insert(output.to_owned(), operators);
        self
    }

    /// Adds `config.json` and `tokenizer.json` of Hugging Face.
    fn hugging_face(mut self, config: serde_json::Value) -> Known {
        self.files.tokenizer = Some(PathBuf::from("tokenizer.json"));
        self.files.config = Some(PathBuf::from("config.json"));
        self.files.hugging_face.config = serde_json::from_value(config).unwrap();
        self
    }

    fn all(&self) -> Vec<Proposal> {
        proposals(&Evidence {
            signature: &self.signature,
            classes: &self.classes,
            facts: &self.facts,
            files: &self.files,
            columns: self.columns.as_deref(),
        })
    }

    /// Returns the kinds of the first proposal, and its settings.
    fn check(&self, preprocess: &str, postprocess: &str, settings: &serde_json::Value) {
        let first = &self.all()[0];
        assert_eq!((first.preprocess.kind, first.postprocess.kind), (preprocess, postprocess), "{first:?}");
        let of =
            |stage: &Stage| stage.settings.iter().map(|one| (one.key.clone(), one.value.clone())).collect::<Vec<_>>();
        let all: BTreeMap<String, serde_json::Value> =
            of(&first.preprocess).into_iter().chain(of(&first.postprocess)).collect();
        for (key, value) in settings.as_object().unwrap() {
            assert_eq!(all.get(key).unwrap_or(&serde_json::Value::Null), value, "{key}: {all:?}");
        }
    }
}

#[test]
fn a_classifier_is_recognised_by_the_names_in_its_graph() {
    let outputs = ["label: string ?", "probabilities: float32 ? 2"];
    let known = model(&["x: float32 ? 4"], &outputs).named("probabilities", &["a", "b"]);
    known.check("tensor", "classifier", &json!({ "scores": "probabilities", "multi_label": null }));
    model(&["x: float32 ? 4"], &outputs).check("tensor", "tensor", &json!({}));
    let outputs = ["label: int64 ? 2", "probabilities: float32 ? 2"];
    let known = model(&["x: float32 ? 4"], &outputs).named("probabilities", &["a", "b"]);
    known.check("tensor", "classifier", &json!({ "multi_label": true }));
}

#[test]
fn numbers_and_anomalies_are_recognised_by_the_names_of_outputs() {
    model(&["x: float32 ? 4"], &["variable: float32 ? 1"]).check("tensor", "regressor", &json!({}));
    model(&["x: float32 ? 4"], &["variable: float32 ? 3"]).check("tensor", "tensor", &json!({}));
    model(&["x: float32 ? 4"], &["y: float32 ? 1"]).check("tensor", "tensor", &json!({}));
    let known = model(&["x: float32 ? 4"], &["y: float32 ?"]).operators("y", &["Reshape", "TreeEnsembleRegressor"]);
    known.check("tensor", "regressor", &json!({}));
    let outputs = ["label: int64 ? 1", "scores: float32 ? 1"];
    model(&["x: float32 ? 4"], &outputs).check("tensor", "anomaly", &json!({ "output": "scores" }));
    let known = model(&["x: float32 ? 4"], &outputs).operators("scores", &["LinearClassifier"]);
    known.check("tensor", "tensor", &json!({}));
}

#[test]
fn a_network_is_a_classifier_only_if_its_classes_have_names() {
    let network = |last: &str| model(&["x: float32 ? 4"], &["y: float32 ? 3"]).operators("y", &[last]);
    network("Softmax").check("tensor", "tensor", &json!({}));
    network("Softmax").metadata(&[], 3).check("tensor", "classifier", &json!({ "scores": "probabilities" }));
    network("Gemm").metadata(&[], 3).check("tensor", "classifier", &json!({ "scores": "logits" }));
    assert_eq!(network("Gemm").metadata(&[], 3).all()[0].guesses(), ["postprocess.scores"]);
    network("Gemm").metadata(&[], 4).check("tensor", "tensor", &json!({}));
    // Sigmoid may be one of several labels, or one of several classes.
    network("Sigmoid").metadata(&[], 3).check("tensor", "tensor", &json!({}));
    let hint = &network("Softmax").all()[0].postprocess.hints[0];
    assert!(hint.lines.contains(&"scores = \"probabilities\"".to_owned()), "{hint:?}");
}

#[test]
fn inputs_of_one_element_are_columns() {
    let inputs = ["age: float32 ? 1", "plan: string ? 1"];
    let mut known = model(&inputs, &["variable: float32 ? 1"]);
    known.check("tabular", "regressor", &json!({ "columns": null }));
    let column = |name: &str, has_missing| TableColumn { name: name.to_owned(), has_missing };
    known.columns = Some(vec![column("age", true), column("plan", true)]);
    known.check(
        "tabular",
        "regressor",
        &json!({ "columns": [{ "name": "age", "missing": "nan" }, { "name": "plan" }] }),
    );
    assert_eq!(known.all()[0].guesses(), ["preprocess.columns"]);
    model(&["text: string ? 1"], &["y: float32 ? 1"]).check("tabular", "tensor", &json!({}));
    model(&["age: float32 ? 1", "pixels: float32 ? 8"], &["y: float32 ? 1"]).check("tensor", "tensor", &json!({}));
}

#[test]
fn columns_of_one_input_need_names() {
    let mut known = model(&["x: float32 ? 2"], &["y: float32 ? 1"]);
    known.check("tensor", "tensor", &json!({}));
    let columns = Some(vec!["b".to_owned(), "a".to_owned()]);
    known.files.mlflow = Some(MlflowModel { columns, ..MlflowModel::default() });
    known.check("tabular", "tensor", &json!({ "columns": [{ "name": "b" }, { "name": "a" }] }));
    known.files.mlflow = Some(MlflowModel { columns: Some(vec!["a".to_owned()]), ..MlflowModel::default() });
    known.check("tensor", "tensor", &json!({}));
}

const TOKENS: [&str; 2] = ["input_ids: int64 ? ?", "attention_mask: int64 ? ?"];

#[test]
fn a_transformer_with_its_tokenizer_takes_texts() {
    let labels = json!({ "0": "NEGATIVE", "1": "POSITIVE" });
    let config = json!({ "architectures": ["BertForSequenceClassification"], "id2label": labels, "max_position_embeddings": 512 });
    let known = model(&TOKENS, &["logits: float32 ? 2"]).hugging_face(config.clone());
    known.check(
        "text",
        "classifier",
        &json!({ "scores": "logits", "labels": ["NEGATIVE", "POSITIVE"], "max_tokens": 512, "too_long": "truncate" }),
    );
    assert_eq!(known.all()[0].files, [PathBuf::from("tokenizer.json")]);
    let mut several = config.clone();
    several["problem_type"] = json!("multi_label_classification");
    let known = model(&TOKENS, &["logits: float32 ? 2"]).hugging_face(several);
    known.check("text", "classifier", &json!({ "multi_label": true }));
    let mut one = config.clone();
    one["id2label"] = json!({ "0": "LABEL_0" });
    model(&TOKENS, &["logits: float32 ? 1"]).hugging_face(one).check("text", "regressor", &json!({}));
    let mut tokens = config.clone();
    tokens["architectures"] = json!(["BertForTokenClassification"]);
    let known = model(&TOKENS, &["logits: float32 ? ? 2"]).hugging_face(tokens);
    known.check("text", "token-classifier", &json!({ "scores": "logits" }));
    // A decoder takes more than tokens.
    let inputs = [TOKENS[0], "past: float32 ? 2"];
    model(&inputs, &["logits: float32 ? ? 9"]).hugging_face(config).check("tensor", "tensor", &json!({}));
    let without = model(&TOKENS, &["logits: float32 ? 2"]);
    without.check("tensor", "tensor", &json!({}));
    assert!(without.all()[0].preprocess.hints[0].text.contains("put the model's tokenizer.json beside"));
}

#[test]
fn many_labels_are_read_from_their_file() {
    let labels: BTreeMap<String, String> = (0..1_000).map(|class| (class.to_string(), format!("c{class}"))).collect();
    let config = json!({ "architectures": ["BertForSequenceClassification"], "id2label": labels });
    let known = model(&TOKENS, &["logits: float32 ? 1000"]).hugging_face(config);
    known.check("text", "classifier", &json!({ "labels": "config.json" }));
    assert_eq!(known.all()[0].files, [PathBuf::from("tokenizer.json"), PathBuf::from("config.json")]);
}

#[test]
fn vectors_of_tokens_are_pooled_only_as_sentence_transformers_says() {
    let outputs = ["last_hidden_state: float32 ? ? 8"];
    let mut known = model(&TOKENS, &outputs).hugging_face(json!({ "architectures": ["BertModel"] }));
    known.check("text", "tensor", &json!({}));
    assert!(known.all()[0].postprocess.hints[0].lines.contains(&"kind = \"embedding\"".to_owned()));
    let module = |kind: &str| json!({ "type": format!("sentence_transformers.models.{kind}") });
    let modules = json!([module("Transformer"), module("Pooling"), module("Normalize")]);
    let prompts = json!({ "default_prompt_name": "query" });
    known.files.hugging_face = HuggingFaceFiles {
        pooling: serde_json::from_value(json!({ "pooling_mode_mean_tokens": true })).unwrap(),
        modules: serde_json::from_value(modules).unwrap(),
        prompts: serde_json::from_value(prompts).unwrap(),
        ..known.files.hugging_face
    };
    known.check("text", "embedding", &json!({ "pooling": "mean", "normalise": true }));
    assert!(known.all()[0].preprocess.hints[0].text.contains("puts the prompt \"query\""));
    // Without the preprocessor of texts, padding would count.
    assert!(
        known
            .all()
            .iter()
            .all(|proposal| proposal.postprocess.kind != "embedding" || proposal.preprocess.kind == "text")
    );
    let outputs = ["token_embeddings: float32 ? ? 8", "sentence_embedding: float32 ? 8"];
    let known = model(&TOKENS, &outputs).hugging_face(json!({}));
    known.check("text", "embedding", &json!({ "output": "sentence_embedding", "normalise": false, "pooling": null }));
}

#[test]
fn images_are_prepared_only_as_a_file_says() {
    let mut known = model(&["x: float32 ? 3 8 8"], &["logits: float32 ? 2"]);
    known.check("tensor", "tensor", &json!({}));
    assert!(known.all()[0].preprocess.hints[0].text.contains("nothing says how images are prepared"));
    let processor = json!({ "image_processor_type": "ViTImageProcessor", "size": { "height": 8, "width": 8 }, "resample": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5] });
    known.files.hugging_face.image_processor = processor.as_object().cloned();
    let labels = json!({ "0": "cat", "1": "dog" });
    let known = known.hugging_face(json!({ "architectures": ["ViTForImageClassification"], "id2label": labels }));
    known.check("image", "classifier", &json!({ "size": [8, 8], "mean": [0.5, 0.5, 0.5], "labels": ["cat", "dog"] }));
    // The model takes another size.
    let other = Known { signature: model(&["x: float32 ? 3 9 9"], &["logits: float32 ? 2"]).signature, ..known };
    other.check("tensor", "tensor", &json!({}));
}

#[test]
fn the_layout_of_a_detector_is_taken_from_its_metadata_and_shape() {
    let of = |output: &str, task: &[(&str, &str)]| {
        let metadata = [&[("names", "{0: 'c0'}"), ("stride", "32"), ("imgsz", "[64, 64]")], task].concat();
        model(&["images: float32 1 3 64 64"], &[&format!("output0: float32 1 {output}")]).metadata(&metadata, 2)
    };
    let detect = [("task", "detect")];
    of("6 84", &detect).check("image", "detector", &json!({ "layout": "yolov8", "fill": 114, "resize": "fit" }));
    of("5040 7", &[]).check("image", "detector", &json!({ "layout": "yolov5" }));
    of("300 6", &[("task", "detect"), ("end2end", "True")]).check("image", "detector", &json!({ "layout": "yolov10" }));
    // RT-DETR has the same shape, but other boxes.
    of("300 6", &detect).check("image", "tensor", &json!({}));
    of("40 84", &[("task", "segment")]).check("image", "tensor", &json!({}));
    let classify = of("2", &[("task", "classify")]).operators("output0", &["Softmax"]);
    classify.check("image", "classifier", &json!({ "scores": "probabilities", "resize": "crop" }));
    // Without metadata, the layout is only a hint.
    let unnamed = model(&["images: float32 1 3 64 64"], &["y: float32 1 84 7"]);
    unnamed.check("tensor", "tensor", &json!({}));
    assert!(unnamed.all()[0].postprocess.hints[0].lines.contains(&"layout = \"yolox\"".to_owned()));
}

#[test]
fn the_last_proposals_answer_the_models_own_outputs() {
    let known =
        model(&["x: float32 ? 4", "sr: int64"], &["probabilities: float32 ? 2"]).named("probabilities", &["a", "b"]);
    let all = known.all();
    let [.., rows, whole] = &*all else { panic!("{all:?}") };
    for proposal in [rows, whole] {
        assert_eq!((proposal.preprocess.kind, proposal.postprocess.kind), ("tensor", "tensor"));
    }
    assert_eq!((rows.model.len(), &whole.model[0].value), (0, &json!("none")));
    assert!(whole.preprocess.hints[0].lines.contains(&"[model.inputs.sr]".to_owned()), "{whole:?}");
    // A model without any evidence has only these two.
    assert_eq!(model(&["x: float32 ? 4"], &["y: float32 ? 2"]).all().len(), 2);
}
