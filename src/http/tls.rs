//! TLS of a listener: the handshake, and the certificate, which is read again when its files change.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{Error as TlsError, ServerConfig};
use tokio_rustls::server::TlsStream;

use super::activity::{Activity, Ending};
use super::certificate_expiry::expiry;
use super::file_watch::FileWatch;
use super::http2::ALPN;
use crate::config::TlsConfig;
use crate::error::{Result, SetupError};
use crate::monitor::TlsRecorder;

/// Protocols that clients can choose in the handshake (ALPN), the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [ALPN, b"http/1.1"];

/// Time for a client to complete the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for a client to complete the handshake while the listener closes.
const LAST_HANDSHAKE: Duration = Duration::from_millis(500);

/// First byte of every handshake (RFC 8446, section 5.1: content type 22). No HTTP request begins with it.
const HANDSHAKE: u8 = 22;

/// Answer to a client that sends plain HTTP.
const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 47\r\n\
    connection: close\r\n\r\nthis port speaks TLS; begin the URL with https\n";

/// Maximum size of a PEM file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// TLS of a listener.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    certificate: Arc<Certificate>,
    recorder: Arc<TlsRecorder>,
}

/// The present certificate of a listener.
struct Certificate {
    listener: &'static str,
    files: (PathBuf, PathBuf),
    provider: CryptoProvider,
    current: ArcSwap<CertifiedKey>,
    /// Watch of the files, until [`Tls::watch`] takes it.
    watch: Mutex<Option<FileWatch>>,
}

// ===== impl Tls =====

impl Tls {
    /// Returns the TLS of a listener with its certificate; `None` if none is configured. `listener` is the name of the
    /// listener's section in the configuration.
    pub fn load(
        config: &TlsConfig,
        listener: &'static str,
        recorder: impl FnOnce() -> Arc<TlsRecorder>,
    ) -> Result<Option<Tls>, SetupError> {
        let Some((certificate, key)) = config.files() else { return Ok(None) };
        let (recorder, provider) = (recorder(), ring::default_provider());
        // Begins before the files are read, so that no change is missed.
        let watch = FileWatch::new(vec![certificate.clone(), key.clone()]);
        let files = (certificate.clone(), key.clone());
        let (current, expires) = read(&files, &provider).map_err(|problem| wrong(listener, &problem))?;
        if expires < Timestamp::now() {
            tracing::warn!(listener, %expires, "the certificate has expired; most clients refuse it");
        }
        recorder.set_expiry(expires.as_second());
        let (current, watch) = (ArcSwap::from_pointee(current), Mutex::new(Some(watch)));
        let certificate = Arc::new(Certificate { listener, files, provider: provider.clone(), current, watch });
        let versions = ServerConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions();
        let versions = versions.map_err(SetupError::internal)?;
        let resolver = Arc::clone(&certificate) as Arc<dyn ResolvesServerCert>;
        let mut server = versions.with_no_client_auth().with_cert_resolver(resolver);
        server.alpn_protocols = PROTOCOLS.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Some(Tls { acceptor: TlsAcceptor::from(Arc::new(server)), certificate, recorder }))
    }

    /// Reads the certificate again whenever its files change. If it is wrong, the present one stays. Open connections
    /// are not affected.
    pub async fn watch(self) {
        let Some(mut watch) = self.certificate.watch.lock().take() else { return };
        let listener = self.certificate.listener;
        loop {
            watch.changed().await;
            let certificate = Arc::clone(&self.certificate);
            let reloaded = tokio::task::spawn_blocking(move || certificate.reload()).await;
            match reloaded.map_err(|error| error.to_string()).flatten() {
                Ok(expires) => {
                    self.recorder.set_expiry(expires.as_second());
                    tracing::info!(listener, %expires, "the certificate was read again");
                }
                Err(problem) => {
                    self.recorder.reload_failed();
                    tracing::error!(listener, problem, "the new certificate is not used; the present one stays");
                }
            }
        }
    }

    /// Completes the handshake with a client. `None` if it fails or takes too long, or if the connection is told to
    /// end, as any connection that has not sent a request: handshakes need no limit of their own. While the listener
    /// closes, a handshake has a short time to complete.
    pub(super) async fn accept(&self, stream: TcpStream, activity: &Activity) -> Option<Box<TlsStream<TcpStream>>> {
        let mut handshake = pin!(tokio::time::timeout(HANDSHAKE_TIMEOUT, self.handshake(stream)));
        let done = tokio::select! {
            biased;
            ending = activity.told_to_end() => {
                if ending != Ending::Drained {
                    return None;
                }
                let done = tokio::time::timeout(LAST_HANDSHAKE, handshake).await.ok()?;
                // The connection still has to be told.
                activity.end(ending);
                done
            }
            done = handshake.as_mut() => done,
        };
        match done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => Some(Box::new(stream)),
            Err(error) => {
                self.recorder.handshake_failed();
                tracing::debug!(%error, "a TLS handshake failed");
                None
            }
        }
    }

    async fn handshake(&self, mut stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first[0] != HANDSHAKE {
            // Reads the request first: the close of a socket with unread bytes resets the connection.
            let mut request = vec![0; 16 << 10];
            let _ = stream.read(&mut request).await?;
            stream.write_all(PLAIN_HTTP).await?;
            stream.shutdown().await?;
            return Err(io::Error::other("the client does not speak TLS"));
        }
        self.acceptor.accept(stream).await
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("files", &self.certificate.files).finish_non_exhaustive()
    }
}

// ===== impl Certificate =====

impl Certificate {
    /// Reads the files again, and returns the time at which the new certificate expires.
    fn reload(&self) -> Result<Timestamp, String> {
        let (new, expires) = read(&self.files, &self.provider)?;
        if expires < Timestamp::now() {
            return Err(format!("the certificate in {} has expired ({expires})", self.files.0.display()));
        }
        self.current.store(Arc::new(new));
        Ok(expires)
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").field("files", &self.files).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

/// Reads a certificate with its key, and the time at which it expires.
fn read(files: &(PathBuf, PathBuf), provider: &CryptoProvider) -> Result<(CertifiedKey, Timestamp), String> {
    let (certificate, key) = files;
    let in_file = |path: &Path, problem: &dyn std::fmt::Display| format!("{}: {problem}", path.display());
    let pem = read_file(certificate)?;
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| in_file(certificate, &error))?;
    let Some(own) = chain.first() else {
        return Err(in_file(certificate, &"no certificate; expected a PEM file with BEGIN CERTIFICATE"));
    };
    let expires = expiry(own).ok_or_else(|| in_file(certificate, &"the certificate has no time of expiry"))?;
    let private = PrivateKeyDer::from_pem_slice(&read_file(key)?);
    let private = private.map_err(|_| in_file(key, &"no private key; expected a PEM file with BEGIN PRIVATE KEY"))?;
    let both = CertifiedKey::from_der(chain, private, provider).map_err(|error| match error {
        TlsError::InconsistentKeys(_) => in_file(key, &"not the key of the certificate"),
        error => in_file(certificate, &error),
    })?;
    Ok((both, expires))
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|error: io::Error| format!("{}: {error}", path.display()))
}

fn wrong(listener: &str, problem: &str) -> SetupError {
    SetupError::Config(format!("{listener}.tls: {problem}"))
}
