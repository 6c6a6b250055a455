//! The deployment journal in SQLite.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::database::{Database, Durability, said};
use crate::api::admin::Deployment;
use crate::deploy::{Appended, Journal, Latest};
use crate::error::{OperatorError, Result, SetupError};
use crate::identity::{ModelName, printable};

/// Interval of looking for deployments of other processes. Together with a load from memory it stays below the promised
/// 200 ms.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A journal in an SQLite file.
#[derive(Debug)]
pub(in crate::state) struct SqliteJournal {
    database: Arc<Database>,
    /// Number of the last row that [`Journal::changed`] has seen.
    seen: Mutex<Option<i64>>,
}

impl SqliteJournal {
    /// Creates the journal of this database.
    pub(in crate::state) fn new(database: Arc<Database>) -> SqliteJournal {
        SqliteJournal { database, seen: Mutex::default() }
    }

    async fn check_file(&self) -> Result<(), OperatorError> {
        self.database.check_file().await.map_err(OperatorError::Journal)
    }

    async fn latest_of(&self, model: &ModelName) -> Result<Option<Deployment>, OperatorError> {
        Ok(self.history(model, u64::MAX, 1).await?.pop())
    }
}

#[async_trait]
impl Journal for SqliteJournal {
    async fn latest(&self) -> Result<Latest, SetupError> {
        // Beside `max`, SQLite takes the other columns from the row with the maximum.
        let rows: Vec<(String, String, i64)> =
            sqlx::query_as("SELECT model, deployment, max(generation) FROM deployments GROUP BY model ORDER BY model")
                .fetch_all(&self.database.pool)
                .await
                .map_err(|error| cannot_be_read(&self.database.path, &said(&error), None))?;
        let read = |(model, text, generation): &(String, String, i64)| {
            serde_json::from_str(text).map_err(|error| {
                let (model, generation) = (printable(model, 64), *generation);
                let problem = format!("generation {generation} of model {model}: {error}");
                let remove = format!("DELETE FROM deployments WHERE model = '{model}' AND generation = {generation}");
                cannot_be_read(&self.database.path, &problem, Some(&remove))
            })
        };
        rows.iter().map(read).collect::<Result<_, _>>().map(Latest::read)
    }

    async fn changed(&self) {
        let mut seen = self.seen.lock().await;
        loop {
            // The table only grows, and so does the number of its last row. An error is reported by those who need the
            // deployments.
            let last: sqlx::Result<Option<i64>> =
                sqlx::query_scalar("SELECT max(rowid) FROM deployments").fetch_one(&self.database.pool).await;
            if let Ok(last) = last.map(Option::unwrap_or_default)
                && seen.replace(last) != Some(last)
            {
                return;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    async fn append(&self, next: &Deployment) -> Result<Appended, OperatorError> {
        self.check_file().await?;
        let text = serde_json::to_string(next).map_err(OperatorError::internal)?;
        let generation = number(next.generation);
        let mut connection = self.database.connection(Durability::Full).await.map_err(failed)?;
        let written = sqlx::query(
            "INSERT INTO deployments (model, generation, deployment)
             SELECT ?1, ?2, ?3
             WHERE (SELECT coalesce(max(generation), 0) FROM deployments WHERE model = ?1) = ?2 - 1",
        )
        .bind(next.model.as_str())
        .bind(generation)
        .bind(text)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
        drop(connection);
        match written.rows_affected() {
            1 => {
                // The write is durable only if the open file is still the one at the path.
                self.check_file().await?;
                Ok(Appended::Written)
            }
            _ => Ok(Appended::Lost(self.latest_of(&next.model).await?)),
        }
    }

    async fn history(&self, model: &ModelName, before: u64, limit: u32) -> Result<Vec<Deployment>, OperatorError> {
        let rows: Vec<(String,)> = sqlx::query_as(
            "SELECT deployment FROM deployments WHERE model = ? AND generation < ? ORDER BY generation DESC LIMIT ?",
        )
        .bind(model.as_str())
        .bind(number(before))
        .bind(i64::from(limit))
        .fetch_all(&self.database.pool)
        .await
        .map_err(failed)?;
        rows.iter().map(|(text,)| parse(text)).collect()
    }
}

/// Returns the error about unreadable content of the journal, with its remedies.
fn cannot_be_read(path: &Path, problem: &str, remove: Option<&str>) -> SetupError {
    let file = path.display();
    let or_remove =
        remove.map(|remove| format!(", or remove this generation: sqlite3 {file} \"{remove}\"")).unwrap_or_default();
    SetupError::State(format!(
        "state.url: the deployment journal {file} cannot be read: {problem}; restore the file from a copy{or_remove}, or move it \
         away to start again with the highest version of each model"
    ))
}

fn parse(text: &str) -> Result<Deployment, OperatorError> {
    serde_json::from_str(text)
        .map_err(|error| OperatorError::Journal(format!("a deployment in it cannot be read: {error}")))
}

fn number(generation: u64) -> i64 {
    i64::try_from(generation).unwrap_or(i64::MAX)
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err hands it over")]
fn failed(error: sqlx::Error) -> OperatorError {
    OperatorError::Journal(said(&error))
}
