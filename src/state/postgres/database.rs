//! The connections to a PostgreSQL database, and its tables.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Connection as _, Executor as _};
use tokio::sync::OnceCell;

use crate::config::PostgresUrl;
use crate::error::{Result, SetupError};

/// Timeout of an operation, with the time to connect. A database that takes longer counts as unreachable.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum number of connections of a server: one listens for changes, and the others do not wait for each other often.
const MAX_CONNECTIONS: u32 = 4;

/// Time after which a connection without use is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Version of the tables. A database with a later version is not touched.
const SCHEMA: i32 = 1;

/// Key of the advisory lock that is held while tables are created. Any number that others do not use.
const LOCK: i64 = 0x6c65_6577_6179;

/// The tables of schema version 1. `leeway_models` has the current generation of each model: appending a deployment
/// updates one row of it, so that racing changes wait for each other, and its sum shows every change.
const TABLES: [&str; 9] = [
    "CREATE TABLE IF NOT EXISTS leeway_schema (version integer NOT NULL)",
    "CREATE TABLE IF NOT EXISTS leeway_models (model text PRIMARY KEY, generation bigint NOT NULL)",
    "CREATE TABLE IF NOT EXISTS leeway_deployments (
        model text NOT NULL, generation bigint NOT NULL, deployment text NOT NULL, PRIMARY KEY (model, generation)
    )",
    "CREATE TABLE IF NOT EXISTS leeway_feedback_keys (id integer PRIMARY KEY CHECK (id = 1), key text NOT NULL)",
    "CREATE TABLE IF NOT EXISTS leeway_feedback_items (
        item bigint PRIMARY KEY, said bigint NOT NULL, seq bigint NOT NULL UNIQUE
    )",
    "CREATE SEQUENCE IF NOT EXISTS leeway_feedback_order",
    "CREATE TABLE IF NOT EXISTS leeway_replicas (
        id text PRIMARY KEY, report text NOT NULL, seen_at timestamptz NOT NULL
    )",
    "CREATE TABLE IF NOT EXISTS leeway_rollouts (
        model text NOT NULL, number bigint NOT NULL, revision bigint NOT NULL, record text NOT NULL,
        PRIMARY KEY (model, number)
    )",
    "CREATE TABLE IF NOT EXISTS leeway_rollout_counts (
        model text NOT NULL, number bigint NOT NULL, process text NOT NULL, counts text NOT NULL,
        PRIMARY KEY (model, number, process)
    )",
];

/// A PostgreSQL database. Connects when it is first used, and again after a connection was lost.
pub(in crate::state) struct PostgresDatabase {
    options: PgConnectOptions,
    password_file: Option<PathBuf>,
    pool: PgPool,
    is_set_up: OnceCell<()>,
}

/// The reason why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::state) enum Problem {
    /// The database cannot be reached now, or is just starting or stopping.
    Unreachable(String),
    /// The database refuses the operation, and an operator has to change something.
    Refused(String),
}

impl PostgresDatabase {
    /// Creates a database that is not connected yet. Fails if the URL or the file of the password cannot be used.
    pub(in crate::state) fn new(
        url: &PostgresUrl,
        password_file: Option<PathBuf>,
    ) -> Result<PostgresDatabase, SetupError> {
        let options = parse(url)?
            .application_name("leeway")
            // A change that was acknowledged survives a crash of the database server, whatever its default is.
            .options([("synchronous_commit", "on"), ("statement_timeout", "5000"), ("lock_timeout", "5000")]);
        let pool = PgPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(TIMEOUT)
            .idle_timeout(IDLE_TIMEOUT)
            .connect_lazy_with(with_password(&options, password_file.as_deref())?);
        Ok(PostgresDatabase { options, password_file, pool, is_set_up: OnceCell::new() })
    }

    /// Checks the URL and the file of the password, without connecting.
    pub(in crate::state) fn check(url: &PostgresUrl, password_file: Option<&Path>) -> Result<(), SetupError> {
        with_password(&parse(url)?, password_file).map(drop)
    }

    /// Reads the password from its file again, for the next connection.
    fn read_password(&self) -> Result<(), SetupError> {
        self.pool.set_connect_options(with_password(&self.options, self.password_file.as_deref())?);
        Ok(())
    }

    /// Creates the tables, if they do not exist. Does nothing once it has succeeded.
    pub(in crate::state) async fn set_up(&self) -> Result<(), Problem> {
        self.is_set_up.get_or_try_init(|| self.try_to_set_up()).await.copied()
    }

    async fn try_to_set_up(&self) -> Result<(), Problem> {
        match within(create_tables(&self.pool)).await {
            Err(Problem::Refused(problem)) if self.password_file.is_some() => {
                // The password may have been changed.
                self.read_password().map_err(|_| Problem::Refused(problem))?;
                within(create_tables(&self.pool)).await
            }
            result => result,
        }
    }

    /// Waits for an operation on the pool of connections, within the timeout.
    pub(in crate::state) async fn run<T>(
        &self,
        operation: impl Future<Output = sqlx::Result<T>> + Send,
    ) -> Result<T, Problem> {
        self.set_up().await?;
        let result = within(operation).await;
        if let Err(Problem::Refused(problem)) = &result
            && problem.contains("password")
        {
            // The password may have been changed. The next operation uses the new one.
            self.read_password().map_err(|error| Problem::Refused(format!("{problem}; {error}")))?;
        }
        result
    }

    /// Returns the pool of connections.
    pub(in crate::state) fn pool(&self) -> &PgPool {
        &self.pool
    }
}

impl Problem {
    /// Returns true if the database could not be reached.
    pub(in crate::state) fn is_unreachable(&self) -> bool {
        matches!(self, Problem::Unreachable(_))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Unreachable(problem) | Problem::Refused(problem) => f.write_str(problem),
        }
    }
}

/// Host, port and name of the database, without the user.
impl fmt::Display for PostgresDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.options;
        let database = options.get_database().unwrap_or("(default)");
        match options.get_socket() {
            Some(socket) => write!(f, "PostgreSQL database {database} at {}", socket.display()),
            None => write!(f, "PostgreSQL database {database} at {}:{}", options.get_host(), options.get_port()),
        }
    }
}

impl fmt::Debug for PostgresDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn parse(url: &PostgresUrl) -> Result<PgConnectOptions, SetupError> {
    PgConnectOptions::from_str(url.secret()).map_err(|error| SetupError::State(format!("state.url: {url}: {error}")))
}

/// Returns the options with the password in this file, if there is one.
fn with_password(options: &PgConnectOptions, file: Option<&Path>) -> Result<PgConnectOptions, SetupError> {
    let Some(file) = file else { return Ok(options.clone()) };
    let password = std::fs::read_to_string(file).map_err(|error| {
        SetupError::State(format!("state.password_file: {} cannot be read: {error}", file.display()))
    })?;
    Ok(options.clone().password(password.trim_end_matches(['\r', '\n'])))
}

/// Creates the tables in one transaction, or fails if they are of a later version of Leeway.
async fn create_tables(pool: &PgPool) -> sqlx::Result<()> {
    let mut connection = pool.acquire().await?;
    let is_there: bool = sqlx::query_scalar("SELECT to_regclass('leeway_rollout_counts') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?;
    if !is_there {
        let mut transaction = connection.begin().await?;
        // Servers that start at the same time wait for each other.
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *transaction).await?;
        for table in TABLES {
            transaction.execute(table).await?;
        }
        sqlx::query("INSERT INTO leeway_schema SELECT $1 WHERE NOT EXISTS (SELECT FROM leeway_schema)")
            .bind(SCHEMA)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
    }
    let schema: i32 = sqlx::query_scalar("SELECT version FROM leeway_schema").fetch_one(&mut *connection).await?;
    if schema > SCHEMA {
        return Err(sqlx::Error::Configuration(
            format!(
                "its tables were created by a later version of Leeway (schema {schema}; this version knows {SCHEMA})"
            )
            .into(),
        ));
    }
    Ok(())
}

/// Waits for an operation until the timeout, and classifies its error.
async fn within<T>(operation: impl Future<Output = sqlx::Result<T>>) -> Result<T, Problem> {
    match tokio::time::timeout(TIMEOUT, operation).await {
        Ok(result) => result.map_err(problem),
        Err(_) => Err(Problem::Unreachable(format!("no answer for {} s", TIMEOUT.as_secs()))),
    }
}

/// Classifies an error. Codes: PostgreSQL, Appendix A.
#[expect(clippy::needless_pass_by_value, reason = "as map_err hands it over")]
fn problem(error: sqlx::Error) -> Problem {
    match &error {
        sqlx::Error::Database(refusal) => {
            let message = refusal.message().to_owned();
            // Classes 08 (connection), 57P (shut down, or not ready yet), 53 (too many connections, no space), and 40 (an
            // operation to try again), 25006 (read-only: a standby before its promotion).
            match refusal.code().as_deref() {
                Some(code)
                    if ["08", "57P", "53", "40", "25006", "57014", "55P03"].iter().any(|c| code.starts_with(c)) =>
                {
                    Problem::Unreachable(message)
                }
                _ => Problem::Refused(message),
            }
        }
        sqlx::Error::Configuration(problem) => Problem::Refused(problem.to_string()),
        // A certificate that is not trusted.
        sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            Problem::Refused(format!("TLS: {error}"))
        }
        sqlx::Error::Tls(problem) => Problem::Refused(format!("TLS: {problem}")),
        sqlx::Error::PoolTimedOut => Problem::Unreachable(format!("no connection within {} s", TIMEOUT.as_secs())),
        other => Problem::Unreachable(other.to_string()),
    }
}
