//! A number of threads in the configuration, or `"auto"`.

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

/// A number of threads: configured, or chosen from the number of cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// A number that is chosen from the number of cores.
    Auto,
    /// The configured number.
    Fixed(NonZeroUsize),
}

impl Count {
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

impl Serialize for Count {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Count::Auto => serializer.serialize_str("auto"),
            Count::Fixed(count) => count.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Count;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"auto\" or a whole number from 1 to 1024")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Count, E> {
                if text == "auto" {
                    Ok(Count::Auto)
                } else {
                    Err(E::invalid_value(serde::de::Unexpected::Str(text), &self))
                }
            }

            fn visit_u64<E: serde::de::Error>(self, count: u64) -> Result<Count, E> {
                usize::try_from(count)
                    .ok()
                    .filter(|&count| count <= 1024)
                    .and_then(NonZeroUsize::new)
                    .map(Count::Fixed)
                    .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Unsigned(count), &self))
            }

            fn visit_i64<E: serde::de::Error>(self, count: i64) -> Result<Count, E> {
                u64::try_from(count)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(count), &self))
                    .and_then(|count| self.visit_u64(count))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}
