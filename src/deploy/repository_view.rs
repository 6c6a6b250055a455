//! The repository as the last sync found it. This is the only file in `deploy/` that reads the disk. The other files
//! use memory only, so that a slow disk does not delay them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{DeploymentFile, ModelConfig};
use crate::error::{Result, SetupError};
use crate::identity::{ModelName, Version};
use crate::monitor::LearnedProfile;
use crate::registry::ServedVersion;
use crate::repository::{Fingerprint, FoundModel, FoundVersion, Manifest, Refusal, Store, Trust, TrustedKeys};

/// The repository as a sync found it. Never changes: the next sync makes a new view.
#[derive(Debug, Default)]
pub(super) struct RepositoryView {
    /// The models, by name.
    pub(super) models: BTreeMap<ModelName, Arc<ModelView>>,
    /// Problems with folders that cannot be read, or are not models or versions, by folder.
    pub(super) problems: BTreeMap<String, String>,
}

/// A model in the repository.
#[derive(Debug)]
pub(super) struct ModelView {
    pub(super) name: ModelName,
    /// Location of its `model.toml`, for messages.
    pub(super) config_place: String,
    /// Fingerprint of its `model.toml`.
    pub(super) config_mark: Fingerprint,
    /// The content of its `model.toml`, or the error of reading it.
    pub(super) config: Result<Arc<ModelConfig>, SetupError>,
    /// Fingerprint of its `deployment.toml`.
    pub(super) wish_mark: Fingerprint,
    /// The content of its `deployment.toml`, or the error of reading it; `None` if it has none.
    pub(super) wish: Option<Result<Arc<DeploymentFile>, SetupError>>,
    /// Its versions; never empty.
    pub(super) versions: BTreeMap<Version, VersionView>,
}

/// A version in the repository, not verified.
#[derive(Debug, Clone)]
pub(super) struct VersionView {
    /// Fingerprint of its files.
    pub(super) mark: Fingerprint,
    /// Its manifest, if it can be read.
    pub(super) manifest: Option<Arc<Manifest>>,
    /// Its learned profile by time of day.
    pub(super) profile: ProfileView,
}

/// The learned profile of a version.
#[derive(Debug, Clone, Default)]
pub(super) struct ProfileView {
    /// Fingerprint of its file.
    mark: Fingerprint,
    /// The profile that is used: the last one that could be read.
    pub(super) profile: Option<Arc<LearnedProfile>>,
    /// The problem with its file.
    problem: Option<String>,
}

impl RepositoryView {
    /// Reads the repository. Files whose fingerprint is the same in `before` are not read again.
    pub(super) fn read(store: &dyn Store, before: &RepositoryView) -> Result<RepositoryView, SetupError> {
        let found = store.list()?;
        let mut problems: BTreeMap<String, String> =
            found.problems.iter().map(|problem| (problem.folder.clone(), problem.to_string())).collect();
        let view = |found: FoundModel| {
            let before = before.models.get(&found.name).map(Arc::as_ref);
            (found.name.clone(), Arc::new(ModelView::read(store, found, before)))
        };
        let models: BTreeMap<ModelName, Arc<ModelView>> = found.models.into_iter().map(view).collect();
        for (name, model) in &models {
            for (version, found) in &model.versions {
                let problem = found.profile.problem.as_ref();
                problems.extend(problem.map(|problem| (format!("the profile of {name} {version}"), problem.clone())));
            }
        }
        Ok(RepositoryView { models, problems })
    }
}

impl ModelView {
    fn read(store: &dyn Store, found: FoundModel, before: Option<&ModelView>) -> ModelView {
        let FoundModel { name, versions } = found;
        let config_mark = store.config_fingerprint(&name);
        let config = match before {
            Some(ModelView { config_mark: mark, config: Ok(config), .. }) if *mark == config_mark => {
                Ok(Arc::clone(config))
            }
            // Reads a file again that could not be read before: the disk may have been at fault.
            _ => store.read_config(&name).map(Arc::new),
        };
        let wish_mark = store.deployment_fingerprint(&name);
        let wish = match before {
            Some(ModelView { wish_mark: mark, wish, .. }) if *mark == wish_mark && !matches!(wish, Some(Err(_))) => {
                wish.clone()
            }
            _ => store.read_deployment(&name).map(|found| found.map(Arc::new)).transpose(),
        };
        let view = |version: Version| {
            let before = before.and_then(|before| before.versions.get(&version));
            (version, VersionView::read(store, &name, version, before))
        };
        let versions = versions.into_iter().map(view).collect();
        ModelView { config_place: store.config_place(&name), name, config_mark, config, wish_mark, wish, versions }
    }
}

impl VersionView {
    fn read(store: &dyn Store, model: &ModelName, version: Version, before: Option<&VersionView>) -> VersionView {
        let mark = store.version_fingerprint(model, version);
        let manifest = match before {
            Some(before) if before.mark == mark && before.manifest.is_some() => before.manifest.clone(),
            _ => store.read_manifest(model, version).ok().map(Arc::new),
        };
        let profile =
            ProfileView::read(store, (model, version), manifest.as_deref(), before.map(|before| &before.profile));
        VersionView { manifest, mark, profile }
    }
}

impl ProfileView {
    fn read(
        store: &dyn Store,
        (model, version): (&ModelName, Version),
        manifest: Option<&Manifest>,
        before: Option<&ProfileView>,
    ) -> ProfileView {
        let mark = store.profile_fingerprint(model, version);
        if let Some(before) = before.filter(|before| before.mark == mark && before.problem.is_none()) {
            return before.clone();
        }
        let read = store.read_profile(model, version).and_then(|found| match (&found, manifest) {
            (Some(learned), Some(manifest)) if learned.version_sha256 != manifest.identity().to_string() => {
                Err("the learned profile is for other files than those of this version; learn it again".to_owned())
            }
            _ => Ok(found.map(Arc::new)),
        });
        match read {
            Ok(profile) => ProfileView { mark, profile, problem: None },
            Err(problem) => {
                let profile = before.and_then(|before| before.profile.clone());
                ProfileView { mark, profile, problem: Some(problem) }
            }
        }
    }
}

/// Result of a comparison of a version's files with what was loaded.
#[derive(Debug)]
pub(super) struct Comparison {
    /// Fingerprint of the folder, from before the comparison.
    pub(super) mark: Fingerprint,
    /// The difference, if there is one. `Err` means that the comparison was not possible now.
    pub(super) altered: Result<Option<String>, Refusal>,
}

/// Compares the files of a version with those that were loaded. `None` if the fingerprint is the same as at the last
/// comparison. Reads the files in pieces, because the version is already in memory.
pub(super) fn compare(
    store: &dyn Store,
    keys: &TrustedKeys,
    loaded: &ServedVersion,
    compared: &Fingerprint,
) -> Option<Comparison> {
    let trust = Trust { keys, model: &loaded.model, version: loaded.version };
    compare_files(store, trust, &loaded.manifest, compared)
}

fn compare_files(store: &dyn Store, trust: Trust<'_>, loaded: &Manifest, compared: &Fingerprint) -> Option<Comparison> {
    let Trust { model, version, .. } = trust;
    let mark = store.version_fingerprint(model, version);
    if mark == *compared {
        return None;
    }
    let signed = || match trust.keys.keys().is_empty() {
        true => Ok(()),
        false => store.materialise(model, version).and_then(|place| FoundVersion::find_trusted(place, trust)).map(drop),
    };
    let altered = match store.verify_files(model, version).and_then(|manifest| signed().map(|()| manifest)) {
        Ok(manifest) if manifest == *loaded => Ok(None),
        Ok(_) => Ok(Some("version.toml has changed since the version was loaded".to_owned())),
        Err(refusal) if refusal.fault.is_transient() => Err(refusal),
        Err(refusal) => Ok(Some(refusal.to_string())),
    };
    Some(Comparison { mark, altered })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::repository::LocalFolder;

    fn repository() -> tempfile::TempDir {
        let repository = tempfile::tempdir().unwrap();
        let version = repository.path().join("digits/1");
        std::fs::create_dir_all(&version).unwrap();
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits");
        std::fs::copy(shipped.join("model.toml"), repository.path().join("digits/model.toml")).unwrap();
        for file in std::fs::read_dir(shipped.join("1")).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), version.join(file.file_name())).unwrap();
        }
        repository
    }

    #[test]
    fn what_has_not_changed_is_not_read_again() {
        let repository = repository();
        let first = RepositoryView::read(&LocalFolder::new(repository.path()), &RepositoryView::default()).unwrap();
        let second = RepositoryView::read(&LocalFolder::new(repository.path()), &first).unwrap();
        let [first, second] = [&first, &second].map(|view| &view.models[&"digits".parse::<ModelName>().unwrap()]);
        let [config, again] = [first, second].map(|model| Arc::as_ptr(model.config.as_ref().unwrap()));
        assert_eq!(config, again);
        let [manifest, again] = [first, second].map(|model| {
            let version = model.versions.values().next().unwrap();
            Arc::as_ptr(version.manifest.as_ref().unwrap())
        });
        assert_eq!(manifest, again);
    }

    #[test]
    fn a_model_toml_that_is_wrong_is_part_of_the_view() {
        let repository = repository();
        std::fs::write(repository.path().join("digits/model.toml"), "workers = 'many'").unwrap();
        let view = RepositoryView::read(&LocalFolder::new(repository.path()), &RepositoryView::default()).unwrap();
        let model = &view.models[&"digits".parse::<ModelName>().unwrap()];
        assert!(model.config.is_err() && model.versions.len() == 1, "{model:?}");
    }

    #[test]
    fn files_are_compared_only_if_the_folder_looks_different() {
        let repository = repository();
        let folder = repository.path().join("digits/1");
        let manifest = Manifest::read(&folder).unwrap();
        let (store, model) = (LocalFolder::new(repository.path()), "digits".parse().unwrap());
        let (keys, version) = (TrustedKeys::default(), Version::FIRST);
        let trust = Trust { keys: &keys, model: &model, version };
        let compare = |compared: &Fingerprint| compare_files(&store, trust, &manifest, compared);
        let first = compare(&Fingerprint::default()).unwrap();
        assert!(matches!(first.altered, Ok(None)), "{first:?}");
        assert!(compare(&first.mark).is_none());
        std::fs::write(folder.join("model.onnx"), "other").unwrap();
        let altered = compare(&first.mark).unwrap();
        assert!(matches!(altered.altered, Ok(Some(_))), "{altered:?}");
    }
}
