//! Rollouts that judge themselves, over HTTP with real models: worse versions are rolled back, equal ones are promoted.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use leeway_testkit::{Rule, Scenario, median, rolled_back_at};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::harness::{Repository, Server, TestApp, checkout, client, leeway, run, until};

/// A classifier of numbers from 0 to 1, and guardrails that tolerate enough for a test of seconds.
const LOW_HIGH: &str = "
[preprocess]
kind = \"tensor\"
[postprocess]
kind = \"classifier\"
scores = \"probabilities\"
labels = [\"low\", \"high\"]
[model]
workers = 1
[budget]
total_ms = 60000
[rollout.guardrails]
errors = { tolerated = 0.05 }
invalid = { tolerated = 0.05 }
latency = { tolerated = 0.5 }
non_finite = { tolerated = 0.05 }
low_confidence = { tolerated = 0.05 }
wrong = { tolerated = 0.05 }
disagreement = { tolerated = 0.3 }
shadow_errors = { tolerated = 0.05 }
";

/// Steps of a rollout that takes seconds.
fn quick(version: u32) -> Value {
    json!({ "version": version, "steps": [20, 50, 100], "step_ms": 300, "timeout_ms": 600_000, "by": "a test" })
}

/// A server of version 1, to which version 2 is added then.
async fn start_beside(second: &str, model_toml: &str) -> (Repository, TestApp) {
    let repository = Repository::new().with("low_high", 1, "low_high", model_toml);
    let app = TestApp::with(repository.config()).await;
    add(&repository, &app, 2, second).await;
    (repository, app)
}

async fn add(repository: &Repository, app: &TestApp, version: u32, file: &str) {
    repository.add("low_high", version, file);
    assert_eq!(app.admin_post("/admin/v1/reload", json!({})).await.status, 200);
}

/// Clients that send requests until they are stopped.
struct Clients {
    stop: Arc<AtomicBool>,
    failed: Arc<AtomicU64>,
    clients: Vec<JoinHandle<u64>>,
}

impl Clients {
    /// Starts clients that send numbers to a model at this address of the data listener, and report the truths.
    fn start(url: &str, count: usize, instances: usize) -> Clients {
        let (stop, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = client();
        let start = |index: usize| {
            let (stop, failed, client, url) = (Arc::clone(&stop), Arc::clone(&failed), client.clone(), url.to_owned());
            tokio::spawn(async move {
                let mut random = 12_345 + index as u64;
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    let numbers: Vec<f64> = (0..instances).map(|_| number(&mut random)).collect();
                    if !ask(&client, &url, &numbers).await {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                    sent += 1;
                }
                sent
            })
        };
        let clients = (0..count).map(start).collect();
        Clients { stop, failed, clients }
    }

    /// Stops the clients. Returns the numbers of requests that were sent and that failed.
    async fn stop(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let mut sent = 0;
        for client in self.clients {
            sent += client.await.unwrap();
        }
        (sent, self.failed.load(Ordering::Relaxed))
    }
}

/// A pseudo-random number with three decimals.
fn number(state: &mut u64) -> f64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    ((*state >> 33) % 1_000) as f64 / 1_000.0
}

/// Sends numbers, and reports the truths. Returns false if the request failed.
async fn ask(client: &reqwest::Client, url: &str, numbers: &[f64]) -> bool {
    let instances: Vec<[f64; 1]> = numbers.iter().map(|number| [*number]).collect();
    let body = json!({ "instances": instances }).to_string();
    let predict = format!("{url}/v1/models/low_high:predict");
    let Ok(answer) = client.post(predict).header("content-type", "application/json").body(body).send().await else {
        return false;
    };
    if answer.status() != 200 {
        eprintln!("{}", answer.text().await.unwrap_or_default());
        return false;
    }
    let Ok(text) = answer.text().await else { return false };
    let answer: Value = serde_json::from_str(&text).unwrap();
    let item = |(id, number): (&Value, &f64)| json!({ "prediction_id": id, "label": if *number > 0.5 { "high" } else { "low" } });
    let items: Vec<Value> = answer["prediction_ids"].as_array().unwrap().iter().zip(numbers).map(item).collect();
    let feedback = json!({ "feedback": items }).to_string();
    // A server that is killed meanwhile takes no feedback.
    let _ =
        client.post(format!("{url}/feedback")).header("content-type", "application/json").body(feedback).send().await;
    true
}

async fn rollout(app: &TestApp) -> Value {
    let answer = app.admin_get("/admin/v1/models/low_high/rollout").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

async fn ended(app: &TestApp) -> Value {
    until(async || {
        let rollout = rollout(app).await;
        (!rollout["ended_at"].is_null()).then_some(rollout)
    })
    .await
}

async fn started(app: &TestApp, request: Value) -> Value {
    let answer = app.admin_post("/admin/v1/models/low_high/rollout", request).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

async fn deployment(app: &TestApp) -> Value {
    app.admin_get("/admin/v1/models/low_high").await.json()["deployment"].clone()
}

fn actions(rollout: &Value) -> Vec<&str> {
    rollout["events"].as_array().unwrap().iter().map(|event| event["action"].as_str().unwrap()).collect()
}

/// Rolls out a second version under traffic, and returns the rollout and the deployment at its end, and the numbers of
/// requests that were sent and that failed.
async fn rolled_out(second: &str, model_toml: &str, request: Value) -> (Value, Value, (u64, u64)) {
    let (_repository, app) = start_beside(second, model_toml).await;
    let clients = Clients::start(&app.url(""), 4, 5);
    let first = started(&app, request).await;
    assert_eq!((&first["state"], &first["number"]), (&json!("running"), &json!(1)), "{first:#}");
    let end = ended(&app).await;
    (end, deployment(&app).await, clients.stop().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_equal_version_is_promoted() {
    let (end, deployment, (sent, failed)) = rolled_out("low_high", LOW_HIGH, quick(2)).await;
    assert_eq!(end["state"], "promoted", "{end:#}");
    assert_eq!(actions(&end), ["start", "advance", "promote"], "{end:#}");
    assert_eq!((&deployment["stable"], &deployment["traffic"]), (&json!(2), &json!({ "2": 100 })));
    assert_eq!((&deployment["rollback_path"], &deployment["by"]), (&json!([1]), &json!("leeway rollout 1")));
    let reason = deployment["reason"].as_str().unwrap();
    assert!(reason.starts_with("not worse, with evidence of at least 20: errors 0 of "), "{reason}");
    assert!(reason.ends_with("nothing to judge by: disagreement, shadow_errors"), "{reason}");
    assert!(sent > 100, "{sent}");
    assert_eq!(failed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_with_flipped_labels_is_rolled_back_by_feedback() {
    let (end, deployment, (_, failed)) = rolled_out("low_high_flipped", LOW_HIGH, quick(2)).await;
    assert_eq!(end["state"], "rolled_back", "{end:#}");
    assert!(end["explanation"].as_str().unwrap().starts_with("worse: wrong: "), "{end:#}");
    assert_eq!((&deployment["stable"], &deployment["traffic"]), (&json!(1), &json!({ "1": 100 })));
    assert_eq!((&deployment["action"], &deployment["by"]), (&json!("rollback"), &json!("leeway rollout 1")));
    let wrong = end["guardrails"].as_array().unwrap().iter().find(|found| found["name"] == "wrong").unwrap();
    assert!(wrong["worse"].as_f64().unwrap() >= wrong["worse_at"].as_f64().unwrap(), "{wrong}");
    assert_eq!(failed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_answers_nan_is_rolled_back_at_once() {
    let (end, deployment, (_, failed)) = rolled_out("low_high_nan", LOW_HIGH, quick(2)).await;
    assert_eq!(end["state"], "rolled_back", "{end:#}");
    let reason = end["explanation"].as_str().unwrap();
    assert_eq!(reason, "version 2 has answered with a number that is not finite, and version 1 has not");
    assert_eq!(deployment["traffic"], json!({ "1": 100 }));
    // Only what the version itself failed.
    let counted = |name: &str| {
        let found = end["guardrails"].as_array().unwrap().iter().find(|found| found["name"] == name).unwrap();
        (found["stable"]["events"].as_u64().unwrap(), found["candidate"]["events"].as_u64().unwrap())
    };
    assert_eq!(counted("errors").0, 0);
    assert!(failed >= counted("errors").1 && failed > 0, "{failed} {end:#}");
}

/// Returns the median time of requests to a version, in milliseconds.
async fn median_ms(app: &TestApp, version: u32) -> f64 {
    let path = format!("/v1/models/low_high/versions/{version}:predict");
    let mut times = Vec::new();
    for _ in 0..15 {
        let begin = Instant::now();
        assert_eq!(app.predict(&path, r#"{"instances": [[0.3]]}"#).await.status, 200);
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    median(times)
}

/// The time above which an answer is slow is between the times of both versions. A machine that is busy while they are
/// measured makes another attempt necessary.
///
/// On a quiet machine, `LEEWAY_TEST_STABLE=low_high_slow LEEWAY_TEST_SLOWER=low_high_slower` compares two versions of which
/// one is 30% slower.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_slower_is_rolled_back() {
    let file = |variable: &str, default: &str| std::env::var(variable).unwrap_or_else(|_| default.to_owned());
    let (stable, slower) = (file("LEEWAY_TEST_STABLE", "low_high"), file("LEEWAY_TEST_SLOWER", "low_high_slow"));
    let model_toml = LOW_HIGH.replace("latency = { tolerated = 0.5 }", "latency = { tolerated = 0.001 }");
    let repository = Repository::new().with("low_high", 1, &stable, &model_toml);
    let app = TestApp::with(repository.config()).await;
    add(&repository, &app, 2, &slower).await;
    assert_eq!(app.admin_post("/admin/v1/models/low_high/versions/2/load", json!({})).await.status, 200);
    for attempt in 0.. {
        let slow_ms = ((median_ms(&app, 1).await + median_ms(&app, 2).await) / 2.0).round().max(1.0);
        let settings = format!("[rollout]\nslow_ms = {slow_ms}\n[rollout.guardrails]");
        let model_toml = model_toml.replace("[rollout.guardrails]", &settings);
        std::fs::write(repository.path().join("low_high/model.toml"), model_toml).unwrap();
        assert_eq!(app.admin_post("/admin/v1/reload", json!({})).await.status, 200);
        let clients = Clients::start(&app.url(""), 1, 1);
        started(&app, json!({ "version": 2, "steps": [50, 100], "step_ms": 800, "timeout_ms": 20_000 })).await;
        let end = until(async || {
            let rollout = rollout(&app).await;
            (rollout["state"] != "running").then_some(rollout)
        })
        .await;
        assert_eq!(clients.stop().await.1, 0);
        if end["state"] == "rolled_back" {
            let explanation = end["explanation"].as_str().unwrap();
            assert!(explanation.starts_with("worse: latency: "), "{end:#}");
            return;
        }
        assert!(end["state"] == "paused" && attempt < 5, "{end:#}");
        assert_eq!(app.admin_post("/admin/v1/models/low_high/rollout/abort", json!({})).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shadow_traffic_shows_a_version_that_disagrees() {
    let model_toml = LOW_HIGH.replace("disagreement = { tolerated = 0.3 }", "disagreement = { tolerated = 0.01 }");
    let model_toml = model_toml.replace("wrong = { tolerated = 0.05 }", "wrong = { weight = 0 }");
    let mut request = quick(2);
    (request["shadow"], request["steps"], request["step_ms"]) = (json!(100), json!([1, 100]), json!(600_000));
    let (end, deployment, (_, failed)) = rolled_out("low_high_flipped", &model_toml, request).await;
    assert_eq!(end["state"], "rolled_back", "{end:#}");
    assert!(end["explanation"].as_str().unwrap().starts_with("worse: disagreement: "), "{end:#}");
    assert_eq!((&deployment["traffic"], &deployment["shadow"]), (&json!({ "1": 100 }), &Value::Null));
    assert_eq!(failed, 0);
}

// ===== operators =====

#[tokio::test(flavor = "multi_thread")]
async fn operators_pause_resume_abort_and_promote() {
    let (repository, app) = start_beside("low_high", LOW_HIGH).await;
    add(&repository, &app, 3, "low_high").await;
    let act = async |action: &str| {
        let body = json!({ "by": "ada", "reason": "to see" });
        app.admin_post(&format!("/admin/v1/models/low_high/rollout/{action}"), body).await
    };
    let none = app.admin_get("/admin/v1/models/low_high/rollout").await;
    assert_eq!((none.status, none.json()["type"].clone()), (404, json!("urn:leeway:problem:no-rollout")));
    assert_eq!(act("pause").await.status, 422);

    let slow = json!({ "version": 2, "steps": [10, 100], "step_ms": 600_000, "by": "ada", "reason": "a new one" });
    let first = started(&app, slow.clone()).await;
    assert_eq!(first["events"][0]["reason"], "a new one");
    assert_eq!(deployment(&app).await["traffic"], json!({ "1": 90, "2": 10 }));
    let again = app.admin_post("/admin/v1/models/low_high/rollout", slow.clone()).await;
    assert!(again.status == 422 && again.text.contains("abort it first"), "{}", again.text);

    let paused = act("pause").await;
    assert_eq!((paused.status, paused.json()["state"].clone()), (200, json!("paused")), "{}", paused.text);
    assert_eq!(act("pause").await.status, 422);
    assert_eq!(act("resume").await.json()["state"], "running");
    let aborted = act("abort").await.json();
    assert_eq!((&aborted["state"], &aborted["explanation"]), (&json!("aborted"), &json!("to see")), "{aborted:#}");
    assert_eq!(deployment(&app).await["traffic"], json!({ "1": 100 }));

    started(&app, slow).await;
    let promoted = act("promote").await.json();
    assert_eq!((&promoted["state"], &promoted["number"]), (&json!("promoted"), &json!(2)));
    assert_eq!(deployment(&app).await["stable"], 2);
    let all = app.admin_get("/admin/v1/models/low_high/rollouts").await.json();
    let states: Vec<&Value> = all["rollouts"].as_array().unwrap().iter().map(|rollout| &rollout["state"]).collect();
    assert_eq!(states, ["promoted", "aborted"]);
    let state = "leeway_rollout_state{model=\"low_high\",state=\"promoted\"} 1";
    until(async || app.get("/metrics").await.text.contains(state).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_by_hand_ends_a_rollout_and_stays() {
    let (_repository, app) = start_beside("low_high", LOW_HIGH).await;
    started(&app, json!({ "version": 2, "steps": [10, 100], "step_ms": 600_000 })).await;
    let traffic = json!({ "shares": { "1": 60, "2": 40 }, "by": "ada", "reason": "more" });
    assert_eq!(app.admin_put("/admin/v1/models/low_high/traffic", traffic).await.status, 200);
    let end = ended(&app).await;
    assert_eq!(end["state"], "superseded", "{end:#}");
    assert_eq!(end["explanation"], "ada has changed the deployment (traffic, now 1=60 2=40): more");
    assert_eq!(deployment(&app).await["traffic"], json!({ "1": 60, "2": 40 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_takes_too_long_is_paused_and_never_promoted() {
    let (_repository, app) = start_beside("low_high", LOW_HIGH).await;
    // Without a request, nothing can be said.
    started(&app, json!({ "version": 2, "steps": [10, 100], "step_ms": 100, "timeout_ms": 200 })).await;
    let paused = until(async || {
        let rollout = rollout(&app).await;
        (rollout["state"] == "paused").then_some(rollout)
    })
    .await;
    let reason = "the maximum time of a step is over: version 2 has had no request that can be judged yet";
    assert_eq!(paused["explanation"], reason);
    assert_eq!(deployment(&app).await["traffic"], json!({ "1": 90, "2": 10 }));
    assert_eq!(app.admin_post("/admin/v1/models/low_high/rollout/abort", json!({})).await.status, 200);

    let request =
        json!({ "version": 2, "steps": [10, 100], "step_ms": 100, "timeout_ms": 200, "on_timeout": "roll_back" });
    started(&app, request).await;
    let end = ended(&app).await;
    assert_eq!((&end["state"], &end["explanation"]), (&json!("rolled_back"), &json!(reason)), "{end:#}");
    assert_eq!(deployment(&app).await["traffic"], json!({ "1": 100 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_possible_is_refused_with_what_to_change() {
    let (_repository, app) = start_beside("low_high", LOW_HIGH).await;
    let cases = [
        (json!({ "version": 1 }), 422, "version 1 of model low_high is the stable version already"),
        (json!({ "version": 9 }), 404, "9"),
        (json!({ "version": 2, "steps": [50] }), 400, "steps: found [50], expected the last step to be 100"),
        (json!({ "version": 2, "steps": [100] }), 400, "at least one share below 100"),
        (json!({ "version": 2, "step_ms": 1 }), 400, "step_ms: found 1, expected 100 to 31622400000"),
        (json!({ "version": 2, "if_generation": 7 }), 409, "generation"),
        (json!({ "versoin": 2 }), 400, "versoin"),
    ];
    for (request, status, problem) in cases {
        let answer = app.admin_post("/admin/v1/models/low_high/rollout", request.clone()).await;
        assert_eq!(answer.status, status, "{request}: {}", answer.text);
        assert!(answer.text.contains(problem), "{request}: {}", answer.text);
    }
    assert_eq!(deployment(&app).await["generation"], 1);
    assert_eq!(app.admin_get("/admin/v1/models/low_high/rollouts?limit=0").await.status, 400);
    assert_eq!(app.admin_get("/admin/v1/models/nobody/rollout").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_arrives_is_rolled_out_by_itself() {
    let settings = "[rollout]\nautomatic = true\nsteps = [50, 100]\nstep_ms = 200\n[rollout.guardrails]";
    let model_toml = LOW_HIGH.replace("[rollout.guardrails]", settings);
    let repository = Repository::new().with("low_high", 1, "low_high", &model_toml);
    let app = TestApp::with(repository.config()).await;
    let clients = Clients::start(&app.url(""), 4, 5);
    add(&repository, &app, 2, "low_high").await;
    let end = until(async || {
        let answer = app.admin_get("/admin/v1/models/low_high/rollout").await;
        (answer.status == 200 && !answer.json()["ended_at"].is_null()).then(|| answer.json())
    })
    .await;
    assert_eq!((&end["state"], &end["events"][0]["by"]), (&json!("promoted"), &json!("leeway")), "{end:#}");
    // A version that was taken back is not rolled out again.
    assert_eq!(app.admin_post("/admin/v1/models/low_high/rollback", json!({})).await.status, 200);
    assert_eq!(app.admin_post("/admin/v1/reload", json!({})).await.status, 200);
    assert_eq!(
        app.admin_get("/admin/v1/models/low_high/rollouts").await.json()["rollouts"].as_array().unwrap().len(),
        1
    );
    assert_eq!(clients.stop().await.1, 0);
}

/// The commands of the documentation print what it says.
#[test]
fn the_documented_commands_work() {
    let repository = Repository::new().with_shipped("digits", &[1, 2]);
    let server = Server::start(repository.path(), &[]);
    server.command(&["promote", "digits", "1"]);
    let text = std::fs::read_to_string(checkout().join("docs/rollouts.md")).unwrap();
    let block = text.split("```console\n").nth(1).unwrap().split("```").next().unwrap();
    let mut lines = block.lines().filter(|line| *line != "…");
    while let Some(command) = lines.next() {
        let words = command.strip_prefix("$ leeway ").unwrap().split('"').enumerate();
        // Every second part is in quotes.
        let arguments: Vec<&str> = words
            .flat_map(|(index, part)| if index % 2 == 1 { vec![part] } else { part.split_whitespace().collect() })
            .collect();
        let (code, said) = run(leeway(&arguments).env("LEEWAY_ADMIN__LISTEN", server.admin.to_string()));
        assert_eq!((code, said.lines().next()), (0, lines.next()), "{command}: {said}");
    }
}

// ===== restarts =====

fn server(repository: &Repository, state: &Path, fail_points: &str) -> Server {
    let url = format!("sqlite://{}", state.join("leeway.db").display());
    Server::start(repository.path(), &[("LEEWAY_STATE__URL", url.as_str()), ("FAILPOINTS", fail_points)])
}

async fn reload(server: &Server) {
    let reload = client().post(format!("http://{}/admin/v1/reload", server.admin)).json(&json!({}));
    assert_eq!(reload.send().await.unwrap().status(), 200);
}

async fn get(server: &Server, path: &str) -> Option<Value> {
    let answer = client().get(format!("http://{}{path}", server.admin)).send().await.ok()?;
    answer.json().await.ok()
}

/// The server is killed at every step, and between a decision and its change of the deployment.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_goes_on_after_kills() {
    let repository = Repository::new().with("low_high", 1, "low_high", LOW_HIGH);
    let state = tempfile::tempdir().unwrap();
    let mut running = server(&repository, state.path(), "");
    repository.add("low_high", 2, "low_high");
    reload(&running).await;
    let url = format!("http://{}/admin/v1/models/low_high/rollout", running.admin);
    let request = json!({ "version": 2, "steps": [10, 50, 75, 100], "step_ms": 200, "timeout_ms": 600_000 });
    assert_eq!(client().post(url).json(&request).send().await.unwrap().status(), 200);
    let mut killed_at = Vec::new();
    let end = loop {
        let clients = Clients::start(&running.url(""), 4, 5);
        let here = until(async || {
            let rollout = get(&running, "/admin/v1/models/low_high/rollout").await?;
            let deployment = get(&running, "/admin/v1/models/low_high").await?["deployment"].clone();
            let is_here = match killed_at.len() {
                1 => rollout["explanation"].as_str()?.starts_with("decided"),
                2 => deployment["generation"] != rollout["generation"],
                _ => !killed_at.contains(&rollout["step"]) || !rollout["ended_at"].is_null(),
            };
            is_here.then_some(rollout)
        })
        .await;
        drop(running);
        clients.stop().await;
        if !here["ended_at"].is_null() {
            break here;
        }
        killed_at.push(here["step"].clone());
        // Once it stands still after a decision is written and before its change is made, and once after the change.
        let fail_points = match killed_at.len() {
            1 => "rollout::decided=panic",
            2 => "rollout::made=panic",
            _ => "",
        };
        running = server(&repository, state.path(), fail_points);
    };
    assert_eq!(end["state"], "promoted", "{end:#}");
    assert_eq!(actions(&end), ["start", "advance", "advance", "promote"], "{end:#}");
    assert!(killed_at.len() >= 4, "{killed_at:?}");
    let last = server(&repository, state.path(), "");
    let deployment = get(&last, "/admin/v1/models/low_high").await.unwrap()["deployment"].clone();
    assert_eq!((&deployment["stable"], &deployment["generation"]), (&json!(2), &json!(5)));
}

/// Counts of both servers are added: only the first one gets requests with the version's mistakes.
#[tokio::test(flavor = "multi_thread")]
async fn servers_that_share_a_state_judge_together() {
    let repository = Repository::new().with("low_high", 1, "low_high", LOW_HIGH);
    let state = tempfile::tempdir().unwrap();
    let servers = [server(&repository, state.path(), ""), server(&repository, state.path(), "")];
    repository.add("low_high", 2, "low_high_flipped");
    for server in &servers {
        reload(server).await;
    }
    let url = format!("http://{}/admin/v1/models/low_high/rollout", servers[0].admin);
    assert_eq!(client().post(url).json(&quick(2)).send().await.unwrap().status(), 200);
    let clients: Vec<Clients> = servers.iter().map(|server| Clients::start(&server.url(""), 2, 5)).collect();
    let end = until(async || {
        let rollout = get(&servers[1], "/admin/v1/models/low_high/rollout").await?;
        (!rollout["ended_at"].is_null()).then_some(rollout)
    })
    .await;
    assert_eq!(end["state"], "rolled_back", "{end:#}");
    for server in &servers {
        until(async || {
            let deployment = get(server, "/admin/v1/models/low_high").await?["deployment"].clone();
            (deployment["traffic"] == json!({ "1": 100 })).then_some(())
        })
        .await;
    }
    for clients in clients {
        assert_eq!(clients.stop().await.1, 0);
    }
}

// ===== statistics =====

/// Simulated by the functions that the server decides with. `make bench-guardrails` simulates more.
#[test]
fn versions_that_are_not_worse_are_rarely_rolled_back_and_worse_ones_soon() {
    let equal = |shares, growth, cluster| Scenario { rates: (0.01, 0.01), requests: 200.0, shares, growth, cluster };
    let scenarios = [
        equal(&[0.05], 1.0, 1),
        equal(&[0.5], 1.0, 1),
        equal(&[0.01, 0.05, 0.25, 0.5], 5.0, 1),
        equal(&[0.5], 1.0, 10),
        equal(&[0.01, 0.05, 0.25, 0.5], 1.0, 3),
    ];
    let mistakes = |scenario: &Scenario| {
        (0..40).filter(|seed| rolled_back_at(Rule::Evidence, scenario, 600, *seed).is_some()).count()
    };
    assert!(scenarios.iter().map(mistakes).sum::<usize>() <= 2);
    for (worse, within) in [(0.01, 100), (0.02, 20), (0.05, 5)] {
        let scenario = Scenario { rates: (0.005, worse), requests: 1_000.0, shares: &[0.05], growth: 1.0, cluster: 1 };
        let found: Vec<f64> = (0..15)
            .map(|seed| rolled_back_at(Rule::Evidence, &scenario, 600, seed).map_or(f64::INFINITY, f64::from))
            .collect();
        let median = median(found);
        assert!(median <= f64::from(within), "{worse}: {median} s");
    }
}
