use serde_json::json;

use super::*;
use crate::monitor::{DriftVerdict, Interval};

/// A server without problems: one model with a refused version 3 where `version` has members of it.
fn facts() -> AlertFacts {
    let overview = json!({
        "problems": [],
        "models": [{
            "model": "digits",
            "deployment": {
                "model": "digits", "generation": 4, "stable": 2, "traffic": {"2": 100}, "rollback_path": [],
                "deployed_at": {"2": "2026-11-28T00:00:00Z"}, "action": "promote", "by": "ada", "reason": "",
                "at": "2026-11-28T00:00:00Z",
            },
            "versions": [
                {"version": 3, "state": "available", "stable": false, "traffic_percent": 0},
                {"version": 2, "state": "loaded", "stable": true, "traffic_percent": 100},
            ],
        }],
    });
    let stats = AttentionStats {
        recent: RecentRequests { counted: 1_000, ..RecentRequests::default() },
        current: RecentRequests { counted: 100, ..RecentRequests::default() },
        drift: DriftVerdict::default(),
        labels: 0,
        accuracy: None,
        baseline_accuracy: None,
        worker_restarts: 0,
    };
    AlertFacts {
        at: "2026-11-28T04:00:00Z".parse().unwrap(),
        overview: serde_json::from_value(overview).unwrap(),
        is_ready: true,
        certificates: Vec::new(),
        versions: vec![VersionFacts {
            model: "digits".parse().unwrap(),
            version: "2".parse().unwrap(),
            traffic: Share::ALL,
            is_stuck: false,
            stats,
        }],
        rollouts: Vec::new(),
    }
}

/// Checks the severity, the Prometheus alert and a part of the text of each alert after a change of the facts.
fn check(change: impl FnOnce(&mut AlertFacts), expected: &[(Severity, &str, &str)]) {
    let mut facts = facts();
    change(&mut facts);
    let found = alerts(&facts);
    let shown: Vec<String> = found.iter().map(|alert| format!("{alert:?}")).collect();
    assert_eq!(found.len(), expected.len(), "{shown:#?}");
    for (alert, (severity, name, text)) in found.iter().zip(expected) {
        assert_eq!((alert.severity, alert.alert.as_deref().unwrap_or_default()), (*severity, *name), "{alert:?}");
        assert!(format!("{}: {}", alert.title, alert.text).contains(text), "{alert:?}");
        assert_eq!(alert.alert.is_some(), alert.advice.is_some() && alert.runbook.is_some(), "{alert:?}");
    }
}

fn recent(facts: &mut AlertFacts, change: impl Fn(&mut RecentRequests)) {
    let stats = &mut facts.versions[0].stats;
    change(&mut stats.recent);
    change(&mut stats.current);
}

fn model(facts: &mut AlertFacts) -> &mut ModelStatus {
    &mut facts.overview.models[0]
}

#[test]
fn a_server_without_problems_has_no_alerts() {
    check(|_| (), &[]);
}

#[test]
fn requests_without_an_answer() {
    use Severity::{Note, Page, Ticket};
    let refused = |refused| move |facts: &mut AlertFacts| recent(facts, |requests| requests.refused = refused);
    check(refused(9), &[]);
    check(refused(20), &[(Note, "LeewayShedding", "20 of 1000 requests in the last 5 minutes (2.0%) were refused")]);
    check(refused(60), &[(Ticket, "LeewayShedding", "Version 2 of digits refuses requests")]);
    check(refused(400), &[(Page, "LeewayBudgetBurnFast", "(40.0%)")]);
    let failed = |failed| move |facts: &mut AlertFacts| recent(facts, |requests| requests.failed = failed);
    check(failed(10), &[]);
    check(failed(50), &[(Ticket, "LeewayErrorRatioHigh", "50 failed, 0 ran out of time")]);
    check(failed(200), &[(Page, "LeewayErrorRatioVeryHigh", "200 of 1000 requests")]);
    // An overload that is over is no alert.
    check(|facts| facts.versions[0].stats.recent.refused = 400, &[]);
    check(|facts| facts.versions[0].is_stuck = true, &[(Page, "LeewayRunStuck", "All workers of version 2 of digits")]);
    check(
        |facts| facts.versions[0].stats.worker_restarts = 2,
        &[(Note, "LeewayWorkerRestarting", "restarted 2 times")],
    );
}

#[test]
fn drift_and_accuracy() {
    use Severity::{Note, Page, Ticket};
    let drifted = |status| {
        move |facts: &mut AlertFacts| {
            let features = vec!["pixels[20]".to_owned(), "prediction class".to_owned()];
            facts.versions[0].stats.drift = DriftVerdict { status, reason: None, features };
        }
    };
    check(drifted(DriftStatus::Ok), &[]);
    check(drifted(DriftStatus::Warning), &[(Ticket, "LeewayDrift", "somewhat")]);
    check(drifted(DriftStatus::Drifted), &[(Page, "LeewayDriftSevere", "most of all in pixels[20], prediction class")]);
    check(
        |facts| {
            drifted(DriftStatus::Drifted)(facts);
            facts.versions[0].traffic = Share::NONE;
        },
        &[(Note, "LeewayDriftSevere", "strongly")],
    );
    let accuracy = |labels, right: f64| {
        move |facts: &mut AlertFacts| {
            let stats = &mut facts.versions[0].stats;
            let interval = Interval::of_share(right * labels as f64, labels as f64).unwrap();
            (stats.labels, stats.accuracy, stats.baseline_accuracy) = (labels, Some((right, interval)), Some(0.95));
        }
    };
    check(accuracy(1_000, 0.94), &[]);
    check(accuracy(50, 0.5), &[]);
    check(accuracy(1_000, 0.8), &[(Ticket, "LeewayAccuracyFell", "80.0% of 1000 predictions with a known outcome")]);
}

#[test]
fn versions_and_deployments() {
    use Severity::{Page, Ticket};
    check(
        |facts| {
            let fault = serde_json::from_value(json!("manifest")).unwrap();
            model(facts).versions[0].state = VersionState::Refused { fault, problem: "no manifest.json".to_owned() };
        },
        &[(Ticket, "LeewayVersionRefused", "Version 3 of digits is refused: no manifest.json")],
    );
    check(
        |facts| model(facts).unserved = Some("version 2 is refused".to_owned()),
        &[(Page, "LeewayModelNotReady", "digits is not served: version 2 is refused")],
    );
    check(
        |facts| {
            model(facts).unserved = Some("version 1 is being copied".to_owned());
            model(facts).deployment.change.action = Action::Discover;
        },
        &[(Ticket, "LeewayModelNotReady", "being copied")],
    );
    check(
        |facts| {
            model(facts).config_problem = Some("line 3: what is this?".to_owned());
            model(facts).unwritten = Some("the disk is full".to_owned());
            model(facts).deployment_problem = Some("version 5 is not here".to_owned());
            model(facts).versions[1].altered = Some("model.onnx was changed".to_owned());
        },
        &[
            (Page, "LeewayDeploymentUnwritten", "the disk is full"),
            (Page, "LeewayVersionAltered", "model.onnx was changed"),
            (Ticket, "LeewayDeploymentMismatch", "version 5 is not here"),
            (Ticket, "LeewayVersionRefused", "line 3"),
        ],
    );
}

#[test]
fn rollouts_that_wait_or_have_failed() {
    use Severity::{Note, Ticket};
    let rollout = |state: &'static str, ended_at: Option<&'static str>| {
        move |facts: &mut AlertFacts| {
            let at = "2026-11-27T00:00:00Z";
            let rollout = json!({
                "model": "digits", "number": 1, "version": 3, "stable": 2, "state": state, "explanation": "worse: 9% to 1%",
                "step": 0, "step_since": at, "guardrails": [], "generation": 4, "started_at": at, "events": [],
                "plan": {"steps": [1, 100], "step_ms": 1, "timeout_ms": 1, "on_timeout": "hold"},
                "ended_at": ended_at,
            });
            facts.rollouts.push(serde_json::from_value(rollout).unwrap());
        }
    };
    let recent = Some("2026-11-28T03:00:00Z");
    check(rollout("running", None), &[]);
    check(rollout("promoted", recent), &[]);
    check(rollout("paused", None), &[(Ticket, "", "The rollout of version 3 of digits is paused: worse")]);
    check(rollout("rolled_back", recent), &[(Ticket, "", "was rolled back: worse: 9% to 1%")]);
    check(rollout("aborted", recent), &[(Note, "", "was ended")]);
    check(rollout("rolled_back", Some("2026-11-26T00:00:00Z")), &[]);
}

#[test]
fn the_server_its_certificates_and_its_fleet() {
    use Severity::{Page, Ticket};
    check(|facts| facts.is_ready = false, &[(Page, "LeewayReplicaNotReady", "accepts no new requests")]);
    check(
        |facts| facts.overview.problems.push("models/x is not a model".to_owned()),
        &[(Ticket, "", "models/x is not a model")],
    );
    let expires_in = |hours| {
        move |facts: &mut AlertFacts| {
            let at = facts.at.checked_add(SignedDuration::from_hours(hours)).unwrap();
            facts.certificates.push(ExpiringCertificate { listener: "http.tls", at });
        }
    };
    check(expires_in(200), &[]);
    check(expires_in(100), &[(Ticket, "LeewayCertificateExpiring", "http.tls expires in 4 days")]);
    check(expires_in(5), &[(Page, "LeewayCertificateExpiring", "expires in 5 hours")]);
    check(expires_in(-5), &[(Page, "LeewayCertificateExpiring", "expired at 2026-11-27T23:00:00Z")]);
    let replica = |generation: u64| {
        serde_json::from_value(json!({
            "id": generation.to_string(), "name": format!("b:{generation}"), "leeway": "0.1.0",
            "started_at": "2026-11-28T00:00:00Z", "models": {"digits": {"generation": generation}},
        }))
        .unwrap()
    };
    check(
        |facts| facts.overview.replicas = vec![replica(4), replica(3)],
        &[(Ticket, "LeewayDeploymentMismatch", "Generation 4 is not in effect on 1 of 2 servers: b:3.")],
    );
    check(
        |facts| {
            facts.overview.replicas = vec![replica(3)];
            model(facts).deployment.change.at = facts.at;
        },
        &[],
    );
}
