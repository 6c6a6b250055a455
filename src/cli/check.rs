//! `leeway check`: would `leeway serve` start?

use std::io::Write;

use anyhow::Result;

use super::{SettingsArgs, logging, table};
use crate::app::App;
use crate::model::Engine;
use crate::model::onnx::OnnxRuntime;
use crate::registry::WarmUp;

pub(super) fn run(settings: SettingsArgs) -> Result<()> {
    let config = settings.load()?;
    logging::start(&config.log)?;
    let runtime = OnnxRuntime::load(&config.library_candidates())?;
    let app = App::build(config)?;
    let mut out = std::io::stdout();
    writeln!(out, "ONNX Runtime {} ({})", runtime.version(), runtime.library().display())?;
    let snapshot = app.snapshot();
    writeln!(out, "{}", table::of_versions(&snapshot))?;
    let guessed: Vec<String> = snapshot
        .versions()
        .filter(|version| version.warm_up == WarmUp::Failed)
        .map(|version| format!("{} version {}", version.model, version.version))
        .collect();
    if guessed.is_empty() {
        writeln!(out, "All models load and run.")?;
    } else {
        writeln!(
            out,
            "All models load. Not seen to run, because an input shape had to be guessed: {}",
            guessed.join(", ")
        )?;
    }
    Ok(())
}
