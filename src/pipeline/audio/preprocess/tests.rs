//! Tests of the whole audio preprocessor: settings, shapes, element types.

use super::*;
use crate::pipeline::stage_context::of_settings;
use crate::tensor::Signature;

fn spec(name: &str, dtype: DType, row: &[Option<usize>]) -> TensorSpec {
    let row = row.iter().map(|length| length.map_or(Dim::Dynamic(None), Dim::Fixed));
    TensorSpec { name: name.into(), dtype, dims: [Dim::Dynamic(None)].into_iter().chain(row).collect() }
}

fn stage(settings: &str, inputs: Vec<TensorSpec>) -> Result<Box<dyn Preprocessor>, SetupError> {
    let settings = format!(r#"{{"kind": "audio", "sample_rate": 16000{settings}}}"#);
    of_settings(make, &settings, &Signature { inputs, ..Signature::default() })
}

fn sound(samples: &[i16]) -> Vec<u8> {
    wav::encoded(samples.iter().copied(), 16_000)
}

#[test]
fn samples_get_the_shape_and_type_of_the_input() {
    let tensor = |dtype, row: &[Option<usize>]| {
        let stage = stage("", vec![spec("x", dtype, row)]).unwrap();
        let prepared = stage.transform_raw("audio/*", &sound(&[16384, -16384]), Deadline::never()).unwrap();
        prepared.inputs.get("x").unwrap().clone()
    };
    let (one, two) = (Some(1), Some(2));
    for (row, shape) in [(&[two][..], vec![1, 2]), (&[one, None], vec![1, 1, 2]), (&[None, one], vec![1, 2, 1])] {
        let tensor = tensor(DType::F32, row);
        assert_eq!((tensor.shape(), tensor.data()), (&*shape, &Data::F32(vec![0.5, -0.5])));
    }
    let half = [0.5, -0.5].map(f16::from_f32).to_vec();
    assert_eq!(tensor(DType::F16, &[None]).data(), &Data::F16(half));
}

#[test]
fn recordings_of_a_request_have_one_length() {
    let stage = stage("", vec![spec("x", DType::F32, &[None])]).unwrap();
    let instances =
        [&[1i16, 2][..], &[3, 4, 5]].map(|samples| format!(r#"{{"b64": "{}"}}"#, STANDARD.encode(sound(samples))));
    let instances = RawValue::from_string(format!("[{}]", instances.join(", "))).unwrap();
    let error = stage.transform(&instances, Deadline::never()).unwrap_err().to_string();
    assert!(
        error.starts_with("instances[1]: found 3 samples at 16000 Hz, expected 2 as in the instance before it"),
        "{error}"
    );
}

#[test]
fn recordings_of_a_request_are_limited_together() {
    let stage = stage(r#", "max_seconds": 0.0005, "samples": 8"#, vec![spec("x", DType::F32, &[None])]).unwrap();
    let sound = format!(r#"{{"b64": "{}"}}"#, STANDARD.encode(sound(&[7; 8])));
    let prepare = |count: usize| {
        let instances = RawValue::from_string(format!("[{}]", vec![&*sound; count].join(", "))).unwrap();
        stage.transform(&instances, Deadline::never()).map(|prepared| prepared.inputs.rows())
    };
    assert_eq!(prepare(8).unwrap(), 8);
    let error = prepare(9).unwrap_err().to_string();
    assert!(error.contains("more than 0.004 seconds together"), "{error}");
}

/// A number that a WAV file of floating-point samples can hold, but the model's input cannot.
#[test]
fn a_sample_that_becomes_infinite_is_refused() {
    let stage = stage(r#", "scale": 1e9, "encoding": "pcm-float32""#, vec![spec("x", DType::F32, &[None])]).unwrap();
    let error = stage.transform_raw("audio/pcm", &1e30f32.to_le_bytes(), Deadline::never()).unwrap_err().to_string();
    assert!(error.contains("a sample is inf, which is not a value of float32"), "{error}");
}

#[test]
fn settings_that_do_not_fit_say_what_to_change() {
    let check = |settings: &str, inputs: &[TensorSpec], problem: &str| {
        let error = stage(settings, inputs.to_vec()).err().unwrap().to_string();
        assert!(error.contains(problem), "{settings}: {error}");
    };
    let (open, fixed) = ([spec("x", DType::F32, &[None])], [spec("x", DType::F32, &[Some(512)])]);
    let two = [spec("x", DType::F32, &[None]), spec("state", DType::F32, &[Some(2)])];
    check("", &two, "input: say which input takes the sound; the model has \"x\", \"state\"");
    check(r#", "input": "y""#, &two, "input: the model has no input \"y\"; it has \"x\", \"state\"");
    check("", &[spec("x", DType::I64, &[None])], "samples are float32 or float16");
    check("", &[spec("x", DType::F32, &[None, None])], "sound is [rows, samples]");
    check("", &[spec("x", DType::F32, &[])], "sound is [rows, samples]");
    check(r#", "samples": 256"#, &fixed, "samples: is 256, but the model's input is float32[?, 512]");
    check(r#", "samples": 0"#, &open, "samples: must be more than 0");
    check(r#", "short": "pad""#, &open, "only apply to a number of samples");
    check(r#", "max_seconds": 0.01"#, &fixed, "samples: 512 are more than max_seconds = 0.01 allows");
    check(r#", "max_seconds": 0"#, &open, "max_seconds: must be more than 0, and at most 524");
    check(r#", "scale": 0"#, &open, "scale: must be a finite number other than 0");
    let error = of_settings(
        make,
        r#"{"kind": "audio", "sample_rate": 1}"#,
        &Signature { inputs: open.to_vec(), ..Signature::default() },
    );
    assert!(error.err().unwrap().to_string().contains("sample_rate: is 1, expected 1000 to 192000 Hz"));
}

/// The model is tried with the samples, so they fit its other inputs, too.
#[test]
fn samples_are_instances_that_are_accepted() {
    let state = |length| spec("state", DType::F32, &[Some(2), length]);
    let others =
        [spec("id", DType::I64, &[]), spec("is_first", DType::Bool, &[]), spec("name", DType::Text, &[Some(1)])];
    let all: Vec<TensorSpec> = [spec("x", DType::F32, &[None]), state(Some(3))].into_iter().chain(others).collect();
    for (settings, inputs) in [
        (r#", "encoding": "pcm-int16", "samples": 80"#, vec![spec("x", DType::F32, &[None])]),
        (r#", "encoding": "pcm-float32""#, vec![spec("x", DType::F32, &[None])]),
        (r#", "input": "x""#, all),
    ] {
        let stage = stage(settings, inputs).unwrap();
        for sample in stage.samples().unwrap() {
            let instances = RawValue::from_string(format!("[{sample}]")).unwrap();
            stage.transform(&instances, Deadline::never()).unwrap();
        }
    }
    assert!(stage(r#", "input": "x""#, vec![spec("x", DType::F32, &[None]), state(None)]).unwrap().samples().is_none());
}
