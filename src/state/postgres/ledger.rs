//! The ledger of feedback in PostgreSQL.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::postgres::PgConnection;

use super::database::{PostgresDatabase, Problem};
use super::last_seen::LastSeen;
use crate::error::{Result, SetupError};
use crate::feedback::{Entry, Ledger, LedgerKey, NotRecorded, Recorded};
use crate::state::key::{KEY_BYTES, random_key};

/// A ledger in a PostgreSQL database.
#[derive(Debug)]
pub(super) struct PostgresLedger {
    database: Arc<PostgresDatabase>,
    remembered: i64,
    last_seen: Arc<LastSeen>,
}

impl PostgresLedger {
    /// Creates the ledger in this database, which remembers this many entries.
    pub(super) fn new(
        database: Arc<PostgresDatabase>,
        remembered: NonZeroUsize,
        last_seen: Arc<LastSeen>,
    ) -> PostgresLedger {
        PostgresLedger { database, remembered: i64::try_from(remembered.get()).unwrap_or(i64::MAX), last_seen }
    }

    async fn read_key(&self) -> Result<String, Problem> {
        let read = async {
            // If two servers start at the same time, one writes the key, and both read it.
            sqlx::query("INSERT INTO leeway_feedback_keys (id, key) VALUES (1, $1) ON CONFLICT DO NOTHING")
                .bind(hex::encode(random_key()))
                .execute(self.database.pool())
                .await?;
            sqlx::query_scalar("SELECT key FROM leeway_feedback_keys WHERE id = 1")
                .fetch_one(self.database.pool())
                .await
        };
        self.database.run(read).await
    }

    async fn try_record(&self, entries: &[Entry]) -> sqlx::Result<Vec<Recorded>> {
        let mut transaction = self.database.pool().begin().await?;
        let mut known = insert_new(&mut transaction, entries).await?;
        let mut replaced: HashMap<u64, u64> = HashMap::new();
        let recorded = entries.iter().map(|entry| {
            let recorded = entry.outcome(known.get(&entry.key).copied().map(Some));
            match recorded {
                Recorded::First => drop(known.insert(entry.key, entry.said)),
                Recorded::Replaced { .. } => {
                    known.insert(entry.key, entry.said);
                    replaced.insert(entry.key, entry.said);
                }
                Recorded::Same | Recorded::Differs => {}
            }
            recorded
        });
        let recorded = recorded.collect();
        if !replaced.is_empty() {
            let (items, said) = columns(replaced.into_iter());
            sqlx::query(
                "UPDATE leeway_feedback_items SET said = later.said FROM unnest($1::bigint[], $2::bigint[]) later (item, said)
                 WHERE leeway_feedback_items.item = later.item",
            )
            .bind(items)
            .bind(said)
            .execute(&mut *transaction)
            .await?;
        }
        sqlx::query("DELETE FROM leeway_feedback_items WHERE seq <= (SELECT max(seq) FROM leeway_feedback_items) - $1")
            .bind(self.remembered)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(recorded)
    }
}

/// Inserts the entries whose keys are new, and returns the earlier statements of the others. Rows are taken in the order
/// of their keys, so that two transactions do not wait for each other.
async fn insert_new(connection: &mut PgConnection, entries: &[Entry]) -> sqlx::Result<HashMap<u64, u64>> {
    let mut seen = HashSet::new();
    let first = entries.iter().filter(|entry| seen.insert(entry.key));
    let (items, said) = columns(first.map(|entry| (entry.key, entry.said)));
    // The numbers of the sequence, by which the oldest are found, are taken in the order of the entries, and only by those
    // that are new.
    let inserted: Vec<(i64,)> = sqlx::query_as(
        "INSERT INTO leeway_feedback_items (item, said, seq)
         SELECT item, said, seq FROM (
             SELECT new.item, new.said, nextval('leeway_feedback_order') AS seq
             FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY new (item, said, position)
             WHERE NOT EXISTS (SELECT FROM leeway_feedback_items known WHERE known.item = new.item)
             ORDER BY new.position
         ) numbered ORDER BY item ON CONFLICT DO NOTHING RETURNING item",
    )
    .bind(&items)
    .bind(&said)
    .fetch_all(&mut *connection)
    .await?;
    let inserted: HashSet<i64> = inserted.into_iter().map(|(item,)| item).collect();
    let others: Vec<i64> = items.into_iter().filter(|item| !inserted.contains(item)).collect();
    if others.is_empty() {
        return Ok(HashMap::new());
    }
    let known: Vec<(i64, i64)> =
        sqlx::query_as("SELECT item, said FROM leeway_feedback_items WHERE item = ANY($1) ORDER BY item FOR UPDATE")
            .bind(others)
            .fetch_all(&mut *connection)
            .await?;
    Ok(known.into_iter().map(|(item, said)| (item.cast_unsigned(), said.cast_unsigned())).collect())
}

/// Returns entries as columns. PostgreSQL's integers are signed, so the bits are reinterpreted.
fn columns(entries: impl Iterator<Item = (u64, u64)>) -> (Vec<i64>, Vec<i64>) {
    entries.map(|(key, said)| (key.cast_signed(), said.cast_signed())).unzip()
}

#[async_trait]
impl Ledger for PostgresLedger {
    async fn key(&self) -> Result<LedgerKey, SetupError> {
        let key = match self.read_key().await {
            Ok(key) => key,
            Err(problem) if problem.is_unreachable() => match self.last_seen.read().await.feedback_key {
                Some(key) => key,
                None => {
                    let problem = format!("{}: {problem}", self.database);
                    return Ok(LedgerKey::Unknown { provisional: random_key(), problem });
                }
            },
            Err(problem) => return Err(SetupError::State(format!("state.url: {}: {problem}", self.database))),
        };
        match hex::decode(&key) {
            Ok(bytes) if bytes.len() == KEY_BYTES => {
                self.last_seen.feedback_key(&key).await;
                Ok(LedgerKey::Shared(bytes))
            }
            _ => Err(SetupError::State(format!(
                "state.url: {}: the key that prediction ids are signed with is invalid; remove it with: DELETE FROM \
                 leeway_feedback_keys (earlier prediction ids are then no longer valid), or set feedback.key",
                self.database
            ))),
        }
    }

    async fn record(&self, entries: &[Entry]) -> Result<Vec<Recorded>, NotRecorded> {
        self.database.run(self.try_record(entries)).await.map_err(|problem| {
            let detail = format!("{}: {problem}", self.database);
            if problem.is_unreachable() { NotRecorded::Unreachable(detail) } else { NotRecorded::Failed(detail) }
        })
    }
}
