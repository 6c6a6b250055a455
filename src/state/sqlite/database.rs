//! The SQLite file of the state: its only connection, and the version of its schema.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::sqlite::{Sqlite, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions};

use super::file::StateFile;
use crate::error::{Result, SetupError};
use crate::machine::may_be_written;

/// Timeout of waiting for a write of another process to the same file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Version of the schema. A file with a later version is not touched.
const FORM: i64 = 1;

/// The tables of schema version 1. Files of early versions of Leeway do not have all of them.
const TABLES: [&str; 7] = [
    "CREATE TABLE IF NOT EXISTS deployments (
        model      TEXT    NOT NULL,
        generation INTEGER NOT NULL,
        deployment TEXT    NOT NULL,
        PRIMARY KEY (model, generation)
    ) STRICT",
    "CREATE TABLE IF NOT EXISTS feedback_keys (id INTEGER PRIMARY KEY CHECK (id = 1), key TEXT NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS feedback_items (
        seq  INTEGER PRIMARY KEY AUTOINCREMENT,
        item INTEGER NOT NULL UNIQUE,
        said INTEGER
    ) STRICT",
    "CREATE TABLE IF NOT EXISTS replicas (id TEXT PRIMARY KEY, report TEXT NOT NULL, seen_at REAL NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS rollouts (
        model    TEXT    NOT NULL,
        number   INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        record   TEXT    NOT NULL,
        PRIMARY KEY (model, number)
    ) STRICT",
    "CREATE TABLE IF NOT EXISTS rollout_counts (
        model   TEXT    NOT NULL,
        number  INTEGER NOT NULL,
        process TEXT    NOT NULL,
        counts  TEXT    NOT NULL,
        PRIMARY KEY (model, number, process)
    ) STRICT",
    "CREATE TABLE IF NOT EXISTS rollout_leader (
        id INTEGER PRIMARY KEY CHECK (id = 1), process TEXT NOT NULL, until REAL NOT NULL
    ) STRICT",
];

/// An open state file.
#[derive(Debug)]
pub(in crate::state) struct Database {
    pub(in crate::state) path: PathBuf,
    file: StateFile,
    pub(in crate::state) pool: SqlitePool,
}

/// Durability of a write to the state file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::state) enum Durability {
    /// The write survives a crash of the process or of the machine: SQLite syncs its log before the write returns.
    Full,
    /// The write survives a crash of the process, but may be lost if the machine crashes.
    Process,
}

impl Database {
    /// Opens the state file, and creates it if it does not exist.
    pub(in crate::state) async fn open(path: &Path) -> Result<Database, SetupError> {
        check_file(path)?;
        let wrong = |problem: String| cannot_be_opened(path, &problem);
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|error| wrong(error.to_string()))?;
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .busy_timeout(BUSY_TIMEOUT);
        let pool = one_connection(options).await.map_err(|error| wrong(said(&error)))?;
        check_form(path, &pool).await?;
        set_up(&pool).await.map_err(|error| wrong(said(&error)))?;
        Database::of(path, pool)
    }

    /// Opens a state file for reading only, because it cannot be written.
    pub(in crate::state) async fn read_only(path: &Path) -> Result<Database, SetupError> {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        // Without a log, the file itself is complete. With a log, SQLite has to read both.
        let has_log = std::fs::metadata(PathBuf::from(log)).is_ok_and(|log| log.len() > 0);
        let options = SqliteConnectOptions::new().filename(path).read_only(true).immutable(!has_log);
        let pool = one_connection(options).await.map_err(|error| cannot_be_opened(path, &said(&error)))?;
        check_form(path, &pool).await?;
        Database::of(path, pool)
    }

    fn of(path: &Path, pool: SqlitePool) -> Result<Database, SetupError> {
        let file = StateFile::opened(path).map_err(|error| cannot_be_opened(path, &error.to_string()))?;
        Ok(Database { path: path.to_owned(), file, pool })
    }

    /// Returns the connection, set to write with this durability.
    pub(in crate::state) async fn connection(&self, durability: Durability) -> sqlx::Result<PoolConnection<Sqlite>> {
        let mut connection = self.pool.acquire().await?;
        let pragma = match durability {
            Durability::Full => "PRAGMA synchronous = FULL",
            Durability::Process => "PRAGMA synchronous = NORMAL",
        };
        sqlx::query(pragma).execute(&mut *connection).await?;
        Ok(connection)
    }

    /// Fails if the file at the path is no longer the open one: writes would be lost.
    pub(in crate::state) async fn check_file(&self) -> Result<(), String> {
        self.file.check().await
    }
}

/// Opens the only connection to the state file: writes wait for each other anyway, and reads are few. It stays open,
/// because a reopened file might be a different one.
async fn one_connection(options: SqliteConnectOptions) -> sqlx::Result<SqlitePool> {
    let pool = SqlitePoolOptions::new().max_connections(1).acquire_timeout(BUSY_TIMEOUT * 2);
    pool.max_lifetime(None).idle_timeout(None).connect_with(options).await
}

async fn form(pool: &SqlitePool) -> sqlx::Result<i64> {
    sqlx::query_scalar("PRAGMA user_version").fetch_one(pool).await
}

/// Refuses a file with a later schema version. A new file has version 0.
async fn check_form(path: &Path, pool: &SqlitePool) -> Result<(), SetupError> {
    let form = form(pool).await.map_err(|error| cannot_be_opened(path, &said(&error)))?;
    if form > FORM {
        let problem = format!("it was written by a later version of Leeway (schema {form}; this version knows {FORM})");
        return Err(cannot_be_opened(path, &problem));
    }
    Ok(())
}

async fn set_up(pool: &SqlitePool) -> sqlx::Result<()> {
    let is_new = form(pool).await? == 0;
    let newest: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM pragma_table_info('feedback_items') WHERE name = 'said')
              + (SELECT count(*) FROM pragma_table_info('replicas') WHERE name = 'seen_at')
              + (SELECT count(*) FROM pragma_table_info('rollout_leader') WHERE name = 'until')",
    )
    .fetch_one(pool)
    .await?;
    if !is_new && newest == 3 {
        return Ok(());
    }
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    for table in TABLES {
        sqlx::query(table).execute(&mut *transaction).await?;
    }
    // Tables of early versions, which did not support corrections, lack the column. Another server may have added it.
    let has_said: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pragma_table_info('feedback_items') WHERE name = 'said'")
            .fetch_one(&mut *transaction)
            .await?;
    if has_said == 0 {
        sqlx::query("ALTER TABLE feedback_items ADD COLUMN said INTEGER").execute(&mut *transaction).await?;
    }
    sqlx::query("PRAGMA user_version = 1").execute(&mut *transaction).await?;
    transaction.commit().await
}

/// Checks that the file could be opened and written, as far as possible without touching it.
pub(in crate::state) fn check_file(path: &Path) -> Result<(), SetupError> {
    let wrong = |problem: String| cannot_be_opened(path, &problem);
    let absolute = std::path::absolute(path).map_err(|error| wrong(error.to_string()))?;
    let mut folders = absolute.ancestors().skip(1);
    let own = folders.next();
    if let Some(folder) = own.into_iter().chain(folders).find(|folder| folder.exists()) {
        if !folder.is_dir() {
            return Err(wrong(format!("{} is not a folder", folder.display())));
        }
        // SQLite creates files beside its own.
        may_be_written(folder).map_err(|error| match own {
            Some(missing) if missing != folder => wrong(format!(
                "its folder {} does not exist, and cannot be created in {}: {error}",
                missing.display(),
                folder.display()
            )),
            _ => wrong(format!("{}: {error}", folder.display())),
        })?;
    }
    if path.exists() {
        may_be_written(path).map_err(|error| wrong(error.to_string()))?;
    }
    Ok(())
}

fn cannot_be_opened(path: &Path, problem: &str) -> SetupError {
    SetupError::State(format!(
        "state.url: the deployment journal {} cannot be opened: {problem}; make the folder writable, name another file, or \
         set state.url = \"memory\" to start empty every time",
        path.display()
    ))
}

/// Returns SQLite's own message in an error of `sqlx`, without the context that `sqlx` adds.
pub(in crate::state) fn said(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}
