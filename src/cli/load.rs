//! `leeway load` and `leeway unload`: keep a version loaded, or unloaded.

use anyhow::Result;
use clap::Args;

use super::servers::{ServerArgs, Title};
use super::status::state;
use crate::api::admin::VersionStatus;
use crate::identity::{ModelName, Version};

#[derive(Debug, Args)]
pub(super) struct VersionArgs {
    /// The model
    model: ModelName,

    /// The version
    version: Version,

    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn load(args: VersionArgs) -> Result<()> {
    act(args, "load")
}

pub(super) fn unload(args: VersionArgs) -> Result<()> {
    act(args, "unload")
}

fn act(VersionArgs { model, version, server }: VersionArgs, action: &str) -> Result<()> {
    server.each(Title::InLine, |client| {
        let answer = client.order(&format!("/models/{model}/versions/{version}/{action}"))?;
        answer.show(server.json, |out, status: VersionStatus| {
            Ok(writeln!(out, "{model} version {version}: {}", state(&status))?)
        })
    })
}
