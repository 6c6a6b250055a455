//! Changes in the journal of a server that is not running. The next server that starts with this journal serves the new
//! deployment.

use super::deployment::{ChangeRequest, Transition, by_file_only};
use super::journal::{Appended, Journal};
use crate::api::admin::ChangeOutcome;
use crate::error::{OperatorError, Result};
use crate::repository::{Store, Trust, TrustedKeys, VerifiedVersion};

/// Changes the deployment of a model in this journal. Refused if the files of a version that would serve do not match
/// its manifest.
pub async fn change_offline(
    journal: &dyn Journal,
    (store, keys): (&dyn Store, &TrustedKeys),
    request: &ChangeRequest,
) -> Result<ChangeOutcome, OperatorError> {
    let model = &request.model;
    let Some(present) = journal.history(model, u64::MAX, 1).await?.pop() else {
        return Err(OperatorError::ChangeRefused(format!("the journal has no model {model} (state.url)")));
    };
    if request.wish != Transition::Rollback && store.read_deployment(model).is_ok_and(|file| file.is_some()) {
        return Err(by_file_only(model));
    }
    let before = present.traffic.clone();
    let Some(next) = present.requested(request)? else {
        return Ok(ChangeOutcome { changed: false, deployment: present, before, unwritten: None, lagging: Vec::new() });
    };
    let shadowed = next.shadowed_version().filter(|_| matches!(request.wish, Transition::Shadow(_)));
    for version in next.serving_versions().chain(shadowed) {
        let trust = Trust { keys, model, version };
        let verified = store.materialise(model, version).and_then(|place| VerifiedVersion::read_trusted(place, trust));
        verified.map_err(|refusal| {
            OperatorError::ChangeRefused(format!(
                "version {version} could not be served, so nothing was changed: {refusal}"
            ))
        })?;
    }
    match journal.append(&next).await? {
        Appended::Written => {
            Ok(ChangeOutcome { changed: true, deployment: next, before, unwritten: None, lagging: Vec::new() })
        }
        Appended::Lost(_) => Err(OperatorError::ChangeRefused(format!(
            "model {model} was changed by another process at the same time; check its deployment and try again"
        ))),
    }
}
