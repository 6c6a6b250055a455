//! What the tests share: a server in this process on ports of its own, a repository that is made for a test,
//! the real binary, and engines that make a session wait or panic.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use leeway::app::{App, Dependencies, Stop};
use leeway::config::{Config, Provider, SessionConfig, StateUrl};
use leeway::error::{Result, SetupError};
use leeway::feedback::Ledger;
use leeway::model::isolated::IsolatedEngine;
use leeway::model::onnx::OnnxRuntime;
use leeway::model::{Engine, Interrupt, LoadedModel, ModelSource, Session};
use leeway::pipeline::Stages;
use leeway::registry::Trial;
use leeway::repository::Manifest;
use leeway::state::{MemoryLedger, State};
use leeway::tensor::{Signature, Tensors};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How long anything may take that does not depend on time. Generous: it only bounds a test that hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

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
    let mut config = Config::default();
    config.http.listen = "127.0.0.1:0".parse().unwrap();
    config.admin.listen = "127.0.0.1:0".parse().unwrap();
    config.repository.path = shipped_models().to_owned();
    config.shutdown.deregistration_delay_ms = 0;
    config.state.url = StateUrl::Memory;
    // A test expects the effects of its last request.
    config.http.metrics_max_age_ms = 0;
    // Who wants the repository to be looked at says when.
    config.repository.poll_interval_ms = 0;
    // A test machine may be busy.
    config.repository.reload_timeout_ms = 60_000.try_into().unwrap();
    config
}

/// How versions are tried out, where a test wants it: by the real program.
pub(crate) fn trial(config: &Config) -> Trial {
    let runtime = OnnxRuntime::load(&config.library_candidates()).unwrap();
    Trial {
        program: env!("CARGO_BIN_EXE_leeway").into(),
        library: runtime.library().to_owned(),
        memory: config.loading.trial_memory(),
        timeout: config.loading.trial_timeout(),
    }
}

/// The shipped models, with all the time in the world: a test machine may be busy.
fn shipped_models() -> &'static Path {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(|| {
        let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("models");
        let shipped = checkout().join("models/digits");
        for version in ["1", "2"] {
            copy_folder(&shipped.join(version), &copy.join("digits").join(version));
        }
        let model_toml = std::fs::read_to_string(shipped.join("model.toml")).unwrap();
        let patient = model_toml.replace("total_ms = 200", "total_ms = 60000");
        assert_ne!(patient, model_toml);
        std::fs::write(copy.join("digits/model.toml"), patient).unwrap();
        copy
    })
}

/// Copies the files of a version.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Feedback that is remembered by one server only.
pub(crate) fn ledger() -> Arc<dyn Ledger> {
    Arc::new(MemoryLedger::new(Config::default().feedback.remembered))
}

pub(crate) fn runtime() -> Arc<dyn Engine> {
    Arc::new(OnnxRuntime::load(&config().library_candidates()).unwrap())
}

/// The engine that runs models in processes of their own: the real program.
pub(crate) fn isolated_engine() -> Arc<dyn Engine> {
    let runtime = OnnxRuntime::load(&config().library_candidates()).unwrap();
    Arc::new(IsolatedEngine {
        program: env!("CARGO_BIN_EXE_leeway").into(),
        library: runtime.library().to_owned(),
        version: runtime.version().to_owned(),
    })
}

/// What a server needs beside its configuration; without a trial.
pub(crate) async fn dependencies(config: &Config, engine: Arc<dyn Engine>, stages: Stages) -> Dependencies {
    let State { journal, ledger } = leeway::state::open(&config.state.url, config.feedback.remembered).await.unwrap();
    Dependencies { engine, isolated_engine: Some(isolated_engine()), stages, trial: None, journal, ledger }
}

impl TestApp {
    /// The shipped models.
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

    /// A server that tries versions out first.
    pub(crate) async fn with_trial(config: Config, trial: Trial) -> TestApp {
        let journal = leeway::state::open_journal(&config.state.url).await.unwrap();
        let (engine, stages) = (runtime(), Stages::default());
        let parts =
            Dependencies { engine, isolated_engine: None, stages, trial: Some(trial), journal, ledger: ledger() };
        TestApp::with_all(config, parts).await
    }

    pub(crate) async fn with_all(config: Config, parts: Dependencies) -> TestApp {
        let bound = App::build_with(config, parts).await.unwrap().bind().await.unwrap();
        let (stop, stopped) = mpsc::channel(4);
        let (data, admin) = (bound.data_address(), bound.admin_address());
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

    /// The value of a series, as in `leeway_connections` or `leeway_requests_total{model="a",…}`.
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

/// Asks until there is an answer that will do.
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

/// A client that goes to the address it is given, whatever the environment says of proxies.
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap()
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

    /// The predictions of an answer that has to be one.
    pub(crate) fn predictions(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json()["predictions"].clone()
    }
}

// ===== a repository made for a test =====

/// A repository in a folder of its own, deleted with it.
pub(crate) struct Repository(pub(crate) tempfile::TempDir);

/// The stages of a model of `tests/data/models` that is served as it is.
pub(crate) const STAGES: &str = "[preprocess]\nkind = \"tensor\"\n[postprocess]\nkind = \"tensor\"\n";

/// The same, with all the time in the world, and with one worker however many cores there are.
pub(crate) const PLAIN: &str = "[preprocess]\nkind = \"tensor\"\n[postprocess]\nkind = \"tensor\"\n\
    [budget]\ntotal_ms = 600000\n[model]\nworkers = 1\n";

impl Repository {
    pub(crate) fn new() -> Repository {
        Repository(tempfile::tempdir().unwrap())
    }

    /// A repository with one plain model out of `tests/data/models`.
    pub(crate) fn of(model: &str) -> Repository {
        Repository::new().with(model, 1, model, PLAIN)
    }

    /// Adds a version of a model from `tests/data/models`.
    pub(crate) fn with(self, name: &str, version: u32, model: &str, model_toml: &str) -> Repository {
        self.add(name, version, model);
        std::fs::write(self.0.path().join(name).join("model.toml"), model_toml).unwrap();
        self
    }

    /// The same, for a model that has a `model.toml`. It appears all at once.
    pub(crate) fn add(&self, name: &str, version: u32, model: &str) {
        self.add_file(name, version, &checkout().join("tests/data/models").join(format!("{model}.onnx")));
    }

    /// The same, from any file.
    pub(crate) fn add_file(&self, name: &str, version: u32, file: &Path) {
        let folder = self.0.path().join(name).join(version.to_string());
        let hidden = folder.with_file_name(".adding");
        std::fs::create_dir_all(&hidden).unwrap();
        std::fs::copy(file, hidden.join("model.onnx")).unwrap();
        Manifest::write_for(&hidden).unwrap();
        std::fs::rename(hidden, folder).unwrap();
    }

    pub(crate) fn config(&self) -> Config {
        let mut config = config();
        config.repository.path = self.0.path().to_owned();
        config
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

// ===== the real binary =====

/// A process that is killed with the test.
pub(crate) struct KillOnDrop(pub(crate) Child);

impl KillOnDrop {
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.0.id().to_string()]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `leeway serve` as a process.
pub(crate) struct Server {
    child: KillOnDrop,
    pub(crate) data: SocketAddr,
    pub(crate) admin: SocketAddr,
    log: BufReader<std::process::ChildStderr>,
}

/// `leeway` with these arguments, in a folder without a configuration file, and free of this environment's
/// settings.
pub(crate) fn leeway(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leeway"));
    command.args(arguments).current_dir(checkout().join("tests/data"));
    command.env_remove("ORT_DYLIB_PATH").env("LEEWAY_STATE__URL", "memory").stdin(Stdio::null());
    command
}

/// Runs a command to its end: its exit status, and what it said.
pub(crate) fn run(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.code().unwrap(), text)
}

impl Server {
    /// Starts `leeway serve` on free ports and waits until it is ready.
    pub(crate) fn start(models: &Path, settings: &[(&str, &str)]) -> Server {
        Server::spawn(leeway(&["serve", "--models", models.to_str().unwrap()]).envs(settings.iter().copied()))
    }

    /// Starts this command as a server and waits until it is ready.
    pub(crate) fn spawn(command: &mut Command) -> Server {
        command.env("LEEWAY_HTTP__LISTEN", "127.0.0.1:0").env("LEEWAY_ADMIN__LISTEN", "127.0.0.1:0");
        command.env("LEEWAY_HTTP__METRICS_MAX_AGE_MS", "0");
        let mut child = KillOnDrop(command.stderr(Stdio::piped()).spawn().unwrap());
        let mut log = BufReader::new(child.0.stderr.take().unwrap());
        let mut seen = String::new();
        let (data, admin) = loop {
            let start = seen.len();
            assert!(log.read_line(&mut seen).unwrap() > 0, "the server ended:\n{seen}");
            // The address is a field of the log's JSON, not a part of its prose.
            let line: Value = serde_json::from_str(&seen[start..]).unwrap_or_default();
            if let (Some(data), Some(admin)) = (line["data"].as_str(), line["admin"].as_str()) {
                break (data.parse().unwrap(), admin.parse().unwrap());
            }
        };
        Server { child, data, admin, log }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.data)
    }

    pub(crate) fn signal(&self, name: &str) {
        self.child.signal(name);
    }

    /// Id of its process.
    pub(crate) fn process(&self) -> u32 {
        self.child.0.id()
    }

    /// Kills the process at a moment, from a thread of its own.
    #[cfg(feature = "failpoints")]
    pub(crate) fn kill_at(&self, at: Instant) -> std::thread::JoinHandle<()> {
        let id = self.child.0.id().to_string();
        std::thread::spawn(move || {
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            assert!(Command::new("kill").args(["-s", "KILL", &id]).status().unwrap().success());
        })
    }

    /// Waits for the process to end; its status and the rest of its log.
    pub(crate) fn wait(mut self) -> (ExitStatus, String) {
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        (self.child.0.wait().unwrap(), log)
    }
}

/// Held-out digits with scikit-learn's own answers.
pub(crate) fn held_out() -> Value {
    let path: PathBuf = checkout().join("tests/data/digits_held_out.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}
