//! The connection to a collector: OTLP over HTTP or gRPC. TLS is made by ring, as everywhere here.

use std::collections::HashMap;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio_rustls::rustls::crypto::ring;

use crate::config::{OtlpProtocol, TracingConfig};
use crate::error::{Result, SetupError};
use crate::identity::printable;

/// Time in which a connection has to be made.
const CONNECTING: Duration = Duration::from_secs(5);
/// Maximum length of a problem of an export in the log, in bytes.
const MAX_PROBLEM: usize = 500;

/// A collector, as the configuration describes it.
pub(super) struct Collector {
    url: String,
    protocol: OtlpProtocol,
    timeout: Duration,
    headers: Vec<(String, String)>,
    /// Trusted certificates as PEM; `None` for those that this machine trusts.
    trusted: Option<Vec<u8>>,
    resource: Resource,
}

/// A connection to a collector. It is made at the first export.
pub(super) struct Connection(SpanExporter);

impl Collector {
    /// Reads the files that the configuration names.
    pub(super) fn of(url: String, config: &TracingConfig) -> Result<Collector, SetupError> {
        let read = |path: &std::path::PathBuf| {
            std::fs::read(path)
                .map_err(|error| SetupError::Config(format!("tracing.ca_file: {}: {error}", path.display())))
        };
        let resource = Resource::builder_empty().with_service_name(config.service_name.clone()).with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", uuid::Uuid::now_v7().to_string()),
            KeyValue::new("telemetry.sdk.name", "opentelemetry"),
            KeyValue::new("telemetry.sdk.language", "rust"),
        ]);
        Ok(Collector {
            url,
            protocol: config.protocol,
            timeout: config.timeout(),
            headers: config.headers()?,
            trusted: config.ca_file.as_ref().map(read).transpose()?,
            resource: resource.build(),
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

impl Connection {
    /// Prepares a connection. Must be called within a runtime.
    pub(super) fn to(collector: &Collector) -> Result<Connection, String> {
        // Fails if there is one already, which is used then.
        let _ = ring::default_provider().install_default();
        let mut exporter = match collector.protocol {
            OtlpProtocol::Http => over_http(collector)?,
            OtlpProtocol::Grpc => over_grpc(collector)?,
        };
        exporter.set_resource(&collector.resource);
        Ok(Connection(exporter))
    }

    /// Sends spans, or returns the problem.
    pub(super) async fn export(&self, spans: Vec<SpanData>) -> Result<(), String> {
        let exported = self.0.export(spans).await;
        exported.map_err(|error| printable(&error.to_string(), MAX_PROBLEM).into_owned())
    }
}

fn over_http(collector: &Collector) -> Result<SpanExporter, String> {
    let problem = |error: reqwest::Error| format!("the client of the collector cannot be made: {error}");
    let mut client = reqwest::Client::builder()
        // Proxies named in the environment are not used: the address is that of the collector.
        .no_proxy()
        // Credentials must not be sent elsewhere.
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECTING)
        .timeout(collector.timeout);
    if let Some(trusted) = &collector.trusted {
        client = client.tls_certs_only(reqwest::Certificate::from_pem_bundle(trusted).map_err(problem)?);
    }
    let headers: HashMap<String, String> = collector.headers.iter().cloned().collect();
    SpanExporter::builder()
        .with_http()
        .with_http_client(client.build().map_err(problem)?)
        .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
        .with_endpoint(&collector.url)
        .with_timeout(collector.timeout)
        .with_headers(headers)
        .build()
        .map_err(|error| error.to_string())
}

fn over_grpc(collector: &Collector) -> Result<SpanExporter, String> {
    let headers: HashMap<String, String> = collector.headers.iter().cloned().collect();
    let metadata = (&headers).try_into().map_err(|_| "tracing.headers_file has a header that gRPC cannot send")?;
    let mut builder = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(&collector.url)
        .with_timeout(collector.timeout)
        .with_metadata(opentelemetry_otlp::tonic_types::metadata::MetadataMap::from_headers(metadata));
    if collector.url.starts_with("https://") {
        let tls = ClientTlsConfig::new();
        builder = builder.with_tls_config(match &collector.trusted {
            Some(trusted) => tls.ca_certificate(Certificate::from_pem(trusted)),
            None => tls.with_enabled_roots(),
        });
    }
    builder.build().map_err(|error| error.to_string())
}
