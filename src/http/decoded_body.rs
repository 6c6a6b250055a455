//! Decompression of request bodies while they arrive. Memory for the decompressed bytes is reserved by the reader of the
//! body; memory for the decompression itself is reserved here. At the limit of the reader, the decompression ends, so a
//! body that expands to gigabytes costs no more than a body at the limit.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::BoxError;
use axum::body::{Body, Bytes, HttpBody};
use flate2::write::MultiGzDecoder;
use hyper::body::Frame;
use tokio::task::coop;
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, Operation};

use super::content_coding::Coding;
use super::stream::{WRITTEN_PER_UNIT, charge};
use crate::budget::{HeldBytes, MemoryBudget};
use crate::error::{Error, Result};

/// Maximum number of bytes that are decompressed in one step.
const STEP: usize = 64 << 10;

/// Memory of a decompression, without its window of earlier bytes.
const STATE: usize = 48 << 10;

/// Binary logarithm of the maximum window of zstd: 8 MiB, the maximum for HTTP (RFC 9659).
const MAX_WINDOW_LOG: u32 = 23;

/// A body that is decompressed while it is read.
struct DecodedBody {
    body: Body,
    coding: Coding,
    decoder: Decoder,
    /// Bytes that have arrived and have not been decompressed.
    input: Bytes,
    decoded: usize,
    /// Number of decompressed bytes after which nobody needs more.
    limit: usize,
    memory: HeldBytes,
    /// True if nothing is decompressed any more. The reader discards the rest.
    is_over: bool,
}

/// Error of a body that cannot be decompressed, for the response.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct Refused(#[from] pub(super) Error);

enum Decoder {
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    Zstd(ZstdState),
}

struct ZstdState {
    decoder: ZstdDecoder<'static>,
    /// True if there may be more output without further input.
    has_more: bool,
    /// True at the end of a frame, and before the first byte.
    is_complete: bool,
}

/// Returns the decompressed body, of which the reader takes at most `limit` bytes, and memory for its decompression.
pub(super) fn decoded(body: Body, coding: Coding, limit: NonZeroUsize, memory: &MemoryBudget) -> Result<Body> {
    let memory = memory.hold(STATE)?;
    let decoder = match coding {
        Coding::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))),
        Coding::Zstd => {
            let mut decoder = ZstdDecoder::new().map_err(Error::internal)?;
            decoder.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG)).map_err(Error::internal)?;
            Decoder::Zstd(ZstdState { decoder, has_more: false, is_complete: true })
        }
    };
    let (input, limit) = (Bytes::new(), limit.get());
    Ok(Body::new(DecodedBody { body, coding, decoder, input, decoded: 0, limit, memory, is_over: false }))
}

// ===== impl DecodedBody =====

impl DecodedBody {
    /// Decompresses some of the input, which may result in nothing yet.
    fn decode(&mut self) -> Result<Vec<u8>> {
        let (read, decoded) = self.decoder.step(&self.input).map_err(|_| self.undecodable())?;
        self.input = self.input.split_off(read);
        self.decoded += decoded.len();
        if let Decoder::Zstd(_) = self.decoder {
            // The window has the last bytes once more.
            self.memory.grow_to(STATE + self.decoded.min(1 << MAX_WINDOW_LOG))?;
        }
        self.is_over = self.decoded > self.limit;
        Ok(decoded)
    }

    fn undecodable(&self) -> Error {
        let coding = self.coding.name();
        Error::InvalidInput(format!(
            "the body is not complete {coding} data, as its header Content-Encoding says; compress it again, or send \
             it uncompressed without this header"
        ))
    }
}

impl HttpBody for DecodedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            if this.is_over {
                let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
                return Poll::Ready(frame.map(|frame| frame.map_err(axum::Error::into_inner)));
            }
            if !this.input.is_empty() || this.decoder.has_more() {
                // Decompression takes time, so a task that decompresses much yields now and then.
                ready!(coop::poll_proceed(context)).made_progress();
                match this.decode() {
                    Ok(decoded) if decoded.is_empty() => continue,
                    Ok(decoded) => {
                        charge(context, decoded.len(), WRITTEN_PER_UNIT);
                        return Poll::Ready(Some(Ok(Frame::data(decoded.into()))));
                    }
                    Err(error) => {
                        this.is_over = true;
                        return Poll::Ready(Some(Err(refused(error))));
                    }
                }
            }
            match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                // Trailers are ignored.
                Some(Ok(frame)) => this.input = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => {
                    this.is_over = true;
                    return Poll::Ready(Some(Err(error.into_inner())));
                }
                None => {
                    this.is_over = true;
                    return match this.decoder.finish() {
                        Ok(rest) if rest.is_empty() => Poll::Ready(None),
                        Ok(rest) => Poll::Ready(Some(Ok(Frame::data(rest.into())))),
                        Err(_) => Poll::Ready(Some(Err(refused(this.undecodable())))),
                    };
                }
            }
        }
    }
}

fn refused(error: Error) -> BoxError {
    io::Error::other(Refused(error)).into()
}

// ===== impl Decoder =====

impl Decoder {
    /// Decompresses the start of `input`. Returns the number of bytes that were read, and about `STEP` bytes at most.
    fn step(&mut self, input: &[u8]) -> io::Result<(usize, Vec<u8>)> {
        match self {
            Decoder::Gzip(decoder) => {
                let read = decoder.write(input)?;
                if read == input.len() {
                    decoder.flush()?;
                }
                let decoded = std::mem::take(decoder.get_mut());
                if read == 0 && decoded.is_empty() {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                Ok((read, decoded))
            }
            Decoder::Zstd(state) => {
                let mut decoded = vec![0; STEP];
                let status = state.decoder.run_on_buffers(input, &mut decoded)?;
                if status.bytes_read + status.bytes_written > 0 {
                    state.is_complete = status.remaining == 0;
                }
                state.has_more = status.bytes_written == decoded.len();
                if status.bytes_read == 0 && status.bytes_written == 0 && !input.is_empty() {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                decoded.truncate(status.bytes_written);
                decoded.shrink_to_fit();
                Ok((status.bytes_read, decoded))
            }
        }
    }

    fn has_more(&self) -> bool {
        matches!(self, Decoder::Zstd(ZstdState { has_more: true, .. }))
    }

    /// Checks that the input is complete, and returns the last bytes.
    fn finish(&mut self) -> io::Result<Vec<u8>> {
        match self {
            Decoder::Gzip(decoder) => {
                decoder.try_finish()?;
                Ok(std::mem::take(decoder.get_mut()))
            }
            Decoder::Zstd(ZstdState { is_complete: true, .. }) => Ok(Vec::new()),
            Decoder::Zstd(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http_body_util::BodyExt;
    use proptest::prelude::*;

    use super::*;

    const LIMIT: NonZeroUsize = NonZeroUsize::new(1 << 20).unwrap();

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(bytes, 1).unwrap()
    }

    fn memory() -> MemoryBudget {
        MemoryBudget::new(64 << 20, NonZeroUsize::new(4).unwrap())
    }

    /// Reads a body that arrives in pieces of this size, up to the limit.
    async fn read(coding: Coding, body: &[u8], piece: usize, memory: &MemoryBudget) -> Result<Vec<u8>, String> {
        let pieces: Vec<Bytes> = body.chunks(piece).map(Bytes::copy_from_slice).collect();
        let body = Body::new(Pieces(pieces.into_iter()));
        let mut body = decoded(body, coding, LIMIT, memory).map_err(|error| error.to_string())?;
        let mut all = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| error.to_string())?;
            all.extend_from_slice(&frame.into_data().unwrap());
            if all.len() > LIMIT.get() {
                return Err("too large".to_owned());
            }
        }
        Ok(all)
    }

    struct Pieces(std::vec::IntoIter<Bytes>);

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            Poll::Ready(self.0.next().map(|piece| Ok(Frame::data(piece))))
        }
    }

    #[tokio::test]
    async fn a_body_that_expands_ends_at_the_limit_and_gives_its_memory_back() {
        let zeros = vec![0; 256 << 20];
        let memory = memory();
        for (coding, body) in [(Coding::Gzip, gzip(&zeros)), (Coding::Zstd, zstd(&zeros))] {
            let body = Body::from(body);
            let mut body = decoded(body, coding, LIMIT, &memory).unwrap();
            let (mut all, mut most) = (0, 0);
            while let Some(frame) = body.frame().await {
                all += frame.unwrap().into_data().unwrap().len();
                most = most.max(memory.held());
            }
            // Beyond the limit, the rest of the compressed bytes is passed on, and nothing is decompressed.
            assert!(all > LIMIT.get() && all < LIMIT.get() + 2 * STEP + (1 << 20), "{coding:?}: {all}");
            assert!(most < LIMIT.get() + 4 * STEP, "{coding:?}: {most}");
            drop(body);
            assert_eq!(memory.held(), 0);
        }
    }

    #[tokio::test]
    async fn what_is_incomplete_or_something_else_is_refused() {
        let memory = memory();
        for (coding, body) in [(Coding::Gzip, gzip(b"some text")), (Coding::Zstd, zstd(b"some text"))] {
            let damaged = {
                let mut body = body.clone();
                body[..4].fill(7);
                body
            };
            let followed = [&body[..], b"more"].concat();
            for wrong in [&body[..body.len() - 1], &damaged, b"{}", &followed] {
                for piece in [1, 1_000] {
                    let problem = read(coding, wrong, piece, &memory).await.unwrap_err();
                    assert!(problem.contains("not complete"), "{coding:?} {wrong:?}: {problem}");
                }
            }
        }
    }

    /// The windows of all bodies have to fit into the memory.
    #[tokio::test]
    async fn a_decompression_needs_memory() {
        let memory = MemoryBudget::new(STATE, NonZeroUsize::MIN);
        let problem = read(Coding::Gzip, &gzip(b"{}"), 10, &memory).await.unwrap_err();
        assert!(problem.contains("memory"), "{problem}");
    }

    proptest! {
        #[test]
        fn bytes_come_back_in_whatever_pieces_they_arrive(
            bytes in prop::collection::vec(any::<u8>(), 0..2_000), copies in 0usize..200, piece in 1usize..5_000
        ) {
            let all = bytes.repeat(copies);
            let memory = memory();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let two = [&all[..all.len() / 3], &all[all.len() / 3..]];
            for (coding, body) in [
                (Coding::Gzip, gzip(&all)),
                (Coding::Zstd, zstd(&all)),
                // Several members or frames in a row.
                (Coding::Gzip, two.map(gzip).concat()),
                (Coding::Zstd, two.map(zstd).concat()),
            ] {
                prop_assert_eq!(&runtime.block_on(read(coding, &body, piece, &memory)).unwrap(), &all);
            }
            prop_assert_eq!(memory.held(), 0);
        }

        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            for (coding, head) in [(Coding::Gzip, &[0x1f, 0x8b, 8][..]), (Coding::Zstd, &[0x28, 0xb5, 0x2f, 0xfd])] {
                let _ = runtime.block_on(read(coding, &[head, &bytes].concat(), 100, &memory()));
            }
        }
    }
}
