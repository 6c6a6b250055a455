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
    /// The change was based on a deployment that is no longer the current one.
    #[error("{message}")]
    #[strum(message = "Deployment changed")]
    Conflict {
        /// Message with the expected and the current generation of the deployment.
        message: String,
        /// The current deployment of the model, as the admin API shows it.
        present: serde_json::Value,
    },
    /// The change cannot be made now. The message says what to do first.
    #[error("{0}")]
    #[strum(message = "Change refused")]
    ChangeRefused(String),
    /// The model has had no rollout.
    #[error("{0}")]
    #[strum(message = "No rollout")]
    NoRollout(String),
    /// The token is missing or wrong.
    #[error("send the header Authorization: Bearer with the token that is configured as admin.token")]
    #[strum(message = "Unauthorized")]
    Unauthorized,
    /// The request may come from a web page that made a browser send it.
    #[error("{0}")]
    #[strum(message = "Forbidden")]
    Forbidden(String),
    /// The change could not be written to the journal, so it was not made.
    #[error("nothing was changed, because the deployment journal could not be written: {0}")]
    #[strum(serialize = "journal-failed", message = "Change not recorded")]
    Journal(String),
    /// An error that any caller may see.
    #[error(transparent)]
    Request(#[from] Error),
}

/// Setup errors may name paths, so operators of a running server get an internal error, whose detail is logged.
impl From<SetupError> for OperatorError {
    fn from(error: SetupError) -> OperatorError {
        OperatorError::Request(error.of_a_request())
    }
}

impl OperatorError {
    /// Returns an internal error with this description.
    pub fn internal(detail: impl fmt::Display) -> OperatorError {
        OperatorError::Request(Error::internal(detail))
    }

    /// Codes of all operator errors except those of [`Error`].
    pub const CODES: &'static [&'static str] = OperatorError::VARIANTS.split_at(OperatorError::VARIANTS.len() - 1).0;

    /// Returns the kind of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            OperatorError::Conflict { .. } => ErrorKind::Conflict,
            OperatorError::ChangeRefused(_) => ErrorKind::FailedPrecondition,
            OperatorError::NoRollout(_) => ErrorKind::NotFound,
            OperatorError::Unauthorized => ErrorKind::Unauthenticated,
            OperatorError::Forbidden(_) => ErrorKind::PermissionDenied,
            OperatorError::Journal(_) => ErrorKind::Unavailable,
            OperatorError::Request(error) => error.kind(),
        }
    }

    /// Returns a short, stable name: the last part of a problem's `type`, and a label of a metric.
    pub fn code(&self) -> &'static str {
        match self {
            OperatorError::Request(error) => error.code(),
            own => own.into(),
        }
    }

    /// Returns the title that all errors of this code have.
    pub fn title(&self) -> &'static str {
        match self {
            OperatorError::Request(error) => error.title(),
            own => own.get_message().unwrap_or_default(),
        }
    }

    /// Returns the time after which the same request may succeed, if that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            OperatorError::Request(error) => error.retry_after(),
            _ => None,
        }
    }

    /// Returns the message for operators: the detail if there is one, or else the message for callers.
    pub fn for_operators(&self) -> String {
        self.detail().map_or_else(|| self.to_string(), str::to_owned)
    }

    /// Returns the detail of the error, for the log only.
    pub fn detail(&self) -> Option<&str> {
        match self {
            OperatorError::Request(error) => error.detail(),
            _ => None,
        }
    }
}
