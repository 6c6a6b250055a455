//! The declaration of a metric: its name, kind, labels and help text, and the reading of its series.
//!
//! A metric is declared once, in the file that counts it, as a [`Family`]. `exposition.rs` has the lists of all files,
//! in the order of `/metrics`.
//!
//! - A metric that is read from a source is an element of a list: `gauge(name, labels, help, |source, series| …)`.
//! - A metric that is counted in cells is declared through [`Declarations`], which returns its handle.
//!
//! Durations are in seconds, the names of counters end in `_total`, and every label has a bounded set of values.
//! `docs/metrics.md` explains each metric; a test checks that it is complete.

use super::cells::{Buckets, Counter, CounterBy, Counters, Histogram, HistogramBy, Histograms, Layout};
use super::labels::Label;
use super::metric::{Kind, Metric};
use super::shards::Shards;
use super::text::Series;

/// A metric, and the way to read its series from a source, such as one version.
pub(super) struct Family<S: 'static> {
    metric: Metric,
    read: Read<S>,
}

/// Function that writes the series of a metric from its source.
type WriteSeries<S> = fn(&S, &mut Series<'_>);

/// Function that returns the counter cells of a source.
type CellsOf<S> = fn(&S) -> &Shards;

/// Function that returns the value of the last label for the series at an index.
type Name = fn(usize) -> &'static str;

/// Way to read the series of a metric: through a function, or directly from its cells.
enum Read<S: 'static> {
    Written(WriteSeries<S>),
    /// One series for each counter. Without names, the metric has only one series.
    Counters(CellsOf<S>, Counters, Option<Name>),
    /// One series for each histogram. Without names, the metric has only one series.
    Histograms(CellsOf<S>, Histograms, Option<Name>),
}

/// Declares the metrics that a source counts in cells, in the order of `/metrics`. Used at compile time.
pub(super) struct Declarations<S: 'static> {
    cells: CellsOf<S>,
    layout: Layout,
    families: [Family<S>; MAX_FAMILIES],
    count: usize,
}

/// Maximum number of metrics of one source. Exceeding it is a compile error.
const MAX_FAMILIES: usize = 32;

// ===== families that are read from a source =====

/// Declares a counter metric whose series are read from a source.
pub(super) const fn counter<S>(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    write: WriteSeries<S>,
) -> Family<S> {
    Family { metric: Metric { name, help, labels, kind: Kind::Counter }, read: Read::Written(write) }
}

/// Declares a gauge metric whose series are read from a source.
pub(super) const fn gauge<S>(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    write: WriteSeries<S>,
) -> Family<S> {
    Family { metric: Metric { name, help, labels, kind: Kind::Gauge }, read: Read::Written(write) }
}

/// Declares a histogram metric whose series are read from a source.
pub(super) const fn histogram<S>(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    write: WriteSeries<S>,
) -> Family<S> {
    Family { metric: Metric { name, help, labels, kind: Kind::Histogram }, read: Read::Written(write) }
}

/// Declares a summary metric whose series are read from a source.
pub(super) const fn summary<S>(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    write: WriteSeries<S>,
) -> Family<S> {
    Family { metric: Metric { name, help, labels, kind: Kind::Summary }, read: Read::Written(write) }
}

// ===== impl Declarations =====

impl<S: 'static> Declarations<S> {
    /// Creates an empty list of declarations; `cells` returns the counter cells of a source.
    pub(super) const fn new(cells: CellsOf<S>) -> Declarations<S> {
        let nothing = counter("", &[], "", |_, _| {});
        Declarations { cells, layout: Layout::new(), families: [nothing; MAX_FAMILIES], count: 0 }
    }

    /// Adds a metric whose series a function writes. Returns the layout, from which the caller takes the cells that the
    /// function reads.
    pub(super) const fn add(&mut self, family: Family<S>) -> &mut Layout {
        self.families[self.count] = family;
        self.count += 1;
        &mut self.layout
    }

    /// Returns the layout, for counters that are no metrics.
    pub(super) const fn without_metric(&mut self) -> &mut Layout {
        &mut self.layout
    }

    /// Declares a counter, and returns its handle.
    pub(super) const fn counter(
        &mut self,
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Counter {
        let counters = self.layout.counters(1);
        let read = Read::Counters(self.cells, counters, None);
        self.add(Family { metric: Metric { name, help, labels, kind: Kind::Counter }, read });
        counters.first()
    }

    /// Declares a counter for each value of `L`, which is the last label.
    pub(super) const fn counters_by<L: Label>(
        &mut self,
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> CounterBy<L> {
        let by = self.layout.counters_by();
        let read = Read::Counters(self.cells, by.counters(), Some(name_of::<L>));
        self.add(Family { metric: Metric { name, help, labels, kind: Kind::Counter }, read });
        by
    }

    /// Declares a histogram, and returns its handle.
    pub(super) const fn histogram(
        &mut self,
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
        buckets: Buckets<'static>,
    ) -> Histogram<'static> {
        let histograms = self.layout.histograms(1, buckets);
        let read = Read::Histograms(self.cells, histograms, None);
        self.add(Family { metric: Metric { name, help, labels, kind: Kind::Histogram }, read });
        histograms.first()
    }

    /// Declares a histogram for each value of `L`, which is the last label.
    pub(super) const fn histograms_by<L: Label>(
        &mut self,
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
        buckets: Buckets<'static>,
    ) -> HistogramBy<L> {
        let by = self.layout.histograms_by(buckets, buckets.edges.len());
        let read = Read::Histograms(self.cells, by.histograms(), Some(name_of::<L>));
        self.add(Family { metric: Metric { name, help, labels, kind: Kind::Histogram }, read });
        by
    }

    /// The layout of the cells of the metrics declared so far.
    pub(super) const fn layout(&self) -> Layout {
        self.layout
    }

    /// The declared metrics, in the order of declaration.
    pub(super) const fn families(&self) -> &[Family<S>] {
        self.families.split_at(self.count).0
    }
}

fn name_of<L: Label>(index: usize) -> &'static str {
    L::ALL[index].name()
}

// ===== impl Family =====

impl<S> Family<S> {
    pub(super) fn metric(&self) -> Metric {
        self.metric
    }

    /// Writes the series of this metric from a source.
    pub(super) fn write(&self, source: &S, series: &mut Series<'_>) {
        match self.read {
            Read::Written(write) => write(source, series),
            Read::Counters(cells, counters, name) => {
                for (index, sum) in cells(source).sums_of(counters.range()).into_iter().enumerate() {
                    series.value(name.map(|name| name(index)).as_slice(), sum);
                }
            }
            Read::Histograms(cells, histograms, name) => {
                for (index, histogram) in histograms.iter().enumerate() {
                    let counts = cells(source).histogram(histogram);
                    series.histogram(name.map(|name| name(index)).as_slice(), &counts);
                }
            }
        }
    }
}

impl<S> Clone for Family<S> {
    fn clone(&self) -> Family<S> {
        *self
    }
}

impl<S> Copy for Family<S> {}

impl<S> Clone for Read<S> {
    fn clone(&self) -> Read<S> {
        *self
    }
}

impl<S> Copy for Read<S> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::Stage;

    struct Source {
        cells: Shards,
        limit: u64,
    }

    const DECLARED: (Counter, CounterBy<Stage>, Histogram<'static>, Declarations<Source>) = {
        let mut all = Declarations::new(|source: &Source| &source.cells);
        let runs = all.counter("runs_total", &[], "Runs.");
        all.add(gauge("limit", &[], "The limit.", |source, series| series.value(&[], source.limit)));
        let late = all.counters_by("late_total", &["stage"], "Late requests.");
        let sizes = all.histogram("size", &[], "Sizes.", Buckets { edges: &[1, 10], edge_unit: 1.0, sum_unit: 1.0 });
        (runs, late, sizes, all)
    };

    #[test]
    fn what_is_declared_is_counted_and_written_in_its_order() {
        let (runs, late, sizes, all) = DECLARED;
        let source = Source { cells: Shards::new(all.layout().cells()), limit: 9 };
        let shard = source.cells.local();
        shard.add(runs, 2);
        shard.add(late.of(Stage::Queue), 1);
        shard.observe(sizes, 4);
        let mut text = String::new();
        for family in all.families() {
            family.write(&source, &mut Series::new(&mut text, family.metric()));
        }
        let series: Vec<&str> = text.lines().filter(|line| !line.starts_with("# HELP")).collect();
        let expected = "# TYPE runs_total counter\nruns_total 2\n# TYPE limit gauge\nlimit 9\n# TYPE late_total counter\n\
            late_total{stage=\"network\"} 0\nlate_total{stage=\"preprocess\"} 0\nlate_total{stage=\"queue\"} 1\n\
            late_total{stage=\"inference\"} 0\nlate_total{stage=\"postprocess\"} 0\n# TYPE size histogram\n\
            size_bucket{le=\"1\"} 0\nsize_bucket{le=\"10\"} 1\nsize_bucket{le=\"+Inf\"} 1\nsize_sum 4\nsize_count 1";
        assert_eq!(series.join("\n"), expected);
    }
}
