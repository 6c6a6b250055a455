//! Owns what is loaded: looks at the repository, loads and retires versions, changes deployments, publishes snapshots.
//!
//! What is to be done is decided elsewhere (`deployment.rs`, `reconcile.rs`); here it is done. A change is written to the
//! journal before it is published, and loading is done before it is written: so what the journal says can be served.
//! No lock is held while something is loaded, so that a rollback never waits for that.
//!
//! What is known is here; `starting.rs`, `loading.rs`, `changing.rs`, `looking.rs`, `writing.rs` and `showing.rs` have what is
//! done with it.

mod changing;
mod loading;
mod looking;
mod showing;
mod starting;
mod writing;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot, watch};

use self::writing::Unwritten;
use super::deployment::{Deployment, Note, Wish};
use super::journal::{Appended, Journal};
use super::reconcile::{Hold, Live, Step, reconcile, wanted};
use super::status::{Deployed, ModelStatus, Overview, VersionState, VersionStatus};
use crate::config::{ModelConfig, RepositoryConfig};
use crate::error::{Error, LoadFault, Result};
use crate::identity::{ModelName, Version};
use crate::monitor::{DeployedShare, StatePart};
use crate::registry::{
    Catalog, Fingerprint, FoundModel, LoadOrder, LoadStep, Loader, Manifest, Pace, PreparedVersion, ServedModel,
    ServedVersion, Snapshot, VerifiedVersion, lower_priority_of_this_thread, scan,
};
use crate::traffic::Share;

/// How often a change is tried anew that was decided on a state which is gone, if that does not matter to who wants it.
const ATTEMPTS: usize = 16;

/// Loads that go on at one time: each takes the memory of a model, and one of them the other cores.
const LOADS_AT_ONE_TIME: usize = 2;

/// Owns what is loaded and what is deployed.
#[derive(Debug)]
pub struct Deployer {
    loader: Arc<Loader>,
    journal: Arc<dyn Journal>,
    catalog: Arc<Catalog>,
    repository: RepositoryConfig,
    state: Mutex<State>,
    /// Held while a deployment is written and taken over.
    writing: tokio::sync::Mutex<()>,
    /// Held while the repository is looked at.
    looking: tokio::sync::Mutex<()>,
    loads: Arc<Semaphore>,
}

/// What is known of the repository.
#[derive(Debug, Default)]
struct State {
    models: BTreeMap<ModelName, ModelState>,
    problems: Vec<String>,
}

/// What is known of a model.
#[derive(Debug)]
struct ModelState {
    found: FoundModel,
    config: Arc<ModelConfig>,
    config_mark: Fingerprint,
    config_problem: Option<String>,
    deployment: Deployment,
    deployment_problem: Option<String>,
    unwritten: Unwritten,
    versions: BTreeMap<Version, Known>,
    holds: BTreeMap<Version, Hold>,
}

/// What is known of a version that somebody wanted to be loaded.
#[derive(Debug, Default)]
struct Known {
    served: Option<Arc<ServedVersion>>,
    loading: Option<Loading>,
    refused: Option<RefusedLoad>,
    /// What the folder of a loaded version looked like when its files were last compared.
    compared: Fingerprint,
    altered: Option<String>,
}

#[derive(Debug)]
struct Loading {
    step: Arc<Mutex<LoadStep>>,
    since: Timestamp,
    done: watch::Receiver<Option<Result<()>>>,
}

/// A load that failed, and what it failed on: it is not tried again before one of them has changed.
#[derive(Debug)]
struct RefusedLoad {
    fault: LoadFault,
    problem: String,
    folder: Fingerprint,
    config: Fingerprint,
}

/// Which `model.toml` a version has to be loaded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LoadedWith {
    /// Whichever: it answers.
    Any,
    /// The one there is now.
    Present,
}

/// A change that somebody asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Of which model.
    pub model: ModelName,
    /// What is wanted.
    pub wish: Wish,
    /// Who wants it, why, and when.
    pub note: Note,
    /// The generation that this was decided on; without it, whatever there is.
    pub if_generation: Option<u64>,
}

// ===== impl ModelState =====

impl ModelState {
    fn is_loaded(&self, version: Version) -> bool {
        self.versions.get(&version).is_some_and(|known| known.served.is_some())
    }

    fn live(&self) -> BTreeMap<Version, Live> {
        let live = |known: &Known| match (&known.loading, &known.served) {
            (Some(_), _) => Some(Live::Loading),
            (None, Some(served)) if served.config == self.config => Some(Live::Loaded),
            // It was loaded anew, and that failed: it stays as it is.
            (None, Some(_)) if known.refused.is_some() => Some(Live::Loaded),
            (None, Some(_)) => Some(Live::Outdated),
            (None, None) => known.refused.as_ref().map(|_| Live::Refused),
        };
        self.versions.iter().filter_map(|(version, known)| Some((*version, live(known)?))).collect()
    }

    fn unknown(&self, version: Version) -> Error {
        let known: BTreeSet<Version> = self.found.versions.keys().copied().collect();
        Error::UnknownVersion {
            model: self.found.name.clone(),
            version: version.to_string(),
            known: known.iter().map(Version::to_string).collect(),
        }
    }
}

fn model_mut<'a>(state: &'a mut State, name: &ModelName) -> Result<&'a mut ModelState> {
    if state.models.contains_key(name) {
        return state.models.get_mut(name).ok_or_else(|| Error::internal("a model vanished"));
    }
    let known = state.models.keys().map(ModelName::to_string).collect();
    Err(Error::UnknownModel { model: name.to_string(), known })
}
