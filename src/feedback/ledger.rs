//! What has been said of predictions already, so that nothing is counted twice; and the key that ids are signed with.
//!
//! Kept with the deployments (`state.url`): servers that share a state take each item once between them, and know each
//! other's ids. The memory is bounded; what was said longest ago is forgotten.

use std::collections::{HashSet, VecDeque};
use std::fmt::Debug;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sha2::Digest;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use uuid::Uuid;

use crate::config::StateUrl;
use crate::error::{Error, Result};

/// How long a write waits for another process that writes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Remembers what has been said.
#[async_trait]
pub trait Ledger: Debug + Send + Sync {
    /// The key that ids are signed with: the same for all that share this ledger.
    async fn key(&self) -> Result<Vec<u8>>;

    /// Of each of these, in order, whether it is there for the first time. From now on it is not.
    async fn first_time(&self, keys: Vec<u64>) -> Result<Vec<bool>>;
}

/// The ledger at this address, which remembers so many.
pub async fn open_ledger(url: &StateUrl, remembered: NonZeroUsize) -> Result<Arc<dyn Ledger>> {
    Ok(match url {
        StateUrl::Memory => Arc::new(MemoryLedger::new(remembered)),
        StateUrl::Sqlite(path) => Arc::new(SqliteLedger::open(path, remembered).await?),
    })
}

/// 256 bits that nobody can guess: four UUIDs of version 7 have 74 random bits each.
fn random_key() -> Vec<u8> {
    let mut digest = sha2::Sha256::new();
    (0..4).for_each(|_| digest.update(Uuid::now_v7().as_bytes()));
    digest.finalize().to_vec()
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
    keys: HashSet<u64>,
    oldest_first: VecDeque<u64>,
}

impl MemoryLedger {
    /// An empty ledger with a key of its own.
    pub fn new(remembered: NonZeroUsize) -> MemoryLedger {
        MemoryLedger { key: random_key(), remembered, known: Mutex::default() }
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn key(&self) -> Result<Vec<u8>> {
        Ok(self.key.clone())
    }

    async fn first_time(&self, keys: Vec<u64>) -> Result<Vec<bool>> {
        let mut known = self.known.lock();
        let is_new = |key: u64| {
            if !known.keys.insert(key) {
                return false;
            }
            known.oldest_first.push_back(key);
            if known.oldest_first.len() > self.remembered.get()
                && let Some(oldest) = known.oldest_first.pop_front()
            {
                known.keys.remove(&oldest);
            }
            true
        };
        Ok(keys.into_iter().map(is_new).collect())
    }
}

// ===== in SQLite =====

/// A ledger in an SQLite file.
#[derive(Debug)]
pub struct SqliteLedger {
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
            .busy_timeout(PATIENCE);
        let pool = SqlitePoolOptions::new().max_connections(1).acquire_timeout(PATIENCE * 2);
        let pool = pool.connect_with(options).await.map_err(|error| failed(&error))?;
        for table in [
            "CREATE TABLE IF NOT EXISTS feedback_keys (id INTEGER PRIMARY KEY CHECK (id = 1), key TEXT NOT NULL) STRICT",
            "CREATE TABLE IF NOT EXISTS feedback_items (
                seq  INTEGER PRIMARY KEY AUTOINCREMENT,
                item INTEGER NOT NULL UNIQUE
            ) STRICT",
        ] {
            sqlx::query(table).execute(&pool).await.map_err(|error| failed(&error))?;
        }
        Ok(SqliteLedger { pool, remembered: i64::try_from(remembered.get()).unwrap_or(i64::MAX) })
    }

    async fn try_first_time(&self, keys: &[u64]) -> sqlx::Result<Vec<bool>> {
        // SQLite's integers are signed; the same bits will do.
        let items: Vec<String> = keys.iter().map(|key| key.cast_signed().to_string()).collect();
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let inserted: Vec<i64> = sqlx::query_scalar(
            "INSERT INTO feedback_items (item)
                SELECT value FROM json_each(?) WHERE value NOT IN (SELECT item FROM feedback_items)
                GROUP BY value ORDER BY min(key)
                RETURNING item",
        )
        .bind(format!("[{}]", items.join(",")))
        .fetch_all(&mut *transaction)
        .await?;
        sqlx::query("DELETE FROM feedback_items WHERE seq <= (SELECT max(seq) FROM feedback_items) - ?")
            .bind(self.remembered)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        let mut inserted: HashSet<i64> = inserted.into_iter().collect();
        Ok(keys.iter().map(|key| inserted.remove(&key.cast_signed())).collect())
    }
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn key(&self) -> Result<Vec<u8>> {
        // Of two servers that start at the same time, one writes, and both read what it wrote.
        sqlx::query("INSERT OR IGNORE INTO feedback_keys (id, key) VALUES (1, ?)")
            .bind(hex::encode(random_key()))
            .execute(&self.pool)
            .await
            .map_err(|error| failed(&error))?;
        let key: String = sqlx::query_scalar("SELECT key FROM feedback_keys WHERE id = 1")
            .fetch_one(&self.pool)
            .await
            .map_err(|error| failed(&error))?;
        hex::decode(key).map_err(|error| Error::Journal(format!("feedback_keys: {error}")))
    }

    async fn first_time(&self, keys: Vec<u64>) -> Result<Vec<bool>> {
        self.try_first_time(&keys).await.map_err(|error| failed(&error))
    }
}

fn failed(error: &sqlx::Error) -> Error {
    Error::Journal(format!("the feedback that was taken: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(ledger: &dyn Ledger) {
        assert_eq!(ledger.first_time(vec![1, u64::MAX, 1]).await.unwrap(), [true, true, false]);
        assert_eq!(ledger.first_time(vec![u64::MAX, 2]).await.unwrap(), [false, true]);
        assert_eq!(ledger.first_time(vec![]).await.unwrap(), [false; 0]);
        // Three are remembered: the oldest is forgotten for a fourth.
        assert_eq!(ledger.first_time(vec![3]).await.unwrap(), [true]);
        assert_eq!(ledger.first_time(vec![2, 3, u64::MAX]).await.unwrap(), [false; 3]);
        assert_eq!(ledger.first_time(vec![1]).await.unwrap(), [true]);
    }

    fn three() -> NonZeroUsize {
        NonZeroUsize::new(3).unwrap()
    }

    #[tokio::test]
    async fn in_memory_nothing_is_new_twice() {
        check(&MemoryLedger::new(three())).await;
    }

    #[tokio::test]
    async fn in_a_file_nothing_is_new_twice_for_whoever_shares_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leeway.db");
        let ledger = SqliteLedger::open(&path, three()).await.unwrap();
        check(&ledger).await;
        let other = SqliteLedger::open(&path, three()).await.unwrap();
        assert_eq!(other.first_time(vec![1, 7]).await.unwrap(), [false, true]);
        assert_eq!(ledger.first_time(vec![7]).await.unwrap(), [false]);
        assert_eq!(ledger.key().await.unwrap(), other.key().await.unwrap());
    }
}
