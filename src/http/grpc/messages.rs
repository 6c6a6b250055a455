//! Bodies of gRPC: messages that arrive, and messages that are sent, followed by a status.

use std::convert::Infallible;
use std::future::Future;
use std::io::Read;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use bytes::{Buf, Bytes};
use flate2::read::GzDecoder;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame};
use tokio::sync::mpsc;

use crate::budget::{ArrivedBytes, Deadline, Held, MemoryBudget};
use crate::error::{Error, Result};
use crate::grpc::{FRAME_HEAD, FrameHead, metadata_of_success};
use crate::http::HttpState;
use crate::http::body::{BodyLimit, broken_off};

/// Time for a message to arrive, if the call has no deadline. The budget of the model counts from the head of the call,
/// too, but the model is known only once the message has arrived.
pub(super) const MESSAGE_TIME: Duration = Duration::from_secs(30);
/// Number of bytes that are decompressed at a time.
const PIECE: usize = 32 << 10;

pub(super) const APPLICATION_GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// The messages of a request, read one at a time.
pub(super) struct Messages {
    body: Body,
    /// Bytes that have arrived after the last message.
    rest: Bytes,
    /// First bytes of the next frame.
    head: [u8; FRAME_HEAD],
    head_length: usize,
    arriving: Option<Arriving>,
    /// Time at which the first byte of an incomplete message had arrived, or reading went on.
    partial_since: Option<Instant>,
}

/// A message of which a part has arrived.
struct Arriving {
    bytes: ArrivedBytes,
    length: usize,
    is_compressed: bool,
}

/// A message as it has arrived. Its bytes are counted against the memory for bodies.
pub(super) struct Message {
    pub(super) bytes: ArrivedBytes,
    pub(super) is_compressed: bool,
}

impl Messages {
    pub(super) fn new(body: Body) -> Messages {
        let (head, head_length) = ([0; FRAME_HEAD], 0);
        Messages { body, rest: Bytes::new(), head, head_length, arriving: None, partial_since: None }
    }

    /// Returns true if a message has begun, and has not been completed in the time for a message.
    pub(super) fn is_too_slow(&self, now: Instant) -> bool {
        self.partial_since.is_some_and(|since| now.saturating_duration_since(since) > MESSAGE_TIME)
    }

    /// Notes that no message is read now. The client need not hurry meanwhile.
    pub(super) fn pause(&mut self, now: Instant) {
        if let Some(since) = &mut self.partial_since {
            *since = now;
        }
    }

    /// Reads the next message; `None` at the end. Memory for the bytes is reserved as they arrive. If the future is
    /// dropped, the next call goes on where this one stopped.
    pub(super) async fn next(&mut self, limit: BodyLimit, memory: &MemoryBudget) -> Result<Option<Message>> {
        loop {
            if let Some(message) = self.take(limit, memory)? {
                return Ok(Some(message));
            }
            match self.body.frame().await {
                // Trailers are ignored.
                Some(frame) => self.rest = frame.map_err(broken_off)?.into_data().unwrap_or_default(),
                None if self.head_length == 0 => return Ok(None),
                None => return Err(Error::RequestAborted),
            }
        }
    }

    /// Reads the only message of a request.
    pub(super) async fn only(&mut self, limit: BodyLimit, memory: &MemoryBudget) -> Result<Message> {
        let wrong =
            |found: &str| Error::InvalidInput(format!("found {found}, but this call takes exactly one message"));
        let message = self.next(limit, memory).await?.ok_or_else(|| wrong("no message"))?;
        let is_end = self.rest.is_empty() && self.body.is_end_stream();
        if !is_end && self.next(limit, memory).await?.is_some() {
            return Err(wrong("several messages"));
        }
        Ok(message)
    }

    /// Takes the bytes at hand into the next message, and returns the message if it is complete.
    fn take(&mut self, limit: BodyLimit, memory: &MemoryBudget) -> Result<Option<Message>> {
        let head_length = self.rest.len().min(FRAME_HEAD - self.head_length);
        self.rest.copy_to_slice(&mut self.head[self.head_length..][..head_length]);
        self.head_length += head_length;
        if self.head_length > 0 && self.partial_since.is_none() {
            self.partial_since = Some(Instant::now());
        }
        if self.head_length < FRAME_HEAD {
            return Ok(None);
        }
        let mut arriving = match self.arriving.take() {
            Some(arriving) => arriving,
            None => Arriving::new(self.head, limit, memory)?,
        };
        let left = arriving.length - arriving.bytes.len();
        arriving.bytes.add(self.rest.split_to(left.min(self.rest.len())))?;
        if arriving.bytes.len() < arriving.length {
            self.arriving = Some(arriving);
            return Ok(None);
        }
        self.head_length = 0;
        self.partial_since = None;
        Ok(Some(Message { bytes: arriving.bytes, is_compressed: arriving.is_compressed }))
    }
}

impl Message {
    /// Returns the bytes of the message. A compressed message is decompressed on a thread for heavy stages, up to the same
    /// limit and within the same memory.
    pub(super) async fn uncompressed(
        self,
        state: &HttpState,
        limit: BodyLimit,
        deadline: Deadline,
    ) -> Result<ArrivedBytes> {
        if !self.is_compressed {
            return Ok(self.bytes);
        }
        let (compressed, memory) = (self.bytes.whole(), state.body_memory.clone());
        let inflate = move || inflated(&compressed, limit, &memory);
        let inflated = state.blocking_threads.run(deadline, &state.decompression_cost, inflate).await;
        inflated.unwrap_or(Err(Error::RequestTooSlow { limit: MESSAGE_TIME }))
    }
}

fn inflated(compressed: &[u8], limit: BodyLimit, memory: &MemoryBudget) -> Result<ArrivedBytes> {
    let mut decoder = GzDecoder::new(compressed);
    let (mut bytes, mut piece) = (ArrivedBytes::new(memory, limit.bytes.get()), vec![0; PIECE]);
    loop {
        match decoder.read(&mut piece) {
            Ok(0) => return Ok(bytes),
            Ok(length) if bytes.len() + length > limit.bytes.get() => return Err(limit.exceeded()),
            Ok(length) => bytes.add(Bytes::copy_from_slice(&piece[..length]))?,
            Err(_) => return Err(Error::InvalidInput("the compressed message is not complete gzip data".to_owned())),
        }
    }
}

impl Arriving {
    fn new(head: [u8; FRAME_HEAD], limit: BodyLimit, memory: &MemoryBudget) -> Result<Arriving> {
        let FrameHead { is_compressed, length } =
            FrameHead::read(head).ok_or_else(|| Error::InvalidInput("the body has no frames of gRPC".to_owned()))?;
        if length > limit.bytes.get() {
            return Err(limit.exceeded());
        }
        // Refuses a message that does not fit now, before it is read. The memory may still run out while it arrives.
        memory.check(length)?;
        Ok(Arriving { bytes: ArrivedBytes::new(memory, length), length, is_compressed })
    }
}

/// Returns a successful response with one message, in its frame.
pub(super) fn unary(frame: Held<Vec<u8>>) -> Response {
    respond(Body::new(Unary { frame: Some(Bytes::from_owner(frame)), is_ended: false }))
}

/// Returns a response whose messages `driver` makes. The driver sends each in its frame to the other end of `frames`, and
/// returns the metadata at the end of the response. It runs only while the client takes the messages.
pub(super) fn streamed(
    frames: mpsc::Receiver<Bytes>,
    driver: impl Future<Output = HeaderMap> + Send + 'static,
) -> Response {
    respond(Body::new(Streamed { frames, driver: Some(Box::pin(driver)), trailers: None }))
}

fn respond(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, APPLICATION_GRPC);
    response
}

/// Returns the metadata at the end of a call that succeeded.
pub(super) fn success() -> HeaderMap {
    metadata_of_success()
        .into_iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect()
}

/// The body of a response with one message.
struct Unary {
    frame: Option<Bytes>,
    is_ended: bool,
}

impl HttpBody for Unary {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(frame) = self.frame.take() {
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        let is_ended = std::mem::replace(&mut self.is_ended, true);
        Poll::Ready((!is_ended).then(|| Ok(Frame::trailers(success()))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_ended
    }
}

/// The body of a response with messages that are made one after the other.
struct Streamed {
    frames: mpsc::Receiver<Bytes>,
    driver: Option<Pin<Box<dyn Future<Output = HeaderMap> + Send>>>,
    trailers: Option<HeaderMap>,
}

impl HttpBody for Streamed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Poll::Ready(Some(frame)) = self.frames.poll_recv(context) {
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        if let Some(driver) = &mut self.driver
            && let Poll::Ready(trailers) = driver.as_mut().poll(context)
        {
            (self.driver, self.trailers) = (None, Some(trailers));
        }
        // The sender belongs to the driver, so there is an end once the driver has ended.
        if let Some(frame) = ready!(self.frames.poll_recv(context)) {
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    /// A body that sends these pieces, and then nothing.
    struct Silent(Vec<&'static [u8]>);

    impl HttpBody for Silent {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.pop().map_or(Poll::Pending, |piece| Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(piece))))))
        }
    }

    #[tokio::test]
    async fn a_message_that_stays_incomplete_is_too_slow() {
        let memory = MemoryBudget::new(1 << 20, NonZeroUsize::MIN);
        let limit = BodyLimit::of_questions(NonZeroUsize::new(1 << 10).unwrap());
        // A whole message, and the first byte of the next one.
        let mut messages = Messages::new(Body::new(Silent(vec![&[0], &[0, 0, 0, 0, 1, 7]])));
        let later = Instant::now() + MESSAGE_TIME + Duration::from_secs(60);
        assert!(!messages.is_too_slow(later));
        assert_eq!(&*messages.next(limit, &memory).await.unwrap().unwrap().bytes.whole(), &[7][..]);
        assert!(!messages.is_too_slow(later));
        assert!(tokio::time::timeout(Duration::ZERO, messages.next(limit, &memory)).await.is_err());
        assert!(!messages.is_too_slow(Instant::now()));
        assert!(messages.is_too_slow(later));
        messages.pause(later);
        assert!(!messages.is_too_slow(later));
        assert!(messages.is_too_slow(later + MESSAGE_TIME + Duration::from_secs(1)));
    }
}
