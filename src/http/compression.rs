//! Compression of the answers of the data listener, for clients that accept it. The metrics have their own, because
//! many requests share them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::Method;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, VARY};
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt;

use super::HttpState;
use super::content_coding::{Coding, preferred};
use super::exposition::compress as gzip;
use crate::budget::Deadline;
use crate::error::{Error, Result};

/// Minimum size of an answer that is compressed. A smaller one fits into one packet anyway.
const MIN_BYTES: u64 = 1 << 10;

/// The codings of answers, the better one first: zstd takes a third of the time of gzip for the same size.
const OFFERED: [Coding; 2] = [Coding::Zstd, Coding::Gzip];

/// Level of zstd. Higher levels take much more time and memory for JSON that is little smaller.
const ZSTD_LEVEL: i32 = 1;

/// Time for the compression of a large answer, which is then sent uncompressed.
const WORK_TIME: Duration = Duration::from_secs(1);

/// Compresses an answer with the coding that the client prefers.
pub(super) async fn layer(State(state): State<Arc<HttpState>>, request: Request, next: Next) -> Response {
    let coding = preferred(request.headers(), &OFFERED).filter(|_| request.method() != Method::HEAD);
    let response = next.run(request).await;
    if !is_compressible(&response) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    head.headers.append(VARY, HeaderValue::from_static("accept-encoding"));
    let Some(coding) = coding else { return Response::from_parts(head, body) };
    // The body is in memory, so this neither waits nor copies.
    let Ok(plain) = body.collect().await.map(|body| body.to_bytes()) else {
        return Response::from_parts(head, Body::empty());
    };
    let Ok(compressed) = compressed(&state, coding, plain.clone()).await else {
        return Response::from_parts(head, plain.into());
    };
    head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    head.headers.remove(CONTENT_LENGTH);
    Response::from_parts(head, compressed.into())
}

/// Returns true if the answer is a complete text of some length.
fn is_compressible(response: &Response) -> bool {
    let is_text = |kind: &HeaderValue| {
        let kind = kind.as_bytes();
        let is = |prefix: &str| kind.starts_with(prefix.as_bytes());
        is("application/json") || is("application/problem+json") || is("text/")
    };
    let headers = response.headers();
    response.body().size_hint().exact().is_some_and(|bytes| bytes >= MIN_BYTES)
        && headers.get(CONTENT_TYPE).is_some_and(is_text)
        && !headers.contains_key(CONTENT_ENCODING)
}

/// Returns the compressed bytes, for which memory is reserved.
async fn compressed(state: &HttpState, coding: Coding, plain: Bytes) -> Result<Bytes> {
    let (size, memory) = (plain.len(), state.body_memory.clone());
    // The result is smaller, and usually much smaller.
    let held = memory.hold(size)?;
    let work = move || match coding {
        Coding::Gzip => Ok(gzip(&plain)),
        Coding::Zstd => zstd::bulk::compress(&plain, ZSTD_LEVEL).map_err(Error::internal),
    };
    let cost = &state.compression_cost;
    let bytes = if cost.is_heavy(size) {
        let deadline = Deadline::after(Instant::now(), WORK_TIME);
        let done = state.blocking_threads.run(deadline, cost, work).await;
        done.unwrap_or_else(|| Err(Error::internal("an answer could not be compressed in time")))?
    } else {
        let begun = Instant::now();
        let bytes = work()?;
        cost.learn(size, begun.elapsed());
        bytes
    };
    Ok(Bytes::from_owner(held.of(bytes)))
}
