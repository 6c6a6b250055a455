//! Tests of the source's architecture: a new dependency between modules, a circular import or documentation that asks
//! instead of naming fails here, so that it is a decision and not an accident.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod boundaries;
mod circles;
mod language;
mod metrics;
mod sizes;
mod sources;
