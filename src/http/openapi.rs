//! `GET /openapi.json` on both listeners. The document of the data listener is made once for each snapshot of the catalog.

use std::sync::{Arc, OnceLock, Weak};

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use super::HttpState;
use super::context::Failure;
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
struct Document {
    text: Bytes,
    tag: HeaderValue,
}

/// `GET /openapi.json` on the data listener
pub(super) async fn data(State(state): State<Arc<HttpState>>, asked: HeaderMap) -> Result<Response, Failure> {
    let snapshot = state.catalog.snapshot();
    // Held while a document is made, so that requests at the same time share it.
    let mut last = state.documents.data.lock().await;
    let document = match &*last {
        Some((of, document)) if std::ptr::eq(of.as_ptr(), Arc::as_ptr(&snapshot)) => document.clone(),
        _ => {
            let (described, memory) = (Arc::clone(&snapshot), state.body_memory.clone());
            let has_keys = state.api_keys.is_some();
            let making = move || Document::new(&openapi::data(&described, has_keys), &memory);
            let made = tokio::task::spawn_blocking(making).await.map_err(Error::internal)??;
            last.insert((Arc::downgrade(&snapshot), made)).1.clone()
        }
    };
    drop(last);
    Ok(document.answer(&asked))
}

/// `GET /openapi.json` on the admin listener
pub(super) async fn admin(State(state): State<Arc<HttpState>>, asked: HeaderMap) -> Result<Response, Failure> {
    let document = match state.documents.admin.get() {
        Some(document) => document.clone(),
        None => {
            let made = Document::new(&openapi::admin(state.admin_token.is_some()), &state.body_memory)?;
            state.documents.admin.get_or_init(|| made).clone()
        }
    };
    Ok(document.answer(&asked))
}

impl Document {
    /// Writes a document, and reserves memory for it.
    fn new(document: &serde_json::Value, memory: &MemoryBudget) -> Result<Document> {
        let text = serde_json::to_vec(document).map_err(Error::internal)?;
        let tag = entity_tag(&text);
        Ok(Document { text: Bytes::from_owner(memory.hold_anyway(text.capacity()).of(text)), tag })
    }

    fn answer(self, asked: &HeaderMap) -> Response {
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
