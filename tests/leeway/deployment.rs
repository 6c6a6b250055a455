//! The files in `deploy/` that put Leeway behind something: whether they are valid, and whether their times fit the server's.

use std::path::Path;
use std::process::Command;

use leeway::config::Config;
use serde_json::Value;

use crate::harness::checkout;

/// Python with what `make kubernetes` has fetched.
fn python() -> Command {
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", checkout().join(".kubernetes"));
    python
}

/// A YAML file with one document, as JSON.
fn yaml(path: &str) -> Value {
    let script = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    let output = python().args(["-c", script]).arg(checkout().join(path)).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{path}: {} (`make kubernetes`)", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(checkout().join(path)).unwrap()
}

#[test]
fn the_manifests_fit_kubernetes_schemas_strictly() {
    let kustomization = yaml("deploy/kubernetes/base/kustomization.yaml");
    let resources = kustomization["resources"].as_array().unwrap();
    assert!(resources.len() >= 5);
    for resource in resources {
        let file = checkout().join("deploy/kubernetes/base").join(resource.as_str().unwrap());
        let output = python().args(["-m", "kubernetes_validate", "--strict"]).arg(&file).output().unwrap();
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(output.status.success(), "{said} (`make kubernetes` fetches the schemas)");
    }
    // What the overlays refer to is there.
    for overlay in ["gpu", "monitoring"] {
        let overlay = format!("deploy/kubernetes/overlays/{overlay}");
        for resource in yaml(&format!("{overlay}/kustomization.yaml"))["resources"].as_array().unwrap() {
            assert!(checkout().join(&overlay).join(resource.as_str().unwrap()).exists(), "{overlay}: {resource}");
        }
    }
}

/// Seconds, of milliseconds of the configuration.
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
    // Two seconds for runs that nobody waits for any more.
    assert!(spec["terminationGracePeriodSeconds"].as_f64().unwrap() >= sleep + stopping + 2.0);
    // Whoever asks has noticed within the delay.
    let readiness = &container["readinessProbe"];
    let noticed = readiness["periodSeconds"].as_f64().unwrap() * readiness["failureThreshold"].as_f64().unwrap();
    assert!(noticed < seconds(config.shutdown.deregistration_delay_ms));
    assert_eq!(readiness["httpGet"]["path"], "/readyz");
    assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/livez");
    // A load of models may take as long as a trial load may.
    let startup = &container["startupProbe"];
    let patience = startup["periodSeconds"].as_f64().unwrap() * startup["failureThreshold"].as_f64().unwrap();
    assert!(patience >= seconds(config.loading.trial_timeout_ms.get()));

    let unit = read("deploy/systemd/leeway.service");
    let stop: f64 = unit.split("\nTimeoutStopSec=").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
    assert!(stop >= stopping + 2.0);
    let grace = yaml("deploy/compose.yaml")["services"]["leeway-1"]["stop_grace_period"].clone();
    assert!(grace.as_str().unwrap().trim_end_matches('s').parse::<f64>().unwrap() >= stopping + 2.0);

    let nginx = read("deploy/nginx/leeway.conf");
    let idle: u64 = nginx.split("keepalive_timeout ").nth(2).unwrap().split("s;").next().unwrap().parse().unwrap();
    assert!(seconds(config.http.header_timeout_ms.into()) > idle as f64);
}

/// The image is run as it is said to be, by whatever runs it.
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
