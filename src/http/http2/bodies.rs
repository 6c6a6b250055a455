//! The bodies of the requests and responses of an HTTP/2 connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use super::responses::{Responses, Unfinished, Watch, end_if_flooded};
use crate::http::activity::Activity;
use crate::monitor::Delivery;

/// Maximum size of the pieces in which the body of a response leaves.
const MAX_PIECE_BYTES: usize = 64 << 10;

/// The body of a response.
pub(super) struct ResponseBody {
    body: Body,
    /// Part of the last frame of the body that hyper has not taken yet.
    rest: Bytes,
    /// Guard that records the duration of the request when the first piece of the response is taken.
    delivery: Option<Arc<Delivery>>,
    _watch: Option<Watch>,
    unfinished: Arc<Unfinished>,
}

/// A piece of a response.
struct Piece {
    bytes: Bytes,
    unfinished: Arc<Unfinished>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.unfinished.has_left();
    }
}

impl ResponseBody {
    pub(super) fn new(
        body: Body,
        delivery: Option<Arc<Delivery>>,
        watch: Option<Watch>,
        unfinished: Arc<Unfinished>,
    ) -> ResponseBody {
        ResponseBody { body, rest: Bytes::new(), delivery, _watch: watch, unfinished }
    }

    /// Returns the first part of a frame, and keeps the rest. Large frames are cut, so that their progress is seen.
    fn piece(&mut self, mut bytes: Bytes) -> Bytes {
        self.rest = bytes.split_off(bytes.len().min(MAX_PIECE_BYTES));
        Bytes::from_owner(Piece { bytes, unfinished: Arc::clone(&self.unfinished) })
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.delivery = None;
        let frame = match std::mem::take(&mut self.rest) {
            rest if rest.is_empty() => Pin::new(&mut self.body).poll_frame(context),
            rest => Poll::Ready(Some(Ok(Frame::data(rest)))),
        };
        if frame.is_pending() && Arc::strong_count(&self.unfinished) == 1 {
            self.unfinished.waits();
        }
        let frame = ready!(frame);
        self.unfinished.has_progress();
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(|bytes| self.piece(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // hyper asks before it takes the first piece.
        if self.rest.is_empty() { self.body.size_hint() } else { SizeHint::default() }
    }
}

/// The body of a request. It notes when it waits for its client.
pub(super) struct RequestBody {
    body: Incoming,
    activity: Arc<Activity>,
    responses: Arc<Responses>,
    is_waiting: bool,
}

impl RequestBody {
    pub(super) fn new(body: Incoming, activity: &Arc<Activity>, responses: &Arc<Responses>) -> RequestBody {
        RequestBody { body, activity: Arc::clone(activity), responses: Arc::clone(responses), is_waiting: false }
    }

    fn set_waiting(&mut self, is_waiting: bool) {
        match (std::mem::replace(&mut self.is_waiting, is_waiting), is_waiting) {
            (false, true) => self.activity.add_waiting(),
            (true, false) => self.activity.remove_waiting(),
            _ => {}
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        self.set_waiting(frame.is_pending());
        if frame.is_ready() {
            self.responses.add_progress();
        }
        if let Poll::Ready(Some(Err(_))) = &frame {
            self.responses.add_broken_off();
            end_if_flooded(&self.responses, &self.activity);
        }
        frame.map(|frame| frame.map(|frame| frame.map_err(io::Error::other)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.set_waiting(false);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::num::NonZeroUsize;
    use std::pin::pin;
    use std::time::Instant;

    use super::*;
    use crate::http::http2::responses::Started;

    /// The body of one frame leaves in pieces, so that its progress is seen.
    #[tokio::test]
    async fn a_large_frame_leaves_in_pieces() {
        let activity = Arc::new(Activity::new(Instant::now(), NonZeroUsize::MIN));
        let responses = Arc::new(Responses::default());
        let unfinished = Started::new(&activity, &responses).answered();
        let bytes: Bytes = (0..=255).cycle().take(2 * MAX_PIECE_BYTES + 7).collect();
        let mut body = pin!(ResponseBody::new(Body::from(bytes.clone()), None, None, unfinished));
        let (mut lengths, mut taken, mut progress) = (Vec::new(), Vec::new(), responses.progress());
        while !body.is_end_stream() {
            let frame = poll_fn(|context| body.as_mut().poll_frame(context)).await.unwrap().unwrap();
            let piece = frame.into_data().unwrap();
            lengths.push(piece.len());
            taken.extend_from_slice(&piece);
            assert!(responses.progress() > std::mem::replace(&mut progress, responses.progress()));
        }
        assert_eq!(lengths, [MAX_PIECE_BYTES, MAX_PIECE_BYTES, 7]);
        assert_eq!(taken, bytes);
    }
}
