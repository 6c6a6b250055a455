//! API keys of the data listener.

use std::path::Path;

use leeway::config::{ApiKey, Config};
use leeway::identity::Sha256;

use crate::harness::{Answer, TestApp, config, leeway, until};

fn entry(name: &str, key: &str) -> String {
    format!("[[api_keys]]\nname = \"{name}\"\nsha256 = \"{}\"\n", Sha256::of(key.as_bytes()))
}

fn key(name: &str, key: &str) -> ApiKey {
    serde_json::from_value(serde_json::json!({ "name": name, "sha256": Sha256::of(key.as_bytes()) })).unwrap()
}

async fn ask(app: &TestApp, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = app.client.get(app.url(path));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::of(request.send().await.unwrap()).await
}

fn series(name: &str) -> String {
    format!("leeway_api_key_requests_total{{key=\"{name}\"}}")
}

#[tokio::test(flavor = "multi_thread")]
async fn only_known_keys_are_answered_and_health_checks() {
    let mut config = config();
    config.http.api_keys = vec![key("mobile", "the key of mobile"), key("batch", "the key of batch")];
    let app = TestApp::with(config).await;
    let bearer = ("authorization", "Bearer the key of mobile");
    assert_eq!(ask(&app, "/v1/models", &[bearer]).await.status, 200);
    assert_eq!(ask(&app, "/v1/models", &[("x-api-key", "the key of batch")]).await.status, 200);
    assert_eq!(
        ask(&app, "/v1/models", &[("authorization", "Bearer of a proxy"), ("x-api-key", "the key of batch")])
            .await
            .status,
        200
    );
    assert_eq!(app.metric(&series("mobile")).await, 1.0);
    assert_eq!(app.metric(&series("batch")).await, 2.0);

    let wrong: [&[(&str, &str)]; 6] = [
        &[],
        &[("authorization", "Bearer the key of Mobile")],
        &[("authorization", "Bearer")],
        &[("authorization", "Basic the key of mobile")],
        &[("x-api-key", "")],
        // The digest of a key is not the key.
        &[("x-api-key", &Sha256::of(b"the key of mobile").to_string())],
    ];
    for headers in wrong {
        for path in ["/v1/models", "/v1/models/digits", "/feedback", "/nothing", "/livez/"] {
            let answer = ask(&app, path, headers).await;
            assert_eq!((answer.status, answer.header("www-authenticate")), (401, "Bearer"), "{path}: {headers:?}");
            let problem = answer.json();
            assert_eq!(problem["type"], "urn:leeway:problem:api-key-refused");
            assert_eq!(problem["request_id"], answer.header("x-request-id"));
            assert_eq!(problem.get("error").is_some(), path.starts_with("/v1"));
        }
        for path in ["/livez", "/readyz", "/metrics"] {
            assert_eq!(ask(&app, path, headers).await.status, 200, "{path}");
        }
    }
    // A body that is still arriving does not keep the client from its answer.
    let answer = app.predict("/predict", vec![b' '; 1 << 20]).await;
    assert_eq!(answer.status, 401);
    assert_eq!(app.metric("leeway_error_responses_total{code=\"api-key-refused\"}").await, 31.0);
    // Operators have a token of their own.
    assert_eq!(app.admin_get("/admin/v1/models").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_need_a_key_if_that_is_configured() {
    let mut config = config();
    config.http.api_keys = vec![key("prometheus", "k")];
    config.http.api_keys_for_metrics = true;
    let app = TestApp::with(config).await;
    assert_eq!(ask(&app, "/metrics", &[]).await.status, 401);
    assert_eq!(ask(&app, "/metrics", &[("authorization", "Bearer k")]).await.status, 200);
    assert_eq!(app.admin_get("/metrics").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_keys_is_read_again_when_it_changes_and_kept_when_it_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.toml");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    write(&entry("first", "one"));
    let mut config = config();
    config.http.api_keys_file = Some(file.clone());
    let app = TestApp::with(config).await;
    let status = async |key: &str| ask(&app, "/v1/models", &[("x-api-key", key)]).await.status;
    assert_eq!((status("one").await, status("two").await), (200, 401));

    write(&(entry("first", "one") + &entry("second", "two")));
    until(async || (status("two").await == 200).then_some(())).await;
    // Names that stay go on counting.
    assert!(app.metric(&series("first")).await >= 1.0);

    for wrong in ["[[api_keys]]\nname = 7\n", &(entry("a", "1") + &entry("a", "2")), "[[keys]]\n"] {
        write(wrong);
        tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
        assert_eq!((status("one").await, status("two").await), (200, 200), "{wrong}");
    }
    write(&entry("second", "three"));
    until(async || (status("three").await == 200).then_some(())).await;
    assert_eq!((status("one").await, status("two").await), (401, 401));
    assert!(!app.get("/metrics").await.text.contains(&series("first")));
}

fn load(folder: &Path, settings: &str) -> Result<Config, String> {
    let file = folder.join("leeway.toml");
    std::fs::write(&file, settings).unwrap();
    Config::load(Some(&file), &Default::default()).map_err(|error| error.to_string())
}

#[test]
fn the_command_prints_a_key_and_its_entry() {
    let folder = tempfile::tempdir().unwrap();
    let print = || {
        let output = leeway(&["key", "mobile"]).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let (text, other) = (print(), print());
    assert_ne!(text, other);
    let key = text.lines().find_map(|line| line.strip_prefix("# leeway_")).unwrap();
    assert_eq!(key.len(), 43);
    let config = load(folder.path(), &text.replace("[[api_keys]]", "[[http.api_keys]]")).unwrap();
    let [entry] = &*config.http.api_keys else { panic!() };
    assert_eq!((entry.name.as_str(), entry.sha256), ("mobile", Sha256::of(format!("leeway_{key}").as_bytes())));
    assert!(!leeway(&["key", "a name"]).output().unwrap().status.success());
}

#[test]
fn wrong_keys_end_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let digest = Sha256::of(b"k");
    for (settings, said) in [
        ("[[http.api_keys]]\nname = \"a b\"\nsha256 = \"DIGEST\"\n", "1 to 64 letters"),
        ("[[http.api_keys]]\nname = \"a\"\nsha256 = \"k\"\n", "64 hexadecimal digits"),
        ("[[http.api_keys]]\nname = \"a\"\n", "sha256"),
        (
            "[[http.api_keys]]\nname = \"a\"\nsha256 = \"DIGEST\"\n[[http.api_keys]]\nname = \"b\"\nsha256 = \"DIGEST\"\n",
            "its key occurs twice",
        ),
        ("[http]\npath_prefix = \"leeway/\"\n", "as in /leeway"),
        ("[http.cors]\norigins = [\"https://app.example/\"]\n", "http.cors.origins"),
    ] {
        let problem = load(folder.path(), &settings.replace("DIGEST", &digest.to_string())).unwrap_err();
        assert!(problem.contains(said), "{settings}: {problem}");
    }
}
