//! Weights beside the ONNX file: exporters write them into other files, which the model names.
//!
//! The model may come from anywhere, and the bytes of its weights can be computed from its predictions. So only files of
//! its own folder are taken, and no hidden ones. All other weights have to be given by name.

use std::path::{Component, Path, PathBuf};

use super::staging::{Staging, at};
use crate::error::{Result, SetupError};
use crate::repository::{BASELINE_FILE, GOLDEN_FILE, MANIFEST_FILE, MODEL_FILE, locations_of_weights};

/// Names with a meaning of their own in a version.
const OWN_NAMES: [&str; 4] = [MODEL_FILE, MANIFEST_FILE, GOLDEN_FILE, BASELINE_FILE];

/// Copies the weights of a staged model from the folder of its ONNX file, except those that are staged already. Returns
/// their names.
pub(super) fn stage_weights_beside(onnx: &Path, staging: &Staging) -> Result<Vec<String>, SetupError> {
    let locations = locations_of_weights(&staging.path().join(MODEL_FILE))
        .map_err(|refusal| SetupError::Repository(format!("{}: {refusal}", onnx.display())))?;
    let folder = onnx.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = folder.canonicalize().map_err(|error| at(folder, &error))?;
    let mut copied = Vec::new();
    for name in locations {
        let Some(file) = file_beside(&folder, &name).filter(|_| !staging.path().join(&name).exists()) else { continue };
        staging.copy(&file, &name)?;
        copied.push(name);
    }
    Ok(copied)
}

/// Returns the regular file of this name in the folder; `None` if there is none, or if it must not be taken.
fn file_beside(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut parts = Path::new(name).components();
    let is_plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
    if !is_plain || name.starts_with('.') || OWN_NAMES.contains(&name) {
        return None;
    }
    let file = folder.join(name).canonicalize().ok()?;
    (file.starts_with(folder) && file.is_file()).then_some(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_plain_files_of_the_folder_are_taken() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "1").unwrap();
        let folder = outside.path().join("export");
        std::fs::create_dir_all(folder.join("parts")).unwrap();
        for name in ["weights", "model.onnx.data", ".netrc", "version.toml", "golden.json", "parts/0"] {
            std::fs::write(folder.join(name), "1").unwrap();
        }
        symlink("weights", folder.join("link")).unwrap();
        symlink("../secret", folder.join("link_out")).unwrap();
        symlink("/etc/hostname", folder.join("link_away")).unwrap();
        let folder = folder.canonicalize().unwrap();
        let absolute = folder.join("weights").display().to_string();
        for (name, is_taken) in [
            ("weights", true),
            ("model.onnx.data", true),
            ("link", true),
            ("link_out", false),
            ("link_away", false),
            ("../secret", false),
            ("./weights", false),
            ("weights/", false),
            ("parts", false),
            ("parts/0", false),
            ("parts/../weights", false),
            (&absolute, false),
            ("/etc/hostname", false),
            (".netrc", false),
            ("version.toml", false),
            ("golden.json", false),
            ("..", false),
            ("", false),
            ("nothing", false),
        ] {
            assert_eq!(file_beside(&folder, name).is_some(), is_taken, "{name:?}");
        }
    }
}
