//! The table of endpoints and the types of answers: routers, index, documentation and commands agree with them.

use std::collections::BTreeSet;
use std::fmt::Debug;

use leeway::api::admin::{ChangeOutcome, History, ModelDrift, ModelStatus, Overview, VersionStatus};
use leeway::api::health::{Index, Live, Ready};
use leeway::api::models::{ModelVersionView, ModelView, Models};
use leeway::api::problem::Problem;
use leeway::api::routes::{AdminEndpoint, DataEndpoint, Method};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::harness::{Answer, TestApp, checkout};

/// All endpoints, as in `GET /livez`.
fn endpoints() -> BTreeSet<String> {
    let data = DataEndpoint::ALL.iter().map(DataEndpoint::to_string);
    data.chain(AdminEndpoint::ALL.iter().map(AdminEndpoint::to_string)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_is_served_and_says_which_method_it_answers() {
    let app = TestApp::start().await;
    let data = DataEndpoint::ALL.iter().map(|endpoint| (app.data, endpoint.method(), endpoint.path()));
    let admin = AdminEndpoint::ALL.iter().map(|endpoint| (app.admin, endpoint.method(), endpoint.path()));
    for (address, method, path) in data.chain(admin) {
        let url = format!("http://{address}{}", path.replace("{model}", "digits").replace("{version}", "1"));
        let other = app.client.delete(url).header("content-type", "application/json").send().await.unwrap();
        let allowed = other.headers()["allow"].to_str().unwrap();
        // Endpoints that share a path are all named.
        let is_named = method.allowed().split(", ").all(|own| allowed.split(", ").any(|named| named == own));
        assert!(other.status() == 405 && is_named, "{path}: {} {allowed}", other.status());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_has_every_endpoint_of_the_admin_listener() {
    let app = TestApp::start().await;
    let Index { endpoints, .. } = serde_json::from_str(&app.admin_get("/").await.text).unwrap();
    assert_eq!(endpoints, AdminEndpoint::ALL.iter().map(AdminEndpoint::to_string).collect::<Vec<_>>());
}

/// Returns the endpoints that a document names in backticks: `GET /livez`.
fn named_in(text: &str) -> impl Iterator<Item = &str> {
    let methods = [Method::Get, Method::Post, Method::Put].map(|method| format!("{method} /"));
    let named = text.split('`').skip(1).step_by(2);
    named.filter(move |named| methods.iter().any(|method| named.starts_with(method)))
}

#[test]
fn the_api_reference_has_every_endpoint_and_no_other() {
    let text = std::fs::read_to_string(checkout().join("docs/http-api.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let documented: BTreeSet<String> = rows.filter_map(|row| named_in(row).next()).map(str::to_owned).collect();
    assert_eq!(documented, endpoints());
}

/// Returns true if a text is this endpoint, with or without values in the place of braces.
fn is(text: &str, endpoint: &str) -> bool {
    let (text, endpoint) = (text.split('?').next().unwrap().split('/'), endpoint.split('/'));
    let is_part = |(part, declared): (&str, &str)| match declared.split_once('}') {
        Some((_, "")) => !part.contains(':'),
        Some((_, action)) => part.ends_with(action),
        None => part == declared,
    };
    text.clone().count() == endpoint.clone().count() && text.zip(endpoint).all(is_part)
}

#[test]
fn the_documentation_names_no_endpoint_that_is_not_there() {
    let endpoints = endpoints();
    let mut count = 0;
    let documents = std::fs::read_dir(checkout().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let documents = documents.chain([checkout().join("README.md")]);
    for document in documents.filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        for named in named_in(&std::fs::read_to_string(&document).unwrap()) {
            assert!(endpoints.iter().any(|endpoint| is(named, endpoint)), "{}: {named}", document.display());
            count += 1;
        }
    }
    assert!(count > endpoints.len(), "{count}");
}

/// An answer can be parsed as its type, and serializes to the same text again.
fn check<T: Serialize + DeserializeOwned + Debug>(answer: &Answer) {
    let read: T = serde_json::from_str(&answer.text).unwrap_or_else(|error| panic!("{error}: {}", answer.text));
    assert_eq!(serde_json::to_string(&read).unwrap(), answer.text, "{read:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_of_its_type() {
    let app = TestApp::start().await;
    check::<Models>(&app.get("/v1/models").await);
    check::<ModelView>(&app.get("/v1/models/digits").await);
    check::<ModelVersionView>(&app.get("/v1/models/digits/versions/1").await);
    check::<Live>(&app.get("/livez").await);
    check::<Ready>(&app.get("/readyz").await);
    check::<Index>(&app.admin_get("/").await);

    let digits = "/admin/v1/models/digits";
    let promoted = app.admin_post(&format!("{digits}/promote"), json!({ "version": 1, "by": "ada" })).await;
    check::<ChangeOutcome>(&promoted);
    check::<ChangeOutcome>(
        &app.admin_put(&format!("{digits}/traffic"), json!({ "shares": {"1": 90.5, "2": 9.5} })).await,
    );
    check::<ChangeOutcome>(&app.admin_post(&format!("{digits}/rollback"), json!({})).await);
    check::<Overview>(&app.admin_get("/admin/v1/models").await);
    check::<Overview>(&app.admin_post("/admin/v1/reload", json!({})).await);
    check::<ModelStatus>(&app.admin_get(digits).await);
    check::<VersionStatus>(&app.admin_get(&format!("{digits}/versions/2")).await);
    check::<VersionStatus>(&app.admin_post(&format!("{digits}/versions/2/load"), json!({})).await);
    check::<History>(&app.admin_get(&format!("{digits}/history")).await);
    // Nothing has been compared yet, so its indexes are null.
    check::<ModelDrift>(&app.admin_get(&format!("{digits}/drift")).await);
    check::<Problem>(&app.get("/v1/models/nobody").await);
    check::<Problem>(&app.admin_get("/admin/v1/nothing").await);
    let conflict = app.admin_post(&format!("{digits}/rollback"), json!({ "if_generation": 1 })).await;
    assert_eq!(conflict.status, 409, "{}", conflict.text);
    check::<Problem>(&conflict);
}
