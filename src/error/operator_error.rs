//! Errors that operators see, on the admin listener.

use std::fmt;
use std::time::Duration;

use strum::{EnumMessage, IntoStaticStr, VariantNames};

use super::error_kind::ErrorKind;
use super::request_error::Error;
use super::setup_error::SetupError;

/// An error of the admin API. Its message may name settings, models, versions and their files.
#[derive(Debug, Clone, PartialEq, thiserror::Error, IntoStaticStr, VariantNames, EnumMessage)]
#[strum(serialize_all = "kebab-case")]
pub enum OperatorError {
    /// The change was decided on a state that is not the present one any more.
    #[error("{message}")]
    #[strum(message = "Deployment changed")]
    Conflict {
        /// The expected and the present generation.
        message: String,
        /// The present deployment of the model, as the admin API shows it.
        present: serde_json::Value,
    },
    /// The change is not one that can be made now. The message says what to do first.
    #[error("{0}")]
    #[strum(message = "Change refused")]
    ChangeRefused(String),
    /// The request lacks the token, or has another one.
    #[error("send the header Authorization: Bearer with the token that is configured as admin.token")]
    #[strum(message = "Unauthorized")]
    Unauthorized,
    /// The request looks as if a web page had made a browser send it.
    #[error("{0}")]
    #[strum(message = "Forbidden")]
    Forbidden(String),
    /// The change could not be made to last, and so was not made.
    #[error("nothing was changed, because the deployment journal could not be written: {0}")]
    #[strum(serialize = "journal-failed", message = "Change not recorded")]
    Journal(String),
    /// An error that any caller may see.
    #[error(transparent)]
    Request(#[from] Error),
}

/// Errors of a set-up name paths, so that operators of a running server get them as a defect, whose detail is logged.
impl From<SetupError> for OperatorError {
    fn from(error: SetupError) -> OperatorError {
        OperatorError::Request(error.of_a_request())
    }
}

impl OperatorError {
    /// A defect, with its description.
    pub fn internal(detail: impl fmt::Display) -> OperatorError {
        OperatorError::Request(Error::internal(detail))
    }

    /// Codes of all errors that are not an [`Error`].
    pub const CODES: &'static [&'static str] = OperatorError::VARIANTS.split_at(OperatorError::VARIANTS.len() - 1).0;

    /// Kind of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            OperatorError::Conflict { .. } => ErrorKind::Conflict,
            OperatorError::ChangeRefused(_) => ErrorKind::FailedPrecondition,
            OperatorError::Unauthorized => ErrorKind::Unauthenticated,
            OperatorError::Forbidden(_) => ErrorKind::PermissionDenied,
            OperatorError::Journal(_) => ErrorKind::Unavailable,
            OperatorError::Request(error) => error.kind(),
        }
    }

    /// A short, stable name: the last part of a problem's `type`, and a label of a metric.
    pub fn code(&self) -> &'static str {
        match self {
            OperatorError::Request(error) => error.code(),
            own => own.into(),
        }
    }

    /// Title that all errors of this code have.
    pub fn title(&self) -> &'static str {
        match self {
            OperatorError::Request(error) => error.title(),
            own => own.get_message().unwrap_or_default(),
        }
    }

    /// Time after which the same request may succeed, if that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            OperatorError::Request(error) => error.retry_after(),
            _ => None,
        }
    }

    /// The message for whoever runs the server: the detail, if there is one.
    pub fn for_operators(&self) -> String {
        self.detail().map_or_else(|| self.to_string(), str::to_owned)
    }

    /// Detail for the log only.
    pub fn detail(&self) -> Option<&str> {
        match self {
            OperatorError::Request(error) => error.detail(),
            _ => None,
        }
    }
}
