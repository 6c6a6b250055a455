//! Masks of `kind = "mask"`: classes, shares and confidences equal those of a Python reference
//! (`tests/data/make_masks.py`), at the size of the image that was sent.

use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::harness::{Answer, Repository, TestApp, checkout, leeway, run};

fn golden() -> Map<String, Value> {
    let text = std::fs::read_to_string(checkout().join("tests/data/masks/masks.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn file(name: &str) -> std::path::PathBuf {
    checkout().join(format!("tests/data/masks/{name}.onnx"))
}

fn model_toml(preprocess: &str, postprocess: &str) -> String {
    format!(
        "[preprocess]\n{preprocess}\n[postprocess]\nkind = \"mask\"\n{postprocess}\n[model]\nworkers = 1\n[budget]\n\
         total_ms = 600000\n"
    )
}

/// A repository with the model of each of these cases, named `case-0` and so on.
fn repository(cases: &[(&String, &Value)], more: &str) -> Repository {
    let repository = Repository::new();
    for (index, (_, case)) in cases.iter().enumerate() {
        let name = format!("case-{index}");
        repository.add_file(&name, 1, &file(case["model"].as_str().unwrap()));
        let resize = format!("kind = \"image\"\nresize = {}", case["resize"]);
        let postprocess = format!("{}\n{more}", case["postprocess"].as_str().unwrap());
        std::fs::write(repository.0.path().join(&name).join("model.toml"), model_toml(&resize, &postprocess)).unwrap();
    }
    repository
}

/// The image of a case: a PNG of one colour.
fn image(case: &Value) -> Vec<u8> {
    let [width, height] = [0, 1].map(|side| u32::try_from(case["image"][side].as_u64().unwrap()).unwrap());
    let value = u8::try_from(case["value"].as_u64().unwrap()).unwrap();
    let mut file = Cursor::new(Vec::new());
    let image = image::RgbImage::from_pixel(width, height, image::Rgb([value; 3]));
    image.write_to(&mut file, image::ImageFormat::Png).unwrap();
    file.into_inner()
}

async fn ask(app: &TestApp, index: usize, image: Vec<u8>) -> Value {
    let url = app.url(&format!("/v1/models/case-{index}:predict"));
    let request = app.client.post(url).header("content-type", "image/png").body(image);
    Answer::of(request.send().await.unwrap()).await.predictions()[0].clone()
}

fn near(found: &Value, expected: &Value) -> bool {
    match (found.as_f64(), expected.as_f64()) {
        (Some(found), Some(expected)) => (found - expected).abs() < 1e-5,
        (found, expected) => found == expected,
    }
}

/// Checks size and classes; the pixels are checked separately for each format.
fn check(name: &str, found: &Value, expected: &Value) {
    assert_eq!(found["size"], expected["size"], "{name}");
    let (found, expected) = (found["classes"].as_array().unwrap(), expected["classes"].as_array().unwrap());
    assert_eq!(found.len(), expected.len(), "{name}: {found:?}");
    for (found, expected) in found.iter().zip(expected) {
        let both = format!("{name}: found {found}, expected {expected}");
        assert_eq!((&found["class"], &found["label"]), (&expected["class"], &expected["label"]), "{both}");
        assert!(near(&found["share"], &expected["share"]), "{both}");
        assert!(near(&found["confidence"], &expected["confidence"]), "{both}");
    }
}

/// The classes of all pixels, row by row, from the run lengths of a case; 255 where there is no class.
fn pixels(case: &Value) -> Vec<u8> {
    let [height, width] = [0, 1].map(|side| usize::try_from(case["size"][side].as_u64().unwrap()).unwrap());
    let mut pixels = vec![255; width * height];
    for class in case["classes"].as_array().unwrap() {
        let number = u8::try_from(class["class"].as_u64().unwrap()).unwrap();
        let mut start = 0;
        for (index, count) in class["counts"].as_array().unwrap().iter().enumerate() {
            let end = start + usize::try_from(count.as_u64().unwrap()).unwrap();
            if index % 2 == 1 {
                (start..end).for_each(|place| pixels[place % height * width + place / height] = number);
            }
            start = end;
        }
        assert_eq!(start, width * height);
    }
    pixels
}

#[tokio::test(flavor = "multi_thread")]
async fn run_lengths_are_those_of_the_reference() {
    let golden = golden();
    let cases: Vec<(&String, &Value)> = golden.iter().collect();
    let app = TestApp::with(repository(&cases, "format = \"rle\"").config()).await;
    for (index, (name, case)) in cases.iter().enumerate() {
        let found = ask(&app, index, image(case)).await;
        check(name, &found, case);
        assert!(found.get("png").is_none());
        for (found, expected) in found["classes"].as_array().unwrap().iter().zip(case["classes"].as_array().unwrap()) {
            let expected = json!({ "size": case["size"], "counts": expected["counts"] });
            assert_eq!(found["rle"], expected, "{name}");
        }
    }
    assert_eq!(cases.len(), 14);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_values_of_the_png_are_the_classes() {
    let golden = golden();
    let cases: Vec<(&String, &Value)> = golden.iter().collect();
    let app = TestApp::with(repository(&cases, "").config()).await;
    for (index, (name, case)) in cases.iter().enumerate() {
        let found = ask(&app, index, image(case)).await;
        check(name, &found, case);
        let png = image::load_from_memory(&STANDARD.decode(found["png"].as_str().unwrap()).unwrap()).unwrap();
        assert_eq!(png.color(), image::ColorType::L8, "{name}");
        assert_eq!(json!([png.height(), png.width()]), case["size"], "{name}");
        assert_eq!(png.into_luma8().into_raw(), pixels(case), "{name}");
    }
}

/// Images of several sizes and colours in one request: each mask has the size of its image.
#[tokio::test(flavor = "multi_thread")]
async fn each_image_of_a_request_has_its_own_mask() {
    let golden = golden();
    let names = ["dark", "smaller than the output", "stretched"];
    let cases: Vec<(&String, &Value)> = names.iter().map(|name| golden.get_key_value(*name).unwrap()).collect();
    let app = TestApp::with(repository(&cases[..1], "max_pixels = 5000").config()).await;
    let body = |cases: &[(&String, &Value)]| {
        let instance = |(_, case): &(&String, &Value)| json!({ "b64": STANDARD.encode(image(case)) });
        json!({ "instances": cases.iter().map(instance).collect::<Vec<_>>() }).to_string()
    };
    let answer = app.predict("/v1/models/case-0:predict", body(&cases)).await.predictions();
    for ((name, case), found) in cases.iter().zip(answer.as_array().unwrap()) {
        check(name, found, case);
    }
    let twice = app.predict("/v1/models/case-0:predict", body(&[&cases[..], &cases[..]].concat())).await;
    assert_eq!(twice.status, 400);
    let detail = twice.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("8326 pixels together, more than the 5000 that are allowed"), "{detail}");
}

/// Without an image, a mask has the size of the model's output.
#[tokio::test(flavor = "multi_thread")]
async fn inputs_that_are_tensors_have_masks_of_the_output_s_size() {
    let golden = golden();
    let case = &golden["as large as the input"];
    let repository = Repository::new();
    repository.add_file("case-0", 1, &file("logits"));
    let postprocess = case["postprocess"].as_str().unwrap();
    std::fs::write(repository.0.path().join("case-0/model.toml"), model_toml("kind = \"tensor\"", postprocess))
        .unwrap();
    let app = TestApp::with(repository.config()).await;
    let row = vec![vec![case["value"].as_f64().unwrap() / 255.0; 32]; 24];
    let body = json!({ "instances": [[row, row, row]] }).to_string();
    let found = app.predict("/v1/models/case-0:predict", body).await.predictions()[0].clone();
    assert_eq!(found["size"], json!([12, 16]));
    let shares: f64 = found["classes"].as_array().unwrap().iter().map(|class| class["share"].as_f64().unwrap()).sum();
    assert!((shares - 1.0).abs() < 1e-5, "{found}");
}

/// The most frequent class besides the background is watched, with the mean certainty of the pixels.
#[tokio::test(flavor = "multi_thread")]
async fn masks_are_watched_as_a_class_or_as_a_share() {
    let golden = golden();
    let names = ["stretched", "class numbers"];
    let cases: Vec<(&String, &Value)> = names.iter().map(|name| golden.get_key_value(*name).unwrap()).collect();
    let app = TestApp::with(repository(&cases, "").config()).await;
    for (index, (_, case)) in cases.iter().enumerate() {
        ask(&app, index, image(case)).await;
    }
    let metrics = app.get("/metrics").await.text;
    let most = cases[0].1["classes"].as_array().unwrap().iter().filter(|class| class["class"] != 0);
    let most = most.max_by(|a, b| a["share"].as_f64().unwrap().total_cmp(&b["share"].as_f64().unwrap())).unwrap();
    let counted = metrics.lines().any(|line| {
        line.contains("model=\"case-0\"") && line.contains(&format!("class={}", most["label"])) && line.ends_with(" 1")
    });
    assert!(counted, "{most}\n{metrics}");
}

#[test]
fn a_mask_that_does_not_fit_the_model_is_refused_when_it_is_added() {
    let add = |name: &str, postprocess: &str| {
        let repository = Repository::new();
        let folder = repository.0.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("model.toml"), model_toml("kind = \"image\"", postprocess)).unwrap();
        run(leeway(&["add"]).arg(&folder).args(["--onnx", file(name).to_str().unwrap()]))
    };
    for (name, postprocess, problem) in [
        ("logits", "scores = \"logits\"\nlabels = [\"a\"]", "distinguishes 4 classes"),
        ("logits", "scores = \"probabilities\"", "is declared as probabilities but has the value"),
        ("channels_last", "scores = \"logits\"\nlayout = \"channels-first\"\nlabels = [\"a\", \"b\"]", "12 classes"),
        ("class_numbers", "scores = \"logits\"", "whole numbers, which are read as the numbers of classes"),
    ] {
        let (ended, said) = add(name, postprocess);
        assert_eq!(ended, 1, "{name}: {said}");
        assert!(said.contains(problem), "{name}: {problem}\n{said}");
    }
}
