//! The source files of the crate.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// Folder of the crate.
pub(crate) const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A source file.
pub(crate) struct Source {
    /// Its path below `src/`.
    pub(crate) file: String,
    /// Its text.
    pub(crate) text: String,
    /// Its text without comments, and without the unit tests at its end.
    pub(crate) code: String,
}

/// Returns all source files.
pub(crate) fn sources() -> &'static [Source] {
    static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(|| {
        let root = Path::new(ROOT).join("src");
        let mut paths = Vec::new();
        collect(&root, &mut paths);
        let source = |path: PathBuf| {
            let file = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
            let text = std::fs::read_to_string(&path).unwrap();
            Source { file, code: code(&text), text }
        };
        paths.into_iter().filter(|path| is_source(path)).map(source).collect()
    });
    &SOURCES
}

/// Returns true for Rust files, except for files of unit tests.
fn is_source(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
        && path.file_name().is_some_and(|name| name != "tests.rs")
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { collect(&path, into) } else { into.push(path) }
    }
}

fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.map(|line| format!("{line}\n")).collect()
}
