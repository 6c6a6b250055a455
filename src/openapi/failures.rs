//! The responses to requests that fail, by their status. `http/error_response.rs` writes them.

use serde_json::{Map, Value, json};

/// Statuses that every endpoint can respond with: the head of a request may be refused, and a handler may panic.
pub(super) const OF_EVERY_ENDPOINT: [u16; 5] = [400, 414, 431, 500, 501];

/// A response to requests that fail.
struct Failure {
    status: u16,
    description: &'static str,
    /// Headers that the response may have, beside `X-Request-Id`.
    headers: &'static [&'static str],
}

/// All responses to requests that fail.
const FAILURES: &[Failure] = &[
    Failure { status: 400, description: "The request is malformed, or does not fit the model.", headers: &[] },
    Failure { status: 401, description: "The credentials are missing or wrong.", headers: &["WWW-Authenticate"] },
    Failure { status: 403, description: "The sender may not do this.", headers: &[] },
    Failure { status: 404, description: "The model, the version or the path does not exist.", headers: &[] },
    Failure { status: 405, description: "The path does not accept this method.", headers: &["Allow"] },
    Failure { status: 408, description: "The body did not arrive in time.", headers: &["Connection"] },
    Failure { status: 409, description: "The deployment has changed meanwhile; `present` has it.", headers: &[] },
    Failure { status: 413, description: "The body is too large.", headers: &[] },
    Failure { status: 415, description: "The body has a media type or encoding that is not accepted.", headers: &[] },
    Failure { status: 422, description: "The change cannot be made now.", headers: &[] },
    Failure { status: 500, description: "The model or the server failed.", headers: &[] },
    Failure { status: 501, description: "The transfer encoding is not supported.", headers: &["Connection"] },
    Failure { status: 503, description: "Too little capacity now, or not served now.", headers: &["Retry-After"] },
    Failure { status: 504, description: "The deadline of the request passed.", headers: &[] },
];

/// Statuses without a problem document: the request did not reach a handler.
const WITHOUT_BODY: [(u16, &str); 2] = [(414, "The URI is too long."), (431, "The head of the request is too large.")];

/// Returns a reference to the response with this status.
pub(super) fn reference(status: u16) -> Value {
    json!({ "$ref": format!("#/components/responses/Problem{status}") })
}

/// Returns the responses, as components of a document.
pub(super) fn components() -> Map<String, Value> {
    let problem = |failure: &Failure| {
        let headers: Map<String, Value> = ["X-Request-Id"]
            .iter()
            .chain(failure.headers)
            .map(|name| ((*name).to_owned(), json!({ "$ref": format!("#/components/headers/{name}") })))
            .collect();
        let schema = json!({ "schema": { "$ref": "#/components/schemas/Problem" } });
        // Plain JSON on the paths of protocols whose clients expect it.
        let content = json!({ "application/problem+json": schema, "application/json": schema });
        let response = json!({ "description": failure.description, "headers": headers, "content": content });
        (format!("Problem{}", failure.status), response)
    };
    let without_body =
        WITHOUT_BODY.iter().map(|(status, text)| (format!("Problem{status}"), json!({ "description": text })));
    FAILURES.iter().map(problem).chain(without_body).collect()
}

/// Returns the headers of responses, as components of a document.
pub(super) fn headers() -> Value {
    let text = |description: &str| json!({ "description": description, "schema": { "type": "string" } });
    let whole =
        |description: &str| json!({ "description": description, "schema": { "type": "integer", "minimum": 1 } });
    json!({
        "X-Request-Id": text("The id of the request: the caller's, or else a new one."),
        "X-Model-Version": whole("The version that answered."),
        "Server-Timing": text("Milliseconds in each stage: net, pre, queue, infer and post."),
        "Retry-After": whole("Seconds after which to try again. Absent if waiting would not help."),
        "Allow": text("The methods that the path accepts."),
        "Connection": text("close: the connection is not used again."),
        "WWW-Authenticate": text("The scheme of the credentials."),
        "ETag": text("The state of the document, for If-None-Match."),
        "Location": text("The page to go to."),
    })
}
