//! `leeway shadow`: copies a share of the stable version's requests to another version.

use anyhow::{Result, anyhow, bail};
use clap::Args;

use super::change::{self, ChangeArgs};
use crate::deploy::Transition;
use crate::identity::{ModelName, Version};
use crate::traffic::{Shadow, Share};

#[derive(Debug, Args)]
pub(super) struct ShadowArgs {
    /// The model
    model: ModelName,

    /// The version that gets the copies
    #[arg(required_unless_present = "off")]
    version: Option<Version>,

    /// Share of the stable version's requests that are copied, in percent
    #[arg(long, value_parser = percent, required_unless_present = "off")]
    percent: Option<Share>,

    /// End shadow traffic
    #[arg(long, conflicts_with_all = ["version", "percent"])]
    off: bool,

    #[command(flatten)]
    change: ChangeArgs,
}

fn percent(text: &str) -> Result<Share> {
    let percent: f64 = text.trim_end_matches('%').parse().map_err(|_| anyhow!("{text:?} is not a number"))?;
    match Share::from_percent(percent)? {
        Share::NONE => bail!("found 0, expected more than 0; --off ends shadow traffic"),
        share => Ok(share),
    }
}

pub(super) fn run(ShadowArgs { model, version, percent, off: _, change }: ShadowArgs) -> Result<()> {
    let shadow = version.zip(percent).map(|(version, percent)| Shadow { version, percent });
    change::make(model, Transition::Shadow(shadow), change)
}
