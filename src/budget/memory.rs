//! Memory that is held for callers: one budget of bytes for the bodies of all requests, and for all answers that have not
//! been read yet.
//!
//! A holder may have as much as is left free for everybody else, and no more: the more is held, the less each may have.
//! So a few large bodies never keep small ones out, however many of them there are.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::error::{Error, Result};

/// A number of bytes that may be held at one time. Clones are the same budget.
#[derive(Debug, Clone)]
pub struct MemoryBudget(Arc<Counter>);

#[derive(Debug)]
struct Counter {
    limit: usize,
    held: AtomicUsize,
}

/// Bytes of a budget, held until this is dropped.
#[derive(Debug)]
pub struct HeldBytes {
    budget: MemoryBudget,
    bytes: usize,
}

/// Something in memory, and the bytes that are held for it.
#[derive(Debug)]
pub struct Held<T> {
    value: T,
    _bytes: HeldBytes,
}

/// Whether one holder may have `own` bytes, where all together would have `all`.
fn has_room(limit: usize, all: usize, own: usize) -> bool {
    own <= limit.saturating_sub(all)
}

// ===== impl MemoryBudget =====

impl MemoryBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> MemoryBudget {
        MemoryBudget(Arc::new(Counter { limit, held: AtomicUsize::new(0) }))
    }

    /// How many bytes are held.
    pub fn held(&self) -> usize {
        self.0.held.load(Relaxed)
    }

    /// Holds nothing yet.
    pub fn nothing(&self) -> HeldBytes {
        HeldBytes { budget: self.clone(), bytes: 0 }
    }

    /// Holds `bytes`, or says that there is no room.
    ///
    /// ```
    /// use leeway::budget::MemoryBudget;
    /// let budget = MemoryBudget::new(100);
    /// let large = budget.hold(40).unwrap();
    /// // 60 are left, and another 40 would leave less than that for the next one.
    /// assert!(budget.hold(40).is_err());
    /// let small = budget.hold(20).unwrap();
    /// assert_eq!(budget.held(), 60);
    /// drop((large, small));
    /// assert_eq!(budget.held(), 0);
    /// ```
    pub fn hold(&self, bytes: usize) -> Result<HeldBytes> {
        let mut held = self.nothing();
        held.grow_to(bytes)?;
        Ok(held)
    }

    /// Holds `bytes`, whether or not there is room: what is refused to nobody is still seen by those that ask for room.
    pub fn hold_anyway(&self, bytes: usize) -> HeldBytes {
        self.0.held.fetch_add(bytes, Relaxed);
        HeldBytes { budget: self.clone(), bytes }
    }

    /// Fails if there is no room for `bytes` now. Holds nothing.
    pub fn check(&self, bytes: usize) -> Result<()> {
        if has_room(self.0.limit, self.held().saturating_add(bytes), bytes) { Ok(()) } else { Err(self.full()) }
    }

    fn full(&self) -> Error {
        Error::BodyMemoryFull { limit: self.0.limit }
    }
}

// ===== impl HeldBytes =====

impl HeldBytes {
    /// Holds `bytes` in all, or as many as before if there is no room for that. Never gives any back.
    pub fn grow_to(&mut self, bytes: usize) -> Result<()> {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return Ok(());
        }
        let counter = &self.budget.0;
        // Taken first and given back on failure: of two that ask at one time both may be refused, and never both let in.
        let all = counter.held.fetch_add(more, Relaxed).saturating_add(more);
        if has_room(counter.limit, all, bytes) {
            self.bytes = bytes;
            Ok(())
        } else {
            counter.held.fetch_sub(more, Relaxed);
            Err(self.budget.full())
        }
    }

    /// Holds these bytes for as long as `value` is there.
    pub fn of<T>(self, value: T) -> Held<T> {
        Held { value, _bytes: self }
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.0.held.fetch_sub(self.bytes, Relaxed);
        }
    }
}

// ===== impl Held =====

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Held<T> {
    fn as_ref(&self) -> &[u8] {
        self.value.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// However many hold however much, one that is no larger than the average of what they could have is let in.
    #[test]
    fn small_bodies_are_let_in_however_many_large_ones_there_are() {
        let budget = MemoryBudget::new(256 << 20);
        let mut large = Vec::new();
        for bytes in [8 << 20, 1 << 20, 300 << 10] {
            while let Ok(held) = budget.hold(bytes) {
                large.push(held);
                assert!(large.len() < 1024);
            }
        }
        assert!(budget.hold(250 << 10).is_ok());
        assert!(matches!(budget.hold(8 << 20), Err(Error::BodyMemoryFull { .. })));
    }

    #[test]
    fn what_is_held_anyway_counts_for_the_others() {
        let budget = MemoryBudget::new(100);
        let held = budget.hold_anyway(150);
        assert!(budget.hold(1).is_err() && budget.check(1).is_err());
        drop(held);
        assert!(budget.check(50).is_ok() && budget.check(51).is_err());
    }

    proptest! {
        #[test]
        fn no_more_is_held_than_the_limit_and_all_is_given_back(
            limit in 0usize..10_000, sizes in prop::collection::vec(0usize..4_000, 0..40)
        ) {
            let budget = MemoryBudget::new(limit);
            let mut all = Vec::new();
            for (index, size) in sizes.into_iter().enumerate() {
                let mut held = budget.nothing();
                // In two steps, as a body arrives.
                let _ = held.grow_to(size / 2).and_then(|()| held.grow_to(size));
                all.push(held);
                if index % 3 == 2 {
                    all.swap_remove(index / 2 % all.len());
                }
                prop_assert!(budget.held() <= limit);
                prop_assert_eq!(budget.held(), all.iter().map(|held| held.bytes).sum::<usize>());
            }
            drop(all);
            prop_assert_eq!(budget.held(), 0);
        }
    }
}
