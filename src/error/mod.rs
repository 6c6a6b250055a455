//! Errors, divided by the people who may see them.
//!
//! | type | who sees it | file |
//! |---|---|---|
//! | [`Error`] | any caller of the data listener | `request_error.rs` |
//! | [`OperatorError`] | operators, on the admin listener; their requests may also fail with an [`Error`] | `operator_error.rs` |
//! | [`SetupError`] | the person who starts a server or adds a version; never sent to anybody | `setup_error.rs` |
//!
//! A variant declares everything in one place: its message (`Display`, for the person who can fix the problem), its
//! title, its code (its own name, in metrics and problems), and its [`ErrorKind`]. Everything that a protocol needs
//! follows from the kind. The tables from kinds to statuses belong to the protocols, as in `http/error_response.rs`;
//! this module does not depend on them.

#![warn(missing_docs)]

mod error_kind;
mod operator_error;
mod request_error;
mod setup_error;

pub use self::error_kind::{ErrorKind, Fault};
pub use self::operator_error::OperatorError;
pub use self::request_error::{Error, ProcessEnd, Shed};
pub use self::setup_error::{LoadFault, SetupError};

/// The crate's `Result`, with [`Error`] as the default type of the error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Returns true if an error is about a lack of memory.
pub fn is_about_memory(message: &str) -> bool {
    let message = message.to_lowercase();
    ["bad_alloc", "failed to allocate", "out of memory", "signal 6"].iter().any(|word| message.contains(word))
}
