//! A failed operation of an object store, in one line that has no credentials.

use std::error::Error;
use std::fmt;

use crate::identity::{cut_off, printable};

/// Maximum length of a description, in characters.
const MAX_LENGTH: usize = 500;

/// A failed operation of an object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoreProblem {
    pub(super) kind: ProblemKind,
    message: String,
}

/// Kind of a failed operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProblemKind {
    /// There is no such object.
    Missing,
    /// There is an object already that was to be created.
    Exists,
    /// The server cannot send a part of an object.
    NoRanges,
    /// The object is larger than what is read of it.
    TooLarge,
    /// Anything else.
    Other,
}

impl StoreProblem {
    pub(super) fn new(message: impl Into<String>) -> StoreProblem {
        StoreProblem { kind: ProblemKind::Other, message: message.into() }
    }

    /// A server that cannot send a part of an object.
    pub(super) fn without_ranges(message: String) -> StoreProblem {
        StoreProblem { kind: ProblemKind::NoRanges, message }
    }

    /// An object that is larger than what is read of it.
    pub(super) fn too_large(message: String) -> StoreProblem {
        StoreProblem { kind: ProblemKind::TooLarge, message }
    }

    /// Returns true if the store may be at fault, and not one object.
    pub(super) fn is_of_store(&self) -> bool {
        self.kind == ProblemKind::Other
    }

    /// Describes an error by its text and its first cause.
    pub(super) fn of(error: &object_store::Error) -> StoreProblem {
        let kind = match error {
            object_store::Error::NotFound { .. } => ProblemKind::Missing,
            object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => ProblemKind::Exists,
            object_store::Error::NotSupported { .. } => ProblemKind::NoRanges,
            // Some clients have no kind of their own for it.
            other if other.to_string().contains("non-partial response") => ProblemKind::NoRanges,
            _ => ProblemKind::Other,
        };
        let mut message = error.to_string();
        let mut cause: &dyn Error = error;
        while let Some(next) = cause.source() {
            cause = next;
        }
        let cause = cause.to_string();
        if !message.contains(&cause) {
            message = format!("{message}: {cause}");
        }
        let message = without_queries(message.trim_end());
        StoreProblem { kind, message: printable(&cut_off(message, MAX_LENGTH), usize::MAX).into_owned() }
    }
}

/// Removes the queries from the URLs in a text, because they may hold signatures.
fn without_queries(text: &str) -> String {
    let word = |word: &str| match word.split_once('?') {
        Some((url, query)) if url.contains("://") => {
            // The closing bracket or mark after the URL is kept.
            let end = query.rfind(|c: char| !matches!(c, ')' | '"' | ',' | ':')).map_or(0, |at| at + 1);
            format!("{url}{}", query.get(end..).unwrap_or_default())
        }
        _ => word.to_owned(),
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

impl fmt::Display for StoreProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_of_urls_are_not_shown() {
        let text = "error for url (https://a.example/c/b?sv=1&sig=secret) after 3 retries?";
        assert_eq!(without_queries(text), "error for url (https://a.example/c/b) after 3 retries?");
    }
}
