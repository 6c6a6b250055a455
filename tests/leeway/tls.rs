//! TLS of the listeners.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use leeway::app::{App, Stop};
use leeway::config::{Config, ListenAddresses, TlsConfig};
use rcgen::{CertificateParams, KeyPair};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::harness::{Answer, TestApp, config, dependencies, held_out, leeway, runtime, until};

/// The files of a certificate for this machine, and the certificate itself.
struct Files {
    folder: tempfile::TempDir,
    certificate: CertificateDer<'static>,
}

impl Files {
    fn new() -> Files {
        let folder = tempfile::tempdir().unwrap();
        let certificate = write(folder.path(), 2040);
        Files { folder, certificate }
    }

    fn config(&self) -> TlsConfig {
        let path = |name: &str| Some(self.folder.path().join(name));
        TlsConfig { certificate: path("tls.crt"), key: path("tls.key") }
    }
}

/// Writes a new certificate that expires in a year, and its key.
fn write(folder: &Path, year: i32) -> CertificateDer<'static> {
    let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(folder.join("tls.crt"), certificate.pem()).unwrap();
    std::fs::write(folder.join("tls.key"), key.serialize_pem()).unwrap();
    certificate.der().clone()
}

async fn connect(app: &TestApp, trusted: &CertificateDer<'static>) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(app.data).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
}

/// Sends a request on a connection that stays open, and returns the response.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    head + &String::from_utf8(body).unwrap()
}

const LIVE: &str = "GET /livez HTTP/1.1\r\nhost: a\r\n\r\n";

/// Scrapes the metrics on the admin listener, which speaks plain HTTP.
async fn metric(app: &TestApp, name: &str) -> f64 {
    let series = format!("{name}{{listener=\"http\"}} ");
    let text = app.admin_get("/metrics").await.text;
    text.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
}

fn with_tls(files: &Files) -> Config {
    let mut config = config();
    config.http.tls = files.config();
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn predictions_are_answered_over_tls_and_plain_http_is_told_so() {
    let files = Files::new();
    let app = TestApp::with(with_tls(&files)).await;
    let body =
        serde_json::json!({ "instances": held_out("digits")["instances"].as_array().unwrap()[..300] }).to_string();
    let head = "POST /predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n";
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    let mut stream = connect(&app, &files.certificate).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    // Twice on one connection, with bodies of several records.
    for _ in 0..2 {
        let answer = ask(&mut stream, &request).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"predictions\""), "{answer}");
    }
    let expected = "2040-01-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap().as_second() as f64;
    assert_eq!(metric(&app, "leeway_tls_certificate_expiry_timestamp_seconds").await, expected);
    assert_eq!(metric(&app, "leeway_tls_handshake_failures_total").await, 0.0);

    let answer = Answer::of(app.client.get(app.url("/livez")).send().await.unwrap()).await;
    assert_eq!((answer.status, &*answer.text), (400, "this port speaks TLS; begin the URL with https\n"));
    // A client that does not trust the certificate, and one that says nothing at all.
    assert!(connect(&app, &Files::new().certificate).await.is_err());
    drop(TcpStream::connect(app.data).await.unwrap());
    until(async || (metric(&app, "leeway_tls_handshake_failures_total").await >= 2.0).then_some(())).await;

    // The answer to a request in flight comes before the end.
    app.stop.send(Stop::AtOnce).await.unwrap();
    drop(stream);
    app.running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_used_for_new_connections_and_a_wrong_one_is_not() {
    let files = Files::new();
    let app = TestApp::with(with_tls(&files)).await;
    let mut old = connect(&app, &files.certificate).await.unwrap();
    assert!(ask(&mut old, LIVE).await.starts_with("HTTP/1.1 200"));

    let new = write(files.folder.path(), 2041);
    until(async || connect(&app, &new).await.ok()).await;
    assert!(connect(&app, &files.certificate).await.is_err());
    // The connection from before stays open.
    assert!(ask(&mut old, LIVE).await.starts_with("HTTP/1.1 200"));
    let expires = metric(&app, "leeway_tls_certificate_expiry_timestamp_seconds").await;

    let failures = "leeway_tls_reload_failures_total";
    let key = std::fs::read(files.folder.path().join("tls.key")).unwrap();
    // The new key alone, no certificate at all, and one that has expired.
    let wrong: [&dyn Fn(); 3] = [
        &|| std::fs::write(files.folder.path().join("tls.key"), KeyPair::generate().unwrap().serialize_pem()).unwrap(),
        &|| std::fs::write(files.folder.path().join("tls.crt"), "nothing").unwrap(),
        &|| {
            write(files.folder.path(), 2000);
        },
    ];
    for (index, wrong) in wrong.into_iter().enumerate() {
        wrong();
        until(async || (metric(&app, failures).await == index as f64 + 1.0).then_some(())).await;
        assert!(connect(&app, &new).await.is_ok(), "{index}");
    }
    assert_eq!(metric(&app, "leeway_tls_certificate_expiry_timestamp_seconds").await, expires);
    drop(key);
}

/// Runs a command of the program with these settings, and returns its success and its output.
async fn command(arguments: &[&str], settings: &[(&str, String)]) -> (bool, String) {
    let mut command = leeway(arguments);
    command.envs(settings.iter().map(|(name, value)| (*name, value.as_str())));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_reach_a_server_with_tls() {
    let (files, others) = (Files::new(), Files::new());
    let mut config = with_tls(&files);
    config.admin.tls = files.config();
    let app = TestApp::with(config).await;
    let text = |path: Option<PathBuf>| path.unwrap().display().to_string();
    let mut settings =
        vec![("LEEWAY_HTTP__LISTEN", app.data.to_string()), ("LEEWAY_ADMIN__LISTEN", app.admin.to_string())];
    let TlsConfig { certificate, key } = files.config();
    for (name, path) in [
        ("LEEWAY_HTTP__TLS__CERTIFICATE", &certificate),
        ("LEEWAY_HTTP__TLS__KEY", &key),
        ("LEEWAY_ADMIN__TLS__CERTIFICATE", &certificate),
        ("LEEWAY_ADMIN__TLS__KEY", &key),
    ] {
        settings.push((name, text(path.clone())));
    }
    let (ok, said) = command(&["health"], &settings).await;
    assert!(ok, "{said}");
    let (ok, said) = command(&["status"], &settings).await;
    assert!(ok && said.contains("digits"), "{said}");
    let (ok, said) = command(&["status", "--ca-file", &text(certificate)], &settings).await;
    assert!(ok && said.contains("digits"), "{said}");
    // A certificate of somebody else is not trusted with the token.
    let (ok, said) = command(&["status", "--ca-file", &text(others.config().certificate)], &settings).await;
    assert!(!ok && said.contains("certificate"), "{said}");

    // Without settings: by a URL, with certificates of a file or of this machine.
    let url = format!("https://localhost:{}", app.admin.port());
    let (trusted, plain) = (text(files.config().certificate), format!("http://localhost:{}", app.admin.port()));
    let (ok, said) = command(&["status", "--server", &url, "--ca-file", &trusted], &[]).await;
    assert!(ok && said.contains("digits"), "{said}");
    let (ok, said) = command(&["status", "--server", &url], &[("SSL_CERT_FILE", trusted.clone())]).await;
    assert!(ok && said.contains("digits"), "{said}");
    let (ok, said) =
        command(&["status", "--server", &url], &[("SSL_CERT_FILE", text(others.config().certificate))]).await;
    assert!(!ok && said.contains("certificate"), "{said}");
    let (ok, said) = command(&["status", "--server", &plain], &[]).await;
    assert!(!ok && said.contains("this port speaks TLS; begin the URL with https"), "{said}");
    let (data, rows) = (format!("https://localhost:{}", app.data.port()), files.folder.path().join("rows.jsonl"));
    std::fs::write(&rows, format!("{}\n", held_out("digits")["instances"][0])).unwrap();
    let predict = ["predict", "digits", &rows.display().to_string(), "--server", &data, "--ca-file", &trusted];
    let (ok, said) = command(&predict, &[]).await;
    assert!(ok && said.contains("label"), "{said}");
}

/// Programs on the same machine need no encryption.
#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_beside_tls_is_plain() {
    let files = Files::new();
    let path = files.folder.path().join("data.sock");
    let mut config = with_tls(&files);
    let unix = ListenAddresses::parse(&format!("unix:{}", path.display())).unwrap();
    config.http.listen = ListenAddresses::join(vec![([127, 0, 0, 1], 0).into(), unix]).unwrap();
    let app = TestApp::with(config).await;
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    assert!(ask(&mut stream, LIVE).await.starts_with("HTTP/1.1 200"));
    assert!(connect(&app, &files.certificate).await.is_ok());
}

#[tokio::test]
async fn a_wrong_certificate_ends_the_start() {
    let (files, others) = (Files::new(), Files::new());
    let other_key = others.config().key;
    let missing = Some(files.folder.path().join("missing"));
    let right = files.config();
    let check = async |certificate: &Option<PathBuf>, key: &Option<PathBuf>, said: &str| {
        let mut config = config();
        config.http.tls = TlsConfig { certificate: certificate.clone(), key: key.clone() };
        let parts = dependencies(&config, runtime(), Default::default()).await;
        let problem = App::build_with(config, parts).await.unwrap_err().to_string();
        assert!(problem.starts_with("http.tls: ") && problem.contains(said), "{problem}");
    };
    check(&right.certificate, &other_key, "not the key of the certificate").await;
    check(&missing, &right.key, "missing: No such file").await;
    check(&right.key, &right.key, "no certificate").await;
    check(&right.certificate, &right.certificate, "no private key").await;
}
