//! A prediction, from a request's head to the text of its answer: the whole request path on one screen.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::budget::{ArrivedBytes, BlockingThreads, LatencyBudget, StageClock};
use crate::error::{Error, Result};
use crate::model::Priority;
use crate::monitor::Delivery;
use crate::pipeline::{Prediction, Prepared, instances};
use crate::registry::{Catalog, ServedVersion, Target};
use crate::stage::{Stage, Timings};

/// Content of the head of a request.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// Whom it asks.
    pub target: Target<'a>,
    /// Key of the choice of a version, where none is named.
    pub routing_key: &'a [u8],
    /// Time at which it had been read.
    pub read_at: Instant,
    /// Timeout of the caller.
    pub client_timeout: Option<Duration>,
    /// Priority for the caller.
    pub priority: Priority,
    /// Media type of its body, if that is not JSON.
    pub media_type: Option<&'a str>,
}

/// A request that may be answered in time, as far as its head tells.
#[derive(Debug, Clone)]
pub struct Admitted {
    version: Arc<ServedVersion>,
    read_at: Instant,
    budget: LatencyBudget,
    priority: Priority,
    /// Media type of its body, if that is not JSON.
    media_type: Option<&'static str>,
}

/// The body of a request while it arrives. Pinned where it is: a future that is handed on from function to function has
/// a place of its own in each.
pub type Arriving<'a> = Pin<&'a mut (dyn Future<Output = Result<ArrivedBytes>> + Send)>;

/// A finished prediction.
#[derive(Debug)]
pub struct Answer<T> {
    /// The predictions as text.
    pub text: T,
    /// The version that made them.
    pub version: Arc<ServedVersion>,
    /// Duration of each stage.
    pub timings: Timings,
    /// To be dropped when the answer is on its way.
    pub delivery: Delivery,
}

/// Finds the version that a request asks and divides its time. Refuses what has no hope before anything is read.
pub fn admit(catalog: &Catalog, head: Head<'_>) -> Result<Admitted> {
    let version = catalog.resolve(head.target, head.routing_key)?;
    let budget = version.budget.within(head.client_timeout);
    let media_type = head.media_type.map(|media_type| accepted(media_type, &version)).transpose()?;
    let admitted = Admitted { version, read_at: head.read_at, budget, priority: head.priority, media_type };
    let clock = admitted.clock();
    match admitted.version.pipeline.model.admit(clock.demand(), head.priority) {
        Ok(()) => Ok(admitted),
        Err(error) => Err(admitted.refused(error)),
    }
}

/// The media type, if the version takes bodies of it.
fn accepted(media_type: &str, version: &ServedVersion) -> Result<&'static str> {
    let known = version.pipeline.preprocessor.media_types();
    known.iter().copied().find(|known| is_of(media_type, known)).ok_or_else(|| {
        let or = match known {
            [] => String::new(),
            known => format!(", or one instance as it is: {}", known.join(", ")),
        };
        Error::UnsupportedContent(format!(
            "the body is announced as {media_type:?}; send JSON with the header Content-Type: application/json{or}"
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

impl Admitted {
    /// Makes the prediction: `{"instances": […]}` in `body`, or one instance as it is; `write` makes the answer's text of
    /// the predictions.
    pub async fn predict<T: Send + 'static>(
        self,
        body: Arriving<'_>,
        threads: &BlockingThreads,
        write: impl FnOnce(&[Prediction], &ServedVersion) -> Result<T> + Send + 'static,
    ) -> Result<Answer<T>> {
        let mut clock = self.clock();
        let request = self.version.recorder.request();
        match self.run_stages(&mut clock, body, threads, write).await {
            Ok(text) => {
                let delivery = request.succeeded(&clock);
                Ok(Answer { text, timings: clock.timings(), version: self.version, delivery })
            }
            Err(error) => {
                request.failed(&clock, &error);
                Err(error)
            }
        }
    }

    async fn run_stages<T: Send + 'static>(
        &self,
        clock: &mut StageClock,
        body: Arriving<'_>,
        threads: &BlockingThreads,
        write: impl FnOnce(&[Prediction], &ServedVersion) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (model, costs) = (&self.version.pipeline.model, &self.version.costs);
        let body = clock.receive(body).await?;

        let (version, bytes, media_type) = (Arc::clone(&self.version), body.len(), self.media_type);
        let preprocess = move |deadline| {
            let (body, preprocessor) = (body.whole(), &version.pipeline.preprocessor);
            match media_type {
                None => preprocessor.transform(instances(&body)?, deadline),
                Some(media_type) => preprocessor.transform_raw(media_type, &body, deadline),
            }
        };
        let prepared = clock.run(Stage::Preprocess, (&costs.preprocess, bytes), threads, preprocess).await?;

        let Prepared { inputs, features, origin } = prepared;
        let rows = inputs.rows();
        let ticket = model.enqueue(inputs, clock.demand(), self.priority)?;
        let (predicted, taken) = (ticket.predicted(), ticket.taken());
        let outputs = clock.wait(ticket, predicted, taken).await?;

        let version = Arc::clone(&self.version);
        let elements = outputs.rows() * outputs.row_elements() + features.numbers.len() + features.texts.len();
        let postprocess = move |_deadline| {
            let predictions = version.pipeline.postprocessor.decode(&outputs, &origin)?;
            let made = predictions.len();
            if made != rows {
                let detail = format_args!("the postprocessor made {made} predictions for {rows} instances");
                return Err(Error::internal(detail));
            }
            let text = write(&predictions, &version)?;
            version.recorder.observe(features, predictions.iter().map(Prediction::observation));
            Ok(text)
        };
        clock.run(Stage::Postprocess, (&costs.postprocess, elements), threads, postprocess).await
    }

    /// Counts the request as refused for a reason that has nothing to do with its stages.
    pub fn refused(&self, error: Error) -> Error {
        self.version.recorder.request().failed(&self.clock(), &error);
        error
    }

    fn clock(&self) -> StageClock {
        StageClock::new(self.read_at, self.budget)
    }
}
