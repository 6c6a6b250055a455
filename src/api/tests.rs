//! Tests that every type of the API is the same after writing and reading, and that responses of newer servers can be
//! read.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::admin::*;
use super::feedback::Taken;
use super::health::{Index, Live, Ready};
use super::models::{ModelView, Models, TensorFlowVersion, TensorView, VersionView};
use super::problem::Problem;

/// Checks that a value is the same after writing and reading, and that it is written as this JSON.
fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(json: &Value) -> T {
    let value: T = serde_json::from_str(&json.to_string()).unwrap_or_else(|error| panic!("{error}: {json}"));
    let text = serde_json::to_string(&value).unwrap();
    assert_eq!(serde_json::from_str::<T>(&text).unwrap(), value, "{text}");
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), *json);
    value
}

/// Adds an unknown member to every object that is not a map, as a newer server may do.
fn with_news(json: &Value) -> Value {
    const MAPS: [&str; 7] = ["traffic", "before", "deployed_at", "metrics", "tags", "files", "unserved"];
    match json {
        Value::Object(members) => {
            let with = |(name, value): (&String, &Value)| {
                let is_map = MAPS.contains(&name.as_str());
                (name.clone(), if is_map { value.clone() } else { with_news(value) })
            };
            members.iter().map(with).chain([("news".to_owned(), json!({ "of": ["a newer server"] }))]).collect()
        }
        Value::Array(elements) => elements.iter().map(with_news).collect(),
        other => other.clone(),
    }
}

fn answer<T: Serialize + DeserializeOwned + PartialEq + Debug>(json: &Value) {
    let value = round_trip::<T>(json);
    let newer = serde_json::from_value::<T>(with_news(json)).unwrap_or_else(|error| panic!("{error}: {json}"));
    assert_eq!(newer, value);
}

fn request<T: Serialize + DeserializeOwned + PartialEq + Debug>(json: &Value) {
    round_trip::<T>(json);
    let error = serde_json::from_value::<T>(with_news(json)).unwrap_err();
    assert!(error.to_string().starts_with("unknown field `news`, expected"), "{error}");
}

fn deployment() -> Value {
    json!({
        "model": "digits", "generation": 7, "stable": 2, "traffic": { "2": 87.5, "10": 12.5 }, "rollback_path": [1],
        "deployed_at": { "2": "2026-11-24T09:30:00Z", "10": "2026-11-25T09:30:00.25Z" },
        "action": "traffic", "by": "ada", "reason": "canary", "at": "2026-11-25T09:30:00.25Z",
    })
}

fn batching(rows: &Value) -> Value {
    json!({ "setting": "auto", "on": false, "rows": rows, "explanation": "because" })
}

const SHA256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn loaded() -> Value {
    json!({
        "version": 10, "state": "loaded", "stable": false, "traffic_percent": 12.5,
        "deployed_at": "2026-11-25T09:30:00.25Z", "loaded_at": "2026-11-25T09:29:00Z", "load_ms": 1500,
        "sessions": "own_processes", "batching": batching(&json!({ "finding": "independent", "difference": 1e-7 })),
        "remarks": ["a remark"], "sha256": SHA256, "reload_problem": "no memory", "altered": "other weights",
        "manifest": {
            "format": 1, "description": "digits", "framework": "scikit-learn 1.8", "trained_at": "2026-11-24",
            "dataset": "digits-v7", "added_at": "2026-11-24T10:00:00Z", "metrics": { "accuracy": 0.978 },
            "tags": { "team": "a" }, "files": { "model.onnx": SHA256 },
        },
    })
}

fn version(state: &Value) -> Value {
    let mut version = json!({ "version": 3, "stable": false, "traffic_percent": 0 });
    version.as_object_mut().unwrap().extend(state.as_object().unwrap().clone());
    version
}

fn model() -> Value {
    json!({
        "model": "digits", "unserved": "version 3 was refused", "deployment": deployment(), "config_problem": "a",
        "deployment_problem": "b", "unwritten": "c", "versions": [loaded(), version(&json!({ "state": "available" }))],
    })
}

#[test]
fn versions_have_every_state() {
    answer::<VersionStatus>(&loaded());
    answer::<VersionStatus>(&version(&json!({ "state": "available" })));
    for step in ["waiting", "verifying", "trying", "opening"] {
        let loading = version(&json!({ "state": "loading", "step": step, "since": "2026-11-24T09:30:00Z" }));
        answer::<VersionStatus>(&loading);
        let VersionState::Loading { step: read, .. } = round_trip::<VersionStatus>(&loading).state else { panic!() };
        assert_eq!(read.name(), step);
    }
    for fault in crate::error::LoadFault::ALL {
        let refused = json!({ "state": "refused", "fault": fault.name(), "problem": "add it again" });
        answer::<VersionStatus>(&version(&refused));
    }
    for rows in [
        json!({ "finding": "dependent", "output": "y", "cause": "other_rows", "difference": 0.5 }),
        json!({ "finding": "unknown", "reason": "a shape had to be guessed" }),
        json!({ "finding": "fixed_batch", "rows": 4 }),
    ] {
        answer::<crate::model::BatchingStatus>(&batching(&rows));
    }
}

#[test]
fn the_status_and_the_history_are_read_as_they_were_written() {
    answer::<Overview>(&json!({ "models": [model()], "problems": ["no model"], "loading": ["digits version 3"] }));
    answer::<Overview>(&json!({ "models": [], "problems": [] }));
    answer::<ModelStatus>(&model());
    answer::<History>(&json!({ "deployments": [deployment()] }));
    let before = json!({ "2": 100 });
    answer::<ChangeOutcome>(&json!({ "changed": true, "deployment": deployment(), "before": before }));
    answer::<ChangeOutcome>(
        &json!({ "changed": true, "deployment": deployment(), "before": before, "unwritten": "a full disk" }),
    );
    for action in [Action::Discover, Action::Traffic, Action::Promote, Action::Rollback, Action::File, Action::Shadow] {
        assert_eq!(serde_json::to_value(action).unwrap(), action.name());
    }
}

#[test]
fn changes_and_queries_refuse_what_they_do_not_know() {
    let note = |member: &str, value: Value| {
        let mut change = json!({ "by": "ada", "reason": "errors", "if_generation": 7 });
        change.as_object_mut().unwrap().insert(member.to_owned(), value);
        change
    };
    request::<PromoteChange>(&note("version", json!(2)));
    request::<ShadowChange>(&note("percent", json!(20)));
    request::<RollbackChange>(&note("if_generation", Value::Null));
    request::<HistoryQuery>(&json!({ "limit": 5, "before": 12 }));
    request::<DriftQuery>(&json!({ "version": 2, "window_s": 3600 }));
    let text = note("shares", json!({ "2": 87.5, "10": 12.5 })).to_string();
    let change: TrafficChange = serde_json::from_str(&text).unwrap();
    let written = serde_json::to_string(&change).unwrap();
    assert_eq!(serde_json::from_str::<TrafficChange>(&written).unwrap(), change);
    let error = serde_json::from_str::<TrafficChange>(r#"{"shares": {"2": 100}, "force": true}"#).unwrap_err();
    let expected = "unknown field `force`, expected one of `shares`, `by`, `reason`, `if_generation`";
    assert!(error.to_string().starts_with(expected), "{error}");
    let nothing: RollbackChange = serde_json::from_str("{}").unwrap();
    assert_eq!((nothing.by.as_str(), nothing.reason.as_str(), nothing.if_generation), ("", "", None));
}

fn drift(psi: &Value) -> Value {
    let bin = json!({
        "bin": "0", "baseline_count": 1437, "window_count": 455, "baseline_ratio": 0.9986, "window_ratio": psi,
    });
    let share = json!({
        "of": "above", "status": "drifted", "lasts": true, "baseline_share": 0.0, "window_share": psi,
        "independent_count": 40, "p_value": psi, "q_value": psi,
    });
    let feature = json!({
        "name": "pixels[39]", "status": "warning", "psi": psi, "psi_adjusted": psi, "kl_window_from_baseline": psi,
        "kl_baseline_from_window": psi, "jensen_shannon": psi, "kolmogorov_smirnov": 0.25, "wasserstein": 0.5,
        "baseline_summary": { "mean": 1.5, "deviation": 0.5, "median": 1.25 },
        "window_summary": { "mean": 2.5, "deviation": 0.5, "median": 2.25 }, "z": psi, "p_value": psi, "q_value": psi,
        "lasts": true, "window_count": 1000, "baseline_count": 1437, "independent_count": 900, "shares": [share],
        "bins": [bin],
    });
    json!({
        "model": "digits", "enabled": true,
        "versions": [{
            "version": 2, "baseline_rows": 1437, "status": "drifted", "window_s": 5.25, "rows": 1000,
            "verdict": { "status": "warning", "reason": "recent_window", "features": ["pixels[39]"] },
            "features": [feature], "predictions": [], "not_watched": ["pixels[0]"],
        }],
    })
}

#[test]
fn drift_is_read_as_it_was_written() {
    answer::<ModelDrift>(&drift(&json!(0.25)));
    // A missing index is read as NaN, which does not equal itself.
    let nothing = drift(&Value::Null);
    let read: ModelDrift = serde_json::from_value(nothing.clone()).unwrap();
    assert!(read.versions[0].report.features[0].drift.psi.is_nan());
    assert_eq!(serde_json::to_value(&read).unwrap(), nothing);
    for status in crate::monitor::DriftStatus::ALL {
        assert_eq!(serde_json::to_value(status).unwrap(), status.name());
    }
}

#[test]
fn what_is_served_is_read_as_it_was_written() {
    let tensor = json!({ "name": "x", "datatype": "float32", "shape": [-1, 64] });
    let status = json!({ "version": "2", "state": "AVAILABLE", "status": { "error_code": "OK", "error_message": "" } });
    let version = json!({
        "version": 2, "stable": true, "traffic_percent": 100, "sha256": SHA256, "provider": "cpu", "workers": 2,
        "intra_op_threads": 1, "budget_ms": 200, "batching": batching(&json!({ "finding": "fixed_batch", "rows": 1 })),
        "inputs": [tensor], "outputs": [tensor],
    });
    let model = json!({
        "name": "digits", "ready": false, "reason": "stuck", "description": "digits", "default": true,
        "model_version_status": [status], "versions": [version],
    });
    answer::<Models>(&json!({ "models": [model] }));
    answer::<ModelView>(&model);
    answer::<TensorFlowVersion>(&status);
    answer::<VersionView>(&version);
    answer::<TensorView>(&tensor);
}

#[test]
fn health_and_problems_are_read_as_they_were_written() {
    answer::<Live>(&json!({ "live": true }));
    answer::<Ready>(&json!({ "ready": true }));
    answer::<Ready>(&json!({ "ready": true, "unserved": { "log": "no version" } }));
    answer::<Index>(&json!({ "name": "leeway", "version": "1.0.0", "endpoints": ["GET /"] }));
    let problem = |members: &Value| {
        let mut problem = json!({
            "type": "urn:leeway:problem:conflict", "title": "Deployment changed", "status": 409,
            "detail": "a \"quoted\" detail", "request_id": "a",
        });
        problem.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        problem
    };
    answer::<Problem<'_>>(&problem(&json!({})));
    answer::<Problem<'_>>(&problem(&json!({ "error": "a detail" })));
    // The deployment in a problem is kept as plain JSON, so unknown members need no test.
    round_trip::<Problem<'_>>(&problem(&json!({ "present": deployment() })));
}

#[test]
fn the_answer_to_feedback_is_read_as_it_was_written() {
    let problem = json!({ "index": 3, "result": "late", "detail": "the prediction was made 9 days ago" });
    round_trip::<Taken>(&json!({ "results": { "joined": 2, "late": 1 }, "problems": [problem] }));
}
