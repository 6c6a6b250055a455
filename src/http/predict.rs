//! The handler of predictions, whatever the path that led here: `admission.rs` has said whom they ask.

use std::pin::pin;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;

use super::HttpState;
use super::body::{BodyLimit, is_unread};
use super::error_response::Failure;
use super::request_context::RequestContext;
use super::{body, wire};
use crate::error::Error;
use crate::serve::Admitted;

/// `POST /predict`, `POST /v1/models/{model}:predict`, `POST /v1/models/{model}/versions/{version}:predict`
pub(super) async fn predict(State(state): State<Arc<HttpState>>, request: Request) -> Result<Response, Failure> {
    let (mut head, mut content) = request.into_parts();
    let (unique, feedback) = (RequestContext::of(&head.extensions)?.unique, Arc::clone(&state.feedback));
    let admitted =
        head.extensions.remove::<Admitted>().ok_or_else(|| Error::internal("a prediction that nobody has admitted"))?;
    let memory = state.body_memory.clone();
    let write = move |predictions: &[_], version: &_| {
        wire::held(wire::answer_text(predictions, version, unique, &feedback)?, &memory)
    };
    let predicted = {
        let limit = BodyLimit::of_predictions(state.body_limit);
        let arriving = pin!(body::read(&head.headers, &mut content, limit, &state.body_memory));
        admitted.predict(arriving, &state.blocking_threads, write).await
    };
    match predicted {
        Ok(answer) => Ok(wire::answer(answer)),
        Err(error) => {
            if is_unread(&error) {
                body::discard(&head, &mut content, &error).await;
            }
            Err(error.into())
        }
    }
}
