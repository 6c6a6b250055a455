//! Admission: everything that is decided from the head of a request alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::request_notes::RequestNotes;
use crate::budget::{LatencyBudget, StageClock};
use crate::error::{Error, Result};
use crate::model::Priority;
use crate::registry::{Catalog, ServedVersion, Target};

/// Content of the head of a request.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// The model or version that the request names.
    pub target: Target<'a>,
    /// Key for choosing a version, if the request names none.
    pub routing_key: &'a [u8],
    /// Time at which the head had been read.
    pub read_at: Instant,
    /// Timeout of the caller.
    pub client_timeout: Option<Duration>,
    /// Priority of the request.
    pub priority: Priority,
    /// Media type of the body, if the body is the raw bytes of one instance.
    pub media_type: Option<&'a str>,
    /// Notes for the access log, if it is on.
    pub notes: Option<&'a Arc<RequestNotes>>,
}

/// A request that can be answered in time, judging by its head.
#[derive(Debug, Clone)]
pub struct Admitted {
    pub(super) version: Arc<ServedVersion>,
    pub(super) priority: Priority,
    read_at: Instant,
    budget: LatencyBudget,
    media_type: Option<&'static str>,
    pub(super) notes: Option<Arc<RequestNotes>>,
}

/// Finds the version for a request and divides its time. Refuses a request that cannot be answered in time, without
/// reading its body.
pub fn admit(catalog: &Catalog, head: Head<'_>) -> Result<Admitted> {
    let version = catalog.resolve(head.target, head.routing_key)?;
    if let Some(notes) = head.notes {
        notes.found(&version);
    }
    let budget = version.budget.within(head.client_timeout);
    let media_type = head.media_type.map(|media_type| accepted(media_type, &version)).transpose()?;
    let Head { priority, read_at, notes, .. } = head;
    let admitted = Admitted { version, priority, read_at, budget, media_type, notes: notes.cloned() };
    let clock = admitted.clock();
    match admitted.version.pipeline.model.admit(clock.demand(), priority) {
        Ok(()) => Ok(admitted),
        Err(error) => Err(admitted.refused(error)),
    }
}

impl Admitted {
    /// Counts the request as refused for a reason outside its stages, and returns the error.
    pub fn refused(&self, error: Error) -> Error {
        self.version.recorder.request().failed(&self.clock(), &error);
        error
    }

    /// Returns the media type of the body, if the body is the raw bytes of one instance.
    pub fn media_type(&self) -> Option<&'static str> {
        self.media_type
    }

    pub(super) fn clock(&self) -> StageClock {
        StageClock::new(self.read_at, self.budget)
    }
}

/// Returns the media type, if the version accepts bodies of this type.
fn accepted(media_type: &str, version: &ServedVersion) -> Result<&'static str> {
    let known = version.pipeline.preprocessor.media_types();
    known.iter().copied().find(|known| is_of(media_type, known)).ok_or_else(|| {
        let or = match known {
            [] => String::new(),
            known => format!(", or the bytes of one instance as {}", known.join(" or ")),
        };
        Error::UnsupportedContent(format!(
            "the Content-Type of the body is {media_type:?}; send JSON with the header Content-Type: \
             application/json{or}"
        ))
    })
}

/// Returns true if a media type is `known`, or belongs to the family `known`, such as `image/*`.
fn is_of(media_type: &str, known: &str) -> bool {
    match known.strip_suffix('*') {
        None => media_type.eq_ignore_ascii_case(known),
        Some(family) => {
            media_type.get(..family.len()).is_some_and(|start| start.eq_ignore_ascii_case(family))
                && media_type.len() > family.len()
        }
    }
}
