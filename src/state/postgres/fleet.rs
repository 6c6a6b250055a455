//! The servers that share a PostgreSQL database.

use std::sync::Arc;

use async_trait::async_trait;

use super::database::{PostgresDatabase, Problem};
use crate::api::admin::Replica;
use crate::deploy::{Fleet, GONE_AFTER};
use crate::error::{OperatorError, Result};

/// The list of servers in a PostgreSQL database.
#[derive(Debug)]
pub(super) struct PostgresFleet {
    database: Arc<PostgresDatabase>,
}

impl PostgresFleet {
    /// Creates the list in this database.
    pub(super) fn new(database: Arc<PostgresDatabase>) -> PostgresFleet {
        PostgresFleet { database }
    }

    fn failed(&self, problem: &Problem) -> OperatorError {
        OperatorError::Journal(format!("{}: {problem}", self.database))
    }
}

#[async_trait]
impl Fleet for PostgresFleet {
    fn is_shared(&self) -> bool {
        true
    }

    async fn report(&self, own: &Replica) -> Result<Vec<Replica>, OperatorError> {
        let report = serde_json::to_string(own).map_err(OperatorError::internal)?;
        let reports = self.database.run(async {
            // Times are the database's, because the clocks of servers differ.
            sqlx::query(
                "INSERT INTO leeway_replicas (id, report, seen_at) VALUES ($1, $2, clock_timestamp())
                 ON CONFLICT (id) DO UPDATE SET report = excluded.report, seen_at = excluded.seen_at",
            )
            .bind(&own.id)
            .bind(&report)
            .execute(self.database.pool())
            .await?;
            sqlx::query("DELETE FROM leeway_replicas WHERE seen_at < clock_timestamp() - make_interval(secs => $1)")
                .bind(GONE_AFTER.as_secs_f64())
                .execute(self.database.pool())
                .await?;
            sqlx::query_as(
                "SELECT report, extract(epoch FROM clock_timestamp() - seen_at)::float8 FROM leeway_replicas ORDER BY id",
            )
            .fetch_all(self.database.pool())
            .await
        });
        Ok(Replica::from_reports(reports.await.map_err(|problem| self.failed(&problem))?))
    }

    async fn leave(&self, id: &str) -> Result<(), OperatorError> {
        let left = self.database.run(async {
            sqlx::query("DELETE FROM leeway_replicas WHERE id = $1").bind(id).execute(self.database.pool()).await
        });
        left.await.map(drop).map_err(|problem| self.failed(&problem))
    }
}
