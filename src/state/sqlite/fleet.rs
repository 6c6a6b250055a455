//! The servers that share an SQLite file.

use std::sync::Arc;

use async_trait::async_trait;

use super::database::{Database, Durability, said};
use crate::api::admin::Replica;
use crate::deploy::{Fleet, GONE_AFTER};
use crate::error::{OperatorError, Result};

/// The list of servers in an SQLite file.
#[derive(Debug)]
pub(in crate::state) struct SqliteFleet {
    database: Arc<Database>,
}

impl SqliteFleet {
    /// Creates the list in this database.
    pub(in crate::state) fn new(database: Arc<Database>) -> SqliteFleet {
        SqliteFleet { database }
    }

    async fn try_report(&self, own: &Replica, report: &str) -> sqlx::Result<Vec<(String, f64)>> {
        let mut connection = self.database.connection(Durability::Process).await?;
        sqlx::query("DELETE FROM replicas WHERE seen_at < unixepoch('subsec') - ?")
            .bind(GONE_AFTER.as_secs_f64())
            .execute(&mut *connection)
            .await?;
        sqlx::query(
            "INSERT INTO replicas (id, report, seen_at) VALUES (?, ?, unixepoch('subsec'))
             ON CONFLICT (id) DO UPDATE SET report = excluded.report, seen_at = excluded.seen_at",
        )
        .bind(&own.id)
        .bind(report)
        .execute(&mut *connection)
        .await?;
        sqlx::query_as("SELECT report, unixepoch('subsec') - seen_at FROM replicas ORDER BY id")
            .fetch_all(&mut *connection)
            .await
    }
}

#[async_trait]
impl Fleet for SqliteFleet {
    fn is_shared(&self) -> bool {
        true
    }

    async fn report(&self, own: &Replica) -> Result<Vec<Replica>, OperatorError> {
        let report = serde_json::to_string(own).map_err(OperatorError::internal)?;
        let reports = self.try_report(own, &report).await.map_err(|error| OperatorError::Journal(said(&error)))?;
        Ok(Replica::from_reports(reports))
    }

    async fn leave(&self, id: &str) -> Result<(), OperatorError> {
        let left = sqlx::query("DELETE FROM replicas WHERE id = ?").bind(id).execute(&self.database.pool).await;
        left.map(drop).map_err(|error| OperatorError::Journal(said(&error)))
    }
}
