//! The handler of predictions, whatever the path that led here: `admission.rs` has said whom they ask.

use std::pin::pin;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;

use super::HttpState;
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
    let write = move |predictions: &[_], version: &_| wire::answer_text(predictions, version, unique, &feedback);
    let predicted = {
        let arriving = pin!(body::read(&head.headers, &mut content, state.body_limit));
        admitted.predict(arriving, &state.blocking_threads, write).await
    };
    match predicted {
        Ok(answer) => Ok(wire::answer(answer)),
        Err(error) => {
            if matches!(error, Error::RequestTooLarge { .. }) {
                body::discard(&head.headers, &mut content, &error).await;
            }
            Err(error.into())
        }
    }
}
