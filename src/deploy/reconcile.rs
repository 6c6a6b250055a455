//! The versions that should be loaded, and the steps to get there. Pure: nothing is loaded here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::identity::Version;

/// An operator's order to keep a version loaded or unloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Keep it loaded.
    Loaded,
    /// Keep it unloaded.
    Unloaded,
}

/// Load state of a version, from which the next steps are decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadState {
    /// Being loaded; does not serve yet.
    Loading,
    /// Loaded with the current `model.toml`.
    Loaded,
    /// Loaded, but with an older `model.toml` or in the wrong process.
    Outdated,
    /// Outdated, and being reloaded.
    Reloading,
    /// Refused. Its files and `model.toml` have not changed since, and no retry is due.
    Refused,
}

impl LoadState {
    /// Returns true if the version answers requests.
    fn serves(self) -> bool {
        matches!(self, LoadState::Loaded | LoadState::Outdated | LoadState::Reloading)
    }
}

/// A step of the reconciliation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReconcileAction {
    /// Load or reload a version.
    Load(Version),
    /// Take a version out of memory.
    Retire(Version),
}

/// Returns the versions that should be loaded: the needed ones, those that an operator holds loaded, and the newest few
/// that can be loaded. A version that an operator holds unloaded is left out, unless it is needed.
///
/// A refused version does not count among the newest few. A version that does not serve yet does not displace a serving
/// one: the newest few serving versions stay until enough newer versions serve.
///
/// ```
/// use std::collections::{BTreeMap, BTreeSet};
/// use leeway::deploy::{LoadState, wanted};
/// let [one, two, three, four] = ["1", "2", "3", "4"].map(|version| version.parse().unwrap());
/// let on_disk = BTreeSet::from([one, two, three, four]);
/// let mut live = BTreeMap::from([(one, LoadState::Loaded), (two, LoadState::Loaded), (three, LoadState::Loaded), (four, LoadState::Loading)]);
/// // Version 1 has the traffic, and the newest two versions should be loaded.
/// let mut now = |four_is| {
///     live.insert(four, four_is);
///     wanted(&on_disk, &live, &BTreeSet::from([one]), 2, &BTreeMap::new())
/// };
/// assert_eq!(now(LoadState::Loading), BTreeSet::from([one, two, three, four]));
/// assert_eq!(now(LoadState::Refused), BTreeSet::from([one, two, three]));
/// assert_eq!(now(LoadState::Loaded), BTreeSet::from([one, three, four]));
/// ```
pub fn wanted(
    on_disk: &BTreeSet<Version>,
    live: &BTreeMap<Version, LoadState>,
    needed: &BTreeSet<Version>,
    newest: usize,
    holds: &BTreeMap<Version, Hold>,
) -> BTreeSet<Version> {
    let is_out = |version: &Version| holds.get(version) == Some(&Hold::Unloaded);
    // A version that an operator holds unloaded counts among the newest: no older version is loaded instead.
    let can_serve = |version: &&Version| live.get(version) != Some(&LoadState::Refused);
    let serves = |version: &&Version| !is_out(version) && live.get(version).is_some_and(|live| live.serves());
    let newest_first = || on_disk.iter().rev();
    let mut wanted: BTreeSet<Version> = newest_first().filter(can_serve).take(newest).copied().collect();
    wanted.extend(newest_first().filter(serves).take(newest));
    wanted.extend(holds.iter().filter(|(_, hold)| **hold == Hold::Loaded).map(|(version, _)| *version));
    wanted.retain(|version| !is_out(version));
    wanted.extend(needed);
    wanted
}

/// Returns the backoff of a load that was refused for lack of memory, threads or time: 10 s, and twice as long after
/// each further refusal, up to 10 minutes.
pub(super) fn time_until_retry(refusals: u32) -> Duration {
    /// First backoff: roughly the time that another model, which takes memory meanwhile, needs to load.
    const FIRST: Duration = Duration::from_secs(10);
    /// Maximum backoff: short enough for a person who waits, and long enough that the attempts cost next to nothing.
    const MAX: Duration = Duration::from_secs(600);
    FIRST.saturating_mul(1 << refusals.saturating_sub(1).min(16)).min(MAX)
}

/// Returns the steps after which exactly the wanted versions are loaded. A loaded version that is no longer on disk is
/// kept as long as it is wanted.
///
/// ```
/// use std::collections::{BTreeMap, BTreeSet};
/// use leeway::deploy::{LoadState, ReconcileAction, reconcile};
/// let [one, two, three] = ["1", "2", "3"].map(|version| version.parse().unwrap());
/// let live = BTreeMap::from([(one, LoadState::Loaded), (two, LoadState::Outdated), (three, LoadState::Refused)]);
/// assert_eq!(reconcile(&BTreeSet::from([two, three]), &live), [ReconcileAction::Load(two), ReconcileAction::Retire(one)]);
/// ```
pub fn reconcile(wanted: &BTreeSet<Version>, live: &BTreeMap<Version, LoadState>) -> Vec<ReconcileAction> {
    let load = wanted.iter().filter(|version| matches!(live.get(version), None | Some(LoadState::Outdated)));
    let retire = live
        .iter()
        .filter(|(version, live)| matches!(live, LoadState::Loaded | LoadState::Outdated) && !wanted.contains(version));
    load.map(|version| ReconcileAction::Load(*version))
        .chain(retire.map(|(version, _)| ReconcileAction::Retire(*version)))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_load_that_is_refused_for_the_moment_is_tried_again_less_and_less_often() {
        let seconds: Vec<u64> = (1..=8).map(|refusals| time_until_retry(refusals).as_secs()).collect();
        assert_eq!(seconds, [10, 20, 40, 80, 160, 320, 600, 600]);
        assert_eq!(time_until_retry(u32::MAX).as_secs(), 600);
    }

    /// The state of a model that the deployer reconciles.
    #[derive(Debug, Clone)]
    struct Model {
        on_disk: BTreeSet<Version>,
        live: BTreeMap<Version, LoadState>,
        needed: BTreeSet<Version>,
        newest: usize,
        holds: BTreeMap<Version, Hold>,
    }

    impl Model {
        fn wanted(&self) -> BTreeSet<Version> {
            wanted(&self.on_disk, &self.live, &self.needed, self.newest, &self.holds)
        }

        fn steps(&self) -> Vec<ReconcileAction> {
            reconcile(&self.wanted(), &self.live)
        }

        /// Returns the versions that serve, without those that an operator holds unloaded.
        fn serving(&self) -> BTreeSet<Version> {
            let is_in = |version: &Version| self.holds.get(version) != Some(&Hold::Unloaded);
            let serving = self.live.iter().filter(|(version, live)| live.serves() && is_in(version));
            serving.map(|(version, _)| *version).collect()
        }
    }

    fn version(number: u32) -> Version {
        number.to_string().parse().unwrap()
    }

    fn live() -> impl Strategy<Value = LoadState> {
        use LoadState::*;
        prop::sample::select(vec![Loading, Loaded, Outdated, Reloading, Refused])
    }

    fn model() -> impl Strategy<Value = Model> {
        let versions = || (1u32..10).prop_map(version);
        let hold = prop::sample::select(vec![Hold::Loaded, Hold::Unloaded]);
        (
            prop::collection::btree_set(versions(), 0..9),
            prop::collection::btree_map(versions(), live(), 0..9),
            prop::collection::btree_set(versions(), 0..3),
            0usize..4,
            prop::collection::btree_map(versions(), hold, 0..3),
        )
            .prop_map(|(on_disk, live, needed, newest, holds)| Model { on_disk, live, needed, newest, holds })
    }

    proptest! {
        /// The newer versions are refused, half-copied or still loading.
        #[test]
        fn a_version_that_does_not_serve_pushes_none_out(
            before in model(),
            newer in prop::collection::btree_map(
                (10u32..20).prop_map(version),
                prop::option::of(prop::sample::select(vec![LoadState::Loading, LoadState::Refused])),
                1..5,
            ),
        ) {
            let mut after = before.clone();
            for (version, live) in newer {
                after.on_disk.insert(version);
                after.live.extend(live.map(|live| (version, live)));
            }
            let retired = |model: &Model| {
                let is_retirement = |step: &ReconcileAction| matches!(step, ReconcileAction::Retire(_));
                model.steps().into_iter().filter(is_retirement).collect::<Vec<_>>()
            };
            prop_assert_eq!(retired(&before), retired(&after));
        }

        #[test]
        fn what_is_needed_is_never_retired(model in model()) {
            let wanted = model.wanted();
            prop_assert!(model.needed.is_subset(&wanted));
            let retired_needed = model.steps().into_iter().any(|step| {
                matches!(step, ReconcileAction::Retire(version) if model.needed.contains(&version))
            });
            prop_assert!(!retired_needed);
        }

        #[test]
        fn nothing_refused_is_tried_again_by_itself(model in model()) {
            for step in model.steps() {
                if let ReconcileAction::Load(version) = step {
                    prop_assert_ne!(model.live.get(&version), Some(&LoadState::Refused));
                }
            }
        }

        /// Loads end in any order, with success or failure. No serving version is retired before enough newer ones
        /// serve. In the end the newest versions that can be loaded serve, and no step is left.
        #[test]
        fn it_settles_on_the_newest_that_can_be_loaded(
            mut model in model(),
            good in prop::collection::btree_set((1u32..10).prop_map(version), 0..9),
            order in prop::collection::vec(any::<prop::sample::Index>(), 64),
        ) {
            // At the beginning, each version either serves and has its files, or has not been tried.
            model.live.retain(|_, live| live.serves());
            model.live.values_mut().for_each(|live| *live = LoadState::Loaded);
            model.on_disk.extend(model.live.keys());
            model.needed.retain(|version| model.on_disk.contains(version));
            model.holds.retain(|version, _| model.on_disk.contains(version));
            let began_with = model.serving();
            for index in order {
                let places = model.newest.min(model.serving().len());
                for step in model.steps() {
                    match step {
                        ReconcileAction::Load(version) => drop(model.live.insert(version, LoadState::Loading)),
                        ReconcileAction::Retire(version) => drop(model.live.remove(&version)),
                    }
                }
                prop_assert!(model.serving().len() >= places, "{:?}", model);
                let loading: Vec<Version> =
                    model.live.iter().filter(|(_, live)| **live == LoadState::Loading).map(|(version, _)| *version).collect();
                if loading.is_empty() {
                    break;
                }
                let ends = *index.get(&loading);
                let is_good = good.contains(&ends) || began_with.contains(&ends);
                model.live.insert(ends, if is_good { LoadState::Loaded } else { LoadState::Refused });
            }
            prop_assert_eq!(model.steps(), vec![]);
            let is_out = |version: &Version| model.holds.get(version) == Some(&Hold::Unloaded);
            // A version that is held unloaded counts among the newest, although it was never tried.
            let can_be =
                |version: &Version| good.contains(version) || began_with.contains(version) || is_out(version);
            let newest = model.on_disk.iter().rev().filter(|version| can_be(version)).take(model.newest);
            for version in newest.filter(|version| !is_out(version)) {
                prop_assert!(model.serving().contains(version), "{:?} in {:?}", version, model);
            }
        }
    }
}
