//! `leeway log`: reads the prediction log of a model.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::{Args, ValueEnum};

use super::log_window::LogWindowArgs;
use super::settings::ConfigArgs;
use super::table_cells::{align_right, table, text_of};
use super::terminal;
use crate::identity::{ModelName, Version};
use crate::prediction_log::{LogReader, LogSummary, TRUTH_COLUMNS};

#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// The model
    model: ModelName,

    /// Folder of the log [default: prediction_log.path]
    #[arg(long, value_name = "FOLDER")]
    path: Option<PathBuf>,

    /// Only predictions of this version
    #[arg(long)]
    version: Option<Version>,

    #[command(flatten)]
    window: LogWindowArgs,

    /// Form of the output
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,

    /// Show the numbers of predictions, files, bytes and truths instead
    #[arg(long, conflicts_with = "format")]
    count: bool,

    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// A JSON object per line
    Jsonl,
    /// A header and a line per prediction
    Csv,
}

pub(super) fn run(args: LogArgs) -> Result<()> {
    let path = match args.path {
        Some(path) => path,
        None => args.config.load()?.prediction_log.path.ok_or_else(without_path)?,
    };
    let log = LogReader::open(&path, &args.model, args.version, args.window.window()?)?;
    match (args.count, args.format) {
        (true, _) => count(&log),
        (false, Format::Jsonl) => json_lines(&log),
        (false, Format::Csv) => csv_lines(&log),
    }
}

/// Returns the problem that no folder of a log is known.
pub(super) fn without_path() -> anyhow::Error {
    anyhow!("prediction_log.path is not set, so the folder of the log is not known; give it")
}

fn json_lines(log: &LogReader) -> Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    log.for_each(&log.truths()?, |_, row| {
        serde_json::to_writer(&mut out, &row).map_err(std::io::Error::from)?;
        writeln!(out).map_err(anyhow::Error::from)
    })?;
    Ok(out.flush()?)
}

fn csv_lines(log: &LogReader) -> Result<()> {
    let columns = log.columns()?;
    let mut out = csv::Writer::from_writer(std::io::stdout().lock());
    let broken = |error: csv::Error| match error.into_kind() {
        csv::ErrorKind::Io(error) => anyhow::Error::from(error),
        other => anyhow!("{other:?}"),
    };
    let header = columns.iter().map(String::as_str).chain(TRUTH_COLUMNS);
    out.write_record(header).map_err(broken)?;
    log.for_each(&log.truths()?, |_, row| out.write_record(row.cells(&columns)).map_err(broken))?;
    Ok(out.flush()?)
}

fn count(log: &LogReader) -> Result<()> {
    let mut versions: BTreeMap<Version, LogSummary> = BTreeMap::new();
    let mut last = None;
    log.for_each(&log.truths()?, |file, row| {
        let summary = versions.entry(file.version).or_default();
        if last.as_deref() != Some(file.path()) {
            summary.add_file(file);
            last = Some(file.path().to_owned());
        }
        summary.add(&row);
        anyhow::Ok(())
    })?;
    let mut table = table(["version", "predictions", "truths", "files", "bytes", "from", "to"]);
    align_right(&mut table, [1, 2, 3, 4]);
    for (version, summary) in &versions {
        let LogSummary { rows, truths, files, bytes, first, last } = summary;
        let time = |time: &Option<jiff::Timestamp>| time.map(|time| time.to_string()).unwrap_or_default();
        let numbers = [rows, truths, files, bytes].map(u64::to_string);
        let [rows, truths, files, bytes] = numbers;
        table.add_row([version.to_string(), rows, truths, files, bytes, time(first), time(last)]);
    }
    let mut out = terminal::stdout();
    match versions.is_empty() {
        true => writeln!(out, "the log has no predictions in this time")?,
        false => writeln!(out, "{}", text_of(&table))?,
    }
    Ok(())
}
