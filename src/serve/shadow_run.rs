//! The run of a copied request by a version with shadow traffic, and the comparison of its answer with that of the stable
//! version. Nothing of it is in an answer, in feedback, in the prediction log, or in the counters of other requests.

use std::time::Duration;

use super::answer_comparison::{Pair, compare_outputs, compare_predictions};
use super::infer::{Asked, PreparedRequest, asked_outputs, decode, pipeline_of, prepare};
use super::input::Input;
use super::shadow_queue::{Copied, ShadowQueue, StableAnswer};
use crate::budget::{Deadline, timed};
use crate::error::{Error, Fault, Result};
use crate::model::WhileIdle;
use crate::monitor::ShadowOutcome;
use crate::pipeline::Prepared;
use crate::registry::ServedVersion;

/// Interval of looks for room.
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

/// Result of the run of a copy.
enum Ran {
    /// The version has answered, or not, in this time.
    Answered(Result<StableAnswer>, Duration),
    /// There was no room in time.
    Starved,
}

impl ShadowQueue {
    /// Creates the queue of copied requests of a server.
    pub fn start() -> ShadowQueue {
        ShadowQueue::new(run)
    }
}

/// Runs a copy, compares the answers, and counts the result.
fn run(copied: Copied) {
    let Copied { decode, answer, stable, shadow, deadline, stable_took, .. } = copied;
    let counters = shadow.recorder.shadow();
    let ran = match wait_for_room(&stable, &shadow, deadline) {
        true => answer_of(&shadow, decode, deadline),
        false => Ran::Starved,
    };
    let (its_answer, took) = match ran {
        Ran::Answered(its_answer, took) => (its_answer, took),
        Ran::Starved => return counters.ended(ShadowOutcome::Starved),
    };
    let outcome = match (&answer, &its_answer) {
        // The time of the copy, or the capacity, was too small. This says nothing about the version.
        (_, Err(error)) if matches!(error.fault(), Fault::Budget | Fault::Overload) => ShadowOutcome::Starved,
        (StableAnswer::Failed, Ok(_)) => ShadowOutcome::OnlyStableFailed,
        (StableAnswer::Failed, Err(_)) => ShadowOutcome::BothFailed,
        (_, Err(_)) => ShadowOutcome::OnlyShadowFailed,
        (_, Ok(_)) => ShadowOutcome::Compared,
    };
    if let (ShadowOutcome::Compared, Ok(its_answer)) = (outcome, &its_answer) {
        pairs(&answer, its_answer).iter().for_each(|pair| counters.compared(pair.agrees, pair.distance));
        counters.took(took, stable_took);
    }
    if let (ShadowOutcome::OnlyShadowFailed, Err(error)) = (outcome, &its_answer) {
        let (model, version) = shadow.recorder.names();
        tracing::debug!(model, version, %error, "a copy of a request has failed, which the stable version has answered");
    }
    counters.ended(outcome);
}

fn pairs(stable: &StableAnswer, shadow: &StableAnswer) -> Vec<Pair> {
    match (stable, shadow) {
        (StableAnswer::Predictions(stable), StableAnswer::Predictions(shadow)) => compare_predictions(stable, shadow),
        (StableAnswer::Outputs(stable), StableAnswer::Outputs(shadow)) => vec![compare_outputs(stable, shadow)],
        (StableAnswer::Predictions(stable), _) => stable.iter().map(|_| Pair::DIFFERENT).collect(),
        _ => vec![Pair::DIFFERENT],
    }
}

/// Waits until no request waits for either version. Returns false if the deadline passes first.
fn wait_for_room(stable: &ServedVersion, shadow: &ServedVersion, deadline: Deadline) -> bool {
    let is_busy = |version: &ServedVersion| version.pipeline().is_some_and(|pipeline| pipeline.model.has_waiting());
    while is_busy(stable) || is_busy(shadow) {
        if deadline.check().is_err() {
            return false;
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
    deadline.check().is_ok()
}

/// Runs the stages of a version for a copied request.
fn answer_of(
    shadow: &ServedVersion,
    decode_body: impl FnOnce(&mut dyn FnMut(Input<'_>) -> Result<()>) -> Result<()>,
    deadline: Deadline,
) -> Ran {
    let mut prepared = None;
    let (read, preprocessing) = timed(|| {
        decode_body(&mut |input| {
            prepared = Some(prepare(shadow, input, None, deadline)?);
            Ok(())
        })
    });
    let model = pipeline_of(shadow).map(|pipeline| &pipeline.model);
    let prepared = read.and_then(|()| prepared.ok_or_else(|| Error::internal("a copy without an input")));
    let (PreparedRequest { prepared, asked, .. }, model) = match (prepared, model) {
        (Ok(prepared), Ok(model)) => (prepared, model),
        (Err(error), _) | (_, Err(error)) => return Ran::Answered(Err(error), preprocessing),
    };
    let Prepared { inputs, origin, .. } = prepared;
    let rows = inputs.rows();
    let (outputs, running) = match model.run_while_idle(inputs, deadline) {
        Ok(WhileIdle::Ran { outputs, took }) => (outputs, took),
        Ok(WhileIdle::GaveWay) => return Ran::Starved,
        Err(error) => return Ran::Answered(Err(error), preprocessing),
    };
    let (answer, postprocessing) = timed(|| match asked {
        Asked::Predictions => decode(shadow, &outputs, &origin, rows, deadline).map(StableAnswer::Predictions),
        Asked::Outputs(names) => asked_outputs(shadow, outputs, &names).map(StableAnswer::Outputs),
    });
    Ran::Answered(answer, preprocessing + running + postprocessing)
}
