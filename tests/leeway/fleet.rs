//! A fleet: servers that share their state, in PostgreSQL or in an SQLite file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use leeway::api::admin::{ChangeOutcome, Deployment, History, ModelStatus, Overview};
use leeway::config::{Config, StateConfig, StateUrl};
use leeway_testkit::Postgres;
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::harness::{
    Answer, PATIENCE, PLAIN, Repository, Server, TestApp, client, config, held_out, leeway, run, until,
};

const PROMOTE: &str = "/admin/v1/models/plus/promote";

fn repository() -> Repository {
    let repository = Repository::new();
    for version in 1..=3 {
        repository.add("plus", version, &format!("plus_{version}"));
    }
    std::fs::write(repository.0.path().join("plus/model.toml"), PLAIN).unwrap();
    repository
}

/// A replica as a process, with its own folder. It loads all versions at the start, and does not poll the repository.
fn replica(repository: &Repository, postgres: &Postgres, folder: &Path) -> Server {
    let mut command = leeway(&["serve", "--models", repository.0.path().to_str().unwrap()]);
    command.env("LEEWAY_STATE__URL", postgres.url()).env("LEEWAY_STATE__LAST_SEEN", folder.join("last-seen.json"));
    command.env("LEEWAY_LOADING__TRIAL", "false").env("LEEWAY_REPOSITORY__NEWEST_VERSIONS", "3");
    command.env("LEEWAY_REPOSITORY__POLL_INTERVAL_MS", "0");
    Server::spawn(&mut command)
}

async fn read<T: DeserializeOwned>(url: String) -> Option<T> {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    CLIENT.get_or_init(client).get(url).send().await.ok()?.json().await.ok()
}

async fn generation(admin: std::net::SocketAddr) -> Option<u64> {
    let status: ModelStatus = read(format!("http://{admin}/admin/v1/models/plus")).await?;
    Some(status.deployment.generation)
}

/// A configuration of a server in this process that shares this state, and does not poll the repository.
fn sharing(repository: &Repository, url: &str, folder: &Path) -> Config {
    let mut config = repository.config();
    config.repository.poll_interval_ms = 0;
    config.repository.newest_versions = 3;
    let url = StateUrl::try_from(url.to_owned()).unwrap();
    config.state = StateConfig { last_seen: folder.join("last-seen.json"), ..StateConfig::at(url) };
    config
}

async fn promote(app: &TestApp, body: Value) -> ChangeOutcome {
    let answer = app.admin_post(PROMOTE, body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    serde_json::from_value(answer.json()).unwrap()
}

/// A change on one server is in effect on the others soon, without polls of the repository, and a caller can wait for it.
async fn check_following(url: &str, folder: &Path) {
    let repository = repository();
    let start = || TestApp::with(sharing(&repository, url, folder));
    let apps = [start().await, start().await, start().await];
    let mut took = Vec::new();
    for change in 0..9u64 {
        let outcome = promote(&apps[change as usize % 3], json!({ "version": 1 + change % 3 })).await;
        assert!(outcome.changed);
        let begin = Instant::now();
        for app in &apps {
            until(async || (generation(app.admin).await? == outcome.deployment.generation).then_some(())).await;
        }
        took.push(begin.elapsed());
    }
    took.sort_unstable();
    eprintln!("in effect on all servers after {:?} (median), {:?} (worst)", took[took.len() / 2], took[took.len() - 1]);
    // All servers know each other, by their names.
    let overview: Overview = until(async || {
        let overview: Overview = read(format!("http://{}/admin/v1/models", apps[0].admin)).await?;
        (overview.replicas.len() == 3).then_some(overview)
    })
    .await;
    for app in &apps {
        let port = format!(":{}", app.admin.port());
        assert_eq!(overview.replicas.iter().filter(|replica| replica.name.ends_with(&port)).count(), 1);
    }
    let outcome = promote(&apps[1], json!({ "version": 2, "wait_ms": 60_000 })).await;
    assert_eq!(outcome.lagging, []);
    for app in &apps {
        assert_eq!(generation(app.admin).await, Some(outcome.deployment.generation));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_follow_each_other_by_a_database() {
    let (postgres, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    check_following(&postgres.url(), folder.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_follow_each_other_by_a_file() {
    let folder = tempfile::tempdir().unwrap();
    check_following(&format!("sqlite:{}", folder.path().join("leeway.db").display()), folder.path()).await;
}

/// A server that cannot take a change over is named, with its reason, to those who wait and in the status.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lags_is_named() {
    let (postgres, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    let (whole, partial) = (repository(), repository());
    std::fs::remove_dir_all(partial.0.path().join("plus/1")).unwrap();
    let apps = [
        TestApp::with(sharing(&whole, &postgres.url(), folder.path())).await,
        TestApp::with(sharing(&partial, &postgres.url(), folder.path())).await,
    ];
    let outcome = promote(&apps[0], json!({ "version": 1, "wait_ms": 500 })).await;
    let [lagging] = &outcome.lagging[..] else { panic!("{:?}", outcome.lagging) };
    assert!(lagging.name.ends_with(&apps[1].admin.port().to_string()) && lagging.generation == Some(1), "{lagging:?}");
    let server = apps[0].admin.to_string();
    let (code, text) = run(&mut leeway(&["promote", "plus", "1", "--wait=1", "--server", &server]));
    assert!(code == 1 && text.contains("is not in effect yet on") && text.contains(&lagging.name), "{text}");
    until(async || {
        let (_, text) = run(&mut leeway(&["status", "--server", &server]));
        text.contains("plus at generation 1: generation 2: version 1 is not in the repository").then_some(())
    })
    .await;
    let (code, text) = run(&mut leeway(&["status", "--check", "--server", &server]));
    assert!(code == 1 && text.contains("plus at generation 1"), "{text}");
}

/// What is sent to any replica is joined with the predictions of any other, exactly once.
#[tokio::test(flavor = "multi_thread")]
async fn feedback_counts_once_in_a_fleet() {
    const PREDICTIONS: usize = 10_000;
    let (postgres, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    let url = StateUrl::try_from(postgres.url()).unwrap();
    let start = || {
        let state = StateConfig { last_seen: folder.path().join("last-seen.json"), ..StateConfig::at(url.clone()) };
        TestApp::with(Config { state, ..config() })
    };
    let replicas = [start().await, start().await, start().await];
    let instances = held_out("digits")["instances"].clone();
    let body = json!({ "instances": instances }).to_string();
    let mut ids: Vec<Value> = Vec::new();
    while ids.len() < PREDICTIONS {
        let answer = replicas[ids.len() % 3].predict("/predict", body.clone()).await.json();
        ids.extend(answer["prediction_ids"].as_array().unwrap().iter().take(PREDICTIONS - ids.len()).cloned());
    }
    // Each twice, in an order that has nothing to do with the first one.
    let mut order: Vec<usize> = (0..2 * PREDICTIONS).collect();
    order.sort_by_key(|index| (*index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut sending = tokio::task::JoinSet::new();
    for (turn, some) in order.chunks(500).enumerate() {
        let items: Vec<Value> =
            some.iter().map(|index| json!({ "prediction_id": ids[index % PREDICTIONS], "label": 3 })).collect();
        let (client, url) = (client(), replicas[turn % 3].url("/feedback"));
        let request = client.post(url).json(&json!({ "feedback": items })).send();
        sending.spawn(async move { Answer::of(request.await.unwrap()).await.json() });
    }
    let mut totals: BTreeMap<String, u64> = BTreeMap::new();
    while let Some(taken) = sending.join_next().await {
        for (result, count) in taken.unwrap()["results"].as_object().unwrap() {
            *totals.entry(result.clone()).or_default() += count.as_u64().unwrap();
        }
    }
    totals.retain(|_, count| *count > 0);
    let expected = ["duplicate", "joined"].map(|result| (result.to_owned(), PREDICTIONS as u64));
    assert_eq!(totals, expected.into());
}

/// While the database is gone, predictions go on, changes are refused, and feedback waits; afterwards it is joined.
#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_outlives_its_database() {
    let (mut postgres, folder, repository) = (Postgres::start(), tempfile::tempdir().unwrap(), repository());
    let model_toml = format!("{PLAIN}[monitoring.business]\nrevenue = \"sum\"\n");
    std::fs::write(repository.0.path().join("plus/model.toml"), model_toml).unwrap();
    let configured = || sharing(&repository, &postgres.url(), folder.path());
    let (config_of_starting, config_of_stranger) = (configured(), {
        let mut config = configured();
        config.state.last_seen = folder.path().join("nothing.json");
        config
    });
    let app = TestApp::with(configured()).await;
    promote(&app, json!({ "version": 1 })).await;
    let predict = async |app: &TestApp| {
        let answer = app.predict("/predict", json!({ "instances": [[0.0, 0.0]] }).to_string()).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        (answer.header("x-model-version").to_owned(), answer.json()["prediction_ids"][0].clone())
    };
    let (_, id) = predict(&app).await;
    postgres.kill();

    assert_eq!(predict(&app).await.0, "1");
    let answer = app.admin_post(PROMOTE, json!({ "version": 2 })).await;
    assert!(answer.status == 503 && answer.text.contains("nothing was changed"), "{}", answer.text);
    let feedback = json!({ "feedback": [{ "prediction_id": id, "metrics": { "revenue": 2.0 } }] }).to_string();
    let taken = app.predict("/feedback", feedback.clone()).await.json();
    assert_eq!(taken["results"]["buffered"], json!(1), "{taken}");
    app.metric_becomes("leeway_outcome_feedback_buffered", 1.0).await;

    // A server that starts now serves what this machine has seen, and says so.
    let starting = TestApp::with(config_of_starting).await;
    assert_eq!(predict(&starting).await.0, "1");
    let overview = starting.admin_get("/admin/v1/models").await.text;
    assert!(overview.contains("the last deployments that this machine has seen are served"), "{overview}");
    // One that has seen nothing does not guess.
    let stranger = TestApp::with(config_of_stranger).await;
    assert_eq!(stranger.get("/readyz").await.status, 503);

    postgres.start_again();
    app.metric_becomes("leeway_outcome_feedback_buffered", 0.0).await;
    assert_eq!(app.metric("leeway_outcome_feedback_total{result=\"joined\"}").await, 1.0);
    let taken = app.predict("/feedback", feedback).await.json();
    assert_eq!(taken["results"]["duplicate"], json!(1), "{taken}");
    until(async || (stranger.get("/readyz").await.status == 200).then_some(())).await;
    assert_eq!(predict(&stranger).await.0, "1");
    let outcome = promote(&stranger, json!({ "version": 3 })).await;
    for app in [&app, &starting] {
        until(async || (generation(app.admin).await? == outcome.deployment.generation).then_some(())).await;
    }
}

// ===== kills =====

/// The replicas of a fleet, which are killed and started again.
struct Replicas {
    servers: Vec<RwLock<Option<Server>>>,
    folders: Vec<tempfile::TempDir>,
    repository: Repository,
}

impl Replicas {
    /// Returns the addresses of a replica; `None` while it is being started again.
    fn addresses(&self, index: usize) -> Option<(std::net::SocketAddr, std::net::SocketAddr)> {
        self.servers[index].read().as_ref().map(|server| (server.data, server.admin))
    }
}

/// Three operators change the deployment on different replicas at one time, while clients predict, and while replicas and the
/// database are killed. No request fails of those that a killed replica did not take along, no acknowledged change is lost,
/// and there is one history. `LEEWAY_TEST_CHANGES`, `LEEWAY_TEST_KILLS`, `LEEWAY_TEST_CLIENTS` and `LEEWAY_TEST_REQUESTS` set
/// higher numbers.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn kills_lose_no_acknowledged_change() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (changes, kills) = (number("LEEWAY_TEST_CHANGES", 9), number("LEEWAY_TEST_KILLS", 4));
    let (clients, requests) = (number("LEEWAY_TEST_CLIENTS", 8), number("LEEWAY_TEST_REQUESTS", 500));
    let (postgres, repository) = (Postgres::start(), repository());
    let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let start = |index: usize| replica(&repository, &postgres, folders[index].path());
    let servers = (0..3).map(|index| RwLock::new(Some(start(index)))).collect();
    let replicas = Arc::new(Replicas { servers, folders, repository });
    let (done, answered, failed) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));

    let mut predicting = tokio::task::JoinSet::new();
    for client_number in 0..clients as usize {
        let (replicas, done, answered, failed) =
            (Arc::clone(&replicas), Arc::clone(&done), Arc::clone(&answered), Arc::clone(&failed));
        predicting.spawn(async move {
            let (client, mut turn) = (client(), client_number);
            while !done.load(Ordering::Relaxed) || answered.load(Ordering::Relaxed) < requests {
                turn += 1;
                // As a load balancer does: a request whose connection fails goes to another replica.
                let Some((data, _)) = replicas.addresses(turn % 3) else {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                };
                let body = r#"{"instances": [[0.0, 0.0]]}"#;
                match client.post(format!("http://{data}/predict")).body(body).send().await {
                    Ok(answer) if answer.status() == 200 => drop(answered.fetch_add(1, Ordering::Relaxed)),
                    Ok(answer) => {
                        eprintln!("{}", answer.text().await.unwrap_or_default());
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        });
    }

    let acknowledged = Arc::new(Mutex::new(BTreeMap::<u64, (Deployment, Duration)>::new()));
    let mut operating = tokio::task::JoinSet::new();
    for operator in 0..3usize {
        let (replicas, acknowledged) = (Arc::clone(&replicas), Arc::clone(&acknowledged));
        operating.spawn(async move {
            let (client, mut made) = (client(), 0);
            while made < changes.div_ceil(3) {
                let Some((_, admin)) = replicas.addresses(operator) else {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                };
                let (path, body) = match made % 3 {
                    2 => ("rollback", json!({})),
                    _ => ("promote", json!({ "version": 1 + (made + operator as u64) % 3 })),
                };
                let answer =
                    client.post(format!("http://{admin}/admin/v1/models/plus/{path}")).json(&body).send().await;
                let outcome: Option<ChangeOutcome> = match answer {
                    Ok(answer) if answer.status() == 200 => answer.json().await.ok(),
                    // The other operators have used up the rollback path.
                    Ok(answer) if answer.status() == 422 => {
                        made += 1;
                        continue;
                    }
                    _ => None,
                };
                let Some(outcome) = outcome.filter(|outcome| outcome.unwritten.is_none()) else {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                };
                made += 1;
                let begin = Instant::now();
                let newest = outcome.deployment.generation;
                for index in 0..3 {
                    // A replica that is killed now has the deployment when it is there again.
                    while let Some((_, admin)) = replicas.addresses(index) {
                        if generation(admin).await.is_some_and(|generation| generation >= newest) {
                            break;
                        }
                        assert!(begin.elapsed() < PATIENCE, "replica {index} does not have generation {newest}");
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                }
                acknowledged.lock().insert(newest, (outcome.deployment, begin.elapsed()));
            }
        });
    }

    let postgres = Arc::new(Mutex::new(postgres));
    let killer = std::thread::spawn({
        let (replicas, postgres) = (Arc::clone(&replicas), Arc::clone(&postgres));
        move || {
            for kill in 0..kills as usize {
                std::thread::sleep(Duration::from_millis(150 + 97 * (kill as u64 % 5)));
                let mut postgres = postgres.lock();
                if kill % 2 == 0 {
                    postgres.kill();
                    postgres.start_again();
                } else {
                    let index = kill / 2 % 3;
                    let killed = replicas.servers[index].write().take();
                    drop(killed);
                    let again = replica(&replicas.repository, &postgres, replicas.folders[index].path());
                    *replicas.servers[index].write() = Some(again);
                }
            }
        }
    });
    while let Some(operator) = operating.join_next().await {
        operator.unwrap();
    }
    tokio::task::spawn_blocking(move || killer.join().unwrap()).await.unwrap();
    done.store(true, Ordering::Relaxed);
    while let Some(client) = predicting.join_next().await {
        client.unwrap();
    }

    assert_eq!(failed.load(Ordering::Relaxed), 0);
    let (_, admin) = replicas.addresses(0).unwrap();
    let history: History = read(format!("http://{admin}/admin/v1/models/plus/history?limit=1000")).await.unwrap();
    let newest = history.deployments[0].generation;
    let expected: Vec<u64> = (1..=newest).rev().collect();
    assert_eq!(history.deployments.iter().map(|deployment| deployment.generation).collect::<Vec<_>>(), expected);
    let acknowledged = acknowledged.lock().clone();
    for (generation, (deployment, _)) in &acknowledged {
        let written = history.deployments.iter().find(|written| written.generation == *generation);
        assert_eq!(written, Some(deployment));
    }
    for index in 0..3 {
        let (_, admin) = replicas.addresses(index).unwrap();
        until(async || (generation(admin).await? == newest).then_some(())).await;
    }
    let mut took: Vec<Duration> = acknowledged.values().map(|(_, took)| *took).collect();
    took.sort_unstable();
    eprintln!(
        "{} changes acknowledged, {kills} kills, {} requests answered; in effect on all replicas after {:?} (median), {:?} \
         (worst, with restarts)",
        took.len(),
        answered.load(Ordering::Relaxed),
        took[took.len() / 2],
        took[took.len() - 1]
    );
}

// ===== deployment.toml =====

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_deployed_by_its_file() {
    let repository = repository();
    let file = repository.0.path().join("plus/deployment.toml");
    let write = |text: &str| {
        // Replaced as a whole, as Git and Kubernetes do.
        let new = repository.0.path().join("plus/.new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &file).unwrap();
    };
    let status = async |app: &TestApp| -> ModelStatus {
        serde_json::from_value(app.admin_get("/admin/v1/models/plus").await.json()).unwrap()
    };
    let deployed = async |app: &TestApp, generation: u64| {
        until(async || {
            app.admin_post("/admin/v1/reload", json!({})).await;
            let status = status(app).await;
            (status.deployment.generation == generation).then_some(status)
        })
        .await
    };
    write("stable = 1\nreason = \"the first one\"\n");
    let state = tempfile::tempdir().unwrap();
    let configured =
        || sharing(&repository, &format!("sqlite:{}", state.path().join("leeway.db").display()), state.path());
    let app = TestApp::with(configured()).await;
    // Not the highest version, but the one of the file.
    let first = status(&app).await.deployment;
    assert_eq!((first.stable.get(), first.change.reason.as_str(), first.generation), (1, "the first one", 1));
    write("stable = 1\nby = \"ada\"\n[traffic]\n1 = 90\n2 = 10\n");
    let canary = deployed(&app, 2).await.deployment;
    assert_eq!((canary.traffic.to_string().as_str(), canary.change.by.as_str()), ("1=90 2=10", "ada"));
    // Only a rollback is possible by hand. It lasts, also over a restart, until the file changes.
    let answer = app.admin_post(PROMOTE, json!({ "version": 3 })).await;
    assert!(answer.status == 422 && answer.text.contains("deployment.toml"), "{} {}", answer.status, answer.text);
    assert_eq!(app.admin_post("/admin/v1/models/plus/rollback", json!({})).await.status, 200);
    let rolled_back = deployed(&app, 3).await;
    assert!(rolled_back.deployment_problem.unwrap().contains("asks for stable version 1 and traffic 1=90 2=10"));
    drop(app);
    let app = TestApp::with(configured()).await;
    app.admin_post("/admin/v1/reload", json!({})).await;
    assert_eq!(status(&app).await.deployment.traffic.to_string(), "1=100");
    // Mistakes change nothing, and are told.
    write("stable = 9\n");
    let told = until(async || {
        app.admin_post("/admin/v1/reload", json!({})).await;
        status(&app).await.deployment_problem.filter(|problem| problem.contains("no version \"9\""))
    });
    assert!(told.await.contains("deployment.toml is not in effect"));
    write("stable = ");
    let told = until(async || {
        app.admin_post("/admin/v1/reload", json!({})).await;
        let problems = app.admin_get("/admin/v1/models").await.json()["problems"].to_string();
        problems.contains("plus/deployment.toml").then_some(problems)
    });
    told.await;
    assert_eq!(status(&app).await.deployment.traffic.to_string(), "1=100");
    write("stable = 3\n");
    assert_eq!(deployed(&app, 4).await.deployment.stable.get(), 3);
    // Without the file, the model is deployed by commands again.
    std::fs::remove_file(&file).unwrap();
    app.admin_post("/admin/v1/reload", json!({})).await;
    assert_eq!(promote(&app, json!({ "version": 2 })).await.deployment.generation, 5);
    let (code, text) = run(&mut leeway(&["history", "plus", "--server", &app.admin.to_string()]));
    assert!(code == 0 && text.contains("file") && text.contains("the first one"), "{text}");
}

/// A file that is wrong from the beginning leaves its model unserved, instead of deploying the highest version.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_file_deploys_nothing() {
    let repository = repository();
    std::fs::write(repository.0.path().join("plus/deployment.toml"), "stable = \"latest\"\n").unwrap();
    let app = TestApp::with(repository.config()).await;
    let answer = app.predict("/v1/models/plus:predict", r#"{"instances": [[0.0, 0.0]]}"#).await;
    assert!(answer.status == 503 && answer.text.contains("its deployment.toml is wrong"), "{}", answer.text);
}
