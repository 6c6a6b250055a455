//! The results of `kind = "image"` on photographs, compared with Pillow's; and digits as pictures.

use std::collections::BTreeMap;
use std::io::Cursor;

use base64::Engine as _;
use leeway::budget::Deadline;
use leeway::config::StageConfig;
use leeway::pipeline::{Preprocessor, StageContext, Stages};
use leeway::tensor::{DType, Dim, Signature, TensorSpec};
use serde_json::{Value, json};

use crate::harness::{Answer, Repository, TestApp, checkout, copy_folder, held_out};

/// The stage with these settings, for a model that takes any size.
fn stage(settings: &Value) -> Box<dyn Preprocessor> {
    let channels = if settings["colour"] == "gray" { 1 } else { 3 };
    let open = || Dim::Dynamic(None);
    let dims = vec![open(), Dim::Fixed(channels), open(), open()];
    let inputs = vec![TensorSpec { name: "x".into(), dtype: DType::F32, dims }];
    let signature = Signature { inputs, ..Signature::default() };
    let mut settings = settings.clone();
    settings["kind"] = json!("image");
    let config: StageConfig = serde_json::from_value(settings).unwrap();
    let files = BTreeMap::new();
    Stages::default().preprocessor(StageContext::new(&config, &signature, &files)).unwrap()
}

fn photograph(name: &str) -> Vec<u8> {
    std::fs::read(checkout().join("tests/data/images").join(name)).unwrap()
}

/// Returns values of 0 to 255, channel by channel, in the order of the tensor.
fn expected(name: &str) -> Vec<f32> {
    let image = image::load_from_memory(&photograph(name)).unwrap();
    let channels = if image.color().has_color() { 3 } else { 1 };
    let values = if channels == 3 { image.into_rgb8().into_raw() } else { image.into_luma8().into_raw() };
    (0..channels).flat_map(|channel| values.iter().skip(channel).step_by(channels)).map(|&value| value.into()).collect()
}

#[test]
fn photographs_become_what_pillow_makes_of_them() {
    let cases: Vec<Value> = serde_json::from_slice(&photograph("cases.json")).unwrap();
    assert!(cases.len() >= 12);
    let mut seen = String::new();
    for case in &cases {
        let (file, name) = (case["file"].as_str().unwrap(), case["expected"].as_str().unwrap());
        let prepared =
            stage(&case["settings"]).transform_raw("image/jpeg", &photograph(file), Deadline::never()).unwrap();
        let ours = prepared.inputs.get("x").unwrap().values::<f32>().unwrap();
        let theirs = expected(name);
        assert_eq!(ours.len(), theirs.len(), "{case}");
        let differences: Vec<f32> =
            ours.iter().zip(&theirs).map(|(ours, theirs)| (ours * 255.0 - theirs).abs()).collect();
        let most = differences.iter().copied().fold(0.0, f32::max);
        let mean = differences.iter().sum::<f32>() / differences.len() as f32;
        seen.push_str(&format!("{case}: at most {most:.3}, {mean:.4} in the mean, of 255\n"));
        // Rounding to whole values may fall to either side.
        if most > 1.001 || mean > 0.1 {
            seen.push_str("TOO FAR\n");
        }
    }
    assert!(!seen.contains("TOO FAR"), "{seen}");
}

/// Returns the file of an image in `tensors.json`, which has it in base64.
fn decoded(file: &Value) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(file.as_str().unwrap()).unwrap()
}

/// The values of OpenCV, and of the packages that use it, are met to the bit; those of Pillow may be rounded to the
/// other side.
#[test]
fn images_become_what_other_libraries_make_of_them() {
    let document: Value = serde_json::from_slice(&photograph("tensors.json")).unwrap();
    let cases = document["cases"].as_array().unwrap();
    assert!(cases.len() >= 40);
    let mut seen = String::new();
    for case in cases {
        let file = decoded(&document["images"][case["image"].as_str().unwrap()]);
        let made_by = case["made_by"].as_str().unwrap();
        let what = format!("{} of {}: {}", made_by, case["image"], case["settings"]);
        let prepared = stage(&case["settings"]).transform_raw("image/png", &file, Deadline::never());
        let inputs = prepared.unwrap_or_else(|error| panic!("{what}: {error}")).inputs;
        let ours = inputs.get("x").unwrap();
        let shape: Vec<usize> = [json!(1)]
            .iter()
            .chain(case["shape"].as_array().unwrap())
            .map(|length| length.as_u64().unwrap() as usize)
            .collect();
        assert_eq!(ours.shape(), shape, "{what}");
        let theirs = case["values"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap());
        let differences =
            ours.values::<f32>().unwrap().iter().zip(theirs).map(|(ours, theirs)| (f64::from(*ours) - theirs).abs());
        let most = differences.fold(0.0, f64::max);
        let accepted = if made_by.contains("Pillow") || made_by.contains("torchvision") { 1.0 } else { 1e-6 };
        if most > accepted {
            seen.push_str(&format!("{what}: {most}\n"));
        }
    }
    assert!(seen.is_empty(), "{seen}");
}

/// Found by the fuzzer: the decoder panics on this image.
#[test]
fn an_image_that_its_decoder_panics_on_is_a_broken_image() {
    let stage = stage(&json!({ "size": [8, 8], "resize": "crop" }));
    let error = stage.transform_raw("image/jpeg", &photograph("broken.jpg"), Deadline::never()).err().unwrap();
    assert!(matches!(&error, leeway::error::Error::InvalidInput(problem) if problem.contains("broken")), "{error}");
}

/// Parts that are cropped are not computed: the shorter side of 1 pixel becomes 256, and the longer one 256,000.
#[test]
fn a_line_of_pixels_is_cut_like_any_other_image() {
    let line = image::RgbImage::from_fn(1, 1000, |_, y| image::Rgb([if y == 500 { 255 } else { 0 }, 0, 0]));
    let mut file = Cursor::new(Vec::new());
    line.write_to(&mut file, image::ImageFormat::Png).unwrap();
    let stage = stage(&json!({ "size": [224, 224], "resize": "crop", "shortest": 256 }));
    let prepared = stage.transform_raw("image/png", file.get_ref(), Deadline::never()).unwrap();
    let values = prepared.inputs.get("x").unwrap().values::<f32>().unwrap();
    // In the middle of 256,000 rows, the 500th pixel begins to outweigh the 499th.
    assert!(values[0] < 0.2 && values[223 * 224] > 0.8, "{} {}", values[0], values[223 * 224]);
    assert!(values[224 * 224..].iter().all(|value| *value == 0.0));
}

/// Returns a picture of 8 x 8 gray pixels, as a file of this format.
fn picture(digit: &Value, format: image::ImageFormat) -> Vec<u8> {
    // Scales 0 to 16 to 0 to 255, so that dividing by 15 restores the value.
    let pixels = digit.as_array().unwrap().iter().map(|pixel| 15 * pixel.as_u64().unwrap() as u8).collect();
    let picture = image::GrayImage::from_raw(8, 8, pixels).unwrap();
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, format).unwrap();
    file.into_inner()
}

const DIGITS_AS_PICTURES: &str = r#"
[preprocess]
kind = "image"
size = [8, 8]
colour = "gray"
scale = 0.06666667
[postprocess]
kind = "classifier"
output = "probabilities"
scores = "probabilities"
[budget]
total_ms = 600000
[model]
workers = 1
"#;

async fn post(app: &TestApp, content_type: &str, body: impl Into<reqwest::Body>) -> Answer {
    let request = app.client.post(app.url("/predict")).header("content-type", content_type).body(body);
    Answer::of(request.send().await.unwrap()).await
}

fn repository() -> Repository {
    let repository = Repository::new();
    let folder = repository.0.path().join("digits");
    copy_folder(&checkout().join("models/digits/2"), &folder.join("2"));
    std::fs::write(folder.join("model.toml"), DIGITS_AS_PICTURES).unwrap();
    // Its examples and its baseline have rows, not pictures.
    for file in ["golden.json", "baseline.json", "version.toml"] {
        std::fs::remove_file(folder.join("2").join(file)).unwrap();
    }
    leeway::repository::Manifest::write_for(&folder.join("2")).unwrap();
    repository
}

#[tokio::test(flavor = "multi_thread")]
async fn digits_as_pictures_are_what_they_are_as_rows() {
    let repository = repository();
    let pictures = TestApp::with(repository.config()).await;
    let held_out = held_out("digits");
    let instances = held_out["instances"].as_array().unwrap();
    let encoded: Vec<Value> = instances
        .iter()
        .map(|digit| {
            let file = picture(digit, image::ImageFormat::Png);
            json!({ "b64": base64::engine::general_purpose::STANDARD.encode(file) })
        })
        .collect();
    let answer = pictures.predict("/predict", json!({ "instances": encoded }).to_string()).await.predictions();
    let expected = &held_out["versions"]["2"];
    for (row, prediction) in answer.as_array().unwrap().iter().enumerate() {
        assert_eq!(prediction["label"], expected["labels"][row]);
        let class = prediction["label"].as_u64().unwrap() as usize;
        let difference =
            prediction["confidence"].as_f64().unwrap() - expected["probabilities"][row][class].as_f64().unwrap();
        assert!(difference.abs() < 1e-5, "row {row}: {difference}");
    }
    // The same pictures as a column, and one as a body, for clients of other servers.
    let texts: Vec<&Value> = encoded.iter().map(|picture| &picture["b64"]).collect();
    for column in [json!(encoded), json!(texts)] {
        let body = json!({ "inputs": { "image": column } }).to_string();
        assert_eq!(pictures.predict("/invocations", body).await.predictions(), answer);
    }
    let file = picture(&instances[0], image::ImageFormat::Png);
    let request = pictures.client.post(pictures.url("/invocations")).header("content-type", "image/png").body(file);
    assert_eq!(Answer::of(request.send().await.unwrap()).await.predictions()[0], answer[0]);
    // One unchanged picture in each format.
    for (content_type, format) in
        [("image/png", image::ImageFormat::Png), ("IMAGE/WebP; q=1", image::ImageFormat::WebP)]
    {
        let file = picture(&instances[0], format);
        assert_eq!(post(&pictures, content_type, file).await.predictions()[0], answer[0], "{content_type}");
    }
}

const ANY_SIZE: &str = r#"
[preprocess]
kind = "image"
size = { max_side = 64, multiple = 4 }
filter = "opencv-linear"
scale = 1
[postprocess]
kind = "tensor"
[budget]
total_ms = 600000
"#;

/// Returns a PNG of one gray value.
fn gray(width: u32, height: u32, value: u8) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    let image = image::RgbImage::from_pixel(width, height, image::Rgb([value; 3]));
    image.write_to(&mut file, image::ImageFormat::Png).unwrap();
    file.into_inner()
}

/// Requests share runs only with images of their size. The images of one request have one size.
#[tokio::test(flavor = "multi_thread")]
async fn images_keep_their_own_size_beside_others() {
    let repository = Repository::new();
    repository.add_file("any_size", 1, &checkout().join("tests/data/images/any_size.onnx"));
    std::fs::write(repository.0.path().join("any_size/model.toml"), ANY_SIZE).unwrap();
    let app = TestApp::with(repository.config()).await;
    // Width and height that are sent, and those of the answer.
    let sizes = [([40, 20], [40, 20]), ([128, 61], [64, 32]), ([21, 23], [20, 24])];
    let requests: Vec<_> = (0..24u8)
        .map(|number| {
            let ([width, height], answered) = sizes[usize::from(number) % 3];
            let request = app.client.post(app.url("/predict")).header("content-type", "image/png");
            (number, answered, tokio::spawn(request.body(gray(width, height, number * 10)).send()))
        })
        .collect();
    for (number, [width, height], answer) in requests {
        let answer = Answer::of(answer.await.unwrap().unwrap()).await.predictions();
        assert_eq!(answer, json!([vec![vec![f64::from(number * 10); width]; height]]));
    }

    let instance =
        |width, height| json!({ "b64": base64::engine::general_purpose::STANDARD.encode(gray(width, height, 1)) });
    // Both become 32 x 16.
    let alike = json!({ "instances": [instance(32, 16), instance(33, 15)] });
    assert_eq!(app.predict("/predict", alike.to_string()).await.status, 200);
    let different = json!({ "instances": [instance(32, 16), instance(16, 32)] });
    let refused = app.predict("/predict", different.to_string()).await;
    assert_eq!(
        refused.json()["detail"],
        "instances[1]: found an image of 16 x 32 pixels, which the model takes as 16 x 32 pixels, but the first one \
         of the request as 32 x 16; send it in a request of its own"
    );
}

/// A PNG that declares this number of pixels, and ends after its header.
fn header_of_png(width: u32, height: u32) -> Vec<u8> {
    let mut header = b"IHDR".to_vec();
    header.extend([width.to_be_bytes(), height.to_be_bytes()].concat());
    header.extend([8, 2, 0, 0, 0]);
    let crc = header.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
    });
    let start = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    [start, header, (!crc).to_be_bytes().to_vec(), b"\0\0\xff\xffIDAT".to_vec()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_picture_is_refused_with_what_to_change() {
    let repository = repository();
    let app = TestApp::with(repository.config()).await;
    let good = picture(&held_out("digits")["instances"][0], image::ImageFormat::Png);
    let jpeg = photograph("china.jpg");
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let mut flipped = good.clone();
    flipped[60] ^= 0xff;
    let raw: Vec<(&str, &str, Vec<u8>)> = vec![
        ("nothing", "image/png", vec![]),
        ("text", "image/png", b"hello".to_vec()),
        ("a GIF", "image/png", b"GIF89a\x01\0\x01\0".to_vec()),
        ("a BMP", "image/png", b"BM\x3a\0\0\0".to_vec()),
        ("a PNG that ends after its signature", "image/png", good[..8].to_vec()),
        ("a PNG that ends in its middle", "image/png", good[..good.len() / 2].to_vec()),
        ("a PNG with another byte", "image/png", flipped),
        ("a PNG of 50,000 x 50,000", "image/png", header_of_png(50_000, 50_000)),
        ("a PNG of 2,000,000,000 x 1", "image/png", header_of_png(2_000_000_000, 1)),
        ("a PNG of 1 x 100,000", "image/png", header_of_png(1, 100_000)),
        ("a PNG of 0 x 0", "image/png", header_of_png(0, 0)),
        ("a JPEG that ends in its middle", "image/jpeg", jpeg[..jpeg.len() / 2].to_vec()),
        ("a JPEG that ends after its head", "image/jpeg", jpeg[..20].to_vec()),
        ("a JPEG of two bytes", "image/jpeg", jpeg[..2].to_vec()),
        ("a WebP that ends in its middle", "image/webp", photograph("flower.webp")[..9000].to_vec()),
        ("a WebP without content", "image/webp", b"RIFF\x04\0\0\0WEBP".to_vec()),
        ("a GIF announced as one", "image/gif", b"GIF89a\x01\0\x01\0".to_vec()),
        ("another type", "text/plain", good.clone()),
        ("a type of no name", "image/", good.clone()),
        ("a form", "multipart/form-data; boundary=x", good.clone()),
        ("a picture announced as JSON", "application/json", good.clone()),
    ];
    let bodies = [
        ("no array", json!({ "b64": encode(&good) }).to_string()),
        ("no picture at all", "[]".to_owned()),
        ("a picture as a string", json!([encode(&good)]).to_string()),
        ("a row of pixels", json!([[0, 1, 2]]).to_string()),
        ("null", "[null]".to_owned()),
        ("another key", json!([{ "base64": encode(&good) }]).to_string()),
        ("no key", "[{}]".to_owned()),
        ("one key twice", format!(r#"[{{"b64": "{0}", "b64": "{0}"}}]"#, encode(&good))),
        ("b64 that is a number", json!([{ "b64": 1 }]).to_string()),
        ("b64 that is null", json!([{ "b64": null }]).to_string()),
        ("b64 that is empty", json!([{ "b64": "" }]).to_string()),
        ("b64 that is none", json!([{ "b64": "%%%" }]).to_string()),
        ("b64 of something else", json!([{ "b64": encode(b"hello") }]).to_string()),
        ("a URL", json!([{ "b64": "http://127.0.0.1/cat.png" }]).to_string()),
        (
            "the second of three",
            json!([{ "b64": encode(&good) }, { "b64": encode(&good[..60]) }, { "b64": "" }]).to_string(),
        ),
    ];
    let mut seen = String::new();
    for (name, content_type, body) in raw {
        let answer = post(&app, content_type, body).await;
        seen.push_str(&format!("{name}: {}\n    {}\n", answer.status, answer.json()["detail"].as_str().unwrap()));
    }
    for (name, instances) in bodies {
        let answer = app.predict("/predict", format!(r#"{{"instances": {instances}}}"#)).await;
        seen.push_str(&format!("{name}: {}\n    {}\n", answer.status, answer.json()["detail"].as_str().unwrap()));
    }
    insta::assert_snapshot!(seen);
    // The format is detected from the bytes, for any content type.
    for content_type in ["image/png", "image/jpg", "image/pjpeg", "IMAGE/X-anything", "application/octet-stream"] {
        assert_eq!(post(&app, content_type, good.clone()).await.status, 200, "{content_type}");
    }
    let base64 = encode(&good);
    let lines: Vec<&str> = base64.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
    for flavour in [
        base64.replace('+', "-").replace('/', "_"),
        base64.trim_end_matches('=').to_owned(),
        lines.join("\n"),
        lines.join("\r\n"),
        format!("data:image/png;base64,{base64}"),
    ] {
        let answer = app.predict("/predict", json!({ "instances": [{ "b64": flavour }] }).to_string()).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    // A model of rows accepts none of these content types.
    let rows = TestApp::start().await;
    for content_type in ["image/png", "application/octet-stream", "text/plain"] {
        let refused = post(&rows, content_type, good.clone()).await;
        assert_eq!(refused.status, 415, "{content_type}");
        assert!(refused.text.contains("send JSON with the header Content-Type: application/json"), "{}", refused.text);
    }
}
