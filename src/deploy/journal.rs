//! The deployment journal: every deployment there was, in order. The only file with SQL.
//!
//! It is only ever added to, and each deployment has the number after the one before it: of two that are decided on the
//! same state, one is written and the other is told what there is now. What was written survives the process and the
//! machine: SQLite syncs it to the disk before it says so.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use tokio::sync::OnceCell;

use super::deployment::Deployment;
use super::state_file::{Checks, StateFile};
use crate::config::StateUrl;
use crate::error::{Error, Result};
use crate::identity::{ModelName, printable};
use crate::registry::may_be_written;

/// Time for which a write waits for another process that writes.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The form of the tables. A journal of a later form is not touched.
const SCHEMA: i64 = 1;

/// Keeps deployments. Behind a trait, because several servers may share one that is elsewhere.
#[async_trait]
pub trait Journal: Debug + Send + Sync {
    /// The present deployment of every model.
    async fn latest(&self) -> Result<Vec<Deployment>>;

    /// Adds a deployment, if its generation is the one after the present one. When this returns, it is there to stay.
    async fn append(&self, next: &Deployment) -> Result<Appended>;

    /// Deployments of a model before this generation, the newest first.
    async fn history(&self, model: &ModelName, before: u64, limit: u32) -> Result<Vec<Deployment>>;
}

/// Result of adding a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended {
    /// It is the present one now.
    Written,
    /// Somebody else was faster: this is the present one.
    Lost(Option<Deployment>),
}

/// Opens the journal at this address. A journal on a full or read-only disk is opened for reading.
pub async fn open(url: &StateUrl) -> Result<Arc<dyn Journal>> {
    let StateUrl::Sqlite(path) = url else { return Ok(Arc::new(MemoryJournal::default())) };
    let opened = SqliteJournal::open(path).await;
    let Err(problem) = writable(path).await else { return Ok(Arc::new(opened?)) };
    if let Ok(journal) = opened {
        tracing::warn!(journal = %path.display(), problem, "the deployment journal cannot be written now");
        return Ok(Arc::new(journal));
    }
    let latest = match path.exists() {
        true => SqliteJournal::read_only(path).await?.latest().await?,
        false => Vec::new(),
    };
    tracing::warn!(
        journal = %path.display(), problem, deployments = latest.len(),
        "the deployment journal can only be read; what it says is served, and nothing is written until that works again"
    );
    let (path, latest) = (path.clone(), MemoryJournal::with(latest));
    Ok(Arc::new(FrozenJournal { path, latest, problem, checks: Checks::default(), thawed: OnceCell::new() }))
}

// ===== in memory =====

/// The deployments of a model that are kept in memory; older ones are forgotten.
const KEPT_IN_MEMORY: usize = 1_000;

/// A journal that is gone with the process.
#[derive(Debug, Default)]
pub struct MemoryJournal(Mutex<BTreeMap<ModelName, VecDeque<Deployment>>>);

impl MemoryJournal {
    /// A journal that begins with these deployments.
    pub fn with(latest: Vec<Deployment>) -> MemoryJournal {
        MemoryJournal(Mutex::new(latest.into_iter().map(|latest| (latest.model.clone(), [latest].into())).collect()))
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn latest(&self) -> Result<Vec<Deployment>> {
        Ok(self.0.lock().values().filter_map(|deployments| deployments.back().cloned()).collect())
    }

    async fn append(&self, next: &Deployment) -> Result<Appended> {
        let mut models = self.0.lock();
        let deployments = models.entry(next.model.clone()).or_default();
        if deployments.back().map_or(0, |last| last.generation) + 1 != next.generation {
            return Ok(Appended::Lost(deployments.back().cloned()));
        }
        deployments.push_back(next.clone());
        if deployments.len() > KEPT_IN_MEMORY {
            deployments.pop_front();
        }
        Ok(Appended::Written)
    }

    async fn history(&self, model: &ModelName, before: u64, limit: u32) -> Result<Vec<Deployment>> {
        let models = self.0.lock();
        let newest_first = models.get(model).into_iter().flatten().rev();
        Ok(newest_first.filter(|deployment| deployment.generation < before).take(limit as usize).cloned().collect())
    }
}

// ===== of a disk that cannot be written =====

/// A journal that could only be read when the server started. Each write tries to open it again.
#[derive(Debug)]
struct FrozenJournal {
    path: PathBuf,
    latest: MemoryJournal,
    problem: String,
    checks: Checks,
    thawed: OnceCell<SqliteJournal>,
}

impl FrozenJournal {
    /// The journal itself, once its disk can be written.
    async fn thaw(&self) -> Result<&SqliteJournal> {
        let open = async || match is_writable(&self.path, &self.checks).await {
            Ok(()) => SqliteJournal::open(&self.path).await.map_err(|error| Error::Journal(error.to_string())),
            Err(_) => Err(Error::Journal(format!(
                "it could only be read when the server was started ({}), and that is still so",
                self.problem
            ))),
        };
        self.thawed.get_or_try_init(open).await
    }
}

#[async_trait]
impl Journal for FrozenJournal {
    async fn latest(&self) -> Result<Vec<Deployment>> {
        match self.thawed.get() {
            Some(journal) => journal.latest().await,
            None => self.latest.latest().await,
        }
    }

    async fn append(&self, next: &Deployment) -> Result<Appended> {
        self.thaw().await?.append(next).await
    }

    async fn history(&self, model: &ModelName, before: u64, limit: u32) -> Result<Vec<Deployment>> {
        match self.thawed.get() {
            Some(journal) => journal.history(model, before, limit).await,
            None => self.latest.history(model, before, limit).await,
        }
    }
}

// ===== in SQLite =====

/// A journal in an SQLite file.
#[derive(Debug)]
pub struct SqliteJournal {
    path: PathBuf,
    file: StateFile,
    pool: SqlitePool,
}

impl SqliteJournal {
    /// Opens the file, and makes it if it is not there.
    pub async fn open(path: &Path) -> Result<SqliteJournal> {
        check_file(path)?;
        let wrong = |problem: String| cannot_be_opened(path, &problem);
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|error| wrong(error.to_string()))?;
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // In this mode SQLite syncs the log before a transaction is over; without it, only now and then.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(TIMEOUT);
        let pool = one_connection(options).await.map_err(|error| wrong(said(&error)))?;
        set_up(&pool).await.map_err(|error| wrong(said(&error)))?;
        SqliteJournal::of(path, pool).await
    }

    /// Opens a file that cannot be written.
    async fn read_only(path: &Path) -> Result<SqliteJournal> {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        // Without a log, the file itself is complete. With a log, SQLite has to read both.
        let has_log = std::fs::metadata(PathBuf::from(log)).is_ok_and(|log| log.len() > 0);
        let options = SqliteConnectOptions::new().filename(path).read_only(true).immutable(!has_log);
        let pool = one_connection(options).await.map_err(|error| cannot_be_opened(path, &said(&error)))?;
        SqliteJournal::of(path, pool).await
    }

    async fn of(path: &Path, pool: SqlitePool) -> Result<SqliteJournal> {
        let wrong = |problem: String| cannot_be_opened(path, &problem);
        let file = StateFile::opened(path).map_err(|error| wrong(error.to_string()))?;
        let journal = SqliteJournal { path: path.to_owned(), file, pool };
        let schema = journal.schema().await.map_err(|error| wrong(said(&error)))?;
        if schema != SCHEMA {
            return Err(wrong(format!(
                "it was written by a later Leeway (form {schema}, and this one knows {SCHEMA})"
            )));
        }
        Ok(journal)
    }

    async fn schema(&self) -> sqlx::Result<i64> {
        schema(&self.pool).await
    }

    async fn check_file(&self) -> Result<()> {
        self.file.check().await.map_err(Error::Journal)
    }

    async fn latest_of(&self, model: &ModelName) -> Result<Option<Deployment>> {
        Ok(self.history(model, u64::MAX, 1).await?.pop())
    }
}

#[async_trait]
impl Journal for SqliteJournal {
    async fn latest(&self) -> Result<Vec<Deployment>> {
        // SQLite gives the other columns of the row that has the maximum.
        let rows: Vec<(String, String, i64)> =
            sqlx::query_as("SELECT model, deployment, max(generation) FROM deployments GROUP BY model ORDER BY model")
                .fetch_all(&self.pool)
                .await
                .map_err(|error| cannot_be_read(&self.path, &said(&error), None))?;
        let read = |(model, text, generation): &(String, String, i64)| {
            serde_json::from_str(text).map_err(|error| {
                let (model, generation) = (printable(model, 64), *generation);
                let problem = format!("generation {generation} of model {model}: {error}");
                let remove = format!("DELETE FROM deployments WHERE model = '{model}' AND generation = {generation}");
                cannot_be_read(&self.path, &problem, Some(&remove))
            })
        };
        rows.iter().map(read).collect()
    }

    async fn append(&self, next: &Deployment) -> Result<Appended> {
        self.check_file().await?;
        let text = serde_json::to_string(next).map_err(Error::internal)?;
        let generation = number(next.generation);
        let written = sqlx::query(
            "INSERT INTO deployments (model, generation, deployment)
             SELECT ?1, ?2, ?3
             WHERE (SELECT coalesce(max(generation), 0) FROM deployments WHERE model = ?1) = ?2 - 1",
        )
        .bind(next.model.as_str())
        .bind(generation)
        .bind(text)
        .execute(&self.pool)
        .await
        .map_err(failed)?;
        match written.rows_affected() {
            1 => {
                // Only what is in the file at the path is durable.
                self.check_file().await?;
                Ok(Appended::Written)
            }
            _ => Ok(Appended::Lost(self.latest_of(&next.model).await?)),
        }
    }

    async fn history(&self, model: &ModelName, before: u64, limit: u32) -> Result<Vec<Deployment>> {
        let rows: Vec<(String,)> = sqlx::query_as(
            "SELECT deployment FROM deployments WHERE model = ? AND generation < ? ORDER BY generation DESC LIMIT ?",
        )
        .bind(model.as_str())
        .bind(number(before))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .map_err(failed)?;
        rows.iter().map(|(text,)| parse(text)).collect()
    }
}

/// Opens the only connection of a journal: writes wait for each other anyway, and reads are few. It stays open, because
/// a file that is opened again might be another one.
async fn one_connection(options: SqliteConnectOptions) -> sqlx::Result<SqlitePool> {
    let pool = SqlitePoolOptions::new().max_connections(1).acquire_timeout(TIMEOUT * 2);
    pool.max_lifetime(None).idle_timeout(None).connect_with(options).await
}

async fn schema(pool: &SqlitePool) -> sqlx::Result<i64> {
    sqlx::query_scalar("PRAGMA user_version").fetch_one(pool).await
}

async fn set_up(pool: &SqlitePool) -> sqlx::Result<()> {
    if schema(pool).await? != 0 {
        return Ok(());
    }
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query(
        "CREATE TABLE IF NOT EXISTS deployments (
            model      TEXT    NOT NULL,
            generation INTEGER NOT NULL,
            deployment TEXT    NOT NULL,
            PRIMARY KEY (model, generation)
        ) STRICT",
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query("PRAGMA user_version = 1").execute(&mut *transaction).await?;
    transaction.commit().await
}

/// Checks that the disk has room for a file here. Other problems with the path show when the file is opened.
pub(crate) async fn writable(path: &Path) -> Result<(), String> {
    is_writable(path, &Checks::default()).await
}

async fn is_writable(path: &Path, checks: &Checks) -> Result<(), String> {
    let path = path.to_owned();
    match checks.run(move || try_to_write(&path)).await? {
        Ok(()) => Ok(()),
        Err(error) => disk_problem(&error).map_or(Ok(()), Err),
    }
}

/// Returns the problem if an operator has to make room, or the disk writable; `None` if the error is of another kind.
fn disk_problem(error: &io::Error) -> Option<String> {
    let problem = match error.kind() {
        io::ErrorKind::StorageFull => "its disk is full",
        io::ErrorKind::QuotaExceeded => "its disk quota is used up",
        io::ErrorKind::ReadOnlyFilesystem => "its disk is read-only",
        _ => return None,
    };
    Some(problem.to_owned())
}

/// Writes and removes a file as large as the index that SQLite creates beside its own file.
fn try_to_write(path: &Path) -> io::Result<()> {
    const INDEX: usize = 32 << 10;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new().prefix(".leeway-").tempfile_in(folder)?;
    file.write_all(&[0; INDEX])?;
    file.flush()
}

/// Checks that the journal at this address could be opened and written, as far as that can be seen without touching it.
pub fn check_access(url: &StateUrl) -> Result<()> {
    match url {
        StateUrl::Memory => Ok(()),
        StateUrl::Sqlite(path) => check_file(path),
    }
}

fn check_file(path: &Path) -> Result<()> {
    let wrong = |problem: String| cannot_be_opened(path, &problem);
    let absolute = std::path::absolute(path).map_err(|error| wrong(error.to_string()))?;
    let mut folders = absolute.ancestors().skip(1);
    let own = folders.next();
    if let Some(folder) = own.into_iter().chain(folders).find(|folder| folder.exists()) {
        if !folder.is_dir() {
            return Err(wrong(format!("{} is not a folder", folder.display())));
        }
        // SQLite makes files beside its own.
        may_be_written(folder).map_err(|error| match own {
            Some(missing) if missing != folder => wrong(format!(
                "its folder {} is not there, and cannot be made in {}: {error}",
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

fn cannot_be_opened(path: &Path, problem: &str) -> Error {
    Error::State(format!(
        "state.url: the deployment journal {} cannot be opened: {problem}; make the folder writable, name another file, or \
         set state.url = \"memory\" to begin anew at every start",
        path.display()
    ))
}

/// The error about unreadable content of the journal, with the ways out.
fn cannot_be_read(path: &Path, problem: &str, remove: Option<&str>) -> Error {
    let file = path.display();
    let or_remove =
        remove.map(|remove| format!(", or go back by one: sqlite3 {file} \"{remove}\"")).unwrap_or_default();
    Error::State(format!(
        "state.url: the deployment journal {file} cannot be read: {problem}; restore the file from a copy{or_remove}, or move it \
         away to begin anew with the highest version of each model"
    ))
}

fn parse(text: &str) -> Result<Deployment> {
    serde_json::from_str(text).map_err(|error| Error::Journal(format!("a deployment in it cannot be read: {error}")))
}

fn number(generation: u64) -> i64 {
    i64::try_from(generation).unwrap_or(i64::MAX)
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err hands it over")]
fn failed(error: sqlx::Error) -> Error {
    Error::Journal(said(&error))
}

/// Message of SQLite, without its context.
fn said(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::deployment::{ChangeNote, Transition};
    use super::*;

    fn first() -> Deployment {
        Deployment::first("digits".parse().unwrap(), "1".parse().unwrap(), Timestamp::UNIX_EPOCH)
    }

    fn promoted(from: &Deployment, version: &str) -> Deployment {
        let note = ChangeNote { by: "a test".to_owned(), reason: String::new(), at: Timestamp::UNIX_EPOCH };
        from.after(&Transition::Promote(version.parse().unwrap()), &note).unwrap().unwrap()
    }

    async fn check(journal: &dyn Journal) {
        let one = first();
        assert_eq!(journal.append(&one).await.unwrap(), Appended::Written);
        let (two, other) = (promoted(&one, "2"), promoted(&one, "3"));
        assert_eq!(journal.append(&two).await.unwrap(), Appended::Written);
        assert_eq!(journal.append(&other).await.unwrap(), Appended::Lost(Some(two.clone())));
        assert_eq!(
            journal.append(&promoted(&promoted(&two, "4"), "5")).await.unwrap(),
            Appended::Lost(Some(two.clone()))
        );
        assert_eq!(journal.latest().await.unwrap(), std::slice::from_ref(&two));
        assert_eq!(journal.history(&one.model, u64::MAX, 10).await.unwrap(), [two.clone(), one.clone()]);
        assert_eq!(journal.history(&one.model, 2, 10).await.unwrap(), std::slice::from_ref(&one));
        assert_eq!(journal.history(&one.model, u64::MAX, 1).await.unwrap(), [two]);
        assert_eq!(journal.history(&"other".parse().unwrap(), u64::MAX, 1).await.unwrap(), []);
    }

    #[tokio::test]
    async fn the_faster_one_is_written_and_the_other_is_told() {
        check(&MemoryJournal::default()).await;
        let folder = tempfile::tempdir().unwrap();
        check(&SqliteJournal::open(&folder.path().join("new/journal.db")).await.unwrap()).await;
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_quota_that_is_used_up_is_a_full_disk() {
        let check = |code: i32, expected: Option<&str>| {
            assert_eq!(disk_problem(&io::Error::from_raw_os_error(code)).as_deref(), expected);
        };
        // ENOSPC, EDQUOT, EROFS; EACCES.
        check(28, Some("its disk is full"));
        check(122, Some("its disk quota is used up"));
        check(30, Some("its disk is read-only"));
        check(13, None);
    }

    #[tokio::test]
    async fn in_memory_the_oldest_are_forgotten() {
        let journal = MemoryJournal::default();
        let mut deployment = first();
        for change in 0..KEPT_IN_MEMORY + 10 {
            journal.append(&deployment).await.unwrap();
            deployment = promoted(&deployment, if change % 2 == 0 { "2" } else { "3" });
        }
        let kept = journal.history(&deployment.model, u64::MAX, u32::MAX).await.unwrap();
        let generations = [kept[0].generation, kept[kept.len() - 1].generation];
        assert_eq!(generations, [KEPT_IN_MEMORY as u64 + 10, 11]);
    }

    #[tokio::test]
    async fn what_was_written_is_there_when_it_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        SqliteJournal::open(&path).await.unwrap().append(&first()).await.unwrap();
        assert_eq!(SqliteJournal::open(&path).await.unwrap().latest().await.unwrap(), [first()]);
    }

    #[tokio::test]
    async fn what_would_not_last_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        let journal = SqliteJournal::open(&path).await.unwrap();
        journal.append(&first()).await.unwrap();
        let kept = folder.path().join("kept.db");
        std::fs::rename(&path, &kept).unwrap();
        let two = promoted(&first(), "2");
        let error = journal.append(&two).await.unwrap_err().to_string();
        assert!(error.contains("is not there any more"), "{error}");
        std::fs::write(&path, "another").unwrap();
        let error = journal.append(&two).await.unwrap_err().to_string();
        assert!(error.contains("is another one now"), "{error}");
        // Once the file is back, writing works again, and nothing was written meanwhile.
        std::fs::rename(&kept, &path).unwrap();
        assert_eq!(journal.append(&two).await.unwrap(), Appended::Written);
    }

    #[tokio::test]
    async fn a_deployment_that_cannot_be_read_names_the_file_and_ways_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        let journal = SqliteJournal::open(&path).await.unwrap();
        journal.append(&first()).await.unwrap();
        sqlx::query("UPDATE deployments SET deployment = '{\"model\"'").execute(&journal.pool).await.unwrap();
        let error = journal.latest().await.unwrap_err().to_string();
        let file = path.display();
        assert!(
            error.starts_with(&format!(
                "state.url: the deployment journal {file} cannot be read: generation 1 of model digits: EOF"
            )),
            "{error}"
        );
        assert!(error.contains("restore the file from a copy") && error.contains("move it away"), "{error}");
        assert!(
            error.contains(&format!(
                "sqlite3 {file} \"DELETE FROM deployments WHERE model = 'digits' AND generation = 1\""
            )),
            "{error}"
        );
    }

    /// A journal on a read-only disk is read completely, with and without changes that are only in its log.
    #[tokio::test]
    async fn a_journal_that_cannot_be_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        let journal = SqliteJournal::open(&path).await.unwrap();
        journal.append(&first()).await.unwrap();
        assert_eq!(SqliteJournal::read_only(&path).await.unwrap().latest().await.unwrap(), [first()]);
        journal.pool.close().await;
        assert_eq!(SqliteJournal::read_only(&path).await.unwrap().latest().await.unwrap(), [first()]);
        let frozen = |path: PathBuf| FrozenJournal {
            path,
            latest: MemoryJournal::with(vec![first()]),
            problem: "its disk is full".to_owned(),
            checks: Checks::default(),
            thawed: OnceCell::new(),
        };
        let nowhere = frozen("/proc/leeway/journal.db".into());
        assert_eq!(nowhere.latest().await.unwrap(), [first()]);
        let second = promoted(&first(), "2");
        assert!(matches!(nowhere.append(&second).await, Err(Error::Journal(_))));
        // There is room again.
        let thawed = frozen(path.clone());
        assert_eq!(thawed.append(&second).await.unwrap(), Appended::Written);
        assert_eq!(thawed.latest().await.unwrap(), std::slice::from_ref(&second));
        assert_eq!(SqliteJournal::open(&path).await.unwrap().latest().await.unwrap(), [second]);
    }

    #[tokio::test]
    async fn a_file_that_is_no_journal_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        std::fs::write(&path, "this is not a database, but it is long enough to look at").unwrap();
        let error = SqliteJournal::open(&path).await.unwrap_err().to_string();
        assert!(error.contains("state.url") && error.contains("not a database"), "{error}");
        let later = folder.path().join("later.db");
        let journal = SqliteJournal::open(&later).await.unwrap();
        sqlx::query("PRAGMA user_version = 2").execute(&journal.pool).await.unwrap();
        drop(journal);
        let error = SqliteJournal::open(&later).await.unwrap_err().to_string();
        assert!(error.contains("written by a later Leeway"), "{error}");
    }
}
