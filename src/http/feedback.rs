//! The handler of feedback: what became of predictions.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use jiff::Timestamp;

use super::HttpState;
use super::body;
use super::error_response::Failure;
use super::wire::json;
use crate::error::Error;
use crate::feedback::Batch;

/// How long the body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);

/// `POST /feedback`
pub(super) async fn take(State(state): State<Arc<HttpState>>, request: Request) -> Result<Response, Failure> {
    let (head, mut content) = request.into_parts();
    if let Err(error) = body::check_json(&head.headers) {
        body::discard(&head.headers, &mut content, &error).await;
        return Err(error.into());
    }
    let read = tokio::time::timeout(BODY_TIME, pin!(body::read(&head.headers, &mut content, state.body_limit))).await;
    let bytes = match read.map_err(|_| Error::RequestTooSlow { limit: BODY_TIME })? {
        Ok(bytes) => bytes,
        Err(error) => {
            if matches!(error, Error::RequestTooLarge { .. }) {
                body::discard(&head.headers, &mut content, &error).await;
            }
            return Err(error.into());
        }
    };
    // A full body is milliseconds of work, which no prediction should wait for.
    let (feedback, snapshot) = (Arc::clone(&state.feedback), state.catalog.snapshot());
    let now = Duration::try_from(Timestamp::now().duration_since(Timestamp::UNIX_EPOCH)).unwrap_or_default();
    let judge = move || Ok::<_, Error>(feedback.judge(parse(&bytes)?, &snapshot, now));
    let judged = tokio::task::spawn_blocking(judge).await.map_err(Error::internal)??;
    Ok(json(&state.feedback.take(judged, &state.monitor).await?)?)
}

fn parse(bytes: &[u8]) -> Result<Batch, Error> {
    Batch::read(bytes).map_err(|problem| {
        let form = r#"{"feedback": [{"prediction_id": "...", "label": ...}]}"#;
        Error::InvalidInput(format!("the body is not feedback: {problem}; it has to be {form}"))
    })
}
