//! The parts of operators' requests: models and versions in paths, the bodies of changes, and the work on versions.

use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request};
use serde::de::DeserializeOwned;

use super::body::{self, BodyLimit};
use crate::budget::MemoryBudget;
use crate::error::{Error, Result};
use crate::identity::{ModelName, Version};
use crate::pipeline::Object;
use crate::registry::ServedVersion;

pub(super) type ModelPath = Result<Path<String>, PathRejection>;
pub(super) type VersionPath = Result<Path<(String, String)>, PathRejection>;

/// Maximum size of the request body of a change, in bytes.
const BODY_LIMIT: NonZeroUsize = NonZeroUsize::new(1 << 16).unwrap();
/// Memory for reading the body of a change, in bytes. A body may take somewhat less than half of this memory.
const BODY_MEMORY: usize = BODY_LIMIT.get() * 4;
/// Time limit for the arrival of the body of a change.
const BODY_TIME: Duration = Duration::from_secs(10);

/// Returns the name of the model in the path. An invalid name is refused, because it cannot match a model.
pub(super) fn model_in_path(path: ModelPath) -> Result<ModelName> {
    let Path(name) = path.map_err(|_| Error::UnknownEndpoint)?;
    named(&name)
}

pub(super) fn model_and_version(path: VersionPath) -> Result<(ModelName, Version)> {
    let Path((name, version)) = path.map_err(|_| Error::UnknownEndpoint)?;
    let version = version.parse().map_err(|error| Error::InvalidInput(format!("the version in the path: {error}")))?;
    Ok((named(&name)?, version))
}

fn named(name: &str) -> Result<ModelName> {
    name.parse().map_err(|error| Error::InvalidInput(format!("the model in the path: {error}")))
}

/// Reads the body of a change. An empty body counts as `{}`.
pub(super) async fn read_change<T: DeserializeOwned>(request: Request) -> Result<T> {
    // Each change has its own memory, because clients' bodies may use up the memory that they share.
    read_small(request, &MemoryBudget::new(BODY_MEMORY, NonZeroUsize::MIN)).await
}

/// Reads a small body, and reserves memory for it in `memory`. An empty body counts as `{}`.
pub(super) async fn read_small<T: DeserializeOwned>(request: Request, memory: &MemoryBudget) -> Result<T> {
    let (mut head, mut body) = request.into_parts();
    let coding = body::coding(&head.headers)?;
    body = body::decoded(&mut head, body, coding, BODY_LIMIT, memory)?;
    let read = {
        let reading = pin!(body::read(&head.headers, &mut body, BodyLimit::of_changes(BODY_LIMIT), memory));
        tokio::time::timeout(BODY_TIME, reading).await
    };
    let read = read.map_err(|_| Error::RequestTooSlow { limit: BODY_TIME })?;
    if let Err(error) = &read
        && body::is_unread(error)
    {
        body::discard(&head, &mut body, error).await;
    }
    let bytes = read?.whole();
    let bytes: &[u8] = if bytes.trim_ascii().is_empty() { b"{}" } else { &bytes };
    let Object(change) = serde_json::from_slice::<Object<T>>(bytes).map_err(|error| {
        let text: String = error.to_string().chars().take(300).collect();
        Error::InvalidInput(format!("the body: {text}"))
    })?;
    Ok(change)
}

/// Does something with each version on a thread that may block: a verdict on a thousand features takes longer than an
/// answer of others should wait.
pub(super) async fn of_versions<T: Send + 'static>(
    versions: Vec<Arc<ServedVersion>>,
    act: impl FnMut(&Arc<ServedVersion>) -> T + Send + 'static,
) -> Result<Vec<T>, Error> {
    let acted = tokio::task::spawn_blocking(move || versions.iter().map(act).collect());
    acted.await.map_err(Error::internal)
}
