//! The stream below a connection. It records whether a write is pending, and distinguishes a client that waits for its
//! response from one that has left.
//!
//! A client may close its sending side after its request, and wait for the response (`nc -N`, `socat`, some probes). On
//! the wire this looks like a closed connection. The difference shows when the server writes: the host of a client that
//! has left replies with a reset. If a response takes a while, its first bytes are therefore sent ahead; they are the
//! same for every response. If a reset comes back, the client has left, and the request is cancelled.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::coop;
use tokio::time::Sleep;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::server::TlsStream;

use super::activity::Activity;
use super::connection_threads;

/// The first bytes of every response, in each version of HTTP/1.
const FIRST_BYTES: &[u8] = b"HTTP/1.";

/// Time from the end of a client's input until the first bytes of the response are sent ahead. Most responses are
/// complete before this time has passed.
const SEND_AHEAD_AFTER: Duration = Duration::from_millis(20);

/// First and longest interval between checks for a reset from the client's host, which arrives after one round trip.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_millis(100);

/// Maximum number of bytes in one write, so that a task can yield between two writes.
const WRITE_AT_MOST: usize = 64 << 10;

/// Number of bytes that cost a task one of the 128 units of its cooperative budget in tokio, so that the task yields after
/// it has read 1 MiB, or written 256 KiB. Tokio itself charges one unit for a read or a write of any length: a connection that
/// wrote 4 MiB kept the other connections waiting for 13 ms.
const READ_PER_UNIT: usize = 8 << 10;
pub(super) const WRITTEN_PER_UNIT: usize = 2 << 10;

/// The socket of a connection.
#[derive(Debug)]
pub(super) enum SocketStream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A stream that records whether a write is pending. hyper writes until no bytes are left or the stream is not ready,
/// so the record of a waiting connection shows whether bytes of a response are left.
pub(super) struct WatchedStream {
    stream: Pin<Box<TimeoutStream<SocketStream>>>,
    activity: Arc<Activity>,
    half_closed: Option<HalfClosed>,
    /// True if a client may close its sending side and wait for the response, as in HTTP/1.
    can_half_close: bool,
}

/// The state of a stream whose client has closed its sending side and may be waiting for a response.
struct HalfClosed {
    /// Number of bytes that were sent ahead and not yet skipped in the response; `None` before the attempt to send.
    sent_ahead: Option<usize>,
    look: Pin<Box<Sleep>>,
    pause: Duration,
}

// ===== impl SocketStream =====

impl SocketStream {
    /// Waits for bytes, and returns their number without reading them; 0 at the end of the input. With TLS, the bytes are
    /// encrypted.
    pub(super) async fn peek(&self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            SocketStream::Tcp(stream) => stream.peek(bytes).await,
            SocketStream::Tls(stream) => stream.get_ref().0.peek(bytes).await,
            SocketStream::Unix(stream) => loop {
                stream.readable().await?;
                let peek = || {
                    let (length, _) = rustix::net::recv(stream, &mut *bytes, rustix::net::RecvFlags::PEEK)?;
                    Ok(length)
                };
                match stream.try_io(Interest::READABLE, peek) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    peeked => return peeked,
                }
            },
        }
    }
}

// ===== impl WatchedStream =====

impl WatchedStream {
    pub(super) fn new(stream: SocketStream, write_timeout: Duration, activity: Arc<Activity>) -> WatchedStream {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(write_timeout));
        WatchedStream { stream: Box::pin(stream), activity, half_closed: None, can_half_close: true }
    }

    /// Returns a stream whose client has left once it closes its sending side.
    pub(super) fn without_half_close(
        stream: SocketStream,
        write_timeout: Duration,
        activity: Arc<Activity>,
    ) -> WatchedStream {
        WatchedStream { can_half_close: false, ..WatchedStream::new(stream, write_timeout, activity) }
    }

    fn note<T>(&self, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.activity.set_writing(poll.is_pending());
        poll
    }

    fn note_written(&self, context: &mut Context<'_>, poll: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(length)) = poll {
            charge(context, length, WRITTEN_PER_UNIT);
            connection_threads::has_answered();
        }
        self.note(poll)
    }

    /// Sends the first bytes of the response ahead, and returns the number of bytes that were sent.
    fn send_ahead(&self) -> io::Result<usize> {
        // If a response is being written already, the write shows whether the client has left.
        if !self.activity.is_answering() || self.activity.is_writing() {
            return Ok(0);
        }
        match self.stream.get_ref().try_write(FIRST_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            sent => sent,
        }
    }

    /// Polls until the client is known to have left, and then returns the error of the connection.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let Some(half_closed) = &mut self.half_closed else { return Poll::Pending };
            ready!(half_closed.look.as_mut().poll(context));
            if half_closed.sent_ahead.is_none() {
                let sent_ahead = Some(self.send_ahead()?);
                let (look, pause) = (Box::pin(tokio::time::sleep(FIRST_LOOK)), FIRST_LOOK);
                self.half_closed = Some(HalfClosed { sent_ahead, look, pause });
                continue;
            }
            if let Some(reset) = self.stream.get_ref().take_error()? {
                return Poll::Ready(Err(reset));
            }
            half_closed.pause = (half_closed.pause * 2).min(MAX_PAUSE);
            let next = half_closed.look.deadline() + half_closed.pause;
            half_closed.look.as_mut().reset(next);
        }
    }

    /// Returns the number of bytes at the start of `first` that were sent ahead, and counts them as skipped.
    fn sent_already(&mut self, first: &[u8]) -> Option<usize> {
        let ahead = self.half_closed.as_mut()?.sent_ahead.as_mut().filter(|ahead| **ahead > 0)?;
        let length = first.len().min(*ahead);
        *ahead -= length;
        Some(length)
    }
}

/// Returns the first buffers, up to `most` bytes in total; none if these buffers have no bytes.
fn within<'a, 'b>(most: usize, bufs: &'b [IoSlice<'a>]) -> &'b [IoSlice<'a>] {
    let (mut count, mut total) = (0, 0);
    while let Some(buf) = bufs.get(count)
        && total + buf.len() <= most
    {
        (count, total) = (count + 1, total + buf.len());
    }
    if total == 0 { &[] } else { &bufs[..count] }
}

/// Charges the task a unit of its budget for each `per_unit` bytes. A task without units yields at its next read or write.
pub(super) fn charge(context: &mut Context<'_>, bytes: usize, per_unit: usize) {
    for _ in 0..bytes / per_unit {
        // Stops, because asking for a unit when none is left would wake the task once more.
        if !coop::has_budget_remaining() {
            return;
        }
        if let Poll::Ready(unit) = coop::poll_proceed(context) {
            unit.made_progress();
        }
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.half_closed.is_some() && self.activity.is_busy() {
            return self.poll_gone(context);
        }
        let before = buf.filled().len();
        let read = self.stream.as_mut().poll_read(context, buf);
        charge(context, buf.filled().len() - before, READ_PER_UNIT);
        let is_end = matches!(read, Poll::Ready(Ok(()))) && buf.filled().len() == before && buf.remaining() > 0;
        if is_end && self.can_half_close && self.half_closed.is_none() && self.activity.is_busy() {
            if let SocketStream::Tls(_) = self.stream.get_ref() {
                // No byte can be sent ahead within the encryption, and clients with TLS close only at the end.
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            let look = Box::pin(tokio::time::sleep(SEND_AHEAD_AFTER));
            self.half_closed = Some(HalfClosed { sent_ahead: None, look, pause: FIRST_LOOK });
            self.activity.input_ended();
            return self.poll_gone(context);
        }
        read
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.activity.deliver();
        if let Some(length) = self.sent_already(buf) {
            return Poll::Ready(Ok(length));
        }
        let poll = self.stream.as_mut().poll_write(context, &buf[..buf.len().min(WRITE_AT_MOST)]);
        self.note_written(context, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.activity.deliver();
        let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
        if let Some(length) = self.sent_already(first) {
            return Poll::Ready(Ok(length));
        }
        let poll = match within(WRITE_AT_MOST, bufs) {
            [] => self.stream.as_mut().poll_write(context, &first[..first.len().min(WRITE_AT_MOST)]),
            bufs => self.stream.as_mut().poll_write_vectored(context, bufs),
        };
        self.note_written(context, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = self.stream.as_mut().poll_flush(context);
        if poll.is_ready() && self.half_closed.is_some() && !self.activity.is_answering() {
            // The response is written. hyper expects more input, and nothing else would make it read again.
            context.waker().wake_by_ref();
        }
        self.note(poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = self.stream.as_mut().poll_shutdown(context);
        self.note(poll)
    }
}

// ===== impl SocketStream =====

impl SocketStream {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            SocketStream::Tcp(stream) => stream.try_write(bytes),
            SocketStream::Unix(stream) => stream.try_write(bytes),
            // Not possible within the encryption.
            SocketStream::Tls(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            SocketStream::Tcp(stream) => stream.take_error(),
            SocketStream::Unix(stream) => stream.take_error(),
            SocketStream::Tls(stream) => stream.get_ref().0.take_error(),
        }
    }
}

impl AsyncRead for SocketStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            SocketStream::Tcp(stream) => Pin::new(stream).poll_read(context, buf),
            SocketStream::Unix(stream) => Pin::new(stream).poll_read(context, buf),
            SocketStream::Tls(stream) => Pin::new(stream).poll_read(context, buf),
        }
    }
}

impl AsyncWrite for SocketStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            SocketStream::Tcp(stream) => Pin::new(stream).poll_write(context, buf),
            SocketStream::Unix(stream) => Pin::new(stream).poll_write(context, buf),
            SocketStream::Tls(stream) => Pin::new(stream).poll_write(context, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            SocketStream::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, bufs),
            SocketStream::Unix(stream) => Pin::new(stream).poll_write_vectored(context, bufs),
            SocketStream::Tls(stream) => Pin::new(stream).poll_write_vectored(context, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            SocketStream::Tcp(stream) => stream.is_write_vectored(),
            SocketStream::Unix(stream) => stream.is_write_vectored(),
            SocketStream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            SocketStream::Tcp(stream) => Pin::new(stream).poll_flush(context),
            SocketStream::Unix(stream) => Pin::new(stream).poll_flush(context),
            SocketStream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            SocketStream::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            SocketStream::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            SocketStream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_use_up_the_units_of_a_task() {
        std::future::poll_fn(|context| {
            charge(context, 64 << 10, WRITTEN_PER_UNIT);
            assert!(coop::has_budget_remaining());
            charge(context, 256 << 10, WRITTEN_PER_UNIT);
            assert!(!coop::has_budget_remaining());
            Poll::Ready(())
        })
        .await;
    }

    #[test]
    fn a_write_has_some_bytes_and_not_too_many() {
        let check = |lengths: &[usize], expected: usize| {
            let bytes = [0; 16];
            let bufs: Vec<IoSlice<'_>> = lengths.iter().map(|&length| IoSlice::new(&bytes[..length])).collect();
            assert_eq!(within(8, &bufs).len(), expected, "{lengths:?}");
        };
        check(&[], 0);
        check(&[8], 1);
        check(&[9], 0);
        check(&[3, 5, 1], 2);
        check(&[3, 0, 5], 3);
        check(&[0, 9], 0);
        check(&[0, 0], 0);
    }
}
