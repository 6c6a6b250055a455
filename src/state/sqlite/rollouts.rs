//! Rollouts in an SQLite file.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use super::database::{Database, Durability, said};
use crate::error::{OperatorError, Result};
use crate::identity::ModelName;
use crate::rollout::{ProcessCounts, RolloutRecord, RolloutStore};

/// Time for which a server leads after it was last asked, in seconds. Another server takes over then.
const LEASE_S: f64 = 2.0;

/// The store of rollouts in an SQLite file.
#[derive(Debug)]
pub(in crate::state) struct SqliteRollouts {
    database: Arc<Database>,
    /// Name of this process as a leader.
    process: String,
}

impl SqliteRollouts {
    /// Creates the store in this database.
    pub(in crate::state) fn new(database: Arc<Database>) -> SqliteRollouts {
        SqliteRollouts { database, process: Uuid::now_v7().to_string() }
    }

    async fn try_to_write(&self, record: &RolloutRecord, text: &str) -> sqlx::Result<bool> {
        // A step that was taken survives a crash of the machine; what was counted since then may be lost.
        let durability =
            if record.pending.is_some() || !record.state.is_active() { Durability::Full } else { Durability::Process };
        let mut connection = self.database.connection(durability).await?;
        let [number, revision] = [record.number, record.revision].map(as_integer);
        let written = match record.revision {
            1 => sqlx::query(
                "INSERT INTO rollouts (model, number, revision, record)
                     SELECT ?1, ?2, ?3, ?4
                     WHERE (SELECT coalesce(max(number), 0) FROM rollouts WHERE model = ?1) = ?2 - 1",
            ),
            _ => sqlx::query(
                "UPDATE rollouts SET revision = ?3, record = ?4 WHERE model = ?1 AND number = ?2 AND revision = ?3 - 1",
            ),
        };
        let written = written
            .bind(record.model.as_str())
            .bind(number)
            .bind(revision)
            .bind(text)
            .execute(&mut *connection)
            .await?;
        let is_written = written.rows_affected() == 1;
        if is_written && !record.state.is_active() {
            sqlx::query("DELETE FROM rollout_counts WHERE model = ?")
                .bind(record.model.as_str())
                .execute(&mut *connection)
                .await?;
        }
        Ok(is_written)
    }
}

#[async_trait]
impl RolloutStore for SqliteRollouts {
    async fn leads(&self) -> Result<bool, OperatorError> {
        let led = sqlx::query(
            "INSERT INTO rollout_leader (id, process, until) VALUES (1, ?1, unixepoch('subsec') + ?2)
             ON CONFLICT (id) DO UPDATE SET process = excluded.process, until = excluded.until
             WHERE process = excluded.process OR until < unixepoch('subsec')",
        )
        .bind(&self.process)
        .bind(LEASE_S)
        .execute(&self.database.pool)
        .await
        .map_err(failed)?;
        Ok(led.rows_affected() == 1)
    }

    async fn latest(&self) -> Result<Vec<RolloutRecord>, OperatorError> {
        // Beside `max`, SQLite takes the other columns from the row with the maximum.
        let rows: Vec<(String, i64)> =
            sqlx::query_as("SELECT record, max(number) FROM rollouts GROUP BY model ORDER BY model")
                .fetch_all(&self.database.pool)
                .await
                .map_err(failed)?;
        rows.iter().map(|(text, _)| RolloutRecord::parse(text)).collect()
    }

    async fn history(&self, model: &ModelName, limit: u32) -> Result<Vec<RolloutRecord>, OperatorError> {
        let rows: Vec<String> =
            sqlx::query_scalar("SELECT record FROM rollouts WHERE model = ? ORDER BY number DESC LIMIT ?")
                .bind(model.as_str())
                .bind(i64::from(limit))
                .fetch_all(&self.database.pool)
                .await
                .map_err(failed)?;
        rows.iter().map(|text| RolloutRecord::parse(text)).collect()
    }

    async fn write(&self, record: &RolloutRecord) -> Result<bool, OperatorError> {
        self.database.check_file().await.map_err(OperatorError::Journal)?;
        let text = serde_json::to_string(record).map_err(OperatorError::internal)?;
        self.try_to_write(record, &text).await.map_err(failed)
    }

    async fn report(&self, of: &RolloutRecord, process: &str, counts: &ProcessCounts) -> Result<(), OperatorError> {
        let text = serde_json::to_string(counts).map_err(OperatorError::internal)?;
        let mut connection = self.database.connection(Durability::Process).await.map_err(failed)?;
        let reported = sqlx::query(
            "INSERT INTO rollout_counts (model, number, process, counts) VALUES (?, ?, ?, ?)
             ON CONFLICT (model, number, process) DO UPDATE SET counts = excluded.counts",
        )
        .bind(of.model.as_str())
        .bind(as_integer(of.number))
        .bind(process)
        .bind(text)
        .execute(&mut *connection)
        .await;
        reported.map(drop).map_err(failed)
    }

    async fn reports(&self, of: &RolloutRecord) -> Result<BTreeMap<String, ProcessCounts>, OperatorError> {
        let rows: Vec<(String, String)> =
            sqlx::query_as("SELECT process, counts FROM rollout_counts WHERE model = ? AND number = ?")
                .bind(of.model.as_str())
                .bind(as_integer(of.number))
                .fetch_all(&self.database.pool)
                .await
                .map_err(failed)?;
        Ok(ProcessCounts::from_reports(rows))
    }
}

fn as_integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err hands it over")]
fn failed(error: sqlx::Error) -> OperatorError {
    OperatorError::Journal(said(&error))
}
