//! A collector of OpenTelemetry for tests: takes spans over OTLP, by HTTP or gRPC, and keeps them.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use leeway::config::OtlpProtocol;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValue;
use opentelemetry_proto::tonic::common::v1::{AnyValue as Any, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use prost::Message;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status};

use crate::harness::until;

/// A collector that listens on a port of its own.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    spans: Vec<Span>,
    /// Attributes of the resource of each export.
    resources: Vec<Vec<KeyValue>>,
    /// Header `authorization` of each export.
    authorizations: Vec<Option<String>>,
}

#[derive(Clone)]
struct Service(Arc<Mutex<Kept>>);

impl Collector {
    /// Starts a collector that speaks HTTP.
    pub(crate) async fn http() -> Collector {
        Collector::start(OtlpProtocol::Http, None).await
    }

    /// Starts a collector that speaks gRPC.
    pub(crate) async fn grpc() -> Collector {
        Collector::start(OtlpProtocol::Grpc, None).await
    }

    /// Starts a collector, with TLS if this makes its handshakes.
    pub(crate) async fn start(protocol: OtlpProtocol, tls: Option<TlsAcceptor>) -> Collector {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, kept) = (listener.local_addr().unwrap(), Arc::<Mutex<Kept>>::default());
        let all = Arc::clone(&kept);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (kept, tls) = (Arc::clone(&all), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, protocol, kept).await,
                        Some(tls) => {
                            // It fails if the client does not trust the certificate.
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, protocol, kept).await;
                            }
                        }
                    }
                });
            }
        });
        Collector { address, kept }
    }

    /// Returns the spans so far.
    pub(crate) fn spans(&self) -> Vec<Span> {
        self.kept.lock().spans.clone()
    }

    /// Waits for a span with this name, and returns it.
    pub(crate) async fn span(&self, name: &str) -> Span {
        until(async || self.spans().into_iter().find(|span| span.name == name)).await
    }

    /// Returns the spans whose parent is this, in the order of their times.
    pub(crate) fn children(&self, parent: &Span) -> Vec<Span> {
        let mut children = self.spans();
        children.retain(|span| span.trace_id == parent.trace_id && span.parent_span_id == parent.span_id);
        children.sort_by_key(|span| span.start_time_unix_nano);
        children
    }

    /// Returns the attributes of the resource of the first export.
    pub(crate) fn resource(&self) -> Value {
        attributes(&self.kept.lock().resources[0])
    }

    /// Returns the header `authorization` of the first export.
    pub(crate) fn authorization(&self) -> Option<String> {
        self.kept.lock().authorizations[0].clone()
    }
}

impl Kept {
    fn take(&mut self, request: ExportTraceServiceRequest, authorization: Option<String>) {
        self.authorizations.push(authorization);
        for spans in request.resource_spans {
            self.resources.push(spans.resource.unwrap_or_default().attributes);
            self.spans.extend(spans.scope_spans.into_iter().flat_map(|spans| spans.spans));
        }
    }
}

async fn take(State(kept): State<Arc<Mutex<Kept>>>, headers: HeaderMap, body: Bytes) -> Vec<u8> {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let authorization = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    kept.lock().take(ExportTraceServiceRequest::decode(body).unwrap(), authorization);
    ExportTraceServiceResponse::default().encode_to_vec()
}

/// Serves a connection until it ends.
async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    protocol: OtlpProtocol,
    kept: Arc<Mutex<Kept>>,
) {
    let stream = TokioIo::new(stream);
    let routes = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&kept));
    // A connection that ends with an error has ended, too.
    let _ = match protocol {
        OtlpProtocol::Http => {
            let call = service_fn(move |request: hyper::Request<Incoming>| {
                tower_service::Service::call(&mut routes.clone(), request.map(Body::new))
            });
            hyper::server::conn::http1::Builder::new().serve_connection(stream, call).await
        }
        OtlpProtocol::Grpc => {
            let service = TraceServiceServer::new(Service(kept));
            let call = service_fn(move |request: hyper::Request<Incoming>| {
                tower_service::Service::call(&mut service.clone(), request.map(Body::new))
            });
            hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(stream, call).await
        }
    };
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let authorization = request.metadata().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        self.0.lock().take(request.into_inner(), authorization);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Returns attributes as a JSON object.
pub(crate) fn attributes(all: &[KeyValue]) -> Value {
    let value = |value: &Option<Any>| match value.as_ref().and_then(|value| value.value.clone()) {
        Some(AnyValue::StringValue(text)) => json!(text),
        Some(AnyValue::IntValue(number)) => json!(number),
        other => panic!("{other:?}"),
    };
    Value::Object(all.iter().map(|pair| (pair.key.clone(), value(&pair.value))).collect())
}
