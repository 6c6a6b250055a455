//! Tries a version out, unless an earlier start has done it: the findings and the optimised graph are remembered
//! (`repository/load_cache.rs`).

use super::findings::{Findings, WarmUp};
use super::load_order::{LoadOrder, LoadStep};
use super::opened_version::OpenedVersion;
use super::trial::{GraphOrder, Trial};
use crate::config::{Provider, SessionPlace};
use crate::error::Result;
use crate::identity::Sha256;
use crate::machine;
use crate::model::onnx::OnnxRuntime;
use crate::model::{OptimisedGraph, Session};
use crate::repository::{CacheKey, FoundVersion, GraphStaging, KeptGraph, LoadCache, Refusal};

/// Minimum size of a model whose graph is kept, in bytes. Smaller models are optimised in less time than their graph is
/// verified.
const MIN_MODEL: u64 = 16 << 20;

/// What is known of a version before the server opens it.
#[derive(Debug, Default)]
pub(super) struct Tried {
    /// Findings of its trial; `None` without trials.
    pub(super) findings: Option<Findings>,
    /// Its optimised graph, if one is kept.
    pub(super) graph: Option<KeptGraph>,
    /// Key of the findings, if they are remembered.
    key: Option<CacheKey>,
}

impl Tried {
    /// Verifies the files of a version, and returns the findings of its trial: of this one, or of an earlier one of the same
    /// files with the same settings on the same machine.
    pub(super) fn of(
        trial: Option<&Trial>,
        order: &LoadOrder,
        found: &FoundVersion,
        progress: &dyn Fn(LoadStep),
    ) -> Result<Tried, Refusal> {
        let Some((trial, cache)) = trial.and_then(|trial| Some((trial, trial.cache.as_ref()?))) else {
            found.check_digests()?;
            let Some(trial) = trial else { return Ok(Tried::default()) };
            progress(LoadStep::Trying);
            return Ok(Tried { findings: Some(trial.run(order, found)?), ..Tried::default() });
        };
        let key = key_of_trial(trial, cache, order, found);
        let key_of_graph = key_of_graph(cache, order, found);
        let findings = key.and_then(|key| serde_json::from_slice::<Findings>(&cache.findings(key)?).ok());
        if let Some(findings) = findings {
            let graph = key_of_graph.filter(|_| findings.graph_answers.is_some()).and_then(|key| cache.graph(key));
            if graph.is_some() == findings.graph_answers.is_some() {
                tracing::info!(
                    model = %order.model, version = %order.version,
                    "not tried out again: the same files were tried out on this machine with the same settings"
                );
                // The model itself is verified when it is opened.
                found.check_other_digests()?;
                return Ok(Tried { findings: Some(findings), graph, key });
            }
        }
        found.check_digests()?;
        let graph = key_of_graph.and_then(|key| cache.graph(key)).filter(KeptGraph::is_intact);
        progress(LoadStep::Trying);
        let staging: Option<GraphStaging> =
            if graph.is_none() { key_of_graph.and_then(|_| cache.stage_graph(found.model_files().0)) } else { None };
        let graph_order = match (&graph, &staging) {
            (Some(graph), _) => Some(GraphOrder::Open(graph.folder())),
            (None, Some(staging)) => Some(GraphOrder::Make(staging.path().to_owned())),
            (None, None) => None,
        };
        let mut findings = trial.run_with_graph(order, found, graph_order)?;
        let graph = match (&findings.graph_answers, graph, staging, key_of_graph) {
            (Some(_), Some(graph), ..) => Some(graph),
            (Some(_), None, Some(staging), Some(key)) => cache.keep_graph(key, staging),
            _ => None,
        };
        if graph.is_none() {
            findings.graph_answers = None;
        }
        if let (Some(key), Ok(text)) = (key, serde_json::to_vec(&findings)) {
            cache.keep_findings(key, &text);
        }
        Ok(Tried { findings: Some(findings), graph, key })
    }

    /// Forgets what was remembered of a version, because its kept graph is damaged, or does not answer as it did.
    pub(super) fn forget(&self, trial: Option<&Trial>, order: &LoadOrder, problem: &str) {
        tracing::warn!(
            model = %order.model, version = %order.version, problem,
            "the kept graph of the model is not used; the version is opened from its files, and tried out at the next start"
        );
        let Some(cache) = trial.and_then(|trial| trial.cache.as_ref()) else { return };
        if let Some(graph) = &self.graph {
            cache.forget_graph(graph.key());
        }
        if let Some(key) = self.key {
            cache.forget_findings(key);
        }
    }
}

/// Returns the key of the findings of a trial, which depend on the settings and on all files of the version.
fn key_of_trial(trial: &Trial, cache: &LoadCache, order: &LoadOrder, found: &FoundVersion) -> Option<CacheKey> {
    let identity = found.manifest().identity().to_string();
    let config = serde_json::to_string(&*order.config).ok()?;
    let memory = machine::memory_limit().unwrap_or_default().to_string();
    Some(cache.key(&["trial", &identity, &config, &trial.limits(), &memory]))
}

/// Returns the key of the graph of a version's model, which depends on the model and its weights only. `None` if no graph is
/// kept: the model is small, or does not run on the processor in the server's process.
fn key_of_graph(cache: &LoadCache, order: &LoadOrder, found: &FoundVersion) -> Option<CacheKey> {
    let (size, digest) = found.model_files();
    let is_kept =
        size >= MIN_MODEL && order.place == SessionPlace::Server && order.config.model.providers == [Provider::Cpu];
    is_kept.then(|| cache.key(&["graph", &digest.to_string()]))
}

impl OpenedVersion {
    /// Makes or opens an optimised graph, and compares its answers to the first rows with those of a session on the model's
    /// file. If they are the same, twice, later sessions are opened on the graph, and their digest is returned. Used in the
    /// process of a trial.
    pub(super) fn prove_graph(
        &mut self,
        runtime: &OnnxRuntime,
        order: GraphOrder,
        session: &mut dyn Session,
        warm_up: &WarmUp,
    ) -> Result<Option<Sha256>, Refusal> {
        let Some(expected) = self.answers(session, warm_up) else { return Ok(None) };
        let graph = match order {
            GraphOrder::Open(folder) => OptimisedGraph::in_folder(&folder),
            GraphOrder::Make(folder) => {
                match runtime.optimise(&*self.verified.source(), &self.config().model, &folder) {
                    Ok(graph) => graph,
                    // Not every graph can be written.
                    Err(_) => return Ok(None),
                }
            }
        };
        let signature = self.signature().clone();
        self.open_on(runtime, Some(graph))?;
        let is_same = self.signature() == &signature
            && self
                .session()
                .is_ok_and(|mut session| (0..2).all(|_| self.answers(&mut *session, warm_up) == Some(expected)));
        if !is_same {
            self.open_on(runtime, None)?;
        }
        Ok(is_same.then_some(expected))
    }

    /// Returns a digest of the outputs of a session for the first rows. `None` if there are none, or the run fails.
    pub(super) fn answers(&self, session: &mut dyn Session, warm_up: &WarmUp) -> Option<Sha256> {
        let WarmUp::Ran(rows) = warm_up else { return None };
        let outputs = session.run(&self.inputs(rows, rows.count)?).ok()?;
        let mut bytes = Vec::new();
        for (name, tensor) in outputs.iter() {
            bytes.extend_from_slice(
                format!("{name} {:?} {}\n", tensor.shape(), tensor.data().dtype().name()).as_bytes(),
            );
            tensor.data().write_raw(&mut bytes);
        }
        Some(Sha256::of(&bytes))
    }
}
