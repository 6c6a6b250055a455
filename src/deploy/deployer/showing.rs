//! What operators are shown.

use super::*;

impl Deployer {
    /// All models, as they are now.
    pub fn overview(&self) -> Overview {
        let state = self.state.lock();
        let loading = |(name, model): (&ModelName, &ModelState)| -> Vec<String> {
            let loading = model.versions.iter().filter(|(_, known)| known.loading.is_some());
            loading.map(|(version, _)| format!("{name} version {version}")).collect()
        };
        Overview {
            loading: state.models.iter().flat_map(loading).collect(),
            models: state.models.values().map(status).collect(),
            problems: state.problems.texts(),
        }
    }

    /// A model, as it is now.
    pub fn model(&self, name: &ModelName) -> Result<ModelStatus> {
        model_mut(&mut self.state.lock(), name).map(|model| status(model))
    }

    /// A version of a model, as it is now.
    pub fn version(&self, name: &ModelName, version: Version) -> Result<VersionStatus> {
        let mut state = self.state.lock();
        let model = model_mut(&mut state, name)?;
        let found = status(model).versions.into_iter().find(|status| status.version == version);
        found.ok_or_else(|| model.unknown(version))
    }

    /// Deployments of a model before this generation, the newest first.
    pub async fn history(&self, name: &ModelName, before: u64, limit: u32) -> Result<Vec<Deployment>> {
        self.deployment(name)?;
        self.journal.history(name, before, limit).await.map_err(|error| self.journal_failed(error))
    }
}

fn status(model: &ModelState) -> ModelStatus {
    let versions: BTreeSet<Version> = model.found.versions.keys().chain(model.versions.keys()).copied().collect();
    ModelStatus {
        model: model.found.name.clone(),
        unserved: model.why_unserved().map(|why| why.reason),
        deployment: model.deployment.clone(),
        config_problem: model.config_problem.clone(),
        deployment_problem: model.deployment_problem.clone(),
        unwritten: model.unwritten.shown(),
        versions: versions.into_iter().rev().map(|version| version_status(model, version)).collect(),
    }
}

fn version_status(model: &ModelState, version: Version) -> VersionStatus {
    let nothing = Known::default();
    let known = model.versions.get(&version).unwrap_or(&nothing);
    let served = known.served.as_ref();
    let state = match (&known.loading, &known.refused) {
        (Some(Loading { step, since, .. }), _) if served.is_none() => {
            VersionState::Loading { step: *step.lock(), since: *since }
        }
        (_, Some(RefusedLoad { fault, problem, .. })) if served.is_none() => {
            VersionState::Refused { fault: *fault, problem: problem.clone() }
        }
        _ if served.is_some() => VersionState::Loaded,
        _ => VersionState::Available,
    };
    // A version that is not loaded shows its manifest as of the last look. It is not verified.
    let on_disk = || model.seen.get(&version).and_then(|seen| seen.manifest.clone());
    let manifest = served.map(|served| Arc::clone(&served.manifest)).or_else(on_disk);
    VersionStatus {
        version,
        state,
        stable: version == model.deployment.stable,
        traffic_percent: model.deployment.traffic.share(version),
        deployed_at: model.deployment.deployed_at.get(&version).copied(),
        loaded_at: served.map(|served| served.loaded_at),
        load_ms: served.map(|served| u64::try_from(served.load_took.as_millis()).unwrap_or(u64::MAX)),
        sessions: served.map(|served| served.place).filter(|place| *place != SessionPlace::Server),
        batching: served.map(|served| served.pipeline.model.sharing().status()),
        remarks: served.map(|served| served.findings.remarks.clone()).unwrap_or_default(),
        sha256: manifest.as_ref().map(|manifest| manifest.identity()),
        reload_problem: known.refused.as_ref().filter(|_| served.is_some()).map(|refused| refused.problem.clone()),
        altered: known.altered.clone(),
        manifest,
    }
}
