//! Traffic splits, promotions and rollbacks: under load, from the command line, and with failures.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use leeway::app::Dependencies;
use leeway::config::{StateConfig, StateUrl};
use leeway::deploy;
use leeway::pipeline::Stages;
use serde_json::{Value, json};

use crate::harness::{PLAIN, Repository, Server, TestApp, client, ledger, leeway, no_fleet, no_rollouts, run, runtime};

/// Versions 1, 2 and 3, which add their own number to x.
fn repository() -> Repository {
    let repository = Repository::new();
    for version in 1..=3 {
        Repository::add(&repository, "plus", version, &format!("plus_{version}"));
    }
    std::fs::write(repository.0.path().join("plus/model.toml"), PLAIN).unwrap();
    repository
}

fn body() -> String {
    json!({ "instances": [[0.0, 10.0]] }).to_string()
}

const PROMOTE: &str = "/admin/v1/models/plus/promote";
const ROLLBACK: &str = "/admin/v1/models/plus/rollback";
const TRAFFIC: &str = "/admin/v1/models/plus/traffic";

async fn version_for(app: &TestApp, key: &str) -> String {
    let request = app.client.post(app.url("/predict")).header("x-routing-key", key).body(body());
    let answer = crate::harness::Answer::of(request.send().await.unwrap()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.header("x-model-version").to_owned()
}

/// 64 clients send requests during 52 changes: no request fails, and every answer is that of the version that it names.
/// The number of requests suits a short test; `LEEWAY_TEST_REQUESTS` sets a higher one.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_versions_are_swapped() {
    let requests: usize = std::env::var("LEEWAY_TEST_REQUESTS").map_or(20_000, |count| count.parse().unwrap());
    let repository = repository();
    let app = Arc::new(TestApp::with(repository.config()).await);
    let (sent, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let clients = (0..64).map(|_| {
        let (app, sent, over) = (Arc::clone(&app), Arc::clone(&sent), Arc::clone(&over));
        tokio::spawn(async move {
            let mut seen = BTreeMap::<String, usize>::new();
            while sent.fetch_add(1, Ordering::Relaxed) < requests || !over.load(Ordering::Relaxed) {
                let answer = app.predict("/predict", body()).await;
                let version = answer.header("x-model-version").to_owned();
                let number: f64 = version.parse().unwrap_or_else(|_| panic!("{}", answer.text));
                assert_eq!(answer.predictions(), json!([[number, 10.0 + number]]));
                assert_eq!(answer.json()["model"]["version"], json!(number as u64));
                *seen.entry(version).or_default() += 1;
            }
            seen
        })
    });
    let clients: Vec<_> = clients.collect();
    assert_eq!(app.admin_post(PROMOTE, json!({ "version": 1 })).await.status, 200);
    for round in 0..17u64 {
        let (candidate, canary) = (2 + round % 2, 1 + (round % 5) * 20);
        let changes = [
            app.admin_put(TRAFFIC, json!({ "shares": { "1": 100 - canary, candidate.to_string(): canary } })).await,
            app.admin_post(PROMOTE, json!({ "version": candidate })).await,
            app.admin_post(ROLLBACK, json!({})).await,
        ];
        for change in changes {
            assert_eq!((change.status, &change.json()["changed"]), (200, &json!(true)), "{}", change.text);
        }
        // The same number of requests between any two rounds.
        let goal = requests * (round as usize + 1) / 17;
        while sent.load(Ordering::Relaxed) < goal {
            tokio::task::yield_now().await;
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
    over.store(true, Ordering::Relaxed);
    let mut all = BTreeMap::<String, usize>::new();
    for client in clients {
        for (version, count) in client.await.unwrap() {
            *all.entry(version).or_default() += count;
        }
    }
    assert!(all.values().sum::<usize>() >= requests && all.len() == 3, "{all:?}");
    for (version, count) in all {
        let ok = format!("leeway_requests_total{{model=\"plus\",version=\"{version}\",outcome=\"ok\"}}");
        assert_eq!(app.metric(&ok).await, count as f64);
    }
    assert_eq!(app.metric("leeway_deployment_generation{model=\"plus\"}").await, 53.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_stays_with_its_version_and_only_a_share_that_grows_takes_keys() {
    let repository = repository();
    let app = TestApp::with(repository.config()).await;
    let versions = async || {
        let mut versions = Vec::new();
        for key in 0..300 {
            versions.push(version_for(&app, &format!("user-{key}")).await);
        }
        versions
    };
    app.admin_put(TRAFFIC, json!({ "shares": { "1": 90, "2": 10 } })).await;
    let before = versions().await;
    assert_eq!(before, versions().await);
    let canary = before.iter().filter(|version| *version == "2").count();
    assert!((5..=70).contains(&canary), "{canary} of 300");
    app.admin_put(TRAFFIC, json!({ "shares": { "1": 80, "2": 20 } })).await;
    for (before, after) in before.iter().zip(versions().await) {
        assert!(*before == after || (before, after.as_str()) == (&"1".to_owned(), "2"));
    }
    // Without a key, the request's id is the key.
    let by_id = async |id: &str| {
        let request = app.client.post(app.url("/predict")).header("x-request-id", id).body(body());
        request.send().await.unwrap().headers()["x-model-version"].clone()
    };
    for id in ["a", "b", "c", "d", "e"] {
        assert_eq!(by_id(id).await, version_for(&app, id).await.as_str());
    }
    for wrong in ["", &"k".repeat(257)] {
        let request = app.client.post(app.url("/predict")).header("x-routing-key", wrong).body(body());
        assert_eq!(request.send().await.unwrap().status(), 400);
    }
    // A request that names a version gets that version.
    let pinned = app.predict("/v1/models/plus/versions/3:predict", body()).await;
    assert_eq!(pinned.predictions(), json!([[3.0, 13.0]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_needed_is_kept_and_what_is_not_is_retired() {
    let repository = repository();
    let mut config = repository.config();
    config.repository.newest_versions = 1;
    let app = TestApp::with(config).await;
    let loaded = async || {
        app.admin_post("/admin/v1/reload", json!({})).await;
        let versions = app.get("/v1/models/plus").await.json()["versions"].clone();
        versions.as_array().unwrap().iter().map(|version| version["version"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(loaded().await, [3]);
    app.admin_post(PROMOTE, json!({ "version": 1 })).await;
    assert_eq!(loaded().await, [3, 1]);
    app.admin_post("/admin/v1/models/plus/versions/2/load", json!({})).await;
    assert_eq!(loaded().await, [3, 2, 1]);
    app.admin_post("/admin/v1/models/plus/versions/2/unload", json!({})).await;
    assert_eq!(loaded().await, [3, 1]);
    for (version, says) in [(1, "has 100% of the traffic"), (3, "is the target of a rollback")] {
        let refused = app.admin_post(&format!("/admin/v1/models/plus/versions/{version}/unload"), json!({})).await;
        assert!(refused.status == 422 && refused.text.contains(says), "{}", refused.text);
    }
    // A new version is loaded without traffic. The version before it is retired if nothing needs it.
    Repository::add(&repository, "plus", 4, "plus_4");
    assert_eq!(loaded().await, [4, 3, 1]);
    app.admin_post(PROMOTE, json!({ "version": 4 })).await;
    assert_eq!(loaded().await, [4, 1]);
    let gone = app.predict("/v1/models/plus/versions/3:predict", body()).await;
    assert_eq!((gone.status, &gone.json()["type"]), (404, &json!("urn:leeway:problem:unknown-version")));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_racing_writers_one_wins_and_the_others_are_told() {
    let repository = repository();
    let app = Arc::new(TestApp::with(repository.config()).await);
    for round in 1..=5u64 {
        let writers = (0..8).map(|writer| {
            let app = Arc::clone(&app);
            tokio::spawn(async move {
                let shares = json!({ "1": 50 - 5 * writer - round, "2": 50 + 5 * writer + round });
                app.admin_put(TRAFFIC, json!({ "shares": shares, "if_generation": round, "by": writer.to_string() }))
                    .await
            })
        });
        let mut winners = Vec::new();
        for writer in writers.collect::<Vec<_>>() {
            let answer = writer.await.unwrap();
            match answer.status {
                200 if answer.json()["changed"] == true => winners.push(answer.json()["deployment"]["by"].clone()),
                409 => assert_eq!(answer.json()["present"]["generation"], json!(round + 1)),
                other => panic!("{other}: {}", answer.text),
            }
        }
        assert_eq!(winners.len(), 1);
        let history = app.admin_get("/admin/v1/models/plus/history?limit=1").await.json();
        assert_eq!(history["deployments"][0]["by"], winners[0]);
        app.admin_put(TRAFFIC, json!({ "shares": { "3": 100 }, "if_generation": 1 })).await;
    }
    let history = app.admin_get("/admin/v1/models/plus/history").await.json();
    let generations: Vec<u64> =
        history["deployments"].as_array().unwrap().iter().map(|one| one["generation"].as_u64().unwrap()).collect();
    assert_eq!(generations, [6, 5, 4, 3, 2, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_api_takes_only_what_it_should() {
    let repository = repository();
    let mut config = repository.config();
    config.admin.token = Some("correct-horse-battery".to_owned().try_into().unwrap());
    let app = TestApp::with(config).await;
    let url = |path: &str| format!("http://{}{path}", app.admin);
    let paths = [
        ("GET", "/admin/v1/models"),
        ("GET", "/admin/v1/models/plus"),
        ("GET", "/admin/v1/models/plus/history"),
        ("GET", "/admin/v1/models/plus/versions/1"),
        ("PUT", TRAFFIC),
        ("POST", PROMOTE),
        ("POST", ROLLBACK),
        ("POST", "/admin/v1/models/plus/versions/1/load"),
        ("POST", "/admin/v1/models/plus/versions/1/unload"),
        ("POST", "/admin/v1/reload"),
    ];
    let send = async |address: &str, method: &str, path: &str, token: &str| {
        let request = app.client.request(method.parse().unwrap(), format!("http://{address}{path}"));
        let request = if token.is_empty() { request } else { request.header("authorization", token) };
        request.header("content-type", "application/json").body("{}").send().await.unwrap().status().as_u16()
    };
    let (admin, data) = (app.admin.to_string(), app.data.to_string());
    for (method, path) in paths {
        for token in [
            "",
            "Bearer ",
            "Bearer correct-horse-batterx",
            "Bearer correct-horse-battery-",
            "Basic correct-horse-battery",
        ] {
            assert_eq!(send(&admin, method, path, token).await, 401, "{method} {path} {token}");
        }
        for other in ["GET", "POST", "PUT", "DELETE", "PATCH"].into_iter().filter(|other| *other != method) {
            assert_eq!(send(&admin, other, path, "Bearer correct-horse-battery").await, 405, "{other} {path}");
        }
        // None of this is on the data listener, in any spelling.
        for variant in [
            path.to_owned(),
            format!("/{path}"),
            path.replace("/admin", "/%61dmin"),
            path.replace("admin/", "admin%2f"),
        ] {
            assert_eq!(send(&data, method, &variant, "Bearer correct-horse-battery").await, 404, "{method} {variant}");
        }
    }
    // Without a token, a caller does not learn which paths exist.
    assert_eq!(send(&admin, "GET", "/admin/v1/nothing", "").await, 401);
    assert_eq!(send(&admin, "GET", "/admin/v1/nothing", "Bearer correct-horse-battery").await, 404);

    let long = "m".repeat(5_000);
    for name in ["..", "%2e%2e", "plus%00", "a%2fb", "%F0%9F%90%B1", &long, "%ff", "-x", "nobody"] {
        let status =
            send(&admin, "GET", &format!("/admin/v1/models/{name}/history"), "Bearer correct-horse-battery").await;
        assert!([400, 404].contains(&status), "{name}: {status}");
    }
    for version in ["0", "01", "-1", "latest", "4294967296", "%2e%2e"] {
        let path = format!("/admin/v1/models/plus/versions/{version}/load");
        let status = send(&admin, "POST", &path, "Bearer correct-horse-battery").await;
        assert!([400, 404].contains(&status), "{version}: {status}");
    }
    let bearer = |request: reqwest::RequestBuilder| request.header("authorization", "Bearer correct-horse-battery");
    for (body, says) in [
        ("", "missing field `shares`"),
        ("{\"shares\": {\"1\": 50}}", "add up to 50%"),
        ("{\"shares\": {\"1\": 50, \"2\": 60}}", "add up to 110%"),
        ("{\"shares\": {\"1\": 100.001}}", "at most two decimals"),
        ("{\"shares\": {\"1\": -1, \"2\": 101}}", "percent from 0 to 100"),
        ("{\"shares\": {\"0\": 100}}", "nonzero"),
        ("{\"shares\": {\"9\": 100}}", "no version"),
        ("{\"shares\": {\"1\": 100}, \"force\": true}", "unknown field"),
        ("[", "the body"),
    ] {
        let request = bearer(app.client.put(url(TRAFFIC))).header("content-type", "application/json").body(body);
        let answer = crate::harness::Answer::of(request.send().await.unwrap()).await;
        assert!([400, 404].contains(&answer.status) && answer.text.contains(says), "{body}: {}", answer.text);
    }
    let large =
        bearer(app.client.put(url(TRAFFIC))).header("content-type", "application/json").body(" ".repeat(1 << 17));
    assert_eq!(large.send().await.unwrap().status(), 413);
    let untyped = bearer(app.client.post(url(ROLLBACK))).body("{}");
    assert_eq!(untyped.send().await.unwrap().status(), 415);
    assert_eq!(app.metric("leeway_deployment_generation{model=\"plus\"}").await, 1.0);
}

/// If no token is configured, local programs may use the API, but web pages in a local browser may not.
#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_cannot_reach_through_a_browser() {
    let repository = repository();
    let app = TestApp::with(repository.config()).await;
    let ask = async |name: &str, value: &str| {
        let request = app.client.get(format!("http://{}/admin/v1/models", app.admin)).header(name, value);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(ask("host", "localhost:8081").await, 200);
    assert_eq!(ask("host", "[::1]:8081").await, 200);
    assert_eq!(ask("host", "rebound.example:8081").await, 403);
    assert_eq!(ask("origin", "http://rebound.example").await, 403);
    // Another server on the same machine is another origin. The console is a page of this one.
    assert_eq!(ask("origin", "http://127.0.0.1:1").await, 403);
    assert_eq!(ask("origin", "null").await, 403);
    assert_eq!(ask("origin", &format!("http://{}", app.admin)).await, 200);
    let form =
        app.client.post(format!("http://{}{ROLLBACK}", app.admin)).header("content-type", "text/plain").body("{}");
    assert_eq!(form.send().await.unwrap().status(), 415);
}

/// Runs a command of the program for this server.
fn command(server: &Server, arguments: &[&str]) -> Command {
    let mut command = leeway(arguments);
    command.env("LEEWAY_ADMIN__LISTEN", server.admin.to_string());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_does_it_all() {
    let repository = repository();
    let state = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", state.path().join("leeway.db").display());
    let server = Server::start(repository.0.path(), &[("LEEWAY_STATE__URL", &url)]);
    let say = |arguments: &[&str], code: i32, says: &str| {
        let (found, text) = run(&mut command(&server, arguments));
        assert!(found == code && text.contains(says), "{arguments:?}: {found} {text}");
        text
    };
    say(&["status"], 0, "plus: generation 1, stable version 3");
    say(
        &["traffic", "plus", "1=90", "2=10", "--reason", "canary"],
        0,
        "plus: 3=100 -> 1=90 2=10, stable version 3, generation 2",
    );
    say(&["traffic", "plus", "1=90", "2=10"], 0, "1=90 2=10 already");
    say(
        &["promote", "plus", "2", "--if-generation", "1"],
        1,
        "is at generation 2, but this change was decided on generation 1",
    );
    say(&["promote", "plus", "2", "--by", "ada"], 0, "1=90 2=10 -> 2=100, stable version 2, generation 3");
    say(&["promote", "plus", "9"], 1, "no version \"9\"");
    say(&["traffic", "plus", "1=90", "2=20"], 1, "add up to 110%");
    say(&["traffic", "plus", "1"], 2, "expected VERSION=PERCENT");
    say(&["rollback", "plus", "--reason", "errors"], 0, "2=100 -> 3=100, stable version 3, generation 4");
    say(&["rollback", "plus"], 1, "no stable version before 3");
    say(&["unload", "plus", "1"], 0, "plus version 1: available");
    say(&["load", "plus", "1"], 0, "plus version 1: loaded");
    say(&["reload"], 0, "plus: generation 4");
    say(&["schema", "plus"], 0, "JSON Schema of a prediction:");
    let example = say(&["schema", "plus", "--version", "3", "--example"], 0, "instances");
    assert!(serde_json::from_str::<Value>(&example).unwrap()["instances"][0].is_array(), "{example}");
    let instance: Value = serde_json::from_str(&say(&["schema", "plus", "--instance"], 0, "")).unwrap();
    assert!(instance["anyOf"].is_array(), "{instance}");
    say(&["schema", "plus", "--version", "9"], 1, "no version \"9\"");
    say(&["status", "nobody"], 1, "there is no model \"nobody\"; models: plus");
    let history = say(&["history", "plus"], 0, "canary");
    assert!(history.contains("ada") && history.contains("errors"), "{history}");
    let json: Value = serde_json::from_str(&say(&["history", "plus", "--json", "--limit", "1"], 0, "")).unwrap();
    assert_eq!((&json["deployments"][0]["action"], &json["deployments"][0]["stable"]), (&json!("rollback"), &json!(3)));

    server.signal("TERM");
    let (status, log) = server.wait();
    assert!(status.success(), "{log}");
    let nobody = run(leeway(&["status"]).env("LEEWAY_ADMIN__LISTEN", "127.0.0.1:1"));
    assert!(nobody.0 == 1 && nobody.1.contains("no server answers at 127.0.0.1:1"), "{}", nobody.1);

    // Without a server, commands change the journal itself, and the next server follows it.
    let models = repository.0.path().to_str().unwrap();
    let nothing =
        run(leeway(&["promote", "plus", "9", "--offline", "--models", models]).env("LEEWAY_STATE__URL", &url));
    assert!(nothing.0 == 1 && nothing.1.contains("version 9 could not be served"), "{}", nothing.1);
    let offline =
        run(leeway(&["promote", "plus", "1", "--offline", "--models", models]).env("LEEWAY_STATE__URL", &url));
    assert!(offline.0 == 0 && offline.1.contains("3=100 -> 1=100, stable version 1, generation 5"), "{}", offline.1);
    let server = Server::start(repository.0.path(), &[("LEEWAY_STATE__URL", &url)]);
    let answer = client().post(server.url("/predict")).body(body()).send().await.unwrap();
    assert_eq!(answer.headers()["x-model-version"], "1");
}

/// A version that the journal needs is damaged: the server says what to do.
#[tokio::test(flavor = "multi_thread")]
async fn a_deployed_version_that_is_broken_keeps_a_server_from_starting_and_says_why() {
    let repository = repository();
    let state = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", state.path().join("leeway.db").display());
    drop(Server::start(repository.0.path(), &[("LEEWAY_STATE__URL", &url)]));
    let models = repository.0.path().to_str().unwrap();
    let offline = |arguments: &[&str]| {
        run(leeway(arguments).args(["--offline", "--models", models]).env("LEEWAY_STATE__URL", &url))
    };
    let promote = offline(&["promote", "plus", "2"]);
    assert_eq!(promote.0, 0, "{}", promote.1);
    std::fs::write(repository.0.path().join("plus/2/model.onnx"), "").unwrap();
    let check = run(leeway(&["check", "--models", models]).env("LEEWAY_STATE__URL", &url));
    assert_eq!(check.0, 1);
    for says in
        ["plus version 2: model.onnx is not the file that was added", "generation 2", "leeway rollback plus --offline"]
    {
        assert!(check.1.contains(says), "{}", check.1);
    }
    let rollback = offline(&["rollback", "plus"]);
    assert_eq!(rollback.0, 0, "{}", rollback.1);
    let check = run(leeway(&["check", "--models", models]).env("LEEWAY_STATE__URL", &url));
    assert!(check.0 == 0 && check.1.contains("without these versions"), "{}", check.1);
}

/// Two servers share a journal: each takes over the changes of the other.
#[tokio::test(flavor = "multi_thread")]
async fn servers_that_share_a_journal_follow_each_other() {
    let repository = repository();
    let journal = leeway::state::open_journal(&StateConfig::at(StateUrl::Memory)).await.unwrap();
    let parts = || Dependencies {
        engine: runtime(),
        isolated_engine: None,
        stages: Stages::default(),
        trial: None,
        journal: Arc::clone(&journal),
        ledger: ledger(),
        fleet: no_fleet(),
        rollouts: no_rollouts(),
    };
    let one = TestApp::with_all(repository.config(), parts()).await;
    let other = TestApp::with_all(repository.config(), parts()).await;
    assert_eq!(one.admin_post(PROMOTE, json!({ "version": 2 })).await.status, 200);
    assert_eq!(version_for(&other, "a").await, "3");
    let late = other.admin_post(PROMOTE, json!({ "version": 1, "if_generation": 1 })).await;
    assert_eq!((late.status, &late.json()["present"]["stable"]), (409, &json!(2)));
    assert_eq!(version_for(&other, "a").await, "2");
    assert_eq!(other.admin_post(PROMOTE, json!({ "version": 1 })).await.status, 200);
    one.admin_post("/admin/v1/reload", json!({})).await;
    assert_eq!(version_for(&one, "a").await, "1");
}

/// Another process deploys a version that this server cannot load: it continues to serve, and an operator can roll
/// back.
#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_cannot_be_taken_over_can_be_rolled_back() {
    let repository = repository();
    let journal = leeway::state::open_journal(&StateConfig::at(StateUrl::Memory)).await.unwrap();
    let parts = Dependencies {
        engine: runtime(),
        isolated_engine: None,
        stages: Stages::default(),
        trial: None,
        journal: Arc::clone(&journal),
        ledger: ledger(),
        fleet: no_fleet(),
        rollouts: no_rollouts(),
    };
    let app = TestApp::with_all(repository.config(), parts).await;
    repository.add("plus", 4, "not_per_row");
    let note = deploy::ChangeNote { by: "another".into(), reason: String::new(), at: jiff::Timestamp::UNIX_EPOCH };
    let first = journal.latest().await.unwrap().deployments.remove(0);
    let next = first.after(&deploy::Transition::Promote("4".parse().unwrap()), &note).unwrap().unwrap();
    assert_eq!(journal.append(&next).await.unwrap(), deploy::Appended::Written);
    let overview = app.admin_post("/admin/v1/reload", json!({})).await.json();
    assert!(overview["models"][0]["deployment_problem"].as_str().unwrap().contains("generation 2"), "{overview}");
    assert_eq!(version_for(&app, "a").await, "3");
    let back = app.admin_post(ROLLBACK, json!({})).await;
    assert_eq!((back.status, &back.json()["deployment"]["generation"]), (200, &json!(3)), "{}", back.text);
    assert_eq!(version_for(&app, "a").await, "3");
}

/// A disk that is full after the current journal, and then a disk that cannot be written at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_the_change_and_nothing_else() {
    let repository = repository();
    let state = tempfile::tempdir().unwrap();
    let disk = state.path().display();
    // A separate file system requires privileges. A limit on the file size does not, and uses the same error path of
    // SQLite.
    let models = repository.0.path().to_str().unwrap();
    let binary = env!("CARGO_BIN_EXE_leeway");
    let mut shell = Command::new("bash");
    // SIGXFSZ is ignored, so that a write beyond the limit fails instead of ending the process.
    shell.args(["-c", &format!("trap '' XFSZ; ulimit -f 64; exec {binary} serve --models {models}")]);
    shell.env_remove("ORT_DYLIB_PATH").env("LEEWAY_STATE__URL", format!("sqlite:{disk}/leeway.db"));
    let server = Server::spawn(&mut shell);
    let client = client();
    let admin = |path: &str| format!("http://{}{path}", server.admin);
    let mut refused = None;
    let (mut generation, mut stable) = (1, 3);
    for round in 0..200u64 {
        let version = 1 + round % 3;
        let change = json!({ "version": version, "reason": "x".repeat(900) }).to_string();
        let request = client.post(admin(PROMOTE)).header("content-type", "application/json").body(change);
        let answer = crate::harness::Answer::of(request.send().await.unwrap()).await;
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
        (generation, stable) = (answer.json()["deployment"]["generation"].as_u64().unwrap(), version);
    }
    let refused = refused.expect("the disk never became full");
    assert_eq!(
        (refused.status, &refused.json()["type"]),
        (503, &json!("urn:leeway:problem:journal-failed")),
        "{}",
        refused.text
    );
    assert!(refused.text.contains("nothing was changed"), "{}", refused.text);
    assert!(!refused.text.contains(&disk.to_string()), "{}", refused.text);
    let answer = client.post(server.url("/predict")).body(body()).send().await.unwrap();
    assert_eq!(answer.headers()["x-model-version"], stable.to_string().as_str());
    let status: Value = client.get(admin("/admin/v1/models/plus")).send().await.unwrap().json().await.unwrap();
    assert_eq!(status["deployment"]["generation"], json!(generation));
}
