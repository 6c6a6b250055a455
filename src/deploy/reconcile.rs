//! Which versions should be loaded, and what to do about it. Pure: nothing is loaded here.

use std::collections::{BTreeMap, BTreeSet};

use super::deployment::Deployment;
use crate::identity::Version;

/// What an operator has said of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Keep it loaded.
    Loaded,
    /// Keep it unloaded.
    Unloaded,
}

/// What has become of a version so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Live {
    /// It is being loaded.
    Loading,
    /// It is loaded, with the `model.toml` there is now.
    Loaded,
    /// It is loaded, with an older `model.toml`.
    Outdated,
    /// It was refused, as its files and `model.toml` still are.
    Refused,
}

/// Something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Load a version, or load it anew.
    Load(Version),
    /// Take a version out of memory.
    Retire(Version),
}

/// The versions that should be loaded: those that the deployment needs, the newest few, and those that an operator
/// wants; not those that an operator does not want, unless the deployment needs them.
///
/// ```
/// use std::collections::{BTreeMap, BTreeSet};
/// use leeway::deploy::{Deployment, wanted};
/// let versions = ["1", "2", "3", "4"].map(|version| version.parse().unwrap());
/// let deployment = Deployment::first("digits".parse().unwrap(), versions[0], jiff::Timestamp::UNIX_EPOCH);
/// let wanted = wanted(&BTreeSet::from(versions), &deployment, 2, &BTreeMap::new());
/// assert_eq!(wanted, BTreeSet::from([versions[0], versions[2], versions[3]]));
/// ```
pub fn wanted(
    on_disk: &BTreeSet<Version>,
    deployment: &Deployment,
    newest: usize,
    holds: &BTreeMap<Version, Hold>,
) -> BTreeSet<Version> {
    let held = |hold: Hold| holds.iter().filter(move |(_, held)| **held == hold).map(|(version, _)| *version);
    let mut wanted: BTreeSet<Version> = on_disk.iter().rev().take(newest).copied().collect();
    wanted.extend(held(Hold::Loaded));
    held(Hold::Unloaded).for_each(|version| {
        wanted.remove(&version);
    });
    wanted.extend(deployment.needs());
    wanted
}

/// What to do so that the wanted versions are loaded, and no others. What is loaded already and not on disk any more is
/// kept as long as it is wanted.
///
/// ```
/// use std::collections::{BTreeMap, BTreeSet};
/// use leeway::deploy::{Live, Step, reconcile};
/// let [one, two, three] = ["1", "2", "3"].map(|version| version.parse().unwrap());
/// let live = BTreeMap::from([(one, Live::Loaded), (two, Live::Outdated), (three, Live::Refused)]);
/// assert_eq!(reconcile(&BTreeSet::from([two, three]), &live), [Step::Load(two), Step::Retire(one)]);
/// ```
pub fn reconcile(wanted: &BTreeSet<Version>, live: &BTreeMap<Version, Live>) -> Vec<Step> {
    let load = wanted.iter().filter(|version| matches!(live.get(version), None | Some(Live::Outdated)));
    let retire = live
        .iter()
        .filter(|(version, live)| matches!(live, Live::Loaded | Live::Outdated) && !wanted.contains(version));
    load.map(|version| Step::Load(*version)).chain(retire.map(|(version, _)| Step::Retire(*version))).collect()
}
