//! Possible locations of the ONNX Runtime library, in the order in which they are tried.

use std::path::{Path, PathBuf};

use super::Config;

/// A possible location of the ONNX Runtime library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibraryCandidate {
    /// Path of the file, or a bare file name that the system's loader searches for.
    pub path: PathBuf,
    /// The setting that names the file, or a description of its location, for the message that lists all attempts.
    pub named_by: &'static str,
    /// True if a setting names exactly this file. No other location is tried then.
    pub explicit: bool,
}

/// Description of the location that Leeway's Python wheel fills.
const PYTHON_PACKAGE: &str = "the Python package onnxruntime beside this leeway; `pip install onnxruntime` adds it";

#[cfg(target_os = "macos")]
const FILE_NAME: &str = "libonnxruntime.dylib";
#[cfg(not(target_os = "macos"))]
const FILE_NAME: &str = "libonnxruntime.so";

impl Config {
    /// Returns the possible locations of the ONNX Runtime library. The configuration or else `ORT_DYLIB_PATH` sets the
    /// only location. Without either, these are the executable's folder, `../lib/leeway` relative to this folder, the
    /// Python package `onnxruntime` that `pip` installed with this executable, the copy that was fetched into the checkout,
    /// and the system's loader.
    pub fn library_candidates(&self) -> Vec<LibraryCandidate> {
        let environment = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()).map(PathBuf::from);
        let executable = std::env::current_exe().ok();
        candidates(self.onnxruntime.library.as_deref(), environment, executable.as_deref())
    }
}

/// Returns only the first location that a setting names, or else all usual locations. The pure part of
/// [`Config::library_candidates`].
fn candidates(
    configured: Option<&Path>,
    environment: Option<PathBuf>,
    executable: Option<&Path>,
) -> Vec<LibraryCandidate> {
    let explicit = |path: PathBuf, named_by| vec![LibraryCandidate { path, named_by, explicit: true }];
    if let Some(path) = configured {
        return explicit(path.to_owned(), "onnxruntime.library");
    }
    if let Some(path) = environment {
        return explicit(path, "ORT_DYLIB_PATH");
    }
    let mut found = Vec::new();
    let mut add = |path: PathBuf, named_by| found.push(LibraryCandidate { path, named_by, explicit: false });
    if let Some(folder) = executable.and_then(Path::parent) {
        add(folder.join(FILE_NAME), "next to the executable");
        if let Some(prefix) = folder.parent() {
            add(prefix.join("lib/leeway").join(FILE_NAME), "installed with the executable");
            for library in python_libraries(prefix) {
                add(library, PYTHON_PACKAGE);
            }
        }
        // target/release/leeway and target/debug/deps/<test> are inside the checkout with the fetched library.
        for ancestor in folder.ancestors().filter(|ancestor| ancestor.join(".onnxruntime").is_dir()) {
            add(ancestor.join(".onnxruntime").join(FILE_NAME), "fetched by `make onnxruntime`");
        }
    }
    add(PathBuf::from(FILE_NAME), "the system's loader");
    found
}

/// Returns the libraries of the packages `onnxruntime` and `onnxruntime-gpu` in the Python environment at this prefix, of
/// the latest Python first.
///
/// `pip` installs the executable as `PREFIX/bin/leeway`, and the library as
/// `PREFIX/lib/python3.12/site-packages/onnxruntime/capi/libonnxruntime.so.1.31.1`; Debian calls the folder
/// `dist-packages`, and some distributions have `lib64`. An environment of Python without the library has a location, too,
/// so that the message of a failed start says which package is missing.
fn python_libraries(prefix: &Path) -> Vec<PathBuf> {
    let mut environments: Vec<(Option<u32>, PathBuf)> = Vec::new();
    for lib in ["lib", "lib64"] {
        for python in entries(&prefix.join(lib)) {
            let name = python.file_name().unwrap_or_default().to_string_lossy();
            let Some(version) = name.strip_prefix("python3.") else { continue };
            let version = version.parse().ok();
            for packages in ["site-packages", "dist-packages"] {
                environments.push((version, python.join(packages)));
            }
        }
    }
    environments.retain(|(_, packages)| packages.is_dir());
    environments.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    let capi = |packages: &Path| packages.join("onnxruntime").join("capi");
    let found: Vec<PathBuf> = environments
        .iter()
        .flat_map(|(_, packages)| entries(&capi(packages)))
        .filter(|path| is_library(&path.file_name().unwrap_or_default().to_string_lossy()))
        .collect();
    let has_leeway = |packages: &Path| packages.join("leeway").is_dir();
    match environments.iter().find(|(_, packages)| has_leeway(packages)) {
        Some((_, packages)) if found.is_empty() => vec![capi(packages).join(FILE_NAME)],
        _ => found,
    }
}

/// Returns the entries of a folder in order; none if it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Returns true for `libonnxruntime.so.1.31.1` and `libonnxruntime.1.31.1.dylib`, but not for libraries of providers.
fn is_library(name: &str) -> bool {
    let (stem, extension) = FILE_NAME.rsplit_once('.').unwrap_or((FILE_NAME, ""));
    name.strip_prefix(stem).is_some_and(|rest| rest.starts_with('.') && rest.contains(extension))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(configured: Option<&str>, environment: Option<&str>) -> Vec<(String, &'static str)> {
        candidates(configured.map(Path::new), environment.map(PathBuf::from), Some(Path::new("/opt/leeway/leeway")))
            .into_iter()
            .map(|candidate| (candidate.path.display().to_string(), candidate.named_by))
            .collect()
    }

    #[test]
    fn an_explicit_library_is_the_only_place() {
        assert_eq!(paths(Some("/a.so"), Some("/b.so")), [("/a.so".into(), "onnxruntime.library")]);
        assert_eq!(paths(None, Some("/b.so")), [("/b.so".into(), "ORT_DYLIB_PATH")]);
    }

    #[test]
    fn the_executables_folder_comes_before_the_systems_loader() {
        let found = paths(None, None);
        assert_eq!(found[0].0, format!("/opt/leeway/{FILE_NAME}"));
        assert_eq!(found[1].0, format!("/opt/lib/leeway/{FILE_NAME}"));
        assert_eq!(found.last().unwrap(), &(FILE_NAME.into(), "the system's loader"));
    }

    /// Makes an environment of Python with these files, and returns the libraries that are found in it.
    fn found_in_python(files: &[&str]) -> Vec<String> {
        let prefix = tempfile::tempdir().unwrap();
        for file in files {
            let path = prefix.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let found = python_libraries(prefix.path());
        found.iter().map(|path| path.strip_prefix(prefix.path()).unwrap().display().to_string()).collect()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_library_of_the_python_package_is_found() {
        let in_package = |python: &str, name: &str| format!("lib/{python}/site-packages/onnxruntime/capi/{name}");
        let (new, old) =
            (in_package("python3.12", "libonnxruntime.so.1.31.1"), in_package("python3.9", "libonnxruntime.so.1.24.0"));
        let provider = in_package("python3.12", "libonnxruntime_providers_shared.so");
        let binding = in_package("python3.12", "onnxruntime_pybind11_state.so");
        assert_eq!(found_in_python(&[&old, &provider, &binding, &new]), [new, old]);
        let debian = "lib/python3.13/dist-packages/onnxruntime/capi/libonnxruntime.so.1.31.1";
        assert_eq!(found_in_python(&[debian, "lib/leeway/libonnxruntime.so", "lib/python3/dist-packages/x"]), [debian]);
    }

    #[test]
    fn a_package_that_is_missing_beside_leeway_is_a_location_that_was_tried() {
        let missing = format!("lib/python3.12/site-packages/onnxruntime/capi/{FILE_NAME}");
        assert_eq!(found_in_python(&["lib/python3.12/site-packages/leeway/__init__.py"]), [missing]);
        assert!(found_in_python(&["lib/python3.12/site-packages/other/__init__.py"]).is_empty());
    }
}
