//! Duration of a run by its number of rows, learned from earlier runs. Pure: no clock, no lock, no I/O.
//!
//! For rows that differ in length, a "row" here is a token of a padded text, or an element of the inputs: a run of one long
//! row takes as long as one of many short ones.
//!
//! The time of a run is modelled as a line, `S(n) = a·n + b`: a cost per row and a cost per run. Two such lines are
//! kept: the *typical* time, and the *tail*, which about one run in seven exceeds. Runs are grouped by the size of
//! their batch, in classes of powers of two, and the last seven runs of each class are kept. The median of a class is
//! not moved by a slow first run or a hiccup, and follows within four runs if the machine becomes slower. A line goes
//! through the class of the last run, which shows the current speed. Its slope fits the other classes by least squares,
//! where a class without recent runs has little weight.

use std::time::Duration;

/// Number of remembered runs of a class.
const RECENT: usize = 7;

/// Number of classes of batch sizes: 1, 2, 3–4, 5–8, … up to 2³¹ rows.
pub(super) const CLASSES: usize = 32;

/// Number of other runs after which the weight of a class is halved.
const HALF_LIFE: f64 = 64.0;

/// Maximum predicted duration of a run, so that sums of durations do not overflow.
const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);

/// Learned duration of the runs of a model, by their number of rows.
#[derive(Debug, Clone, Default)]
pub struct ServiceTime {
    classes: [Class; CLASSES],
    runs: u64,
    typical: Option<Line>,
    tail: Option<Line>,
}

/// Duration of a run as a time per row and a time per run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    /// Seconds per row.
    pub a: f64,
    /// Seconds per run.
    pub b: f64,
}

/// The last runs of a class of sizes.
#[derive(Debug, Clone, Default)]
struct Class {
    /// Rows and seconds of the last runs; the newest overwrites the oldest.
    recent: [(f64, f64); RECENT],
    seen: u64,
    last_run: u64,
    rows: f64,
    typical: f64,
    tail: f64,
}

impl ServiceTime {
    /// Learns from a run that was completed.
    ///
    /// ```
    /// use std::time::Duration;
    /// use leeway::model::ServiceTime;
    /// let mut service = ServiceTime::default();
    /// let ms = Duration::from_millis;
    /// service.observe(1, ms(800)); // the first run is slow
    /// for _ in 0..3 {
    ///     service.observe(1, ms(3));
    ///     service.observe(32, ms(10));
    /// }
    /// assert_eq!(service.typical(1).unwrap().as_millis(), 3);
    /// assert_eq!(service.tail(32).unwrap().as_millis(), 10);
    /// assert!(service.typical(16).unwrap() < ms(7));
    /// ```
    pub fn observe(&mut self, rows: usize, took: Duration) {
        self.runs += 1;
        self.classes[class_of(rows)].observe(rows as f64, took.as_secs_f64(), self.runs);
        let now = &self.classes[class_of(rows)];
        let lines = (self.fit(now, |class| class.typical), self.fit(now, |class| class.tail));
        (self.typical, self.tail) = (Some(lines.0), Some(lines.1));
    }

    /// Learns from a run of several rows that was ended early because no request waited for it any more. The whole run
    /// would have taken longer than `after`; smaller runs may still be in time. Returns true if `after` is longer than
    /// the known tail.
    pub fn observe_ended(&mut self, rows: usize, after: Duration) -> bool {
        let is_news = self.tail(rows).is_none_or(|tail| after > tail);
        if is_news {
            self.observe(rows, after);
        }
        is_news
    }

    /// Typical duration of a run of this many rows; `None` before the first run.
    pub fn typical(&self, rows: usize) -> Option<Duration> {
        self.typical.map(|line| line.at(rows))
    }

    /// Duration of a slow run of this many rows.
    pub fn tail(&self, rows: usize) -> Option<Duration> {
        self.tail.map(|line| line.at(rows))
    }

    /// Returns the size of the smallest runs that were observed.
    pub fn smallest_run(&self) -> Option<usize> {
        self.classes.iter().find(|class| class.seen > 0).map(|class| class.rows as usize)
    }

    /// Returns the line of the typical duration of a run.
    pub fn typical_line(&self) -> Option<Line> {
        self.typical
    }

    /// Returns the line of the duration of a slow run.
    pub fn tail_line(&self) -> Option<Line> {
        self.tail
    }

    fn fit(&self, now: &Class, seconds: impl Fn(&Class) -> f64) -> Line {
        let point = |class: &Class| {
            // The age is limited, because an old class is still better than none.
            let age = ((self.runs - class.last_run) as f64).min(30.0 * HALF_LIFE);
            let weight = (-age / HALF_LIFE).exp2();
            ((class.rows, seconds(class)), weight)
        };
        let others = self.classes.iter().filter(|class| class.seen > 0 && class.last_run < self.runs);
        Line::through(point(now).0, others.map(point))
    }
}

/// Returns the class of a run of this many rows. A class has runs of similar size.
pub(super) fn class_of(rows: usize) -> usize {
    (usize::BITS - rows.saturating_sub(1).leading_zeros()).min(CLASSES as u32 - 1) as usize
}

impl Class {
    fn observe(&mut self, rows: f64, seconds: f64, run: u64) {
        self.recent[(self.seen % RECENT as u64) as usize] = (rows, seconds);
        self.seen += 1;
        self.last_run = run;
        let known = &self.recent[..RECENT.min(self.seen as usize)];
        let mut times = [0.0; RECENT];
        let times = &mut times[..known.len()];
        times.iter_mut().zip(known).for_each(|(time, (_, seconds))| *time = *seconds);
        times.sort_unstable_by(f64::total_cmp);
        self.rows = known.iter().map(|(rows, _)| rows).sum::<f64>() / known.len() as f64;
        self.typical = times[(times.len() - 1) / 2];
        // The tail is the second slowest run. Of one or two runs, it is the fastest, because the first run may have
        // been slow for other reasons.
        self.tail = times[times.len().saturating_sub(2)];
    }
}

impl Line {
    /// The line through the point `(x₀, y₀)` with the slope `a` for which `Σ w·(y₀ + a·(x − x₀) − y)²` over the other
    /// points is least, that is `a = Σ w·(x − x₀)·(y − y₀) / Σ w·(x − x₀)²`, limited so that neither `a` nor `b` is
    /// negative. Without other points, the line goes through the origin, as if every row cost the same.
    fn through((x0, y0): (f64, f64), others: impl Iterator<Item = ((f64, f64), f64)>) -> Line {
        let (mut xy, mut xx) = (0.0, 0.0);
        for ((x, y), weight) in others {
            xy += weight * (x - x0) * (y - y0);
            xx += weight * (x - x0).powi(2);
        }
        let from_nothing = y0 / x0;
        let a = if xx > 0.0 { (xy / xx).clamp(0.0, from_nothing) } else { from_nothing };
        // The difference may be a little below 0 by rounding.
        Line { a, b: (y0 - a * x0).max(0.0) }
    }

    /// Duration of a run of this many rows.
    pub fn at(self, rows: usize) -> Duration {
        let seconds = self.a * rows as f64 + self.b;
        Duration::try_from_secs_f64(seconds).map_or(MAX_DURATION, |time| time.min(MAX_DURATION))
    }

    /// Maximum number of rows of a run that takes no longer than `time`; 0 if even a run without rows takes longer.
    ///
    /// ```
    /// use std::time::Duration;
    /// use leeway::model::Line;
    /// let line = Line { a: 0.001, b: 0.010 };
    /// assert_eq!(line.rows_within(Duration::from_millis(15)), 5);
    /// assert_eq!(line.rows_within(Duration::from_millis(9)), 0);
    /// assert_eq!(Line { a: 0.0, b: 0.010 }.rows_within(Duration::from_millis(15)), usize::MAX);
    /// ```
    pub fn rows_within(self, time: Duration) -> usize {
        let for_rows = time.as_secs_f64() - self.b;
        if for_rows < 0.0 {
            0
        } else if self.a <= 0.0 {
            usize::MAX
        } else {
            // Rounding must not exclude a row that fits exactly.
            (for_rows / self.a + 1e-9) as usize
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(a_us: f64, b_us: f64) -> impl Fn(usize) -> Duration {
        move |rows| Duration::from_secs_f64((a_us * rows as f64 + b_us) / 1e6)
    }

    fn learn(service: &mut ServiceTime, truth: impl Fn(usize) -> Duration, rows: &[usize]) {
        rows.iter().for_each(|&rows| service.observe(rows, truth(rows)));
    }

    /// Returns true if `found` is within `tolerance` of the truth.
    fn near(found: Option<Duration>, truth: Duration, tolerance: f64) -> bool {
        let ratio = found.unwrap().as_secs_f64() / truth.as_secs_f64();
        (1.0 - tolerance..1.0 + tolerance).contains(&ratio)
    }

    #[test]
    fn nothing_is_known_before_the_first_run() {
        assert_eq!(ServiceTime::default().typical(1), None);
    }

    #[test]
    fn a_model_that_has_become_slower_is_followed_at_once() {
        let mut service = ServiceTime::default();
        let (before, after) = (line(250.0, 2000.0), line(750.0, 6000.0));
        (0..200).for_each(|_| learn(&mut service, &before, &[1, 32]));
        learn(&mut service, &after, &[32, 32]);
        assert!(near(service.tail(32), after(32), 0.05));
        learn(&mut service, &after, &[32, 32]);
        assert!(near(service.typical(32), after(32), 0.05));
        // The durations return to their earlier values.
        learn(&mut service, &before, &[32; 7]);
        assert!(near(service.tail(32), before(32), 0.05));
    }

    /// y₀ − (y₀ / x₀) · x₀ is not exactly 0, and no run takes less than no time.
    #[test]
    fn a_line_through_one_point_begins_at_no_time() {
        for (rows, us) in (1..200).flat_map(|rows| (1..200).map(move |us| (rows, us))) {
            let line = Line::through((f64::from(rows), f64::from(us) / 1e6), std::iter::empty());
            assert!(line.b >= 0.0 && line.b < 1e-12, "{rows} rows, {us} us: {line:?}");
        }
    }

    #[test]
    fn a_hiccup_changes_nothing() {
        let mut service = ServiceTime::default();
        let truth = line(250.0, 2000.0);
        (0..9).for_each(|_| learn(&mut service, &truth, &[1, 4, 32]));
        service.observe(32, Duration::from_secs(5));
        assert!(near(service.tail(32), truth(32), 0.01));
        assert!(near(service.typical(1), truth(1), 0.01));
    }

    #[test]
    fn one_size_alone_says_that_rows_cost() {
        let mut service = ServiceTime::default();
        service.observe(1, Duration::from_millis(10));
        assert_eq!(service.typical(8).unwrap().as_millis(), 80);
    }

    proptest! {
        #[test]
        fn a_line_is_found_whatever_the_sizes(
            a in 0.1f64..5000.0, b in 0.1f64..50_000.0, rows in prop::collection::vec(1usize..4096, 2..60),
        ) {
            let truth = line(a, b);
            let mut service = ServiceTime::default();
            learn(&mut service, &truth, &rows);
            prop_assume!(rows.iter().any(|&n| class_of(n) != class_of(rows[0])));
            // A class is a range of sizes with one median, so the result is near, but not exact.
            let largest = *rows.iter().max().unwrap();
            prop_assert!(near(service.typical(largest), truth(largest), 0.5));
        }

        #[test]
        fn more_rows_never_take_less(times in prop::collection::vec((1usize..70_000, 0u64..10_000_000), 1..80)) {
            let mut service = ServiceTime::default();
            times.iter().for_each(|&(rows, us)| service.observe(rows, Duration::from_micros(us)));
            for rows in [1, 2, 31, 32, 1000] {
                prop_assert!(service.typical(rows) <= service.typical(rows + 1));
                prop_assert!(service.tail(rows) <= service.tail(rows + 1));
            }
        }

        #[test]
        fn rows_within_is_the_inverse(a in 1e-6f64..1e-2, b in 0.0f64..0.1, rows in 1usize..5000) {
            let line = Line { a, b };
            let within = line.rows_within(Duration::from_secs_f64(a * rows as f64 + b + 1e-9));
            prop_assert!(within == rows || within == rows + 1 && a < 2e-6);
        }
    }
}
