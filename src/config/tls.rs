//! `[http.tls]` and `[admin.tls]`: the certificate of a listener.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The certificate of a listener and its key. Without them, the listener speaks plain HTTP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// PEM file with the certificate, and those of its issuers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// PEM file with the private key of the certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

impl TlsConfig {
    /// Returns the files of the certificate and of the key, if the listener speaks TLS.
    pub fn files(&self) -> Option<(&PathBuf, &PathBuf)> {
        self.certificate.as_ref().zip(self.key.as_ref())
    }

    /// Returns true if nothing is configured.
    pub fn is_off(&self) -> bool {
        *self == TlsConfig::default()
    }

    /// Returns the problem of these settings. `section` is the name of the listener's section.
    pub(super) fn problem(&self, section: &str) -> Option<String> {
        let missing = match (&self.certificate, &self.key) {
            (Some(_), None) => "key",
            (None, Some(_)) => "certificate",
            _ => return None,
        };
        Some(format!("{section}.tls.{missing}: this key is required, too; TLS needs the certificate and its key"))
    }
}
