//! The console at `/console` on the admin listener: files that are built from `console/` and embedded in the program. They
//! hold no data, so they need no token; the requests that the page sends do.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::body::Body;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LOCATION,
    REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{MethodRouter, get};
use bytes::Bytes;
use include_dir::{Dir, include_dir};

use super::content_coding::{Coding, preferred};
use super::context::Failure;
use super::documents::{entity_tag, is_known};
use super::exposition::compress;
use crate::error::Error;

/// The built files.
static BUILT: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/console/dist");

/// The page.
const INDEX: &str = "index.html";

/// Folder of the files whose names have a digest of their content, so that they never change.
const UNCHANGING: &str = "assets/";

const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Policy of the page: only files and requests of its own origin.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Paths of the page and of its files. `/console` itself is in the table of endpoints.
pub(super) fn files<S: Clone + Send + Sync + 'static>() -> [(&'static str, MethodRouter<S>); 2] {
    [("/console/", get(page)), ("/console/{*file}", get(file))]
}

/// A file of the console.
struct ConsoleFile {
    headers: HeaderMap,
    plain: &'static [u8],
    /// The same, compressed with gzip; `None` if that is not smaller.
    compressed: Option<Bytes>,
}

/// The files, by path. Compressed once, when the first one is requested.
static FILES: LazyLock<BTreeMap<&'static str, ConsoleFile>> = LazyLock::new(|| {
    let mut files = BTreeMap::new();
    collect(&BUILT, &mut files);
    files
});

fn collect(folder: &'static Dir<'static>, files: &mut BTreeMap<&'static str, ConsoleFile>) {
    for file in folder.files() {
        if let Some(path) = file.path().to_str() {
            files.insert(path, ConsoleFile::new(path, file.contents()));
        }
    }
    folder.dirs().for_each(|folder| collect(folder, files));
}

impl ConsoleFile {
    fn new(path: &str, plain: &'static [u8]) -> ConsoleFile {
        let cache = if path.starts_with(UNCHANGING) { "public, max-age=31536000, immutable" } else { "no-cache" };
        let fixed = [
            (CONTENT_TYPE, media_type(path)),
            (CONTENT_SECURITY_POLICY, POLICY),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (X_FRAME_OPTIONS, "DENY"),
            (REFERRER_POLICY, "no-referrer"),
            (OPENER_POLICY, "same-origin"),
            (RESOURCE_POLICY, "same-origin"),
            (CACHE_CONTROL, cache),
            (VARY, "accept-encoding"),
        ];
        let mut headers: HeaderMap =
            fixed.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect();
        headers.insert(ETAG, entity_tag(plain));
        let compressed = Some(compress(plain)).filter(|compressed| compressed.len() < plain.len()).map(Bytes::from);
        ConsoleFile { headers, plain, compressed }
    }

    fn answer(&self, asked: &HeaderMap) -> Response {
        let is_known = self.headers.get(ETAG).is_some_and(|tag| is_known(asked, tag));
        let compressed = self.compressed.as_ref().filter(|_| preferred(asked, &[Coding::Gzip]).is_some());
        let mut response = match (is_known, compressed) {
            (true, _) => Response::new(Body::empty()),
            (false, Some(compressed)) => Response::new(Body::from(compressed.clone())),
            (false, None) => Response::new(Body::from(Bytes::from_static(self.plain))),
        };
        response.headers_mut().extend(self.headers.clone());
        if is_known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else if compressed.is_some() {
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }
}

/// Returns the media type of a file by its extension.
fn media_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" => "application/json",
        "webmanifest" => "application/manifest+json",
        "txt" => "text/plain; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        _ => "application/octet-stream",
    }
}

/// `GET /console`: the page is at `/console/`, so that the links in it are relative to a folder.
pub(super) async fn redirect() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    // Relative, so that it is right behind a proxy that removes a prefix of the path.
    response.headers_mut().insert(LOCATION, HeaderValue::from_static("console/"));
    response
}

/// `GET /console/`
async fn page(asked: HeaderMap) -> Result<Response, Failure> {
    answer(INDEX, &asked)
}

/// `GET /console/assets/index-1a2b3c4d.js`
async fn file(path: Result<Path<String>, PathRejection>, asked: HeaderMap) -> Result<Response, Failure> {
    let Path(path) = path.map_err(|_| Error::UnknownEndpoint)?;
    answer(&path, &asked)
}

fn answer(path: &str, asked: &HeaderMap) -> Result<Response, Failure> {
    let file = FILES.get(path).ok_or(Error::UnknownEndpoint)?;
    Ok(file.answer(asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_built_and_what_it_loads_is_small() {
        assert!(FILES.contains_key(INDEX));
        let compressed: usize =
            FILES.values().map(|file| file.compressed.as_ref().map_or(file.plain.len(), Bytes::len)).sum();
        assert!(compressed < 250_000, "{compressed} bytes");
    }

    #[test]
    fn every_file_has_a_known_media_type() {
        let unknown: Vec<_> = FILES.keys().filter(|path| media_type(path) == "application/octet-stream").collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}
