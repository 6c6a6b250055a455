//! `leeway history`: shows the deployments of a model.

use anyhow::Result;
use clap::Args;

use super::servers::ServerArgs;
use super::table_cells::{cell, seconds, table, text_of};
use crate::api::admin::History;
use crate::identity::ModelName;

#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    /// The model
    model: ModelName,

    /// Maximum number of deployments to show, from the newest
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,

    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(HistoryArgs { model, limit, server }: HistoryArgs) -> Result<()> {
    let answer = server.connection.servers()?.get(&format!("/models/{model}/history?limit={limit}"))?;
    answer.show(server.json, |out, History { deployments }| {
        let mut table = table(["generation", "at", "action", "stable", "traffic", "by", "reason"]);
        for deployment in deployments {
            table.add_row([
                deployment.generation.to_string(),
                seconds(deployment.change.at),
                deployment.change.action.name().to_owned(),
                deployment.stable.to_string(),
                deployment.traffic.to_string(),
                cell(&deployment.change.by),
                cell(&deployment.change.reason),
            ]);
        }
        Ok(writeln!(out, "{}", text_of(&table))?)
    })
}
