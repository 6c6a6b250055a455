//! A repository on a disk that does not answer (an unreachable network file system): loaded versions are still served.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{PLAIN, Repository, Server, checkout, client, leeway, until};

/// Versions that are empty folders: found on disk, but not loadable.
const EMPTY: u32 = 1_000;

/// Versions that can be loaded.
const GOOD: u32 = 12;

/// The library that makes a disk hang (`tests/data/hanging_disk.c`).
fn hanging_disk() -> PathBuf {
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hanging_disk-{}.so", std::process::id()));
    let source = checkout().join("tests/data/hanging_disk.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).arg("-ldl").status();
    assert!(built.unwrap().success());
    library
}

struct Client {
    client: reqwest::Client,
    server: Server,
}

impl Client {
    async fn answer(request: reqwest::RequestBuilder) -> Value {
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    }

    async fn get(&self, path: &str) -> Value {
        Client::answer(self.client.get(format!("http://{}{path}", self.server.admin))).await
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        Client::answer(self.client.post(format!("http://{}{path}", self.server.admin)).json(&body)).await
    }

    async fn predict(&self) -> Value {
        let request = self.client.post(self.server.url("/predict"));
        Client::answer(request.json(&json!({ "instances": [[1.0, 2.0]] }))).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_does_not_answer_holds_up_nothing_that_is_in_memory() {
    let repository = Repository::new().with("echo", EMPTY + 1, "echo_float32", PLAIN);
    let folder = repository.0.path();
    (1..=EMPTY).for_each(|version| std::fs::create_dir(folder.join(format!("echo/{version}"))).unwrap());
    (2..=GOOD).for_each(|version| repository.add("echo", EMPTY + version, "echo_float32"));
    let gates = tempfile::tempdir().unwrap();
    let gate = gates.path().join("gate");
    let settings = [
        ("LEEWAY_REPOSITORY__POLL_INTERVAL_MS", "20"),
        ("LEEWAY_HTTP__THREADS", "2"),
        ("LEEWAY_LOADING__TRIAL", "false"),
    ];
    let mut command = leeway(&["serve", "--models", folder.to_str().unwrap()]);
    command.envs(settings).env("LD_PRELOAD", hanging_disk());
    command.env("HANGING_DISK", folder).env("HANGING_DISK_GATE", &gate);
    let here = Client { client: client(), server: Server::spawn(&mut command) };
    let (newest, before) = (EMPTY + GOOD, EMPTY + GOOD - 1);
    until(async || {
        let status = here.get(&format!("/admin/v1/models/echo/versions/{before}")).await;
        (status["state"] == "loaded").then_some(())
    })
    .await;
    here.post("/admin/v1/models/echo/promote", json!({ "version": before, "by": "test" })).await;
    here.post("/admin/v1/models/echo/promote", json!({ "version": newest, "by": "test" })).await;

    std::fs::write(&gate, "").unwrap();
    until(async || gates.path().join("gate.waiting").exists().then_some(())).await;
    let all = here.get("/admin/v1/models").await;
    assert_eq!(all["models"][0]["versions"].as_array().unwrap().len(), (EMPTY + GOOD) as usize);
    assert_eq!(here.get("/admin/v1/models/echo/versions/7").await["state"], "available");
    let rolled_back = here.post("/admin/v1/models/echo/rollback", json!({ "by": "test" })).await;
    assert_eq!(rolled_back["deployment"]["stable"], before, "{rolled_back}");
    assert_eq!(here.predict().await["model"]["version"], before);
    Client::answer(here.client.get(here.server.url("/livez"))).await;
    Client::answer(here.client.get(here.server.url("/metrics"))).await;
    assert!(gate.exists());

    std::fs::remove_file(&gate).unwrap();
    repository.add("echo", newest + 1, "echo_float32");
    until(async || {
        let status =
            here.client.get(format!("http://{}/admin/v1/models/echo/versions/{}", here.server.admin, newest + 1));
        let status = status.send().await.unwrap().json::<Value>().await.unwrap();
        (status["state"] == "loaded").then_some(())
    })
    .await;
}
