//! The models and versions in a list of objects, which has the layout of a folder: `<model>/model.toml` and
//! `<model>/<version>/version.toml`.
//!
//! A version is the one whose manifest is there, because `leeway add` writes it last. Objects without a manifest beside them
//! are an upload that has not finished, and are no version.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::objects::ObjectMark;
use crate::config::DEPLOYMENT_FILE;
use crate::identity::{ModelName, Version, shown};
use crate::repository::fingerprint::Fingerprint;
use crate::repository::layout::{CONFIG_FILE, FolderProblem, Found, FoundModel, MAX_PROBLEMS};
use crate::repository::manifest::MANIFEST_FILE;
use crate::repository::signature::SIGNATURE_FILE;

/// Object that shows that a version is being uploaded. Not a file of the version.
pub(super) const CLAIM: &str = ".adding";

/// Objects by their paths.
pub(super) type Marks = BTreeMap<String, ObjectMark>;

/// The models and versions of a listing.
#[derive(Debug, Default)]
pub(super) struct Listing {
    models: BTreeMap<ModelName, ListedModel>,
    problems: Vec<FolderProblem>,
}

/// A model of a listing.
#[derive(Debug, Default)]
pub(super) struct ListedModel {
    /// Its `model.toml`.
    pub(super) config: Option<ObjectMark>,
    /// Its `deployment.toml`.
    pub(super) deployment: Option<ObjectMark>,
    /// The objects of each version by their paths within the version, with the manifest.
    pub(super) versions: BTreeMap<Version, Marks>,
    /// Versions without a manifest.
    pub(super) unfinished: BTreeSet<Version>,
}

impl Listing {
    /// Finds the models in a list of objects. `place` is the location of the objects, for messages.
    pub(super) fn of(objects: &Marks, place: &str) -> Listing {
        let mut listing = Listing::default();
        let mut problems = BTreeMap::new();
        for (path, mark) in objects {
            if mark.size == 0 && has_entries(objects, path) {
                // Consoles show folders by such objects.
                continue;
            }
            let Some((model, rest)) = path.split_once('/') else { continue };
            if model.starts_with('.') {
                continue;
            }
            match model.parse::<ModelName>() {
                Ok(name) => listing.note(&name, rest, mark, &mut problems),
                Err(error) => {
                    problems.insert(model.to_owned(), format!("{error}; rename the folder, or move it away"));
                }
            }
        }
        let is_model = |name: &ModelName, model: &mut ListedModel| {
            model.unfinished.retain(|version| !model.versions.contains_key(version));
            if model.config.is_none() {
                let problem =
                    "there is no model.toml in this folder, but a model must have one; add it or move the folder away";
                problems.insert(name.to_string(), problem.to_owned());
            }
            model.config.is_some()
        };
        listing.models.retain(is_model);
        let folder = |path: &str| format!("{place}/{}", shown(path));
        listing.problems =
            problems.into_iter().map(|(path, problem)| FolderProblem { folder: folder(&path), problem }).collect();
        listing
    }

    /// Notes an object of a model.
    fn note(&mut self, name: &ModelName, path: &str, mark: &ObjectMark, problems: &mut BTreeMap<String, String>) {
        let model = self.models.entry(name.clone()).or_default();
        let Some((folder, file)) = path.split_once('/') else {
            match path {
                CONFIG_FILE => model.config = Some(mark.clone()),
                DEPLOYMENT_FILE => model.deployment = Some(mark.clone()),
                _ => {}
            }
            return;
        };
        if folder.starts_with('.') {
            return;
        }
        let version = match folder.parse::<Version>() {
            Ok(version) => version,
            Err(error) => {
                problems.insert(format!("{name}/{folder}"), format!("{error}; rename the folder, or move it away"));
                return;
            }
        };
        model.unfinished.insert(version);
        if file != CLAIM {
            model.versions.entry(version).or_default().insert(file.to_owned(), mark.clone());
        }
    }

    /// Returns the models without a finished version, which may be chains.
    pub(super) fn without_versions(&self) -> impl Iterator<Item = &ModelName> {
        self.models.iter().filter(|(_, model)| model.finished().next().is_none()).map(|(name, _)| name)
    }

    /// Returns the models and problems as a store lists them. `chains` are the models that run other models.
    pub(super) fn found(&self, place: &str, chains: &BTreeSet<ModelName>) -> Found {
        let mut found = Found { models: Vec::new(), problems: self.problems.clone() };
        for (name, model) in &self.models {
            let mut versions: BTreeSet<Version> = model.finished().collect();
            if versions.is_empty() && chains.contains(name) {
                versions.insert(Version::FIRST);
            }
            if versions.is_empty() {
                let problem = match model.unfinished.len() + model.versions.len() {
                    0 => "the model has no version; add one with `leeway add`",
                    _ => {
                        "the model has no version: no upload has finished with a version.toml; add one with `leeway add`"
                    }
                };
                found.problems.push(FolderProblem { folder: format!("{place}/{name}"), problem: problem.to_owned() });
                continue;
            }
            found.models.push(FoundModel { name: name.clone(), versions });
        }
        if found.models.is_empty() && found.problems.is_empty() {
            let problem = "there is no model here; one has a model.toml and versions, as in digits/model.toml and \
                           digits/1/version.toml (repository.path or --models says where to look)";
            found.problems.push(FolderProblem { folder: place.to_owned(), problem: problem.to_owned() });
        }
        if found.problems.len() > MAX_PROBLEMS {
            let more = found.problems.len() - MAX_PROBLEMS;
            found.problems.truncate(MAX_PROBLEMS);
            let problem = format!("{more} more folders have problems");
            found.problems.push(FolderProblem { folder: place.to_owned(), problem });
        }
        found
    }

    /// Returns a model.
    pub(super) fn model(&self, name: &ModelName) -> Option<&ListedModel> {
        self.models.get(name)
    }

    /// Returns the objects of a version.
    pub(super) fn version(&self, name: &ModelName, version: Version) -> Option<&Marks> {
        self.models.get(name)?.versions.get(&version)
    }

    /// Returns all small files by their paths: `model.toml`, `deployment.toml`, manifests and signatures.
    pub(super) fn texts(&self) -> impl Iterator<Item = (String, &ObjectMark)> {
        self.models.iter().flat_map(|(name, model)| {
            let config = model.config.iter().map(move |mark| (config_path(name), mark));
            let deployment = model.deployment.iter().map(move |mark| (deployment_path(name), mark));
            let of_versions = model.versions.iter().flat_map(move |(version, objects)| {
                let of_version = move |file: &'static str| Some((file_path(name, *version, file), objects.get(file)?));
                [MANIFEST_FILE, SIGNATURE_FILE].into_iter().filter_map(of_version)
            });
            config.chain(deployment).chain(of_versions)
        })
    }

    /// Returns the fingerprint of the `model.toml` of a model.
    pub(super) fn config_fingerprint(&self, name: &ModelName) -> Fingerprint {
        let config = self.models.get(name).and_then(|model| model.config.as_ref());
        Fingerprint::of_objects(config.into_iter().map(|mark| (PathBuf::from(config_path(name)), mark.numbers())))
    }

    /// Returns the fingerprint of the `deployment.toml` of a model.
    pub(super) fn deployment_fingerprint(&self, name: &ModelName) -> Fingerprint {
        let deployment = self.models.get(name).and_then(|model| model.deployment.as_ref());
        Fingerprint::of_objects(
            deployment.into_iter().map(|mark| (PathBuf::from(deployment_path(name)), mark.numbers())),
        )
    }

    /// Returns the fingerprint of all files of a version.
    pub(super) fn version_fingerprint(&self, name: &ModelName, version: Version) -> Fingerprint {
        let objects = self.version(name, version).into_iter().flatten();
        Fingerprint::of_objects(objects.map(|(path, mark)| (PathBuf::from(path), mark.numbers())))
    }
}

impl ListedModel {
    /// Returns the versions with a manifest.
    fn finished(&self) -> impl Iterator<Item = Version> {
        self.versions.iter().filter(|(_, objects)| objects.contains_key(MANIFEST_FILE)).map(|(version, _)| *version)
    }

    /// Returns the highest version, also if it has no manifest.
    pub(super) fn highest(&self) -> Option<Version> {
        self.versions.keys().chain(&self.unfinished).max().copied()
    }
}

pub(super) fn config_path(model: &ModelName) -> String {
    format!("{model}/{CONFIG_FILE}")
}

pub(super) fn deployment_path(model: &ModelName) -> String {
    format!("{model}/{DEPLOYMENT_FILE}")
}

pub(super) fn manifest_path(model: &ModelName, version: Version) -> String {
    file_path(model, version, MANIFEST_FILE)
}

pub(super) fn file_path(model: &ModelName, version: Version, file: &str) -> String {
    format!("{model}/{version}/{file}")
}

/// Returns true if there are objects below this path.
fn has_entries(objects: &Marks, path: &str) -> bool {
    let below = format!("{path}/");
    objects.range(below.clone()..).next().is_some_and(|(next, _)| next.starts_with(&below))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(paths: &[&str]) -> (Listing, Found) {
        let mark = |tag: &str| ObjectMark { size: 1, e_tag: Some(tag.to_owned()), modified_ms: 0 };
        let objects = paths.iter().map(|path| ((*path).to_owned(), mark(path))).collect();
        let listing = Listing::of(&objects, "s3://bucket");
        let found = listing.found("s3://bucket", &BTreeSet::from(["chain".parse().unwrap()]));
        (listing, found)
    }

    fn problems(found: &Found) -> Vec<String> {
        found.problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn models_and_versions_are_found_as_in_a_folder() {
        let (_, found) = listing(&[
            "README.md",
            ".hidden/model.toml",
            "chain/model.toml",
            "digits/model.toml",
            "digits/.notes/a",
            "digits/1/model.onnx",
            "digits/1/version.toml",
            "digits/2/model.onnx",
            "digits/10/version.toml",
            "digits/10/vocab/tokens.json",
        ]);
        let versions = |versions: &[&str]| versions.iter().map(|version| version.parse().unwrap()).collect();
        let model = |name: &str, of: &[&str]| FoundModel { name: name.parse().unwrap(), versions: versions(of) };
        assert_eq!(found.models, [model("chain", &["1"]), model("digits", &["1", "10"])]);
        assert_eq!(problems(&found), [""; 0]);
    }

    #[test]
    fn what_is_no_model_is_a_problem() {
        let (_, found) = listing(&[
            "a b/model.toml",
            "digits/first/version.toml",
            "digits/model.toml",
            "new/3/.adding",
            "new/3/model.onnx",
            "new/model.toml",
            "plus/1/version.toml",
        ]);
        assert_eq!(found.models, []);
        let problems = problems(&found).join("\n");
        for part in [
            "s3://bucket/a b",
            "s3://bucket/digits/first",
            "s3://bucket/plus",
            "no model.toml",
            "no upload has finished",
        ] {
            assert!(problems.contains(part), "{part}: {problems}");
        }
        assert!(super::tests::problems(&listing(&[]).1)[0].contains("there is no model here"));
    }

    #[test]
    fn an_unfinished_version_takes_its_number() {
        let (listing, _) = listing(&["a/model.toml", "a/1/version.toml", "a/4/.adding"]);
        assert_eq!(listing.model(&"a".parse().unwrap()).unwrap().highest(), Some("4".parse().unwrap()));
    }

    #[test]
    fn a_fingerprint_shows_changes_of_tags() {
        let of = |tag: &str| {
            let mark = ObjectMark { size: 1, e_tag: Some(tag.to_owned()), modified_ms: 5 };
            let objects = ["a/model.toml", "a/1/version.toml"].map(|path| (path.to_owned(), mark.clone())).into();
            Listing::of(&objects, "").version_fingerprint(&"a".parse().unwrap(), Version::FIRST)
        };
        assert_eq!(of("x"), of("x"));
        assert_ne!(of("x"), of("y"));
        assert_ne!(of("x"), Fingerprint::default());
    }
}
