//! The runtime of KServe in `deploy/kserve`: its objects are KServe's, and its command serves what KServe mounts.

use std::collections::BTreeMap;
use std::path::Path;

use leeway::grpc::proto::inference::{ModelReadyRequest, ModelReadyResponse};
use serde_json::{Value, json};
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use crate::harness::{Server, checkout, client, copy_folder, leeway, until};
use crate::kubernetes::{assert_valid, documents, of_kind};

/// All objects, by file.
fn objects() -> BTreeMap<String, Vec<Value>> {
    let files = std::fs::read_dir(checkout().join("deploy/kserve")).unwrap().map(|file| file.unwrap().path());
    let yaml = files.filter(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    let read = |file: &Path| documents(&std::fs::read_to_string(file).unwrap());
    yaml.map(|file| (file.file_name().unwrap().to_str().unwrap().to_owned(), read(&file))).collect()
}

fn runtime(objects: &BTreeMap<String, Vec<Value>>) -> &Value {
    of_kind(&objects["clusterservingruntime.yaml"], "ClusterServingRuntime")
}

#[test]
fn the_objects_are_those_of_kserve() {
    let objects = objects();
    assert_valid(&objects.values().flatten().cloned().collect::<Vec<_>>());
    let runtime = runtime(&objects);
    let container = &runtime["spec"]["containers"][0];
    assert_eq!(container["name"], "kserve-container");
    let mut protocols = Vec::new();
    for service in objects.values().flatten().filter(|object| object["kind"] == "InferenceService") {
        let predictor = &service["spec"]["predictor"];
        let model = &predictor["model"];
        assert_eq!(model["runtime"], runtime["metadata"]["name"]);
        assert_eq!(model["modelFormat"]["name"], runtime["spec"]["supportedModelFormats"][0]["name"]);
        protocols.push(model["protocolVersion"].clone());
        // Another name of the port is no other port.
        if let Some(port) = model["ports"].get(0) {
            assert_eq!(port["containerPort"], container["ports"][0]["containerPort"]);
        }
    }
    protocols.sort_by_key(|protocol| {
        runtime["spec"]["protocolVersions"].as_array().unwrap().iter().position(|p| p == protocol)
    });
    assert_eq!(&json!(protocols), &runtime["spec"]["protocolVersions"]);

    // KServe leaves a pod the 30 s that are Kubernetes' default.
    let time = |name: &str| -> u64 {
        let variable = container["env"].as_array().unwrap().iter().find(|variable| variable["name"] == name).unwrap();
        variable["value"].as_str().unwrap().parse().unwrap()
    };
    let stopping = time("LEEWAY_SHUTDOWN__DEREGISTRATION_DELAY_MS") + time("LEEWAY_SHUTDOWN__GRACE_PERIOD_MS");
    assert!(stopping + 7_000 < 30_000, "{stopping}");
    let readiness = &container["readinessProbe"];
    let noticed = readiness["periodSeconds"].as_u64().unwrap() * readiness["failureThreshold"].as_u64().unwrap();
    assert!(noticed * 1000 < time("LEEWAY_SHUTDOWN__DEREGISTRATION_DELAY_MS"));
}

/// Starts the runtime's command for an InferenceService with this name, whose model is mounted here instead of /mnt/models.
fn served(runtime: &Value, name: &str, mounted: &Path) -> Server {
    let container = &runtime["spec"]["containers"][0];
    let mut command = leeway(&[]);
    for variable in container["env"].as_array().unwrap().iter().filter(|variable| variable["value"].is_string()) {
        command.env(variable["name"].as_str().unwrap(), variable["value"].as_str().unwrap());
    }
    for argument in container["args"].as_array().unwrap() {
        let argument = argument.as_str().unwrap().replace("{{.Name}}", name);
        command.arg(argument.replace("/mnt/models", mounted.to_str().unwrap()));
    }
    Server::spawn(&mut command)
}

async fn get(client: &reqwest::Client, url: String) -> Value {
    client.get(url).send().await.unwrap().error_for_status().unwrap().json().await.unwrap()
}

/// Sends a request again until the model has answered in time: the budget of chosen settings is short for a busy test machine.
async fn post(client: &reqwest::Client, url: String, body: &Value) -> Value {
    let ask = async || {
        let answer = client.post(&url).json(body).send().await.unwrap();
        (!matches!(answer.status().as_u16(), 503 | 504)).then_some(answer)
    };
    until(ask).await.error_for_status().unwrap().json().await.unwrap()
}

/// Asks a model in the ways of KServe.
async fn ask(runtime: &Value, server: &Server, name: &str) {
    let client = client();
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        let path = runtime["spec"]["containers"][0][probe]["httpGet"]["path"].as_str().unwrap();
        assert_eq!(client.get(server.url(path)).send().await.unwrap().status(), 200, "{probe}");
    }
    let v1 = server.url(&format!("/v1/models/{name}"));
    let state = get(&client, v1.clone()).await;
    assert_eq!((&state["name"], &state["ready"]), (&json!(name), &json!(true)));
    let schema = get(&client, format!("{v1}/schema")).await;
    let answer = post(&client, format!("{v1}:predict"), &schema["example"]).await;
    assert_eq!(
        answer["predictions"].as_array().unwrap().len(),
        schema["example"]["instances"].as_array().unwrap().len()
    );

    let v2 = server.url(&format!("/v2/models/{name}"));
    assert_eq!(client.get(format!("{v2}/ready")).send().await.unwrap().status(), 200);
    let input = &get(&client, v2.clone()).await["inputs"][0];
    let width = input["shape"][1].as_u64().unwrap();
    let input = json!({
        "name": input["name"], "datatype": input["datatype"], "shape": [1, width], "data": vec![0.5; width as usize]
    });
    let answer = post(&client, format!("{v2}/infer"), &json!({ "inputs": [input] })).await;
    assert_eq!((&answer["model_name"], answer["outputs"].is_array()), (&json!(name), true));

    let channel = Channel::from_shared(server.url("")).unwrap().connect().await.unwrap();
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    let request = tonic::Request::new(ModelReadyRequest { name: name.to_owned(), version: String::new() });
    let path = "/inference.GRPCInferenceService/ModelReady".parse().unwrap();
    let codec = ProstCodec::<ModelReadyRequest, ModelReadyResponse>::default();
    assert!(grpc.unary(request, path, codec).await.unwrap().into_inner().ready);
}

/// The folder that a `storageUri` may lead to: that of a model, or one with an ONNX file; and a file by itself.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_of_the_runtime_serves_what_kserve_mounts() {
    let folder = tempfile::tempdir().unwrap();
    let objects = objects();
    let runtime = runtime(&objects);
    let service = of_kind(&objects["s3-v2.yaml"], "InferenceService")["metadata"]["name"].as_str().unwrap().to_owned();

    let mounted = folder.path().join("models");
    copy_folder(&checkout().join("models/digits/1"), &mounted.join("1"));
    copy_folder(&checkout().join("models/digits/2"), &mounted.join("2"));
    std::fs::copy(checkout().join("models/digits/model.toml"), mounted.join("model.toml")).unwrap();
    let server = served(runtime, &service, &mounted);
    ask(runtime, &server, &service).await;
    let state = get(&client(), server.url(&format!("/v1/models/{service}"))).await;
    assert!(
        state["description"].as_str().unwrap().starts_with("Handwritten digits"),
        "the model's own settings: {state}"
    );
    assert_eq!(std::fs::read_dir(&mounted).unwrap().count(), 3);
    drop(server);

    let onnx = checkout().join("tests/data/classes/logistic_texts.onnx");
    std::fs::create_dir(folder.path().join("one")).unwrap();
    std::fs::copy(&onnx, folder.path().join("one/model.onnx")).unwrap();
    for mounted in [folder.path().join("one"), folder.path().join("one/model.onnx")] {
        ask(runtime, &served(runtime, "churn", &mounted), "churn").await;
    }
}
