//! The deployment journal: every deployment there was, in order. The only file with SQL.
//!
//! It is only ever added to, and each deployment has the number after the one before it: of two that are decided on the
//! same state, one is written and the other is told what there is now. What was written survives the process and the
//! machine: SQLite syncs it to the disk before it says so.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};

use super::deployment::Deployment;
use crate::config::StateUrl;
use crate::error::{Error, Result};
use crate::identity::ModelName;
use crate::registry::may_be_written;

/// How long a write waits for another process that writes.
const PATIENCE: Duration = Duration::from_secs(5);

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

/// What came of adding a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended {
    /// It is the present one now.
    Written,
    /// Somebody else was faster: this is the present one.
    Lost(Option<Deployment>),
}

/// The journal at this address.
pub async fn open(url: &StateUrl) -> Result<Arc<dyn Journal>> {
    Ok(match url {
        StateUrl::Memory => Arc::new(MemoryJournal::default()),
        StateUrl::Sqlite(path) => Arc::new(SqliteJournal::open(path).await?),
    })
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

// ===== in SQLite =====

/// A journal in an SQLite file.
#[derive(Debug)]
pub struct SqliteJournal {
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
            .busy_timeout(PATIENCE);
        // One connection: writes wait for each other anyway, and reads are few.
        let pool = SqlitePoolOptions::new().max_connections(1).acquire_timeout(PATIENCE * 2);
        let pool = pool.connect_with(options).await.map_err(|error| wrong(said(&error)))?;
        let journal = SqliteJournal { pool };
        journal.set_up().await.map_err(|error| wrong(said(&error)))?;
        let schema = journal.schema().await.map_err(|error| wrong(said(&error)))?;
        if schema != SCHEMA {
            return Err(wrong(format!(
                "it was written by a later Leeway (form {schema}, and this one knows {SCHEMA})"
            )));
        }
        Ok(journal)
    }

    async fn set_up(&self) -> sqlx::Result<()> {
        if self.schema().await? != 0 {
            return Ok(());
        }
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
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

    async fn schema(&self) -> sqlx::Result<i64> {
        sqlx::query_scalar("PRAGMA user_version").fetch_one(&self.pool).await
    }

    async fn latest_of(&self, model: &ModelName) -> Result<Option<Deployment>> {
        Ok(self.history(model, u64::MAX, 1).await?.pop())
    }
}

#[async_trait]
impl Journal for SqliteJournal {
    async fn latest(&self) -> Result<Vec<Deployment>> {
        // SQLite gives the other columns of the row that has the maximum.
        let rows: Vec<(String, i64)> =
            sqlx::query_as("SELECT deployment, max(generation) FROM deployments GROUP BY model ORDER BY model")
                .fetch_all(&self.pool)
                .await
                .map_err(failed)?;
        rows.iter().map(|(text, _)| parse(text)).collect()
    }

    async fn append(&self, next: &Deployment) -> Result<Appended> {
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
            1 => Ok(Appended::Written),
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

/// Whether the journal at this address could be opened and written, as far as that can be seen without touching it.
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

fn parse(text: &str) -> Result<Deployment> {
    serde_json::from_str(text).map_err(|error| Error::Journal(format!("a line of it cannot be read: {error}")))
}

fn number(generation: u64) -> i64 {
    i64::try_from(generation).unwrap_or(i64::MAX)
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err hands it over")]
fn failed(error: sqlx::Error) -> Error {
    Error::Journal(said(&error))
}

/// What SQLite said, without what is around it.
fn said(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::deployment::{Note, Wish};
    use super::*;

    fn first() -> Deployment {
        Deployment::first("digits".parse().unwrap(), "1".parse().unwrap(), Timestamp::UNIX_EPOCH)
    }

    fn promoted(from: &Deployment, version: &str) -> Deployment {
        let note = Note { by: "a test".to_owned(), reason: String::new(), at: Timestamp::UNIX_EPOCH };
        from.after(&Wish::Promote(version.parse().unwrap()), &note).unwrap().unwrap()
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
