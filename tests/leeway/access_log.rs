//! The access log: a line for each request, which no request waits for.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{KillOnDrop, Repository, Server, client, held_out, leeway, until};

/// Sends some requests to a server with these settings, and returns the lines of its access log.
fn lines(settings: &[(&str, &str)]) -> Vec<Value> {
    let repository = Repository::new().with_shipped("digits", &[1, 2]);
    let server = Server::start(repository.0.path(), settings);
    let rows = held_out("digits")["instances"].clone();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let predict = |path: &str, body: Value| {
            let request = client().post(server.url(path)).json(&body).header("x-request-id", "mine");
            request.header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").send()
        };
        let rows = json!({ "instances": [rows[0], rows[1], rows[2]] });
        assert_eq!(predict("/v1/models/digits/versions/1:predict", rows).await.unwrap().status(), 200);
        assert_eq!(predict("/predict?key=secret", json!({ "instances": [[1]] })).await.unwrap().status(), 400);
        assert_eq!(predict("/nowhere", json!({})).await.unwrap().status(), 404);
        assert_eq!(client().get(server.url("/livez")).send().await.unwrap().status(), 200);
        let admin = format!("http://{}/admin/v1/models", server.admin);
        assert_eq!(client().get(admin).send().await.unwrap().status(), 200);
    });
    server.signal("INT");
    let (_, log) = server.wait();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["target"] == "leeway::access").collect()
}

#[test]
fn each_request_has_a_line_with_its_version_outcome_and_stages() {
    let lines = lines(&[("LEEWAY_LOG__ACCESS", "all")]);
    let seen: Vec<Value> = lines
        .iter()
        .map(|line| json!([line["method"], line["path"], line["status"], line["outcome"], line["error"]]))
        .collect();
    assert_eq!(
        json!(seen),
        json!([
            ["POST", "/v1/models/digits/versions/1:predict", 200, "ok", null],
            ["POST", "/predict", 400, "invalid", "invalid-input"],
            ["POST", "/nowhere", 404, "invalid", "unknown-endpoint"],
            ["GET", "/livez", 200, "ok", null],
            ["GET", "/admin/v1/models", 200, "ok", null],
        ])
    );
    let predicted = &lines[0];
    assert_eq!(
        (&predicted["model"], &predicted["version"], &predicted["instances"]),
        (&json!("digits"), &json!(1), &json!(3))
    );
    assert_eq!((&predicted["request_id"], &predicted["level"]), (&json!("mine"), &json!("INFO")));
    assert_eq!(predicted["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    let took = predicted["took_ms"].as_f64().unwrap();
    let stages = ["network_ms", "preprocess_ms", "queue_ms", "inference_ms", "postprocess_ms"];
    let stages: f64 = stages.map(|stage| predicted[stage].as_f64().unwrap()).iter().sum();
    assert!(stages > 0.0 && stages <= took, "{predicted}");
    // The version is known from the head, and the instances were not read.
    assert_eq!((&lines[1]["version"], &lines[1]["instances"]), (&json!(2), &Value::Null));
    assert!(lines[3]["model"].is_null() && lines[3]["queue_ms"].is_null() && lines[3]["trace_id"].is_null());
}

#[test]
fn with_errors_only_what_went_wrong_has_a_line_and_every_sample_has_it() {
    let paths = |settings: &[(&str, &str)]| {
        lines(settings).iter().map(|line| line["path"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(paths(&[("LEEWAY_LOG__ACCESS", "errors")]), ["/predict", "/nowhere"]);
    // A sample so small that it contains nothing.
    assert_eq!(
        paths(&[("LEEWAY_LOG__ACCESS", "all"), ("LEEWAY_LOG__ACCESS_SAMPLE", "0.000000000001")]),
        ["/predict", "/nowhere"]
    );
    assert!(paths(&[]).is_empty());
}

#[tokio::test]
async fn the_level_of_the_log_does_not_matter() {
    let repository = Repository::new().with_shipped("digits", &[2]);
    // At this level, no line names a port.
    let folder = tempfile::tempdir().unwrap();
    let socket = |name: &str| folder.path().join(name);
    let mut command = leeway(&["serve", "--models", repository.0.path().to_str().unwrap()]);
    command.env("LEEWAY_HTTP__LISTEN", format!("unix:{}", socket("data").display()));
    command.env("LEEWAY_ADMIN__LISTEN", format!("unix:{}", socket("admin").display()));
    command.envs([("LEEWAY_LOG__ACCESS", "all"), ("LEEWAY_LOG__LEVEL", "error")]);
    let mut server = KillOnDrop(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut connection = until(async || UnixStream::connect(socket("data")).ok()).await;
    connection.write_all(b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n").unwrap();
    let mut line = String::new();
    BufReader::new(server.0.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["target"], &line["path"]), (&json!("leeway::access"), &json!("/livez")));
}

/// Nobody reads standard error. Its pipe takes 64 KiB, and the queue of lines 8,192.
#[tokio::test]
async fn a_reader_of_the_log_that_stands_still_delays_no_request_and_lines_are_counted_as_dropped() {
    let repository = Repository::new().with_shipped("digits", &[2]);
    let mut command = leeway(&["serve", "--models", repository.0.path().to_str().unwrap()]);
    command.envs([("LEEWAY_LOG__ACCESS", "all"), ("LEEWAY_HTTP__METRICS_MAX_AGE_MS", "0")]);
    command.envs([("LEEWAY_HTTP__LISTEN", "127.0.0.1:0"), ("LEEWAY_ADMIN__LISTEN", "127.0.0.1:0")]);
    let mut server = KillOnDrop(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut log = BufReader::new(server.0.stderr.take().unwrap());
    let data = loop {
        let mut line = String::new();
        assert!(log.read_line(&mut line).unwrap() > 0);
        if let Some(data) = serde_json::from_str::<Value>(&line).unwrap()["data"].as_str() {
            break data.to_owned();
        }
    };
    let client = client();
    let ask = |client: reqwest::Client, data: String| async move {
        let begin = Instant::now();
        for _ in 0..3_000 {
            assert_eq!(client.get(format!("http://{data}/livez")).send().await.unwrap().status(), 200);
        }
        begin.elapsed()
    };
    let asking: Vec<_> = (0..4).map(|_| tokio::spawn(ask(client.clone(), data.clone()))).collect();
    for asking in asking {
        assert!(asking.await.unwrap() < Duration::from_secs(60));
    }
    let metrics = client.get(format!("http://{data}/metrics")).send().await.unwrap().text().await.unwrap();
    let dropped = metrics.lines().find_map(|line| line.strip_prefix("leeway_access_log_dropped_total ")).unwrap();
    let dropped: u64 = dropped.parse().unwrap();
    assert!((1_000..12_000).contains(&dropped), "{dropped}");
}
