//! Shared parts of the tests: a server in this process on its own ports, and engines that make a session wait or panic.
//! Repositories and the program as a process come from `leeway_testkit`, which the benches use, too.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use leeway::app::{App, Dependencies, Stop};
use leeway::config::{Config, ListenAddress, Provider, SessionConfig, StageConfig};
use leeway::deploy::Fleet;
use leeway::error::{Result, SetupError};
use leeway::feedback::Ledger;
use leeway::model::isolated::IsolatedEngine;
use leeway::model::onnx::OnnxRuntime;
use leeway::model::{Engine, Interrupt, LoadedModel, ModelSource, Session};
use leeway::pipeline::{Preprocessor, StageContext, Stages};
use leeway::registry::Trial;
use leeway::rollout::RolloutStore;
use leeway::state::{MemoryFleet, MemoryLedger, MemoryRollouts, State};
use leeway::tensor::{Signature, TensorSpec, Tensors};
pub(crate) use leeway_testkit::{
    KillOnDrop, PLAIN, Repository, Server, TENSOR_STAGES, checkout, copy_folder, held_out, leeway, run,
};
use leeway_testkit::{leeway_program, shipped, test_config};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Timeout of anything whose duration is not tested. Generous: it only bounds a test that hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

// ===== a server in this process =====

pub(crate) struct TestApp {
    pub(crate) data: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) client: reqwest::Client,
    pub(crate) stop: mpsc::Sender<Stop>,
    pub(crate) running: JoinHandle<Result<(), SetupError>>,
}

/// A configuration with free ports, no delays, and the shipped models.
pub(crate) fn config() -> Config {
    test_config(shipped_models())
}

/// Trials by the real program, for the tests that need them.
pub(crate) fn trial(config: &Config) -> Trial {
    let runtime = OnnxRuntime::load(&config.library_candidates()).unwrap();
    Trial {
        program: leeway_program(),
        libraries: runtime.libraries(),
        memory: config.loading.trial_memory(),
        timeout: config.loading.trial_timeout(),
        cache: None,
    }
}

/// The shipped models, with a budget of a minute, because a test machine may be busy.
fn shipped_models() -> &'static Path {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(|| {
        let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("models");
        for version in [1, 2] {
            copy_folder(&shipped("digits", version), &copy.join("digits").join(version.to_string()));
        }
        let model_toml = std::fs::read_to_string(checkout().join("models/digits/model.toml")).unwrap();
        let patient = model_toml.replace("total_ms = 200", "total_ms = 60000");
        assert_ne!(patient, model_toml);
        std::fs::write(copy.join("digits/model.toml"), patient).unwrap();
        copy
    })
}

/// A ledger in memory, for one server.
pub(crate) fn ledger() -> Arc<dyn Ledger> {
    Arc::new(MemoryLedger::new(Config::default().feedback.remembered))
}

/// The fleet of a server that shares its state with no other.
pub(crate) fn no_fleet() -> Arc<dyn Fleet> {
    Arc::new(MemoryFleet)
}

pub(crate) fn no_rollouts() -> Arc<dyn RolloutStore> {
    Arc::new(MemoryRollouts::default())
}

pub(crate) fn runtime() -> Arc<dyn Engine> {
    Arc::new(OnnxRuntime::load(&config().library_candidates()).unwrap())
}

/// The engine that runs models in separate processes of the real program.
pub(crate) fn isolated_engine() -> Arc<dyn Engine> {
    let runtime = OnnxRuntime::load(&config().library_candidates()).unwrap();
    Arc::new(IsolatedEngine {
        program: leeway_program(),
        libraries: runtime.libraries(),
        version: runtime.version().to_owned(),
    })
}

/// The dependencies of a server without trials.
pub(crate) async fn dependencies(config: &Config, engine: Arc<dyn Engine>, stages: Stages) -> Dependencies {
    let State { journal, ledger, fleet, rollouts } =
        leeway::state::open(&config.state, config.feedback.remembered).await.unwrap();
    Dependencies {
        engine,
        isolated_engine: Some(isolated_engine()),
        stages,
        trial: None,
        journal,
        ledger,
        fleet,
        rollouts,
    }
}

impl TestApp {
    /// Starts a server with the shipped models.
    pub(crate) async fn start() -> TestApp {
        TestApp::with(config()).await
    }

    pub(crate) async fn with(config: Config) -> TestApp {
        TestApp::with_parts(config, runtime(), Stages::default()).await
    }

    pub(crate) async fn with_parts(config: Config, engine: Arc<dyn Engine>, stages: Stages) -> TestApp {
        let parts = dependencies(&config, engine, stages).await;
        TestApp::with_all(config, parts).await
    }

    /// Starts a server that tries versions out before it loads them.
    pub(crate) async fn with_trial(config: Config, trial: Trial) -> TestApp {
        let journal = leeway::state::open_journal(&config.state).await.unwrap();
        let (engine, stages) = (runtime(), Stages::default());
        let parts = Dependencies {
            engine,
            isolated_engine: None,
            stages,
            trial: Some(trial),
            journal,
            ledger: ledger(),
            fleet: no_fleet(),
            rollouts: no_rollouts(),
        };
        TestApp::with_all(config, parts).await
    }

    pub(crate) async fn with_all(config: Config, parts: Dependencies) -> TestApp {
        let bound = App::build_with(config, parts).await.unwrap().bind().await.unwrap();
        let (stop, stopped) = mpsc::channel(4);
        let (data, admin) = (tcp(bound.data_addresses()), tcp(bound.admin_addresses()));
        let running = tokio::spawn(bound.run(stopped));
        TestApp { data, admin, client: client(), stop, running }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.data)
    }

    pub(crate) async fn predict(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        let request = self.client.post(self.url(path)).header("content-type", "application/json").body(body);
        Answer::of(request.send().await.unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.client.get(self.url(path)).send().await.unwrap()).await
    }

    pub(crate) async fn admin_get(&self, path: &str) -> Answer {
        Answer::of(self.client.get(format!("http://{}{path}", self.admin)).send().await.unwrap()).await
    }

    pub(crate) async fn admin_post(&self, path: &str, body: Value) -> Answer {
        Answer::of(self.client.post(format!("http://{}{path}", self.admin)).json(&body).send().await.unwrap()).await
    }

    pub(crate) async fn admin_put(&self, path: &str, body: Value) -> Answer {
        Answer::of(self.client.put(format!("http://{}{path}", self.admin)).json(&body).send().await.unwrap()).await
    }

    /// Returns the value of a series, as in `leeway_connections` or `leeway_requests_total{model="a",…}`.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let text = self.get("/metrics").await.text;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{series} ")));
        line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
    }

    /// Waits until a series has a value.
    pub(crate) async fn metric_becomes(&self, series: &str, expected: f64) {
        let begin = Instant::now();
        loop {
            let value = self.metric(series).await;
            if value == expected {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "{series} is {value}, not {expected}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Returns the first TCP address of a listener.
fn tcp(addresses: &[ListenAddress]) -> SocketAddr {
    let tcp = addresses.iter().find_map(|address| match address {
        ListenAddress::Tcp(address) => Some(*address),
        ListenAddress::Unix(_) => None,
    });
    tcp.unwrap()
}

/// Makes a preprocessor with the settings of `[preprocess]`, for a model with these inputs.
pub(crate) fn preprocessor(model_toml: &str, inputs: Vec<TensorSpec>) -> Box<dyn Preprocessor> {
    let settings: toml::Table = model_toml.parse().unwrap();
    let config: StageConfig = settings["preprocess"].clone().try_into().unwrap();
    let (signature, files) = (Signature { inputs, ..Signature::default() }, std::collections::BTreeMap::new());
    Stages::default().preprocessor(StageContext::new(&config, &signature, &files)).unwrap()
}

/// Repeats `ask` until it returns a value.
pub(crate) async fn until<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap()
}

/// Returns a client that ignores proxies named in the environment.
pub(crate) fn client() -> reqwest::Client {
    client_builder().timeout(PATIENCE).build().unwrap()
}

/// Returns the builder of a client that ignores proxies named in the environment.
pub(crate) fn client_builder() -> reqwest::ClientBuilder {
    // Fails if there is one already. Without one, no client can be made, also not for plain HTTP.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy()
}

/// A response, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) async fn of(response: reqwest::Response) -> Answer {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, text: response.text().await.unwrap() }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Returns the predictions of an answer, which must have the status 200.
    pub(crate) fn predictions(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json()["predictions"].clone()
    }
}

/// Returns true if two answers are equal, up to the rounding of their numbers.
pub(crate) fn is_same(found: &Value, expected: &Value, tolerance: f64) -> bool {
    match (found, expected) {
        (Value::Array(found), Value::Array(expected)) => {
            found.len() == expected.len()
                && found.iter().zip(expected).all(|(found, expected)| is_same(found, expected, tolerance))
        }
        (Value::Object(found), Value::Object(expected)) => {
            found.len() == expected.len()
                && expected
                    .iter()
                    .all(|(name, expected)| found.get(name).is_some_and(|found| is_same(found, expected, tolerance)))
        }
        (Value::Number(found), Value::Number(expected)) if found.is_f64() || expected.is_f64() => {
            let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
            (found - expected).abs() <= tolerance * expected.abs().max(1.0)
        }
        (found, expected) => found == expected,
    }
}

// ===== engines that misbehave =====

/// Wraps the real engine, so that every run goes through a function first.
#[derive(Debug)]
pub(crate) struct HookedEngine {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) before_run: fn(&Tensors),
}

#[derive(Debug)]
struct HookedModel(Arc<dyn LoadedModel>, fn(&Tensors));

struct HookedSession(Box<dyn Session>, fn(&Tensors));

impl Engine for HookedEngine {
    fn version(&self) -> &str {
        self.engine.version()
    }

    fn load(&self, source: Arc<dyn ModelSource>, config: &SessionConfig) -> Result<Arc<dyn LoadedModel>, SetupError> {
        Ok(Arc::new(HookedModel(self.engine.load(source, config)?, self.before_run)))
    }
}

impl LoadedModel for HookedModel {
    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn provider(&self) -> Provider {
        self.0.provider()
    }

    fn open(&self) -> Result<Box<dyn Session>, SetupError> {
        Ok(Box::new(HookedSession(self.0.open()?, self.1)))
    }
}

impl Session for HookedSession {
    fn interrupt(&self) -> Arc<dyn Interrupt> {
        self.0.interrupt()
    }

    fn run(&mut self, inputs: &Tensors) -> Result<Tensors> {
        (self.1)(inputs);
        self.0.run(inputs)
    }
}
