//! Reads the configuration from its file, the environment and flags, and describes each problem in one line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use figment::error::{Actual, Kind};
use figment::providers::{Env, Serialized};
use figment::value::{Uncased, UncasedStr, Value};
use figment::{Figment, Source};
use serde::de::DeserializeOwned;

use super::location::RepositoryLocation;
use super::route::with_vertex_ai;
use super::settings_file::read_text;
use super::tracing::with_opentelemetry;
use super::{Config, ListenAddresses, cloud_variables};
use crate::error::{Result, SetupError};
use crate::identity::{printable, shown as shown_text};

/// Configuration file that is read if it exists and no other file is named.
pub const DEFAULT_FILE: &str = "config/leeway.toml";

/// Maximum of `http.connection_limit`: more connections than a process has file descriptors for.
const MAX_CONNECTIONS: usize = 1 << 20;
/// Maximum length of a problem's description in a message, in bytes. It is limited because it may quote a key or a
/// value.
const MAX_PROBLEM: usize = 1_000;
const PREFIX: &str = "LEEWAY_";

/// Returns the names of the environment variables with settings and with credentials of object stores. Processes that run
/// models do not get these variables, because they may hold secrets.
pub fn own_variables() -> Vec<OsString> {
    let names = std::env::vars_os().map(|(name, _)| name);
    let settings = names.filter(|name| name.to_string_lossy().starts_with(PREFIX));
    settings.chain(cloud_variables::names()).collect()
}
const FLAGS: &str = "command line";

/// Settings of the command line, which take precedence over the file and the environment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overrides {
    /// `--listen`: `http.listen`.
    pub listen: Option<ListenAddresses>,
    /// `--admin-listen`: `admin.listen`.
    pub admin_listen: Option<ListenAddresses>,
    /// `--models`: `repository.path`.
    pub models: Option<RepositoryLocation>,
}

impl Config {
    /// Loads the configuration from `file` (or [`DEFAULT_FILE`], if it exists), the environment and `overrides`.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Config, SetupError> {
        let file = Config::file(file);
        let mut figment = with_opentelemetry(with_vertex_ai(Figment::new())?)?;
        if let Some(path) = file {
            figment = figment.merge(toml(path)?);
        }
        refuse_single_underscores()?;
        // Not all variables with this prefix are settings: Kubernetes sets LEEWAY_PORT and more for a Service called
        // leeway. Settings name a section, followed by two underscores.
        let empty = empty_variables();
        let is_ours = move |name: &UncasedStr| name.as_str().contains("__") && !empty.iter().any(|empty| empty == name);
        figment = figment.merge(Env::prefixed(PREFIX).filter(is_ours).split("__"));
        for (key, addresses) in [("http.listen", &overrides.listen), ("admin.listen", &overrides.admin_listen)] {
            if let Some(addresses) = addresses {
                figment = figment.merge(Serialized::default(key, addresses));
            }
        }
        if let Some(location) = &overrides.models {
            figment = figment.merge(Serialized::default("repository.path", location));
        }

        let config: Config = extract(&figment, file)?;
        config.validate()?;
        Ok(config)
    }

    /// Returns the configuration file that is read: `named`, or [`DEFAULT_FILE`], if it exists.
    pub fn file(named: Option<&Path>) -> Option<&Path> {
        named.or_else(|| Some(Path::new(DEFAULT_FILE)).filter(|path| path.exists()))
    }

    /// Returns all configuration keys, each as its section and its name.
    pub fn keys() -> Vec<(String, String)> {
        // These keys have no default, so the serialized default configuration does not contain them.
        let without = [
            ("repository", "cache"),
            ("repository", "default_model"),
            ("onnxruntime", "library"),
            ("admin", "token"),
            ("http", "predict_route"),
            ("http", "health_route"),
            ("admin", "tls.certificate"),
            ("admin", "tls.key"),
            ("http", "tls.certificate"),
            ("http", "tls.key"),
            ("http", "body_memory_bytes"),
            ("http", "path_prefix"),
            ("http", "api_keys"),
            ("http", "api_keys_file"),
            ("feedback", "key"),
            ("prediction_log", "path"),
            ("loading", "trial_memory_mb"),
            ("loading", "cache"),
            ("health", "stuck_after_ms"),
            ("health", "live_fails_after_ms"),
            ("tracing", "endpoint"),
            ("tracing", "headers_file"),
            ("tracing", "ca_file"),
        ];
        let mut keys = without.map(|(section, field)| (section.to_owned(), field.to_owned())).to_vec();
        if let Ok(Value::Dict(_, sections)) = Value::serialize(Config::default()) {
            for (section, fields) in sections {
                let fields = fields.into_dict().unwrap_or_default();
                for (field, value) in fields {
                    match value.into_dict().filter(|table| !table.is_empty()) {
                        Some(table) => {
                            let in_table = table.into_keys().map(|key| (section.clone(), format!("{field}.{key}")));
                            keys.extend(in_table);
                        }
                        None => keys.push((section.clone(), field)),
                    }
                }
            }
        }
        keys
    }

    fn validate(&self) -> Result<(), SetupError> {
        if self.http.connection_limit.get() > MAX_CONNECTIONS {
            return Err(SetupError::Config(format!(
                "http.connection_limit: {} is too many, at most {MAX_CONNECTIONS}",
                self.http.connection_limit
            )));
        }
        let least = self.http.least_body_memory();
        if self.http.body_memory_bytes.is_some_and(|bytes| bytes.get() < least) {
            return Err(SetupError::Config(format!(
                "http.body_memory_bytes: {} is too few, at least {least}: three times the largest body (http.body_limit_bytes, \
                 http.feedback_body_limit_bytes)",
                self.http.body_memory()
            )));
        }
        const MAX_AGE_MS: u64 = 60_000;
        if self.http.metrics_max_age_ms > MAX_AGE_MS {
            return Err(SetupError::Config(format!(
                "http.metrics_max_age_ms: {} is too long, at most {MAX_AGE_MS}",
                self.http.metrics_max_age_ms
            )));
        }
        let problem = self.monitoring.problem().or_else(|| self.feedback.problem());
        let problem = problem.or_else(|| self.http.problem()).or_else(|| self.admin.tls.problem("admin"));
        let problem = problem.or_else(|| self.log.problem()).or_else(|| self.prediction_log.problem());
        let problem = problem.or_else(|| self.tracing.problem());
        if let Some(problem) = problem {
            return Err(SetupError::Config(problem));
        }
        if let Some(address) = self.http.listen.shared(&self.admin.listen) {
            return Err(SetupError::Config(format!(
                "http.listen and admin.listen are both {address}; give the admin listener a port of its own"
            )));
        }
        if let Some(address) = self.admin.listen.iter().find(|address| !address.is_local())
            && self.admin.token.is_none()
        {
            return Err(SetupError::Config(format!(
                "admin.listen: {address} can be reached from other machines, and anyone who reaches it can change \
                 what is served; set admin.token (LEEWAY_ADMIN__TOKEN), or listen on 127.0.0.1"
            )));
        }
        Ok(())
    }
}

/// Returns the names, without `LEEWAY_`, of the environment variables that begin with this prefix and are empty. They
/// count as not set, because templates produce empty variables for missing values.
fn empty_variables() -> Vec<Uncased<'static>> {
    let named = |(name, value): (OsString, OsString)| {
        let name = name.into_string().ok().filter(|_| value.is_empty())?;
        let ours = name.get(..PREFIX.len()).filter(|start| start.eq_ignore_ascii_case(PREFIX)).is_some();
        ours.then(|| Uncased::from_owned(name[PREFIX.len()..].to_owned()))
    };
    std::env::vars_os().filter_map(named).collect()
}

/// Refuses variables such as `LEEWAY_HTTP_LISTEN`, which would have no effect and are a mistake for
/// `LEEWAY_HTTP__LISTEN`.
fn refuse_single_underscores() -> Result<(), SetupError> {
    for (section, key) in Config::keys() {
        let key = key.replace('.', "__");
        let misspelt = format!("{PREFIX}{section}_{key}").to_uppercase();
        if std::env::var_os(&misspelt).is_some_and(|value| !value.is_empty()) {
            let meant = format!("{PREFIX}{section}__{key}").to_uppercase();
            return Err(SetupError::Config(format!(
                "environment variable {misspelt}: the name is {meant}, with two underscores"
            )));
        }
    }
    Ok(())
}

/// Reads a TOML file into the type `T`.
pub(super) fn read_file<T: DeserializeOwned>(path: &Path) -> Result<T, SetupError> {
    extract(&Figment::new().merge(toml(path)?), Some(path))
}

/// Reads a TOML text into the type `T`. Errors name the text's location.
pub(super) fn read_named<T: DeserializeOwned>(text: &str, place: &str) -> Result<T, SetupError> {
    let path = Path::new(place);
    extract(&Figment::new().merge(toml_text(text, path)?), Some(path))
}

/// Reads a TOML file. Errors give line and column but not the text of the line, which may be secret or from a wrong
/// file.
fn toml(path: &Path) -> Result<TomlFile, SetupError> {
    let text = read_text(path).map_err(|problem| SetupError::Config(format!("{}: {problem}", shown(path))))?;
    toml_text(&text, path)
}

fn toml_text(text: &str, path: &Path) -> Result<TomlFile, SetupError> {
    let wrong = |problem: String| SetupError::Config(format!("{}: {problem}", shown(path)));
    let values = toml::from_str::<figment::value::Dict>(text).map_err(|error| wrong(toml_problem(&error, text)))?;
    Ok(TomlFile { path: path.to_owned(), values })
}

/// Describes an error in a TOML text and its position, without the text.
///
/// The description may quote a key or a value, and is cut off at `MAX_PROBLEM`.
pub(crate) fn toml_problem(error: &toml::de::Error, text: &str) -> String {
    let problem = printable(&error.message().trim_end().replace('\n', "; "), MAX_PROBLEM).into_owned();
    let Some(span) = error.span() else { return problem };
    let before = text.get(..span.start).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}: {problem}")
}

/// Values of a TOML file, and the file's path for errors about them.
struct TomlFile {
    path: PathBuf,
    values: figment::value::Dict,
}

impl figment::Provider for TomlFile {
    fn metadata(&self) -> figment::Metadata {
        figment::Metadata::from("TOML file", self.path.as_path())
    }

    fn data(&self) -> Result<figment::value::Map<figment::Profile, figment::value::Dict>, figment::Error> {
        Ok(figment::Profile::Default.collect(self.values.clone()))
    }
}

/// Converts merged settings to a `T`. Errors about missing keys name `file`, because figment gives no source for a
/// missing key.
fn extract<T: DeserializeOwned>(figment: &Figment, file: Option<&Path>) -> Result<T, SetupError> {
    figment.extract().map_err(|errors| {
        let problem = |error: figment::Error| match source(&error).or_else(|| file.map(shown)) {
            Some(source) => format!("{source}: {}", describe(&error)),
            None => describe(&error),
        };
        SetupError::Config(errors.into_iter().map(problem).collect::<Vec<_>>().join("\n"))
    })
}

/// Formats a path for a message: relative to the current directory, if the path is inside this directory.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    here.as_deref().and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path).display().to_string()
}

/// Returns the source of the value that an error is about: the file, the variable, or the command line.
fn source(error: &figment::Error) -> Option<String> {
    let metadata = error.metadata.as_ref()?;
    match &metadata.source {
        Some(Source::File(path)) => Some(shown(path)),
        _ if metadata.name.contains("environment") => {
            let mut keys = error.path.clone();
            if let Kind::UnknownField(field, _) = &error.kind
                && keys.last() != Some(field)
            {
                keys.push(field.clone());
            }
            Some(format!("environment variable {PREFIX}{}", keys.join("__").to_uppercase()))
        }
        _ => Some(FLAGS.to_owned()),
    }
}

/// Describes a configuration error by its key and its problem, as in `http.listen: found a number, expected …`.
pub(super) fn describe(error: &figment::Error) -> String {
    let mut keys = error.path.clone();
    let problem = match &error.kind {
        Kind::UnknownField(field, allowed) => {
            if keys.last() != Some(field) {
                keys.push(field.clone());
            }
            match allowed {
                [] => "unknown key; no keys are allowed here".to_owned(),
                allowed => format!("unknown key; allowed here: {}", allowed.join(", ")),
            }
        }
        Kind::MissingField(field) => {
            keys.push(field.to_string());
            "this key is required".to_owned()
        }
        Kind::UnknownVariant(found, allowed) => {
            format!("\"{}\" is not one of {}", shown_text(found), allowed.join(", "))
        }
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
            format!("found {}, expected {}", found_in_plain_words(found), in_plain_words(expected))
        }
        other => printable(&other.to_string(), MAX_PROBLEM).into_owned(),
    };
    let keys: Vec<String> = keys.iter().map(|key| shown_text(key)).collect();
    if keys.is_empty() { problem } else { format!("{}: {problem}", keys.join(".")) }
}

/// Describes the type that serde expected, for people who do not write Rust.
fn in_plain_words(expected: &str) -> &str {
    match expected {
        "a nonzero usize" | "a nonzero u64" => "a whole number, at least 1",
        "usize" | "u64" => "a whole number, at least 0",
        "enum EnforceName" => "\"total\" or \"stages\"",
        "a sequence" => "a list, as in [\"a\", \"b\"]",
        other => other,
    }
}

fn found_in_plain_words(found: &Actual) -> String {
    match found {
        Actual::Signed(number) => number.to_string(),
        Actual::Unsigned(number) => number.to_string(),
        other => shown_text(&other.to_string()),
    }
}
