//! `leeway reload`: makes a running server sync with its repository.

use anyhow::Result;

use super::servers::{ServerArgs, Title};
use super::status::{write_model, write_problems};
use crate::api::admin::Overview;

pub(super) fn run(server: &ServerArgs) -> Result<()> {
    server.each(Title::Above, |client| {
        client.order("/reload")?.show(server.json, |out, overview: Overview| {
            for model in &overview.models {
                write_model(out, model, None)?;
            }
            write_problems(out, &overview)?;
            for loading in &overview.loading {
                writeln!(out, "still loading: {loading}")?;
            }
            Ok(())
        })
    })
}
