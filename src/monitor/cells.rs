//! Typed handles of counters and histograms: their cells in a set of [`Shards`](super::shards::Shards).
//!
//! A [`Layout`] hands out the cells. Metrics that every version has are laid out at compile time, so that recording
//! adds to a cell at a constant position and needs no lookup.

use std::marker::PhantomData;
use std::ops::Range;

use super::labels::Label;

/// Number of counter cells in one cache-padded block.
pub(super) const BLOCK: usize = 16;

/// Assigns cells to counters and histograms, in order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    cells: usize,
}

/// Handle of a counter, or of a gauge that rises and falls by addition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counter {
    cell: usize,
}

/// Handle of several counters with consecutive cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counters {
    first: usize,
    count: usize,
}

/// Handle of a group of counters, one for each value of a label.
#[derive(Debug, Clone, Copy)]
pub(super) struct CounterBy<L> {
    counters: Counters,
    label: PhantomData<L>,
}

/// Handle of a histogram: a counter for each bucket, and one for the sum of all values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Histogram<'a> {
    first: usize,
    buckets: Buckets<'a>,
}

/// Handle of several histograms with consecutive cells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Histograms {
    first: usize,
    /// Distance from the first cell of one histogram to that of the next, in cells.
    stride: usize,
    count: usize,
    buckets: Buckets<'static>,
}

/// Handle of a group of histograms, one for each value of a label.
#[derive(Debug, Clone, Copy)]
pub(super) struct HistogramBy<L> {
    histograms: Histograms,
    label: PhantomData<L>,
}

/// The buckets of a histogram. Values are whole numbers, in a unit fine enough to be exact.
#[derive(Debug, Clone, Copy)]
pub(super) struct Buckets<'a> {
    /// Inclusive upper bounds, ascending. A further bucket has all values above them.
    pub(super) edges: &'a [u64],
    /// Number of units of the edges in one base unit of the metric: 10⁶ for microseconds if the base unit is seconds.
    pub(super) edge_unit: f64,
    /// Number of units of the sum in one base unit of the metric.
    pub(super) sum_unit: f64,
}

/// The counts of the buckets of a histogram, summed over all threads.
#[derive(Debug)]
pub(super) struct HistogramCounts<'a> {
    pub(super) buckets: Buckets<'a>,
    /// A count for each edge, and one for all values above them.
    pub(super) counts: Vec<u64>,
    pub(super) sum: u64,
}

// ===== impl Layout =====

impl Layout {
    pub(super) const fn new() -> Layout {
        Layout { cells: 0 }
    }

    /// Number of cells that are assigned.
    pub(super) const fn cells(&self) -> usize {
        self.cells
    }

    /// Returns this layout, with its next cell at the start of a block.
    pub(super) const fn aligned(self) -> Layout {
        Layout { cells: self.cells.next_multiple_of(BLOCK) }
    }

    pub(super) const fn counter(&mut self) -> Counter {
        Counter { cell: self.take(1) }
    }

    pub(super) const fn counters(&mut self, count: usize) -> Counters {
        Counters { first: self.take(count), count }
    }

    /// Assigns a whole block of cells to counters.
    pub(super) const fn block(&mut self) -> Counters {
        *self = self.aligned();
        self.counters(BLOCK)
    }

    pub(super) const fn counters_by<L: Label>(&mut self) -> CounterBy<L> {
        CounterBy { counters: self.counters(L::ALL.len()), label: PhantomData }
    }

    pub(super) const fn histogram(&mut self, buckets: Buckets<'static>) -> Histogram<'static> {
        self.histograms(1, buckets).first()
    }

    pub(super) const fn histograms(&mut self, count: usize, buckets: Buckets<'static>) -> Histograms {
        self.spaced_histograms(count, buckets, buckets.edges.len())
    }

    /// Assigns cells to a histogram for each value of a label. Each histogram has enough cells for `max_edges` edges,
    /// so that its edges can be replaced later.
    pub(super) const fn histograms_by<L: Label>(
        &mut self,
        buckets: Buckets<'static>,
        max_edges: usize,
    ) -> HistogramBy<L> {
        HistogramBy { histograms: self.spaced_histograms(L::ALL.len(), buckets, max_edges), label: PhantomData }
    }

    const fn spaced_histograms(&mut self, count: usize, buckets: Buckets<'static>, max_edges: usize) -> Histograms {
        let stride = cells_of(max_edges);
        Histograms { first: self.take(count * stride), stride, count, buckets }
    }

    const fn take(&mut self, count: usize) -> usize {
        let first = self.cells;
        self.cells += count;
        first
    }
}

/// Number of cells of a histogram: one more bucket than edges, and the sum.
const fn cells_of(edges: usize) -> usize {
    edges + 2
}

// ===== impl handles =====

impl Counter {
    pub(super) fn cell(self) -> usize {
        self.cell
    }
}

impl Counters {
    pub(super) const fn first(self) -> Counter {
        Counter { cell: self.first }
    }

    #[inline]
    pub(super) fn at(self, index: usize) -> Counter {
        debug_assert!(index < self.count, "counter {index} of {}", self.count);
        Counter { cell: self.first + index }
    }

    /// Returns `count` of these counters, starting at `index`.
    #[inline]
    pub(super) fn part(self, index: usize, count: usize) -> Counters {
        debug_assert!(index + count <= self.count, "counters {index} to {} of {}", index + count, self.count);
        Counters { first: self.first + index, count }
    }

    /// Returns these counters and the counters that follow them: `times` as many as these in total.
    pub(super) fn repeated(self, times: usize) -> Counters {
        Counters { first: self.first, count: self.count * times }
    }

    /// Index of the block of the first counter.
    pub(super) fn block(self) -> usize {
        self.first / BLOCK
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Counter> + Clone {
        self.range().map(|cell| Counter { cell })
    }

    pub(super) fn range(self) -> Range<usize> {
        self.first..self.first + self.count
    }
}

impl<L: Label> CounterBy<L> {
    pub(super) const fn counters(self) -> Counters {
        self.counters
    }

    #[inline]
    pub(super) fn of(self, label: L) -> Counter {
        self.counters.at(label.index())
    }
}

impl<'a> Histogram<'a> {
    pub(super) fn buckets(self) -> Buckets<'a> {
        self.buckets
    }

    /// Returns the counter of the bucket that `value` is in.
    #[inline]
    pub(super) fn bucket_of(self, value: u64) -> Counter {
        Counter { cell: self.first + self.buckets.bucket_of(value) }
    }

    #[inline]
    pub(super) fn sum(self) -> Counter {
        Counter { cell: self.first + self.buckets.edges.len() + 1 }
    }

    pub(super) fn range(self) -> Range<usize> {
        self.first..self.first + cells_of(self.buckets.edges.len())
    }
}

impl Histograms {
    pub(super) const fn first(self) -> Histogram<'static> {
        Histogram { first: self.first, buckets: self.buckets }
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Histogram<'static>> {
        (0..self.count).map(move |index| self.at(index, self.buckets.edges))
    }

    #[inline]
    fn at<'a>(self, index: usize, edges: &'a [u64]) -> Histogram<'a> {
        debug_assert!(index < self.count, "histogram {index} of {}", self.count);
        debug_assert!(cells_of(edges.len()) <= self.stride, "{} edges are too many", edges.len());
        Histogram { first: self.first + self.stride * index, buckets: Buckets { edges, ..self.buckets } }
    }
}

impl<L: Label> HistogramBy<L> {
    pub(super) const fn histograms(self) -> Histograms {
        self.histograms
    }

    #[inline]
    pub(super) fn of(self, label: L) -> Histogram<'static> {
        self.histograms.at(label.index(), self.histograms.buckets.edges)
    }

    /// Returns the histogram of a label's value, with these edges.
    #[inline]
    pub(super) fn with_edges<'a>(self, label: L, edges: &'a [u64]) -> Histogram<'a> {
        self.histograms.at(label.index(), edges)
    }
}

impl Buckets<'_> {
    /// Returns the index of the bucket that `value` is in.
    #[inline]
    pub(super) fn bucket_of(&self, value: u64) -> usize {
        self.edges.partition_point(|&edge| edge < value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::Stage;

    const BUCKETS: Buckets<'static> = Buckets { edges: &[1, 2, 5], edge_unit: 1.0, sum_unit: 1.0 };

    /// Handles that are made at compile time have separate cells.
    #[test]
    fn every_handle_has_its_own_cells() {
        const HANDLES: (Counter, CounterBy<Stage>, HistogramBy<Stage>, Histogram<'static>, Counters, Layout) = {
            let mut layout = Layout::new();
            let (one, by_stage) = (layout.counter(), layout.counters_by());
            let histograms = layout.histograms_by(BUCKETS, 4);
            (one, by_stage, histograms, layout.histogram(BUCKETS), layout.block(), layout)
        };
        let (one, by_stage, histograms, histogram, block, layout) = HANDLES;
        let mut cells = vec![one.cell()];
        cells.extend(Stage::ALL.map(|stage| by_stage.of(stage).cell()));
        for stage in Stage::ALL {
            cells.extend(histograms.with_edges(stage, &[1, 2, 3, 4]).range());
        }
        cells.extend(histogram.range());
        assert!(cells.iter().copied().eq(0..41), "{cells:?}");
        // A block begins at a multiple of its size.
        assert_eq!((block.range(), block.block(), layout.cells()), (48..64, 3, 64));
    }

    #[test]
    fn a_value_is_in_the_first_bucket_whose_edge_it_does_not_exceed() {
        let found = [0, 1, 2, 3, 5, 6].map(|value| BUCKETS.bucket_of(value));
        assert_eq!(found, [0, 0, 1, 2, 2, 3]);
    }
}
