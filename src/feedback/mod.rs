//! Feedback: the true outcomes of predictions, reported by callers and joined with the predictions.
//!
//! - `accepted.rs` is the receiver of accepted feedback, such as the prediction log.
//! - `buffer.rs` keeps feedback while the ledger cannot be reached.
//! - `batch.rs` reads feedback from JSON, with limits.
//! - `prediction_id.rs`: the signed id that every prediction has. It contains the prediction, so nothing is stored.
//! - `judged.rs` has the items that were judged, and joins them with the outcomes.
//! - `label.rs` finds the class that a label means.
//! - `ledger.rs` remembers the accepted feedback.
//! - `fuzzing.rs` is for the fuzz targets of `fuzz/` only.
//! - `mod.rs` judges each item (without a clock or a lock), and records its statements.

mod accepted;
mod batch;
mod buffer;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod judged;
mod label;
mod ledger;
mod prediction_id;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use uuid::Uuid;

pub use self::accepted::{AcceptedOutcome, OutcomeLog};
use self::batch::{Amount, Item, Text};
pub use self::batch::{Batch, MAX_ITEMS};
use self::buffer::{Buffer, Kept, MAX_BUFFERED};
pub use self::judged::Judged;
use self::judged::{Joinable, Part, Refused, Said};
use self::label::class_of;
pub use self::ledger::{Entry, Ledger, LedgerKey, NotRecorded, Recorded};
pub use self::prediction_id::{PredictionId, Signer, Verified};
use crate::api::feedback::{ItemProblem, Taken};
use crate::config::{BusinessKind, FeedbackConfig};
use crate::error::{Error, Result, SetupError};
use crate::feature::Observation;
use crate::identity::VersionKey;
use crate::monitor::{FeedbackResult, Monitor, Predicted, StatePart, Truth};
use crate::registry::Snapshot;

/// Maximum number of items whose problems a response lists.
const MAX_PROBLEMS: usize = 100;
/// Maximum number of requests whose feedback is recorded and joined at one time. They are processed to the end even if
/// their clients leave, so their memory must be bounded. A ledger in a file has one connection, and handles them one
/// after the other anyway.
const TAKEN_AT_ONE_TIME: usize = 16;
/// Timeout of the wait for one of the [`TAKEN_AT_ONE_TIME`] places.
const PLACE_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval of attempts to reach a ledger: for its key, and for feedback that waits for it.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Timeout of the last attempt to record waiting feedback, when the server stops.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// Tolerated difference between the clocks of replicas. A prediction dated at most this far in the future counts as
/// made now.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// Signs prediction ids, and accepts feedback.
#[derive(Debug)]
pub struct Feedback {
    signer: Signer,
    ledger: Arc<dyn Ledger>,
    max_delay: Duration,
    correction_window: Duration,
    /// Limits the number of requests whose feedback is recorded and joined at one time.
    taking: Arc<Semaphore>,
    /// Feedback that waits for a ledger that cannot be reached.
    buffer: Buffer,
    /// Receiver of accepted feedback, if there is one.
    log: Option<Arc<dyn OutcomeLog>>,
}

impl Feedback {
    /// Creates the signer and receiver of feedback, with the configured key or else with the key of the ledger.
    pub async fn new(config: &FeedbackConfig, ledger: Arc<dyn Ledger>) -> Result<Feedback, SetupError> {
        let signer = match &config.key {
            Some(key) => Signer::new(key.secret().as_bytes()),
            None => signer_of(&ledger).await?,
        };
        let (max_delay, correction_window) = (config.max_delay(), config.correction_window());
        let taking = Arc::new(Semaphore::new(TAKEN_AT_ONE_TIME));
        let buffer = Buffer::default();
        Ok(Feedback { signer, ledger, max_delay, correction_window, taking, buffer, log: None })
    }

    /// Passes accepted feedback on to this receiver.
    pub fn with_log(self, log: Option<Arc<dyn OutcomeLog>>) -> Feedback {
        Feedback { log, ..self }
    }

    /// Returns the signer of prediction ids.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Returns the signed id of a prediction.
    pub fn sign(&self, request: Uuid, index: usize, version: VersionKey, predicted: Observation) -> String {
        // A request with that many instances is refused long before.
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        self.signer.sign(&PredictionId { request, index, version, predicted })
    }

    /// Decides for each item of feedback if it can be joined with its prediction. `now` is the time since 1970. Takes
    /// milliseconds for a large body, so call it on a thread for heavy work.
    pub fn judge(&self, batch: Batch, snapshot: &Snapshot, now: Duration) -> Judged {
        let mut refused = 0;
        let mut judge = |item| {
            self.judge_item(item, snapshot, now).map_err(|Refused(result, why)| {
                refused += 1;
                // Only the first problems are in the response, so only they are kept.
                Refused(result, if refused > MAX_PROBLEMS { String::new() } else { why })
            })
        };
        Judged(batch.items.into_iter().map(&mut judge).collect())
    }

    /// Records and counts feedback that is new. Continues even if the caller stops waiting: an item that the ledger has
    /// recorded must be counted, because sending it again would make it a duplicate.
    pub async fn take(self: Arc<Self>, judged: Judged, monitor: Arc<Monitor>) -> Result<Taken> {
        // A caller that leaves while it waits for a place has changed nothing, and its memory is freed.
        let place = tokio::time::timeout(PLACE_TIMEOUT, Arc::clone(&self.taking).acquire_owned()).await;
        let place = place.map_err(|_| Error::FeedbackNotRecorded {
            detail: format!("earlier feedback was still being recorded after a wait of {} s", PLACE_TIMEOUT.as_secs()),
        })?;
        let taking = tokio::spawn(async move {
            let _place = place;
            self.take_to_the_end(judged, monitor).await
        });
        taking.await.map_err(|error| Error::internal(format_args!("feedback was not processed to the end: {error}")))?
    }

    async fn take_to_the_end(self: Arc<Self>, judged: Judged, monitor: Arc<Monitor>) -> Result<Taken> {
        // Feedback that waits is recorded first.
        let recorded = match self.buffer.is_empty() {
            true => self.record(&judged, &monitor).await,
            false => Err(NotRecorded::Unreachable("earlier feedback still waits to be recorded".to_owned())),
        };
        match recorded {
            Ok(recorded) => Ok(self.join(judged, recorded, &monitor)),
            Err(NotRecorded::Failed(detail)) => Err(Error::FeedbackNotRecorded { detail }),
            Err(NotRecorded::Unreachable(detail)) => self.keep(judged, &detail, &monitor),
        }
    }

    /// Records all statements of a batch in one call.
    async fn record(&self, judged: &Judged, monitor: &Monitor) -> Result<Vec<Recorded>, NotRecorded> {
        let entries = judged.entries();
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        match self.ledger.record(&entries).await {
            Ok(recorded) => {
                monitor.deployments().state_works(StatePart::Feedback);
                Ok(recorded)
            }
            Err(error) => {
                let (NotRecorded::Failed(problem) | NotRecorded::Unreachable(problem)) = &error;
                monitor.deployments().state_failed(StatePart::Feedback, problem);
                Err(error)
            }
        }
    }

    /// Adds the statements that are new to the outcomes. `recorded` has the result of each statement, in order.
    fn join(&self, Judged(judged): Judged, recorded: Vec<Recorded>, monitor: &Monitor) -> Taken {
        let mut recorded = recorded.into_iter();
        let mut taken = Taken::default();
        for (index, judged) in judged.into_iter().enumerate() {
            let (result, detail) = match judged {
                Ok(joinable) => joinable.join(&mut recorded, self.log.as_deref()),
                Err(Refused(result, detail)) => (result, detail),
            };
            taken.add(index, result, detail);
        }
        count(&mut taken, monitor);
        taken
    }

    /// Keeps a batch until the ledger can be reached.
    fn keep(self: &Arc<Self>, Judged(judged): Judged, detail: &str, monitor: &Arc<Monitor>) -> Result<Taken> {
        let mut taken = Taken::default();
        let mut kept = Vec::new();
        for (index, judged) in judged.into_iter().enumerate() {
            match judged {
                Ok(joinable) => {
                    taken.add(index, FeedbackResult::Buffered, String::new());
                    kept.push(Ok(joinable));
                }
                Err(Refused(result, detail)) => taken.add(index, result, detail),
            }
        }
        match self.buffer.keep(Judged(kept)) {
            Kept::Full => {
                let detail = format!("{detail}; {MAX_BUFFERED} earlier statements already wait for it");
                return Err(Error::FeedbackNotRecorded { detail });
            }
            Kept::Behind => {}
            Kept::First => drop(tokio::spawn(Arc::clone(self).record_buffer(Arc::clone(monitor)))),
        }
        monitor.server().set_buffered_feedback(self.buffer.len());
        count(&mut taken, monitor);
        Ok(taken)
    }

    /// Records and joins the feedback that waits, until none is left.
    async fn record_buffer(self: Arc<Self>, monitor: Arc<Monitor>) {
        loop {
            tokio::time::sleep(RETRY_INTERVAL).await;
            if self.try_to_record_buffer(&monitor).await {
                return;
            }
        }
    }

    /// Records and joins the feedback that waits. Returns true if none is left. A batch whose first recording succeeded
    /// without an answer counts as a duplicate of itself: that is rare, and nothing is counted twice.
    async fn try_to_record_buffer(&self, monitor: &Monitor) -> bool {
        while let Some(oldest) = self.buffer.oldest() {
            let Ok(recorded) = self.record(&oldest, monitor).await else {
                self.buffer.put_back(oldest);
                return false;
            };
            let statements = oldest.statements();
            self.join(oldest, recorded, monitor);
            let is_done = self.buffer.recorded(statements);
            monitor.server().set_buffered_feedback(self.buffer.len());
            if is_done {
                return true;
            }
        }
        self.buffer.is_empty()
    }

    /// Records the feedback that waits, if that is possible now, because the server stops.
    pub async fn flush(&self, monitor: &Monitor) {
        if self.buffer.is_empty() {
            return;
        }
        let recorded = tokio::time::timeout(FLUSH_TIMEOUT, self.try_to_record_buffer(monitor)).await;
        if recorded != Ok(true) {
            let lost = self.buffer.len();
            tracing::error!(statements = lost, "feedback is lost: the server stops while its ledger cannot be reached");
        }
    }

    /// Returns the statements of an item and the version that made the prediction, or the reason for refusing the item.
    fn judge_item(&self, item: Item, snapshot: &Snapshot, now: Duration) -> Result<Joinable, Refused> {
        let refuse = |result, why: String| Err(Refused(result, why));
        let verified = match &item.prediction_id {
            Text::Kept(text) => self.signer.verify(text),
            Text::TooLong(_) => None,
        };
        let Some(verified) = verified else {
            return refuse(FeedbackResult::Forged, "this is not the id of a prediction of this fleet".to_owned());
        };
        let id = verified.id;
        let Some(version) = snapshot.versions().find(|version| version.key == id.version) else {
            return refuse(FeedbackResult::Unknown, "the version that made the prediction is not loaded".to_owned());
        };
        let age = now.saturating_sub(id.made_at());
        if age > self.max_delay {
            let days = age.as_secs() / 86_400;
            return refuse(FeedbackResult::Late, format!("the prediction was made {days} days ago"));
        }
        // If the clock was set back by more than the tolerated difference, the delay is not known.
        let delay = (id.made_at() <= now + CLOCK_SKEW).then_some(age);
        let may_replace = age <= self.correction_window;
        let predicted = version.recorder.predicted(id.predicted);
        let truth = truth(&item, predicted.as_ref(), version.recorder.class_names()).map_err(invalid)?;
        let mut parts: Vec<Part> = Vec::new();
        if let (Some(predicted), Some(truth)) = (predicted, truth) {
            let said = match &truth {
                Truth::Label { class, .. } => *class as u64,
                Truth::Value(value) => value.to_bits(),
            };
            let entry = Entry { key: verified.key(""), said, may_replace };
            parts.push(Part { entry, said: Said::Truth(predicted, truth, delay) });
        }
        let known = &version.recorder.spec().settings.business;
        for (name, amount) in item.metrics.0.0 {
            let Some((name, kind)) = known.get_key_value(&*name) else {
                let names: Vec<&str> = known.keys().map(String::as_str).collect();
                let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                return Err(invalid(format!(
                    "metrics: there is no {name:?} in [monitoring.business]; it has: {names}"
                )));
            };
            let amount = amount.of(*kind).map_err(|problem| invalid(format!("metrics.{name}: {problem}")))?;
            let entry = Entry { key: verified.key(name), said: amount.to_bits(), may_replace };
            parts.push(Part { entry, said: Said::Business(name.clone(), *kind, amount) });
        }
        if parts.is_empty() {
            return Err(invalid("the item is empty; send label, value or metrics".to_owned()));
        }
        Ok(Joinable { version: Arc::clone(version), prediction: id, at: now, parts })
    }
}

impl Taken {
    fn add(&mut self, index: usize, result: FeedbackResult, detail: String) {
        *self.results.entry(result).or_default() += 1;
        if !result.is_taken() && self.problems.len() < MAX_PROBLEMS {
            self.problems.push(ItemProblem { index, result, detail });
        }
    }
}

/// Counts the results of a batch in the metrics, and completes them with zeros.
fn count(taken: &mut Taken, monitor: &Monitor) {
    for result in FeedbackResult::ALL {
        let is_shown = result != FeedbackResult::Buffered || taken.results.contains_key(&result);
        if is_shown {
            monitor.server().feedback(result, *taken.results.entry(result).or_default());
        }
    }
}

/// Returns a signer with the key of a ledger. If the ledger cannot be reached, the signer gets the key later.
async fn signer_of(ledger: &Arc<dyn Ledger>) -> Result<Signer, SetupError> {
    let (provisional, problem) = match ledger.key().await? {
        LedgerKey::Shared(key) => return Ok(Signer::new(&key)),
        LedgerKey::Unknown { provisional, problem } => (provisional, problem),
    };
    tracing::warn!(
        problem,
        "until the ledger of feedback can be reached, prediction ids are valid on this server only"
    );
    let signer = Signer::new(&provisional);
    let (ledger, later) = (Arc::clone(ledger), signer.clone());
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(RETRY_INTERVAL).await;
            if let Ok(LedgerKey::Shared(key)) = ledger.key().await {
                later.set_key(&key);
                tracing::info!("resolved: prediction ids are signed with the key of the ledger");
                return;
            }
        }
    });
    Ok(signer)
}

fn invalid(why: String) -> Refused {
    Refused(FeedbackResult::Invalid, why)
}

/// Returns the true class or number in an item; `None` if the item has none. Fails if the prediction is of another
/// kind.
fn truth(item: &Item, predicted: Option<&Predicted>, classes: &[String]) -> Result<Option<Truth>, String> {
    match (&item.label, item.value, predicted) {
        (None, None, _) => Ok(None),
        (Some(_), Some(_), _) => Err("label and value: send only one of them".to_owned()),
        (_, _, None) => Err("nothing was predicted that could be compared".to_owned()),
        (Some(label), None, Some(Predicted::Class(..))) => {
            class_of(label, classes).map(Some).map_err(|problem| format!("label: {problem}"))
        }
        (None, Some(value), Some(Predicted::Value(_))) => Ok(Some(Truth::Value(value))),
        (Some(_), None, Some(Predicted::Value(_))) => Err("label: a number was predicted; send value".to_owned()),
        (None, Some(_), Some(Predicted::Class(..))) => Err("value: a class was predicted; send label".to_owned()),
    }
}

impl Amount {
    fn of(self, kind: BusinessKind) -> Result<f64, String> {
        match (self, kind) {
            (Amount::Yes(yes), _) => Ok(f64::from(u8::from(yes))),
            (Amount::Number(number), BusinessKind::Rate) if !(0.0..=1.0).contains(&number) => {
                Err(format!("found {number}; a rate takes true, false or a number from 0 to 1"))
            }
            (Amount::Number(number), _) => Ok(number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::batch::WrittenLabel;
    use super::*;
    use crate::pipeline::Object;

    #[test]
    fn what_is_true_is_of_the_kind_that_was_predicted() {
        let check = |(label, value): (Option<&str>, Option<f64>),
                     predicted: Option<&Predicted>,
                     expected: Result<Option<Truth>, &str>| {
            let label = label.map(|label| WrittenLabel::Text(Text::Kept(label.into())));
            let item = Item { prediction_id: Text::Kept("".into()), label, value, metrics: Object::default() };
            let classes = ["a".to_owned(), "b".to_owned()];
            assert_eq!(truth(&item, predicted, &classes), expected.map_err(str::to_owned));
        };
        let (class, number) = (Predicted::Class("a".into(), 0.5), Predicted::Value(1.0));
        check((Some("b"), None), Some(&class), Ok(Some(Truth::Label { class: 1, name: "b".into() })));
        check((None, Some(2.0)), Some(&number), Ok(Some(Truth::Value(2.0))));
        check((None, None), Some(&class), Ok(None));
        check((Some("b"), None), Some(&number), Err("label: a number was predicted; send value"));
        check((None, Some(1.0)), Some(&class), Err("value: a class was predicted; send label"));
        check((Some("b"), Some(1.0)), Some(&class), Err("label and value: send only one of them"));
        check((Some("b"), None), None, Err("nothing was predicted that could be compared"));
        check((Some("c"), None), Some(&class), Err("label: \"c\" is not one of the model's classes: \"a\", \"b\""));
    }

    #[test]
    fn a_rate_is_made_of_yes_and_no() {
        assert_eq!(Amount::Yes(true).of(BusinessKind::Rate), Ok(1.0));
        assert_eq!(Amount::Number(12.5).of(BusinessKind::Sum), Ok(12.5));
        assert!(Amount::Number(2.0).of(BusinessKind::Rate).unwrap_err().contains("found 2"));
    }
}
