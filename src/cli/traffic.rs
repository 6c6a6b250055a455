//! `leeway traffic`: divides a model's requests over its versions.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow, bail};
use clap::Args;

use super::change::{self, ChangeArgs};
use crate::deploy::Transition;
use crate::identity::{ModelName, Version};
use crate::traffic::{Share, TrafficSplit};

#[derive(Debug, Args)]
pub(super) struct TrafficArgs {
    /// The model
    model: ModelName,

    /// Versions and their shares in percent, which must add up to 100
    #[arg(required = true, value_name = "VERSION=PERCENT", value_parser = share)]
    shares: Vec<(Version, Share)>,

    #[command(flatten)]
    change: ChangeArgs,
}

fn share(text: &str) -> Result<(Version, Share)> {
    let (version, percent) = text.split_once('=').ok_or_else(|| anyhow!("expected VERSION=PERCENT, as in 2=10"))?;
    let percent: f64 = percent.trim_end_matches('%').parse().map_err(|_| anyhow!("{percent:?} is not a number"))?;
    Ok((version.parse()?, Share::from_percent(percent)?))
}

pub(super) fn run(TrafficArgs { model, shares, change }: TrafficArgs) -> Result<()> {
    let mut once = BTreeSet::new();
    if let Some((version, _)) = shares.iter().find(|(version, _)| !once.insert(*version)) {
        bail!("version {version} is given twice");
    }
    change::make(model, Transition::Traffic(TrafficSplit::new(shares)?), change)
}
