//! Spans of requests, as a collector of OpenTelemetry gets them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use leeway::app::Stop;
use leeway::config::{Config, OtlpProtocol, TracingConfig};
use leeway::grpc::proto::inference::model_infer_request::InferInputTensor;
use leeway::grpc::proto::inference::{ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
use leeway::pipeline::Stages;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use crate::chains::{TAG, texts, with_chain};
use crate::collector::{Collector, attributes};
use crate::gate::{GATE_IN_USE, gated, let_go, one_at_the_gate};
use crate::harness::{Answer, PATIENCE, PLAIN, Repository, Server, TestApp, client, config, held_out, until};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// Sends spans of all requests to a collector.
fn traced(config: Config, collector: &Collector) -> Config {
    let endpoint = Some(format!("http://{}", collector.address));
    Config { tracing: TracingConfig { endpoint, sample_ratio: 1.0, ..TracingConfig::default() }, ..config }
}

fn rows(count: usize) -> Value {
    json!({ "instances": held_out("digits")["instances"].as_array().unwrap()[..count] })
}

async fn predict(app: &TestApp, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    let request = app.client.post(app.url(path)).json(body);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    Answer::of(request.send().await.unwrap()).await
}

fn names(spans: &[Span]) -> Vec<&str> {
    spans.iter().map(|span| span.name.as_str()).collect()
}

fn is_within(inner: &Span, outer: &Span) -> bool {
    let is_ordered = |span: &Span| span.start_time_unix_nano <= span.end_time_unix_nano;
    is_ordered(inner)
        && outer.start_time_unix_nano <= inner.start_time_unix_nano
        && inner.end_time_unix_nano <= outer.end_time_unix_nano
}

/// Checks the spans of a request for two rows over this transport.
async fn check_a_request(collector: Collector, protocol: OtlpProtocol) {
    let headers = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(headers.path(), "Authorization: Bearer secret\n").unwrap();
    let mut config = traced(config(), &collector);
    config.tracing.protocol = protocol;
    config.tracing.headers_file = Some(headers.path().to_owned());
    let app = TestApp::with(config).await;
    let answer = predict(&app, "/v1/models/digits:predict", &[("x-request-id", "mine")], &rows(2)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);

    let request = collector.span("POST /v1/models/{model}:predict").await;
    let response = format!("00-{}-{}-01", hex::encode(&request.trace_id), hex::encode(&request.span_id));
    assert_eq!(answer.header("traceresponse"), response);
    assert_eq!((request.kind(), request.parent_span_id.len()), (SpanKind::Server, 0));
    let mut found = attributes(&request.attributes);
    let port = found["server.port"].take();
    assert_eq!(port, json!(app.data.port()));
    assert_eq!(
        found,
        json!({
            "http.request.method": "POST", "url.path": "/v1/models/digits:predict", "url.scheme": "http",
            "http.route": "/v1/models/{model}:predict", "http.response.status_code": 200,
            "network.protocol.version": "1.1", "server.address": "127.0.0.1", "server.port": null,
            "leeway.request_id": "mine", "leeway.model": "digits", "leeway.version": "2", "leeway.instances": 2,
        })
    );
    let stages = collector.children(&request);
    assert_eq!(names(&stages), ["network", "preprocess", "queue", "inference", "postprocess"]);
    for pair in stages.windows(2) {
        assert!(pair[0].end_time_unix_nano <= pair[1].start_time_unix_nano, "{pair:?}");
    }
    assert!(stages.iter().all(|stage| is_within(stage, &request) && stage.kind() == SpanKind::Internal));

    let run = collector.span("run digits").await;
    assert_ne!(run.trace_id, request.trace_id);
    let links: Vec<_> = run.links.iter().map(|link| (&link.trace_id, &link.span_id)).collect();
    assert_eq!(links, [(&request.trace_id, &request.span_id)]);
    let batch = json!({ "leeway.batch.rows": 2, "leeway.batch.requests": 1 });
    let inference = &stages[3];
    assert_eq!(attributes(&inference.attributes), batch);
    let [link] = &inference.links[..] else { panic!("{:?}", inference.links) };
    assert_eq!((&link.trace_id, &link.span_id), (&run.trace_id, &run.span_id));
    // The span of the run is of another export, whose clock was read at another time.
    const SLACK: u64 = 10_000_000;
    let began = run.start_time_unix_nano;
    assert!((inference.start_time_unix_nano - SLACK..inference.end_time_unix_nano + SLACK).contains(&began));
    let of_run = attributes(&run.attributes);
    assert_eq!((&of_run["leeway.model"], &of_run["leeway.run.outcome"]), (&json!("digits"), &json!("completed")));
    assert_eq!((&of_run["leeway.batch.rows"], run.status.unwrap_or_default().code), (&json!(2), 0));

    assert_eq!(collector.resource()["service.name"], "leeway");
    assert_eq!(collector.authorization().as_deref(), Some("Bearer secret"));
    app.metric_becomes("leeway_tracing_spans_total", 7.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_a_span_with_its_stages_and_is_linked_to_its_run_over_http() {
    check_a_request(Collector::http().await, OtlpProtocol::Http).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_a_span_with_its_stages_and_is_linked_to_its_run_over_grpc() {
    check_a_request(Collector::grpc().await, OtlpProtocol::Grpc).await;
}

/// A collector with a certificate of its own gets spans if the certificate is trusted, and none otherwise.
async fn check_tls(protocol: OtlpProtocol, application: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut server = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
    server.alpn_protocols = vec![application.to_vec()];
    let collector = Collector::start(protocol, Some(TlsAcceptor::from(Arc::new(server)))).await;
    let mut config = traced(config(), &collector);
    config.tracing.endpoint = Some(format!("https://{}", collector.address));
    (config.tracing.protocol, config.tracing.timeout_ms) = (protocol, 1_000);
    let app = TestApp::with(config.clone()).await;
    assert_eq!(predict(&app, "/predict", &[], &rows(1)).await.status, 200);
    app.metric_becomes("leeway_tracing_dropped_total{reason=\"export_failed\"}", 7.0).await;
    config.tracing.ca_file = Some(folder.path().join("ca.pem"));
    config.tracing.timeout_ms = 60_000;
    let app = TestApp::with(config).await;
    assert_eq!(predict(&app, "/predict", &[], &rows(1)).await.status, 200);
    app.metric_becomes("leeway_tracing_spans_total", 7.0).await;
    assert_eq!(collector.spans().len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_a_collector_has_to_be_trusted_over_http() {
    check_tls(OtlpProtocol::Http, b"http/1.1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_a_collector_has_to_be_trusted_over_grpc() {
    check_tls(OtlpProtocol::Grpc, b"h2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_caller_decides_about_its_trace() {
    let collector = Collector::http().await;
    let mut config = traced(config(), &collector);
    let parent = |flags: &str| format!("00-{TRACE}-{CALLER}-{flags}");
    // Not sampled by the caller, although all new traces are.
    let app = TestApp::with(config.clone()).await;
    let not_sampled = predict(&app, "/predict", &[("traceparent", &parent("00"))], &rows(1)).await;
    assert_eq!((not_sampled.status, not_sampled.header("traceresponse")), (200, ""));
    // Health checks begin no traces.
    assert_eq!(app.get("/readyz").await.header("traceresponse"), "");
    // Wrong parents are ignored, so this is a trace of its own.
    let wrong = predict(&app, "/predict", &[("traceparent", "00-1-2-01")], &rows(1)).await;
    assert_eq!(wrong.header("traceresponse").len(), 55);
    let new = collector.span("POST /predict").await;
    assert!(new.parent_span_id.is_empty() && hex::encode(&new.trace_id) != TRACE);

    // Sampled by the caller, although no new trace is.
    config.tracing.sample_ratio = 0.0;
    let app = TestApp::with(config).await;
    assert_eq!(predict(&app, "/invocations", &[], &rows(1)).await.header("traceresponse"), "");
    let headers = [("traceparent", &*parent("01")), ("tracestate", "vendor=1,other=two")];
    let sampled = predict(&app, "/invocations", &headers, &rows(1)).await;
    assert_eq!(&sampled.header("traceresponse")[3..35], TRACE);
    let span = collector.span("POST /invocations").await;
    assert_eq!((hex::encode(&span.trace_id), hex::encode(&span.parent_span_id)), (TRACE.into(), CALLER.into()));
    assert_eq!((&*span.trace_state, span.flags & 0x100, span.flags & 1), ("vendor=1,other=two", 0x100, 1));
    assert_eq!(names(&collector.spans()).iter().filter(|name| **name == "POST /invocations").count(), 1);
    assert_eq!(names(&collector.spans()).iter().filter(|name| **name == "POST /predict").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_and_its_fault_are_in_the_span() {
    let collector = Collector::http().await;
    let app = TestApp::with(traced(config(), &collector)).await;
    let path = "/v1/models/digits/versions/1:predict";
    assert_eq!(predict(&app, path, &[], &json!({ "instances": [[1]] })).await.status, 400);
    let span = collector.span("POST /v1/models/{model}/versions/{version}:predict").await;
    let found = attributes(&span.attributes);
    assert_eq!((&found["error.type"], &found["http.response.status_code"]), (&json!("invalid-input"), &json!(400)));
    // The caller is at fault, so the status of the server's span is not set.
    assert_eq!(span.status.unwrap_or_default().code, 0);
    assert_eq!(
        names(&collector.children(&collector.span("POST /v1/models/{model}/versions/{version}:predict").await)),
        ["network", "preprocess"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_share_a_run_are_linked_to_its_span() {
    let _gate = GATE_IN_USE.lock().await;
    let collector = Collector::http().await;
    let repository = Repository::new().with("echo_float32", 1, "echo_float32", PLAIN);
    let_go(usize::MAX);
    let config = traced(repository.config(), &collector);
    let app = Arc::new(TestApp::with_parts(config, gated(), Stages::default()).await);
    let_go(0);
    let send = |value: f32, flags: &str| {
        let (app, parent) = (Arc::clone(&app), format!("00-{TRACE}-{CALLER}-{flags}"));
        tokio::spawn(async move {
            let body = json!({ "instances": [[value, 0.0]] });
            predict(&app, "/predict", &[("traceparent", &parent)], &body).await
        })
    };
    // This one keeps the only session busy, so the others wait for the same run.
    let first = send(1.0, "00");
    one_at_the_gate().await;
    let others = [send(2.0, "01"), send(3.0, "01"), send(4.0, "00")];
    app.metric_becomes("leeway_queue_depth{model=\"echo_float32\",version=\"1\"}", 3.0).await;
    let_go(usize::MAX);
    assert_eq!(first.await.unwrap().status, 200);
    for other in others {
        assert_eq!(other.await.unwrap().status, 200);
    }
    let run = collector.span("run echo_float32").await;
    let of_run = attributes(&run.attributes);
    assert_eq!((&of_run["leeway.batch.rows"], &of_run["leeway.batch.requests"]), (&json!(3), &json!(3)));
    let spans = until(async || {
        let inferences: Vec<Span> = collector.spans().into_iter().filter(|span| span.name == "inference").collect();
        (inferences.len() == 2).then_some(inferences)
    });
    let spans = spans.await;
    assert!(spans.iter().all(|span| span.links.len() == 1 && span.links[0].span_id == run.span_id));
    let mut linked: Vec<_> = run.links.iter().map(|link| link.span_id.clone()).collect();
    let mut parents: Vec<_> = spans.iter().map(|span| span.parent_span_id.clone()).collect();
    linked.sort();
    parents.sort();
    assert_eq!((linked.len(), linked), (2, parents));
    // The run of the request that is not sampled has no span.
    assert_eq!(names(&collector.spans()).iter().filter(|name| name.starts_with("run ")).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_steps_of_a_chain_are_spans_with_stages_of_their_own() {
    let collector = Collector::http().await;
    let repository = with_chain(texts(), "tag", TAG);
    let app = TestApp::with(traced(repository.config(), &collector)).await;
    let body = json!({ "instances": ["a text", "another one"] });
    let answer = predict(&app, "/v1/models/tag:predict", &[], &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let request = collector.span("POST /v1/models/{model}:predict").await;
    let parts = collector.children(&request);
    assert_eq!(names(&parts), ["network", "preprocess", "step embed", "step topics", "postprocess"]);
    for (step, model) in [(&parts[2], "sentences"), (&parts[3], "topics")] {
        assert_eq!(attributes(&step.attributes)["leeway.model"], model);
        let stages = collector.children(step);
        assert_eq!(names(&stages), ["preprocess", "queue", "inference", "postprocess"]);
        assert!(stages.iter().all(|stage| is_within(stage, step)) && is_within(step, &request));
        let run = collector.span(&format!("run {model}")).await;
        assert_eq!((&run.links[0].span_id, &stages[2].links[0].span_id), (&step.span_id, &run.span_id));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_grpc_and_messages_of_streams_are_spans() {
    let collector = Collector::http().await;
    let app = TestApp::with(traced(Repository::of("echo_float32").config(), &collector)).await;
    let channel = Channel::from_shared(app.url("")).unwrap().connect().await.unwrap();
    let infer = |model: &str| ModelInferRequest {
        model_name: model.to_owned(),
        inputs: vec![InferInputTensor {
            name: "x".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![1, 2],
            ..InferInputTensor::default()
        }],
        raw_input_contents: vec![
            [1.0_f32, 2.0].iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>().into(),
        ],
        ..ModelInferRequest::default()
    };
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<ModelInferRequest, ModelInferResponse>::default();
    let path = "/inference.GRPCInferenceService/ModelInfer";
    grpc.unary(tonic::Request::new(infer("echo_float32")), path.parse().unwrap(), codec).await.unwrap();
    let call = collector.span("inference.GRPCInferenceService/ModelInfer").await;
    let found = attributes(&call.attributes);
    assert_eq!(
        json!([found["rpc.system"], found["rpc.service"], found["rpc.method"], found["rpc.grpc.status_code"]]),
        json!(["grpc", "inference.GRPCInferenceService", "ModelInfer", 0])
    );
    assert_eq!(names(&collector.children(&call)), ["network", "preprocess", "queue", "inference", "postprocess"]);

    grpc.ready().await.unwrap();
    let codec = ProstCodec::<ModelInferRequest, ModelStreamInferResponse>::default();
    let path = "/inference.GRPCInferenceService/ModelStreamInfer";
    let messages = OneByOne(vec![infer("echo_float32"), infer("nobody")].into_iter());
    let answers = grpc.streaming(tonic::Request::new(messages), path.parse().unwrap(), codec).await.unwrap();
    let mut answers = answers.into_inner();
    while answers.message().await.unwrap().is_some() {}
    let stream = collector.span("inference.GRPCInferenceService/ModelStreamInfer").await;
    let messages = until(async || Some(collector.children(&stream)).filter(|messages| messages.len() == 2)).await;
    assert_eq!(names(&messages), ["message", "message"]);
    let stages: Vec<usize> = messages.iter().map(|message| collector.children(message).len()).collect();
    assert_eq!(stages.iter().sum::<usize>(), 5);
    let errors = messages.iter().filter(|message| attributes(&message.attributes)["error.type"] == "unknown-model");
    assert_eq!(errors.count(), 1);
}

/// Messages that are all there.
struct OneByOne(std::vec::IntoIter<ModelInferRequest>);

impl futures_core::Stream for OneByOne {
    type Item = ModelInferRequest;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<ModelInferRequest>> {
        std::task::Poll::Ready(self.0.next())
    }
}

/// Checks that a collector which takes connections and never answers delays neither requests nor the end.
async fn check_a_stalled_collector(protocol: OtlpProtocol) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Some(format!("http://{}", listener.local_addr().unwrap()));
    let (sample_ratio, timeout_ms) = (1.0, 60_000);
    let tracing = TracingConfig { endpoint, protocol, sample_ratio, timeout_ms, ..TracingConfig::default() };
    let app = TestApp::with(Config { tracing, ..config() }).await;
    for _ in 0..50 {
        assert_eq!(predict(&app, "/predict", &[], &rows(1)).await.status, 200);
    }
    // An export is under way.
    let connection = tokio::time::timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    assert_eq!(predict(&app, "/predict", &[], &rows(1)).await.status, 200);
    let begin = Instant::now();
    app.stop.send(Stop::AtOnce).await.unwrap();
    app.running.await.unwrap().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    drop(connection);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_does_not_answer_over_http_delays_nothing() {
    check_a_stalled_collector(OtlpProtocol::Http).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_does_not_answer_over_grpc_delays_nothing() {
    check_a_stalled_collector(OtlpProtocol::Grpc).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_that_nobody_takes_are_dropped_and_counted() {
    // Nothing listens on this port any more.
    let address = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let endpoint = Some(format!("http://{address}"));
    let tracing = TracingConfig { endpoint, sample_ratio: 1.0, timeout_ms: 100, ..TracingConfig::default() };
    let app = TestApp::with(Config { tracing, ..config() }).await;
    assert_eq!(predict(&app, "/predict", &[], &rows(1)).await.status, 200);
    app.metric_becomes("leeway_tracing_dropped_total{reason=\"export_failed\"}", 7.0).await;
    assert_eq!(app.metric("leeway_tracing_spans_total").await, 0.0);
}

/// The variables of OpenTelemetry are defaults. The lines about a sampled request have the ids of its own span.
#[tokio::test(flavor = "multi_thread")]
async fn the_environment_of_opentelemetry_is_read_and_the_log_has_the_ids_of_spans() {
    let collector = Collector::grpc().await;
    let repository = Repository::new().with_shipped("digits", &[2]);
    let endpoint = format!("http://{}", collector.address);
    let server = Server::start(
        repository.path(),
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_SERVICE_NAME", "of the environment"),
            ("OTEL_TRACES_SAMPLER", "always_off"),
            // The setting of the server takes precedence.
            ("LEEWAY_TRACING__SAMPLE_RATIO", "1.0"),
            ("LEEWAY_LOG__ACCESS", "all"),
            ("LEEWAY_LOG__LEVEL", "debug"),
        ],
    );
    let mut sent = Vec::new();
    for parent in [None, Some(format!("00-{TRACE}-{CALLER}-01")), Some(format!("00-{TRACE}-{CALLER}-00"))] {
        let request = client().post(server.url("/predict")).json(&rows(1));
        let request = parent.iter().fold(request, |request, parent| request.header("traceparent", parent));
        sent.push(Answer::of(request.send().await.unwrap()).await);
    }
    let two = until(async || {
        let spans = collector.spans();
        (spans.iter().filter(|span| span.name == "POST /predict").count() == 2).then_some(spans)
    });
    let spans = two.await;
    assert_eq!(collector.resource()["service.name"], "of the environment");
    server.signal("INT");
    let (_, log) = server.wait();
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for target in ["leeway::access", "leeway::http::request_report"] {
        let lines = lines.iter().filter(|line| line["target"] == target && line["path"] == "/predict");
        let ids: Vec<Value> = lines.map(|line| json!([line["trace_id"], line["span_id"]])).collect();
        for (answer, ids) in sent.iter().zip(&ids).take(2) {
            let response = answer.header("traceresponse");
            assert_eq!(*ids, json!([&response[3..35], &response[36..52]]), "{target}");
            assert!(spans.iter().any(|span| hex::encode(&span.span_id) == response[36..52]));
        }
        // Those of the caller, if the request is not sampled: in the access log always, in others if they are asked for.
        let expected = if target == "leeway::access" { json!([TRACE, CALLER]) } else { json!([null, null]) };
        assert_eq!((ids.len(), &ids[2]), (3, &expected), "{target}");
    }
}
