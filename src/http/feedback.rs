//! The handler of feedback on predictions.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::response::Response;
use jiff::Timestamp;

use super::HttpState;
use super::activity::AboveLimit;
use super::body::{self, BodyLimit, is_unread};
use super::context::{Failure, RequestContext};
use super::json_answer::json_held_anyway;
use crate::budget::Deadline;
use crate::error::Error;
use crate::feedback::Batch;
use crate::stage::{Stage, Timings};

/// Time limit for the arrival of a feedback body.
const BODY_TIME: Duration = Duration::from_secs(10);

/// Time limit from the head of the request until the feedback is judged.
const WORK_TIME: Duration = Duration::from_secs(20);

/// `POST /feedback`
pub(super) async fn take(State(state): State<Arc<HttpState>>, request: Request) -> Result<Response, Failure> {
    let (mut head, mut content) = request.into_parts();
    let &RequestContext { started, above_limit, .. } = RequestContext::of(&head)?;
    if let Some(AboveLimit { limit }) = above_limit {
        return Err(Error::TooManyConnections { limit: limit.get() }.into());
    }
    let coding = match body::check_json(&head.headers) {
        Ok(coding) => coding,
        Err(error) => {
            body::discard(&head, &mut content, &error).await;
            return Err(error.into());
        }
    };
    let limit = BodyLimit::of_feedback(state.feedback_body_limit);
    let mut content = body::decoded(&mut head, content, coding, limit.bytes, &state.body_memory)?;
    let read = {
        let reading = pin!(body::read(&head.headers, &mut content, limit, &state.body_memory));
        tokio::time::timeout(BODY_TIME, reading).await
    };
    let arrived = match read.map_err(|_| Error::RequestTooSlow { limit: BODY_TIME })? {
        Ok(arrived) => arrived,
        Err(error) => {
            if is_unread(&error) {
                body::discard(&head, &mut content, &error).await;
            }
            return Err(error.into());
        }
    };
    // Judging a large body takes milliseconds. It runs on the threads for heavy stages, so as not to delay predictions.
    let (feedback, snapshot) = (Arc::clone(&state.feedback), state.catalog.snapshot());
    let now = Duration::try_from(Timestamp::now().duration_since(Timestamp::UNIX_EPOCH)).unwrap_or_default();
    let judge = move || Ok::<_, Error>(feedback.judge(parse(&arrived.whole())?, &snapshot, now));
    let deadline = Deadline::after(started, WORK_TIME);
    let judged = state.blocking_threads.run(deadline, &state.feedback_cost, judge).await;
    let judged = judged.unwrap_or_else(|| Err(expired(started)))?;
    let taken = Arc::clone(&state.feedback).take(judged, Arc::clone(&state.monitor)).await?;
    Ok(json_held_anyway(&taken, &state.body_memory)?)
}

/// Returns the error for feedback that could not be processed in time.
fn expired(started: Instant) -> Error {
    let mut spent = Timings::default();
    spent.set(Stage::Preprocess, started.elapsed());
    Error::Expired { stage: Stage::Preprocess, spent }
}

fn parse(bytes: &[u8]) -> Result<Batch, Error> {
    Batch::read(bytes).map_err(|problem| {
        let form = r#"{"feedback": [{"prediction_id": "...", "label": ...}]}"#;
        Error::InvalidInput(format!("the body is not feedback: {problem}; it has to be {form}"))
    })
}
