//! Computes the next deployment of a model from the current one and a requested change. Pure: nothing is loaded or
//! written here.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::api::admin::{Action, Change, Deployment};
use crate::config::{DEPLOYMENT_FILE, DeploymentFile};
use crate::error::{OperatorError, Result};
use crate::identity::{ModelName, Version};
use crate::traffic::{Shadow, TrafficSplit};

/// Maximum number of versions in the rollback path.
const MAX_PATH: usize = 16;

/// Maximum length of the stored author or reason of a change, in characters.
const MAX_TEXT_CHARS: usize = 1_000;

/// Kind of a change of a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    /// Divide the traffic by this split. The stable version stays the same.
    Traffic(TrafficSplit),
    /// Make a version the stable one, with all requests.
    Promote(Version),
    /// Copy requests to a version, whose answers are only compared; `None` ends this.
    Shadow(Option<Shadow>),
    /// Deploy what `deployment.toml` says.
    File(Arc<DeploymentFile>),
    /// Give all requests to the stable version; if it has them already, make the one before it stable again.
    Rollback,
}

/// Author, reason and time of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeNote {
    /// Name of the author.
    pub by: String,
    pub reason: String,
    /// Time of the change.
    pub at: Timestamp,
}

/// A requested change of a model's deployment.
#[derive(Debug, Clone)]
pub struct ChangeRequest {
    pub model: ModelName,
    /// The requested change.
    pub wish: Transition,
    /// Author, reason and time of the change.
    pub note: ChangeNote,
    /// Generation that the decision was based on. The change is refused if the current generation is another one.
    pub if_generation: Option<u64>,
}

impl Deployment {
    /// Returns the first deployment of a model: all requests go to one version.
    pub fn first(model: ModelName, stable: Version, at: Timestamp) -> Deployment {
        Deployment {
            model,
            generation: 1,
            stable,
            traffic: TrafficSplit::all_to(stable),
            shadow: None,
            rollback_path: Vec::new(),
            file: None,
            deployed_at: BTreeMap::from([(stable, at)]),
            change: Change {
                action: Action::Discover,
                by: "leeway".to_owned(),
                reason: "the highest version, when the model was first seen".to_owned(),
                at,
            },
        }
    }

    /// Returns the first deployment of a model with a `deployment.toml`.
    pub fn first_by_file(model: ModelName, file: &DeploymentFile, at: Timestamp) -> Deployment {
        let first = Deployment::first(model, file.stable, at);
        let deployed_at = file.traffic.shares().map(|(version, _)| (version, at)).collect();
        let change = Change { action: Action::File, by: one_line(&file.by), reason: one_line(&file.reason), at };
        Deployment {
            traffic: file.traffic.clone(),
            shadow: file.shadow,
            file: Some(file.sha256),
            deployed_at,
            change,
            ..first
        }
    }

    /// Returns the deployment after a change of this one, or `None` if this one is already as requested.
    ///
    /// ```
    /// use leeway::api::admin::Deployment;
    /// use leeway::deploy::{ChangeNote, Transition};
    /// let at = "2026-11-24T09:30:00Z".parse().unwrap();
    /// let note = ChangeNote { by: "ada".into(), reason: String::new(), at };
    /// let [one, two] = ["1", "2"].map(|version| version.parse().unwrap());
    /// let first = Deployment::first("digits".parse().unwrap(), one, at);
    /// let promoted = first.after(&Transition::Promote(two), &note).unwrap().unwrap();
    /// assert_eq!((promoted.generation, promoted.stable), (2, two));
    /// let back = promoted.after(&Transition::Rollback, &note).unwrap().unwrap();
    /// assert_eq!((back.generation, back.stable), (3, one));
    /// assert!(back.after(&Transition::Rollback, &note).is_err());
    /// ```
    pub fn after(&self, wish: &Transition, note: &ChangeNote) -> Result<Option<Deployment>, OperatorError> {
        let mut path = self.rollback_path.clone();
        let (action, stable, traffic) = match wish {
            Transition::Traffic(split) => (Action::Traffic, self.stable, split.clone()),
            Transition::Shadow(_) => (Action::Shadow, self.stable, self.traffic.clone()),
            Transition::Promote(version) => {
                leave(&mut path, self.stable, *version);
                (Action::Promote, *version, TrafficSplit::all_to(*version))
            }
            Transition::File(file) => {
                leave(&mut path, self.stable, file.stable);
                (Action::File, file.stable, file.traffic.clone())
            }
            Transition::Rollback if self.traffic != TrafficSplit::all_to(self.stable) => {
                (Action::Rollback, self.stable, TrafficSplit::all_to(self.stable))
            }
            Transition::Rollback => {
                let before = path.pop().ok_or_else(|| {
                    OperatorError::ChangeRefused(format!(
                        "model {} has no stable version before {} to go back to; promote the version you want",
                        self.model, self.stable
                    ))
                })?;
                (Action::Rollback, before, TrafficSplit::all_to(before))
            }
        };
        let file = match wish {
            Transition::File(file) => Some(file.sha256),
            // The file is not in effect, and is not to be applied again.
            Transition::Rollback => self.file,
            Transition::Traffic(_) | Transition::Promote(_) | Transition::Shadow(_) => None,
        };
        let shadow = self.shadow_after(wish, stable)?;
        let is_of_file = matches!(wish, Transition::File(_));
        let is_same = stable == self.stable && traffic == self.traffic && shadow == self.shadow;
        if is_same && (!is_of_file || file == self.file) {
            return Ok(None);
        }
        let since = |version| self.deployed_at.get(&version).copied().unwrap_or(note.at);
        let deployed_at = traffic.shares().map(|(version, _)| (version, since(version))).collect();
        let change = Change { action, by: one_line(&note.by), reason: one_line(&note.reason), at: note.at };
        let (model, generation) = (self.model.clone(), self.generation + 1);
        Ok(Some(Deployment {
            model,
            generation,
            stable,
            traffic,
            shadow,
            rollback_path: path,
            file,
            deployed_at,
            change,
        }))
    }

    /// Returns the shadow traffic after a change that leads to this stable version. It ends when its version becomes the
    /// stable one, and with a rollback.
    fn shadow_after(&self, wish: &Transition, stable: Version) -> Result<Option<Shadow>, OperatorError> {
        let shadow = match wish {
            Transition::Shadow(Some(Shadow { version, percent })) => {
                let shadow = Shadow::beside(stable, *version, *percent);
                let refused = |error| OperatorError::ChangeRefused(format!("model {}: {error}", self.model));
                return shadow.map(Some).map_err(refused);
            }
            Transition::Shadow(None) | Transition::Rollback => None,
            Transition::File(file) => file.shadow,
            Transition::Traffic(_) | Transition::Promote(_) => self.shadow,
        };
        Ok(shadow.filter(|shadow| shadow.version != stable))
    }

    /// Returns the deployment that a request leads to, or `None` if this one is already as requested. Returns a
    /// conflict if the request was based on another generation.
    pub(super) fn requested(&self, request: &ChangeRequest) -> Result<Option<Deployment>, OperatorError> {
        match request.if_generation {
            Some(expected) if expected != self.generation => Err(OperatorError::Conflict {
                message: format!(
                    "model {} is at generation {}, but this change was decided on generation {expected}; check what \
                     has changed and decide again",
                    self.model, self.generation
                ),
                present: serde_json::to_value(self).map_err(OperatorError::internal)?,
            }),
            _ => self.after(&request.wish, &request.note),
        }
    }

    /// Returns the versions that have to stay loaded: every version with traffic, the stable one, and the previous
    /// stable one.
    pub fn required_versions(&self) -> impl Iterator<Item = Version> {
        self.serving_versions().chain(self.rollback_path.last().copied())
    }

    /// Returns the version that gets copies of requests. The deployment can serve without it.
    pub fn shadowed_version(&self) -> Option<Version> {
        self.shadow.map(|shadow| shadow.version)
    }

    /// Returns the versions that must be loaded before this deployment can serve: every version with traffic, and the
    /// stable one.
    pub fn serving_versions(&self) -> impl Iterator<Item = Version> {
        self.traffic.shares().map(|(version, _)| version).chain([self.stable])
    }
}

/// Returns the error about a change by hand of a model that has a `deployment.toml`.
pub(super) fn by_file_only(model: &ModelName) -> OperatorError {
    OperatorError::ChangeRefused(format!(
        "model {model} is deployed by its {DEPLOYMENT_FILE}; change that file (leeway reload applies it at once), or remove it \
         to deploy the model by commands; a rollback is always possible"
    ))
}

/// Adds the stable version to the rollback path, if another one becomes stable.
fn leave(path: &mut Vec<Version>, stable: Version, next: Version) {
    if next != stable {
        path.retain(|passed| *passed != stable && *passed != next);
        path.push(stable);
        path.drain(..path.len().saturating_sub(MAX_PATH));
    }
}

/// Returns a text for the history: of bounded length, without line breaks and other control characters.
fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::Share;

    fn version(number: u32) -> Version {
        number.to_string().parse().unwrap()
    }

    fn note() -> ChangeNote {
        ChangeNote { by: "a test".to_owned(), reason: "to\nsee".to_owned(), at: Timestamp::UNIX_EPOCH }
    }

    fn split(shares: &[(u32, f64)]) -> Transition {
        let share = |(number, share): &(u32, f64)| (version(*number), Share::from_percent(*share).unwrap());
        Transition::Traffic(TrafficSplit::new(shares.iter().map(share)).unwrap())
    }

    fn shadow(number: u32, percent: f64) -> Transition {
        Transition::Shadow(Some(Shadow { version: version(number), percent: Share::from_percent(percent).unwrap() }))
    }

    /// Applies changes to a first deployment of version 1, and checks `stable | traffic | rollback path` after each.
    fn check(wishes: &[(Transition, &str)]) {
        let mut deployment = Deployment::first("m".parse().unwrap(), version(1), Timestamp::UNIX_EPOCH);
        for (wish, expected) in wishes {
            match deployment.after(wish, &note()) {
                Ok(Some(next)) => deployment = next,
                Ok(None) => assert_eq!(*expected, "already", "{wish:?}"),
                Err(error) => assert!(error.to_string().contains(expected), "{error}"),
            }
            let path: Vec<String> = deployment.rollback_path.iter().map(Version::to_string).collect();
            let shadow = deployment.shadow.map(|shadow| format!(" | shadow {shadow}")).unwrap_or_default();
            let seen = format!("{} | {} | {}{shadow}", deployment.stable, deployment.traffic, path.join(" "));
            assert!(seen == *expected || !expected.contains('|'), "{wish:?}: {seen}, not {expected}");
        }
    }

    #[test]
    fn a_rollout_and_back() {
        check(&[
            (split(&[(1, 90.0), (2, 10.0)]), "1 | 1=90 2=10 | "),
            (Transition::Rollback, "1 | 1=100 | "),
            (split(&[(2, 100.0)]), "1 | 2=100 | "),
            (Transition::Promote(version(2)), "2 | 2=100 | 1"),
            (Transition::Promote(version(2)), "already"),
            (Transition::Promote(version(3)), "3 | 3=100 | 1 2"),
            (Transition::Rollback, "2 | 2=100 | 1"),
            (Transition::Rollback, "1 | 1=100 | "),
            (Transition::Rollback, "no stable version before 1"),
        ]);
    }

    #[test]
    fn shadow_traffic_lasts_until_its_version_is_stable_or_a_rollback() {
        check(&[
            (shadow(1, 5.0), "model m: version 1 is the stable version"),
            (shadow(2, 0.0), "found 0 percent"),
            (shadow(2, 20.0), "1 | 1=100 |  | shadow 2=20"),
            (shadow(2, 20.0), "already"),
            (split(&[(1, 90.0), (2, 10.0)]), "1 | 1=90 2=10 |  | shadow 2=20"),
            (Transition::Promote(version(3)), "3 | 3=100 | 1 | shadow 2=20"),
            (Transition::Promote(version(2)), "2 | 2=100 | 1 3"),
            (shadow(4, 100.0), "2 | 2=100 | 1 3 | shadow 4=100"),
            (Transition::Shadow(None), "2 | 2=100 | 1 3"),
            (Transition::Shadow(None), "already"),
            (shadow(4, 100.0), "2 | 2=100 | 1 3 | shadow 4=100"),
            (Transition::Rollback, "3 | 3=100 | 1"),
        ]);
    }

    #[test]
    fn shadow_traffic_of_a_file_is_that_of_the_file() {
        let file = |text: &str| Transition::File(Arc::new(DeploymentFile::parse(text, "deployment.toml").unwrap()));
        check(&[
            (file("stable = 1\n[shadow]\nversion = 2\npercent = 12.5\n"), "1 | 1=100 |  | shadow 2=12.5"),
            (file("stable = 1\n"), "1 | 1=100 | "),
        ]);
    }

    #[test]
    fn deployments_of_journals_without_shadow_traffic_are_read() {
        let first = Deployment::first("m".parse().unwrap(), version(1), Timestamp::UNIX_EPOCH);
        let written = serde_json::to_value(&first).unwrap();
        assert_eq!(written.get("shadow"), None);
        assert_eq!(serde_json::from_value::<Deployment>(written).unwrap(), first);
        let shadowed = first.after(&shadow(2, 5.0), &note()).unwrap().unwrap();
        let written = serde_json::to_value(&shadowed).unwrap();
        assert_eq!(written["shadow"], serde_json::json!({ "version": 2, "percent": 5 }));
        assert_eq!(serde_json::from_value::<Deployment>(written).unwrap(), shadowed);
        assert_eq!(shadowed.shadowed_version(), Some(version(2)));
        assert!(shadowed.serving_versions().all(|serving| serving == version(1)));
    }

    #[test]
    fn a_file_is_deployed_once_even_after_a_rollback() {
        let file = |text: &str| Arc::new(DeploymentFile::parse(text, "deployment.toml").unwrap());
        let canary = file("stable = 1\n[traffic]\n1 = 90\n2 = 10\n");
        let promoted = file("stable = 2\n");
        check(&[
            (Transition::File(Arc::clone(&canary)), "1 | 1=90 2=10 | "),
            (Transition::File(canary), "already"),
            (Transition::File(Arc::clone(&promoted)), "2 | 2=100 | 1"),
            (Transition::Rollback, "1 | 1=100 | "),
        ]);
        let first = Deployment::first("m".parse().unwrap(), version(1), Timestamp::UNIX_EPOCH);
        let deployed = first.after(&Transition::File(Arc::clone(&promoted)), &note()).unwrap().unwrap();
        let rolled_back = deployed.after(&Transition::Rollback, &note()).unwrap().unwrap();
        assert_eq!((deployed.file, rolled_back.file), (Some(promoted.sha256), Some(promoted.sha256)));
        // A file that asks for what is there is recorded, so that a rollback from it lasts.
        let same = file("stable = 1\n");
        assert_eq!(first.after(&Transition::File(Arc::clone(&same)), &note()).unwrap().unwrap().generation, 2);
        let by_hand = deployed.after(&Transition::Promote(version(3)), &note()).unwrap().unwrap();
        assert_eq!(by_hand.file, None);
    }

    #[test]
    fn a_rollback_never_leads_to_a_version_twice() {
        check(&[
            (Transition::Promote(version(2)), "2 | 2=100 | 1"),
            (Transition::Promote(version(1)), "1 | 1=100 | 2"),
            (Transition::Promote(version(2)), "2 | 2=100 | 1"),
        ]);
    }

    #[test]
    fn what_is_kept_of_who_and_why_is_one_line() {
        let first = Deployment::first("m".parse().unwrap(), version(1), Timestamp::UNIX_EPOCH);
        let long = ChangeNote { by: "x".repeat(5_000), ..note() };
        let next = first.after(&Transition::Promote(version(2)), &long).unwrap().unwrap();
        assert_eq!((next.change.by.len(), next.change.reason.as_str()), (MAX_TEXT_CHARS, "tosee"));
    }

    #[test]
    fn a_change_that_was_decided_on_another_generation_is_a_conflict() {
        let first = Deployment::first("m".parse().unwrap(), version(1), Timestamp::UNIX_EPOCH);
        let (model, wish) = (first.model.clone(), Transition::Promote(version(2)));
        let mut request = ChangeRequest { model, wish, note: note(), if_generation: None };
        for (if_generation, expected) in [(None, Ok(2)), (Some(1), Ok(2)), (Some(3), Err("decided on generation 3"))] {
            request.if_generation = if_generation;
            match (first.requested(&request), expected) {
                (Ok(next), Ok(generation)) => assert_eq!(next.unwrap().generation, generation),
                (Err(OperatorError::Conflict { message, present }), Err(expected)) => {
                    assert!(message.contains(expected), "{message}");
                    assert_eq!(serde_json::from_value::<Deployment>(present).unwrap(), first);
                }
                (other, _) => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_version_is_deployed_since_it_first_had_a_share() {
        let at = |second| ChangeNote { at: Timestamp::from_second(second).unwrap(), ..note() };
        let mut deployment = Deployment::first("m".parse().unwrap(), version(1), Timestamp::UNIX_EPOCH);
        for (second, wish) in
            [(10, split(&[(1, 90.0), (2, 10.0)])), (20, Transition::Promote(version(2))), (30, Transition::Rollback)]
        {
            deployment = deployment.after(&wish, &at(second)).unwrap().unwrap();
            if second == 20 {
                assert_eq!(deployment.deployed_at[&version(2)].as_second(), 10);
            }
        }
        assert_eq!(deployment.deployed_at[&version(1)].as_second(), 30);
    }
}
