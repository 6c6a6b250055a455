//! Admission: everything that is decided from the head of a request alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::request_notes::RequestNotes;
use super::shadow_queue::{ShadowOfRequest, ShadowQueue};
use super::steps::{StepVersions, in_step, later_runs};
use crate::budget::{LatencyBudget, StageClock, TimeLimits};
use crate::error::{Error, Result};
use crate::feature::{Features, Observation};
use crate::model::Priority;
use crate::monitor::{RequestGuard, Routing};
use crate::prediction_log::{RequestToLog, SampledRequest};
use crate::registry::{Catalog, ChainInterface, Interface, ServedVersion, Target};

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
    /// Origin of the request: real, or made up by a probe or a test.
    pub origin: RequestOrigin,
    /// Notes for the access log and for spans, if the request has either.
    pub notes: Option<&'a Arc<RequestNotes>>,
    /// The request as the prediction log knows it, if the log is on.
    pub to_log: Option<RequestToLog<'a>>,
    /// Queue for a copy of the request; `None` if requests are not copied.
    pub shadows: Option<&'a Arc<ShadowQueue>>,
}

/// Origin of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestOrigin {
    /// The request is a real one.
    Real,
    /// The request is made up, as by a probe or a load test. Its features and predictions are not monitored.
    Synthetic,
}

impl RequestOrigin {
    /// Records the features of instances and their predictions, unless the request is synthetic.
    pub(super) fn observe(
        self,
        by: &ServedVersion,
        routing: Routing,
        features: Features,
        predictions: impl Iterator<Item = Observation> + Clone,
    ) {
        if self == RequestOrigin::Real {
            if routing == Routing::BySplit {
                by.recorder.count_confidence(predictions.clone());
            }
            by.recorder.observe(features, predictions);
        }
    }
}

/// A request that can be answered in time, judging by its head.
#[derive(Debug, Clone)]
pub struct Admitted {
    pub(super) version: Arc<ServedVersion>,
    /// Versions of the steps, if the version is a chain.
    pub(super) steps: Option<StepVersions>,
    pub(super) priority: Priority,
    read_at: Instant,
    budget: LatencyBudget,
    media_type: Option<&'static str>,
    pub(super) origin: RequestOrigin,
    pub(super) routing: Routing,
    pub(super) notes: Option<Arc<RequestNotes>>,
    /// The request, if it will be logged.
    pub(super) sampled: Option<Arc<SampledRequest>>,
    /// The version that gets a copy of the request, if the request is copied.
    pub(super) shadow: Option<Box<ShadowOfRequest>>,
}

/// Finds the version for a request and divides its time. Refuses a request that cannot be answered in time, without
/// reading its body.
pub fn admit(catalog: &Catalog, head: Head<'_>) -> Result<Admitted> {
    let (version, shadow) = catalog.resolve_with_shadow(head.target, head.routing_key)?;
    if let Some(notes) = head.notes {
        notes.found(&version);
    }
    let (version, steps) = match version.chain() {
        None => (version, None),
        Some(_) => with_steps(catalog, head)?,
    };
    let budget = version.budget.within(head.client_timeout);
    let media_type = head.media_type.map(|media_type| accepted(media_type, &version, steps.as_deref())).transpose()?;
    let Head { priority, read_at, origin, notes, to_log, shadows, .. } = head;
    let sampled = match origin {
        RequestOrigin::Real => to_log.and_then(|request| request.sampled(&version)),
        RequestOrigin::Synthetic => None,
    };
    let notes = notes.cloned();
    let routing = match (head.target, origin) {
        (Target::Version(..), _) | (_, RequestOrigin::Synthetic) => Routing::ByName,
        (Target::Default | Target::Model(_), RequestOrigin::Real) => Routing::BySplit,
    };
    let shadow = match (shadow, shadows) {
        // Made-up requests and those of chains are not copied.
        (Some(shadow), Some(queue)) if origin == RequestOrigin::Real && steps.is_none() => {
            Some(Box::new(ShadowOfRequest { shadow, queue: Arc::clone(queue) }))
        }
        _ => None,
    };
    let admitted =
        Admitted { version, steps, priority, read_at, budget, media_type, origin, routing, notes, sampled, shadow };
    match admitted.admit_model() {
        Ok(()) => Ok(admitted),
        Err(error) => Err(admitted.refused(error)),
    }
}

/// Takes a chain and the versions of its steps from one snapshot, so that they belong together.
fn with_steps(catalog: &Catalog, head: Head<'_>) -> Result<(Arc<ServedVersion>, Option<StepVersions>)> {
    let snapshot = catalog.snapshot();
    let version = Arc::clone(snapshot.resolve(head.target, head.routing_key)?);
    // The model may have become one with stages of its own meanwhile.
    let Some(chain) = version.chain() else { return Ok((version, None)) };
    let steps = snapshot
        .steps_of(chain, head.routing_key)
        .map_err(|error| Error::ModelUnavailable { model: version.model.clone(), reason: error.to_string() })?;
    Ok((version, Some(steps.into())))
}

impl Admitted {
    /// Refuses the request if its model, or the first step of a chain, cannot be in time.
    fn admit_model(&self) -> Result<()> {
        let demand = self.clock().demand();
        match (self.version.pipeline(), self.version.chain(), self.steps.as_deref()) {
            (Some(pipeline), ..) => pipeline.model.admit(demand, self.priority),
            (None, Some(chain), Some(steps)) => {
                let Some(pipeline) = steps.first().and_then(|first| first.pipeline()) else { return Ok(()) };
                let finish_by = demand.finish_by.min(self.clock().finish_by(later_runs(steps, 0)));
                let demand = TimeLimits { finish_by, ..demand };
                pipeline.model.admit(demand, self.priority).map_err(|error| in_step(chain, 0, error))
            }
            (None, ..) => Ok(()),
        }
    }

    /// Counts the request as refused for a reason outside its stages, and returns the error.
    pub fn refused(&self, error: Error) -> Error {
        self.recorded_request().failed(&self.clock(), &error);
        error
    }

    /// Begins recording the request. A synthetic request is none that a rollout judges by.
    pub(super) fn recorded_request(&self) -> RequestGuard {
        self.version.recorder.request(self.routing)
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
fn accepted(media_type: &str, version: &ServedVersion, steps: Option<&[Arc<ServedVersion>]>) -> Result<&'static str> {
    let known = match (version.chain(), steps) {
        (Some(chain), Some(steps)) => Interface::Chain(ChainInterface::new(chain, steps)).media_types(),
        _ => Interface::Own(version).media_types(),
    };
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
