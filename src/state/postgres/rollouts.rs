//! Rollouts in a PostgreSQL database.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::PgConnection;
use tokio::sync::Mutex;

use super::database::{PostgresDatabase, Problem};
use crate::error::{OperatorError, Result};
use crate::identity::ModelName;
use crate::rollout::{ProcessCounts, RolloutRecord, RolloutStore};

/// Key of the advisory lock that the leader holds. Any number that others do not use.
const LOCK: i64 = 0x6c65_6577_6172;

/// The store of rollouts in a PostgreSQL database.
#[derive(Debug)]
pub(super) struct PostgresRollouts {
    database: Arc<PostgresDatabase>,
    /// The connection that holds the lock, or tries to get it. The database frees the lock when it is closed.
    lock: Mutex<Option<PgConnection>>,
}

impl PostgresRollouts {
    /// Creates the store in this database.
    pub(super) fn new(database: Arc<PostgresDatabase>) -> PostgresRollouts {
        PostgresRollouts { database, lock: Mutex::default() }
    }

    fn failed(&self, problem: &Problem) -> OperatorError {
        OperatorError::Journal(format!("{}: {problem}", self.database))
    }

    async fn run<T>(&self, operation: impl Future<Output = sqlx::Result<T>> + Send) -> Result<T, OperatorError> {
        self.database.run(operation).await.map_err(|problem| self.failed(&problem))
    }

    async fn try_to_write(&self, record: &RolloutRecord, text: &str) -> sqlx::Result<bool> {
        let [number, revision] = [record.number, record.revision].map(as_integer);
        let written = match record.revision {
            1 => sqlx::query(
                "INSERT INTO leeway_rollouts (model, number, revision, record)
                 SELECT $1, $2, $3, $4
                 WHERE (SELECT coalesce(max(number), 0) FROM leeway_rollouts WHERE model = $1) = $2 - 1
                 ON CONFLICT DO NOTHING",
            ),
            _ => sqlx::query(
                "UPDATE leeway_rollouts SET revision = $3, record = $4
                 WHERE model = $1 AND number = $2 AND revision = $3 - 1",
            ),
        };
        let pool = self.database.pool();
        let written = written.bind(record.model.as_str()).bind(number).bind(revision).bind(text).execute(pool).await?;
        let is_written = written.rows_affected() == 1;
        if is_written && !record.state.is_active() {
            sqlx::query("DELETE FROM leeway_rollout_counts WHERE model = $1")
                .bind(record.model.as_str())
                .execute(pool)
                .await?;
        }
        Ok(is_written)
    }
}

#[async_trait]
impl RolloutStore for PostgresRollouts {
    async fn leads(&self) -> Result<bool, OperatorError> {
        let mut lock = self.lock.lock().await;
        let taken = self.run(async {
            let mut connection = match lock.take() {
                Some(connection) => connection,
                None => self.database.pool().acquire().await?.detach(),
            };
            // A session that has the lock gets it again, so it is released once if it was held before.
            let leads: bool = sqlx::query_scalar(
                "SELECT CASE WHEN EXISTS (
                     SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted
                 ) THEN true ELSE pg_try_advisory_lock($1) END",
            )
            .bind(LOCK)
            .fetch_one(&mut connection)
            .await?;
            Ok((connection, leads))
        });
        let (connection, leads) = taken.await?;
        *lock = Some(connection);
        Ok(leads)
    }

    async fn latest(&self) -> Result<Vec<RolloutRecord>, OperatorError> {
        let rows: Vec<String> = self
            .run(
                sqlx::query_scalar(
                    "SELECT DISTINCT ON (model) record FROM leeway_rollouts ORDER BY model, number DESC",
                )
                .fetch_all(self.database.pool()),
            )
            .await?;
        rows.iter().map(|text| RolloutRecord::parse(text)).collect()
    }

    async fn history(&self, model: &ModelName, limit: u32) -> Result<Vec<RolloutRecord>, OperatorError> {
        let query =
            sqlx::query_scalar("SELECT record FROM leeway_rollouts WHERE model = $1 ORDER BY number DESC LIMIT $2");
        let rows: Vec<String> =
            self.run(query.bind(model.as_str()).bind(i64::from(limit)).fetch_all(self.database.pool())).await?;
        rows.iter().map(|text| RolloutRecord::parse(text)).collect()
    }

    async fn write(&self, record: &RolloutRecord) -> Result<bool, OperatorError> {
        let text = serde_json::to_string(record).map_err(OperatorError::internal)?;
        self.run(self.try_to_write(record, &text)).await
    }

    async fn report(&self, of: &RolloutRecord, process: &str, counts: &ProcessCounts) -> Result<(), OperatorError> {
        let text = serde_json::to_string(counts).map_err(OperatorError::internal)?;
        let query = sqlx::query(
            "INSERT INTO leeway_rollout_counts (model, number, process, counts) VALUES ($1, $2, $3, $4)
             ON CONFLICT (model, number, process) DO UPDATE SET counts = excluded.counts",
        );
        let query = query.bind(of.model.as_str()).bind(as_integer(of.number)).bind(process).bind(text);
        self.run(query.execute(self.database.pool())).await.map(drop)
    }

    async fn reports(&self, of: &RolloutRecord) -> Result<BTreeMap<String, ProcessCounts>, OperatorError> {
        let query =
            sqlx::query_as("SELECT process, counts FROM leeway_rollout_counts WHERE model = $1 AND number = $2");
        let query = query.bind(of.model.as_str()).bind(as_integer(of.number));
        self.run(query.fetch_all(self.database.pool())).await.map(ProcessCounts::from_reports)
    }
}

fn as_integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
