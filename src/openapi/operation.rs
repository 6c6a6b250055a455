//! Documentation of an endpoint.

use serde_json::{Map, Value, json};

use super::failures;
use crate::api::routes::Method;

/// Documentation of an endpoint, without what the table of endpoints says about it.
pub(super) struct Operation {
    id: String,
    tag: &'static str,
    summary: Option<String>,
    description: Option<String>,
    /// References to path parameters, with others that belong to the same names.
    parameters: Vec<Value>,
    body: Option<Value>,
    responses: Map<String, Value>,
    failures: Vec<u16>,
    access: Access,
}

/// Credentials that a caller needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Credentials as stated for all endpoints of the document.
    OfDocument,
    /// Nothing.
    Open,
    /// The token of operators.
    Token,
}

impl Operation {
    /// Creates the documentation of an endpoint. `id` becomes the name of a method in generated clients.
    pub(super) fn new(id: impl Into<String>, tag: &'static str) -> Operation {
        Operation {
            id: id.into(),
            tag,
            summary: None,
            description: None,
            parameters: Vec::new(),
            body: None,
            responses: Map::new(),
            failures: failures::OF_EVERY_ENDPOINT.to_vec(),
            access: Access::OfDocument,
        }
    }

    /// Sets the group of the endpoint.
    pub(super) fn tag(mut self, tag: &'static str) -> Operation {
        self.tag = tag;
        self
    }

    /// Sets the summary, if it is not that of the table of endpoints.
    pub(super) fn summary(mut self, text: impl Into<String>) -> Operation {
        self.summary = Some(text.into());
        self
    }

    pub(super) fn description(mut self, text: impl Into<String>) -> Operation {
        self.description = Some(text.into());
        self
    }

    /// Adds an optional query parameter or request header.
    pub(super) fn parameter(mut self, place: &str, name: &str, description: &str, schema: &Value) -> Operation {
        self.parameters.push(json!({ "in": place, "name": name, "description": description, "schema": schema }));
        self
    }

    /// Adds the parameters of a query, with their schemas.
    pub(super) fn query(mut self, parameters: Vec<(String, Value)>) -> Operation {
        let parameter = |(name, mut schema): (String, Value)| {
            let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            json!({ "in": "query", "name": name, "description": description.unwrap_or_default(), "schema": schema })
        };
        self.parameters.extend(parameters.into_iter().map(parameter));
        self
    }

    /// Sets the JSON body of the request.
    pub(super) fn body(self, schema: Value, example: Option<Value>) -> Operation {
        self.body_as("application/json", schema, example)
    }

    /// Allows requests without a body.
    pub(super) fn optional_body(mut self) -> Operation {
        if let Some(body) = self.body.as_mut().and_then(Value::as_object_mut) {
            body.insert("required".to_owned(), false.into());
        }
        self
    }

    /// Adds a media type that the body of the request may have.
    pub(super) fn body_as(mut self, media_type: &str, schema: Value, example: Option<Value>) -> Operation {
        let body = self.body.get_or_insert_with(|| json!({ "required": true, "content": {} }));
        body["content"][media_type] = content(schema, example);
        self
    }

    /// Adds the response with status 200 as JSON.
    pub(super) fn answers(self, description: &str, schema: Value) -> Operation {
        self.responds(200, description, Some(("application/json", schema)), &[])
    }

    /// Adds a response, with headers beside `X-Request-Id`.
    pub(super) fn responds(
        mut self,
        status: u16,
        description: &str,
        body: Option<(&str, Value)>,
        headers: &[&str],
    ) -> Operation {
        let reference = |name: &&str| ((*name).to_owned(), json!({ "$ref": format!("#/components/headers/{name}") }));
        let headers: Map<String, Value> = ["X-Request-Id"].iter().chain(headers).map(reference).collect();
        let mut response = json!({ "description": description, "headers": headers });
        if let Some((media_type, schema)) = body {
            response["content"] = json!({ media_type: content(schema, None) });
        }
        self.responses.insert(status.to_string(), response);
        self
    }

    /// Adds a media type that the response with status 200 may have, without a schema of its content.
    pub(super) fn also_answers(mut self, media_type: &str) -> Operation {
        if let Some(response) = self.responses.get_mut("200") {
            response["content"][media_type] = content(json!({ "type": "string" }), None);
        }
        self
    }

    /// Adds statuses of requests that fail, beside those that every endpoint has.
    pub(super) fn fails(mut self, statuses: &[u16]) -> Operation {
        self.failures.extend(statuses);
        self
    }

    /// Marks an endpoint that needs the token of operators, if one is configured.
    pub(super) fn needs_token(mut self) -> Operation {
        self.access = Access::Token;
        self
    }

    /// Marks an endpoint that needs no key, even if keys are configured.
    pub(super) fn open(mut self) -> Operation {
        self.access = Access::Open;
        self
    }

    /// Adds the status of a request without a key, unless the endpoint needs none.
    pub(super) fn with_keys(self) -> Operation {
        if self.access == Access::Open { self } else { self.fails(&[401]) }
    }

    /// Adds the operation to the paths of a document.
    pub(super) fn add_to(self, paths: &mut Map<String, Value>, (method, path, purpose): (Method, &str, &str)) {
        let mut parameters: Vec<Value> = [("{model}", "model"), ("{version}", "version")]
            .into_iter()
            .filter(|(braces, _)| path.contains(braces))
            .map(|(_, name)| json!({ "$ref": format!("#/components/parameters/{name}") }))
            .collect();
        parameters.extend(self.parameters);
        parameters.push(json!({ "$ref": "#/components/parameters/X-Request-Id" }));
        let mut responses = self.responses;
        for status in self.failures {
            responses.entry(status.to_string()).or_insert_with(|| failures::reference(status));
        }
        let summary = self.summary.unwrap_or_else(|| purpose.trim_end_matches('.').to_owned());
        let mut operation = json!({
            "operationId": self.id, "tags": [self.tag], "summary": summary, "parameters": parameters,
            "responses": responses,
        });
        if let Some(description) = self.description {
            operation["description"] = description.into();
        }
        if let Some(body) = self.body {
            operation["requestBody"] = body;
        }
        match self.access {
            Access::OfDocument => {}
            Access::Open => operation["security"] = json!([]),
            Access::Token => operation["security"] = json!([{ "adminToken": [] }]),
        }
        let item = paths.entry(path).or_insert_with(|| Value::Object(Map::new()));
        item[method.to_string().to_ascii_lowercase()] = operation;
    }
}

/// Returns the description of a body of one media type.
fn content(schema: Value, example: Option<Value>) -> Value {
    let example = example.map(|example| ("example".to_owned(), example));
    std::iter::once(("schema".to_owned(), schema)).chain(example).collect()
}
