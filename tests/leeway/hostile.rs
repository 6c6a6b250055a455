//! Clients that try to end the server, or to keep other clients from it. Everything that they hold is bounded, and all
//! other clients are served.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use leeway::app::Stop;
use leeway::budget::Deadline;
use leeway::config::Count;
use leeway::error::{Result, SetupError};
use leeway::pipeline::{Prepared, Preprocessor, StageContext, Stages};
use leeway::tensor::{Data, Tensor};
use parking_lot::{Condvar, Mutex};
use serde_json::json;
use serde_json::value::RawValue;

use crate::gate::{GATE_IN_USE, gated, let_go, one_at_the_gate};
use crate::harness::{Answer, PATIENCE, PLAIN, Repository, Server, TestApp, client, runtime, until};

/// A request for a prediction of `echo_float32` with this body.
fn prediction(body: &str) -> String {
    format!("POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

const SMALL: &str = r#"{"instances": [[1, 0]]}"#;

/// The head of a prediction, and the first part of a body that never completes.
fn stalled(address: SocketAddr, path: &str, bytes: usize) -> TcpStream {
    let mut stream = connect(address);
    write!(stream, "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", bytes + 1).unwrap();
    stream.write_all(&vec![b' '; bytes]).unwrap();
    stream
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads the answer until the other side closes.
fn read_to_end(mut stream: &TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8(bytes).unwrap()
}

/// Runs blocking work on a thread where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(work)).await.unwrap().unwrap()
}

fn problem(answer: &Answer) -> String {
    assert_ne!(answer.status, 200);
    answer.json()["type"].as_str().unwrap().trim_start_matches("urn:leeway:problem:").to_owned()
}

async fn health_and_metrics_answer(app: &TestApp) {
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(app.get(path).await.status, 200, "{path}");
        assert_eq!(app.admin_get(path).await.status, 200, "{path} for operators");
    }
}

// ===== memory =====

/// Memory for two bodies of the maximum size, and for small ones.
fn little_memory() -> leeway::config::Config {
    let mut config = Repository::of("echo_float32").config();
    config.http.body_limit_bytes = 1_000_000.try_into().unwrap();
    config.http.feedback_body_limit_bytes = 1_000_000.try_into().unwrap();
    config.http.body_memory_bytes = Some(3_000_000.try_into().unwrap());
    config.http.connection_limit = 48.try_into().unwrap();
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_held_at_one_time_are_bounded_and_small_ones_still_get_in() {
    let repository = Repository::of("echo_float32");
    let mut config = little_memory();
    config.repository.path = repository.0.path().into();
    let app = TestApp::with(config).await;
    let large = format!("{SMALL}{}", " ".repeat(900_000));
    assert_eq!(app.predict("/predict", large.clone()).await.status, 200);

    let mut held = vec![stalled(app.data, "/predict", 900_000)];
    until(async || (app.metric("leeway_body_memory_bytes").await > 900_000.0).then_some(())).await;
    let refused = app.predict("/predict", large.clone()).await;
    assert_eq!((refused.status, refused.header("retry-after"), &*problem(&refused)), (503, "1", "body-memory-full"));
    assert!(
        app.metric("leeway_requests_shed_total{model=\"echo_float32\",version=\"1\",reason=\"body_memory\"}").await
            > 0.0
    );
    let feedback = app.predict("/feedback", format!("{{\"feedback\": []}}{}", " ".repeat(900_000))).await;
    assert_eq!((feedback.status, &*problem(&feedback)), (503, "body-memory-full"));
    held.extend((0..15).map(|_| stalled(app.data, "/predict", 900_000)));
    held.extend((0..15).map(|_| stalled(app.data, "/feedback", 900_000)));
    // Small bodies are accepted, and endpoints without bodies work.
    assert_eq!(app.predict("/predict", SMALL).await.status, 200);
    assert_eq!(app.predict("/feedback", r#"{"feedback": []}"#).await.status, 200);
    assert_eq!(app.admin_post("/admin/v1/reload", json!({})).await.status, 200);
    health_and_metrics_answer(&app).await;

    drop(held);
    until(async || (app.predict("/predict", large.clone()).await.status == 200).then_some(())).await;
}

/// A body that is only announced holds no memory, however large.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_only_announced_take_no_memory() {
    let repository = Repository::of("echo_float32");
    let mut config = little_memory();
    config.repository.path = repository.0.path().into();
    let app = TestApp::with(config).await;
    let announced: Vec<TcpStream> = (0..30)
        .map(|_| {
            let mut stream = connect(app.data);
            write!(stream, "POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 900000\r\n\r\n ").unwrap();
            stream
        })
        .collect();
    app.metric_becomes("leeway_requests_in_flight{model=\"echo_float32\",version=\"1\"}", 30.0).await;
    let large = format!("{SMALL}{}", " ".repeat(900_000));
    let answer = app.predict("/predict", large).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    drop(announced);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_in_chunks_of_a_byte_is_a_body() {
    let repository = Repository::of("echo_float32");
    let app = TestApp::with(repository.config()).await;
    let mut stream = connect(app.data);
    let text = blocking(move || {
        let mut request =
            "POST /predict HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
        let body = format!("{SMALL}{}", " ".repeat(100_000));
        body.chars().for_each(|byte| request.push_str(&format!("1\r\n{byte}\r\n")));
        request.push_str("0\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        read_to_end(&stream)
    })
    .await;
    assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("[[1.0,0.0]]"), "{text}");
}

/// Unread answers are held in the same memory until the client reads them or is cut off.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_leave_no_room_for_large_ones() {
    let repository = Repository::of("echo_sequence");
    let mut config = repository.config();
    config.http.body_limit_bytes = (12 << 20).try_into().unwrap();
    config.http.body_memory_bytes = Some((48 << 20).try_into().unwrap());
    let app = TestApp::with(config).await;
    let row = vec![1_234_567_890_123_456_789_i64; 1000];
    let body = Arc::new(json!({ "instances": vec![row; 500] }).to_string());
    let head = format!("POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
    let mut deaf = connect(app.data);
    let sent = Arc::clone(&body);
    let deaf = blocking(move || {
        deaf.write_all(head.as_bytes()).unwrap();
        deaf.write_all(sent.as_bytes()).unwrap();
        deaf
    })
    .await;
    app.metric_becomes("leeway_requests_total{model=\"echo_sequence\",version=\"1\",outcome=\"ok\"}", 1.0).await;
    let refused = app.predict("/predict", body.as_str().to_owned()).await;
    assert_eq!(refused.status, 503, "{}", refused.text.len());
    assert_eq!(problem(&refused), "body-memory-full");
    assert_eq!(app.predict("/predict", r#"{"instances": [[1, 2]]}"#).await.status, 200);
    health_and_metrics_answer(&app).await;
    // If the client reads it in the end, it is complete.
    let text = blocking(move || {
        deaf.shutdown(Shutdown::Write).unwrap();
        read_to_end(&deaf)
    })
    .await;
    assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with('}'), "{}", text.len());
    until(async || (app.predict("/predict", body.as_str().to_owned()).await.status == 200).then_some(())).await;
}

/// Memory that a thread has freed returns to the system when the thread ends.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn threads_that_large_bodies_were_read_on_end_when_there_is_nothing_to_do() {
    let repository = Repository::of("echo_float32");
    let server = Server::start(repository.0.path(), &[("LEEWAY_STATE__URL", "memory"), ("LEEWAY_HTTP__THREADS", "4")]);
    let large = format!("{{\"instances\": [{}[1, 0]]}}", "[1, 0], ".repeat(4095) + &" ".repeat(1 << 20));
    let client = client();
    let ask = || client.post(server.url("/predict")).body(large.clone()).send();
    let all = tokio::join!(ask(), ask(), ask(), ask());
    assert!([all.0, all.1, all.2, all.3].iter().all(|answer| answer.as_ref().unwrap().status() == 200));
    let names = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", server.process())).unwrap();
        let name =
            |task: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(task.ok()?.path().join("comm")).ok();
        tasks.filter_map(name).filter(|name| name == "http\n").count()
    };
    // One more thread exists for a moment every second.
    until(async || (names() <= 4).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn feedback_has_a_limit_of_its_own() {
    let repository = Repository::of("echo_float32");
    let app = TestApp::with(repository.config()).await;
    let spaces = " ".repeat(4 << 20);
    let refused = app.predict("/feedback", format!("{{\"feedback\": []}}{spaces}")).await;
    assert_eq!((refused.status, &*problem(&refused)), (413, "request-too-large"));
    assert!(refused.text.contains("larger than 3145728 bytes"), "{}", refused.text);
    assert!(refused.text.contains("http.feedback_body_limit_bytes"), "{}", refused.text);
    assert_eq!(app.predict("/predict", format!("{SMALL}{spaces}")).await.status, 200);
    // Operators do not get the advice for clients.
    let url = format!("http://{}/admin/v1/models/echo_float32/rollback", app.admin);
    let change = app.client.post(url).header("content-type", "application/json").body(spaces);
    let refused = Answer::of(change.send().await.unwrap()).await;
    assert_eq!(refused.status, 413);
    assert!(!refused.text.contains("http."), "{}", refused.text);
}

// ===== metrics =====

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_compressed_for_who_takes_that() {
    let app = TestApp::start().await;
    let ask = async |encoding: &str| {
        let request = app.client.get(app.url("/metrics")).header("accept-encoding", encoding);
        let response = request.send().await.unwrap();
        let coding = response.headers().get("content-encoding").map(|coding| coding.to_str().unwrap().to_owned());
        assert_eq!(response.headers()["vary"], "accept-encoding");
        (coding, response.bytes().await.unwrap())
    };
    let (coding, compressed) = ask("gzip").await;
    assert_eq!((coding.as_deref(), &compressed[..2]), (Some("gzip"), &[0x1f, 0x8b][..]));
    let (coding, plain) = ask("gzip;q=0").await;
    assert_eq!(coding, None);
    assert!(compressed.len() * 4 < plain.len(), "{} of {}", compressed.len(), plain.len());
    let mut text = String::new();
    flate2::read::GzDecoder::new(&compressed[..]).read_to_string(&mut text).unwrap();
    assert!(text.contains("\nleeway_ready 1\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_can_be_kept_from_clients() {
    let repository = Repository::of("echo_float32");
    let mut config = repository.config();
    config.http.metrics = false;
    let app = TestApp::with(config).await;
    let refused = app.get("/metrics").await;
    assert_eq!((refused.status, &*problem(&refused)), (404, "unknown-endpoint"));
    assert_eq!(app.admin_get("/metrics").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_metrics_and_reads_nothing_holds_up_nobody() {
    let app = TestApp::start().await;
    let ask = "GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n".repeat(20);
    let deaf: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = connect(app.data);
            stream.write_all(ask.as_bytes()).unwrap();
            stream
        })
        .collect();
    health_and_metrics_answer(&app).await;
    drop(deaf);
}

// ===== connections =====

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_silent_connections_keep_nobody_out() {
    let repository = Repository::of("echo_float32");
    let mut config = repository.config();
    config.http.connection_limit = 32.try_into().unwrap();
    let app = TestApp::with(config).await;
    let mut silent = Vec::new();
    for round in 0..10 {
        for (place, address) in [app.data, app.admin].into_iter().cycle().take(200).enumerate() {
            let mut stream = connect(address);
            // Some send nothing, and some half a head.
            if place % 3 == 0 {
                let _ = stream.write_all(b"POST /predict HTTP/1.1\r\nhost: a\r\nx-");
            }
            silent.push(stream);
        }
        // On new connections, because idle ones are evicted, too.
        for (address, request) in [
            (app.data, prediction(SMALL)),
            (app.data, "GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n".to_owned()),
            (app.admin, "GET /livez HTTP/1.1\r\nhost: a\r\n\r\n".to_owned()),
            (app.admin, "GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n".to_owned()),
        ] {
            let text = half_closed(address, request.clone()).await;
            assert!(text.starts_with("HTTP/1.1 200 "), "round {round}, {request}: {text}");
        }
    }
    // The first connections have been closed.
    let first = silent.swap_remove(0);
    assert_eq!(blocking(move || read_to_end(&first)).await, "");
}

/// Sends `head` on `count` connections, one after the other, and nothing more.
fn heads_without_bodies(app: &TestApp, head: &str, count: usize) -> Vec<TcpStream> {
    let send = |_| {
        let mut stream = connect(app.data);
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    (0..count).map(send).collect()
}

/// Requests that wait for their clients give up their places.
#[tokio::test(flavor = "multi_thread")]
async fn heads_without_bodies_keep_nobody_out() {
    let repository = Repository::of("echo_float32");
    for (head, answer) in [
        ("POST /feedback HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n", "HTTP/1.1 503 "),
        ("POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n", "HTTP/1.1 503 "),
        // Refused at once. Then the rest of the body is read, so that the client gets to read the answer.
        ("POST /x HTTP/1.1\r\ncontent-length: 100000\r\n\r\n", "HTTP/1.1 400 "),
        ("POST /v1/models/none:predict HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n", "HTTP/1.1 404 "),
        (
            "POST /feedback HTTP/1.1\r\nhost: a\r\ncontent-type: text/plain\r\ncontent-length: 9000\r\n\r\n",
            "HTTP/1.1 415 ",
        ),
    ] {
        let mut config = repository.config();
        config.http.connection_limit = 32.try_into().unwrap();
        let mut app = TestApp::with(config).await;
        // A connection that is kept and idle is the first to be evicted, perhaps at the moment of its next request.
        app.client = crate::harness::client_builder().timeout(PATIENCE).pool_max_idle_per_host(0).build().unwrap();
        // Fewer than there are places, spare ones included.
        let silent = heads_without_bodies(&app, head, 72);
        assert_eq!(app.predict("/predict", SMALL).await.status, 200, "{head}");
        health_and_metrics_answer(&app).await;
        let evicted = blocking(move || read_to_end(&silent[0])).await;
        assert!(evicted.starts_with(answer), "{head}: {evicted}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_request_has_less_time_than_the_next_one() {
    let repository = Repository::of("echo_float32");
    let mut config = repository.config();
    config.http.first_request_timeout_ms = 200.try_into().unwrap();
    config.http.header_timeout_ms = 600_000.try_into().unwrap();
    let app = TestApp::with(config).await;
    let ask = async |mut stream: TcpStream| {
        blocking(move || {
            stream.write_all(prediction(SMALL).as_bytes()).unwrap();
            let mut seen = [0; 12];
            stream.read_exact(&mut seen).unwrap();
            assert_eq!(&seen, b"HTTP/1.1 200");
            stream
        })
        .await
    };
    let kept = ask(connect(app.data)).await;
    let silent = connect(app.data);
    let mut half = connect(app.data);
    half.write_all(b"GET /livez HTTP/1.1\r\nhost").unwrap();
    let ends = blocking(move || (read_to_end(&silent), read_to_end(&half))).await;
    assert_eq!(ends, (String::new(), String::new()));
    let mut rest = [0; 4096];
    let _ = (&kept).read(&mut rest).unwrap();
    ask(kept).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_of_more_than_64_kib_is_refused() {
    let repository = Repository::of("echo_float32");
    let app = TestApp::with(repository.config()).await;
    let mut stream = connect(app.data);
    let text = blocking(move || {
        let head = format!("GET /livez HTTP/1.1\r\nhost: a\r\nx: {}", "a".repeat(80_000));
        let _ = stream.write_all(head.as_bytes());
        read_to_end(&stream)
    })
    .await;
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 431 "), "{text}");
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Hold {
    Off,
    On,
    Holds,
}

/// State of the stage that holds the thread of its request.
static HOLD: (Mutex<Hold>, Condvar) = (Mutex::new(Hold::Off), Condvar::new());

/// A preprocessor that holds its thread while [`HOLD`] is on.
fn make_holding(_: StageContext<'_>) -> Result<Box<dyn Preprocessor>, SetupError> {
    struct Holding;
    impl Preprocessor for Holding {
        fn transform(&self, _: &RawValue, _: Deadline) -> Result<Prepared> {
            let mut hold = HOLD.0.lock();
            while *hold != Hold::Off {
                *hold = Hold::Holds;
                assert!(!HOLD.1.wait_for(&mut hold, PATIENCE).timed_out(), "nobody let the stage go");
            }
            let row = Tensor::new(vec![1, 2], Data::F32(vec![1.0, 0.0]))?;
            Ok(Prepared::unwatched([("x".into(), row)].into_iter().collect()))
        }
    }
    Ok(Box::new(Holding))
}

/// A stage holds the only thread that serves clients. The thread that accepts connections also sends the requests of
/// operators, and waits for their answers.
#[tokio::test]
async fn operators_are_answered_while_every_thread_that_serves_clients_is_busy() {
    let model_toml = PLAIN.replacen("\"tensor\"", "\"holding\"", 1);
    let repository = Repository::new().with("echo_float32", 1, "echo_float32", &model_toml);
    repository.add("echo_float32", 2, "echo_float32");
    let mut config = repository.config();
    config.http.threads = Count::Fixed(std::num::NonZeroUsize::MIN);
    let app =
        TestApp::with_parts(config, runtime(), Stages::default().with_preprocessor("holding", make_holding)).await;
    // It must start to serve first.
    assert_eq!(app.admin_get("/livez").await.status, 200);
    *HOLD.0.lock() = Hold::On;
    let held = tokio::spawn(half_closed(app.data, prediction(SMALL)));
    until(async || (*HOLD.0.lock() == Hold::Holds).then_some(())).await;
    let promote = r#"{"version": 1}"#;
    for request in [
        "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(),
        "GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(),
        "GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(),
        "GET /admin/v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(),
        format!(
            "POST /admin/v1/models/echo_float32/promote HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{promote}",
            promote.len()
        ),
        "POST /admin/v1/reload HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n"
            .to_owned(),
    ] {
        let mut stream = connect(app.admin);
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let text = read_to_end(&stream);
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{request}: {text}");
    }
    *HOLD.0.lock() = Hold::Off;
    HOLD.1.notify_all();
    assert!(held.await.unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
}

// ===== clients that end their side =====

/// Sends a request, ends this side, and returns the answer.
async fn half_closed(address: SocketAddr, request: String) -> String {
    blocking(move || {
        let mut stream = connect(address);
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        read_to_end(&stream)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_ends_its_side_after_a_request_gets_its_answer() {
    let repository = Repository::of("echo_float32");
    let app = TestApp::with(repository.config()).await;
    let feedback = r#"{"feedback": []}"#;
    let feedback =
        format!("POST /feedback HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{feedback}", feedback.len());
    for _ in 0..20 {
        for request in [
            prediction(SMALL),
            feedback.clone(),
            "GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
            "GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
        ] {
            let text = half_closed(app.data, request.clone()).await;
            let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{request}: {text}"));
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{request}: {text}");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            assert_eq!(body.len(), length.parse::<usize>().unwrap());
        }
    }
    // In HTTP/1.0, and several requests at once.
    let old = half_closed(app.data, "GET /livez HTTP/1.0\r\n\r\n".to_owned()).await;
    assert!(old.starts_with("HTTP/1.0 200 OK\r\n"), "{old}");
    let three = half_closed(app.data, prediction(SMALL).repeat(3)).await;
    assert_eq!(three.matches("HTTP/1.1 200 OK\r\n").count(), 3, "{three}");
    // A body that never completes.
    let cut = half_closed(app.data, prediction(SMALL).trim_end_matches('}').to_owned()).await;
    assert!(cut.starts_with("HTTP/1.1 400 ") && cut.contains("request-aborted"), "{cut}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_ends_its_side_waits_for_a_slow_answer_and_who_leaves_does_not() {
    let _gate = GATE_IN_USE.lock().await;
    let repository = Repository::of("echo_float32");
    let_go(usize::MAX);
    let app = TestApp::with_parts(repository.config(), gated(), Stages::default()).await;
    let_go(0);
    let waits = tokio::spawn(half_closed(app.data, prediction(SMALL)));
    one_at_the_gate().await;
    let series = "leeway_queue_depth{model=\"echo_float32\",version=\"1\"}";
    let mut leaves = connect(app.data);
    leaves.write_all(prediction(SMALL).as_bytes()).unwrap();
    leaves.shutdown(Shutdown::Write).unwrap();
    app.metric_becomes(series, 1.0).await;
    drop(leaves);
    app.metric_becomes(series, 0.0).await;
    app.metric_becomes("leeway_requests_total{model=\"echo_float32\",version=\"1\",outcome=\"abandoned\"}", 1.0).await;
    let_go(usize::MAX);
    let text = waits.await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("[[1.0,0.0]]"), "{text}");
}

// ===== ambiguous requests =====

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_servers_understand_differently_are_refused() {
    let repository = Repository::of("echo_float32");
    let app = TestApp::with(repository.config()).await;
    let chunked = "10\r\n{\"feedback\": [] }\r\n0\r\n\r\n".replace("10\r\n", "11\r\n");
    for (status, head, body) in [
        (400, "POST /predict HTTP/1.1\r\ncontent-length: 2\r\n", "{}"),
        (400, "GET /livez HTTP/1.1\r\nhost: a\r\nhost: b\r\n", ""),
        (400, "GET /livez HTTP/1.1\r\nhost: a\r\nhost: a\r\n", ""),
        (200, "GET /livez HTTP/1.0\r\n", ""),
        (400, "GET /livez HTTP/1.0\r\nhost: a\r\nhost: b\r\n", ""),
        (501, "POST /feedback HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n", &*chunked),
        (
            501,
            "POST /feedback HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n",
            &chunked,
        ),
        (501, "POST /feedback HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, chunked\r\n", &chunked),
        (200, "POST /feedback HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\n", &chunked),
        (
            415,
            "POST /feedback HTTP/1.1\r\nhost: a\r\ncontent-encoding: identity\r\ncontent-encoding: br\r\ncontent-length: 2\r\n",
            "{}",
        ),
        (
            415,
            "POST /feedback HTTP/1.1\r\nhost: a\r\ncontent-encoding: gzip\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n",
            "{}",
        ),
        // The body is not gzip.
        (400, "POST /predict HTTP/1.1\r\nhost: a\r\ncontent-encoding: identity, gzip\r\ncontent-length: 2\r\n", "{}"),
    ] {
        for address in [app.data, app.admin] {
            if address == app.admin && !head.contains("/livez") {
                continue;
            }
            let text = half_closed(address, format!("{head}connection: close\r\n\r\n{body}")).await;
            let found = text.get(9..12).unwrap_or_default();
            assert_eq!(found, status.to_string(), "{head}{body}\n{text}");
            assert!(text.to_ascii_lowercase().contains("x-request-id: "), "{text}");
        }
    }
}

// ===== shutdown =====

/// On one thread, so that none is accepted before all of them wait in the kernel.
#[tokio::test]
async fn connections_that_the_kernel_has_taken_are_answered_before_the_end() {
    let repository = Repository::of("echo_float32");
    let app = TestApp::with(repository.config()).await;
    assert_eq!(app.predict("/predict", SMALL).await.status, 200);
    let waiting: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut stream = connect(app.data);
            stream.write_all(prediction(SMALL).as_bytes()).unwrap();
            stream
        })
        .collect();
    app.stop.try_send(Stop::AtOnce).unwrap();
    let answers = blocking(move || waiting.iter().map(read_to_end).collect::<Vec<_>>()).await;
    for answer in answers {
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
    }
    tokio::time::timeout(PATIENCE, app.running).await.unwrap().unwrap().unwrap();
}

/// The grace period is longer than the test may take.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_connections_do_not_hold_up_the_end() {
    let repository = Repository::of("echo_float32");
    let mut config = repository.config();
    config.shutdown.grace_period_ms = 600_000;
    let app = TestApp::with(config).await;
    let mut hostile = Vec::new();
    for place in 0..120 {
        let mut stream = connect(if place % 2 == 0 { app.data } else { app.admin });
        match place % 3 {
            0 => {}
            1 => stream.write_all(b"GET /livez HTTP/1.1\r\nx: ").unwrap(),
            _ => stream.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\nGET /liv").unwrap(),
        }
        hostile.push(stream);
    }
    health_and_metrics_answer(&app).await;
    app.stop.send(Stop::AtOnce).await.unwrap();
    tokio::time::timeout(PATIENCE, app.running).await.unwrap().unwrap().unwrap();
}

/// A shutdown with an answer that is larger than any socket's buffer.
#[tokio::test(flavor = "multi_thread")]
async fn who_reads_nothing_of_its_answer_does_not_hold_up_the_end() {
    let repository = Repository::of("echo_sequence");
    let mut config = repository.config();
    config.shutdown.grace_period_ms = 600_000;
    config.http.write_timeout_ms = 600_000.try_into().unwrap();
    config.http.body_limit_bytes = (12 << 20).try_into().unwrap();
    let app = TestApp::with(config).await;
    let body = json!({ "instances": vec![vec![1_234_567_890_123_456_789_i64; 1000]; 500] }).to_string();
    let mut deaf = connect(app.data);
    let deaf = blocking(move || {
        write!(deaf, "POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        deaf
    })
    .await;
    app.metric_becomes("leeway_requests_total{model=\"echo_sequence\",version=\"1\",outcome=\"ok\"}", 1.0).await;
    app.stop.send(Stop::AtOnce).await.unwrap();
    tokio::time::timeout(PATIENCE, app.running).await.unwrap().unwrap().unwrap();
    drop(deaf);
}

// ===== the process =====

/// `leeway serve` with a limit of open files, as set by `ulimit`.
#[cfg(target_os = "linux")]
fn with_files(ulimit: &str, repository: &Repository) -> Server {
    let binary = env!("CARGO_BIN_EXE_leeway");
    let script = format!("ulimit {ulimit}; exec {binary} serve --models {}", repository.0.path().display());
    let mut shell = std::process::Command::new("sh");
    Server::spawn(shell.args(["-c", &script]).env("LEEWAY_STATE__URL", "memory"))
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn the_process_allows_itself_as_many_files_as_it_may() {
    let repository = Repository::of("echo_float32");
    let server = with_files("-S -n 256", &repository);
    let text = client().get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let most = text.lines().find_map(|line| line.strip_prefix("process_max_fds ")).unwrap();
    assert!(most.parse::<f64>().unwrap() > 256.0, "{most}");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_leave_files_for_health_and_operators() {
    let repository = Repository::of("echo_float32");
    let server = with_files("-n 256", &repository);
    let (data, admin) = (server.data, server.admin);
    let silent: Vec<TcpStream> = (0..300).map(|_| connect(data)).collect();
    // At the limit, the server closes connections that are idle, also while a client begins to use them again.
    let client = crate::harness::client_builder().timeout(PATIENCE).pool_max_idle_per_host(0).build().unwrap();
    for url in [format!("http://{data}/livez"), format!("http://{admin}/livez"), format!("http://{admin}/metrics")] {
        assert_eq!(client.get(&url).send().await.unwrap().status(), 200, "{url}");
    }
    let predicted = client.post(server.url("/predict")).body(SMALL).send().await.unwrap();
    assert_eq!(predicted.status(), 200);
    let text = client.get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
    assert!(text.contains("\nleeway_accept_errors_total 0\n"), "files ran out");
    drop(silent);
    server.signal("INT");
    let (_, log) = blocking(move || server.wait()).await;
    assert_eq!(log.matches("http.connection_limit is too high for").count(), 1, "{log}");
    assert!(!log.contains("cannot be accepted"), "{log}");
}
