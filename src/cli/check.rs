//! `leeway check`: would `leeway serve` start?

use std::io::Write;

use anyhow::Result;

use super::{SettingsArgs, logging, table};
use crate::app::App;
use crate::model::Engine;
use crate::model::onnx::OnnxRuntime;

pub(super) fn run(settings: SettingsArgs) -> Result<()> {
    let config = settings.load()?;
    logging::start(&config.log)?;
    let runtime = OnnxRuntime::load(&config.library_candidates())?;
    let app = App::build(config)?;
    let mut out = std::io::stdout();
    writeln!(out, "ONNX Runtime {} ({})", runtime.version(), runtime.library().display())?;
    writeln!(out, "{}", table::of_versions(&app.snapshot()))?;
    writeln!(out, "All models load and run.")?;
    Ok(())
}
