//! The Helm chart, rendered by Helm itself: its objects fit the schemas, the server reads its file, and wrong values are refused.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::documentation::blocks_after;
use crate::harness::{Server, checkout, client, copy_folder, leeway, run, until};

/// A program that `make kubernetes` fetches for Linux on x86-64. On other systems it is the one on the PATH.
fn program(name: &str) -> Command {
    let fetched = checkout().join(".kubernetes/programs").join(name);
    Command::new(if fetched.exists() { fetched } else { PathBuf::from(name) })
}

/// The Python with the packages that `make kubernetes` has fetched.
pub(crate) fn python() -> Command {
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", checkout().join(".kubernetes")).env("PYTHONDONTWRITEBYTECODE", "1");
    python
}

/// Runs a command, and returns its standard output.
fn printed(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error} (`make kubernetes`)"))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
}

/// Parses all documents of a YAML text.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("documents.yaml");
    std::fs::write(&file, text).unwrap();
    let script =
        "import json, sys, yaml; print(json.dumps([one for one in yaml.safe_load_all(open(sys.argv[1])) if one]))";
    let parsed = printed(python().args(["-c", script]).arg(file)).unwrap_or_else(|error| panic!("{error}\n{text}"));
    serde_json::from_str(&parsed).unwrap()
}

/// Returns the objects that kustomize builds.
pub(crate) fn kustomized(folder: &str) -> Vec<Value> {
    let folder = checkout().join("deploy/kubernetes").join(folder);
    documents(&printed(program("kubectl").arg("kustomize").arg(folder)).unwrap())
}

fn chart() -> PathBuf {
    checkout().join("deploy/helm/leeway")
}

/// Renders the chart with these values, as YAML.
fn rendered(values: &str) -> Result<Vec<Value>, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("values.yaml");
    std::fs::write(&file, values).unwrap();
    let mut helm = program("helm");
    helm.args(["template", "shop", "--namespace", "ml", "--values"]).arg(file).arg(chart());
    printed(&mut helm).map(|text| documents(&text))
}

pub(crate) fn of_kind<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

/// Checks that objects are made of the members that Kubernetes, KEDA, KServe and the Prometheus operator know.
pub(crate) fn assert_valid(objects: &[Value]) {
    let belongs_to = |object: &Value, group: &str| object["apiVersion"].as_str().unwrap().starts_with(group);
    let (kserve, others): (Vec<&Value>, Vec<&Value>) =
        objects.iter().partition(|object| belongs_to(object, "serving.kserve.io/"));
    let (typed, plain): (Vec<&Value>, Vec<&Value>) = others
        .into_iter()
        .partition(|object| belongs_to(object, "keda.sh/") || belongs_to(object, "monitoring.coreos.com/"));
    let folder = tempfile::tempdir().unwrap();
    let script = |name: &str| checkout().join("tests/kubernetes").join(name);
    for (objects, mut python, name) in [
        (kserve, Command::new(checkout().join(".clients/bin/python")), "kserve_objects.py"),
        (plain, python(), "objects.py"),
    ] {
        if objects.is_empty() {
            continue;
        }
        let file = folder.path().join("objects.json");
        std::fs::write(&file, serde_json::to_vec(&objects).unwrap()).unwrap();
        let (status, said) = run(python.env("PYTHONDONTWRITEBYTECODE", "1").arg(script(name)).arg(file));
        assert_eq!((status, said), (0, format!("{} objects\n", objects.len())));
    }
    assert_typed(&typed, folder.path());
}

/// Lets the TypeScript compiler compare objects with types that were made of the sources of their operators. It refuses members
/// that a type does not have.
fn assert_typed(objects: &[&Value], folder: &Path) {
    if objects.is_empty() {
        return;
    }
    let declared = objects.iter().enumerate().map(|(index, object)| {
        let (version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        let package = if version.starts_with("keda.sh/") { "keda" } else { "prometheus-operator" };
        format!(
            "import type {{ I{kind} as Type{index} }} from '@kubernetes-models/{package}/{version}/{kind}';\nexport const \
             object{index}: Type{index} = {object};\n"
        )
    });
    std::fs::write(folder.join("objects.ts"), declared.collect::<String>()).unwrap();
    let types = checkout().join(".kubernetes/types/node_modules/@kubernetes-models/*");
    let options = json!({
        "compilerOptions": {
            "strict": true, "noEmit": true, "skipLibCheck": true, "module": "esnext", "moduleResolution": "bundler",
            "target": "es2022", "types": [], "paths": { "@kubernetes-models/*": [types] }
        },
        "files": ["objects.ts"]
    });
    std::fs::write(folder.join("tsconfig.json"), options.to_string()).unwrap();
    let tsc = checkout().join(".clients/node/node_modules/typescript/bin/tsc");
    let (status, said) = run(Command::new("node").arg(tsc).arg("--project").arg(folder));
    assert_eq!(status, 0, "{said} (`make kubernetes clients`)");
}

/// Values with every object and every kind of volume.
const ALL_OBJECTS: [&str; 5] = [
    "{}",
    "
image: {digest: 'sha256:b1946ac92492d2347c6235b4d2611184b1946ac92492d2347c6235b4d2611184'}
imagePullSecrets: [{name: registry}]
config: {http: {tls: {certificate: /tls/tls.crt, key: /tls/tls.key}}, loading: {trial_memory_mb: null}}
env: [{name: LEEWAY_LOG__LEVEL, value: debug}]
feedbackKey: {secret: leeway}
admin: {exposed: true, tokenSecret: leeway}
models: {from: persistentVolumeClaim, persistentVolumeClaim: {claimName: models, subPath: models}}
state: {kind: postgres, postgres: {host: postgres.databases, passwordSecret: leeway-postgres}}
service: {type: LoadBalancer, annotations: {a: b}, headless: true}
autoscaling: {kind: keda, requestsPerSecond: 50, keda: {serverAddress: 'http://prometheus:9090', authenticationRef: prometheus}}
networkPolicy: {from: [{namespaceSelector: {}}], adminFrom: [{podSelector: {}}], egress: [{ports: [{port: 4317}]}]}
serviceMonitor: {enabled: true, labels: {release: monitoring}}
prometheusRule: {enabled: true, labels: {release: monitoring}}
serviceAccount: {create: true, annotations: {role: reader}}
podLabels: {team: a}
podAnnotations: {a: b}
nodeSelector: {a: b}
tolerations: [{key: gpu, operator: Exists}]
affinity: {nodeAffinity: {}}
priorityClassName: high
volumes: [{name: tls, secret: {secretName: tls}}]
volumeMounts: [{name: tls, mountPath: /tls}]
",
    "
models: {from: objectStorage, objectStorage: {url: 's3://bucket/models', credentialsSecret: bucket}}
autoscaling: {kind: hpa, requestsPerSecond: 50}
",
    "
replicas: 1
models: {from: imageVolume, imageVolume: {reference: 'registry.example/models:7'}}
state: {kind: persistentVolumeClaim, persistentVolumeClaim: {storageClassName: fast}}
",
    "
replicas: 1
state: {kind: persistentVolumeClaim, persistentVolumeClaim: {claimName: mine}}
podDisruptionBudget: {enabled: false}
networkPolicy: {enabled: false}
strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 1}}
topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]
",
];

#[test]
fn the_objects_of_the_chart_fit_their_schemas_strictly() {
    let (status, said) = run(program("helm").args(["lint", "--strict"]).arg(chart()));
    assert_eq!(status, 0, "{said}");
    let mut objects = Vec::new();
    for values in ALL_OBJECTS {
        objects.extend(rendered(values).unwrap_or_else(|error| panic!("{values}: {error}")));
    }
    assert_valid(&objects);
    for kind in ["ScaledObject", "HorizontalPodAutoscaler", "PersistentVolumeClaim", "ServiceAccount", "ServiceMonitor"]
    {
        of_kind(&objects, kind);
    }
    let named = |name: &str| objects.iter().find(|object| object["metadata"]["name"] == name).unwrap();
    for rules in ["recording", "alerts"] {
        let original =
            std::fs::read_to_string(checkout().join(format!("deploy/prometheus/rules/leeway.{rules}.yml"))).unwrap();
        assert_eq!(named(&format!("shop-leeway-{rules}"))["spec"], documents(&original)[0]);
    }
    // A chart that is packed has the rules, too, although a link leads to them here.
    let folder = tempfile::tempdir().unwrap();
    printed(program("helm").arg("package").arg(chart()).arg("--destination").arg(folder.path())).unwrap();
    let packed = folder.path().join(format!("leeway-{}.tgz", env!("CARGO_PKG_VERSION")));
    let (_, files) = run(Command::new("tar").arg("-tzf").arg(packed));
    assert!(files.contains("leeway/rules/leeway.alerts.yml"), "{files}");
}

/// What holds a pod together, without the names.
fn of_pod(objects: &[Value]) -> Value {
    let deployment = &of_kind(objects, "Deployment")["spec"];
    let pod = &deployment["template"]["spec"];
    let container = &pod["containers"][0];
    let mut probes = ["startupProbe", "readinessProbe", "livenessProbe"].map(|name| container[name].clone());
    for probe in &mut probes {
        probe["httpGet"].as_object_mut().unwrap().remove("scheme");
    }
    let constraint = &pod["topologySpreadConstraints"][0];
    json!([
        probes,
        container["lifecycle"],
        container["securityContext"],
        container["resources"],
        container["ports"][0]["containerPort"],
        pod["securityContext"],
        pod["automountServiceAccountToken"],
        pod["terminationGracePeriodSeconds"],
        [&constraint["maxSkew"], &constraint["topologyKey"], &constraint["whenUnsatisfiable"]],
        deployment["strategy"],
    ])
}

#[test]
fn the_pods_of_the_chart_are_those_of_the_manifests() {
    let (chart, base) = (rendered("autoscaling: {kind: hpa}").unwrap(), kustomized("base"));
    assert_eq!(of_pod(&chart), of_pod(&base));
    let metrics = |objects: &[Value]| {
        let mut spec = of_kind(objects, "HorizontalPodAutoscaler")["spec"].clone();
        spec["scaleTargetRef"]["name"].take();
        spec
    };
    assert_eq!(metrics(&chart), metrics(&base));
    // A pod gets more time if its server takes more.
    let slow = rendered("config: {shutdown: {grace_period_ms: 90500, deregistration_delay_ms: 10000}}").unwrap();
    assert_eq!(of_kind(&slow, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"], 111);
    // The file counts, not the settings of the image.
    let environment = of_kind(&chart, "Deployment")["spec"]["template"]["spec"]["containers"][0]["env"].clone();
    let dockerfile = std::fs::read_to_string(checkout().join("Dockerfile")).unwrap();
    let of_image = dockerfile.split([' ', '\n']).filter_map(|word| word.strip_prefix("LEEWAY_")?.split_once('='));
    for (name, _) in of_image {
        let cleared = json!({ "name": format!("LEEWAY_{name}"), "value": "" });
        assert!(environment.as_array().unwrap().contains(&cleared), "{name}");
    }
}

/// The file of a chart is what its container reads, so the server is started as in its container.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_runs_with_the_file_of_the_chart() {
    let objects = rendered(
        r#"
config:
  repository: {default_model: digits, newest_versions: 1}
  http: {body_limit_bytes: 16777216, cors: {origins: ["https://a.example", 'https://b.example']}, path_prefix: /a, unix_socket_mode: "0600"}
  feedback: {max_delay_ms: 31622400000}
  prediction_log: {sample: 0.25, redact: ['a "quoted" name', "back\\slash <&> ü"]}
  log: {level: debug, traceparent: true}
"#,
    );
    let objects = objects.unwrap();
    let container = &of_kind(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    let folder = tempfile::tempdir().unwrap();
    for path in ["etc/leeway", "srv", "var/lib/leeway"] {
        std::fs::create_dir_all(folder.path().join(path)).unwrap();
    }
    copy_folder(&checkout().join("models/digits/2"), &folder.path().join("srv/models/digits/2"));
    std::fs::copy(checkout().join("models/digits/model.toml"), folder.path().join("srv/models/digits/model.toml"))
        .unwrap();
    let here = |text: &str| {
        ["/etc/leeway", "/srv/models", "/var/lib/leeway"]
            .iter()
            .fold(text.to_owned(), |text, path| text.replace(path, &format!("{}{path}", folder.path().display())))
    };
    let file = here(of_kind(&objects, "ConfigMap")["data"]["leeway.toml"].as_str().unwrap());
    std::fs::write(folder.path().join("etc/leeway/leeway.toml"), &file).unwrap();
    let mut command = leeway(&[]);
    command
        .current_dir(folder.path())
        .args(container["args"].as_array().unwrap().iter().map(|argument| here(argument.as_str().unwrap())));
    for variable in container["env"].as_array().unwrap() {
        command.env(variable["name"].as_str().unwrap(), variable["value"].as_str().unwrap());
    }
    let server = Server::spawn(&mut command);
    let client = client();
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        let path = container[probe]["httpGet"]["path"].as_str().unwrap();
        assert_eq!(client.get(server.url(path)).send().await.unwrap().status(), 200, "{probe}\n{file}");
    }
    let schema = server.url("/v1/models/digits/schema");
    let schema: Value = client.get(schema).send().await.unwrap().json().await.unwrap();
    let answered = until(async || {
        let answer = client.post(server.url("/predict")).json(&schema["example"]).send().await.unwrap();
        // A test machine may be busy.
        (!matches!(answer.status().as_u16(), 503 | 504)).then_some(answer)
    });
    assert_eq!(answered.await.status(), 200);
    assert!(folder.path().join("var/lib/leeway/leeway.db").exists());
}

#[test]
fn values_that_are_wrong_or_do_not_fit_together_are_refused() {
    for (values, problem) in [
        ("replica: 2", "additional properties 'replica' not allowed"),
        ("models: {form: image}", "additional properties 'form' not allowed"),
        ("replicas: two", "got string, want integer"),
        (
            "models: {from: floppy}",
            "value must be one of 'image', 'persistentVolumeClaim', 'imageVolume', 'objectStorage'",
        ),
        ("config: {log: debug}", "got string, want object"),
        ("config: {state: {url: memory}}", "config.state.url is written by the chart; set state instead"),
        ("models: {from: persistentVolumeClaim}", "set models.persistentVolumeClaim.claimName"),
        ("models: {from: imageVolume}", "set models.imageVolume.reference"),
        ("models: {from: objectStorage}", "set models.objectStorage.url"),
        (
            "state: {kind: persistentVolumeClaim}",
            "set replicas to 1 and autoscaling.kind to none, or state.kind to postgres",
        ),
        ("state: {kind: postgres}", "set state.postgres.host and state.postgres.passwordSecret"),
        ("admin: {exposed: true}", "admin.exposed needs admin.tokenSecret"),
        ("autoscaling: {kind: keda}", "set autoscaling.keda.serverAddress to the URL of Prometheus"),
        ("autoscaling: {kind: hpa, minReplicas: 20}", "autoscaling.minReplicas is above autoscaling.maxReplicas"),
        (
            "autoscaling: {kind: hpa, queueDepth: 0, shedPercent: 0, cpuPercent: 0}",
            "needs one of queueDepth, shedPercent, cpuPercent and requestsPerSecond",
        ),
    ] {
        let said = rendered(values).unwrap_err();
        assert!(said.contains(problem), "{values}: {said}");
    }
}

#[test]
fn the_documentation_of_the_chart_is_that_of_its_values() {
    let (status, said) = run(python().arg(checkout().join("scripts/chart_reference.py")).arg("--check"));
    assert_eq!(status, 0, "{said}");
    let readme = std::fs::read_to_string(chart().join("README.md")).unwrap();
    for example in readme.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
        assert!(rendered(example).is_ok(), "{example}: {:?}", rendered(example));
    }
    let about = &documents(&std::fs::read_to_string(chart().join("Chart.yaml")).unwrap())[0];
    assert_eq!(about["appVersion"], env!("CARGO_PKG_VERSION"));
    let mut install = program("helm");
    install.args(["install", "shop", "--namespace", "ml", "--dry-run=client"]).arg(chart());
    let notes = printed(&mut install).unwrap().split("NOTES:\n").nth(1).unwrap().to_owned();
    assert!(notes.contains("kubectl --namespace ml port-forward service/shop-leeway 8080:80"), "{notes}");
}

/// A `promtool` test with the queries of a ScaledObject as rules.
fn queries(object: &Value, namespace: &str, name: &str) -> String {
    let triggers =
        object["spec"]["triggers"].as_array().unwrap().iter().filter(|trigger| trigger["type"] == "prometheus");
    let tests: Vec<Value> = triggers
        .map(|trigger| {
            let expected = match trigger["name"].as_str().unwrap() {
                "queue-depth" => 50.0,
                "shed-percent" => 20.0,
                "requests-per-second" => 20.0,
                other => panic!("{other}"),
            };
            json!({
                "expr": trigger["metadata"]["query"], "eval_time": "5m",
                "exp_samples": [{ "labels": "{}", "value": expected }]
            })
        })
        .collect();
    assert!(tests.len() >= 2);
    // The second pod refuses a fifth of its requests. The last one belongs to another Deployment, with a similar name.
    let mut series = Vec::new();
    for (pod, queue, shed) in [("abc-1", 40, 0), ("abc-2", 10, 120), ("other-abc-1", 1000, 600)] {
        let labels = format!("namespace='{namespace}',pod='{name}-{pod}',model='a',version='1'");
        series.push(json!({ "series": format!("leeway_queue_depth{{{labels}}}"), "values": format!("{queue}x10") }));
        for (reason, each) in [("queue_full", shed), ("too_slow", 300)] {
            let series_of = format!("leeway_requests_shed_total{{{labels},reason='{reason}'}}");
            series.push(json!({ "series": series_of, "values": format!("0+{each}x10") }));
        }
        let all = format!("leeway_requests_total{{{labels},outcome='ok'}}");
        series.push(json!({ "series": all, "values": "0+600x10" }));
    }
    json!({ "rule_files": [], "tests": [{ "interval": "1m", "input_series": series, "promql_expr_test": tests }] })
        .to_string()
}

#[test]
fn keda_asks_for_the_pods_of_one_deployment() {
    let values = "autoscaling: {kind: keda, requestsPerSecond: 50, keda: {serverAddress: 'http://prometheus:9090'}}";
    let folder = tempfile::tempdir().unwrap();
    for (objects, namespace, name) in
        [(rendered(values).unwrap(), "ml", "shop-leeway"), (kustomized("overlays/keda"), "default", "leeway")]
    {
        let file = folder.path().join("test.yml");
        std::fs::write(&file, queries(of_kind(&objects, "ScaledObject"), namespace, name)).unwrap();
        let promtool = checkout().join(".prometheus/bin/promtool");
        let (status, said) = run(Command::new(promtool).args(["test", "rules"]).arg(file));
        assert_eq!(status, 0, "{name}: {said}");
    }
}

/// The commands of the documentation that need no cluster.
#[test]
fn the_documented_commands_without_a_cluster_run() {
    let text = std::fs::read_to_string(checkout().join("docs/operations.md")).unwrap();
    let path = format!("{}:{}", checkout().join(".kubernetes/programs").display(), std::env::var("PATH").unwrap());
    let mut said = String::new();
    for commands in blocks_after(&text, "without a cluster") {
        let mut shell = Command::new("sh");
        shell.args(["-ec", &commands]).current_dir(checkout()).env("PATH", &path);
        said += &printed(&mut shell).unwrap_or_else(|error| panic!("{commands}: {error}"));
    }
    for expected in
        ["1 chart(s) linted, 0 chart(s) failed", "access = \"errors\"", "kind: ScaledObject", "kind: PrometheusRule"]
    {
        assert!(said.contains(expected), "{expected}: {said}");
    }
}
