//! State after the process is killed: between any two steps of a change, and at any moment.

use std::process::{Command, Stdio};
use std::time::Duration;

use leeway::config::{StateConfig, StateUrl};
use serde_json::{Value, json};

use crate::harness::{PLAIN, Repository, Server, checkout, client, leeway, until};

fn repository() -> Repository {
    let repository = Repository::new();
    for version in 1..=3 {
        repository.add("plus", version, &format!("plus_{version}"));
    }
    std::fs::write(repository.0.path().join("plus/model.toml"), PLAIN).unwrap();
    repository
}

/// A server on this journal without trials and polling, so that it is killed within a change.
fn start(repository: &Repository, url: &str, fail_points: &str) -> Server {
    let mut command = leeway(&["serve", "--models", repository.0.path().to_str().unwrap()]);
    command.env("LEEWAY_STATE__URL", url).env("LEEWAY_LOADING__TRIAL", "false");
    command.env("LEEWAY_REPOSITORY__POLL_INTERVAL_MS", "0");
    // All versions are loaded at the start.
    command.env("LEEWAY_REPOSITORY__NEWEST_VERSIONS", "3").env("FAILPOINTS", fail_points);
    Server::spawn(&mut command)
}

async fn promote(client: &reqwest::Client, server: &Server, version: u64) -> reqwest::Result<reqwest::Response> {
    let url = format!("http://{}/admin/v1/models/plus/promote", server.admin);
    client.post(url).json(&json!({ "version": version })).send().await
}

/// Returns the generation and the stable version of a server, after checking that it serves only that version.
async fn consistent_state(client: &reqwest::Client, server: &Server) -> (u64, u64) {
    let url = format!("http://{}/admin/v1/models/plus", server.admin);
    let status: Value = client.get(url).send().await.unwrap().json().await.unwrap();
    let (deployment, stable) = (&status["deployment"], status["deployment"]["stable"].as_u64().unwrap());
    assert_eq!(deployment["traffic"], json!({ stable.to_string(): 100 }));
    for _ in 0..3 {
        let body = json!({ "instances": [[0.0, 0.0]] }).to_string();
        let answer: Value = client.post(server.url("/predict")).body(body).send().await.unwrap().json().await.unwrap();
        assert_eq!(
            (&answer["model"]["version"], &answer["predictions"][0][0]),
            (&json!(stable), &json!(stable as f64))
        );
    }
    (deployment["generation"].as_u64().unwrap(), stable)
}

fn journal_at(folder: &tempfile::TempDir) -> String {
    format!("sqlite:{}", folder.path().join("leeway.db").display())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_any_two_steps_of_a_promotion() {
    for (step, is_made) in
        [("change::before_the_journal", false), ("change::in_the_journal", true), ("change::published", true)]
    {
        let (repository, state) = (repository(), tempfile::tempdir().unwrap());
        let url = journal_at(&state);
        let client = client();
        let server = start(&repository, &url, &format!("{step}=pause"));
        let promotion = tokio::spawn({
            let (client, url) = (client.clone(), format!("http://{}/admin/v1/models/plus/promote", server.admin));
            async move { client.post(url).json(&json!({ "version": 1 })).send().await.map(|answer| answer.status()) }
        });
        // Another change waits for this one, which shows that this one is stopped. The journal shows its progress.
        let journal =
            leeway::state::open_journal(&StateConfig::at(StateUrl::try_from(url.clone()).unwrap())).await.unwrap();
        until(async || {
            let generations = journal.latest().await.unwrap().deployments.first().map(|latest| latest.generation);
            (generations == Some(1 + u64::from(is_made))).then_some(())
        })
        .await;
        if !is_made {
            // Only the missing answer shows that it has reached this point.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert!(!promotion.is_finished(), "{step}");
        server.signal("KILL");
        assert!(promotion.await.unwrap().is_err(), "{step}");
        drop(server);
        let again = start(&repository, &url, "");
        let expected = if is_made { (2, 1) } else { (1, 3) };
        assert_eq!(consistent_state(&client, &again).await, expected, "{step}");
    }
}

/// One promotion after another. The process is killed during one, again and again, always on the same journal.
/// `LEEWAY_TEST_KILLS` sets a higher number of kills.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_no_acknowledged_change_is_lost() {
    let kills: u64 = std::env::var("LEEWAY_TEST_KILLS").map_or(15, |count| count.parse().unwrap());
    let (repository, state) = (repository(), tempfile::tempdir().unwrap());
    let url = journal_at(&state);
    let (mut acknowledged, mut asked) = ((1, 3), 3);
    let mut random = 0x2545_f491_4f6c_dd1du64;
    for kill in 0..kills {
        let client = client();
        let server = start(&repository, &url, "");
        let found = consistent_state(&client, &server).await;
        // Either the last acknowledged deployment, or the one whose request was cut off.
        assert!(
            found == acknowledged || found == (acknowledged.0 + 1, asked),
            "kill {kill}: {found:?}, {acknowledged:?}"
        );
        acknowledged = found;
        // xorshift64: a random moment, from at once to some promotions later.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let at = tokio::time::Instant::now() + Duration::from_micros(random % 12_000);
        let killer = server.kill_at(at.into_std());
        loop {
            asked = 1 + acknowledged.1 % 3;
            match promote(&client, &server, asked).await {
                Ok(answer) if answer.status() == 200 => match answer.json::<Value>().await {
                    Ok(answer) => acknowledged = (answer["deployment"]["generation"].as_u64().unwrap(), asked),
                    Err(_) => break,
                },
                Ok(answer) => panic!("{}", answer.status()),
                Err(_) => break,
            }
        }
        killer.join().unwrap();
    }
    assert!(acknowledged.0 > 1, "no promotion was ever acknowledged");
}

/// Wherever `leeway add` is killed, a version is complete or does not exist, and the next one can be added.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_a_version_is_added() {
    for (step, is_there) in [("add::staged", false), ("add::checked", false), ("add::renamed", true)] {
        let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
        let model = repository.0.path().join("plus");
        let file = checkout().join("tests/data/models/plus_2.onnx");
        let add = || {
            let mut add = leeway(&["add", model.to_str().unwrap(), "--onnx", file.to_str().unwrap()]);
            add.env("LEEWAY_LOADING__TRIAL", "false").stdout(Stdio::null()).stderr(Stdio::null());
            add
        };
        let mut killed = add().env("FAILPOINTS", format!("{step}=pause")).spawn().unwrap();
        let staged = || {
            let names = std::fs::read_dir(&model).unwrap().map(|entry| entry.unwrap().path());
            names.into_iter().any(|path| path.join("version.toml").exists() && !path.ends_with("1"))
        };
        until(async || staged().then_some(())).await;
        // A test machine may be busy.
        until(async || (!is_there || model.join("2").exists()).then_some(())).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(killed.try_wait().unwrap().is_none(), "{step}");
        killed.kill().unwrap();
        killed.wait().unwrap();
        assert_eq!(model.join("2").exists(), is_there, "{step}");
        let verify = |count: &str| {
            let mut verify = Command::new(env!("CARGO_BIN_EXE_leeway"));
            let output = verify.args(["verify", "--models"]).arg(repository.0.path()).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success() && text.contains(count), "{step}: {text}");
        };
        verify(if is_there { "2 versions" } else { "1 versions" });
        assert!(add().status().unwrap().success());
        verify(if is_there { "3 versions" } else { "2 versions" });
    }
}
