//! The files in `deploy/` that run Leeway behind other systems: they are valid, and their times fit the server's.

use std::path::Path;
use std::process::Command;

use leeway::config::Config;
use serde_json::Value;

use crate::harness::checkout;
use crate::kubernetes::{assert_valid, documents, kustomized, of_kind};

/// Reads a YAML file with one document as JSON.
pub(crate) fn yaml(path: &str) -> Value {
    documents(&read(path)).remove(0)
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(checkout().join(path)).unwrap()
}

#[test]
fn the_manifests_fit_the_schemas_strictly() {
    let mut objects = Vec::new();
    for kustomization in ["base", "overlays/gpu", "overlays/keda", "overlays/monitoring"] {
        let manifests = kustomized(kustomization);
        assert!(manifests.len() >= 5, "{kustomization}");
        objects.extend(manifests);
    }
    assert_valid(&objects);
}

#[test]
fn the_overlays_change_what_they_are_for() {
    let of_kind = |kustomization: &str, kind: &str| of_kind(&kustomized(kustomization), kind).clone();
    let container =
        |kustomization| of_kind(kustomization, "Deployment")["spec"]["template"]["spec"]["containers"][0].clone();
    assert_eq!(container("overlays/gpu")["resources"]["limits"]["nvidia.com/gpu"], 1);
    let limits_trials = |container: Value| container["env"].to_string().contains("LEEWAY_LOADING__TRIAL_MEMORY_MB");
    assert!(limits_trials(container("base")) && !limits_trials(container("overlays/gpu")));

    // The adapter makes the metrics that the autoscalers ask for.
    let asked = |kustomization| -> Vec<Value> {
        let metrics = of_kind(kustomization, "HorizontalPodAutoscaler")["spec"]["metrics"].clone();
        let names = metrics.as_array().unwrap().iter().filter(|metric| metric["type"] == "Pods");
        names.map(|metric| metric["pods"]["metric"]["name"].clone()).collect()
    };
    let adapter = yaml("deploy/kubernetes/prometheus-adapter.yaml");
    let made: Vec<Value> =
        adapter["rules"]["custom"].as_array().unwrap().iter().map(|rule| rule["name"]["as"].clone()).collect();
    assert_eq!((asked("base"), asked("overlays/gpu")), (made[..2].to_vec(), made));

    // There is one autoscaler only.
    assert!(!kustomized("overlays/keda").iter().any(|object| object["kind"] == "HorizontalPodAutoscaler"));
    assert_eq!(of_kind("overlays/keda", "ScaledObject")["spec"]["scaleTargetRef"]["name"], "leeway");

    // The monitor finds the service's port by the service's labels, so that the rules match its job.
    let monitor = of_kind("overlays/monitoring", "ServiceMonitor")["spec"].clone();
    let service = of_kind("base", "Service");
    let labels = &service["metadata"]["labels"];
    assert_eq!(&monitor["selector"]["matchLabels"], labels);
    assert_eq!(monitor["endpoints"][0]["port"], service["spec"]["ports"][0]["name"]);
    assert_eq!(labels[monitor["jobLabel"].as_str().unwrap()], "leeway");
}

#[test]
fn the_rules_for_the_prometheus_operator_are_those_of_prometheus() {
    let mut all = Vec::new();
    for release in [None, Some("monitoring")] {
        let mut make = Command::new("make");
        make.args(["--silent", "kubernetes-rules"]).current_dir(checkout());
        make.args(release.map(|release| format!("RELEASE={release}")));
        let made = String::from_utf8(make.output().unwrap().stdout).unwrap();
        let documents = documents(&made);
        assert_eq!(documents.len(), 2);
        for (document, rules) in documents.iter().zip(["recording", "alerts"]) {
            assert_eq!(document["kind"], "PrometheusRule");
            assert_eq!(document["metadata"]["name"], format!("leeway-{rules}"));
            assert_eq!(document["metadata"]["labels"]["release"].as_str(), release);
            assert_eq!(document["spec"], yaml(&format!("deploy/prometheus/rules/leeway.{rules}.yml")));
        }
        all.extend(documents);
    }
    assert_valid(&all);
}

/// Converts milliseconds of the configuration to seconds.
fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1e3
}

#[test]
fn the_manifests_give_the_server_the_time_that_it_takes() {
    let config = Config::default();
    let stopping = seconds(config.shutdown.deregistration_delay_ms + config.shutdown.grace_period_ms);
    let spec = yaml("deploy/kubernetes/base/deployment.yaml")["spec"]["template"]["spec"].clone();
    let container = &spec["containers"][0];
    let sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_f64().unwrap();
    // Two seconds for ending runs that no request waits for any more, and five for the last files of the prediction log.
    assert!(spec["terminationGracePeriodSeconds"].as_f64().unwrap() >= sleep + stopping + 7.0);
    // The probes notice the state within the delay.
    let readiness = &container["readinessProbe"];
    let noticed = readiness["periodSeconds"].as_f64().unwrap() * readiness["failureThreshold"].as_f64().unwrap();
    assert!(noticed < seconds(config.shutdown.deregistration_delay_ms));
    assert_eq!(readiness["httpGet"]["path"], "/readyz");
    assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/livez");
    // A load of models may take as long as a trial load may.
    let startup = &container["startupProbe"];
    let patience = startup["periodSeconds"].as_f64().unwrap() * startup["failureThreshold"].as_f64().unwrap();
    assert!(patience >= seconds(config.loading.trial_timeout_ms.get()));

    let unit = read("deploy/systemd/leeway@.service");
    let stop: f64 = unit.split("\nTimeoutStopSec=").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
    assert!(stop >= stopping + 7.0);
    let grace = yaml("deploy/compose.yaml")["services"]["leeway-1"]["stop_grace_period"].clone();
    assert!(grace.as_str().unwrap().trim_end_matches('s').parse::<f64>().unwrap() >= stopping + 7.0);

    let nginx = read("deploy/nginx/leeway.conf");
    let idle: u64 = nginx.split("keepalive_timeout ").nth(2).unwrap().split("s;").next().unwrap().parse().unwrap();
    assert!(seconds(config.http.header_timeout_ms.into()) > idle as f64);
}

/// The image is run as documented, in every deployment.
#[test]
fn the_image_and_those_who_run_it_agree() {
    let dockerfile = read("Dockerfile");
    let spec = yaml("deploy/kubernetes/base/deployment.yaml")["spec"]["template"]["spec"].clone();
    let user = spec["securityContext"]["runAsUser"].to_string();
    assert!(dockerfile.contains(&format!("USER {user}:{user}\n")));
    assert!(dockerfile.contains("LEEWAY_HTTP__LISTEN=0.0.0.0:8080"));
    assert_eq!(spec["containers"][0]["ports"][0]["containerPort"], 8080);
    let state = spec["containers"][0]["volumeMounts"][0]["mountPath"].as_str().unwrap();
    assert!(dockerfile.contains(&format!("VOLUME {state}\n")) && dockerfile.contains(&format!("sqlite:{state}/")));
    let compose = yaml("deploy/compose.yaml");
    assert_eq!(compose["services"]["leeway-1"]["volumes"][0], format!("state:{state}"));
}
