//! Memory that is held for callers: one budget of bytes for the bodies of all requests and for all responses that have
//! not been read yet.
//!
//! An eighth of the budget is reserved for small bodies. Each holder (a body or a response) has an equal share of this
//! eighth, so small bodies are always accepted. From the rest, a holder may take at most half of the free bytes, so a
//! few large bodies do not keep out all smaller ones.

use std::num::NonZeroUsize;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::error::{Error, Result};

/// Budget of the bytes that bodies and responses may hold at the same time. Clones share the budget.
#[derive(Debug, Clone)]
pub struct MemoryBudget(Arc<Counter>);

#[derive(Debug)]
struct Counter {
    limit: usize,
    /// Share of each holder in the part that is reserved for small holders, in bytes.
    small: usize,
    held: AtomicUsize,
}

/// Bytes that are taken from a [`MemoryBudget`], and given back when dropped.
#[derive(Debug)]
pub struct HeldBytes {
    budget: MemoryBudget,
    bytes: usize,
}

/// A value, with the bytes of a [`MemoryBudget`] that are held for it.
#[derive(Debug)]
pub struct Held<T> {
    value: T,
    bytes: HeldBytes,
}

/// Reciprocal of the share that is reserved for small holders.
const KEPT_FOR_SMALL: usize = 8;

// ===== impl MemoryBudget =====

impl MemoryBudget {
    /// Returns a budget of `limit` bytes for at most `holders` holders at one time.
    pub fn new(limit: usize, holders: NonZeroUsize) -> MemoryBudget {
        let small = limit / KEPT_FOR_SMALL / holders;
        MemoryBudget(Arc::new(Counter { limit, small, held: AtomicUsize::new(0) }))
    }

    /// Returns the maximum number of bytes that can be held.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// Returns the number of bytes that are held.
    pub fn held(&self) -> usize {
        self.0.held.load(Relaxed)
    }

    /// Returns [`HeldBytes`] of 0 bytes, which can grow.
    pub fn nothing(&self) -> HeldBytes {
        HeldBytes { budget: self.clone(), bytes: 0 }
    }

    /// Holds `bytes`. Fails if too few are free.
    ///
    /// ```
    /// use std::num::NonZeroUsize;
    /// use leeway::budget::MemoryBudget;
    /// let budget = MemoryBudget::new(800, NonZeroUsize::new(10).unwrap());
    /// let large = budget.hold(300).unwrap();
    /// // 400 of the 700 bytes that are not reserved for small holders are free. 300 are more than half of the 400.
    /// assert!(budget.hold(300).is_err());
    /// let smaller = budget.hold(200).unwrap();
    /// // An eighth is reserved for ten small holders.
    /// let small: Vec<_> = (0..10).map(|_| budget.hold(10).unwrap()).collect();
    /// assert_eq!(budget.held(), 600);
    /// drop((large, smaller, small));
    /// assert_eq!(budget.held(), 0);
    /// ```
    pub fn hold(&self, bytes: usize) -> Result<HeldBytes> {
        let mut held = self.nothing();
        held.grow_to(bytes)?;
        Ok(held)
    }

    /// Holds `bytes` even if too few are free. They count against later calls of `hold`.
    pub fn hold_anyway(&self, bytes: usize) -> HeldBytes {
        self.0.held.fetch_add(bytes, Relaxed);
        HeldBytes { budget: self.clone(), bytes }
    }

    /// Fails if `bytes` cannot be held now. Holds nothing.
    pub fn check(&self, bytes: usize) -> Result<()> {
        if self.0.has_room(self.held().saturating_add(bytes), bytes) { Ok(()) } else { Err(self.full()) }
    }

    fn full(&self) -> Error {
        Error::BodyMemoryFull { limit: self.0.limit }
    }
}

impl Counter {
    /// Returns true if one holder may have `own` bytes in total, if all holders then have `all` bytes together.
    fn has_room(&self, all: usize, own: usize) -> bool {
        if own <= self.small {
            return all <= self.limit;
        }
        let for_large = self.limit - self.limit / KEPT_FOR_SMALL;
        own <= for_large.saturating_sub(all)
    }
}

// ===== impl HeldBytes =====

impl HeldBytes {
    /// Grows to `bytes` in total. Fails, and changes nothing, if too few bytes are free. Never shrinks.
    pub fn grow_to(&mut self, bytes: usize) -> Result<()> {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return Ok(());
        }
        let counter = &self.budget.0;
        // The bytes are taken first, and given back on failure. If two holders ask for the last free bytes at the same
        // time, both may be refused, but never both accepted.
        let all = counter.held.fetch_add(more, Relaxed).saturating_add(more);
        if counter.has_room(all, bytes) {
            self.bytes = bytes;
            Ok(())
        } else {
            counter.held.fetch_sub(more, Relaxed);
            Err(self.budget.full())
        }
    }

    /// Returns the budget that the bytes are taken from.
    pub fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    /// Holds these bytes for as long as `value` lives.
    pub fn of<T>(self, value: T) -> Held<T> {
        Held { value, bytes: self }
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

impl<T> Held<T> {
    /// Returns the budget that the bytes are taken from.
    pub fn budget(&self) -> &MemoryBudget {
        self.bytes.budget()
    }
}

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

    fn budget(limit: usize, holders: usize) -> MemoryBudget {
        MemoryBudget::new(limit, NonZeroUsize::new(holders).unwrap())
    }

    /// Large bodies of decreasing size fill the budget first.
    #[test]
    fn small_bodies_are_let_in_however_many_large_ones_there_are() {
        let budget = budget(256 << 20, 1024);
        let mut large = Vec::new();
        let mut bytes = 8 << 20;
        while bytes > 32 << 10 {
            while let Ok(held) = budget.hold(bytes) {
                large.push(held);
            }
            bytes /= 2;
        }
        assert!(large.len() < 1024);
        assert!(matches!(budget.hold(64 << 10), Err(Error::BodyMemoryFull { .. })));
        let small: Vec<HeldBytes> = (0..1024).map(|_| budget.hold(32 << 10).unwrap()).collect();
        assert!(budget.held() <= 256 << 20);
        drop(small);
    }

    #[test]
    fn what_is_held_anyway_counts_for_the_others() {
        let budget = budget(800, 1);
        let held = budget.hold_anyway(900);
        assert!(budget.hold(1).is_err() && budget.check(1).is_err());
        drop(held);
        assert!(budget.check(350).is_ok() && budget.check(351).is_err());
    }

    proptest! {
        #[test]
        fn no_more_is_held_than_the_limit_and_all_is_given_back(
            limit in 0usize..10_000, sizes in prop::collection::vec(0usize..4_000, 0..40)
        ) {
            let budget = budget(limit, 3);
            let mut all = Vec::new();
            for (index, size) in sizes.into_iter().enumerate() {
                let mut held = budget.nothing();
                // In two steps, like an arriving body.
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
