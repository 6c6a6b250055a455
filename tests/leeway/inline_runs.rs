//! Runs that the thread of a request makes itself, because they are short.

use std::sync::Arc;

use leeway::config::{Provider, SessionConfig};
use leeway::error::{Result, SetupError};
use leeway::model::{Engine, Interrupt, LoadedModel, ModelSource, Session};
use leeway::pipeline::Stages;
use leeway::tensor::{Signature, Tensors};
use parking_lot::Mutex;
use serde_json::json;

use crate::harness::{Repository, TENSOR_STAGES, TestApp, runtime, until};

/// Names of the threads that have made runs, in order.
type Threads = Arc<Mutex<Vec<String>>>;

/// Wraps the real engine, and records the thread of each run.
#[derive(Debug)]
struct Recording<T: ?Sized>(Arc<T>, Threads);

struct RecordingSession(Box<dyn Session>, Threads);

impl Engine for Recording<dyn Engine> {
    fn version(&self) -> &str {
        self.0.version()
    }

    fn load(&self, source: Arc<dyn ModelSource>, config: &SessionConfig) -> Result<Arc<dyn LoadedModel>, SetupError> {
        Ok(Arc::new(Recording(self.0.load(source, config)?, Arc::clone(&self.1))))
    }
}

impl LoadedModel for Recording<dyn LoadedModel> {
    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn provider(&self) -> Provider {
        self.0.provider()
    }

    fn is_in_process(&self) -> bool {
        self.0.is_in_process()
    }

    fn open(&self) -> Result<Box<dyn Session>, SetupError> {
        Ok(Box::new(RecordingSession(self.0.open()?, Arc::clone(&self.1))))
    }
}

impl Session for RecordingSession {
    fn interrupt(&self) -> Arc<dyn Interrupt> {
        self.0.interrupt()
    }

    fn run(&mut self, inputs: &Tensors) -> Result<Tensors> {
        self.1.lock().push(std::thread::current().name().unwrap_or_default().to_owned());
        self.0.run(inputs)
    }
}

/// A server of the model `work`, whose run takes as long as its input says, and the threads of its runs.
async fn serve_work(settings: &str) -> (TestApp, Threads, Repository) {
    let threads = Threads::default();
    let engine: Arc<dyn Engine> = Arc::new(Recording(runtime(), Arc::clone(&threads)));
    let repository = Repository::of("echo_float32").with("work", 1, "work", &format!("{TENSOR_STAGES}{settings}"));
    let mut config = repository.config();
    config.http.threads = leeway::config::Count::Fixed(2.try_into().unwrap());
    (TestApp::with_parts(config, engine, Stages::default()).await, threads, repository)
}

async fn predict(app: &TestApp, rounds: u32) -> u16 {
    app.predict("/v1/models/work:predict", json!({ "instances": [rounds] }).to_string()).await.status
}

/// The name of the thread that a worker of the model has.
fn is_worker(thread: &str) -> bool {
    thread.starts_with("work")
}

#[tokio::test(flavor = "multi_thread")]
async fn short_runs_are_made_by_threads_of_requests_and_none_if_they_are_turned_off() {
    // A debug build on a busy machine takes its time.
    let (app, threads, _repository) =
        serve_work("[model]\nworkers = 1\ninline_us = 1000\n[budget]\ntotal_ms = 60000\n").await;
    until(async || {
        assert_eq!(predict(&app, 1).await, 200);
        threads.lock().last().filter(|thread| !is_worker(thread)).cloned()
    })
    .await;

    let (app, threads, _repository) =
        serve_work("[model]\nworkers = 1\ninline_us = 0\n[budget]\ntotal_ms = 60000\n").await;
    threads.lock().clear();
    for _ in 0..50 {
        assert_eq!(predict(&app, 1).await, 200);
    }
    assert!(threads.lock().iter().all(|thread| is_worker(thread)), "{:?}", threads.lock());
}

/// The model takes microseconds for most requests, and minutes for one: its run is ended on the thread of the request,
/// goes on on a worker, and ends with the budget. Other requests are answered meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_takes_much_longer_than_before_holds_no_thread_of_requests() {
    let (app, threads, _repository) =
        serve_work("[model]\nworkers = 1\ninline_us = 1000\n[budget]\ntotal_ms = 2000\n").await;
    let moved = "leeway_inline_runs_moved_total{model=\"work\",version=\"1\"}";
    until(async || {
        assert_eq!(predict(&app, 1).await, 200);
        threads.lock().last().filter(|thread| !is_worker(thread)).cloned()
    })
    .await;
    let already = threads.lock().len();
    let (endless, echo) = tokio::join!(predict(&app, 100_000_000), async {
        app.metric_becomes(moved, 1.0).await;
        app.predict("/v1/models/echo_float32:predict", json!({ "instances": [[1.0, 2.0]] }).to_string()).await
    });
    assert_eq!((endless, echo.status), (504, 200));
    let runs = threads.lock()[already..].to_vec();
    let on_workers = runs.iter().filter(|thread| is_worker(thread)).count();
    assert!(!is_worker(&runs[0]) && on_workers == 1, "{runs:?}");
    // The worker and its session go on, and no run is inline for a while.
    until(async || (predict(&app, 1).await == 200).then_some(())).await;
    assert!(is_worker(threads.lock().last().unwrap()));
    assert_eq!(app.metric("leeway_worker_restarts_total{model=\"work\",version=\"1\"}").await, 0.0);
}
