//! The Open Inference Protocol over gRPC, with a client from another library: calls, types, errors, deadlines, streams,
//! health, reflection, limits and the end of a connection. HTTP/2 without gRPC, too.

use std::sync::Arc;
use std::time::Instant;

use leeway::app::Stop;
use leeway::error::SetupError;
use leeway::feature::{FeatureSchema, Features};
use leeway::grpc::proto::health::health_check_response::ServingStatus;
use leeway::grpc::proto::health::{HealthCheckRequest, HealthCheckResponse};
use leeway::grpc::proto::inference::infer_parameter::ParameterChoice;
use leeway::grpc::proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use leeway::grpc::proto::inference::model_repository_parameter::ParameterChoice as RepositoryChoice;
use leeway::grpc::proto::inference::{
    DataType, InferParameter, InferTensorContents, ModelConfigRequest, ModelConfigResponse, ModelInferRequest,
    ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse,
    ModelRepositoryParameter, ModelStatisticsRequest, ModelStatisticsResponse, ModelStreamInferResponse,
    RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest, RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest, RepositoryModelUnloadResponse, ServerLiveRequest, ServerLiveResponse,
    ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
};
use leeway::pipeline::{Prepared, Preprocessor, StageContext, Stages};
use leeway::repository::Manifest;
use leeway::tensor::Tensors;
use prost::Message;
use serde_json::value::RawValue;
use tonic::client::Grpc;
use tonic::codec::CompressionEncoding;
use tonic::transport::Channel;
use tonic::{Code, IntoRequest, IntoStreamingRequest, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::chains::{TAG, texts, with_chain};
use crate::gate::{GATE_IN_USE, gated, let_go, one_at_the_gate};
use crate::harness::{PATIENCE, PLAIN, Repository, TestApp, runtime, until};
use crate::prediction_log::{log, logging, penguins, stop};
use crate::prometheus::even_baseline;

const SERVICE: &str = "/inference.GRPCInferenceService";

/// A client of gRPC with one connection.
#[derive(Clone)]
struct Client(Channel);

impl Client {
    async fn of(app: &TestApp) -> Client {
        Client(Channel::from_shared(app.url("")).unwrap().connect().await.unwrap())
    }

    async fn call<Q, A>(&self, path: &str, request: tonic::Request<Q>) -> Result<Response<A>, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = Grpc::new(self.0.clone());
        grpc.ready().await.unwrap();
        let called = grpc.unary(request, path.parse().unwrap(), ProstCodec::<Q, A>::default());
        tokio::time::timeout(PATIENCE, called).await.unwrap()
    }

    /// Calls a call of the inference service.
    async fn ask<Q, A>(&self, name: &str, request: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.call(&format!("{SERVICE}/{name}"), tonic::Request::new(request)).await.map(Response::into_inner)
    }

    async fn infer(&self, request: impl IntoRequest<ModelInferRequest>) -> Result<ModelInferResponse, Status> {
        self.call(&format!("{SERVICE}/ModelInfer"), request.into_request()).await.map(Response::into_inner)
    }

    async fn watch(&self, service: &str) -> Streaming<HealthCheckResponse> {
        let mut grpc = Grpc::new(self.0.clone());
        grpc.ready().await.unwrap();
        let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
        let request = tonic::Request::new(HealthCheckRequest { service: service.to_owned() });
        let path = "/grpc.health.v1.Health/Watch".parse().unwrap();
        grpc.server_streaming(request, path, codec).await.unwrap().into_inner()
    }
}

fn health_of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

fn input(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
        ..InferInputTensor::default()
    }
}

/// A request for a row of two numbers.
fn echo(values: [f32; 2]) -> ModelInferRequest {
    raw("echo_float32", input("x", "FP32", &[1, 2]), values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

fn raw(model: &str, input: InferInputTensor, contents: Vec<u8>) -> ModelInferRequest {
    ModelInferRequest {
        model_name: model.to_owned(),
        inputs: vec![input],
        raw_input_contents: vec![contents.into()],
        ..ModelInferRequest::default()
    }
}

/// The head of a call of `ModelInfer`.
fn call_of_infer(app: &TestApp) -> axum::http::Request<()> {
    let call = axum::http::Request::post(app.url(&format!("{SERVICE}/ModelInfer")));
    call.header("content-type", "application/grpc").body(()).unwrap()
}

/// A message in its frame.
fn framed(message: &impl Message) -> bytes::Bytes {
    let message = message.encode_to_vec();
    [&[0], &(message.len() as u32).to_be_bytes()[..], &message].concat().into()
}

fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}

// ===== inference =====

/// The name of each element type, the name of its model, and three rows of two elements.
///
/// Length: a table.
fn types() -> Vec<(&'static str, &'static str, Vec<u8>, Option<InferTensorContents>)> {
    let none = InferTensorContents::default;
    let bytes = |of: &[&[u8]]| of.concat();
    let texts: [&[u8]; 6] = [b"", b"a", "é\n".as_bytes(), b"0123456789", b" ", b"b"];
    let raw_texts = texts.iter().flat_map(|text| [&(text.len() as u32).to_le_bytes()[..], text].concat()).collect();
    vec![
        (
            "BOOL",
            "bool",
            vec![0, 1, 1, 0, 1, 0],
            Some(InferTensorContents { bool_contents: vec![false, true, true, false, true, false], ..none() }),
        ),
        (
            "INT8",
            "int8",
            vec![0, 1, 255, 128, 127, 2],
            Some(InferTensorContents { int_contents: vec![0, 1, -1, -128, 127, 2], ..none() }),
        ),
        (
            "INT16",
            "int16",
            bytes(&[0i16, 1, -1, i16::MIN, i16::MAX, 2].map(i16::to_le_bytes).each_ref().map(|b| &b[..])),
            Some(InferTensorContents { int_contents: vec![0, 1, -1, -32768, 32767, 2], ..none() }),
        ),
        (
            "INT32",
            "int32",
            bytes(&[0i32, 1, -1, i32::MIN, i32::MAX, 2].map(i32::to_le_bytes).each_ref().map(|b| &b[..])),
            Some(InferTensorContents { int_contents: vec![0, 1, -1, i32::MIN, i32::MAX, 2], ..none() }),
        ),
        (
            "INT64",
            "int64",
            bytes(&[0i64, 1, -1, i64::MIN, i64::MAX, 2].map(i64::to_le_bytes).each_ref().map(|b| &b[..])),
            Some(InferTensorContents { int64_contents: vec![0, 1, -1, i64::MIN, i64::MAX, 2], ..none() }),
        ),
        (
            "UINT8",
            "uint8",
            vec![0, 1, 255, 128, 127, 2],
            Some(InferTensorContents { uint_contents: vec![0, 1, 255, 128, 127, 2], ..none() }),
        ),
        (
            "UINT16",
            "uint16",
            bytes(&[0u16, 1, 9, 8, u16::MAX, 2].map(u16::to_le_bytes).each_ref().map(|b| &b[..])),
            Some(InferTensorContents { uint_contents: vec![0, 1, 9, 8, 65535, 2], ..none() }),
        ),
        (
            "UINT32",
            "uint32",
            bytes(&[0u32, 1, 9, 8, u32::MAX, 2].map(u32::to_le_bytes).each_ref().map(|b| &b[..])),
            Some(InferTensorContents { uint_contents: vec![0, 1, 9, 8, u32::MAX, 2], ..none() }),
        ),
        (
            "UINT64",
            "uint64",
            bytes(&[0u64, 1, 9, 8, u64::MAX, 2].map(u64::to_le_bytes).each_ref().map(|b| &b[..])),
            Some(InferTensorContents { uint64_contents: vec![0, 1, 9, 8, u64::MAX, 2], ..none() }),
        ),
        (
            "FP32",
            "float32",
            bytes(&[0f32, 1.5, -0.0, f32::MAX, 1e-40, 2.0].map(f32::to_le_bytes).each_ref().map(|b| &b[..])),
            Some(InferTensorContents { fp32_contents: vec![0.0, 1.5, -0.0, f32::MAX, 1e-40, 2.0], ..none() }),
        ),
        (
            "FP64",
            "float64",
            bytes(&[0f64, 0.1, -0.0, f64::MAX, 1e-310, 2.0].map(f64::to_le_bytes).each_ref().map(|b| &b[..])),
            Some(InferTensorContents { fp64_contents: vec![0.0, 0.1, -0.0, f64::MAX, 1e-310, 2.0], ..none() }),
        ),
        // 1.5, -2.0 and the smallest positive number, of each type.
        ("FP16", "float16", vec![0, 0x3e, 0, 0xc0, 1, 0, 0, 0x3e, 0, 0xc0, 1, 0], None),
        ("BF16", "bfloat16", vec![0xc0, 0x3f, 0, 0xc0, 1, 0, 0xc0, 0x3f, 0, 0xc0, 1, 0], None),
        (
            "BYTES",
            "string",
            raw_texts,
            Some(InferTensorContents {
                bytes_contents: texts.iter().map(|text| text.to_vec().into()).collect(),
                ..none()
            }),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_comes_back_as_it_was_sent() {
    let repository = types().iter().fold(Repository::new(), |repository, (_, model, ..)| {
        let model = format!("echo_{model}");
        repository.with(&model, 1, &model, PLAIN)
    });
    let app = TestApp::with(repository.config()).await;
    let client = Client::of(&app).await;
    for (datatype, model, bytes, contents) in types() {
        let model = format!("echo_{model}");
        let request = raw(&model, input("x", datatype, &[3, 2]), bytes.clone());
        let mut requests = vec![request.clone()];
        if let Some(contents) = contents {
            let inputs = vec![InferInputTensor { contents: Some(contents), ..input("x", datatype, &[3, 2]) }];
            requests.push(ModelInferRequest { inputs, raw_input_contents: Vec::new(), ..request });
        }
        for request in requests {
            let answer = client.infer(ModelInferRequest { id: "7".into(), ..request }).await;
            let answer = answer.unwrap_or_else(|error| panic!("{datatype}: {error}"));
            assert_eq!((&*answer.model_name, &*answer.model_version, &*answer.id), (&*model, "1", "7"));
            let [output] = &answer.outputs[..] else { panic!("{answer:?}") };
            assert_eq!((&*output.datatype, &*output.shape), (datatype, &[3, 2][..]));
            assert_eq!(answer.raw_output_contents, std::slice::from_ref(&bytes), "{datatype}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_inputs_come_in_any_order_and_outputs_are_selected() {
    let repository = Repository::new().with("two", 1, "two_inputs", PLAIN);
    let app = TestApp::with(repository.config()).await;
    let client = Client::of(&app).await;
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let request = ModelInferRequest {
        model_name: "two".into(),
        inputs: vec![input("count", "INT64", &[1, 1]), input("x", "FP32", &[1, 2])],
        raw_input_contents: vec![3i64.to_le_bytes().to_vec().into(), bytes(&[1.0, 2.0]).into()],
        ..ModelInferRequest::default()
    };
    let answer = client.infer(request.clone()).await.unwrap();
    assert!(answer.outputs.len() > 1, "{answer:?}");
    let outputs = vec![InferRequestedOutputTensor { name: "scaled".into(), ..Default::default() }];
    let answer = client.infer(ModelInferRequest { outputs, ..request.clone() }).await.unwrap();
    assert_eq!(answer.outputs.iter().map(|output| &*output.name).collect::<Vec<_>>(), ["scaled"]);
    assert_eq!(answer.raw_output_contents, [bytes(&[3.0, 6.0])]);
    let outputs = vec![InferRequestedOutputTensor { name: "other".into(), ..Default::default() }];
    let refused = client.infer(ModelInferRequest { outputs, ..request }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

/// Length: a table.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_request_is_told_what_is_wrong() {
    let app = TestApp::with(Repository::of("echo_float32").config()).await;
    let client = Client::of(&app).await;
    let right = || echo([1.0, 2.0]);
    let of = |change: &dyn Fn(&mut ModelInferRequest)| {
        let mut request = right();
        change(&mut request);
        request
    };
    let with = |name: &str, choice| {
        of(&|request| {
            request.parameters = [(name.to_owned(), parameter(Clone::clone(&choice)))].into();
        })
    };
    for (request, code, expected) in [
        (of(&|r| r.model_name = "other".into()), Code::NotFound, "there is no model \"other\""),
        (of(&|r| r.model_version = "7".into()), Code::NotFound, "has no version \"7\""),
        (of(&|r| r.model_version = "x".into()), Code::NotFound, "has no version \"x\""),
        (
            of(&|r| {
                r.model_name.clear();
                r.model_version = "1".into();
            }),
            Code::InvalidArgument,
            "found a version without the name of its model",
        ),
        (of(&|r| r.inputs[0].name = "y".into()), Code::InvalidArgument, "no input \"y\""),
        (
            of(&|r| r.inputs[0].datatype = "FP31".into()),
            Code::InvalidArgument,
            "inputs[0] (\"x\"): datatype: found \"FP31\"",
        ),
        (of(&|r| r.inputs[0].datatype = "FP64".into()), Code::InvalidArgument, "expected float32"),
        (of(&|r| r.inputs[0].shape = vec![1, 3]), Code::InvalidArgument, "found float32[1, 3]"),
        (of(&|r| r.inputs[0].shape = vec![2, 2]), Code::InvalidArgument, "found 8 bytes, expected 16"),
        (of(&|r| r.inputs[0].shape = vec![0, 2]), Code::InvalidArgument, "found 8 bytes, expected 0"),
        (of(&|r| r.inputs[0].shape = vec![-1, 2]), Code::InvalidArgument, "shape: found -1"),
        (of(&|r| r.inputs[0].shape = vec![i64::MAX; 3]), Code::InvalidArgument, "too large"),
        (of(&|r| r.inputs[0].shape = vec![1; 100]), Code::InvalidArgument, "more than 32 dimensions"),
        (of(&|r| r.raw_input_contents.clear()), Code::InvalidArgument, "found 0 elements, but the shape has 2"),
        (of(&|r| r.raw_input_contents.push(Default::default())), Code::InvalidArgument, "found 2 entries"),
        (of(&|r| r.inputs.clear()), Code::InvalidArgument, "raw_input_contents: found 1 entries"),
        (of(&|r| r.inputs = vec![r.inputs[0].clone(); 1025]), Code::InvalidArgument, "inputs: found more than 1024"),
        (
            of(&|r| {
                r.inputs[0].contents = Some(InferTensorContents { fp32_contents: vec![1.0, 2.0], ..Default::default() })
            }),
            Code::InvalidArgument,
            "found contents and raw_input_contents",
        ),
        (
            of(&|r| {
                r.raw_input_contents.clear();
                r.inputs[0].contents = Some(InferTensorContents { fp64_contents: vec![1.0], ..Default::default() });
            }),
            Code::InvalidArgument,
            "found fp64_contents, expected fp32_contents",
        ),
        (with("timeout", ParameterChoice::StringParam("1".into())), Code::InvalidArgument, "timeout: expected a whole"),
        (with("priority", ParameterChoice::Uint64Param(9)), Code::InvalidArgument, "priority: expected 0"),
        (with("content", ParameterChoice::StringParam("x".into())), Code::InvalidArgument, "content: expected"),
        (with("sequence_id", ParameterChoice::Int64Param(9)), Code::InvalidArgument, "sequence_id"),
        (with("timeout", ParameterChoice::Int64Param(1)), Code::Unavailable, "of the budget are left"),
    ] {
        let refused = client.infer(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(expected), "{expected}: {refused}");
        assert!(!refused.metadata().get("x-request-id").unwrap().is_empty());
    }
    let ignored = with("binary_data_output", ParameterChoice::BoolParam(true));
    assert_eq!(client.infer(ignored).await.unwrap().raw_output_contents, right().raw_input_contents);
    assert_eq!(app.metric("leeway_error_responses_total{code=\"unknown-model\"}").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_has_the_request_id_the_priority_and_the_routing_key() {
    let app = TestApp::with(Repository::of("echo_float32").config()).await;
    let client = Client::of(&app).await;
    let path = format!("{SERVICE}/ModelInfer");
    let ask = async |name: &'static str, value: &str| {
        let mut request = tonic::Request::new(echo([1.0, 2.0]));
        request.metadata_mut().insert(name, value.parse().unwrap());
        client.call::<_, ModelInferResponse>(&path, request).await
    };
    let answer = ask("x-request-id", "mine-7").await.unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap(), "mine-7");
    ask("x-routing-key", "user-3").await.unwrap();
    ask("x-priority", "high").await.unwrap();
    for (name, value) in [("x-priority", "highest"), ("x-routing-key", &"k".repeat(300)), ("grpc-timeout", "1x")] {
        let refused = ask(name, value).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(name), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_of_the_caller_ends_a_call() {
    let _gate = GATE_IN_USE.lock().await;
    let_go(usize::MAX);
    let app = TestApp::with_parts(Repository::of("echo_float32").config(), gated(), Stages::default()).await;
    let client = Client::of(&app).await;
    client.infer(echo([1.0, 1.0])).await.unwrap();
    let_go(0);
    for has_parameter in [false, true] {
        let mut request = echo([2.0, 2.0]);
        let mut metadata = Vec::new();
        match has_parameter {
            true => {
                request.parameters.insert("timeout".into(), parameter(ParameterChoice::Int64Param(40_000)));
            }
            false => metadata.push(("grpc-timeout", "40m")),
        }
        let mut request = tonic::Request::new(request);
        metadata.iter().for_each(|(name, value)| drop(request.metadata_mut().insert(*name, value.parse().unwrap())));
        let begin = Instant::now();
        let error = client.infer(request).await.unwrap_err();
        // This client also has a clock of its own for the deadline in the metadata.
        let is_the_clients = !has_parameter && error.code() == Code::Cancelled;
        assert!(is_the_clients || error.code() == Code::DeadlineExceeded, "{error}");
        assert!((20..10_000).contains(&begin.elapsed().as_millis()), "{:?}", begin.elapsed());
    }
    let_go(usize::MAX);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_above_the_limit_is_refused_and_one_below_is_not() {
    let repository = Repository::of("echo_float32");
    let mut config = repository.config();
    config.http.body_limit_bytes = 100_000.try_into().unwrap();
    config.http.feedback_body_limit_bytes = 100_000.try_into().unwrap();
    config.http.body_memory_bytes = Some(900_000.try_into().unwrap());
    let app = TestApp::with(config).await;
    let client = Client::of(&app).await;
    let rows = |rows: usize| raw("echo_float32", input("x", "FP32", &[rows as i64, 2]), vec![0; rows * 8]);
    let refused = client.infer(rows(12_500)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("larger than 100000 bytes"), "{refused}");
    // The connection goes on. 1,000 rows are the most of a request.
    assert_eq!(client.infer(rows(900)).await.unwrap().raw_output_contents[0].len(), 7200);
    let refused = client.infer(rows(12_000)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    until(async || (app.metric("leeway_body_memory_bytes").await == 0.0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_message_has_the_same_limit() {
    let repository = Repository::of("echo_sequence");
    let mut config = repository.config();
    config.http.body_limit_bytes = 1_000_000.try_into().unwrap();
    let app = TestApp::with(config).await;
    let client = Client::of(&app).await;
    let infer = async |elements: usize| {
        let request = raw("echo_sequence", input("x", "INT64", &[1, elements as i64]), vec![7; elements * 8]);
        let mut grpc = Grpc::new(client.0.clone()).send_compressed(CompressionEncoding::Gzip);
        grpc.ready().await.unwrap();
        let codec = ProstCodec::<ModelInferRequest, ModelInferResponse>::default();
        let path = format!("{SERVICE}/ModelInfer").parse().unwrap();
        grpc.unary(tonic::Request::new(request), path, codec).await.map(Response::into_inner)
    };
    assert_eq!(infer(1_000).await.unwrap().raw_output_contents, [vec![7; 8_000]]);
    let refused = infer(1_000_000).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    until(async || (app.metric("leeway_body_memory_bytes").await == 0.0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_says_when_to_try_again() {
    let _gate = GATE_IN_USE.lock().await;
    let_go(usize::MAX);
    let model_toml = format!("{PLAIN}queue_capacity = 1\n");
    let repository = Repository::new().with("echo_float32", 1, "echo_float32", &model_toml);
    let app = TestApp::with_parts(repository.config(), gated(), Stages::default()).await;
    let client = Client::of(&app).await;
    let_go(0);
    let ask = |value: f32| {
        let client = client.clone();
        tokio::spawn(async move { client.infer(echo([value, 1.0])).await })
    };
    let mut asking = vec![ask(0.0)];
    one_at_the_gate().await;
    asking.extend((1..8u8).map(|value| ask(value.into())));
    let shed = "leeway_error_responses_total{code=\"queue-full\"}";
    until(async || (app.metric(shed).await >= 6.0).then_some(())).await;
    let_go(usize::MAX);
    let mut refused = 0;
    for answer in asking {
        if let Err(error) = answer.await.unwrap() {
            assert_eq!(error.code(), Code::Unavailable, "{error}");
            assert!(error.metadata().get("grpc-retry-pushback-ms").is_some(), "{error:?}");
            refused += 1;
        }
    }
    assert_eq!(refused, 6);
}

// ===== questions =====

#[tokio::test(flavor = "multi_thread")]
async fn the_server_and_its_models_describe_themselves() {
    let repository = Repository::of("echo_float32").with("two", 3, "two_inputs", PLAIN);
    let app = TestApp::with(repository.config()).await;
    let client = Client::of(&app).await;
    let live: ServerLiveResponse = client.ask("ServerLive", ServerLiveRequest {}).await.unwrap();
    let ready: ServerReadyResponse = client.ask("ServerReady", ServerReadyRequest {}).await.unwrap();
    assert!(live.live && ready.ready);
    for (name, version, expected) in
        [("two", "", true), ("two", "3", true), ("two", "4", false), ("three", "", false), ("", "", false)]
    {
        let request = ModelReadyRequest { name: name.into(), version: version.into() };
        let found: ModelReadyResponse = client.ask("ModelReady", request).await.unwrap();
        assert_eq!(found.ready, expected, "{name} {version}");
    }
    let server: ServerMetadataResponse = client.ask("ServerMetadata", ServerMetadataRequest {}).await.unwrap();
    assert_eq!((&*server.name, &*server.version), ("leeway", env!("CARGO_PKG_VERSION")));
    let request = ModelMetadataRequest { name: "two".into(), version: String::new() };
    let model: ModelMetadataResponse = client.ask("ModelMetadata", request).await.unwrap();
    assert_eq!((&*model.name, &*model.platform, &model.versions[..]), ("two", "onnx_onnxv1", &["3".to_owned()][..]));
    let inputs: Vec<_> =
        model.inputs.iter().map(|input| (&*input.name, &*input.datatype, input.shape.clone())).collect();
    assert_eq!(inputs, [("x", "FP32", vec![-1, 2]), ("count", "INT64", vec![-1, 1])]);
    let request = ModelConfigRequest { name: "two".into(), version: String::new() };
    let config: ModelConfigResponse = client.ask("ModelConfig", request).await.unwrap();
    let config = config.config.unwrap();
    assert!(config.max_batch_size > 0);
    let inputs: Vec<_> =
        config.input.iter().map(|input| (&*input.name, input.data_type(), input.dims.clone())).collect();
    assert_eq!(inputs, [("x", DataType::TypeFp32, vec![2]), ("count", DataType::TypeInt64, vec![1])]);

    client.infer(echo([1.0, 2.0])).await.unwrap();
    let request = ModelStatisticsRequest { name: "echo_float32".into(), version: String::new() };
    let statistics: ModelStatisticsResponse = client.ask("ModelStatistics", request).await.unwrap();
    let [version] = &statistics.model_stats[..] else { panic!("{statistics:?}") };
    assert_eq!((version.inference_count, version.execution_count), (1, 1));
    let stats = version.inference_stats.as_ref().unwrap();
    assert_eq!((stats.success.unwrap().count, stats.fail.unwrap().count), (1, 0));
    let all: ModelStatisticsResponse = client.ask("ModelStatistics", ModelStatisticsRequest::default()).await.unwrap();
    assert_eq!(all.model_stats.len(), 2);
    for name in ["ModelMetadata", "ModelConfig", "ModelStatistics"] {
        let request = ModelMetadataRequest { name: "three".into(), version: String::new() };
        let refused = client.ask::<_, ModelMetadataResponse>(name, request).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_loaded_and_unloaded_with_the_token_only() {
    const TOKEN: &str = "a-token-of-operators";
    let repository = Repository::of("echo_float32");
    let mut config = repository.config();
    config.admin.token = Some(TOKEN.to_owned().try_into().unwrap());
    let app = TestApp::with(config).await;
    let client = Client::of(&app).await;
    let index = async |ready| {
        let request = RepositoryIndexRequest { ready, ..RepositoryIndexRequest::default() };
        let index: RepositoryIndexResponse = client.ask("RepositoryIndex", request).await.unwrap();
        index.models.into_iter().map(|model| (model.name, model.version, model.state)).collect::<Vec<_>>()
    };
    let entry = |state: &str| [("echo_float32".to_owned(), "1".to_owned(), state.to_owned())];
    assert_eq!(index(true).await, entry("READY"));
    let unload = async |token: Option<&str>| {
        let request = RepositoryModelUnloadRequest { model_name: "echo_float32".into(), ..Default::default() };
        let mut request = tonic::Request::new(request);
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        client.call::<_, RepositoryModelUnloadResponse>(&format!("{SERVICE}/RepositoryModelUnload"), request).await
    };
    for token in [None, Some("another-token-of-theirs")] {
        assert_eq!(unload(token).await.unwrap_err().code(), Code::Unauthenticated);
    }
    let version = ModelRepositoryParameter { parameter_choice: Some(RepositoryChoice::StringParam("2".to_owned())) };
    let mut of_a_version = tonic::Request::new(RepositoryModelUnloadRequest {
        model_name: "echo_float32".into(),
        parameters: [("version".to_owned(), version)].into(),
        ..Default::default()
    });
    of_a_version.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    let path = format!("{SERVICE}/RepositoryModelUnload");
    let refused = client.call::<_, RepositoryModelUnloadResponse>(&path, of_a_version).await.unwrap_err();
    assert!(refused.message().contains("version"), "{refused:?}");
    unload(Some(TOKEN)).await.unwrap();
    assert_eq!(index(true).await, []);
    assert_eq!(client.infer(echo([1.0, 2.0])).await.unwrap_err().code(), Code::Unavailable);
    let request = RepositoryModelLoadRequest { model_name: "echo_float32".into(), ..Default::default() };
    let mut request = tonic::Request::new(request);
    request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    let path = format!("{SERVICE}/RepositoryModelLoad");
    client.call::<_, RepositoryModelLoadResponse>(&path, request).await.unwrap();
    client.infer(echo([1.0, 2.0])).await.unwrap();

    let without_token = TestApp::with(repository.config()).await;
    let request = RepositoryModelUnloadRequest { model_name: "echo_float32".into(), ..Default::default() };
    let client = Client::of(&without_token).await;
    let refused = client.ask::<_, RepositoryModelUnloadResponse>("RepositoryModelUnload", request).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
}

/// A version without a model is no version of the default model.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_without_its_model_is_refused() {
    let app = TestApp::with(Repository::of("echo_float32").config()).await;
    let client = Client::of(&app).await;
    let version = || "7".to_owned();
    let ready = ModelReadyRequest { name: String::new(), version: version() };
    let metadata = ModelMetadataRequest { name: String::new(), version: version() };
    let config = ModelConfigRequest { name: String::new(), version: version() };
    let statistics = ModelStatisticsRequest { name: String::new(), version: version() };
    for refused in [
        client.ask::<_, ModelReadyResponse>("ModelReady", ready).await.map(drop),
        client.ask::<_, ModelMetadataResponse>("ModelMetadata", metadata).await.map(drop),
        client.ask::<_, ModelConfigResponse>("ModelConfig", config).await.map(drop),
        client.ask::<_, ModelStatisticsResponse>("ModelStatistics", statistics).await.map(drop),
    ] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains("without the name of its model"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_do_not_exist_are_told_so() {
    let app = TestApp::with(Repository::of("echo_float32").config()).await;
    let client = Client::of(&app).await;
    for (name, expected) in [
        ("SystemSharedMemoryStatus", "shared memory is not supported"),
        ("TraceSetting", "when the server starts"),
        ("LogSettings", "when the server starts"),
        ("Else", "has no such call"),
    ] {
        let refused = client.ask::<_, ServerLiveResponse>(name, ServerLiveRequest {}).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented, "{refused}");
        assert!(refused.message().contains(expected), "{refused}");
    }
    // A message of another type: its first field is no text.
    for name in ["ModelReady", "ModelInfer"] {
        let request = ModelReadyResponse { ready: true };
        let refused = client.ask::<_, ModelReadyResponse>(name, request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains("is not an encoded message of this call"), "{refused}");
    }
}

// ===== health and reflection =====

#[tokio::test(flavor = "multi_thread")]
async fn health_is_checked_and_watched() {
    let repository = Repository::of("echo_float32");
    let app = TestApp::with(repository.config()).await;
    let client = Client::of(&app).await;
    let check = async |service: &str| {
        let request = tonic::Request::new(HealthCheckRequest { service: service.to_owned() });
        client.call::<_, HealthCheckResponse>("/grpc.health.v1.Health/Check", request).await
    };
    for service in ["", "echo_float32", "inference.GRPCInferenceService"] {
        assert_eq!(check(service).await.unwrap().into_inner().status(), ServingStatus::Serving, "{service}");
    }
    assert_eq!(check("other").await.unwrap_err().code(), Code::NotFound);

    let mut server = client.watch("").await;
    let mut other = client.watch("other").await;
    assert_eq!(server.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    assert_eq!(other.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
    let added = repository.with("other", 1, "echo_float32", PLAIN);
    app.admin_post("/admin/v1/reload", serde_json::json!({})).await;
    assert_eq!(other.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    app.stop.send(Stop::AtOnce).await.unwrap();
    assert_eq!(server.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_eq!(server.message().await.unwrap_err().code(), Code::Unavailable);
    app.running.await.unwrap().unwrap();
    drop(added);
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_lists_the_services() {
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

    let app = TestApp::with(Repository::of("echo_float32").config()).await;
    let client = Client::of(&app).await;
    for version in ["v1", "v1alpha"] {
        let mut grpc = Grpc::new(client.0.clone());
        grpc.ready().await.unwrap();
        // The messages of both versions are the same.
        let codec = ProstCodec::<ServerReflectionRequest, ServerReflectionResponse>::default();
        let ask =
            |message_request| ServerReflectionRequest { host: String::new(), message_request: Some(message_request) };
        let symbol = "inference.GRPCInferenceService".to_owned();
        let asked =
            [ask(MessageRequest::ListServices(String::new())), ask(MessageRequest::FileContainingSymbol(symbol))];
        let requests = Asked(asked.into_iter()).into_streaming_request();
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo").parse().unwrap();
        let mut answers = grpc.streaming(requests, path, codec).await.unwrap().into_inner();
        let listed = answers.message().await.unwrap().unwrap().message_response.unwrap();
        let MessageResponse::ListServicesResponse(listed) = listed else { panic!("{listed:?}") };
        let names: Vec<_> = listed.service.iter().map(|service| &*service.name).collect();
        for expected in ["inference.GRPCInferenceService", "grpc.health.v1.Health"] {
            assert!(names.contains(&expected), "{names:?}");
        }
        let found = answers.message().await.unwrap().unwrap().message_response.unwrap();
        assert!(matches!(found, MessageResponse::FileDescriptorResponse(_)), "{found:?}");
    }
}

/// Messages that are sent at once.
struct Asked<I>(I);

impl<I: Iterator + Unpin> futures_core::Stream for Asked<I> {
    type Item = I::Item;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<I::Item>> {
        std::task::Poll::Ready(self.0.next())
    }
}

// ===== streams =====

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_answers_in_order_and_goes_on_after_an_error() {
    let app = TestApp::with(Repository::of("echo_float32").config()).await;
    let client = Client::of(&app).await;
    let mut grpc = Grpc::new(client.0.clone());
    grpc.ready().await.unwrap();
    let requests = (0..200).map(|index| match index % 10 {
        9 => ModelInferRequest { model_name: "other".into(), ..echo([index as f32, 0.0]) },
        _ => ModelInferRequest { id: index.to_string(), ..echo([index as f32, 0.0]) },
    });
    let codec = ProstCodec::<ModelInferRequest, ModelStreamInferResponse>::default();
    let path = format!("{SERVICE}/ModelStreamInfer").parse().unwrap();
    let answers = grpc.streaming(Asked(requests).into_streaming_request(), path, codec).await.unwrap();
    let mut answers = answers.into_inner();
    for index in 0..200 {
        let answer = tokio::time::timeout(PATIENCE, answers.message()).await.unwrap().unwrap().unwrap();
        let response = answer.infer_response.unwrap();
        if index % 10 == 9 {
            assert!(answer.error_message.contains("there is no model \"other\""), "{}", answer.error_message);
        } else {
            assert_eq!((&*answer.error_message, &*response.id), ("", &*index.to_string()));
            assert_eq!(response.raw_output_contents, echo([index as f32, 0.0]).raw_input_contents);
        }
    }
    assert!(answers.message().await.unwrap().is_none());
}

/// A stream on which the client sends without a pause ends soon after the server is told to stop, and every message that
/// was taken is answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_stream_ends_when_the_server_stops() {
    let app = TestApp::with(Repository::of("echo_float32").config()).await;
    let client = Client::of(&app).await;
    let mut grpc = Grpc::new(client.0.clone());
    grpc.ready().await.unwrap();
    let requests = (0u64..).map(|index| ModelInferRequest { id: index.to_string(), ..echo([1.0, 2.0]) });
    let codec = ProstCodec::<ModelInferRequest, ModelStreamInferResponse>::default();
    let path = format!("{SERVICE}/ModelStreamInfer").parse().unwrap();
    let answers = grpc.streaming(Asked(requests).into_streaming_request(), path, codec).await.unwrap();
    let mut answers = answers.into_inner();
    let begun = Instant::now();
    let ended = async {
        for index in 0u64.. {
            if index == 20 {
                app.stop.send(Stop::AtOnce).await.unwrap();
            }
            match answers.message().await {
                Ok(answer) => {
                    let answer = answer.unwrap();
                    assert_eq!(answer.error_message, "");
                    assert_eq!(answer.infer_response.unwrap().id, index.to_string());
                }
                Err(status) => return status,
            }
        }
        unreachable!()
    };
    let status = tokio::time::timeout(PATIENCE, ended).await.unwrap();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("shutting down"), "{status}");
    assert!(begun.elapsed() < PATIENCE);
    tokio::time::timeout(PATIENCE, app.running).await.unwrap().unwrap().unwrap();
}

/// A preprocessor that panics at the inputs of a model whose first value is 666.
fn make_panicking(_: StageContext<'_>) -> Result<Box<dyn Preprocessor>, SetupError> {
    struct Panicking;
    impl Preprocessor for Panicking {
        fn transform(&self, _: &RawValue, _: leeway::budget::Deadline) -> leeway::error::Result<Prepared> {
            Err(leeway::error::Error::internal("a test sends tensors only"))
        }

        fn features(&self) -> FeatureSchema {
            FeatureSchema { numbers: vec!["x".into()], texts: Vec::new() }
        }

        fn features_of(&self, inputs: &Tensors) -> Features {
            let values: &[f32] = inputs.at(0).unwrap().values().unwrap();
            assert!(!values.contains(&666.0), "a test wants this stage to panic");
            let mut features = Features::with_rows(1);
            features.numbers.push(values[0]);
            features
        }
    }
    Ok(Box::new(Panicking))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_panics_fails_its_message_only() {
    let model_toml = PLAIN.replacen("\"tensor\"", "\"panicking\"", 1);
    let repository = Repository::new().with("echo_float32", 1, "echo_float32", &model_toml);
    // Features of tensors are read for a version with a baseline only.
    let folder = repository.0.path().join("echo_float32/1");
    std::fs::write(folder.join("baseline.json"), serde_json::to_vec(&even_baseline()).unwrap()).unwrap();
    Manifest::write_for(&folder).unwrap();
    let stages = Stages::default().with_preprocessor("panicking", make_panicking);
    let app = TestApp::with_parts(repository.config(), runtime(), stages).await;
    let client = Client::of(&app).await;
    assert_eq!(client.infer(echo([666.0, 0.0])).await.unwrap_err().code(), Code::Internal);
    let mut grpc = Grpc::new(client.0.clone());
    grpc.ready().await.unwrap();
    let requests = [1.0, 666.0, 2.0].map(|value| echo([value, 0.0])).into_iter();
    let codec = ProstCodec::<ModelInferRequest, ModelStreamInferResponse>::default();
    let path = format!("{SERVICE}/ModelStreamInfer").parse().unwrap();
    let answers = grpc.streaming(Asked(requests).into_streaming_request(), path, codec).await.unwrap();
    let mut answers = answers.into_inner();
    for value in [1.0, 666.0, 2.0] {
        let answer = tokio::time::timeout(PATIENCE, answers.message()).await.unwrap().unwrap().unwrap();
        if value == 666.0 {
            assert!(answer.error_message.contains("internal") && !answer.error_message.contains("wants"), "{answer:?}");
        } else {
            let response = answer.infer_response.unwrap();
            assert_eq!(response.raw_output_contents, echo([value, 0.0]).raw_input_contents);
        }
    }
    assert!(answers.message().await.unwrap().is_none());
    assert_eq!(app.metric("leeway_error_responses_total{code=\"internal\"}").await, 2.0);
}

// ===== connections =====

/// The client is told not to start further calls here (GOAWAY), and the call in flight is answered.
#[tokio::test(flavor = "multi_thread")]
async fn calls_in_flight_are_answered_when_the_server_stops() {
    let _gate = GATE_IN_USE.lock().await;
    let_go(usize::MAX);
    let app = TestApp::with_parts(Repository::of("echo_float32").config(), gated(), Stages::default()).await;
    let stream = tokio::net::TcpStream::connect(app.data).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let_go(0);
    let mut asking = sender.clone().ready().await.unwrap();
    let (response, mut body) = asking.send_request(call_of_infer(&app), false).unwrap();
    body.send_data(framed(&echo([1.0, 2.0])), true).unwrap();
    one_at_the_gate().await;
    app.stop.send(Stop::AtOnce).await.unwrap();
    until(async || sender.clone().ready().await.is_err().then_some(())).await;
    let_go(usize::MAX);
    let response = tokio::time::timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    let mut answer = response.into_body();
    let message = answer.data().await.unwrap().unwrap();
    let message = ModelInferResponse::decode(&message[5..]).unwrap();
    assert_eq!(message.raw_output_contents, echo([1.0, 2.0]).raw_input_contents);
    assert_eq!(answer.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    drop((sender, asking, answer));
    tokio::time::timeout(PATIENCE, connection).await.unwrap().unwrap().unwrap();
    tokio::time::timeout(PATIENCE, app.running).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rest_works_over_both_versions_of_http_on_the_same_port() {
    let app = TestApp::with(Repository::of("echo_float32").config()).await;
    let http2 = crate::harness::client_builder().http2_prior_knowledge().build().unwrap();
    let ask = async |client: &reqwest::Client| {
        let request = client.post(app.url("/predict")).header("content-type", "application/json");
        let answer = request.body(r#"{"instances": [[1, 2]]}"#).send().await.unwrap();
        (answer.version(), answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (version, status, text) = ask(&http2).await;
    assert_eq!((version, status), (reqwest::Version::HTTP_2, 200), "{text}");
    assert!(text.contains("[[1.0,2.0]]"), "{text}");
    let (version, status, _) = ask(&app.client).await;
    assert_eq!((version, status), (reqwest::Version::HTTP_11, 200));
    // gRPC needs HTTP/2.
    let call = app.client.post(app.url(&format!("{SERVICE}/ServerLive"))).header("content-type", "application/grpc");
    let answer = call.send().await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "12");
    // And calls have to say what they are.
    let answer = http2.post(app.url(&format!("{SERVICE}/ServerLive"))).send().await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "12");
}

/// HTTP/2 has the host in `:authority`, which web pages cannot choose either.
#[tokio::test(flavor = "multi_thread")]
async fn the_admin_api_without_a_token_is_reached_over_http2_by_programs_on_this_machine() {
    let app = TestApp::with(Repository::of("echo_float32").config()).await;
    let path = format!("http://{}/admin/v1/models", app.admin);
    let ask = async |url: &str, host: Option<&str>| {
        let stream = tokio::net::TcpStream::connect(app.admin).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut request = axum::http::Request::get(url);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let mut sender = sender.ready().await.unwrap();
        let (response, _) = sender.send_request(request.body(()).unwrap(), true).unwrap();
        let status = tokio::time::timeout(PATIENCE, response).await.unwrap().unwrap().status().as_u16();
        drop((sender, connection));
        status
    };
    assert_eq!(ask(&path, None).await, 200);
    assert_eq!(ask(&path, Some(&app.admin.to_string())).await, 200);
    assert_eq!(ask("http://evil.example/admin/v1/models", None).await, 403);
    assert_eq!(ask(&path, Some("evil.example")).await, 400);
    assert_eq!(ask("http://evil.example/admin/v1/models", Some("localhost")).await, 400);
}

/// A client that opens and cancels requests without end is disconnected, and the others are served.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_resets_ends_the_connection() {
    let app = TestApp::with(Repository::of("echo_float32").config()).await;
    let stream = tokio::net::TcpStream::connect(app.data).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let flooding = async {
        loop {
            let Ok(mut ready) = sender.ready().await else { return };
            let request = call_of_infer(&app);
            let Ok((_, mut body)) = ready.send_request(request, false) else { return };
            body.send_reset(h2::Reason::CANCEL);
            sender = ready;
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, flooding).await.unwrap();
    let _ = connection.await.unwrap();
    app.metric_becomes("leeway_connections", 1.0).await;
    let client = Arc::new(Client::of(&app).await);
    client.infer(echo([1.0, 2.0])).await.unwrap();
}

/// A client that never sends the rest of its message holds a place only while no other needs it.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_only_waits_for_its_client_gives_way() {
    let repository = Repository::of("echo_float32");
    let mut config = repository.config();
    config.http.connection_limit = 1.try_into().unwrap();
    let app = TestApp::with(config).await;
    let stream = tokio::net::TcpStream::connect(app.data).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let request = call_of_infer(&app);
    let (response, mut body) = sender.send_request(request, false).unwrap();
    body.send_data(bytes::Bytes::from_static(&[0, 0, 0, 1, 0, 1]), false).unwrap();
    until(async || (app.metric("leeway_connections").await >= 1.0).then_some(())).await;
    let client = Client::of(&app).await;
    until(async || client.infer(echo([1.0, 2.0])).await.is_ok().then_some(())).await;
    assert!(tokio::time::timeout(PATIENCE, response).await.unwrap().is_err());
    drop(connection);
}

/// Clients that watch the health for ever keep no other from its place, and take no place above the limit.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_watches_gives_way() {
    let repository = Repository::of("echo_float32");
    let mut config = repository.config();
    config.http.connection_limit = 1.try_into().unwrap();
    let app = TestApp::with(config).await;
    let watcher = Client::of(&app).await;
    let mut watched = watcher.watch("").await;
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let client = Client::of(&app).await;
    until(async || client.infer(echo([1.0, 2.0])).await.is_ok().then_some(())).await;
    let ended = async { while let Ok(Some(_)) = watched.message().await {} };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_without_end_are_refused_above_the_limit() {
    let _gate = GATE_IN_USE.lock().await;
    let_go(usize::MAX);
    let repository = Repository::of("echo_float32");
    let mut config = repository.config();
    config.http.connection_limit = 1.try_into().unwrap();
    let app = TestApp::with_parts(config, gated(), Stages::default()).await;
    let busy = Client::of(&app).await;
    let_go(0);
    let asking = tokio::spawn(async move { busy.infer(echo([1.0, 2.0])).await });
    one_at_the_gate().await;
    for path in [
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ] {
        let refused =
            Client::of(&app).await.call::<_, HealthCheckResponse>(path, tonic::Request::new(health_of(""))).await;
        assert_eq!(refused.unwrap_err().code(), Code::Unavailable, "{path}");
    }
    let path = "/grpc.health.v1.Health/Check";
    let checked = Client::of(&app).await.call::<_, HealthCheckResponse>(path, tonic::Request::new(health_of(""))).await;
    assert_eq!(checked.unwrap().into_inner().status(), ServingStatus::Serving);
    let_go(usize::MAX);
    asking.await.unwrap().unwrap();
}

/// A client that asks, and reads nothing of the answers, is disconnected, and their memory is free again.
#[tokio::test(flavor = "multi_thread")]
async fn responses_that_nobody_reads_end_the_connection() {
    let repository = Repository::of("echo_sequence");
    let mut config = repository.config();
    config.http.write_timeout_ms = 100.try_into().unwrap();
    let app = TestApp::with(config).await;
    let stream = tokio::net::TcpStream::connect(app.data).await.unwrap();
    // The client lets the server send only 16 bytes of each answer.
    let (sender, connection) =
        h2::client::Builder::new().initial_window_size(16).handshake::<_, bytes::Bytes>(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut asking = Vec::new();
    for _ in 0..10 {
        let mut sender = sender.clone().ready().await.unwrap();
        let request = call_of_infer(&app);
        let (response, mut body) = sender.send_request(request, false).unwrap();
        let message = raw("echo_sequence", input("x", "INT64", &[1, 1000]), vec![1; 8000]);
        body.send_data(framed(&message), true).unwrap();
        asking.push(response);
    }
    let mut answers = Vec::new();
    for response in asking {
        answers.push(tokio::time::timeout(PATIENCE, response).await.unwrap().unwrap());
    }
    tokio::time::timeout(PATIENCE, connection).await.unwrap().unwrap().ok();
    until(async || (app.metric("leeway_body_memory_bytes").await == 0.0).then_some(())).await;
}

/// The shape of the tensors of images: 600 kB, more than the first window of a stream.
#[tokio::test(flavor = "multi_thread")]
async fn large_messages_pass_in_both_directions() {
    let model_toml = format!("{PLAIN}max_batch_elements = 100000\n");
    let repository = Repository::new().with("echo_sequence", 1, "echo_sequence", &model_toml);
    let app = TestApp::with(repository.config()).await;
    let client = Client::of(&app).await;
    let bytes: Vec<u8> = (0..75_264i64).flat_map(i64::to_le_bytes).collect();
    for _ in 0..5 {
        let request = raw("echo_sequence", input("x", "INT64", &[1, 75_264]), bytes.clone());
        assert_eq!(client.infer(request).await.unwrap().raw_output_contents, std::slice::from_ref(&bytes));
    }
    until(async || (app.metric("leeway_body_memory_bytes").await == 0.0).then_some(())).await;
}

/// A chain takes the columns of its first step, and answers with those of its last step.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_is_called_like_a_model() {
    let app = TestApp::with(with_chain(texts(), "tag", TAG).config()).await;
    let client = Client::of(&app).await;
    let asked = ModelMetadataRequest { name: "tag".to_owned(), version: String::new() };
    let metadata: ModelMetadataResponse = client.ask("ModelMetadata", asked).await.unwrap();
    assert_eq!(metadata.platform, "ensemble");
    let text = "cancelled as Monday";
    let mut column = input(&metadata.inputs[0].name, "BYTES", &[1]);
    let contents = InferTensorContents { bytes_contents: vec![text.to_owned().into()], ..Default::default() };
    column.contents = Some(contents);
    let request = ModelInferRequest { model_name: "tag".to_owned(), inputs: vec![column], ..Default::default() };
    let answer = client.infer(request).await.unwrap();
    let label = answer.outputs.iter().position(|output| output.name == "label").unwrap();
    let body = serde_json::json!({ "instances": [text] }).to_string();
    let expected = app.predict("/v1/models/tag:predict", body).await.predictions()[0]["label"].clone();
    // The length of the text, and the text.
    assert_eq!(answer.raw_output_contents[label][4..], *expected.as_str().unwrap().as_bytes());
    let wrong = ModelInferRequest {
        model_name: "tag".to_owned(),
        inputs: vec![input("vector", "FP32", &[1, 1])],
        raw_input_contents: vec![vec![0; 4].into()],
        ..ModelInferRequest::default()
    };
    assert_eq!(client.infer(wrong).await.unwrap_err().code(), Code::InvalidArgument);
}

/// A request of columns is an instance in the prediction log, as over HTTP.
#[tokio::test(flavor = "multi_thread")]
async fn requests_are_in_the_prediction_log() {
    let (folder, repository) = (tempfile::tempdir().unwrap(), penguins(""));
    let app = TestApp::with(logging(repository.config(), &folder)).await;
    let client = Client::of(&app).await;
    let contents = |texts: &[&str], numbers: &[f32]| {
        let bytes_contents = texts.iter().map(|text| text.as_bytes().to_vec().into()).collect();
        Some(InferTensorContents { bytes_contents, fp32_contents: numbers.to_vec(), ..InferTensorContents::default() })
    };
    let island = InferInputTensor { contents: contents(&["Biscoe"], &[]), ..input("island", "BYTES", &[1]) };
    let mass = InferInputTensor { contents: contents(&[], &[5_000.0]), ..input("body_mass_g", "FP32", &[1]) };
    let request = ModelInferRequest {
        model_name: "penguins".to_owned(),
        model_version: "1".to_owned(),
        inputs: vec![island, mass],
        parameters: [("content".to_owned(), parameter(ParameterChoice::StringParam("pipeline".to_owned())))].into(),
        ..ModelInferRequest::default()
    };
    let answer = client.infer(request).await.unwrap();
    let place = answer.outputs.iter().position(|output| output.name == "prediction_id").unwrap();
    // A text is its length, in four bytes, and its bytes.
    let id = String::from_utf8(answer.raw_output_contents[place][4..].to_vec()).unwrap();
    drop(client);
    stop(app).await;
    let rows = log(folder.path(), &["penguins"]);
    let [row] = &*rows else { panic!("{rows:?}") };
    assert_eq!((&row["prediction_id"], &row["version"]), (&id.into(), &1.into()));
    assert_eq!(row["instance"]["island"], "Biscoe");
    assert_eq!((&row["feature.island"], &row["feature.body_mass_g"]), (&"Biscoe".into(), &5_000.0.into()));
}
