//! `[tracing]`: spans of a sample of the requests, sent to a collector over OTLP.

use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::Serialized;
use serde::{Deserialize, Serialize};

use super::settings_file::read_text;
use crate::error::{Result, SetupError};
use crate::identity::shown;

/// Path of OTLP over HTTP, below a base URL.
const TRACES_PATH: &str = "/v1/traces";
/// Maximum number of headers of `tracing.headers_file`.
const MAX_HEADERS: usize = 64;

/// `[tracing]`: spans of a sample of the requests, sent to a collector over OTLP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TracingConfig {
    /// URL of the collector. Without it, there are no spans.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Transport of OTLP.
    pub protocol: OtlpProtocol,
    /// Share of the traces that begin here, 0 to 1. A request with a trace is sampled if its caller has sampled it.
    pub sample_ratio: f64,
    /// Name of this service in its spans.
    pub service_name: String,
    /// File with headers of every export, such as credentials: a line `name: value` each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers_file: Option<PathBuf>,
    /// PEM file with the certificates that are trusted, in place of those that this machine trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Maximum time of an export.
    pub timeout_ms: u64,
}

/// Transport of OTLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OtlpProtocol {
    /// Protocol buffers over HTTP.
    Http,
    /// gRPC.
    Grpc,
}

impl Default for TracingConfig {
    fn default() -> Self {
        TracingConfig {
            endpoint: None,
            protocol: OtlpProtocol::Http,
            sample_ratio: 0.01,
            service_name: "leeway".to_owned(),
            headers_file: None,
            ca_file: None,
            timeout_ms: 10_000,
        }
    }
}

impl TracingConfig {
    /// [`TracingConfig::timeout_ms`] as a duration.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// Returns the URL that spans are sent to; `None` if there are no spans. Over HTTP, the path of OTLP follows the
    /// endpoint, unless it ends with this path.
    ///
    /// ```
    /// use leeway::config::TracingConfig;
    /// let to = |url: &str| TracingConfig { endpoint: Some(url.to_owned()), ..TracingConfig::default() }.url();
    /// assert_eq!(to("http://collector:4318").as_deref(), Some("http://collector:4318/v1/traces"));
    /// assert_eq!(to("https://example.com/otlp/").as_deref(), Some("https://example.com/otlp/v1/traces"));
    /// assert_eq!(to("https://example.com/v1/traces").as_deref(), Some("https://example.com/v1/traces"));
    /// ```
    pub fn url(&self) -> Option<String> {
        let endpoint = self.endpoint.as_deref()?.trim_end_matches('/');
        Some(match self.protocol {
            OtlpProtocol::Http if !endpoint.ends_with(TRACES_PATH) => format!("{endpoint}{TRACES_PATH}"),
            _ => endpoint.to_owned(),
        })
    }

    /// Reads the headers of `tracing.headers_file`, if there is one.
    pub fn headers(&self) -> Result<Vec<(String, String)>, SetupError> {
        self.headers_file.as_deref().map_or(Ok(Vec::new()), read_headers)
    }

    pub(super) fn problem(&self) -> Option<String> {
        let (ratio, timeout) = (self.sample_ratio, self.timeout_ms);
        let has_name = !self.service_name.is_empty() && self.service_name.len() <= 255;
        let endpoint = self.endpoint.as_deref().and_then(endpoint_problem);
        endpoint
            .or_else(|| {
                (!(0.0..=1.0).contains(&ratio))
                    .then(|| format!("tracing.sample_ratio: found {ratio}, expected a share of the traces, 0 to 1"))
            })
            .or_else(|| {
                (!(100..=60_000).contains(&timeout))
                    .then(|| format!("tracing.timeout_ms: found {timeout}, expected 100 to 60000"))
            })
            .or_else(|| (!has_name).then(|| "tracing.service_name: expected a name of 1 to 255 bytes".to_owned()))
    }
}

/// Returns the problem of an address of a collector, if there is one.
fn endpoint_problem(endpoint: &str) -> Option<String> {
    let rest = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
    let host = rest.map(|rest| rest.split('/').next().unwrap_or_default());
    let is_url = host.is_some_and(|host| !host.is_empty() && !host.contains('@'))
        && endpoint.bytes().all(|byte| byte.is_ascii_graphic());
    // The URL is not repeated: a password in it would be in the log.
    (!is_url).then(|| {
        "tracing.endpoint: expected the URL of a collector, as in http://127.0.0.1:4318 (with protocol = \"grpc\": \
         http://127.0.0.1:4317), without a user; credentials belong in tracing.headers_file"
            .to_owned()
    })
}

/// Reads a file with a header in each line. Errors do not repeat a line, because it may be secret.
fn read_headers(path: &Path) -> Result<Vec<(String, String)>, SetupError> {
    let wrong = |problem: String| SetupError::Config(format!("tracing.headers_file: {}: {problem}", path.display()));
    let text = read_text(path).map_err(wrong)?;
    let mut headers = Vec::new();
    for (index, line) in text.lines().enumerate().map(|(index, line)| (index, line.trim())) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let header = line.split_once(':').map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim()));
        let is_name = |name: &str| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        let is_value = |value: &str| value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        match header {
            Some((name, value)) if is_name(&name) && is_value(value) => headers.push((name, value.to_owned())),
            _ => {
                let line = index + 1;
                return Err(wrong(format!("line {line}: expected a header, as in authorization: Bearer ...")));
            }
        }
    }
    if headers.len() > MAX_HEADERS {
        return Err(wrong(format!("{} headers are too many, at most {MAX_HEADERS}", headers.len())));
    }
    Ok(headers)
}

/// Variables of OpenTelemetry with the address of a collector. The later one takes precedence.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
/// Variables with the transport, in the same order.
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"];

/// Adds the environment variables of OpenTelemetry to the settings, as defaults. They are shared with other programs, so a value
/// that Leeway does not know is an error only if they have the address of a collector, too.
pub(super) fn with_opentelemetry(settings: Figment) -> Result<Figment, SetupError> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(settings);
    }
    let wrong =
        |variable: &str, problem: &str| SetupError::Config(format!("environment variable {variable}: {problem}"));
    let (mut settings, mut has_endpoint) = (settings, false);
    for variable in ENDPOINTS {
        let Some(endpoint) = set(variable) else { continue };
        if endpoint_problem(&endpoint).is_some() {
            return Err(wrong(variable, "expected the URL of a collector, as in http://127.0.0.1:4318"));
        }
        (settings, has_endpoint) = (settings.merge(Serialized::default("tracing.endpoint", endpoint)), true);
    }
    for variable in PROTOCOLS {
        let protocol = match set(variable).as_deref() {
            Some("grpc") => OtlpProtocol::Grpc,
            Some("http/protobuf") => OtlpProtocol::Http,
            Some(other) if has_endpoint => {
                return Err(wrong(variable, &format!("found {:?}, expected grpc or http/protobuf", shown(other))));
            }
            _ => continue,
        };
        settings = settings.merge(Serialized::default("tracing.protocol", protocol));
    }
    if let Some(name) = set("OTEL_SERVICE_NAME") {
        settings = settings.merge(Serialized::default("tracing.service_name", name));
    }
    let sampler = set("OTEL_TRACES_SAMPLER");
    if let Some(ratio) = sampler.and_then(|sampler| ratio_of(&sampler, set("OTEL_TRACES_SAMPLER_ARG").as_deref())) {
        settings = settings.merge(Serialized::default("tracing.sample_ratio", ratio));
    }
    Ok(settings)
}

/// Returns the share of the traces that a sampler of OpenTelemetry samples; `None` if it is another kind of sampler.
fn ratio_of(sampler: &str, argument: Option<&str>) -> Option<f64> {
    match sampler.strip_prefix("parentbased_").unwrap_or(sampler) {
        "always_on" => Some(1.0),
        "always_off" => Some(0.0),
        "traceidratio" => argument.unwrap_or("1").parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_limits() {
        let default = TracingConfig::default();
        let check = |config: &TracingConfig, problem: &str| {
            let found = config.problem().unwrap_or_default();
            assert!(found.starts_with(problem) && found.is_empty() == problem.is_empty(), "{found}");
        };
        check(&default, "");
        let to = |url: &str| TracingConfig { endpoint: Some(url.to_owned()), ..TracingConfig::default() };
        check(&to("http://127.0.0.1:4318"), "");
        for wrong in ["collector:4317", "ftp://collector", "http://", "http://me:secret@collector", "http://a b"] {
            check(&to(wrong), "tracing.endpoint: expected the URL of a collector");
            assert!(!to(wrong).problem().unwrap().contains("secret"));
        }
        check(&TracingConfig { sample_ratio: f64::NAN, ..default.clone() }, "tracing.sample_ratio: found NaN");
        check(
            &TracingConfig { timeout_ms: 0, ..default.clone() },
            "tracing.timeout_ms: found 0, expected 100 to 60000",
        );
        check(&TracingConfig { service_name: String::new(), ..default }, "tracing.service_name: expected");
    }

    #[test]
    fn samplers_of_opentelemetry_are_shares() {
        for (sampler, argument, expected) in [
            ("always_on", None, Some(1.0)),
            ("parentbased_always_off", Some("0.5"), Some(0.0)),
            ("parentbased_traceidratio", Some("0.25"), Some(0.25)),
            ("traceidratio", None, Some(1.0)),
            ("traceidratio", Some("7"), None),
            ("jaeger_remote", Some("endpoint=http://a"), None),
        ] {
            assert_eq!(ratio_of(sampler, argument), expected, "{sampler}");
        }
    }

    #[test]
    fn a_file_of_headers_has_one_in_each_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("headers");
        std::fs::write(&file, "# of the collector\nAuthorization: Bearer a:b\n\nx-scope: one two\n").unwrap();
        let config = TracingConfig { headers_file: Some(file.clone()), ..TracingConfig::default() };
        let expected = [("authorization", "Bearer a:b"), ("x-scope", "one two")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(config.headers().unwrap(), expected);
        std::fs::write(&file, "x: y\nsecret\n").unwrap();
        let problem = config.headers().unwrap_err().to_string();
        assert!(problem.contains("line 2: expected a header") && !problem.contains("secret"), "{problem}");
    }
}
