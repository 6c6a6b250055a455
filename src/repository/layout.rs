//! The folders of a repository: `<model>/model.toml` and `<model>/<version>/version.toml`.
//!
//! Other folders are reported as problems, but do not prevent models from being found. Hidden folders and `lost+found`
//! are ignored. A symbolic link is followed if it stays within the repository, as in Kubernetes' volumes.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::has_steps;
use crate::error::{Result, SetupError};
use crate::identity::{ModelName, Version, shown};

/// The contents of a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The models, by name.
    pub models: Vec<FoundModel>,
    /// The problems: at most a hundred, and one more with the number of those that are left out.
    pub problems: Vec<FolderProblem>,
}

/// A model in the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundModel {
    /// The name of the model, which is the name of its folder.
    pub name: ModelName,
    /// Its versions; never empty.
    pub versions: BTreeSet<Version>,
}

/// A folder that is not a model or a version, or that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderProblem {
    /// Path of the folder, as messages show it.
    pub folder: String,
    /// The problem, and its remedy.
    pub problem: String,
}

/// File that every folder of a model contains.
pub const CONFIG_FILE: &str = "model.toml";

const WHERE: &str = "repository.path or --models says where to look";

/// Maximum number of problems with folders that are kept.
pub(super) const MAX_PROBLEMS: usize = 100;

/// Finds the models in a repository. Fails if the repository does not exist.
pub(super) fn scan(repository: &Path) -> Result<Found, SetupError> {
    let named = repository.display();
    if !repository.is_dir() {
        let full = std::path::absolute(repository).unwrap_or_else(|_| repository.to_owned());
        let full = if full == repository { String::new() } else { format!(", that is {}", full.display()) };
        return Err(SetupError::Repository(format!("{named}{full}: there is no such folder ({WHERE})")));
    }
    if repository.join(CONFIG_FILE).is_file() {
        return Err(SetupError::Repository(format!(
            "{named}: this is a model's own folder; the repository is the folder above it ({WHERE})"
        )));
    }
    let mut found = Found::default();
    let (folders, problems) =
        folders(repository, repository).map_err(|error| SetupError::Repository(format!("{named}: {error}")))?;
    found.problems.extend(problems);
    for folder in folders {
        match model_in(&folder, repository) {
            Ok((model, problems)) => {
                found.models.push(model);
                found.problems.extend(problems);
            }
            Err(problem) => found.problems.push(problem),
        }
    }
    if found.models.is_empty() && found.problems.is_empty() {
        found.problems.push(FolderProblem::of(
            repository,
            format!(
                "there is no model here; one is a folder with a model.toml and versions, as in digits/model.toml and \
                 digits/1/ ({WHERE})"
            ),
        ));
    }
    if found.problems.len() > MAX_PROBLEMS {
        let more = found.problems.len() - MAX_PROBLEMS;
        found.problems.truncate(MAX_PROBLEMS);
        found.problems.push(FolderProblem::of(repository, format!("{more} more folders have problems")));
    }
    Ok(found)
}

/// Finds the versions of a model in its own folder, which need not have the model's name.
pub(super) fn scan_model(folder: &Path, name: &ModelName) -> Result<Found, SetupError> {
    let (versions, problems) =
        versions_in(folder, folder).map_err(|problem| SetupError::Repository(problem.to_string()))?;
    Ok(Found { models: vec![FoundModel { name: name.clone(), versions }], problems })
}

/// Returns the model that this folder contains, with its versions.
pub fn model_in_folder(folder: &Path) -> Result<FoundModel, SetupError> {
    let repository = folder.parent().unwrap_or(folder);
    model_in(folder, repository).map(|(model, _)| model).map_err(|problem| SetupError::Repository(problem.to_string()))
}

/// Reads the model in a folder, and finds the folders in it that are not versions.
fn model_in(folder: &Path, repository: &Path) -> Result<(FoundModel, Vec<FolderProblem>), FolderProblem> {
    let name: ModelName = file_name(folder)
        .parse()
        .map_err(|error| FolderProblem::of(folder, format!("{error}; rename the folder, or move it away")))?;
    let (versions, problems) = versions_in(folder, repository)?;
    Ok((FoundModel { name, versions }, problems))
}

/// Finds the versions in the folder of a model, and the folders in it that are not versions.
fn versions_in(folder: &Path, repository: &Path) -> Result<(BTreeSet<Version>, Vec<FolderProblem>), FolderProblem> {
    let config = folder.join(CONFIG_FILE);
    stays_inside(&config, repository)?;
    if !config.is_file() {
        return Err(FolderProblem::of(
            folder,
            "there is no model.toml in this folder, but a model must have one; add it or move the folder away",
        ));
    }
    let mut versions = BTreeSet::new();
    let (folders, mut problems) =
        folders(folder, repository).map_err(|error| FolderProblem::of(folder, error.to_string()))?;
    for folder in folders {
        match file_name(&folder).parse() {
            Ok(version) => {
                versions.insert(version);
            }
            Err(error) => {
                problems.push(FolderProblem::of(&folder, format!("{error}; rename the folder, or move it away")));
            }
        }
    }
    if versions.is_empty() && has_steps(&config) {
        // A chain is its model.toml, and has no files.
        versions.insert(Version::FIRST);
    }
    if versions.is_empty() {
        // A folder that was probably meant as a version explains the lack of versions.
        let first = problems.into_iter().next();
        let none = || FolderProblem::of(folder, "the model has no version; add one with `leeway add`");
        return Err(first.unwrap_or_else(none));
    }
    Ok((versions, problems))
}

/// Returns the next version of a model: the one after the highest. Files and links with the name of a version count
/// too.
pub fn next_version(model: &Path) -> Result<Version, SetupError> {
    let unreadable = |error: io::Error| SetupError::Repository(format!("{}: {error}", model.display()));
    let mut highest: Option<Version> = None;
    for entry in std::fs::read_dir(model).map_err(unreadable)? {
        highest = highest.max(entry.map_err(unreadable)?.file_name().to_string_lossy().parse().ok());
    }
    match highest {
        None => Ok(Version::FIRST),
        Some(highest) => {
            highest.next().ok_or_else(|| SetupError::Repository(format!("there is no version after {highest}")))
        }
    }
}

/// Returns the folders in a folder that are not hidden, sorted, and the problems with links that are not followed.
fn folders(path: &Path, repository: &Path) -> io::Result<(Vec<PathBuf>, Vec<FolderProblem>)> {
    let (mut folders, mut problems) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        let name = file_name(&path);
        if name.starts_with('.') || name == "lost+found" {
            continue;
        }
        match stays_inside(&path, repository) {
            Ok(()) if path.is_dir() => folders.push(path),
            Ok(()) => {}
            // Links to files do not matter here.
            Err(_) if path.is_file() => {}
            Err(problem) => problems.push(problem),
        }
    }
    folders.sort();
    problems.sort_by(|one, other| one.folder.cmp(&other.folder));
    Ok((folders, problems))
}

/// Refuses a symbolic link that leads out of the repository.
pub(super) fn stays_inside(path: &Path, repository: &Path) -> Result<(), FolderProblem> {
    if !path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink()) {
        return Ok(());
    }
    let leads_to = path.canonicalize().and_then(|to| Ok((to, repository.canonicalize()?)));
    match leads_to {
        Ok((to, repository)) if to.starts_with(&repository) => Ok(()),
        Ok(_) => Err(FolderProblem::of(
            path,
            "is a symbolic link that leads out of the repository; copy what it leads to with cp -rL",
        )),
        Err(error) => Err(FolderProblem::of(path, format!("is a symbolic link that cannot be followed: {error}"))),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

// ===== impl FolderProblem =====

impl FolderProblem {
    fn of(folder: &Path, problem: impl Into<String>) -> FolderProblem {
        // Only the last part is escaped: the path above it comes from the operator, or is a valid name of a model.
        let above = folder.parent().unwrap_or(Path::new(""));
        let folder = above.join(shown(&file_name(folder))).display().to_string();
        FolderProblem { folder, problem: problem.into() }
    }
}

impl fmt::Display for FolderProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.folder, self.problem)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Creates `paths`: a path with `/` at its end is a folder, and one with an arrow is a link.
    fn repository(paths: &[&str]) -> tempfile::TempDir {
        let repository = tempfile::tempdir().unwrap();
        for path in paths {
            if let Some((link, to)) = path.split_once(" -> ") {
                symlink(to, repository.path().join(link)).unwrap();
                continue;
            }
            let path = repository.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            if path.as_os_str().to_string_lossy().ends_with('/') {
                std::fs::create_dir_all(path).unwrap();
            } else {
                std::fs::write(path, "").unwrap();
            }
        }
        repository
    }

    /// Checks the models that are found in these paths, and the end of each problem's text.
    fn check(paths: &[&str], models: &[(&str, &[u32])], problems: &[&str]) {
        let repository = repository(paths);
        let found = scan(repository.path()).unwrap();
        let versions = |model: &FoundModel| model.versions.iter().map(|version| version.get()).collect::<Vec<_>>();
        let seen: Vec<_> = found.models.iter().map(|model| (model.name.to_string(), versions(model))).collect();
        let expected: Vec<_> = models.iter().map(|(name, versions)| (name.to_string(), versions.to_vec())).collect();
        assert_eq!(seen, expected, "{paths:?}");
        let seen: Vec<String> = found.problems.iter().map(FolderProblem::to_string).collect();
        assert_eq!(seen.len(), problems.len(), "{paths:?}: {seen:?}");
        for (seen, expected) in seen.iter().zip(problems) {
            assert!(seen.contains(expected), "{paths:?}: {seen}");
        }
    }

    #[test]
    fn models_and_versions_are_folders() {
        check(
            &["b/model.toml", "b/10/", "b/9/model.onnx", "a/model.toml", "a/1/", "train.py", "a/notes.txt"],
            &[("a", &[1]), ("b", &[9, 10])],
            &[],
        );
    }

    #[test]
    fn hidden_folders_and_lost_and_found_are_nothing() {
        let hidden = [".git/", ".snapshot/", "lost+found/", "a/.adding-x/", "a/lost+found/", ".x -> /etc", "a/.x -> /"];
        check(&[&["a/model.toml", "a/1/"][..], &hidden].concat(), &[("a", &[1])], &[]);
    }

    #[test]
    fn what_someone_forgot_hides_no_other_model() {
        let with = |paths: &[&str], problem: &str| {
            check(&[&["z/model.toml", "z/1/"][..], paths].concat(), &[("z", &[1])], &[problem]);
        };
        with(&["a/1/"], "/a: there is no model.toml");
        with(&["a/"], "/a: there is no model.toml");
        with(&["a/model.toml"], "/a: the model has no version");
        with(&["a/model.toml", "a/v1/"], "/a/v1: a version is a positive integer");
        with(&["a b/model.toml", "a b/1/"], "/a b: a model's name is");
        with(&["@eaDir/"], "/@eaDir: a model's name is");
        with(&["z/notebooks/"], "/z/notebooks: a version is a positive integer");
        with(&["a\u{1b}[31m\n/"], "/a\\u{1b}[31m\\n: a model's name is");
        check(&[], &[], &["there is no model here"]);
    }

    #[test]
    fn problems_are_bounded() {
        let strays: Vec<String> = (0..150).map(|number| format!("@{number}/")).collect();
        let found = scan(repository(&strays.iter().map(String::as_str).collect::<Vec<_>>()).path()).unwrap();
        assert_eq!(found.problems.len(), MAX_PROBLEMS + 1);
        assert!(found.problems[MAX_PROBLEMS].problem.starts_with("50 more"), "{}", found.problems[MAX_PROBLEMS]);
    }

    #[test]
    fn a_folder_that_is_no_repository_is_an_error() {
        let folder = repository(&["model.toml", "1/"]);
        assert!(scan(folder.path()).unwrap_err().to_string().contains("a model's own folder"));
        assert!(scan(&folder.path().join("2")).unwrap_err().to_string().contains("no such folder"));
    }

    #[test]
    fn links_out_of_the_repository_are_refused() {
        let elsewhere = repository(&["a/model.toml", "a/1/model.onnx"]);
        let to = |path: &str| elsewhere.path().join(path).display().to_string();
        let good = ["z/model.toml", "z/1/"];
        let with = |paths: &[&str], models: &[(&str, &[u32])], problem: &str| {
            check(&[&good[..], paths].concat(), models, &[problem]);
        };
        let out = "is a symbolic link that leads out of the repository; copy what it leads to with cp -rL";
        with(&[&format!("a -> {}", to("a"))], &[("z", &[1])], &format!("/a: {out}"));
        with(&[&format!("z/2 -> {}", to("a/1"))], &[("z", &[1])], &format!("/z/2: {out}"));
        let model_toml = format!("a/model.toml -> {}", to("a/model.toml"));
        with(&["a/1/", &model_toml], &[("z", &[1])], &format!("/a/model.toml: {out}"));
        // A link that leads out through another link: both are refused.
        check(&[&good[..], &["a -> b", &format!("b -> {}", to("a"))]].concat(), &[("z", &[1])], &[out, out]);
        with(&["a -> ../../../../../../../../../etc"], &[("z", &[1])], out);
        with(&["a -> nowhere"], &[("z", &[1])], "cannot be followed");
        with(&["a -> a"], &[("z", &[1])], "cannot be followed");
    }

    /// A projected volume, and a repository that is itself a link.
    #[test]
    fn links_within_the_repository_are_followed() {
        let paths = ["..2024_11/a/model.toml", "..2024_11/a/1/", "..data -> ..2024_11", "a -> ..data/a"];
        check(&paths, &[("a", &[1])], &[]);
        check(
            &[
                "a/..1/model.toml",
                "a/..1/1/",
                "a/..data -> ..1",
                "a/model.toml -> ..data/model.toml",
                "a/1 -> ..data/1",
            ],
            &[("a", &[1])],
            &[],
        );
        let (repository, elsewhere) = (repository(&paths), tempfile::tempdir().unwrap());
        let link = elsewhere.path().join("models");
        symlink(repository.path(), &link).unwrap();
        let found = scan(&link).unwrap();
        assert_eq!((found.models.len(), found.problems), (1, vec![]));
    }

    #[test]
    fn whatever_has_the_name_of_a_version_takes_its_number() {
        for third in ["3/", "3", "3 -> /etc", "3 -> nowhere"] {
            let folder = repository(&["model.toml", "1/", "2/", "notebooks/", third]);
            assert_eq!(next_version(folder.path()).unwrap().get(), 4, "{third}");
        }
    }
}
