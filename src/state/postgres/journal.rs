//! The deployment journal in PostgreSQL.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgListener;
use tokio::sync::Mutex;

use super::database::{PostgresDatabase, Problem};
use super::last_seen::LastSeen;
use crate::api::admin::Deployment;
use crate::deploy::{Appended, Journal, Latest};
use crate::error::{OperatorError, Result, SetupError};
use crate::identity::ModelName;

/// Channel of notifications about appended deployments.
const CHANNEL: &str = "leeway-changes";

/// Interval of looking for changes without notifications, which a connection pooler may not pass on.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Statement that appends a deployment: it moves the current generation of the model from `$2 - 1` to `$2`, and writes
/// only if that succeeds. Racing statements wait for the row, so that only one of them finds the generation that it
/// expects.
const APPEND: &str = "
    WITH first AS (
        INSERT INTO leeway_models (model, generation) SELECT $1, 1 WHERE $2 = 1 ON CONFLICT DO NOTHING RETURNING model
    ), next AS (
        UPDATE leeway_models SET generation = $2 WHERE model = $1 AND generation = $2 - 1 RETURNING model
    ), written AS (
        INSERT INTO leeway_deployments (model, generation, deployment)
        SELECT $1, $2, $3 FROM (SELECT FROM first UNION ALL SELECT FROM next) moved
        RETURNING model
    )
    SELECT pg_notify($4, model) FROM written";

/// A journal in a PostgreSQL database.
#[derive(Debug)]
pub(super) struct PostgresJournal {
    database: Arc<PostgresDatabase>,
    /// Memory of the journal on this machine; `None` for a command.
    last_seen: Option<Arc<LastSeen>>,
    /// True once the deployments were read for the first time, from the database or from `last_seen`.
    has_started: AtomicBool,
    changes: Mutex<Changes>,
}

/// State of [`Journal::changed`].
#[derive(Debug, Default)]
struct Changes {
    listener: Option<PgListener>,
    /// The sum of all generations at the last look. `None` if the database could not be reached.
    seen: Option<i64>,
}

impl PostgresJournal {
    /// Creates the journal in this database.
    pub(super) fn new(database: Arc<PostgresDatabase>, last_seen: Option<Arc<LastSeen>>) -> PostgresJournal {
        PostgresJournal { database, last_seen, has_started: AtomicBool::new(false), changes: Mutex::default() }
    }

    async fn read(&self) -> Result<Vec<Deployment>, Problem> {
        let rows: Vec<(String,)> = self
            .database
            .run(async {
                sqlx::query_as(
                    "SELECT deployment FROM leeway_models JOIN leeway_deployments USING (model, generation) ORDER BY model",
                )
                .fetch_all(self.database.pool())
                .await
            })
            .await?;
        rows.iter().map(|(text,)| parse(text)).collect()
    }

    async fn latest_of(&self, model: &ModelName) -> Result<Option<Deployment>, OperatorError> {
        Ok(self.history(model, u64::MAX, 1).await?.pop())
    }

    async fn try_to_append(&self, next: &Deployment, text: &str) -> Result<bool, Problem> {
        let written = self.database.run(async {
            let append = sqlx::query(APPEND).bind(next.model.as_str()).bind(number(next.generation));
            append.bind(text).bind(CHANNEL).fetch_optional(self.database.pool()).await
        });
        written.await.map(|row| row.is_some())
    }

    /// Waits for a notification, until the poll interval is over.
    async fn wait(&self, changes: &mut Changes) {
        if changes.listener.is_none() {
            let listening = self.database.run(async {
                let mut listener = PgListener::connect_with(self.database.pool()).await?;
                listener.listen(CHANNEL).await?;
                Ok(listener)
            });
            changes.listener = listening.await.ok();
        }
        let notified = async {
            match &mut changes.listener {
                Some(listener) => listener.recv().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        if tokio::time::timeout(POLL_INTERVAL, notified).await == Ok(false) {
            // The next call connects again.
            changes.listener = None;
        }
    }
}

#[async_trait]
impl Journal for PostgresJournal {
    async fn latest(&self) -> Result<Latest, SetupError> {
        let is_first = !self.has_started.swap(true, Ordering::Relaxed);
        match self.read().await {
            Ok(deployments) => {
                if let Some(last_seen) = &self.last_seen {
                    last_seen.deployments(&deployments).await;
                }
                Ok(Latest::read(deployments))
            }
            Err(problem) => {
                let problem_of = format!("{}: {problem}", self.database);
                let seen = match &self.last_seen {
                    Some(last_seen) if is_first && problem.is_unreachable() => last_seen.read().await.deployments,
                    _ => None,
                };
                match seen {
                    Some(deployments) => Ok(Latest { deployments, unreachable: Some(problem_of) }),
                    None if problem.is_unreachable() => Err(SetupError::StateUnreachable(problem_of)),
                    None => Err(SetupError::State(format!("state.url: {problem_of}"))),
                }
            }
        }
    }

    async fn changed(&self) {
        let mut changes = self.changes.lock().await;
        loop {
            let sum = self.database.run(async {
                sqlx::query_scalar::<_, i64>("SELECT coalesce(sum(generation), 0)::bigint FROM leeway_models")
                    .fetch_one(self.database.pool())
                    .await
            });
            match sum.await {
                Ok(sum) if changes.seen.replace(sum) != Some(sum) => return,
                Ok(_) => {}
                Err(_) => changes.seen = None,
            }
            self.wait(&mut changes).await;
        }
    }

    async fn append(&self, next: &Deployment) -> Result<Appended, OperatorError> {
        let text = serde_json::to_string(next).map_err(OperatorError::internal)?;
        match self.try_to_append(next, &text).await {
            Ok(true) => {}
            Ok(false) => return Ok(Appended::Lost(self.latest_of(&next.model).await?)),
            // The answer may have been lost together with the connection, after the deployment was written.
            Err(problem) => match self.latest_of(&next.model).await {
                Ok(Some(latest)) if latest == *next => {}
                _ => return Err(self.failed(&problem)),
            },
        }
        if let Some(last_seen) = &self.last_seen {
            last_seen.deployment(next).await;
        }
        Ok(Appended::Written)
    }

    async fn history(&self, model: &ModelName, before: u64, limit: u32) -> Result<Vec<Deployment>, OperatorError> {
        let rows: Vec<(String,)> = self
            .database
            .run(async {
                sqlx::query_as(
                    "SELECT deployment FROM leeway_deployments
                     WHERE model = $1 AND generation < $2 ORDER BY generation DESC LIMIT $3",
                )
                .bind(model.as_str())
                .bind(number(before))
                .bind(i64::from(limit))
                .fetch_all(self.database.pool())
                .await
            })
            .await
            .map_err(|problem| self.failed(&problem))?;
        rows.iter().map(|(text,)| parse(text).map_err(|problem| self.failed(&problem))).collect()
    }
}

impl PostgresJournal {
    fn failed(&self, problem: &Problem) -> OperatorError {
        OperatorError::Journal(format!("{}: {problem}", self.database))
    }
}

fn parse(text: &str) -> Result<Deployment, Problem> {
    serde_json::from_str(text)
        .map_err(|error| Problem::Refused(format!("a deployment in leeway_deployments cannot be read: {error}")))
}

fn number(generation: u64) -> i64 {
    i64::try_from(generation).unwrap_or(i64::MAX)
}
