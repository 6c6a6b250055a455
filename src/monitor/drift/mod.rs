//! Drift: a window of requests compared with the training data. Pure maths over counts per bin.
//!
//! A feature is compared in two ways, because they call for different actions:
//!
//! - The *distribution* of the values that can be compared ([`Drift`], in `distribution.rs`, and `ordered.rs` for
//!   numbers): PSI, KL and other distances, and the probability of such a difference by chance.
//! - The *shares* of the values that cannot ([`ShareDrift`], in `shares.rs`): missing, unknown, and below or above every
//!   value of the training data. Each share has a test of its own, so its verdict does not depend on the size of the
//!   baseline.
//!
//! `reference.rs` compares a feature with its training data, `by_hour.rs` with what is usual at the time of day, and
//! `dependence.rs` estimates how many of a window's values are independent of each other.
//! `judge.rs` turns the comparisons of all features of a model into verdicts, with one rate of false alarms for the
//! model.

mod by_hour;
mod dependence;
mod distribution;
mod judge;
mod ordered;
mod reference;
mod shares;
mod status;

pub use self::by_hour::{CountsByHour, MIN_SLOT_VALUES, SliceAtHours};
pub(super) use self::dependence::dispersion;
pub use self::dependence::{WindowCounts, independent_share, independent_share_at_hours};
pub use self::distribution::Drift;
pub(super) use self::distribution::smoothed;
pub use self::judge::{FALSE_ALARM_RATE, MIN_INDEPENDENT, MIN_VALUES, judge};
pub use self::ordered::{BinPositions, BinSummary};
pub use self::reference::{BinRole, Comparison, Reference};
pub use self::shares::{Share, ShareDrift};
pub use self::status::DriftStatus;
pub(super) use self::status::number_or_null;
