//! Detectors of every layout: boxes, scores and classes equal those of a Python reference
//! (`tests/data/make_detectors.py`).

use std::io::Cursor;

use serde_json::{Map, Value};

use crate::harness::{Answer, Repository, TestApp, checkout, leeway, run};

fn golden() -> Map<String, Value> {
    let text = std::fs::read_to_string(checkout().join("tests/data/detectors/detectors.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn file(name: &str) -> std::path::PathBuf {
    checkout().join(format!("tests/data/detectors/{name}.onnx"))
}

fn model_toml(resize: &str, postprocess: &str) -> String {
    format!(
        "[preprocess]\nkind = \"image\"\nresize = \"{resize}\"\n[postprocess]\nkind = \"detector\"\n{postprocess}\n\
         [model]\nworkers = 1\n[budget]\ntotal_ms = 600000\n"
    )
}

/// An image of this size. Its content does not matter, because the models contain their answers.
fn image(size: &Value) -> Vec<u8> {
    let [width, height] = [0, 1].map(|side| u32::try_from(size[side].as_u64().unwrap()).unwrap());
    let mut file = Cursor::new(Vec::new());
    image::RgbImage::new(width, height).write_to(&mut file, image::ImageFormat::Png).unwrap();
    file.into_inner()
}

const LABELS: &str = "labels = [\"cat\", \"dog\", \"bird\"]\n";

/// Models, and their `[postprocess]` besides the labels.
const LAYOUTS: [(&str, &str); 15] = [
    ("yolov5", "layout = \"yolov5\""),
    ("yolov7", "layout = \"yolov7\""),
    ("yolox", "layout = \"yolox\""),
    ("yolox_decoded", "layout = \"yolov5\""),
    ("yolov8", "layout = \"yolov8\""),
    ("yolo11", "layout = \"yolo11\""),
    ("yolov8_nms", "layout = \"yolov10\""),
    ("yolov10", "layout = \"yolov10\""),
    ("rt_detr", "layout = \"rt-detr\""),
    ("rt_detr_ultralytics", "layout = \"yolov10\"\nformat = \"centre\"\nunit = \"parts\""),
    ("rt_detr_ultralytics_2024", "format = \"centre\"\nunit = \"parts\"\nboxes_last = false\noverlap = 1.0"),
    ("ssd", "layout = \"ssd\""),
    ("ssd_tensorflow", "layout = \"ssd\"\nformat = \"corners-down-first\""),
    (
        "yolov7_efficient_nms",
        "layout = \"rt-detr\"\nboxes = \"det_boxes\"\nscores = \"det_scores\"\nclasses = \"det_classes\"\ncount = \"num_dets\"",
    ),
    ("torchvision", "layout = \"torchvision\""),
];

fn check(name: &str, found: &Value, expected: &Value) {
    let (found, expected) = (found["detections"].as_array().unwrap(), expected.as_array().unwrap());
    let shown = || format!("{name}: found\n{found:#?}\nexpected\n{expected:#?}");
    assert_eq!(found.len(), expected.len(), "{}", shown());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found["label"], expected["label"], "{}", shown());
        let near = |found: &Value, expected: &Value, tolerance: f64| {
            (found.as_f64().unwrap() - expected.as_f64().unwrap()).abs() <= tolerance
        };
        assert!(near(&found["score"], &expected["score"], 1e-5), "{}", shown());
        // Pixels of an image with sides of a hundred.
        assert!((0..4).all(|side| near(&found["box"][side], &expected["box"][side], 1e-3)), "{}", shown());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn boxes_scores_and_classes_are_those_of_the_reference() {
    let models = golden();
    let repository = Repository::new();
    let mut cases: Vec<(&str, String)> = LAYOUTS.map(|(name, layout)| (name, format!("{layout}\n{LABELS}"))).to_vec();
    // A single class, whose score is not trained; and no class at all.
    cases.push(("yolov7_one_class", "layout = \"yolov7\"\nlabels = [\"cat\"]".to_owned()));
    cases.push(("torchvision_nothing", format!("layout = \"torchvision\"\n{LABELS}")));
    for (name, postprocess) in &cases {
        // The metadata that Ultralytics writes into the file names the classes.
        let names_itself = ["yolov5", "yolov8", "rt_detr_ultralytics"].contains(name);
        let postprocess = if names_itself { postprocess.replace(LABELS, "") } else { postprocess.clone() };
        repository.add_file(name, 1, &file(name));
        let model_toml = model_toml(models[*name]["resize"].as_str().unwrap(), &postprocess);
        std::fs::write(repository.0.path().join(name).join("model.toml"), model_toml).unwrap();
    }
    let app = TestApp::with(repository.config()).await;
    for (name, _) in &cases {
        let url = app.url(&format!("/v1/models/{name}:predict"));
        let request = app.client.post(url).header("content-type", "image/png").body(image(&models[*name]["image"]));
        let answer = Answer::of(request.send().await.unwrap()).await;
        check(name, &answer.predictions()[0], &models[*name]["detections"]);
    }
    assert!(!models["yolov5"]["detections"].as_array().unwrap().is_empty());
}

/// A request to a detector with a variable number of boxes has one image.
#[tokio::test(flavor = "multi_thread")]
async fn outputs_of_one_image_are_never_taken_for_several() {
    let repository = Repository::new();
    repository.add_file("torchvision", 1, &file("torchvision"));
    let model_toml = model_toml("stretch", &format!("layout = \"torchvision\"\n{LABELS}"));
    std::fs::write(repository.0.path().join("torchvision/model.toml"), model_toml).unwrap();
    let app = TestApp::with(repository.config()).await;
    use base64::Engine as _;
    let png = base64::engine::general_purpose::STANDARD.encode(image(&serde_json::json!([64, 64])));
    let body =
        |count: usize| serde_json::json!({ "instances": vec![serde_json::json!({ "b64": png }); count] }).to_string();
    assert_eq!(app.predict("/predict", body(1)).await.status, 200);
    let two = app.predict("/predict", body(2)).await;
    assert_eq!(two.status, 400);
    let detail = two.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("2 are too many for one request, at most 1"), "{detail}");
}

/// A wrong layout is detected when a version is added, by shapes, labels, or values that are not scores.
#[test]
fn a_layout_that_is_another_one_is_refused() {
    let models = golden();
    let add = |name: &str, postprocess: &str| {
        let repository = Repository::new();
        let folder = repository.0.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let resize = models[name]["resize"].as_str().unwrap();
        std::fs::write(folder.join("model.toml"), model_toml(resize, postprocess)).unwrap();
        run(leeway(&["add"]).arg(&folder).args(["--onnx", file(name).to_str().unwrap()]))
    };
    for (name, layout, labels, problem) in [
        // Objectness read as a class, and a class read as objectness.
        (
            "yolov7",
            "format = \"centre\"",
            LABELS,
            "labels: there are 3, but by its shape the output \"output\" has scores of 4",
        ),
        ("yolov8", "layout = \"yolov5\"", "", "is it another layout?"),
        (
            "yolo11",
            "layout = \"yolov5\"",
            LABELS,
            "labels: there are 3, but by its shape the output \"output0\" has scores of 79",
        ),
        ("yolov10", "layout = \"yolov8\"", "", "is it another layout?"),
        (
            "yolov10",
            "format = \"corners\"",
            "",
            "where a score was expected, a probability from 0 to 1; is it another layout?",
        ),
        ("yolov10", "layout = \"ssd\"", LABELS, "boxes: name the output; the model has: output0"),
        ("ssd", "layout = \"torchvision\"", LABELS, "but [boxes, 4] was expected"),
        ("torchvision", "layout = \"rt-detr\"", LABELS, "but [rows, boxes, 4] was expected"),
        ("yolov5", "layout = \"yolov10\"", "", "but [rows, boxes, 6] was expected"),
        ("yolov7", "layout = \"yolox\"", "", "have 84 cells for 64 x 64 pixels; is it another layout?"),
        ("yolov7_end2end", "layout = \"yolov10\"", LABELS, "but [rows, boxes, 6] was expected"),
        (
            "rt_detr",
            "layout = \"rt-detr\"",
            "labels = [\"cat\", \"dog\"]\n",
            "but one from 0 to 1 (2 labels) was expected",
        ),
        (
            "rt_detr_two_inputs",
            "layout = \"rt-detr\"",
            LABELS,
            "kind = \"image\" needs a model with one input; this one has 2",
        ),
        (
            "torchvision_list",
            "layout = \"torchvision\"",
            LABELS,
            "an image has height, width and channels (the model's input \"images\" is float32[3, 64, 64])",
        ),
        ("yolov5", "", "", "layout: say how the model returns boxes"),
    ] {
        let (status, said) = add(name, &format!("{layout}\n{labels}"));
        assert_ne!(status, 0, "{name} {layout}: {said}");
        assert!(said.contains(problem), "{name} {layout}: {said}");
    }
}
