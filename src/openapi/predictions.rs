//! Documentation that all endpoints for predictions have.

use serde_json::{Value, json};

use super::operation::Operation;

/// Headers of an answer with predictions or outputs.
pub(super) const ANSWER_HEADERS: [&str; 2] = ["X-Model-Version", "Server-Timing"];

/// Returns the documentation of an endpoint for predictions, without its body and its answer.
pub(super) fn prediction(id: &str) -> Operation {
    let timeout = json!({ "type": "integer", "minimum": 1 });
    Operation::new(id, "predictions")
        .parameter("header", "X-Request-Timeout-Ms", "How long the caller waits, in milliseconds.", &timeout)
        .parameter(
            "header",
            "X-Priority",
            "Which requests go first; normal by default.",
            &json!({ "enum": ["high", "normal", "low"] }),
        )
        .parameter(
            "header",
            "X-Routing-Key",
            "A user, a session or a device: the same key always gets the same version.",
            &json!({ "type": "string", "minLength": 1, "maxLength": 256 }),
        )
        .parameter(
            "header",
            "X-Leeway-Synthetic",
            "True for a request that is made up, as by a probe; it is not monitored.",
            &json!({ "type": "boolean" }),
        )
        .fails(&[404, 413, 415, 503, 504])
}

/// Adds the response with predictions.
pub(super) fn with_answer(operation: Operation, schema: Value) -> Operation {
    operation.responds(200, "A prediction for each instance.", Some(("application/json", schema)), &ANSWER_HEADERS)
}

/// Returns the schema of an answer with predictions of this schema.
pub(super) fn answer_of(prediction: &Value) -> Value {
    json!({
        "type": "object",
        "required": ["model", "prediction_ids", "predictions"],
        "properties": {
            "predictions": { "type": "array", "items": prediction },
            "model": { "$ref": "#/components/schemas/ModelIdentity" },
            "prediction_ids": { "type": "array", "items": { "type": "string" } },
        },
    })
}
