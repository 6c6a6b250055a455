//! The temporary folder of the demo: a copy of a shipped model, and the state of the server.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use tempfile::TempDir;

use crate::config::{Config, ListenAddresses, StateUrl};

/// The model of the demo.
pub(super) const MODEL: &str = "penguins";
/// The version that is served at first, and the canary.
pub(super) const VERSION: &str = "2";
pub(super) const CANARY: &str = "3";

/// Files of the model at the start, below its folder.
const SHIPPED: [(&str, &[u8]); 5] = [
    ("model.toml", include_bytes!("../../../models/penguins/model.toml")),
    ("2/version.toml", include_bytes!("../../../models/penguins/2/version.toml")),
    ("2/model.onnx", include_bytes!("../../../models/penguins/2/model.onnx")),
    ("2/baseline.json", include_bytes!("../../../models/penguins/2/baseline.json")),
    ("2/golden.json", include_bytes!("../../../models/penguins/2/golden.json")),
];

/// Files of the canary. `examples/penguins/make_demo.py` makes them.
const CANARY_FILES: [(&str, &[u8]); 2] =
    [("version.toml", include_bytes!("canary/version.toml")), ("model.onnx", include_bytes!("canary/model.onnx"))];

/// The folder, which is removed when this value is dropped.
#[derive(Debug)]
pub(super) struct DemoFolder(TempDir);

impl DemoFolder {
    /// Makes the folder, with the shipped model in it.
    pub(super) fn make() -> Result<DemoFolder> {
        let folder = tempfile::Builder::new().prefix("leeway-demo-").tempdir();
        let folder =
            folder.context("no folder could be made among the temporary files (set TMPDIR to another place)")?;
        write(&model(folder.path()), &SHIPPED)?;
        Ok(DemoFolder(folder))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Returns the configuration of the server: free ports of this machine, and everything that it writes in the folder.
    pub(super) fn config(&self, user: Config) -> Result<Config> {
        let mut config = Config { onnxruntime: user.onnxruntime, ..Config::default() };
        let any_port = ListenAddresses::parse("127.0.0.1:0").map_err(|problem| anyhow!("{problem}"))?;
        config.http.listen = any_port.clone();
        config.admin.listen = any_port;
        // The story shows the effects of its last request.
        config.http.metrics_max_age_ms = 0;
        config.repository.path = self.path().join("models").into();
        config.state.url = StateUrl::Sqlite(self.path().join("leeway.db"));
        Ok(config)
    }

    /// Removes the folder, or keeps it and returns its path.
    pub(super) fn end(self, is_kept: bool) -> Result<Option<PathBuf>> {
        if is_kept {
            return Ok(Some(self.0.keep()));
        }
        let path = self.path().to_owned();
        self.0.close().with_context(|| format!("{} could not be removed", path.display()))?;
        Ok(None)
    }
}

/// Adds the canary to the model in a folder. It appears atomically, as a version that `leeway add` makes.
pub(super) fn add_canary(folder: &Path) -> Result<()> {
    let hidden = model(folder).join(".adding");
    write(&hidden, &CANARY_FILES)?;
    std::fs::rename(&hidden, model(folder).join(CANARY)).context("the canary could not be added")
}

fn model(folder: &Path) -> PathBuf {
    folder.join("models").join(MODEL)
}

/// Writes files below a folder.
fn write(folder: &Path, files: &[(&str, &[u8])]) -> Result<()> {
    for (name, content) in files {
        let file = folder.join(name);
        let written =
            file.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&file, content));
        written.with_context(|| format!("{} cannot be written", file.display()))?;
    }
    Ok(())
}
