//! Model repositories for the load benches, below `.bench`.

use std::path::{Path, PathBuf};

use super::programs::{checkout, workshop};

/// The stages of a model that takes a tensor and answers with what comes out.
pub(crate) const TENSOR_STAGES: &str = "[preprocess]\nkind = \"tensor\"\n[postprocess]\nkind = \"tensor\"\n";

/// A model repository, made anew.
pub(crate) struct Repository(pub(crate) PathBuf);

impl Repository {
    pub(crate) fn new(name: &str) -> Repository {
        let path = workshop().join(name);
        let _ = std::fs::remove_dir_all(&path);
        Repository(path)
    }

    /// Adds a model with one version that has this file.
    pub(crate) fn with(self, name: &str, file: &Path, model_toml: &str) -> Repository {
        self.with_version(name, 1, file, &[]).with_config(name, model_toml)
    }

    /// Adds a version: this file as its model, and others beside it.
    pub(crate) fn with_version(self, name: &str, version: u64, file: &Path, others: &[(&str, &[u8])]) -> Repository {
        let folder = self.version(name, version);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(file, folder.join("model.onnx")).unwrap();
        for (name, content) in others {
            std::fs::write(folder.join(name), content).unwrap();
        }
        leeway::repository::Manifest::write_for(&folder).unwrap();
        self
    }

    pub(crate) fn with_config(self, name: &str, model_toml: &str) -> Repository {
        std::fs::write(self.0.join(name).join("model.toml"), model_toml).unwrap();
        self
    }

    /// Adds a shipped model with these of its versions.
    pub(crate) fn with_shipped(self, name: &str, versions: &[u64]) -> Repository {
        for &version in versions {
            copy_folder(&shipped(name, version), &self.version(name, version));
        }
        let model_toml = std::fs::read_to_string(checkout().join("models").join(name).join("model.toml")).unwrap();
        self.with_config(name, &model_toml)
    }

    pub(crate) fn version(&self, name: &str, version: u64) -> PathBuf {
        self.0.join(name).join(version.to_string())
    }

    /// The model's file of its first version.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.version(name, 1).join("model.onnx")
    }
}

/// The folder of a version that Leeway ships.
pub(crate) fn shipped(name: &str, version: u64) -> PathBuf {
    checkout().join("models").join(name).join(version.to_string())
}

/// The file of a model of the tests.
pub(crate) fn test_model(name: &str) -> PathBuf {
    checkout().join("tests/data/models").join(name).with_extension("onnx")
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
