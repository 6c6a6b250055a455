//! The responses of the metrics endpoint. The metrics are rendered on a separate thread, and all requests within the
//! maximum age share a rendering.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY};
use axum::http::{HeaderMap, HeaderName};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::content_coding::{Coding, preferred};
use crate::budget::MemoryBudget;
use crate::error::{Error, Result};
use crate::machine;
use crate::monitor::{Monitor, TEXT_FORMAT};

/// Renders the metrics of a server as text, and shares a rendering among requests.
#[derive(Debug, Clone)]
pub struct Exposition(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    monitor: Arc<Monitor>,
    max_age: Duration,
    /// Memory of the renderings, shared with the bodies of requests. The more renderings wait to be read, the less
    /// memory is left for bodies.
    memory: MemoryBudget,
    /// The last rendering.
    rendered: watch::Sender<Option<Rendering>>,
    is_rendering: Mutex<bool>,
}

/// The metrics at one moment. Clones share their bytes.
#[derive(Debug, Clone)]
struct Rendering {
    begun: Instant,
    plain: Bytes,
    compressed: Bytes,
}

// ===== impl Exposition =====

impl Exposition {
    /// Serves the metrics of `monitor`. A rendering is at most `max_age` old when it is requested.
    pub fn new(monitor: Arc<Monitor>, max_age: Duration, memory: MemoryBudget) -> Exposition {
        let (rendered, _) = watch::channel(None);
        Exposition(Arc::new(Shared { monitor, max_age, memory, rendered, is_rendering: Mutex::new(false) }))
    }

    /// Returns the response to a request with these headers that arrived at `asked`.
    pub(super) async fn answer(&self, headers: &HeaderMap, asked: Instant) -> Result<Response> {
        let rendering = self.rendering(asked).await?;
        const VARIES: (HeaderName, HeaderValue) = (VARY, HeaderValue::from_static("accept-encoding"));
        let format = (CONTENT_TYPE, HeaderValue::from_static(TEXT_FORMAT));
        Ok(if preferred(headers, &[Coding::Gzip]).is_some() {
            let gzip = (CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            ([format, VARIES, gzip], Body::from(rendering.compressed)).into_response()
        } else {
            ([format, VARIES], Body::from(rendering.plain)).into_response()
        })
    }

    /// Returns a rendering that is recent enough for a request at `asked`: the last rendering, the one in progress, or
    /// a new one.
    async fn rendering(&self, asked: Instant) -> Result<Rendering> {
        let mut rendered = self.0.rendered.subscribe();
        // The rendering in progress may be too old, but the next one is not. More attempts are needed only if rendering
        // has failed.
        for _ in 0..4 {
            let last = rendered.borrow_and_update().clone();
            if let Some(rendering) = last.filter(|rendering| rendering.begun + self.0.max_age >= asked) {
                return Ok(rendering);
            }
            // A rendering is marked as done before it is published, so a request that gets an old rendering can start
            // the next one.
            self.begin()?;
            rendered.changed().await.map_err(Error::internal)?;
        }
        Err(Error::internal("the metrics could not be rendered"))
    }

    /// Starts a rendering on a separate thread, unless a rendering is in progress. Busy threads of one listener then do
    /// not delay the metrics on the other listener.
    fn begin(&self) -> Result<()> {
        let mut is_rendering = self.0.is_rendering.lock();
        if *is_rendering {
            return Ok(());
        }
        let shared = Arc::clone(&self.0);
        let thread = std::thread::Builder::new().name("metrics".to_owned());
        thread.spawn(move || shared.render()).map_err(Error::internal)?;
        *is_rendering = true;
        Ok(())
    }
}

impl Shared {
    fn render(&self) {
        /// Guard that marks the rendering as done, even after a panic, so that the next request can start another.
        struct Done<'a>(&'a Shared, Option<Rendering>);

        impl Drop for Done<'_> {
            fn drop(&mut self) {
                *self.0.is_rendering.lock() = false;
                let rendering = self.1.take();
                self.0.rendered.send_modify(|last| *last = rendering.or(last.take()));
            }
        }

        machine::give_way();
        let mut done = Done(self, None);
        let begun = Instant::now();
        let plain = self.monitor.render().into_bytes();
        let compressed = compress(&plain);
        let hold = |bytes: Vec<u8>| Bytes::from_owner(self.memory.hold_anyway(bytes.capacity()).of(bytes));
        done.1 = Some(Rendering { begun, plain: hold(plain), compressed: hold(compressed) });
    }
}

/// Compresses the text of the metrics, or of another answer, with gzip.
pub fn compress(text: &[u8]) -> Vec<u8> {
    /// Level of the compression. It takes half the time of the next level, for 3% more bytes.
    const LEVEL: u32 = 5;
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 8), Compression::new(LEVEL));
    // Writing to memory cannot fail.
    let _ = encoder.write_all(text);
    encoder.finish().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn exposition(max_age: Duration) -> Exposition {
        Exposition::new(
            Arc::new(Monitor::new("1.0.0", Default::default())),
            max_age,
            MemoryBudget::new(1 << 30, NonZeroUsize::MIN),
        )
    }

    #[tokio::test]
    async fn who_asks_within_the_age_shares_the_bytes_of_one_rendering() {
        let exposition = exposition(Duration::from_secs(3600));
        let asked = Instant::now();
        let all = tokio::join!(exposition.rendering(asked), exposition.rendering(asked), exposition.rendering(asked));
        let first = all.0.unwrap();
        for other in [all.1.unwrap(), all.2.unwrap(), exposition.rendering(Instant::now()).await.unwrap()] {
            assert_eq!(
                (other.plain.as_ptr(), other.compressed.as_ptr()),
                (first.plain.as_ptr(), first.compressed.as_ptr())
            );
        }
        // The memory is reserved once for all readers of a rendering.
        let held = exposition.0.memory.held();
        assert!(held >= first.plain.len() + first.compressed.len() && held < 4 * first.plain.len(), "{held}");
    }

    #[tokio::test]
    async fn an_old_rendering_is_given_back_when_nobody_reads_it() {
        let exposition = exposition(Duration::ZERO);
        let first = exposition.rendering(Instant::now()).await.unwrap();
        let second = exposition.rendering(Instant::now()).await.unwrap();
        assert!(second.begun > first.begun);
        let two = exposition.0.memory.held();
        drop(first);
        assert!(exposition.0.memory.held() < two);
    }
}
