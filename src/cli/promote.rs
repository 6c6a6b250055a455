//! `leeway promote`: makes a version the stable one, and gives it all requests.

use anyhow::Result;
use clap::Args;

use super::change::{self, ChangeArgs};
use crate::deploy::Transition;
use crate::identity::{ModelName, Version};

#[derive(Debug, Args)]
pub(super) struct PromoteArgs {
    /// The model
    model: ModelName,

    /// The new stable version
    version: Version,

    #[command(flatten)]
    change: ChangeArgs,
}

pub(super) fn run(PromoteArgs { model, version, change }: PromoteArgs) -> Result<()> {
    change::make(model, Transition::Promote(version), change)
}
