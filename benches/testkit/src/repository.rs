//! Model repositories for a test or a bench, and the configuration of a server in a test.

use std::path::{Path, PathBuf};

use leeway::config::{Config, StateUrl};
use leeway::repository::Manifest;
use tempfile::TempDir;

use crate::places::{checkout, copy_folder, shipped, test_model, workshop};

/// A repository in a temporary folder, which is deleted when this value is dropped.
pub struct Repository(pub TempDir);

/// The stages of a model that takes a tensor and answers with its output tensor.
pub const TENSOR_STAGES: &str = "[preprocess]\nkind = \"tensor\"\n[postprocess]\nkind = \"tensor\"\n";

/// The same stages, with a long budget, and with one worker on any number of cores.
pub const PLAIN: &str = "[preprocess]\nkind = \"tensor\"\n[postprocess]\nkind = \"tensor\"\n\
    [budget]\ntotal_ms = 600000\n[model]\nworkers = 1\n";

impl Repository {
    /// Makes an empty repository among the temporary files.
    #[expect(clippy::new_without_default, reason = "this makes a folder, which a default should not do")]
    pub fn new() -> Repository {
        Repository(tempfile::tempdir().expect("a temporary folder"))
    }

    /// Makes an empty repository below `.bench`, on the disk of the checkout.
    pub fn in_workshop(name: &str) -> Repository {
        std::fs::create_dir_all(workshop()).expect("a folder for the benches");
        Repository(tempfile::Builder::new().prefix(name).tempdir_in(workshop()).expect("a temporary folder"))
    }

    /// Makes a repository with one plain model of the tests.
    pub fn of(model: &str) -> Repository {
        Repository::new().with(model, 1, model, PLAIN)
    }

    /// Adds a version of a model of the tests, and its `model.toml`.
    pub fn with(self, name: &str, version: u32, model: &str, model_toml: &str) -> Repository {
        self.add(name, version, model);
        self.with_config(name, model_toml)
    }

    /// Adds a version with this file as its model, and with other files.
    pub fn with_version(self, name: &str, version: u32, file: &Path, others: &[(&str, &[u8])]) -> Repository {
        self.add_files(name, version, file, others);
        self
    }

    /// Writes the `model.toml` of a model.
    pub fn with_config(self, name: &str, model_toml: &str) -> Repository {
        std::fs::write(self.path().join(name).join("model.toml"), model_toml).expect("a model's folder");
        self
    }

    /// Adds a shipped model with these of its versions.
    pub fn with_shipped(self, name: &str, versions: &[u32]) -> Repository {
        for &version in versions {
            copy_folder(&shipped(name, version), &self.version(name, version));
        }
        let model_toml = checkout().join("models").join(name).join("model.toml");
        self.with_config(name, &std::fs::read_to_string(model_toml).expect("a shipped model"))
    }

    /// Adds a version of a model of the tests to a model that has a `model.toml`. The version appears atomically.
    pub fn add(&self, name: &str, version: u32, model: &str) {
        self.add_file(name, version, &test_model(model));
    }

    /// Adds a version atomically, from any file.
    pub fn add_file(&self, name: &str, version: u32, file: &Path) {
        self.add_files(name, version, file, &[]);
    }

    fn add_files(&self, name: &str, version: u32, file: &Path, others: &[(&str, &[u8])]) {
        let folder = self.version(name, version);
        let hidden = folder.with_file_name(".adding");
        std::fs::create_dir_all(&hidden).expect("a folder for a version");
        std::fs::copy(file, hidden.join("model.onnx")).expect("a model");
        for (name, content) in others {
            std::fs::write(hidden.join(name), content).expect("a file of a version");
        }
        Manifest::write_for(&hidden).expect("a manifest");
        std::fs::rename(hidden, folder).expect("a new version");
    }

    /// The folder of the repository.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The folder of a version.
    pub fn version(&self, name: &str, version: u32) -> PathBuf {
        self.path().join(name).join(version.to_string())
    }

    /// The configuration of a server in a test.
    pub fn config(&self) -> Config {
        test_config(self.path())
    }
}

/// Returns the configuration of a server in a test: free ports, no delays, and no periodic work.
pub fn test_config(models: &Path) -> Config {
    let mut config = Config::default();
    config.http.listen = ([127, 0, 0, 1], 0).into();
    config.admin.listen = ([127, 0, 0, 1], 0).into();
    config.repository.path = models.into();
    config.shutdown.deregistration_delay_ms = 0;
    config.state.url = StateUrl::Memory;
    // A test expects the effects of its last request.
    config.http.metrics_max_age_ms = 0;
    // A test asks for a sync when it needs one.
    config.repository.poll_interval_ms = 0;
    // A test machine may be busy.
    config.repository.reload_timeout_ms = std::num::NonZeroU64::MIN.saturating_add(59_999);
    config
}
