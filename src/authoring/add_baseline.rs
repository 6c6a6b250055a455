//! Adds or replaces the baseline of a version that is not in use yet.

use std::path::Path;

use super::add::order;
use super::staging::{Staging, at};
use super::training_data::{BaselineData, Progress, make_baseline};
use crate::error::{Result, SetupError};
use crate::identity::Version;
use crate::model::Engine;
use crate::monitor::Baseline;
use crate::pipeline::Stages;
use crate::registry::{MAX_COMPARING, OpenedVersion};
use crate::repository::{
    BASELINE_FILE, Manifest, Refusal, Trust, TrustedKeys, VerifiedVersion, files_in, model_in_folder,
};

/// Makes a baseline for an existing version. The version is replaced as a whole, and gets another digest. Also returns
/// remarks on the data.
pub fn add_baseline(
    model: &Path,
    version: Version,
    data: &BaselineData,
    trusted: &TrustedKeys,
    engine: &dyn Engine,
    stages: &Stages,
    progress: &dyn Fn(Progress),
) -> Result<(Manifest, Baseline, Vec<String>), SetupError> {
    let model = model.canonicalize().map_err(|error| at(model, &error))?;
    let found = model_in_folder(&model)?;
    if !found.versions.contains(&version) {
        let known: Vec<String> = found.versions.iter().map(Version::to_string).collect();
        let (model, known) = (model.display(), known.join(", "));
        return Err(SetupError::Repository(format!("{model}: there is no version {version}; versions: {known}")));
    }
    let folder = model.join(version.to_string());
    let refused = |refusal: Refusal| SetupError::Repository(format!("{}: {refusal}", folder.display()));
    let order = order(&model, version)?;
    let trust = Trust { keys: trusted, model: &order.model, version };
    let verified = VerifiedVersion::read_trusted(&folder, trust).map_err(refused)?;
    let facts = Manifest::clone(&verified.manifest);
    let opened = OpenedVersion::open(engine, stages, &order, verified).map_err(refused)?;
    let findings =
        opened.session().and_then(|mut session| opened.examine(&mut *session, MAX_COMPARING)).map_err(refused)?;
    let (baseline, remarks) = make_baseline(data, &opened, &findings, progress)?;

    let staging = Staging::create(&model)?;
    for (name, path) in files_in(&folder).map_err(refused)? {
        let to = staging.path().join(name.as_str());
        to.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(|error| at(&to, &error))?;
        std::fs::copy(&path, &to).map_err(|error| at(&path, &error))?;
    }
    staging.write_json(&baseline, BASELINE_FILE)?;
    let manifest = Manifest::write(facts, staging.path())?;
    VerifiedVersion::read(staging.path()).map_err(refused)?;
    staging.sync()?;
    staging.replace_version(&folder)?;
    Ok((manifest, baseline, remarks))
}
