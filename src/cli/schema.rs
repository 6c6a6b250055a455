//! `leeway schema`: shows what a model of a running server takes and answers, and an example.

use std::io::Write;

use anyhow::Result;
use clap::Args;

use super::servers::ServerArgs;
use crate::api::schema::ModelSchema;
use crate::identity::{ModelName, Version};

#[derive(Debug, Args)]
pub(super) struct SchemaArgs {
    /// The model
    model: ModelName,

    /// Show this loaded version; by default, the stable version
    #[arg(long, value_name = "VERSION")]
    version: Option<Version>,

    /// Print only the JSON Schema of an instance
    #[arg(long, conflicts_with_all = ["prediction", "example"])]
    instance: bool,

    /// Print only the JSON Schema of a prediction
    #[arg(long, conflicts_with = "example")]
    prediction: bool,

    /// Print only the example, which is the body of a request
    #[arg(long)]
    example: bool,

    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: SchemaArgs) -> Result<()> {
    let SchemaArgs { model, version, instance, prediction, example, server } = args;
    let path = match version {
        Some(version) => format!("/models/{model}/versions/{version}/schema"),
        None => format!("/models/{model}/schema"),
    };
    server.connection.servers()?.get(&path)?.show(server.json, |out, schema: ModelSchema| {
        match (instance, prediction, example) {
            (true, _, _) => Ok(writeln!(out, "{}", schema.instance)?),
            (_, true, _) => Ok(writeln!(out, "{}", schema.prediction)?),
            (_, _, true) => write_example(out, &schema),
            _ => {
                writeln!(out, "{} version {}\n", schema.name, schema.version)?;
                writeln!(out, "JSON Schema of an instance:\n{}\n", schema.instance)?;
                writeln!(out, "JSON Schema of a prediction:\n{}\n", schema.prediction)?;
                writeln!(out, "Example, the body of a request:")?;
                write_example(out, &schema)
            }
        }
    })
}

fn write_example(out: &mut dyn Write, schema: &ModelSchema) -> Result<()> {
    match &schema.example {
        Some(example) => Ok(writeln!(out, "{example}")?),
        None => anyhow::bail!("no example of model {} version {} is known", schema.name, schema.version),
    }
}
