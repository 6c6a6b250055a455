//! Bytes that arrive in pieces.

use bytes::{Buf, Bytes};

use super::memory::{Held, HeldBytes, MemoryBudget};
use crate::error::Result;

/// Smallest and largest capacity of a block, in bytes.
const MIN_BLOCK: usize = 4 << 10;
const MAX_BLOCK: usize = 256 << 10;

/// Smallest piece that is kept as it is, in bytes. Over HTTP/1, it is a part of a buffer of at most 64 KiB, so it takes at most
/// twice its length. Over HTTP/2, the buffer holds up to 1 MiB of what the same client has sent at about the same time.
const MIN_KEPT: usize = 32 << 10;

/// Largest body, in bytes, that gets one block for all of it before it has arrived: when a quarter of it has.
const MAX_SINGLE: usize = 1 << 20;

/// Body of a request while it arrives in pieces. Its bytes are counted against a memory budget as they arrive.
///
/// Large pieces are kept. The bytes of small ones are copied into blocks, because each may be a small part of a large buffer.
/// Joining the pieces takes milliseconds for millions of bytes, so it is left to [`ArrivedBytes::whole`], which a stage calls;
/// [`ArrivedBytes::parts`] does not need it. A body of up to 1 MiB in small pieces is moved into one block as soon as a quarter
/// of it has arrived, so that there is nothing to join. At most four times the bytes that have arrived are reserved.
///
/// ```
/// use std::num::NonZeroUsize;
/// use leeway::budget::{ArrivedBytes, MemoryBudget};
/// let budget = MemoryBudget::new(1 << 20, NonZeroUsize::MIN);
/// let mut arrived = ArrivedBytes::new(&budget, 100);
/// arrived.add("two".into()).unwrap();
/// arrived.add(" pieces".into()).unwrap();
/// assert_eq!(arrived.len(), 10);
/// assert_eq!(**arrived.whole(), *b"two pieces");
/// ```
#[derive(Debug)]
pub struct ArrivedBytes {
    held: HeldBytes,
    /// Number of bytes that are held.
    reserved: usize,
    /// Maximum number of bytes that are expected. No larger buffer is allocated in advance.
    expected: usize,
    length: usize,
    /// What has arrived before the block: pieces that are kept, full blocks, or the only piece so far.
    pieces: Vec<Bytes>,
    /// The block that small pieces are copied into.
    block: Vec<u8>,
    /// True if one of the pieces was kept.
    has_kept: bool,
}

impl ArrivedBytes {
    /// Returns an empty collection, for at most `expected` bytes.
    pub fn new(memory: &MemoryBudget, expected: usize) -> ArrivedBytes {
        let (pieces, block) = (Vec::new(), Vec::new());
        ArrivedBytes { held: memory.nothing(), reserved: 0, expected, length: 0, pieces, block, has_kept: false }
    }

    /// Returns the number of bytes that have arrived.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Returns true if no bytes have arrived.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Adds a piece. Fails if the budget has too few bytes left.
    pub fn add(&mut self, piece: Bytes) -> Result<()> {
        if piece.is_empty() {
            return Ok(());
        }
        if piece.len() >= MIN_KEPT {
            return self.keep(piece);
        }
        if self.length == 0 {
            // Most bodies arrive in one piece, which is not copied.
            self.reserve(piece.len())?;
            self.length = piece.len();
            self.pieces.push(piece);
            return Ok(());
        }
        self.copy_first()?;
        self.copy(&piece)
    }

    fn keep(&mut self, piece: Bytes) -> Result<()> {
        self.copy_first()?;
        // What the block has left is not used any more.
        let capacity = self.block.capacity();
        self.block.shrink_to_fit();
        self.reserved -= capacity - self.block.capacity();
        self.held.shrink_to(self.reserved);
        // A first piece counts as its length, as small ones do: a body of one piece is the usual case.
        self.reserve(if self.length == 0 { piece.len() } else { 2 * piece.len() })?;
        self.close_block();
        self.length += piece.len();
        self.has_kept = true;
        self.pieces.push(piece);
        Ok(())
    }

    /// Copies the first piece into a block if it is a small one that was not copied.
    fn copy_first(&mut self) -> Result<()> {
        if self.has_kept || self.pieces.is_empty() || !self.block.is_empty() {
            return Ok(());
        }
        let first = std::mem::take(&mut self.pieces);
        // It is freed below.
        (self.length, self.reserved) = (0, 0);
        first.iter().try_for_each(|first| self.copy(first))
    }

    fn copy(&mut self, mut piece: &[u8]) -> Result<()> {
        while !piece.is_empty() {
            let room = self.block.capacity() - self.block.len();
            if room == 0 {
                self.add_block(self.length + piece.len())?;
                continue;
            }
            let (now, later) = piece.split_at(room.min(piece.len()));
            self.block.extend_from_slice(now);
            self.length += now.len();
            piece = later;
        }
        Ok(())
    }

    /// Begins a block, when `known` bytes have arrived: of these, some are not copied yet.
    fn add_block(&mut self, known: usize) -> Result<()> {
        if !self.has_kept && (known..=MAX_SINGLE.min(4 * known)).contains(&self.expected) {
            self.reserve(self.expected)?;
            let mut single = Vec::with_capacity(self.expected);
            self.pieces.drain(..).for_each(|piece| single.extend_from_slice(&piece));
            single.extend_from_slice(&self.block);
            self.block = single;
            self.reserved = self.expected;
            self.held.shrink_to(self.expected);
            return Ok(());
        }
        let expected = self.expected.max(known) - self.length;
        let wanted = known.clamp(MIN_BLOCK, MAX_BLOCK).min(expected);
        self.reserve(wanted)?;
        self.close_block();
        self.block = Vec::with_capacity(wanted);
        Ok(())
    }

    fn close_block(&mut self) {
        if !self.block.is_empty() {
            self.pieces.push(std::mem::take(&mut self.block).into());
        }
    }

    fn reserve(&mut self, more: usize) -> Result<()> {
        self.held.grow_to(self.reserved + more)?;
        self.reserved += more;
        Ok(())
    }

    /// Returns a reader of the arrived bytes, which takes none of them.
    pub fn reader(&self) -> impl Buf + '_ {
        Reader { parts: self.parts(), next: 0, read: 0, left: self.length }
    }

    /// Returns the arrived bytes in parts, none of which is empty.
    pub fn parts(&self) -> Vec<&[u8]> {
        let pieces = self.pieces.iter().map(|piece| &**piece);
        pieces.chain((!self.block.is_empty()).then_some(&*self.block)).collect()
    }

    /// Joins all arrived bytes into one piece.
    pub fn whole(mut self) -> Held<Bytes> {
        self.close_block();
        let whole = match self.pieces.len() {
            0 | 1 => self.pieces.pop().unwrap_or_default(),
            _ => {
                let mut whole = Vec::with_capacity(self.length);
                // Each piece is freed once it is copied, so the memory in use hardly grows.
                self.pieces.into_iter().for_each(|piece| whole.extend_from_slice(&piece));
                whole.into()
            }
        };
        self.held.of(whole)
    }

    /// Returns the budget that the bytes are counted against.
    pub fn budget(&self) -> &MemoryBudget {
        self.held.budget()
    }
}

/// Reads bytes in several parts as if they were one.
struct Reader<'a> {
    parts: Vec<&'a [u8]>,
    /// Index of the part that is read now.
    next: usize,
    /// Number of bytes of this part that were read.
    read: usize,
    left: usize,
}

impl Buf for Reader<'_> {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        self.parts.get(self.next).and_then(|part| part.get(self.read..)).unwrap_or_default()
    }

    fn advance(&mut self, count: usize) {
        let mut count = count.min(self.left);
        self.left -= count;
        while count > 0 {
            let step = count.min(self.chunk().len());
            self.read += step;
            count -= step;
            if self.chunk().is_empty() {
                (self.next, self.read) = (self.next + 1, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use proptest::prelude::*;

    use super::*;
    use crate::error::Error;

    proptest! {
        #[test]
        fn they_are_the_bytes_that_were_added(lengths in prop::collection::vec(prop_oneof![0usize..200, 0usize..70_000], 0..12), expected in 0usize..2_000_000) {
            let memory = MemoryBudget::new(1 << 30, NonZeroUsize::MIN);
            let mut arrived = ArrivedBytes::new(&memory, expected);
            let mut all = Vec::new();
            for (index, &length) in lengths.iter().enumerate() {
                let piece: Vec<u8> = (0..length).map(|at| (at * 7 + index) as u8).collect();
                all.extend_from_slice(&piece);
                arrived.add(piece.into()).unwrap();
                prop_assert!(memory.held() >= arrived.len());
                prop_assert!(memory.held() <= (4 * all.len()).max(MIN_BLOCK));
            }
            prop_assert_eq!(arrived.len(), all.len());
            prop_assert_eq!(arrived.parts().concat(), all.clone());
            prop_assert!(arrived.parts().iter().all(|part| !part.is_empty()));
            let mut reader = arrived.reader();
            let skipped = all.len() / 3;
            reader.advance(skipped);
            prop_assert_eq!(reader.copy_to_bytes(reader.remaining()), &all[skipped..]);
            drop(reader);
            let whole = arrived.whole();
            prop_assert_eq!(&**whole, &*all);
            drop(whole);
            prop_assert_eq!(memory.held(), 0);
        }
    }

    #[test]
    fn a_body_has_one_block_once_a_quarter_of_it_has_arrived() {
        let memory = MemoryBudget::new(1 << 30, NonZeroUsize::MIN);
        let mut arrived = ArrivedBytes::new(&memory, 1 << 20);
        let mut add = |pieces: usize| {
            (0..pieces * 4).for_each(|_| arrived.add(Bytes::from_static(&[7; 16 << 10])).unwrap());
            memory.held()
        };
        assert!(add(3) < 1 << 19);
        assert_eq!((add(2), add(11)), (1 << 20, 1 << 20));
        assert_eq!(arrived.parts().len(), 1);
        assert_eq!(**arrived.whole(), [7; 1 << 20]);
    }

    #[test]
    fn large_pieces_are_not_copied() {
        let memory = MemoryBudget::new(1 << 30, NonZeroUsize::MIN);
        let mut arrived = ArrivedBytes::new(&memory, 200_100);
        let (large, small) = (Bytes::from(vec![1; 64 << 10]), Bytes::from_static(&[2; 100]));
        for piece in [&small, &large, &small, &small, &large] {
            arrived.add(piece.clone()).unwrap();
        }
        let parts = arrived.parts();
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [100, 64 << 10, 200, 64 << 10]);
        assert!(parts[1].as_ptr() == large.as_ptr() && parts[3].as_ptr() == large.as_ptr());
    }

    #[test]
    fn bytes_in_pieces_of_one_take_little_more_than_their_number() {
        let memory = MemoryBudget::new(1 << 30, NonZeroUsize::MIN);
        let mut arrived = ArrivedBytes::new(&memory, 8 << 20);
        (0..1_000_000).for_each(|_| arrived.add(Bytes::from_static(b" ")).unwrap());
        assert!(memory.held() <= 1_000_000 + MAX_BLOCK, "{}", memory.held());
        assert_eq!(arrived.whole().len(), 1_000_000);
        assert_eq!(memory.held(), 0);
    }

    #[test]
    fn they_are_held_as_they_arrive_and_not_as_they_are_expected() {
        let memory = MemoryBudget::new(1 << 20, NonZeroUsize::new(1024).unwrap());
        let mut arrived = ArrivedBytes::new(&memory, 600_000);
        arrived.add(Bytes::from(vec![0; 1000])).unwrap();
        assert_eq!(memory.held(), 1000);
        let piece = Bytes::from(vec![0; 100_000]);
        let refused = (0..6).find_map(|_| arrived.add(piece.clone()).err());
        assert_eq!(refused, Some(Error::BodyMemoryFull { limit: 1 << 20 }));
        drop(arrived);
        assert_eq!(memory.held(), 0);
    }
}
