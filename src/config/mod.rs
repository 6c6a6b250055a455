//! Configuration: a TOML file, the environment and flags, made into one validated [`Config`].
//!
//! Later sources win: defaults, then the file, then `LEEWAY_*` variables, then flags. An unknown key, a
//! wrong type or an impossible value is an error that names the source, the key and what is allowed, and it
//! is found before anything is loaded or bound. This is the only room that reads the environment.

mod budget;
mod library;
mod listen;
mod model;
mod monitoring;
mod sources;

use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::library::LibraryCandidate;
pub use self::listen::listen_address;
pub use self::model::{
    Batching, Isolation, ModelConfig, Provider, ProviderFallback, SessionConfig, SessionPlace, StageConfig, Threads,
};
pub use self::monitoring::{
    BusinessKind, DriftSeries, FeedbackConfig, MonitoringConfig, MonitoringWindows, ServerMonitoringConfig,
};
pub(crate) use self::sources::toml_problem;
pub use self::sources::{DEFAULT_FILE, Overrides, own_variables};
use crate::identity::ModelName;
use crate::machine;

/// The whole configuration of a server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The listener that clients speak to.
    pub http: HttpConfig,
    /// The listener for operators.
    pub admin: AdminConfig,
    /// The repository of the models.
    pub repository: RepositoryConfig,
    /// Loading of versions.
    pub loading: LoadingConfig,
    /// Detection of runs that do not end.
    pub health: HealthConfig,
    /// Storage of the deployments.
    pub state: StateConfig,
    /// Monitoring, and the lifetime of its data.
    pub monitoring: ServerMonitoringConfig,
    /// Accepted feedback.
    pub feedback: FeedbackConfig,
    /// Which ONNX Runtime library is loaded.
    pub onnxruntime: OnnxRuntimeConfig,
    /// Content and format of the log.
    pub log: LogConfig,
    /// Shutdown of a server.
    pub shutdown: ShutdownConfig,
}

/// `[http]`: the listener that clients speak to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Address and port; port 0 takes a free one.
    #[serde(deserialize_with = "listen::deserialize")]
    pub listen: SocketAddr,
    /// Threads that read, parse and write requests.
    pub threads: Count,
    /// Connections open at one time that predictions are served on.
    pub connection_limit: NonZeroUsize,
    /// Time for a new connection to send the head of its first request.
    pub first_request_timeout_ms: NonZeroU64,
    /// Time for which a connection may be idle after an answer, until the head of the next request has been read.
    pub header_timeout_ms: NonZeroU64,
    /// Time for which a client may read nothing of an answer that is being written.
    pub write_timeout_ms: NonZeroU64,
    /// The largest request body.
    pub body_limit_bytes: NonZeroUsize,
    /// Maximum size of a feedback body.
    pub feedback_body_limit_bytes: NonZeroUsize,
    /// Maximum memory for all bodies and unread answers together. Without it, an eighth of the available memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_memory_bytes: Option<NonZeroUsize>,
    /// Answers `GET /metrics` on this listener, too.
    pub metrics: bool,
    /// Maximum age of the metrics in an answer.
    pub metrics_max_age_ms: u64,
}

/// `[admin]`: the listener for operators.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Address and port; port 0 takes a free one.
    #[serde(deserialize_with = "listen::deserialize")]
    pub listen: SocketAddr,
    /// Token for the admin API; without it, whoever reaches the address may change what is served.
    #[serde(skip_serializing)]
    pub token: Option<Token>,
}

/// A secret, which is not shown where the configuration is.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Token(String);

/// `[repository]`: where the models are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RepositoryConfig {
    /// The folder that holds one folder per model.
    pub path: PathBuf,
    /// The model that `POST /predict` asks; without it, the only one there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_model: Option<ModelName>,
    /// Number of the newest versions of each model that are kept loaded, beside those that the deployment needs.
    pub newest_versions: usize,
    /// Interval of syncs with the folder, which find new versions and changed files. 0 turns them off.
    pub poll_interval_ms: u64,
    /// Time for which `leeway reload` waits for the loads that it starts.
    pub reload_timeout_ms: NonZeroU64,
    /// Handling of models that cannot be served at the start.
    pub start: StartMode,
    /// Time for which a lenient start waits for models that are slow to load.
    pub start_timeout_ms: NonZeroU64,
}

/// Handling of models that cannot be served, and of folders that are no models, at the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartMode {
    /// The other models are served, as at run time.
    #[default]
    Lenient,
    /// The server does not start.
    Strict,
}

/// `[health]`: detection of runs that do not end.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthConfig {
    /// Time that all workers of a version must have been in their current runs before its model is not ready. Without
    /// it, ten times the budget, and at least 30 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stuck_after_ms: Option<NonZeroU64>,
    /// The same time before `/livez` fails, so that the orchestrator restarts the process. Without it, never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live_fails_after_ms: Option<NonZeroU64>,
}

/// `[loading]`: how versions are loaded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoadingConfig {
    /// True if a version is tried out in a process of its own first.
    pub trial: bool,
    /// The most memory that the trial may take, in MiB; without it, 1024 and four times the size of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial_memory_mb: Option<NonZeroU64>,
    /// Timeout of the trial, and of each of the first runs of a version in the server itself.
    pub trial_timeout_ms: NonZeroU64,
    /// Timeout of a load as a whole. Other loads continue after it.
    pub timeout_ms: NonZeroU64,
}

/// `[state]`: where it is kept who gets traffic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StateConfig {
    /// `sqlite:<file>`, or `memory`.
    pub url: StateUrl,
}

/// Location of the deployment journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum StateUrl {
    /// Nowhere: a restart begins anew.
    Memory,
    /// In an SQLite file.
    Sqlite(PathBuf),
}

/// `[onnxruntime]`: which library is loaded.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OnnxRuntimeConfig {
    /// The library's file; without it, the usual places are searched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub library: Option<PathBuf>,
}

/// `[log]`: what is written to the log (standard error), and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// The least severe level that is written.
    pub level: LogLevel,
    /// The form of a line.
    pub format: LogFormat,
}

/// `[shutdown]`: how a server stops.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShutdownConfig {
    /// After SIGTERM: how long to go on serving, not ready, until load balancers have noticed.
    pub deregistration_delay_ms: u64,
    /// Time for requests in flight to finish after that.
    pub grace_period_ms: u64,
}

/// A number of threads: chosen from the cores there are, or given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// As many as suit the machine.
    Auto,
    /// This many.
    Fixed(NonZeroUsize),
}

/// The severity of a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// The form of a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// `Human` on a terminal, `Json` otherwise.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

// ===== defaults =====

impl Default for HttpConfig {
    fn default() -> Self {
        HttpConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            threads: Count::Auto,
            connection_limit: non_zero(1024),
            first_request_timeout_ms: NonZeroU64::MIN.saturating_add(9_999),
            header_timeout_ms: NonZeroU64::MIN.saturating_add(74_999),
            write_timeout_ms: NonZeroU64::MIN.saturating_add(29_999),
            body_limit_bytes: non_zero(8 << 20),
            // 10,000 items with an id, a label and a metric fit into this.
            feedback_body_limit_bytes: non_zero(3 << 20),
            body_memory_bytes: None,
            metrics: true,
            metrics_max_age_ms: 1_000,
        }
    }
}

impl Default for AdminConfig {
    fn default() -> Self {
        AdminConfig { listen: SocketAddr::from(([127, 0, 0, 1], 8081)), token: None }
    }
}

impl Default for RepositoryConfig {
    fn default() -> Self {
        RepositoryConfig {
            path: PathBuf::from("models"),
            default_model: None,
            newest_versions: 2,
            poll_interval_ms: 5_000,
            // Enough for a small model, and shorter than the usual timeout of a client.
            reload_timeout_ms: NonZeroU64::MIN.saturating_add(9_999),
            start: StartMode::Lenient,
            // Longer than a trial may take, and shorter than an operator waits.
            start_timeout_ms: NonZeroU64::MIN.saturating_add(299_999),
        }
    }
}

impl Default for LoadingConfig {
    fn default() -> Self {
        LoadingConfig {
            trial: true,
            trial_memory_mb: None,
            trial_timeout_ms: NonZeroU64::MIN.saturating_add(119_999),
            // Enough to read weights of some hundred GiB from a slow disk.
            timeout_ms: NonZeroU64::MIN.saturating_add(1_199_999),
        }
    }
}

impl Default for StateConfig {
    fn default() -> Self {
        StateConfig { url: StateUrl::Sqlite(PathBuf::from("state/leeway.db")) }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig { level: LogLevel::Info, format: LogFormat::Auto }
    }
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        ShutdownConfig { deregistration_delay_ms: 5_000, grace_period_ms: 30_000 }
    }
}

fn non_zero(count: usize) -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(count - 1)
}

// ===== what the other rooms ask =====

impl HttpConfig {
    /// [`HttpConfig::threads`], chosen from the cores there are if it is `auto`.
    pub fn threads(&self) -> NonZeroUsize {
        self.threads.or(available_cores())
    }

    /// [`HttpConfig::first_request_timeout_ms`] as a duration.
    pub fn first_request_timeout(&self) -> Duration {
        Duration::from_millis(self.first_request_timeout_ms.get())
    }

    /// Returns [`HttpConfig::body_memory_bytes`]. Without it, an eighth of the memory that this process may have:
    /// tensors made from a body may take four times its size, and models need the rest.
    pub fn body_memory(&self) -> usize {
        let least = self.least_body_memory();
        let eighth = |bytes: u64| usize::try_from(bytes / 8).unwrap_or(usize::MAX);
        let suited = || machine::memory_limit().map_or(usize::MAX, |bytes| eighth(bytes).max(least));
        self.body_memory_bytes.map_or_else(suited, NonZeroUsize::get)
    }

    /// One body may take somewhat less than half of the budget, so three times the largest body is enough.
    fn least_body_memory(&self) -> usize {
        self.body_limit_bytes.max(self.feedback_body_limit_bytes).get().saturating_mul(3)
    }

    /// [`HttpConfig::metrics_max_age_ms`] as a duration.
    pub fn metrics_max_age(&self) -> Duration {
        Duration::from_millis(self.metrics_max_age_ms)
    }

    /// [`HttpConfig::header_timeout_ms`] as a duration.
    pub fn header_timeout(&self) -> Duration {
        Duration::from_millis(self.header_timeout_ms.get())
    }

    /// [`HttpConfig::write_timeout_ms`] as a duration.
    pub fn write_timeout(&self) -> Duration {
        Duration::from_millis(self.write_timeout_ms.get())
    }
}

impl RepositoryConfig {
    /// [`RepositoryConfig::poll_interval_ms`] as a duration; `None` for 0.
    pub fn poll_interval(&self) -> Option<Duration> {
        Some(Duration::from_millis(self.poll_interval_ms)).filter(|interval| !interval.is_zero())
    }

    /// [`RepositoryConfig::reload_timeout_ms`] as a duration.
    pub fn reload_timeout(&self) -> Duration {
        Duration::from_millis(self.reload_timeout_ms.get())
    }

    /// [`RepositoryConfig::start_timeout_ms`] as a duration; `None` for a strict start, which waits for all.
    pub fn start_timeout(&self) -> Option<Duration> {
        let timeout = Duration::from_millis(self.start_timeout_ms.get());
        (self.start == StartMode::Lenient).then_some(timeout)
    }
}

impl HealthConfig {
    /// Time that all workers of a version with this total budget must have been in their current runs before they count
    /// as stuck.
    ///
    /// ```
    /// use std::time::Duration;
    /// use leeway::config::HealthConfig;
    /// let limit = |budget_ms| HealthConfig::default().stuck_after(Duration::from_millis(budget_ms)).as_secs();
    /// assert_eq!((limit(200), limit(10_000)), (30, 100));
    /// ```
    pub fn stuck_after(&self, budget: Duration) -> Duration {
        const MIN: Duration = Duration::from_secs(30);
        self.stuck_after_ms.map_or_else(|| MIN.max(10 * budget), |limit| Duration::from_millis(limit.get()))
    }

    /// [`HealthConfig::live_fails_after_ms`] as a duration.
    pub fn live_fails_after(&self) -> Option<Duration> {
        self.live_fails_after_ms.map(|limit| Duration::from_millis(limit.get()))
    }
}

impl LoadingConfig {
    /// [`LoadingConfig::trial_timeout_ms`] as a duration.
    pub fn trial_timeout(&self) -> Duration {
        Duration::from_millis(self.trial_timeout_ms.get())
    }

    /// [`LoadingConfig::timeout_ms`] as a duration.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.get())
    }

    /// [`LoadingConfig::trial_memory_mb`] in bytes.
    pub fn trial_memory(&self) -> Option<u64> {
        self.trial_memory_mb.map(|mib| mib.get().saturating_mul(1 << 20))
    }
}

impl Token {
    /// The secret itself.
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<secret>")
    }
}

impl TryFrom<String> for Token {
    type Error = String;

    fn try_from(text: String) -> Result<Token, String> {
        if text.len() >= 16 && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Token(text))
        } else {
            Err("a token is at least 16 visible ASCII characters, without spaces".to_owned())
        }
    }
}

impl TryFrom<String> for StateUrl {
    type Error = String;

    fn try_from(text: String) -> Result<StateUrl, String> {
        match text.strip_prefix("sqlite:") {
            _ if text == "memory" => Ok(StateUrl::Memory),
            Some(path) if !path.trim_start_matches('/').is_empty() => {
                // Three slashes are the usual way to write an absolute path.
                Ok(StateUrl::Sqlite(PathBuf::from(path.strip_prefix("//").unwrap_or(path))))
            }
            _ => Err(format!("found {text:?}, expected \"memory\" or \"sqlite:<file>\", as in sqlite:state/leeway.db")),
        }
    }
}

impl From<StateUrl> for String {
    fn from(url: StateUrl) -> String {
        match url {
            StateUrl::Memory => "memory".to_owned(),
            StateUrl::Sqlite(path) => format!("sqlite:{}", path.display()),
        }
    }
}

/// This program, for a process that is to do a part of its work.
pub fn this_program() -> std::io::Result<PathBuf> {
    std::env::current_exe()
}

/// Returns the user of this program, according to the environment: `user@host`.
pub fn this_user() -> String {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let user = set("USER").or_else(|| set("LOGNAME")).unwrap_or_else(|| "someone".to_owned());
    let host = set("HOSTNAME").or_else(|| Some(std::fs::read_to_string("/etc/hostname").ok()?.trim().to_owned()));
    host.filter(|host| !host.is_empty()).map_or_else(|| user.clone(), |host| format!("{user}@{host}"))
}

impl ShutdownConfig {
    /// [`ShutdownConfig::deregistration_delay_ms`] as a duration.
    pub fn deregistration_delay(&self) -> Duration {
        Duration::from_millis(self.deregistration_delay_ms)
    }

    /// [`ShutdownConfig::grace_period_ms`] as a duration.
    pub fn grace_period(&self) -> Duration {
        Duration::from_millis(self.grace_period_ms)
    }
}

impl Count {
    /// The number, where `auto` says what suits the machine.
    ///
    /// ```
    /// use leeway::config::Count;
    /// let count: Count = serde_json::from_str("\"auto\"").unwrap();
    /// assert_eq!(count.or(std::num::NonZeroUsize::MIN).get(), 1);
    /// let count: Count = serde_json::from_str("3").unwrap();
    /// assert_eq!(count.or(std::num::NonZeroUsize::MIN).get(), 3);
    /// ```
    pub fn or(self, auto: NonZeroUsize) -> NonZeroUsize {
        match self {
            Count::Auto => auto,
            Count::Fixed(count) => count,
        }
    }
}

/// Returns true if the user wants no colours on a terminal: the `NO_COLOR` convention.
pub fn is_colour_unwanted() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// The cores this process may use: affinity and cgroup quota respected.
pub fn available_cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

impl Serialize for Count {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Count::Auto => serializer.serialize_str("auto"),
            Count::Fixed(count) => count.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Count;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"auto\" or a whole number from 1 to 1024")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Count, E> {
                if text == "auto" {
                    Ok(Count::Auto)
                } else {
                    Err(E::invalid_value(serde::de::Unexpected::Str(text), &self))
                }
            }

            fn visit_u64<E: serde::de::Error>(self, count: u64) -> Result<Count, E> {
                usize::try_from(count)
                    .ok()
                    .filter(|&count| count <= 1024)
                    .and_then(NonZeroUsize::new)
                    .map(Count::Fixed)
                    .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Unsigned(count), &self))
            }

            fn visit_i64<E: serde::de::Error>(self, count: i64) -> Result<Count, E> {
                u64::try_from(count)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(count), &self))
                    .and_then(|count| self.visit_u64(count))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}
