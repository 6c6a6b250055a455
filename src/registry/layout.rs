//! The folders of a repository: `<model>/model.toml` and `<model>/<version>/version.toml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::identity::{ModelName, Version};

/// A model as it lies on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundModel {
    /// The name of its folder.
    pub name: ModelName,
    /// Its folder.
    pub folder: PathBuf,
    /// Its `model.toml`.
    pub config: PathBuf,
    /// The folders of its versions; never empty.
    pub versions: BTreeMap<Version, PathBuf>,
}

const WHERE: &str = "repository.path or --models says where to look";

/// The models in a repository, by name. Files and hidden folders are not models and are passed over; a
/// folder that is not a model, or a model without a version, is an error, because someone forgot something: the others
/// are found all the same.
pub fn scan(repository: &Path) -> Result<Vec<Result<FoundModel>>> {
    let shown = repository.display();
    if !repository.is_dir() {
        let full = std::path::absolute(repository).unwrap_or_else(|_| repository.to_owned());
        let full = if full == repository { String::new() } else { format!(", that is {}", full.display()) };
        return Err(Error::Repository(format!("{shown}{full}: there is no such folder ({WHERE})")));
    }
    if repository.join("model.toml").is_file() {
        return Err(Error::Repository(format!(
            "{shown}: this is a model's own folder; the repository is the folder above it ({WHERE})"
        )));
    }
    let models: Vec<Result<FoundModel>> = folders(repository)?.into_iter().map(model).collect();
    if models.is_empty() {
        return Err(Error::Repository(format!(
            "{}: there is no model here; one is a folder with a model.toml and versions, as in digits/model.toml and \
             digits/1/ ({WHERE})",
            repository.display()
        )));
    }
    Ok(models)
}

/// The model in a folder.
pub fn model(folder: PathBuf) -> Result<FoundModel> {
    let shown = folder.display();
    let name: ModelName = file_name(&folder)
        .parse()
        .map_err(|error| Error::Repository(format!("{shown}: {error}; rename the folder")))?;
    let config = folder.join("model.toml");
    if !config.is_file() {
        return Err(Error::Repository(format!(
            "{shown}: there is no model.toml in this folder, which makes it a model; add one or move the folder away"
        )));
    }
    let versions = versions(&folder)?;
    if versions.is_empty() {
        return Err(Error::Repository(format!("{shown}: the model has no version; add one with `leeway add`")));
    }
    Ok(FoundModel { name, folder, config, versions })
}

/// The versions in a model's folder.
pub(super) fn versions(model: &Path) -> Result<BTreeMap<Version, PathBuf>> {
    let mut versions = BTreeMap::new();
    for folder in folders(model)? {
        match file_name(&folder).parse() {
            Ok(version) => {
                versions.insert(version, folder);
            }
            Err(error) => return Err(Error::Repository(format!("{}: {error}; rename the folder", folder.display()))),
        }
    }
    Ok(versions)
}

/// The folders within a folder that are not hidden, sorted.
fn folders(path: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = |error: std::io::Error| Error::Repository(format!("{}: {error}", path.display()));
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_dir() && !file_name(&path).starts_with('.') {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lays out `paths` (a folder, if it ends with `/`) and compares what is found, or the error's end.
    fn check(paths: &[&str], expected: std::result::Result<&[(&str, &[u32])], &str>) {
        let repository = tempfile::tempdir().unwrap();
        for path in paths {
            let path = repository.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            if path.as_os_str().to_string_lossy().ends_with('/') {
                std::fs::create_dir_all(path).unwrap();
            } else {
                std::fs::write(path, "").unwrap();
            }
        }
        let found = scan(repository.path()).and_then(|models| models.into_iter().collect::<Result<Vec<_>>>());
        let found = found.map(|models| {
            let versions = |model: &FoundModel| model.versions.keys().map(|version| version.get()).collect::<Vec<_>>();
            models.iter().map(|model| (model.name.to_string(), versions(model))).collect::<Vec<_>>()
        });
        match (found, expected) {
            (Ok(found), Ok(expected)) => {
                let expected: Vec<_> =
                    expected.iter().map(|(name, versions)| (name.to_string(), versions.to_vec())).collect();
                assert_eq!(found, expected);
            }
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (found, expected) => panic!("{found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn models_and_versions_are_folders() {
        check(
            &["b/model.toml", "b/10/", "b/9/model.onnx", "a/model.toml", "a/1/", "train.py", ".git/", "a/.tmp/"],
            Ok(&[("a", &[1]), ("b", &[9, 10])]),
        );
    }

    #[test]
    fn what_someone_forgot_is_an_error() {
        check(&[], Err("there is no model here"));
        check(&["a/1/"], Err("there is no model.toml"));
        check(&["model.toml", "1/"], Err("a model's own folder"));
        check(&["a/model.toml"], Err("the model has no version"));
        check(&["a/model.toml", "a/v1/"], Err("positive integer"));
        check(&["a b/model.toml", "a b/1/"], Err("rename the folder"));
    }
}
