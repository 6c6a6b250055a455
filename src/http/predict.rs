//! The handler of predictions: reads `{"instances": […]}` or the raw bytes of one instance, and responds with
//! `{"predictions": […]}`.

use std::pin::pin;
use std::sync::Arc;

use axum::response::Response;

use super::admission::AdmittedRequest;
use super::body::{self, BodyLimit, is_unread};
use super::context::Failure;
use super::{HttpState, json_answer};
use crate::budget::ArrivedBytes;
use crate::error::{Error, Result};
use crate::pipeline::instances;
use crate::registry::ServedVersion;
use crate::serve::{EncodedRequest, Input, Output};

/// The body of a prediction request.
struct PredictBody {
    arrived: ArrivedBytes,
    /// Media type, if the body is the raw bytes of one instance.
    media_type: Option<&'static str>,
}

impl EncodedRequest for PredictBody {
    type AnswerForm = ();

    fn size(&self) -> usize {
        self.arrived.len()
    }

    fn decode<T>(self, with: impl FnOnce(Input<'_>) -> Result<T>) -> Result<(T, ())> {
        let bytes = self.arrived.whole();
        let input = match self.media_type {
            None => Input::Instances(instances(&bytes)?),
            Some(media_type) => Input::Media { media_type, bytes: &bytes },
        };
        Ok((with(input)?, ()))
    }
}

/// `POST /predict`, `POST /v1/models/{model}:predict`, `POST /v1/models/{model}/versions/{version}:predict`
pub(super) async fn predict(state: Arc<HttpState>, request: AdmittedRequest) -> Result<Response, Failure> {
    let AdmittedRequest { admitted, unique, head, mut content } = request;
    let (feedback, memory) = (Arc::clone(&state.feedback), state.body_memory.clone());
    let encode = move |output: Output<'_>, (), version: &ServedVersion| match output {
        Output::Predictions(predictions) => {
            json_answer::held(json_answer::answer_text(predictions, version, unique, &feedback)?, &memory)
        }
        Output::Named(_) => Err(Error::internal("instances were answered with tensors")),
    };
    let predicted = {
        let (limit, media_type) = (BodyLimit::of_predictions(state.body_limit), admitted.media_type());
        let body = body::read(&head.headers, &mut content, limit, &state.body_memory);
        let arriving = pin!(async { Ok(PredictBody { arrived: body.await?, media_type }) });
        admitted.infer(arriving, &state.blocking_threads, encode).await
    };
    match predicted {
        Ok(answer) => Ok(json_answer::answer(answer)),
        Err(error) => {
            if is_unread(&error) {
                body::discard(&head, &mut content, &error).await;
            }
            Err(error.into())
        }
    }
}
