//! Sound: samples are those that soundfile and torchaudio make (`tests/data/make_sounds.py`), and a model with a state
//! that the client carries answers what ONNX Runtime answers in Python.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use leeway::budget::Deadline;
use leeway::pipeline::Preprocessor;
use leeway::tensor::{DType, Dim, TensorSpec};
use serde_json::{Value, json};

use crate::harness::{Answer, Repository, TestApp, checkout, leeway, preprocessor, run};

fn data(name: &str) -> Vec<u8> {
    std::fs::read(checkout().join("tests/data/audio").join(name)).unwrap()
}

/// The stage with these settings, for a model of [rows, samples].
fn stage(settings: &str) -> Box<dyn Preprocessor> {
    let input = TensorSpec { name: "x".into(), dtype: DType::F32, dims: vec![Dim::Dynamic(None); 2] };
    preprocessor(&format!("[preprocess]\nkind = \"audio\"\nsample_rate = 16000\n{settings}"), vec![input])
}

fn samples(stage: &dyn Preprocessor, file: &[u8]) -> Result<Vec<f32>, String> {
    let prepared = stage.transform_raw("audio/*", file, Deadline::never()).map_err(|error| error.to_string())?;
    Ok(prepared.inputs.get("x").unwrap().values::<f32>().unwrap().to_vec())
}

#[test]
fn recordings_become_what_soundfile_and_torchaudio_make_of_them() {
    let cases: Vec<Value> = serde_json::from_slice(&data("cases.json")).unwrap();
    assert_eq!(cases.len(), 11);
    let stage = stage("");
    for case in &cases {
        let ours = samples(&*stage, &data(case["file"].as_str().unwrap())).unwrap();
        let theirs: Vec<f32> = serde_json::from_value(case["expected"].clone()).unwrap();
        assert_eq!(ours.len(), theirs.len(), "{}", case["file"]);
        let most = ours.iter().zip(&theirs).map(|(ours, theirs)| (ours - theirs).abs()).fold(0.0, f32::max);
        assert!(most < 1e-6, "{}: {most}", case["file"]);
    }
}

/// Samples without a header are those of the file with one.
#[test]
fn samples_without_a_header() {
    let file = data("mono16.wav");
    let expected = samples(&*stage(""), &file).unwrap();
    let pcm = stage("encoding = \"pcm-int16\"");
    assert_eq!(samples(&*pcm, &file[44..]), Ok(expected.clone()));
    assert_eq!(pcm.media_types()[0], "audio/pcm");
    let floats: Vec<u8> = expected.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    assert_eq!(samples(&*stage("encoding = \"pcm-float32\""), &floats), Ok(expected.clone()));
    let whole: Vec<f32> = expected.iter().map(|sample| sample * 32768.0).collect();
    assert_eq!(samples(&*stage("scale = 32768"), &file), Ok(whole));
    for (settings, body, problem) in [
        ("encoding = \"pcm-int16\"", &file[..], "found a file with a header, expected samples only"),
        ("encoding = \"pcm-int16\"", &file[..45], "found a file with a header"),
        ("encoding = \"pcm-int16\"", &file[43..], "found 961 bytes, which are not whole samples of 2 bytes"),
        ("encoding = \"pcm-float32\"", &[0, 0, 0xc0, 0x7f], "sample 0 is NaN, expected a finite number"),
    ] {
        let error = samples(&*stage(settings), body).unwrap_err();
        assert!(error.contains(problem), "{error}");
    }
}

#[test]
fn what_is_no_sound_is_refused_with_what_to_change() {
    let flac = data("stereo16.flac");
    for (settings, file, problem) in [
        ("", &b"ID3\x04 and so on"[..], "found an MP3 file, expected WAV or FLAC"),
        ("", b"OggS and so on", "found an Ogg file, expected WAV or FLAC"),
        ("", b"", "found data that is not a WAV or FLAC file"),
        ("", &flac[..flac.len() - 10], "found a broken FLAC file"),
        ("", &flac[..20], "found a broken FLAC file: it has no description"),
        (
            "max_seconds = 0.02",
            &flac,
            "found 0.03 seconds of sound, at most 0.02 are accepted (preprocess.max_seconds)",
        ),
        ("samples = 100", &flac, "found 480 samples at 16000 Hz, expected 100 (preprocess.long)"),
        ("samples = 500", &flac, "found 480 samples at 16000 Hz, expected 500 (preprocess.short)"),
    ] {
        let error = samples(&*stage(settings), file).unwrap_err();
        assert!(error.contains(problem), "{settings}: {error}");
    }
    let all = samples(&*stage(""), &flac).unwrap();
    assert_eq!(samples(&*stage("samples = 100\nlong = \"cut\""), &flac).unwrap(), all[..100]);
    let padded = samples(&*stage("samples = 500\nshort = \"pad\""), &flac).unwrap();
    assert_eq!((&padded[..480], &padded[480..]), (&all[..], &[0.0; 20][..]));
}

/// Returns a FLAC file with another number of samples in its description; 0 if the number is not known.
fn with_count(name: &str, count: u32) -> Vec<u8> {
    let mut file = data(name);
    file[22..26].copy_from_slice(&count.to_be_bytes());
    file
}

/// A block of FLAC with a constant value is a few bytes, whatever its duration.
#[test]
fn a_few_bytes_do_not_become_hours() {
    let silence = data("silence.flac");
    assert!(silence.len() < 10_000, "{}", silence.len());
    let error = samples(&*stage(""), &silence).unwrap_err();
    assert!(error.contains("found 120.00 seconds of sound, at most 60 are accepted"), "{error}");
    // The decoder notices after the block that exceeds the limit.
    let error = samples(&*stage(""), &with_count("silence.flac", 0)).unwrap_err();
    assert!(error.contains("found 60.42 seconds of sound, at most 60 are accepted"), "{error}");
    assert_eq!(samples(&*stage("max_seconds = 120"), &silence).unwrap(), vec![0.0; 120 * 16_000]);
}

#[test]
fn a_recording_of_unknown_length_is_read_to_its_end() {
    let all = samples(&*stage(""), &data("stereo16.flac")).unwrap();
    assert_eq!(samples(&*stage(""), &with_count("stereo16.flac", 0)), Ok(all));
    let error = samples(&*stage(""), &with_count("stereo16.flac", 1_324)).unwrap_err();
    assert!(error.contains("found a FLAC file that ends before it is complete"), "{error}");
}

const LISTENER: &str = r#"
[preprocess]
kind = "audio"
input = "sound"
sample_rate = 16000
samples = 512
scale = 1.0

[postprocess]
kind = "tensor"
[budget]
total_ms = 600000
[model]
workers = 1
"#;

fn repository() -> Repository {
    let repository = Repository::new();
    let folder = repository.0.path().join("listener");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("model.toml"), LISTENER).unwrap();
    let file = checkout().join("tests/data/audio/listener.onnx");
    let (status, said) = run(leeway(&["add"]).arg(&folder).args(["--onnx", file.to_str().unwrap()]));
    assert_eq!(status, 0, "{said}");
    repository
}

fn assert_near(found: &Value, expected: &Value) {
    match (found, expected) {
        (Value::Array(found), Value::Array(expected)) if found.len() == expected.len() => {
            found.iter().zip(expected).for_each(|(found, expected)| assert_near(found, expected));
        }
        _ => assert!((found.as_f64().unwrap() - expected.as_f64().unwrap()).abs() < 1e-6, "{found}, {expected}"),
    }
}

/// Four streams at a time, each with its own state, which its client sends with the next part of its sound.
#[tokio::test(flavor = "multi_thread")]
async fn streams_carry_their_state() {
    let repository = repository();
    let app = TestApp::with(repository.config()).await;
    let streams: Vec<Value> = serde_json::from_slice(&data("listener.json")).unwrap();
    let listen = async |stream: &Value| {
        let mut state = json!([[0, 0, 0], [0, 0, 0]]);
        for chunk in stream["chunks"].as_array().unwrap() {
            let instance = json!({ "sound": { "b64": chunk["wav"] }, "state": state });
            let answer = app.predict("/predict", json!({ "instances": [instance] }).to_string()).await.predictions();
            assert_near(&answer[0]["level"][0], &chunk["level"]);
            state = answer[0]["next_state"].clone();
        }
        assert_near(&state, &stream["state"]);
    };
    let [a, b, c, d] = &*streams else { panic!("{}", streams.len()) };
    tokio::join!(listen(a), listen(b), listen(c), listen(d));
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_answered_with_what_to_change() {
    let repository = repository();
    let app = TestApp::with(repository.config()).await;
    let sound = json!({ "b64": STANDARD.encode(data("mono16.wav")) });
    let state = json!([[0, 0, 0], [0, 0, 0]]);
    for (instance, problem) in [
        (json!({ "sound": sound, "state": state }), "instances[0].sound: found 480 samples at 16000 Hz, expected 512"),
        (json!({ "sound": sound }), "instances[0]: the key \\\"state\\\" is missing"),
        (json!({ "state": state }), "instances[0]: the key \\\"sound\\\" is missing"),
        (json!({ "sound": sound, "sr": 1 }), "unknown key \\\"sr\\\", expected the keys \\\"sound\\\", \\\"state\\\""),
        (
            json!({ "sound": [0.5], "state": state }),
            "instances[0].sound: found an array, expected an object with sound",
        ),
        (
            json!({ "sound": sound, "state": [[0]] }),
            "instances[0].state[0]: found 1 values, expected 3 (the model's input",
        ),
        (sound.clone(), "unknown key \\\"b64\\\", expected the keys"),
        (json!(1), "found the number 1, expected an object with the keys \\\"sound\\\", \\\"state\\\""),
    ] {
        let answer = app.predict("/predict", json!({ "instances": [instance] }).to_string()).await;
        assert_eq!(answer.status, 400, "{}", answer.text);
        assert!(answer.text.contains(problem), "{}", answer.text);
    }
    // A body of sound has no place for the state.
    let request = app.client.post(app.url("/predict")).header("content-type", "audio/wav").body(data("mono16.wav"));
    let answer = Answer::of(request.send().await.unwrap()).await;
    assert_eq!(answer.status, 415, "{}", answer.text);
}
