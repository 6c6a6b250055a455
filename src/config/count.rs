//! A number in the configuration, of threads or rows, or `"auto"`.

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

/// A number of threads or rows, at most `MAX`: configured, or chosen by Leeway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count<const MAX: usize = 1024> {
    /// A number that Leeway chooses.
    Auto,
    /// The configured number.
    Fixed(NonZeroUsize),
}

impl<const MAX: usize> Count<MAX> {
    /// Returns the configured number, or the argument `auto` for [`Count::Auto`].
    ///
    /// ```
    /// use leeway::config::Count;
    /// let count: Count = serde_json::from_str("\"auto\"").unwrap();
    /// assert_eq!(count.or(std::num::NonZeroUsize::MIN).get(), 1);
    /// let count: Count = serde_json::from_str("3").unwrap();
    /// assert_eq!(count.or(std::num::NonZeroUsize::MIN).get(), 3);
    /// ```
    pub fn or(self, auto: NonZeroUsize) -> NonZeroUsize {
        match self {
            Count::Auto => auto,
            Count::Fixed(count) => count,
        }
    }
}

/// Returns the number of cores that this process may use, by its affinity and its cgroup quota.
pub fn available_cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Converts a constant that is not 0 to a [`NonZeroUsize`].
pub(super) fn non_zero(count: usize) -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(count - 1)
}

impl<const MAX: usize> Serialize for Count<MAX> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Count::Auto => serializer.serialize_str("auto"),
            Count::Fixed(count) => count.serialize(serializer),
        }
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Count<MAX> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<const MAX: usize>;

        impl<const MAX: usize> serde::de::Visitor<'_> for Visitor<MAX> {
            type Value = Count<MAX>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "\"auto\" or a whole number from 1 to {MAX}")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Count<MAX>, E> {
                if text == "auto" {
                    Ok(Count::Auto)
                } else {
                    Err(E::invalid_value(serde::de::Unexpected::Str(text), &self))
                }
            }

            fn visit_u64<E: serde::de::Error>(self, count: u64) -> Result<Count<MAX>, E> {
                usize::try_from(count)
                    .ok()
                    .filter(|&count| count <= MAX)
                    .and_then(NonZeroUsize::new)
                    .map(Count::Fixed)
                    .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Unsigned(count), &self))
            }

            fn visit_i64<E: serde::de::Error>(self, count: i64) -> Result<Count<MAX>, E> {
                u64::try_from(count)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(count), &self))
                    .and_then(|count| self.visit_u64(count))
            }
        }

        deserializer.deserialize_any(Visitor::<MAX>)
    }
}
