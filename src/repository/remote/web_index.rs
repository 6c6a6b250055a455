//! `index.json`: the list of files of a repository on a static web server, which has no request for a list.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::DEPLOYMENT_FILE;
use crate::error::{Result, SetupError};
use crate::identity::Sha256;
use crate::repository::files;
use crate::repository::layout::{self, CONFIG_FILE};
use crate::repository::manifest::{FilePath, MANIFEST_FILE};
use crate::repository::signature::SIGNATURE_FILE;

/// Name of the index at the root of a repository.
pub const INDEX_FILE: &str = "index.json";

/// The only format of indexes so far.
const FORMAT: u32 = 1;

/// The contents of an index.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WebIndex {
    format: u32,
    /// All files, by their paths below the root.
    files: BTreeMap<FilePath, IndexedFile>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IndexedFile {
    size: u64,
    sha256: Sha256,
}

/// Reads an index: the path, size and digest of each file. The digests only show changes; files are verified against the
/// manifest of their version.
pub(super) fn parse(text: &[u8]) -> Result<impl Iterator<Item = (String, u64, String)> + use<>, String> {
    let index: WebIndex = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if index.format != FORMAT {
        return Err(format!("format: found {}, and this Leeway reads {FORMAT}", index.format));
    }
    Ok(index.files.into_iter().map(|(path, file)| (path.into(), file.size, file.sha256.to_string())))
}

/// Writes the index of a repository into its folder. Returns the numbers of models and of files.
pub fn write_index(repository: &Path) -> Result<(usize, usize), SetupError> {
    let found = layout::scan(repository)?;
    let mut index = WebIndex { format: FORMAT, files: BTreeMap::new() };
    let mut add = |name: String| {
        let path = repository.join(&name);
        let wrong = |problem: String| SetupError::Repository(format!("{}: {problem}", path.display()));
        let digest = files::digest(&path).map_err(|error| wrong(error.to_string()))?;
        let size = std::fs::metadata(&path).map_err(|error| wrong(error.to_string()))?.len();
        let name: FilePath = name.parse().map_err(|error| wrong(format!("{error}")))?;
        index.files.insert(name, IndexedFile { size, sha256: digest });
        Ok::<(), SetupError>(())
    };
    for model in &found.models {
        add(format!("{}/{CONFIG_FILE}", model.name))?;
        if repository.join(model.name.as_str()).join(DEPLOYMENT_FILE).is_file() {
            add(format!("{}/{DEPLOYMENT_FILE}", model.name))?;
        }
        for version in &model.versions {
            let folder = repository.join(model.name.as_str()).join(version.to_string());
            if !folder.is_dir() {
                // A chain has no files.
                continue;
            }
            let listed = files::list(&folder).map_err(|refusal| SetupError::Repository(refusal.to_string()))?;
            add(format!("{}/{version}/{MANIFEST_FILE}", model.name))?;
            if folder.join(SIGNATURE_FILE).is_file() {
                add(format!("{}/{version}/{SIGNATURE_FILE}", model.name))?;
            }
            for file in listed.keys() {
                add(format!("{}/{version}/{file}", model.name))?;
            }
        }
    }
    let to = repository.join(INDEX_FILE);
    let wrong = |error: std::io::Error| SetupError::Repository(format!("{}: {error}", to.display()));
    let mut text = serde_json::to_vec_pretty(&index).map_err(SetupError::internal)?;
    text.push(b'\n');
    // Replaced at once, because a server may be reading it.
    let file = tempfile::NamedTempFile::new_in(repository).map_err(wrong)?;
    std::fs::write(file.path(), text).map_err(wrong)?;
    std::fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).map_err(wrong)?;
    file.persist(&to).map_err(|error| wrong(error.error))?;
    Ok((found.models.len(), index.files.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_has_all_files_of_models() {
        let repository = tempfile::tempdir().unwrap();
        let version = repository.path().join("a/1");
        std::fs::create_dir_all(version.join("vocab")).unwrap();
        for file in ["a/model.toml", "a/1/version.toml", "a/1/vocab/t.json", "notes.txt"] {
            std::fs::write(repository.path().join(file), file).unwrap();
        }
        assert_eq!(write_index(repository.path()).unwrap(), (1, 3));
        let text = std::fs::read(repository.path().join(INDEX_FILE)).unwrap();
        let files: Vec<_> = parse(&text).unwrap().map(|(path, size, _)| (path, size)).collect();
        let file = |path: &str| (path.to_owned(), path.len() as u64);
        assert_eq!(files, [file("a/1/version.toml"), file("a/1/vocab/t.json"), file("a/model.toml")]);
    }

    #[test]
    fn an_index_of_another_format_is_refused() {
        let problem = |text: &str| parse(text.as_bytes()).map(|files| files.count()).unwrap_err();
        assert_eq!(problem(r#"{"format": 2, "files": {}}"#), "format: found 2, and this Leeway reads 1");
        let digest = "0".repeat(64);
        let text = format!(r#"{{"format": 1, "files": {{"../a": {{"size": 1, "sha256": "{digest}"}}}}}}"#);
        assert!(problem(&text).contains("is not the path of a file"), "{}", problem(&text));
    }
}
