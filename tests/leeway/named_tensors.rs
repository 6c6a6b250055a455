//! Predictions with named tensors as inputs and outputs, independent of the protocol.

use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leeway::app::App;
use leeway::budget::{BlockingThreads, MemoryBudget};
use leeway::config::Config;
use leeway::error::{Error, Result};
use leeway::model::Priority;
use leeway::pipeline::Stages;
use leeway::registry::{ServedVersion, Target};
use leeway::serve::{
    self, Answer, Content, Elements, EncodedRequest, Head, Input, NamedInput, NamedOutput, NamedRequest, Output,
    RequestOrigin,
};
use leeway::tensor::{Data, Tensor, Tensors};
use serde_json::json;

use crate::harness::{Repository, TENSOR_STAGES, TestApp, config, dependencies, held_out, runtime};

/// A request as a protocol of tensors would decode it.
struct Named(Vec<(&'static str, Tensor)>);

impl EncodedRequest for Named {
    type AnswerForm = ();

    fn size(&self) -> usize {
        self.0.len()
    }

    fn copied(&mut self, _: &MemoryBudget) -> Option<Named> {
        Some(Named(self.0.clone()))
    }

    fn decode<T>(self, with: impl FnOnce(Input<'_>) -> Result<T>) -> Result<(T, ())> {
        let input = |(name, tensor): (&'static str, Tensor)| {
            let dtype = tensor.dtype();
            let (shape, data) = tensor.into_parts();
            NamedInput { name: name.into(), dtype, shape, elements: Elements::Values(data) }
        };
        let inputs = self.0.into_iter().map(input).collect();
        let (outputs, content) = (Vec::new(), Content::ByNames);
        let memory = MemoryBudget::new(1 << 30, NonZeroUsize::MIN);
        let request = NamedRequest { inputs, outputs, content, timeout: None, priority: None, memory: &memory };
        Ok((with(Input::Named(request))?, ()))
    }
}

async fn app() -> App {
    app_with(config()).await
}

async fn app_with(config: Config) -> App {
    let parts = dependencies(&config, runtime(), Stages::default()).await;
    App::build_with(config, parts).await.unwrap()
}

async fn infer(app: &App, inputs: Vec<(&'static str, Tensor)>) -> Result<Answer<Tensors>> {
    infer_with(app, "digits", inputs).await
}

async fn infer_with(app: &App, model: &str, inputs: Vec<(&'static str, Tensor)>) -> Result<Answer<Tensors>> {
    let head = Head {
        target: Target::Model(model),
        routing_key: b"",
        read_at: Instant::now(),
        client_timeout: None,
        priority: Priority::Normal,
        media_type: None,
        origin: RequestOrigin::Real,
        notes: None,
        to_log: None,
        shadows: None,
    };
    let admitted = serve::admit(app.catalog(), head).unwrap();
    let threads = BlockingThreads::new(2.try_into().unwrap());
    let tensor = |output: &NamedOutput| {
        let tensor = Tensor::new(output.shape.clone(), output.data.clone())?;
        Ok((Arc::clone(&output.name), tensor))
    };
    let encode = move |output: Output<'_>, (), _: &ServedVersion| match output {
        Output::Named(outputs) => outputs.iter().map(tensor).collect(),
        Output::Predictions { .. } => Err(Error::internal("tensors were answered with predictions")),
    };
    admitted.infer(pin!(async { Ok(Named(inputs)) }), &threads, encode).await
}

/// The pixels of held-out digits.
fn pixels(rows: usize) -> Tensor {
    let rows = &held_out("digits")["instances"].as_array().unwrap()[..rows].to_vec();
    let pixels = rows.iter().flat_map(|row| row.as_array().unwrap()).map(|pixel| pixel.as_f64().unwrap() as f32);
    Tensor::new(vec![rows.len(), 64], Data::F32(pixels.collect())).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn tensors_are_answered_with_what_the_model_makes_of_the_same_rows_as_json() {
    let answer = infer(&app().await, vec![("pixels", pixels(5))]).await.unwrap();
    let probabilities = answer.encoded.get("probabilities").unwrap();
    assert_eq!(probabilities.shape(), [5, 10]);
    let server = TestApp::start().await;
    let body = json!({ "instances": held_out("digits")["instances"].as_array().unwrap()[..5] });
    let predictions = server.predict("/v1/models/digits:predict", body.to_string()).await.predictions();
    let rows = probabilities.values::<f32>().unwrap().chunks(10);
    for (row, prediction) in rows.zip(predictions.as_array().unwrap()) {
        let label = prediction["label"].as_u64().unwrap() as usize;
        assert!(row.iter().all(|other| *other <= row[label]), "{row:?}: {prediction}");
        assert_eq!(row[label], prediction["confidence"].as_f64().unwrap() as f32);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tensors_that_do_not_fit_are_the_callers_fault() {
    let app = app().await;
    let one_row = Tensor::new(vec![1, 63], Data::F32(vec![0.0; 63])).unwrap();
    for (inputs, expected) in [
        (vec![("pixel", pixels(1))], "the model has no input \"pixel\"; it has: pixels"),
        (vec![("pixels", one_row)], "the input \"pixels\": found float32[1, 63], expected float32[?, 64]"),
    ] {
        let error = infer(&app, inputs).await.unwrap_err();
        assert_eq!(error, Error::InvalidInput(expected.to_owned()));
    }
}

/// Only the rows of outputs that answers are made of were compared, alone and in shared runs.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_outputs_that_answers_are_made_of_are_answered() {
    let model_toml = format!("{TENSOR_STAGES}outputs = [\"scaled\"]\n");
    let repository = Repository::new().with("two", 1, "two_inputs", &model_toml);
    let app = app_with(repository.config()).await;
    let x = Tensor::new(vec![1, 2], Data::F32(vec![1.0, 2.0])).unwrap();
    let count = Tensor::new(vec![1, 1], Data::I64(vec![3])).unwrap();
    let answer = infer_with(&app, "two", vec![("count", count), ("x", x)]).await.unwrap();
    let scaled = Tensor::new(vec![1, 2], Data::F32(vec![3.0, 6.0])).unwrap();
    assert_eq!(answer.encoded.iter().collect::<Vec<_>>(), [(&"scaled".into(), &scaled)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_tensors_are_counted_for_drift() {
    let app = app().await;
    let answer = infer(&app, vec![("pixels", pixels(5))]).await.unwrap();
    let (now, window) = (Duration::from_secs(1), Duration::from_secs(60));
    let drift = answer.version.recorder.stats(now, Some(window)).drift;
    assert_eq!(drift.rows, 5);
    assert!(drift.features.iter().all(|feature| feature.drift.window_count == 5), "{drift:?}");
}
