//! Counters without contention between threads.
//!
//! Every thread writes to a shard of its own with a plain load and store, and a reader sums the shards.
//! Cells are 64-bit and wrap, so that a gauge may rise on one thread and fall on another.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_utils::CachePadded;
use parking_lot::Mutex;

use super::cells::{BLOCK, Counter, Histogram, HistogramCounts};

/// Maximum number of threads that own a shard at one time. Further threads write to one shared, slower shard.
const SLOTS: usize = 64;

type Cells = Box<[CachePadded<[AtomicU64; BLOCK]>]>;

/// A fixed number of counter cells, with a copy for each thread that writes to them.
#[derive(Debug)]
pub(super) struct Shards {
    cells: usize,
    owned: Box<[OnceLock<Cells>]>,
    shared: Cells,
}

/// The copy of the cells that one thread writes to.
#[derive(Debug)]
pub(super) struct LocalShard<'a> {
    cells: &'a Cells,
    owner: Owner,
}

/// A value for each thread, which other threads may read, too. Each value has a lock, which costs almost nothing
/// without contention.
#[derive(Debug)]
pub(super) struct PerThread<T> {
    owned: Box<[OnceLock<CachePadded<Mutex<T>>>]>,
    shared: Mutex<T>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    ThisThread,
    Many,
}

impl Shards {
    pub(super) fn new(cells: usize) -> Shards {
        Shards { cells, owned: (0..SLOTS).map(|_| OnceLock::new()).collect(), shared: allocate(cells) }
    }

    /// Returns the copy of the cells that this thread writes to.
    pub(super) fn local(&self) -> LocalShard<'_> {
        match own_slot() {
            Some(slot) => {
                LocalShard { cells: self.owned[slot].get_or_init(|| allocate(self.cells)), owner: Owner::ThisThread }
            }
            None => self.common(),
        }
    }

    /// Returns the shared copy of the cells, which any thread may write to. Using it allocates no memory.
    pub(super) fn common(&self) -> LocalShard<'_> {
        LocalShard { cells: &self.shared, owner: Owner::Many }
    }

    /// Number of cells.
    pub(super) fn len(&self) -> usize {
        self.cells
    }

    /// Returns the sums of a range of cells over all threads. Reads shard by shard, in memory order.
    pub(super) fn sums_of(&self, cells: Range<usize>) -> Vec<u64> {
        let mut sums = vec![0u64; cells.len()];
        for shard in self.owned.iter().filter_map(OnceLock::get).chain([&self.shared]) {
            for (sum, cell) in sums.iter_mut().zip(cells.clone()) {
                *sum = sum.wrapping_add(shard[cell / BLOCK][cell % BLOCK].load(Relaxed));
            }
        }
        sums
    }

    /// Returns the sums of all cells, in order.
    pub(super) fn sums(&self) -> Vec<u64> {
        self.sums_of(0..self.cells)
    }

    /// Returns the counts of a histogram over all threads.
    pub(super) fn histogram<'a>(&self, histogram: Histogram<'a>) -> HistogramCounts<'a> {
        let mut counts = self.sums_of(histogram.range());
        let sum = counts.pop().unwrap_or_default();
        HistogramCounts { buckets: histogram.buckets(), counts, sum }
    }

    /// Returns the sum of a counter over all threads.
    pub(super) fn sum(&self, counter: Counter) -> u64 {
        let cell = counter.cell();
        self.owned
            .iter()
            .filter_map(OnceLock::get)
            .chain([&self.shared])
            .fold(0, |sum, cells| sum.wrapping_add(cells[cell / BLOCK][cell % BLOCK].load(Relaxed)))
    }
}

impl LocalShard<'_> {
    /// Adds an amount to a counter, which wraps.
    #[inline]
    pub(super) fn add(&self, counter: Counter, amount: u64) {
        let cell = counter.cell();
        self.add_to(&self.cells[cell / BLOCK][cell % BLOCK], amount);
    }

    /// Adds a value to a histogram whose edges and sum have the same unit.
    #[inline]
    pub(super) fn observe(&self, histogram: Histogram<'_>, value: u64) {
        self.observe_with_sum(histogram, value, value);
    }

    /// Adds a value to a histogram: `value` in the unit of its edges, `amount` in that of its sum.
    #[inline]
    pub(super) fn observe_with_sum(&self, histogram: Histogram<'_>, value: u64, amount: u64) {
        self.add(histogram.bucket_of(value), 1);
        self.add(histogram.sum(), amount);
    }

    #[inline]
    fn add_to(&self, cell: &AtomicU64, amount: u64) {
        match self.owner {
            // No other thread writes here, so an update cannot be lost between load and store.
            Owner::ThisThread => cell.store(cell.load(Relaxed).wrapping_add(amount), Relaxed),
            Owner::Many => {
                cell.fetch_add(amount, Relaxed);
            }
        }
    }
}

impl<T: Default> PerThread<T> {
    pub(super) fn new() -> PerThread<T> {
        PerThread { owned: (0..SLOTS).map(|_| OnceLock::new()).collect(), shared: Mutex::default() }
    }

    /// The value of this thread.
    pub(super) fn own(&self) -> &Mutex<T> {
        own_slot().map_or(&self.shared, |slot| self.owned[slot].get_or_init(CachePadded::default))
    }

    /// The values of all threads.
    pub(super) fn all(&self) -> impl Iterator<Item = &Mutex<T>> {
        self.owned.iter().filter_map(OnceLock::get).map(|own| &**own).chain([&self.shared])
    }
}

fn allocate(cells: usize) -> Cells {
    (0..cells.div_ceil(BLOCK)).map(|_| CachePadded::new(Default::default())).collect()
}

// ===== which thread owns which slot =====

/// Free slots: the slots of threads that have ended, and all slots from the first one that was never used.
struct FreeSlots {
    returned: Vec<usize>,
    next: usize,
}

static FREE_SLOTS: Mutex<FreeSlots> = Mutex::new(FreeSlots { returned: Vec::new(), next: 0 });

thread_local! {
    static SLOT: Slot = Slot::claim();
}

/// Returns the slot of this thread, the index of its shards; `None` if all slots are taken, or if this thread is ending
/// and has given its slot back.
fn own_slot() -> Option<usize> {
    SLOT.try_with(|slot| slot.0).unwrap_or(None)
}

/// Slot of a thread: the index of its shards. The slot is given back when the thread ends, but the counts of the thread
/// stay in the sums. The lock of the free slots orders the thread's last write before the first write of the next
/// owner.
struct Slot(Option<usize>);

impl Slot {
    fn claim() -> Slot {
        let mut free = FREE_SLOTS.lock();
        let slot = free.returned.pop().or_else(|| {
            let fresh = (free.next < SLOTS).then_some(free.next);
            free.next += usize::from(fresh.is_some());
            fresh
        });
        Slot(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        FREE_SLOTS.lock().returned.extend(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::cells::Layout;

    #[test]
    fn nothing_is_lost_by_more_threads_than_slots() {
        let mut layout = Layout::new();
        let counters = layout.counters(20);
        let shards = Shards::new(layout.cells());
        std::thread::scope(|scope| {
            for _ in 0..2 * SLOTS {
                scope.spawn(|| (0..1000).for_each(|_| shards.local().add(counters.at(17), 1)));
            }
        });
        assert_eq!(shards.sum(counters.at(17)), 2000 * SLOTS as u64);
        assert_eq!(shards.sum(counters.at(16)), 0);
        assert_eq!(shards.sums_of(15..19), [0, 0, 2000 * SLOTS as u64, 0]);
    }

    #[test]
    fn a_gauge_may_rise_and_fall_on_different_threads() {
        let gauge = Layout::new().counter();
        let shards = Shards::new(1);
        shards.local().add(gauge, 3);
        std::thread::scope(|scope| scope.spawn(|| shards.local().add(gauge, 1u64.wrapping_neg())).join().unwrap());
        assert_eq!(shards.sum(gauge), 2);
    }
}
