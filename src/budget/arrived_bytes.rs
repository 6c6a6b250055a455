//! Bytes that arrive in pieces.

use bytes::{Buf, Bytes};

use super::memory::{Held, HeldBytes, MemoryBudget};
use crate::error::Result;

/// Smallest and largest capacity of a block, in bytes.
const MIN_BLOCK: usize = 4 << 10;
const MAX_BLOCK: usize = 256 << 10;

/// Body of a request while it arrives in pieces. Its bytes are counted against a memory budget as they arrive.
///
/// The bytes of a piece are copied once, into blocks that never move, so that adding a piece is fast. Joining the
/// blocks takes milliseconds for millions of bytes, so it is left to [`ArrivedBytes::whole`], which a stage calls;
/// [`ArrivedBytes::parts`] does not need it.
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
    /// Maximum number of bytes that are expected. No larger buffer is allocated in advance.
    expected: usize,
    length: usize,
    pieces: Pieces,
}

#[derive(Debug)]
enum Pieces {
    /// The only piece so far, not copied: most bodies arrive in one piece.
    One(Bytes),
    /// Each block is full, except the last one.
    Blocks(Vec<Vec<u8>>),
    /// Blocks that a copy has, too.
    Shared(Vec<Bytes>),
}

impl ArrivedBytes {
    /// Returns an empty collection, for at most `expected` bytes.
    pub fn new(memory: &MemoryBudget, expected: usize) -> ArrivedBytes {
        ArrivedBytes { held: memory.nothing(), expected, length: 0, pieces: Pieces::One(Bytes::new()) }
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
        match &mut self.pieces {
            Pieces::One(first) if first.is_empty() => {
                self.held.grow_to(piece.len())?;
                self.length = piece.len();
                self.pieces = Pieces::One(piece);
                return Ok(());
            }
            Pieces::One(first) => {
                let first = std::mem::take(first);
                (self.length, self.pieces) = (0, Pieces::Blocks(Vec::new()));
                self.copy(&first)?;
            }
            Pieces::Shared(shared) => {
                let shared = std::mem::take(shared);
                (self.length, self.pieces) = (0, Pieces::Blocks(Vec::new()));
                shared.iter().try_for_each(|block| self.copy(block))?;
            }
            Pieces::Blocks(_) => {}
        }
        self.copy(&piece)
    }

    fn copy(&mut self, mut piece: &[u8]) -> Result<()> {
        let Pieces::Blocks(blocks) = &mut self.pieces else { return Ok(()) };
        while !piece.is_empty() {
            let room = blocks.last().map_or(0, |block| block.capacity() - block.len());
            if room == 0 {
                let expected = self.expected.saturating_sub(self.length).max(piece.len());
                let wanted = self.length.clamp(MIN_BLOCK, MAX_BLOCK).min(expected);
                let taken: usize = blocks.iter().map(Vec::capacity).sum();
                self.held.grow_to(taken + wanted)?;
                blocks.push(Vec::with_capacity(wanted));
                continue;
            }
            let (now, later) = piece.split_at(room.min(piece.len()));
            blocks.last_mut().into_iter().for_each(|block| block.extend_from_slice(now));
            self.length += now.len();
            piece = later;
        }
        Ok(())
    }

    /// Returns a reader of the arrived bytes, which takes none of them.
    pub fn reader(&self) -> impl Buf + '_ {
        match &self.pieces {
            Pieces::One(bytes) => Reader { first: bytes, blocks: Blocks::Owned(&[]), left: self.length },
            Pieces::Blocks(blocks) => Reader { first: &[], blocks: Blocks::Owned(blocks), left: self.length },
            Pieces::Shared(blocks) => Reader { first: &[], blocks: Blocks::Shared(blocks), left: self.length },
        }
    }

    /// Returns the arrived bytes in parts.
    pub fn parts(&self) -> Vec<&[u8]> {
        match &self.pieces {
            Pieces::One(bytes) => vec![bytes],
            Pieces::Blocks(blocks) => blocks.iter().map(Vec::as_slice).collect(),
            Pieces::Shared(blocks) => blocks.iter().map(|block| &**block).collect(),
        }
    }

    /// Returns the budget that the bytes are counted against.
    pub fn budget(&self) -> &MemoryBudget {
        self.held.budget()
    }

    /// Returns a copy that shares the bytes, and holds their number in another budget. Fails if that budget has too few
    /// bytes left.
    ///
    /// ```
    /// use std::num::NonZeroUsize;
    /// use leeway::budget::{ArrivedBytes, MemoryBudget};
    /// let [own, other] = [(); 2].map(|()| MemoryBudget::new(1 << 20, NonZeroUsize::MIN));
    /// let mut arrived = ArrivedBytes::new(&own, 100);
    /// arrived.add("a body".into()).unwrap();
    /// let copy = arrived.copied(&other).unwrap();
    /// assert_eq!((copy.parts().concat(), other.held()), (b"a body".to_vec(), 6));
    /// ```
    pub fn copied(&mut self, memory: &MemoryBudget) -> Result<ArrivedBytes> {
        let held = memory.hold(self.length)?;
        let blocks: Vec<Bytes> = match std::mem::replace(&mut self.pieces, Pieces::One(Bytes::new())) {
            Pieces::One(bytes) => vec![bytes],
            Pieces::Blocks(blocks) => blocks.into_iter().map(Bytes::from).collect(),
            Pieces::Shared(blocks) => blocks,
        };
        self.pieces = Pieces::Shared(blocks.clone());
        Ok(ArrivedBytes { held, expected: self.expected, length: self.length, pieces: Pieces::Shared(blocks) })
    }

    /// Joins all arrived bytes into one piece.
    pub fn whole(self) -> Held<Bytes> {
        let whole = match self.pieces {
            Pieces::One(bytes) => bytes,
            Pieces::Blocks(mut blocks) if blocks.len() == 1 => blocks.pop().unwrap_or_default().into(),
            Pieces::Blocks(blocks) => {
                let mut whole = Vec::with_capacity(self.length);
                // Each block is freed once it is copied, so the memory in use hardly grows.
                blocks.into_iter().for_each(|block| whole.extend_from_slice(&block));
                whole.into()
            }
            Pieces::Shared(mut blocks) if blocks.len() == 1 => blocks.pop().unwrap_or_default(),
            Pieces::Shared(blocks) => blocks.concat().into(),
        };
        self.held.of(whole)
    }
}

/// Reads bytes in several pieces as if they were one.
struct Reader<'a> {
    /// Rest of the piece that is read now.
    first: &'a [u8],
    blocks: Blocks<'a>,
    left: usize,
}

/// Pieces that are not read yet.
#[derive(Clone, Copy)]
enum Blocks<'a> {
    Owned(&'a [Vec<u8>]),
    Shared(&'a [Bytes]),
}

impl<'a> Blocks<'a> {
    fn split_first(self) -> Option<(&'a [u8], Blocks<'a>)> {
        match self {
            Blocks::Owned(blocks) => blocks.split_first().map(|(first, rest)| (first.as_slice(), Blocks::Owned(rest))),
            Blocks::Shared(blocks) => blocks.split_first().map(|(first, rest)| (&**first, Blocks::Shared(rest))),
        }
    }
}

impl Buf for Reader<'_> {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        match self.first {
            [] => self.blocks.split_first().map_or(&[], |(first, _)| first),
            first => first,
        }
    }

    fn advance(&mut self, mut count: usize) {
        self.left -= count;
        while count > self.first.len()
            && let Some((next, blocks)) = self.blocks.split_first()
        {
            count -= self.first.len();
            (self.first, self.blocks) = (next, blocks);
        }
        self.first = self.first.get(count..).unwrap_or_default();
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
        fn they_are_the_bytes_that_were_added(lengths in prop::collection::vec(0usize..40_000, 0..12), expected in 0usize..300_000) {
            let memory = MemoryBudget::new(1 << 30, NonZeroUsize::MIN);
            let mut arrived = ArrivedBytes::new(&memory, expected);
            let mut all = Vec::new();
            for (index, &length) in lengths.iter().enumerate() {
                let piece: Vec<u8> = (0..length).map(|at| (at * 7 + index) as u8).collect();
                all.extend_from_slice(&piece);
                arrived.add(piece.into()).unwrap();
                prop_assert!(memory.held() >= arrived.len());
                prop_assert!(memory.held() <= (2 * all.len()).max(MIN_BLOCK));
            }
            prop_assert_eq!(arrived.len(), all.len());
            prop_assert_eq!(arrived.parts().concat(), all.clone());
            let mut reader = arrived.reader();
            let skipped = all.len() / 3;
            reader.advance(skipped);
            prop_assert_eq!(reader.copy_to_bytes(reader.remaining()), &all[skipped..]);
            drop(reader);
            let other = MemoryBudget::new(1 << 30, NonZeroUsize::MIN);
            let copy = arrived.copied(&other).unwrap();
            let mut again = arrived.copied(&other).unwrap();
            prop_assert_eq!(other.held(), 2 * all.len());
            let mut reader = copy.reader();
            reader.advance(skipped);
            prop_assert_eq!(reader.copy_to_bytes(reader.remaining()), &all[skipped..]);
            drop(reader);
            again.add(Bytes::from_static(b"more")).unwrap();
            prop_assert_eq!(&**again.whole(), &*[&*all, b"more"].concat());
            prop_assert_eq!(&**copy.whole(), &*all);
            prop_assert_eq!(other.held(), 0);
            let whole = arrived.whole();
            prop_assert_eq!(&**whole, &*all);
            drop(whole);
            prop_assert_eq!(memory.held(), 0);
        }
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
