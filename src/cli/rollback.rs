//! `leeway rollback`: gives all requests to the stable version, or to the stable version before it.

use anyhow::Result;
use clap::Args;

use super::change::{self, ChangeArgs};
use crate::deploy::Transition;
use crate::identity::ModelName;

#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    /// The model
    model: ModelName,

    #[command(flatten)]
    change: ChangeArgs,
}

pub(super) fn run(RollbackArgs { model, change }: RollbackArgs) -> Result<()> {
    change::make(model, Transition::Rollback, change)
}
