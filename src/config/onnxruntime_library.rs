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

#[cfg(target_os = "macos")]
const FILE_NAME: &str = "libonnxruntime.dylib";
#[cfg(not(target_os = "macos"))]
const FILE_NAME: &str = "libonnxruntime.so";

impl Config {
    /// Returns the possible locations of the ONNX Runtime library. The configuration or else `ORT_DYLIB_PATH` sets the
    /// only location. Without either, these are the executable's folder, `../lib/leeway` relative to this folder, the
    /// copy that was fetched into the checkout, and the system's loader.
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
        }
        // target/release/leeway and target/debug/deps/<test> are inside the checkout with the fetched library.
        for ancestor in folder.ancestors().filter(|ancestor| ancestor.join(".onnxruntime").is_dir()) {
            add(ancestor.join(".onnxruntime").join(FILE_NAME), "fetched by `make onnxruntime`");
        }
    }
    add(PathBuf::from(FILE_NAME), "the system's loader");
    found
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
}
