//! Returns the findings of the trial of a version. They and the optimised graph of the model are kept for later starts
//! (`repository/load_cache.rs`), which then make no trial.

use super::findings::{Findings, GraphFinding, WarmUp};
use super::load_order::{LoadOrder, LoadStep};
use super::opened_version::OpenedVersion;
use super::trial::{GraphOrder, Trial};
use crate::config::{Provider, SessionPlace};
use crate::error::{LoadFault, Result};
use crate::identity::Sha256;
use crate::machine;
use crate::model::onnx::OnnxRuntime;
use crate::model::{OptimisedGraph, Session};
use crate::repository::{CacheKey, FoundVersion, KeptGraph, LoadCache, Refusal};

/// Minimum size of a model whose graph is kept, in bytes. Smaller models are optimised in less time than their graph is
/// verified.
const MIN_MODEL: u64 = 16 << 20;

/// Findings of the trial of a version, before the server opens it.
#[derive(Debug, Default)]
pub(super) struct Tried {
    /// The findings; `None` without trials.
    pub(super) findings: Option<Findings>,
    /// The optimised graph of the model, if one is kept.
    pub(super) graph: Option<KeptGraph>,
    /// Key of the findings, if they are kept.
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
        let (key, key_of_graph) = (key_of_trial(trial, cache, order, found), key_of_graph(cache, order, found));
        if let Some(tried) = key.and_then(|key| Tried::earlier(cache, key, key_of_graph, found)) {
            tracing::info!(
                model = %order.model, version = %order.version,
                "not tried out again: the same files were tried out on this machine with the same settings"
            );
            // The model itself is verified when it is opened.
            found.check_other_digests()?;
            return Ok(tried);
        }
        found.check_digests()?;
        progress(LoadStep::Trying);
        let (findings, graph) = match key_of_graph {
            Some(key) => try_with_graph(trial, cache, order, found, key)?,
            None => (trial.run(order, found)?, None),
        };
        if let (Some(key), Ok(text)) = (key, serde_json::to_vec(&findings)) {
            cache.keep_findings(key, &text);
        }
        Ok(Tried { findings: Some(findings), graph, key })
    }

    /// Returns the kept findings of an earlier trial. `None` if a graph that they speak of is not kept any more, or if one can
    /// be made that could not be made then.
    fn earlier(
        cache: &LoadCache,
        key: CacheKey,
        key_of_graph: Option<CacheKey>,
        found: &FoundVersion,
    ) -> Option<Tried> {
        let findings: Findings = serde_json::from_slice(&cache.findings(key)?).ok()?;
        let graph = match (&findings.graph, key_of_graph) {
            (GraphFinding::Same(_), Some(key)) => Some(cache.graph(key)?),
            (GraphFinding::Untried, Some(_)) if cache.has_room(found.model_files().0) => return None,
            _ => None,
        };
        Some(Tried { findings: Some(findings), graph, key: Some(key) })
    }

    /// Removes the kept graph and the findings of a version, because the graph is damaged, or does not answer as in the trial.
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

/// Tries a version out, and makes the optimised graph of its model, or compares the answers of the one that is kept.
fn try_with_graph(
    trial: &Trial,
    cache: &LoadCache,
    order: &LoadOrder,
    found: &FoundVersion,
    key: CacheKey,
) -> Result<(Findings, Option<KeptGraph>), Refusal> {
    let mut kept = cache.graph(key);
    if kept.as_ref().is_some_and(|graph| !graph.is_intact()) {
        cache.forget_graph(key);
        kept = None;
    }
    let staging = if kept.is_none() { cache.stage_graph(found.model_files().0) } else { None };
    let graph_order = match (&kept, &staging) {
        (Some(graph), _) => GraphOrder::Open(graph.folder()),
        (None, Some(staging)) => GraphOrder::Make(staging.path().to_owned()),
        (None, None) => return Ok((trial.run(order, found)?, None)),
    };
    let mut findings = match trial.run_with_graph(order, found, Some(graph_order)) {
        // A graph takes more memory and time, and may be what the runtime fails at.
        Err(refusal) if matches!(refusal.fault, LoadFault::Trial | LoadFault::Resources) => {
            Findings { graph: GraphFinding::Unusable, ..trial.run(order, found)? }
        }
        tried => tried?,
    };
    let graph = match (&findings.graph, kept, staging) {
        (GraphFinding::Same(_), Some(kept), _) => Some(kept),
        (GraphFinding::Same(_), None, Some(staging)) => cache.keep_graph(key, staging),
        _ => None,
    };
    if graph.is_none() && matches!(findings.graph, GraphFinding::Same(_)) {
        findings.graph = GraphFinding::Untried;
    }
    Ok((findings, graph))
}

/// Returns the key of the findings of a trial, which depend on the settings and on all files of the version. `None` if they
/// depend on more: on a GPU and its driver.
fn key_of_trial(trial: &Trial, cache: &LoadCache, order: &LoadOrder, found: &FoundVersion) -> Option<CacheKey> {
    if order.config.model.providers != [Provider::Cpu] {
        return None;
    }
    let identity = found.manifest().identity().to_string();
    let config = serde_json::to_string(&*order.config).ok()?;
    let place = serde_json::to_string(&order.place).ok()?;
    let memory = machine::memory_limit().unwrap_or_default().to_string();
    Some(cache.key(&["trial", &identity, &config, &place, &trial.limits(), &memory]))
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
    /// file. If they are the same, twice, later sessions are opened on the graph. Used in the process of a trial.
    pub(super) fn prove_graph(
        &mut self,
        runtime: &OnnxRuntime,
        order: GraphOrder,
        session: &mut dyn Session,
        warm_up: &WarmUp,
    ) -> Result<GraphFinding, Refusal> {
        let Some(expected) = self.answers(session, warm_up) else { return Ok(GraphFinding::Unusable) };
        let graph = match order {
            GraphOrder::Open(folder) => OptimisedGraph::in_folder(&folder),
            GraphOrder::Make(folder) => {
                match runtime.optimise(&*self.verified.source(), &self.config().model, &folder) {
                    Ok(graph) => graph,
                    // Not every graph can be written.
                    Err(_) => return Ok(GraphFinding::Unusable),
                }
            }
        };
        let signature = self.signature().clone();
        let is_same = self.open_on(runtime, Some(graph)).is_ok()
            && self.signature() == &signature
            && self
                .session()
                .is_ok_and(|mut session| (0..2).all(|_| self.answers(&mut *session, warm_up) == Some(expected)));
        if !is_same {
            self.open_on(runtime, None)?;
            return Ok(GraphFinding::Unusable);
        }
        Ok(GraphFinding::Same(expected))
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
