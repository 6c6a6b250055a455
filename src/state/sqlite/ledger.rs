//! The ledger of feedback in SQLite.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::Connection as _;

use super::database::{Database, Durability};
use crate::error::{Result, SetupError};
use crate::feedback::{Entry, Ledger, LedgerKey, NotRecorded, Recorded};
use crate::state::key::{KEY_BYTES, random_key};

/// A ledger in an SQLite file.
#[derive(Debug)]
pub(in crate::state) struct SqliteLedger {
    database: Arc<Database>,
    remembered: i64,
}

impl SqliteLedger {
    /// Creates the ledger of this database, which remembers this many entries.
    pub(in crate::state) fn new(database: Arc<Database>, remembered: NonZeroUsize) -> SqliteLedger {
        SqliteLedger { database, remembered: i64::try_from(remembered.get()).unwrap_or(i64::MAX) }
    }

    async fn try_record(&self, entries: &[Entry]) -> sqlx::Result<Vec<Recorded>> {
        // SQLite's integers are signed, so the bits are reinterpreted.
        let items: Vec<String> = entries.iter().map(|entry| entry.key.cast_signed().to_string()).collect();
        let mut connection = self.database.connection(Durability::Process).await?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
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
                let recorded = entry.outcome(known.get(&entry.key).copied());
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

    async fn check_file(&self) -> Result<(), NotRecorded> {
        self.database.check_file().await.map_err(NotRecorded::Failed)
    }
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn key(&self) -> Result<LedgerKey, SetupError> {
        let wrong = |problem: &str| {
            SetupError::State(format!(
                "state.url: in {}, the key that prediction ids are signed with is invalid: {problem}; restore the file, \
                 or remove the key with: sqlite3 {} 'DELETE FROM feedback_keys' (earlier prediction ids are then no longer \
                 valid), or set feedback.key",
                self.database.path.display(),
                self.database.path.display()
            ))
        };
        let failed = |error: sqlx::Error| cannot_be_opened(&self.database.path, &error.to_string());
        let read = || {
            sqlx::query_scalar::<_, String>("SELECT key FROM feedback_keys WHERE id = 1")
                .fetch_optional(&self.database.pool)
        };
        let key = match read().await.map_err(failed)? {
            Some(key) => key,
            None => {
                // If two servers start at the same time, one writes the key, and both read it.
                sqlx::query("INSERT OR IGNORE INTO feedback_keys (id, key) VALUES (1, ?)")
                    .bind(hex::encode(random_key()))
                    .execute(&self.database.pool)
                    .await
                    .map_err(failed)?;
                read().await.map_err(failed)?.unwrap_or_default()
            }
        };
        match hex::decode(&key) {
            Ok(bytes) if bytes.len() == KEY_BYTES => Ok(LedgerKey::Shared(bytes)),
            Ok(bytes) => Err(wrong(&format!("it has {} bytes instead of {KEY_BYTES}", bytes.len()))),
            Err(error) => Err(wrong(&error.to_string())),
        }
    }

    async fn record(&self, entries: &[Entry]) -> Result<Vec<Recorded>, NotRecorded> {
        self.check_file().await?;
        let recorded = self.try_record(entries).await;
        let recorded = recorded.map_err(|error| NotRecorded::Failed(error.to_string()))?;
        // The write is durable only if the open file is still the one at the path.
        self.check_file().await?;
        Ok(recorded)
    }
}

fn cannot_be_opened(path: &Path, problem: &str) -> SetupError {
    SetupError::State(format!("state.url: the feedback in {} cannot be read or written: {problem}", path.display()))
}
