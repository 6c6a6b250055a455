//! The refusal of a version: the kind of the problem, and a message that says what to change.

use crate::error::is_about_memory;
use crate::error::{LoadFault, SetupError};
use crate::identity::{ModelName, Version, cut_off};

/// Maximum length of the message of a refusal, in characters. Longer messages may quote a file, and are cut off.
const MAX_MESSAGE: usize = 2_000;

/// The refusal of a version, or of files that were to become one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("{message}")]
pub struct Refusal {
    /// Kind of the problem.
    pub fault: LoadFault,
    /// The problem, and its remedy.
    pub message: String,
}

impl Refusal {
    /// Creates a refusal of this kind. A long message is cut off.
    pub fn new(fault: LoadFault, message: impl Into<String>) -> Refusal {
        Refusal { fault, message: cut_off(message.into(), MAX_MESSAGE) }
    }

    /// Converts an error of another module to a refusal of this kind, or of [`LoadFault::Config`] if it is about a
    /// setting.
    pub fn of<E: Into<SetupError>>(fault: LoadFault) -> impl FnOnce(E) -> Refusal {
        move |error| match error.into() {
            SetupError::Config(message) => Refusal::new(LoadFault::Config, message),
            other => Refusal::new(fault, other.to_string()),
        }
    }

    /// Changes the fault to [`LoadFault::Resources`] if the machine ran out of memory. A lack of memory under the limit
    /// of a trial keeps its fault.
    pub fn transient_if_about_memory(self) -> Refusal {
        let is_transient = self.fault != LoadFault::Trial && is_about_memory(&self.message);
        Refusal { fault: if is_transient { LoadFault::Resources } else { self.fault }, ..self }
    }

    /// Converts an error of the operating system to a refusal of this kind, or of [`LoadFault::Resources`] if a
    /// resource of the system ran out.
    pub fn of_io(fault: LoadFault, what: &str, error: &std::io::Error) -> Refusal {
        use std::io::ErrorKind::{OutOfMemory, WouldBlock};
        /// `ENFILE` and `EMFILE`: too many open files.
        const TOO_MANY_FILES: [i32; 2] = [23, 24];
        let is_full = error.raw_os_error().is_some_and(|number| TOO_MANY_FILES.contains(&number));
        let is_transient = is_full || matches!(error.kind(), OutOfMemory | WouldBlock);
        Refusal::new(if is_transient { LoadFault::Resources } else { fault }, format!("{what}: {error}"))
    }

    /// Returns the refusal as an error about this version.
    pub fn about(self, model: &ModelName, version: Version) -> SetupError {
        SetupError::Load { model: model.clone(), version, fault: self.fault, message: self.message }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn what_the_system_has_none_left_of_is_a_passing_fault() {
        let fault = |error: io::Error| Refusal::of_io(LoadFault::Files, "model.onnx", &error).fault;
        // EMFILE, ENFILE, ENOMEM, EAGAIN.
        for errno in [24, 23, 12, 11] {
            assert_eq!(fault(io::Error::from_raw_os_error(errno)), LoadFault::Resources, "{errno}");
        }
        // ENOENT, EACCES.
        for errno in [2, 13] {
            assert_eq!(fault(io::Error::from_raw_os_error(errno)), LoadFault::Files, "{errno}");
        }
        assert_eq!(fault(io::Error::other("larger than 9 bytes")), LoadFault::Files);
    }

    #[test]
    fn memory_that_ran_out_outside_the_trial_is_a_passing_fault() {
        let fault = |fault, message| Refusal::new(fault, message).transient_if_about_memory().fault;
        assert_eq!(fault(LoadFault::Model, "Failed to allocate 4096 bytes"), LoadFault::Resources);
        assert_eq!(fault(LoadFault::Trial, "std::bad_alloc"), LoadFault::Trial);
        assert_eq!(fault(LoadFault::Model, "no such operator"), LoadFault::Model);
    }
}
