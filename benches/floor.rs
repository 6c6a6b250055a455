//! The floor: the smallest axum handler that parses the same JSON and runs the same model inline behind a
//! mutex. `benches/load.rs` compares Leeway with it, to show the cost of a server's features.
//!
//!     floor MODEL_FILE ONNXRUNTIME_LIBRARY
//!
//! `POST /raw` takes the bytes of a tensor instead, with a first dimension of 1, and answers with the model's first output
//! as bytes. Listens on a free port and prints its address.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a program for a bench")]

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::routing::post;
use axum::{Json, Router};
use ort::session::Session;
use ort::value::TensorRef;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Request {
    instances: Vec<Vec<f32>>,
}

#[derive(Serialize)]
struct Answer {
    predictions: Vec<Prediction>,
}

#[derive(Serialize)]
struct Prediction {
    label: usize,
    confidence: f32,
}

async fn predict(State(session): State<Arc<Mutex<Session>>>, Json(request): Json<Request>) -> Json<Answer> {
    let rows = request.instances.len();
    let pixels: Vec<f32> = request.instances.into_iter().flatten().collect();
    let input = TensorRef::from_array_view(([rows, pixels.len() / rows], &*pixels)).unwrap();
    let mut session = session.lock();
    let outputs = session.run(ort::inputs![input]).unwrap();
    let (shape, scores) = outputs["probabilities"].try_extract_tensor::<f32>().unwrap();
    let best = |row: &[f32]| {
        let (label, &confidence) = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
        Prediction { label, confidence }
    };
    Json(Answer { predictions: scores.chunks_exact(shape[1] as usize).map(best).collect() })
}

async fn raw(State(session): State<Arc<Mutex<Session>>>, body: Bytes) -> Vec<u8> {
    let mut session = session.lock();
    let shape = session.inputs()[0].dtype().tensor_shape().unwrap().clone();
    let shape: Vec<i64> = shape.iter().map(|length| (*length).max(1)).collect();
    let (elements, _) = body.as_chunks();
    let elements: Vec<f32> = elements.iter().map(|element| f32::from_le_bytes(*element)).collect();
    let input = TensorRef::from_array_view((shape, &*elements)).unwrap();
    let outputs = session.run(ort::inputs![input]).unwrap();
    let (_, elements) = outputs[0].try_extract_tensor::<f32>().unwrap();
    elements.iter().flat_map(|element| element.to_le_bytes()).collect()
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut next = || PathBuf::from(arguments.next().expect("floor MODEL_FILE ONNXRUNTIME_LIBRARY"));
    let (model, library) = (next(), next());
    let environment = ort::init_from(&library).unwrap().build().unwrap();
    let session = Session::builder(&environment)
        .unwrap()
        .with_intra_threads(1)
        .unwrap()
        .with_intra_op_spinning(false)
        .unwrap()
        .commit_from_file(&model)
        .unwrap();
    let router = Router::new()
        .route("/predict", post(predict))
        .route("/raw", post(raw))
        .layer(DefaultBodyLimit::max(8 << 20))
        .with_state(Arc::new(Mutex::new(session)));
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    axum::serve(listener, router).await.unwrap();
}
