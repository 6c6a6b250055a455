//! Ledger of the feedback that was taken, so that nothing is counted twice; and the key that ids are signed with.
//!
//! Kept with the deployments (`state.url`): servers that share a state take each item once between them, and know each
//! other's ids. The memory is bounded; what was said longest ago is forgotten.

use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sha2::Digest;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use uuid::{NoContext, Uuid};

use crate::config::StateUrl;
use crate::deploy::{StateFile, writable};
use crate::error::{Error, Result};

/// Time for which a write waits for another process that writes.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Length of the key, in bytes.
const KEY: usize = 32;

/// One statement about a prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Hash of the prediction and of the subject of the statement: its truth, or one of its metrics.
    pub key: u64,
    /// The statement: the number of a class, or the bits of a number.
    pub said: u64,
    /// True if it may replace an earlier statement.
    pub may_replace: bool,
}

/// Result of recording an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// There was no earlier statement.
    First,
    /// The earlier statement was the same, or is no longer known.
    Same,
    /// The earlier statement was different and has been replaced.
    Replaced {
        /// The earlier statement.
        before: u64,
    },
    /// The earlier statement was different and stays.
    Differs,
}

/// Remembers what has been said.
#[async_trait]
pub trait Ledger: Debug + Send + Sync {
    /// The key that ids are signed with: the same for all that share this ledger.
    async fn key(&self) -> Result<Vec<u8>>;

    /// Records these entries in order, and returns the result of each.
    async fn record(&self, entries: Vec<Entry>) -> Result<Vec<Recorded>>;
}

/// Opens the ledger at this address, which remembers the last `remembered` entries. A ledger on a full or read-only
/// disk refuses all feedback.
pub async fn open_ledger(url: &StateUrl, remembered: NonZeroUsize) -> Result<Arc<dyn Ledger>> {
    let StateUrl::Sqlite(path) = url else { return Ok(Arc::new(MemoryLedger::new(remembered))) };
    let opened = match SqliteLedger::open(path, remembered).await {
        Ok(ledger) => ledger.key().await.map(|_| ledger),
        Err(error) => Err(error),
    };
    match (opened, writable(path).await) {
        (Err(_), Err(problem)) => {
            tracing::warn!(
                state = %path.display(), problem,
                "feedback is refused until the server is restarted, and prediction ids of now are not known after that"
            );
            Ok(Arc::new(ClosedLedger { key: random_key(), problem }))
        }
        (opened, _) => Ok(Arc::new(opened?)),
    }
}

/// 256 bits that nobody can guess: four UUIDs of version 7 have 74 random bits each.
fn random_key() -> Vec<u8> {
    let mut digest = sha2::Sha256::new();
    // Without the clock, which may be wrong.
    let random = || Uuid::new_v7(uuid::Timestamp::from_unix(NoContext, 0, 0));
    (0..4).for_each(|_| digest.update(random().as_bytes()));
    digest.finalize().to_vec()
}

/// Returns the result of an entry, given the earlier statement.
///
/// `known` is `None` if there was no statement, and `Some(None)` if there was one that is no longer known.
fn outcome(entry: Entry, known: Option<Option<u64>>) -> Recorded {
    match known {
        None => Recorded::First,
        Some(None) => Recorded::Same,
        Some(Some(before)) if before == entry.said => Recorded::Same,
        Some(Some(before)) if entry.may_replace => Recorded::Replaced { before },
        Some(Some(_)) => Recorded::Differs,
    }
}

// ===== in memory =====

/// A ledger that is gone with the process.
#[derive(Debug)]
pub struct MemoryLedger {
    key: Vec<u8>,
    remembered: NonZeroUsize,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    said: HashMap<u64, u64>,
    oldest_first: VecDeque<u64>,
}

impl MemoryLedger {
    /// An empty ledger with a key of its own.
    pub fn new(remembered: NonZeroUsize) -> MemoryLedger {
        MemoryLedger { key: random_key(), remembered, known: Mutex::default() }
    }
}

impl Known {
    fn record(&mut self, entry: Entry, remembered: usize) -> Recorded {
        let recorded = outcome(entry, self.said.get(&entry.key).map(|said| Some(*said)));
        match recorded {
            Recorded::Same | Recorded::Differs => return recorded,
            Recorded::First => self.oldest_first.push_back(entry.key),
            Recorded::Replaced { .. } => {}
        }
        self.said.insert(entry.key, entry.said);
        if self.oldest_first.len() > remembered
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.said.remove(&oldest);
        }
        recorded
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn key(&self) -> Result<Vec<u8>> {
        Ok(self.key.clone())
    }

    async fn record(&self, entries: Vec<Entry>) -> Result<Vec<Recorded>> {
        let mut known = self.known.lock();
        Ok(entries.into_iter().map(|entry| known.record(entry, self.remembered.get())).collect())
    }
}

// ===== of a disk that cannot be written =====

/// A ledger that refuses all feedback, because it could not be written when the server started.
#[derive(Debug)]
struct ClosedLedger {
    key: Vec<u8>,
    problem: String,
}

#[async_trait]
impl Ledger for ClosedLedger {
    async fn key(&self) -> Result<Vec<u8>> {
        Ok(self.key.clone())
    }

    async fn record(&self, _: Vec<Entry>) -> Result<Vec<Recorded>> {
        let detail =
            format!("the file at state.url could not be written when the server was started: {}", self.problem);
        Err(Error::FeedbackNotRecorded { detail })
    }
}

// ===== in SQLite =====

/// A ledger in an SQLite file.
#[derive(Debug)]
pub struct SqliteLedger {
    path: PathBuf,
    file: StateFile,
    pool: SqlitePool,
    remembered: i64,
}

impl SqliteLedger {
    /// Opens the file, and makes the tables if they are not there.
    pub async fn open(path: &Path, remembered: NonZeroUsize) -> Result<SqliteLedger> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // The last items may be lost with the machine, and would then count twice if they came again.
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(TIMEOUT);
        // The only connection stays open, because a file that is opened again might be another one.
        let pool = SqlitePoolOptions::new().max_connections(1).acquire_timeout(TIMEOUT * 2);
        let pool = pool.max_lifetime(None).idle_timeout(None);
        let wrong = |error: &sqlx::Error| cannot_be_opened(path, &error.to_string());
        let pool = pool.connect_with(options).await.map_err(|error| wrong(&error))?;
        for table in [
            "CREATE TABLE IF NOT EXISTS feedback_keys (id INTEGER PRIMARY KEY CHECK (id = 1), key TEXT NOT NULL) STRICT",
            "CREATE TABLE IF NOT EXISTS feedback_items (
                seq  INTEGER PRIMARY KEY AUTOINCREMENT,
                item INTEGER NOT NULL UNIQUE,
                said INTEGER
            ) STRICT",
        ] {
            sqlx::query(table).execute(&pool).await.map_err(|error| wrong(&error))?;
        }
        // Tables from before corrections were supported do not have the statements.
        let has_said: i64 =
            sqlx::query_scalar("SELECT count(*) FROM pragma_table_info('feedback_items') WHERE name = 'said'")
                .fetch_one(&pool)
                .await
                .map_err(|error| wrong(&error))?;
        if has_said == 0 {
            let added = sqlx::query("ALTER TABLE feedback_items ADD COLUMN said INTEGER").execute(&pool).await;
            // Another server may have added the column first.
            if let Err(error) = added
                && !error.to_string().contains("duplicate column")
            {
                return Err(wrong(&error));
            }
        }
        let file = StateFile::opened(path).map_err(|error| cannot_be_opened(path, &error.to_string()))?;
        let remembered = i64::try_from(remembered.get()).unwrap_or(i64::MAX);
        Ok(SqliteLedger { path: path.to_owned(), file, pool, remembered })
    }

    async fn try_record(&self, entries: &[Entry]) -> sqlx::Result<Vec<Recorded>> {
        // SQLite's integers are signed; the same bits will do.
        let items: Vec<String> = entries.iter().map(|entry| entry.key.cast_signed().to_string()).collect();
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let known: Vec<(i64, Option<i64>)> =
            sqlx::query_as("SELECT item, said FROM feedback_items WHERE item IN (SELECT value FROM json_each(?))")
                .bind(format!("[{}]", items.join(",")))
                .fetch_all(&mut *transaction)
                .await?;
        let mut known: HashMap<u64, Option<u64>> =
            known.into_iter().map(|(item, said)| (item.cast_unsigned(), said.map(i64::cast_unsigned))).collect();
        let mut changed: Vec<u64> = Vec::new();
        let recorded: Vec<Recorded> = entries
            .iter()
            .map(|entry| {
                let recorded = outcome(*entry, known.get(&entry.key).copied());
                if let Recorded::First | Recorded::Replaced { .. } = recorded {
                    known.insert(entry.key, Some(entry.said));
                    changed.push(entry.key);
                }
                recorded
            })
            .collect();
        let row = |key: &u64| {
            let said = known.get(key).copied().flatten().unwrap_or_default();
            format!("[{},{}]", key.cast_signed(), said.cast_signed())
        };
        let rows: Vec<String> = changed.iter().map(row).collect();
        sqlx::query(
            "INSERT INTO feedback_items (item, said)
                SELECT value ->> 0, value ->> 1 FROM json_each(?) WHERE true ORDER BY key
                ON CONFLICT (item) DO UPDATE SET said = excluded.said",
        )
        .bind(format!("[{}]", rows.join(",")))
        .execute(&mut *transaction)
        .await?;
        sqlx::query("DELETE FROM feedback_items WHERE seq <= (SELECT max(seq) FROM feedback_items) - ?")
            .bind(self.remembered)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(recorded)
    }

    async fn check_file(&self) -> Result<()> {
        self.file.check().await.map_err(|problem| Error::FeedbackNotRecorded { detail: problem })
    }
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn key(&self) -> Result<Vec<u8>> {
        let wrong = |problem: &str| {
            Error::State(format!(
                "state.url: {} has a key that prediction ids are signed with which is none: {problem}; restore the file, or \
                 remove the key with: sqlite3 {} 'DELETE FROM feedback_keys' (ids of before are then not known any more), or \
                 set feedback.key",
                self.path.display(),
                self.path.display()
            ))
        };
        let failed = |error: sqlx::Error| cannot_be_opened(&self.path, &error.to_string());
        let read =
            || sqlx::query_scalar::<_, String>("SELECT key FROM feedback_keys WHERE id = 1").fetch_optional(&self.pool);
        let key = match read().await.map_err(failed)? {
            Some(key) => key,
            None => {
                // If two servers start at the same time, one writes the key, and both read it.
                sqlx::query("INSERT OR IGNORE INTO feedback_keys (id, key) VALUES (1, ?)")
                    .bind(hex::encode(random_key()))
                    .execute(&self.pool)
                    .await
                    .map_err(failed)?;
                read().await.map_err(failed)?.unwrap_or_default()
            }
        };
        match hex::decode(&key) {
            Ok(bytes) if bytes.len() == KEY => Ok(bytes),
            Ok(bytes) => Err(wrong(&format!("it has {} bytes, and not {KEY}", bytes.len()))),
            Err(error) => Err(wrong(&error.to_string())),
        }
    }

    async fn record(&self, entries: Vec<Entry>) -> Result<Vec<Recorded>> {
        self.check_file().await?;
        let recorded = self.try_record(&entries).await;
        let recorded = recorded.map_err(|error| Error::FeedbackNotRecorded { detail: error.to_string() })?;
        // Only what is in the file at the path is durable.
        self.check_file().await?;
        Ok(recorded)
    }
}

fn cannot_be_opened(path: &Path, problem: &str) -> Error {
    Error::State(format!("state.url: the feedback in {} cannot be read or written: {problem}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records these keys. Returns true for each that was recorded for the first time.
    async fn first_time(ledger: &dyn Ledger, keys: &[u64]) -> Vec<bool> {
        let entries = keys.iter().map(|key| Entry { key: *key, said: 7, may_replace: false }).collect();
        ledger.record(entries).await.unwrap().iter().map(|recorded| *recorded == Recorded::First).collect()
    }

    async fn check(ledger: &dyn Ledger) {
        assert_eq!(first_time(ledger, &[1, u64::MAX, 1]).await, [true, true, false]);
        assert_eq!(first_time(ledger, &[u64::MAX, 2]).await, [false, true]);
        assert_eq!(first_time(ledger, &[]).await, [false; 0]);
        // Three are remembered: the oldest is forgotten for a fourth.
        assert_eq!(first_time(ledger, &[3]).await, [true]);
        assert_eq!(first_time(ledger, &[2, 3, u64::MAX]).await, [false; 3]);
        assert_eq!(first_time(ledger, &[1]).await, [true]);
    }

    /// A statement is remembered exactly, and a later one replaces it if it may.
    async fn check_corrections(ledger: &dyn Ledger) {
        let entry = |said: f64, may_replace| Entry { key: 1, said: said.to_bits(), may_replace };
        let before = |said: f64| Recorded::Replaced { before: said.to_bits() };
        let said = vec![
            entry(-1.5, true),
            entry(-1.5, true),
            entry(2.0, false),
            entry(2.0, true),
            entry(f64::MAX, true),
            entry(-1.5, true),
        ];
        let expected =
            [Recorded::First, Recorded::Same, Recorded::Differs, before(-1.5), before(2.0), before(f64::MAX)];
        assert_eq!(ledger.record(said.clone()).await.unwrap(), expected);
        let again = vec![entry(-1.5, true), entry(3.0, false), entry(3.0, true)];
        assert_eq!(ledger.record(again).await.unwrap(), [Recorded::Same, Recorded::Differs, before(-1.5)]);
    }

    fn three() -> NonZeroUsize {
        NonZeroUsize::new(3).unwrap()
    }

    #[tokio::test]
    async fn in_memory_nothing_is_new_twice() {
        check(&MemoryLedger::new(three())).await;
        check_corrections(&MemoryLedger::new(three())).await;
    }

    #[tokio::test]
    async fn in_a_file_nothing_is_new_twice_for_whoever_shares_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leeway.db");
        let ledger = SqliteLedger::open(&path, three()).await.unwrap();
        check(&ledger).await;
        let other = SqliteLedger::open(&path, three()).await.unwrap();
        assert_eq!(first_time(&other, &[1, 7]).await, [false, true]);
        assert_eq!(first_time(&ledger, &[7]).await, [false]);
        assert_eq!(ledger.key().await.unwrap(), other.key().await.unwrap());
        let another = SqliteLedger::open(&folder.path().join("another.db"), three()).await.unwrap();
        check_corrections(&another).await;
    }

    #[tokio::test]
    async fn of_what_was_said_before_corrections_were_taken_nothing_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leeway.db");
        let ledger = SqliteLedger::open(&path, three()).await.unwrap();
        first_time(&ledger, &[1]).await;
        sqlx::query("ALTER TABLE feedback_items DROP COLUMN said").execute(&ledger.pool).await.unwrap();
        drop(ledger);
        let ledger = SqliteLedger::open(&path, three()).await.unwrap();
        let again = Entry { key: 1, said: 8, may_replace: true };
        assert_eq!(ledger.record(vec![again]).await.unwrap(), [Recorded::Same]);
    }

    #[tokio::test]
    async fn a_key_that_is_none_is_refused_with_a_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leeway.db");
        let ledger = SqliteLedger::open(&path, three()).await.unwrap();
        ledger.key().await.unwrap();
        for (key, problem) in
            [("", "it has 0 bytes, and not 32"), ("abcd", "it has 2 bytes"), ("no key", "Invalid character")]
        {
            sqlx::query("UPDATE feedback_keys SET key = ?").bind(key).execute(&ledger.pool).await.unwrap();
            let error = ledger.key().await.unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains("leeway.db") && error.contains("DELETE"), "{error}");
        }
    }

    /// A file that is no longer at its path acknowledges nothing.
    #[tokio::test]
    async fn what_would_not_last_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leeway.db");
        let ledger = SqliteLedger::open(&path, three()).await.unwrap();
        assert_eq!(first_time(&ledger, &[1]).await, [true]);
        std::fs::remove_file(&path).unwrap();
        let entry = Entry { key: 2, said: 7, may_replace: false };
        let error = ledger.record(vec![entry]).await.unwrap_err();
        assert!(error.detail().unwrap().contains("is not there any more"), "{error:?}");
        assert!(!error.to_string().contains("leeway.db"), "{error}");
    }
}
