//! The OpenAPI documents, made once: that of the data listener once for each snapshot of the catalog.

use std::sync::{Arc, OnceLock, Weak};

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use crate::budget::MemoryBudget;
use crate::error::{Error, Result};
use crate::openapi;
use crate::registry::Snapshot;

/// The documents of both listeners, as far as they have been asked for.
#[derive(Debug, Default)]
pub(super) struct Documents {
    /// The last document of the data listener, and the snapshot that it describes. The document keeps no version of the
    /// snapshot in memory.
    data: Mutex<Option<(Weak<Snapshot>, Document)>>,
    admin: OnceLock<Document>,
}

/// The text of a document. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Document {
    text: Bytes,
    tag: HeaderValue,
}

impl Documents {
    /// Returns the document of the data listener for a snapshot. `has_keys` is true if API keys are configured.
    pub(super) async fn data(
        &self,
        snapshot: Arc<Snapshot>,
        has_keys: bool,
        memory: &MemoryBudget,
    ) -> Result<Document> {
        // Held while a document is made, so that requests at the same time share it.
        let mut last = self.data.lock().await;
        if let Some((of, document)) = &*last
            && std::ptr::eq(of.as_ptr(), Arc::as_ptr(&snapshot))
        {
            return Ok(document.clone());
        }
        let (described, memory) = (Arc::clone(&snapshot), memory.clone());
        let making = move || Document::new(&openapi::data(&described, has_keys), &memory);
        let made = tokio::task::spawn_blocking(making).await.map_err(Error::internal)??;
        Ok(last.insert((Arc::downgrade(&snapshot), made)).1.clone())
    }

    /// Returns the document of the admin listener.
    pub(super) fn admin(&self, has_token: bool, memory: &MemoryBudget) -> Result<Document> {
        if let Some(document) = self.admin.get() {
            return Ok(document.clone());
        }
        let made = Document::new(&openapi::admin(has_token), memory)?;
        Ok(self.admin.get_or_init(|| made).clone())
    }
}

impl Document {
    /// Writes a document, and reserves memory for it.
    fn new(document: &serde_json::Value, memory: &MemoryBudget) -> Result<Document> {
        let text = serde_json::to_vec(document).map_err(Error::internal)?;
        let tag = entity_tag(&text);
        Ok(Document { text: Bytes::from_owner(memory.hold_anyway(text.capacity()).of(text)), tag })
    }

    /// Returns the document with the prefix of all paths, which a proxy or the configuration adds.
    pub(super) fn below(self, prefix: &str, memory: &MemoryBudget) -> Document {
        match (prefix, self.text.strip_prefix(b"{")) {
            ("", _) | (_, None) => self,
            // A prefix has no characters that JSON escapes.
            (prefix, Some(members)) => {
                let text = [format!("{{\"servers\":[{{\"url\":\"{prefix}\"}}],").as_bytes(), members].concat();
                let tag = entity_tag(&text);
                Document { text: Bytes::from_owner(memory.hold_anyway(text.capacity()).of(text)), tag }
            }
        }
    }

    pub(super) fn answer(self, asked: &HeaderMap) -> Response {
        let mut response = match is_known(asked, &self.tag) {
            true => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                response
            }
            false => Response::new(Body::from(self.text)),
        };
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(ETAG, self.tag);
        response
    }
}

/// Returns the entity tag of a text: the beginning of its digest.
pub(super) fn entity_tag(text: &[u8]) -> HeaderValue {
    let digest = hex::encode(&Sha256::digest(text)[..12]);
    HeaderValue::try_from(format!("\"{digest}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Returns true if the client has the text with this tag already (RFC 9110, section 13.1.2).
pub(super) fn is_known(asked: &HeaderMap, tag: &HeaderValue) -> bool {
    let tags = asked.get_all(IF_NONE_MATCH).iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    let mut tags = tags.map(|known| known.trim_ascii()).map(|known| known.strip_prefix(b"W/").unwrap_or(known));
    tags.any(|known| known == b"*" || known == tag.as_bytes())
}
