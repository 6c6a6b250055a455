//! The architecture of the source, held by tests: a new arrow between rooms, a circle between files or a sentence in an
//! idiom of our own fails here, so that it is a decision and not an accident.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod circles;
mod language;
mod metrics;
mod sizes;
mod sources;
mod walls;
