//! Measurements: numbers from the environment, quantiles, and work done in turn or concurrently.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

/// Returns a number from an environment variable.
pub fn number_from(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |value| value.parse().expect(variable))
}

/// Returns the value below which this share of all values lies.
pub fn quantile(values: impl IntoIterator<Item = f64>, share: f64) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get((values.len() as f64 * share) as usize).or(values.last()).copied().unwrap_or(f64::NAN)
}

/// Returns the median.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    quantile(values, 0.5)
}

/// Median, minimum and maximum of several values: `1.02 (0.98 to 1.10)`, with the precision of the format.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    /// The spread of these values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let values: Vec<f64> = values.into_iter().collect();
        Spread {
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            most: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            median: median(values),
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Spread { median, least, most }, digits) = (self, f.precision().unwrap_or(2));
        write!(f, "{median:.digits$} ({least:.digits$} to {most:.digits$})")
    }
}

/// Measures two things `rounds` times. The order changes from round to round, so that a drift of the machine's speed
/// favours neither.
pub fn in_turn<A, B>(rounds: usize, mut one: impl FnMut() -> A, mut other: impl FnMut() -> B) -> Vec<(A, B)> {
    let mut measured = Vec::with_capacity(rounds);
    for round in 0..rounds {
        if round % 2 == 0 {
            let first = one();
            measured.push((first, other()));
        } else {
            let first = other();
            measured.push((one(), first));
        }
    }
    measured
}

/// Runs `work` and meanwhile `helper`, whose flag is set when the work is done or has failed. Returns both results.
pub fn meanwhile<T, U: Send>(helper: impl FnOnce(&AtomicBool) -> U + Send, work: impl FnOnce() -> T) -> (T, U) {
    struct Told<'a>(&'a AtomicBool);
    impl Drop for Told<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let helper = scope.spawn(|| helper(&over));
        let done = {
            let _told = Told(&over);
            work()
        };
        (done, helper.join().expect("the helper"))
    })
}
