//! Outcomes: what became of predictions, as callers tell it, joined with what was predicted.
//!
//! - `prediction_id.rs`: the signed id that every prediction has. It says what was predicted, so nothing is stored.
//! - `ledger.rs` remembers what has been said already.
//! - Here each item is judged (without a clock and a lock), and what is joined is added to the version's outcomes.

mod ledger;
mod prediction_id;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

pub use self::ledger::{Ledger, MemoryLedger, SqliteLedger, open_ledger};
pub use self::prediction_id::{PredictionId, Signer, Verified};
use crate::config::{BusinessKind, FeedbackConfig};
use crate::error::{Error, Result};
use crate::feature::Observation;
use crate::identity::VersionKey;
use crate::monitor::{FeedbackResult, Monitor, Predicted, Truth};
use crate::registry::{ServedVersion, Snapshot};

/// The most items of one request.
pub const MOST_ITEMS: usize = 10_000;
/// The most items that an answer says what is wrong with.
const MOST_PROBLEMS: usize = 100;
/// The longest label, in bytes: it becomes a label of a series.
const LONGEST_LABEL: usize = 64;

/// `{"feedback": […]}`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// What is said of predictions.
    pub feedback: Vec<Item>,
}

/// What is said of one prediction.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// The id that the answer had.
    prediction_id: String,
    /// What the class is in truth.
    #[serde(default)]
    label: Option<TrueLabel>,
    /// What the number is in truth.
    #[serde(default)]
    value: Option<f64>,
    /// Business metrics, by name.
    #[serde(default)]
    metrics: BTreeMap<String, Amount>,
}

/// The text of a label: `3`, `3.0` and `"3"` are the same class.
#[derive(Debug)]
struct TrueLabel(String);

/// The amount of a business metric: a number, or yes or no.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged, expecting = "an amount is a number, true or false")]
enum Amount {
    Yes(bool),
    Number(f64),
}

/// What came of a batch.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Taken {
    /// How many items came to what.
    pub results: BTreeMap<FeedbackResult, u64>,
    /// What was wrong with items, as far as there is room: the first ones.
    pub problems: Vec<Problem>,
}

/// What was wrong with an item.
#[derive(Debug, PartialEq, Serialize)]
pub struct Problem {
    /// Which item, counted from 0.
    pub index: usize,
    /// What came of it.
    pub result: FeedbackResult,
    /// What is to be changed, if anything.
    pub detail: String,
}

/// Signs predictions, and takes in what became of them.
#[derive(Debug)]
pub struct Feedback {
    signer: Signer,
    ledger: Arc<dyn Ledger>,
    max_delay: Duration,
}

impl Feedback {
    /// As configured; without a key of its own, with that of the ledger.
    pub async fn new(config: &FeedbackConfig, ledger: Arc<dyn Ledger>) -> Result<Feedback> {
        let signer = match &config.key {
            Some(key) => Signer::new(key.secret().as_bytes()),
            None => Signer::new(&ledger.key().await?),
        };
        Ok(Feedback { signer, ledger, max_delay: config.max_delay() })
    }

    /// The id of a prediction.
    pub fn sign(&self, request: Uuid, index: usize, version: VersionKey, predicted: Observation) -> String {
        // More instances than fit are refused long before.
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        self.signer.sign(&PredictionId { request, index, version, predicted })
    }

    /// Says what can be joined with which prediction; `now` is since 1970. Work for a thread that others do not wait for.
    pub fn judge(&self, batch: Batch, snapshot: &Snapshot, now: Duration) -> Result<Judged> {
        if batch.feedback.len() > MOST_ITEMS {
            let count = batch.feedback.len();
            return Err(Error::InvalidInput(format!("feedback: {count} items are too many, at most {MOST_ITEMS}")));
        }
        Ok(Judged(batch.feedback.into_iter().map(|item| self.judge_item(item, snapshot, now)).collect()))
    }

    /// Takes in what can be joined and was not there before.
    pub async fn take(&self, judged: Judged, monitor: &Monitor) -> Result<Taken> {
        let Judged(judged) = judged;
        // All that is said is asked for at once.
        let parts = |joinable: &Joinable| joinable.parts.iter().map(|part| part.key).collect::<Vec<u64>>();
        let keys: Vec<u64> = judged.iter().flatten().flat_map(parts).collect();
        let mut fresh = match keys.is_empty() {
            true => Vec::new(),
            false => self.ledger.first_time(keys).await.inspect_err(|_| monitor.deployments().journal_failed())?,
        }
        .into_iter();

        let mut taken = Taken::default();
        for (index, judged) in judged.into_iter().enumerate() {
            let (result, detail) = match judged {
                Ok(joinable) => (joinable.join(&mut fresh), "it was there before".to_owned()),
                Err(refused) => (refused.0, refused.1),
            };
            *taken.results.entry(result).or_default() += 1;
            if result != FeedbackResult::Joined && taken.problems.len() < MOST_PROBLEMS {
                taken.problems.push(Problem { index, result, detail });
            }
        }
        for result in FeedbackResult::ALL {
            monitor.server().feedback(result, *taken.results.entry(result).or_default());
        }
        Ok(taken)
    }

    /// What can be joined with which prediction, or why not.
    fn judge_item(&self, item: Item, snapshot: &Snapshot, now: Duration) -> Result<Joinable, Refused> {
        let refuse = |result, why: String| Err(Refused(result, why));
        let Some(verified) = self.signer.verify(&item.prediction_id) else {
            return refuse(FeedbackResult::Forged, "this is not the id of a prediction of this fleet".to_owned());
        };
        let id = verified.id;
        let Some(version) = snapshot.versions().find(|version| version.key == id.version) else {
            return refuse(FeedbackResult::Unknown, "the version that made the prediction is not loaded".to_owned());
        };
        let delay = now.saturating_sub(id.made_at());
        if delay > self.max_delay {
            let days = delay.as_secs() / 86_400;
            return refuse(FeedbackResult::Late, format!("the prediction was made {days} days ago"));
        }
        let predicted = version.recorder.predicted(id.predicted);
        let truth = truth(item.label, item.value, predicted.as_ref()).map_err(invalid)?;
        let mut parts: Vec<Part> = Vec::new();
        if let (Some(predicted), Some(truth)) = (predicted, truth) {
            parts.push(Part { key: verified.key(""), said: Said::Truth(predicted, truth, delay) });
        }
        let known = &version.recorder.watched().settings.business;
        for (name, amount) in item.metrics {
            let Some(kind) = known.get(&name).copied() else {
                let names: Vec<&str> = known.keys().map(String::as_str).collect();
                let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                return Err(invalid(format!(
                    "metrics: there is no {name:?} in [monitoring.business]; there is: {names}"
                )));
            };
            let amount = amount.of(kind).map_err(|problem| invalid(format!("metrics.{name}: {problem}")))?;
            parts.push(Part { key: verified.key(&name), said: Said::Business(name, kind, amount) });
        }
        if parts.is_empty() {
            return Err(invalid("it says nothing; send label, value or metrics".to_owned()));
        }
        Ok(Joinable { version: Arc::clone(version), parts })
    }
}

/// What is to be made of each item of a batch.
#[derive(Debug)]
pub struct Judged(Vec<Result<Joinable, Refused>>);

#[derive(Debug)]
struct Refused(FeedbackResult, String);

fn invalid(why: String) -> Refused {
    Refused(FeedbackResult::Invalid, why)
}

/// What is said of a prediction of this version.
#[derive(Debug)]
struct Joinable {
    version: Arc<ServedVersion>,
    parts: Vec<Part>,
}

/// One thing that is said, once.
#[derive(Debug)]
struct Part {
    key: u64,
    said: Said,
}

#[derive(Debug)]
enum Said {
    Truth(Predicted, Truth, Duration),
    Business(String, BusinessKind, f64),
}

impl Joinable {
    /// Adds what is new to the outcomes. `fresh` says so of each part, in order.
    fn join(self, fresh: &mut impl Iterator<Item = bool>) -> FeedbackResult {
        let mut result = FeedbackResult::Duplicate;
        self.version.recorder.outcomes(|outcomes| {
            for part in self.parts {
                if !fresh.next().unwrap_or(false) {
                    continue;
                }
                result = FeedbackResult::Joined;
                match part.said {
                    Said::Truth(predicted, truth, delay) => outcomes.label(&predicted, &truth, delay),
                    Said::Business(name, kind, amount) => outcomes.business(&name, kind, amount),
                }
            }
        });
        result
    }
}

/// What is true, if it is said, and of the kind that was predicted.
fn truth(label: Option<TrueLabel>, value: Option<f64>, predicted: Option<&Predicted>) -> Result<Option<Truth>, String> {
    match (label, value, predicted) {
        (None, None, _) => Ok(None),
        (Some(_), Some(_), _) => Err("label and value: send one of them".to_owned()),
        (_, _, None) => Err("nothing was predicted that could be compared".to_owned()),
        (Some(TrueLabel(label)), None, Some(Predicted::Class(..))) if label.len() > LONGEST_LABEL => {
            Err(format!("label: it is longer than {LONGEST_LABEL} bytes"))
        }
        (Some(TrueLabel(label)), None, Some(Predicted::Class(..))) => Ok(Some(Truth::Label(label))),
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
                Err(format!("found {number}, and a rate is made of true and false, or of 0 to 1"))
            }
            (Amount::Number(number), _) => Ok(number),
        }
    }
}

impl<'de> Deserialize<'de> for TrueLabel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TrueLabel, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a label is a number, a string, true or false")]
        enum Written {
            Yes(bool),
            Whole(i64),
            Number(f64),
            Text(String),
        }
        Ok(TrueLabel(match Written::deserialize(deserializer)? {
            Written::Yes(yes) => yes.to_string(),
            Written::Whole(number) => number.to_string(),
            // 3.0 is written as 3.
            Written::Number(number) => number.to_string(),
            Written::Text(text) => text,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(json: &str) -> Result<String, String> {
        serde_json::from_str::<TrueLabel>(json).map(|label| label.0).map_err(|error| error.to_string())
    }

    #[test]
    fn a_label_is_the_same_however_it_is_written() {
        assert_eq!([label("3"), label("3.0"), label("\"3\"")], [(); 3].map(|()| Ok("3".to_owned())));
        assert_eq!(label("true").unwrap(), "true");
        assert_eq!(label("[3]").unwrap_err(), "a label is a number, a string, true or false");
    }

    #[test]
    fn what_is_true_is_of_the_kind_that_was_predicted() {
        let said = |label: Option<&str>, value| (label.map(|label| TrueLabel(label.to_owned())), value);
        let check = |(label, value), predicted: Option<&Predicted>, expected: Result<Option<Truth>, &str>| {
            assert_eq!(truth(label, value, predicted), expected.map_err(str::to_owned));
        };
        let (class, number) = (Predicted::Class("a".into(), 0.5), Predicted::Value(1.0));
        check(said(Some("b"), None), Some(&class), Ok(Some(Truth::Label("b".into()))));
        check(said(None, Some(2.0)), Some(&number), Ok(Some(Truth::Value(2.0))));
        check(said(None, None), Some(&class), Ok(None));
        check(said(Some("b"), None), Some(&number), Err("label: a number was predicted; send value"));
        check(said(None, Some(1.0)), Some(&class), Err("value: a class was predicted; send label"));
        check(said(Some("b"), Some(1.0)), Some(&class), Err("label and value: send one of them"));
        check(said(Some("b"), None), None, Err("nothing was predicted that could be compared"));
        let long = "x".repeat(65);
        check(said(Some(&long), None), Some(&class), Err("label: it is longer than 64 bytes"));
    }

    #[test]
    fn a_rate_is_made_of_yes_and_no() {
        assert_eq!(Amount::Yes(true).of(BusinessKind::Rate), Ok(1.0));
        assert_eq!(Amount::Number(12.5).of(BusinessKind::Sum), Ok(12.5));
        assert!(Amount::Number(2.0).of(BusinessKind::Rate).unwrap_err().contains("found 2"));
    }
}
