//! The catalog of served models: an immutable snapshot, replaced as a whole.
//!
//! A request takes a version from one snapshot and keeps it until it is answered, so nothing that the request reads can
//! change meanwhile. A new version becomes visible by publishing a new snapshot, never by changing one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use serde_json::value::RawValue;

use super::findings::Findings;
use crate::budget::{LatencyBudget, StageCosts};
use crate::config::{Chain, ChainStep, ModelConfig, SessionPlace};
use crate::error::{Error, Result};
use crate::identity::{ModelName, Sha256, Version, VersionKey};
use crate::monitor::VersionRecorder;
use crate::pipeline::{Pipeline, PredictionKind};
use crate::repository::Fingerprint;
use crate::repository::Manifest;
use crate::traffic::{Share, TrafficSplit};

/// The snapshot that new requests see.
#[derive(Debug, Default)]
pub struct Catalog {
    snapshot: ArcSwap<Snapshot>,
}

/// The models and versions that are served at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    models: BTreeMap<ModelName, ServedModel>,
    /// Models that are known but not served, with the reason.
    unserved: BTreeMap<ModelName, String>,
    default_model: Option<ModelName>,
}

/// A model that is served.
#[derive(Debug)]
pub struct ServedModel {
    /// Description of the model, for people.
    pub description: Option<String>,
    /// Its loaded versions.
    pub versions: BTreeMap<Version, Arc<ServedVersion>>,
    /// The stable version.
    pub stable: Version,
    /// Traffic split of requests that do not name a version.
    pub split: TrafficSplit,
    /// The version that gets copies of requests, if there is one.
    pub shadow: Option<Arc<ServedShadow>>,
}

/// A loaded version that gets copies of a share of the requests that the stable version answers.
#[derive(Debug)]
pub struct ServedShadow {
    /// The version that gets the copies.
    pub version: Arc<ServedVersion>,
    share: Share,
    /// Number of requests that could have been copied.
    seen: AtomicU64,
}

/// A version that is served.
#[derive(Debug)]
pub struct ServedVersion {
    /// The model's name.
    pub model: ModelName,
    pub version: Version,
    /// Key of the version in prediction ids.
    pub key: VersionKey,
    /// The digest of all its files.
    pub sha256: Sha256,
    pub manifest: Arc<Manifest>,
    /// Fingerprint of its folder when it was loaded.
    pub fingerprint: Fingerprint,
    /// The `model.toml` it was loaded with.
    pub config: Arc<ModelConfig>,
    /// Placement of its sessions: in the server, or in their own processes.
    pub place: SessionPlace,
    /// Time of its load.
    pub loaded_at: Timestamp,
    pub load_took: Duration,
    /// `{"name", "version", "sha256"}`, as in every response.
    pub identity: Box<RawValue>,
    /// An instance that a caller can send as it is; `None` if none is known, or if it is too large.
    pub example: Option<Box<RawValue>>,
    /// Latency budget of a request.
    pub budget: LatencyBudget,
    /// The work that answers a request.
    pub work: Work,
    /// Handles of the metrics of its requests.
    pub recorder: Arc<VersionRecorder>,
}

/// The work that answers a request.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "versions are few, and every request reads the stages")]
pub enum Work {
    /// The stages around an ONNX model.
    Pipeline(ServedPipeline),
    /// Other models, which run in order.
    Chain(ServedChain),
}

/// The stages of a version, with what is known of them.
#[derive(Debug)]
pub struct ServedPipeline {
    /// The stages of a request.
    pub stages: Pipeline,
    /// Costs of the stages before and after the model.
    pub costs: StageCosts,
    /// Number of threads of one run.
    pub intra_op_threads: usize,
    /// Findings of its first runs.
    pub findings: Findings,
}

/// A chain that is served. Its steps are other served versions, which each request takes from one snapshot.
#[derive(Debug)]
pub struct ServedChain {
    /// The steps.
    pub chain: Chain,
    /// Costs of reading the request and of writing the answer.
    pub costs: StageCosts,
    /// Costs of the preprocessing of each step, with the making of its instances.
    pub step_costs: Vec<StageCosts>,
}

/// The model or version that a request is for, from its URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// The default model.
    Default,
    /// A model by name.
    Model(&'a str),
    /// A pinned version of a model.
    Version(&'a str, &'a str),
}

// ===== impl Catalog =====

impl Catalog {
    /// Returns the current snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Returns the version that answers this request.
    pub fn resolve(&self, target: Target<'_>, key: &[u8]) -> Result<Arc<ServedVersion>> {
        self.snapshot.load().resolve(target, key).cloned()
    }

    /// Returns the version that answers this request, and the version that gets a copy of the request, if it is to be
    /// copied.
    pub fn resolve_with_shadow(
        &self,
        target: Target<'_>,
        key: &[u8],
    ) -> Result<(Arc<ServedVersion>, Option<Arc<ServedShadow>>)> {
        let snapshot = self.snapshot.load();
        let (model, version) = snapshot.resolve_in_model(target, key)?;
        let shadow = model.shadow.as_ref().filter(|shadow| {
            !matches!(target, Target::Version(..)) && version.version == model.stable && shadow.samples()
        });
        Ok((Arc::clone(version), shadow.cloned()))
    }

    /// Publishes a snapshot, which new requests see from now on.
    pub fn publish(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
    }
}

// ===== impl Snapshot =====

impl Snapshot {
    /// Creates a snapshot of these models, and of those that are known but not served. The default model may be in
    /// either group.
    pub fn new(
        models: BTreeMap<ModelName, ServedModel>,
        unserved: BTreeMap<ModelName, String>,
        default_model: Option<ModelName>,
    ) -> Snapshot {
        Snapshot { models, unserved, default_model }
    }

    /// Returns the models that are known but not served, with the reason, without paths.
    pub fn unserved(&self) -> &BTreeMap<ModelName, String> {
        &self.unserved
    }

    /// Returns the served models, by name.
    pub fn models(&self) -> &BTreeMap<ModelName, ServedModel> {
        &self.models
    }

    /// Returns the model that answers `POST /predict`.
    pub fn default_model(&self) -> Option<&ModelName> {
        self.default_model.as_ref()
    }

    /// Returns the model with this name.
    pub fn model(&self, name: &str) -> Result<(&ModelName, &ServedModel)> {
        self.models.get_key_value(name).ok_or_else(|| match self.unserved.get_key_value(name) {
            Some((model, reason)) => Error::ModelUnavailable { model: model.clone(), reason: reason.clone() },
            None => Error::UnknownModel { model: name.chars().take(64).collect(), known: names(&self.models) },
        })
    }

    /// Returns the version that answers this request: the named one, or else the one that the traffic split picks for
    /// the key.
    pub fn resolve(&self, target: Target<'_>, key: &[u8]) -> Result<&Arc<ServedVersion>> {
        self.resolve_in_model(target, key).map(|(_, version)| version)
    }

    /// Returns the version that answers this request, and its model.
    fn resolve_in_model(&self, target: Target<'_>, key: &[u8]) -> Result<(&ServedModel, &Arc<ServedVersion>)> {
        let (name, model) = match target {
            Target::Default => match &self.default_model {
                Some(name) => self.model(name.as_str())?,
                None => return Err(Error::NoDefaultModel { known: names(&self.models) }),
            },
            Target::Model(name) | Target::Version(name, _) => self.model(name)?,
        };
        let (found, asked) = match target {
            Target::Version(_, version) => {
                let parsed = version.parse().ok();
                (parsed.and_then(|version: Version| model.versions.get(&version)), version.chars().take(64).collect())
            }
            Target::Default | Target::Model(_) => {
                let version = model.split.pick(name, key);
                (model.versions.get(&version), version.to_string())
            }
        };
        found.map(|found| (model, found)).ok_or_else(|| Error::UnknownVersion {
            model: name.clone(),
            version: asked,
            known: model.versions.keys().map(Version::to_string).collect(),
        })
    }

    /// Returns the stable version of a model, or, if it is not loaded, the newest of the loaded versions.
    pub fn stable_or_newest(&self, name: &str) -> Result<&Arc<ServedVersion>> {
        let (name, model) = self.model(name)?;
        let reason = || "none of its versions is loaded".to_owned();
        model.stable_or_newest().ok_or_else(|| Error::ModelUnavailable { model: name.clone(), reason: reason() })
    }

    /// Returns the versions of the steps of a chain: the named ones, or else those that the traffic splits pick for the key.
    pub fn steps_of(&self, chain: &Chain, key: &[u8]) -> Result<Vec<Arc<ServedVersion>>> {
        let step = |step: &ChainStep| match step.version {
            Some(version) => self.resolve(Target::Version(step.model.as_str(), &version.to_string()), key).cloned(),
            None => self.resolve(Target::Model(step.model.as_str()), key).cloned(),
        };
        chain.steps.iter().map(step).collect()
    }

    /// Returns every loaded version of every served model.
    pub fn versions(&self) -> impl Iterator<Item = &Arc<ServedVersion>> {
        self.models.values().flat_map(|model| model.versions.values())
    }
}

impl ServedModel {
    /// Returns the stable version, or, if it is not loaded, the newest of the loaded versions.
    pub fn stable_or_newest(&self) -> Option<&Arc<ServedVersion>> {
        self.versions.get(&self.stable).or_else(|| self.versions.values().next_back())
    }
}

impl ServedShadow {
    /// Creates the record of a version that gets copies of this share of the requests.
    pub fn new(version: Arc<ServedVersion>, share: Share) -> ServedShadow {
        ServedShadow { version, share, seen: AtomicU64::new(0) }
    }

    /// Returns true if the next request is to be copied. Does not depend on the request.
    fn samples(&self) -> bool {
        self.share == Share::ALL || scattered(self.seen.fetch_add(1, Relaxed)) < self.share.ratio()
    }
}

/// Returns a pseudorandom number from 0 to 1 for a number, by SplitMix64 (Steele, Lea, Flood: Fast Splittable
/// Pseudorandom Number Generators, OOPSLA 2014). Numbers in a row have unrelated results, so that no pattern in the order of
/// requests meets a pattern in the choice.
fn scattered(number: u64) -> f64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

impl ServedVersion {
    /// Returns true if all workers of the version have been in their current runs for longer than `limit`.
    pub fn is_stuck(&self, limit: Duration) -> bool {
        self.pipeline().and_then(|pipeline| pipeline.model.all_busy_for()).is_some_and(|busy| busy > limit)
    }

    /// Returns the stages around the model; `None` for a chain.
    pub fn pipeline(&self) -> Option<&Pipeline> {
        match &self.work {
            Work::Pipeline(pipeline) => Some(&pipeline.stages),
            Work::Chain(_) => None,
        }
    }

    /// Returns the findings of the first runs; `None` for a chain.
    pub fn findings(&self) -> Option<&Findings> {
        match &self.work {
            Work::Pipeline(pipeline) => Some(&pipeline.findings),
            Work::Chain(_) => None,
        }
    }

    /// Returns the steps, if the version is a chain.
    pub fn chain(&self) -> Option<&Chain> {
        match &self.work {
            Work::Pipeline(_) => None,
            Work::Chain(served) => Some(&served.chain),
        }
    }

    /// Returns the kind of the version's own predictions. Those of a chain have no fixed columns; if they are the
    /// predictions of its last step, that step has their kind.
    pub fn prediction_kind(&self) -> PredictionKind {
        self.pipeline().map_or(PredictionKind::Other, |pipeline| pipeline.postprocessor.prediction_kind())
    }
}

fn names(models: &BTreeMap<ModelName, ServedModel>) -> Vec<String> {
    models.keys().map(ModelName::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first results of SplitMix64 from the seed 0, by the reference implementation of Vigna (splitmix64.c).
    #[test]
    fn the_share_of_the_sampled_requests_is_the_configured_one() {
        let first = 0xe220_a839_7b1d_cdaf_u64;
        assert_eq!(scattered(0), (first >> 11) as f64 / (1u64 << 53) as f64);
        for share in [0.01, 0.2, 0.999] {
            let sampled = (0..100_000).filter(|number| scattered(*number) < share).count() as f64;
            let deviation = (100_000.0 * share * (1.0 - share)).sqrt();
            assert!((sampled - 100_000.0 * share).abs() < 4.0 * deviation, "{sampled} of 100,000 for {share}");
        }
    }
}
