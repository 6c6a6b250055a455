//! `leeway predict`: predictions for the rows of a file, by a running server or in this process.
//!
//! A thread reads the rows (`rows.rs`) and cuts them into requests. Some threads make the predictions (`scoring.rs`), by a
//! server (`by_server.rs`) or by a model in this process (`in_process.rs`); both get the same requests. This thread writes the
//! predictions in the order of the rows (`output.rs`). Memory is bounded: few requests are open at one time.

mod by_server;
mod in_process;
mod output;
mod predictor;
mod progress;
mod rows;
mod scoring;

use std::io::{IsTerminal, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;

use self::by_server::ByServer;
use self::in_process::InProcess;
use self::output::{Output, OutputFormat};
use self::predictor::Predictor;
use self::progress::Progress;
use self::scoring::{Outcome, Refused, Scoring};
use super::exit::Exit;
use super::server_address::ServerAddress;
use super::settings::{ConfigArgs, models_location};
use super::terminal;
use crate::authoring::{DataPlace, Delimiter, ReadProgress};
use crate::identity::{ModelName, Version};
use crate::pipeline::Stages;

/// Exit code if rows were refused, and the others were predicted.
const SOME_REFUSED: u8 = 3;
/// Maximum number of refused rows that are named. The others are counted.
const MAX_NAMED: u64 = 20;
/// Maximum number of requests at one time. Each has a thread.
const MAX_CONCURRENCY: i64 = 256;

#[derive(Debug, Args)]
pub(super) struct PredictArgs {
    /// The model
    model: ModelName,

    /// Rows: CSV, Parquet, Arrow, JSON lines or a JSON request (also packed with gzip), or a folder of images; - is standard
    /// input
    #[arg(default_value = "-", value_name = "FILE")]
    data: PathBuf,

    /// Ask this version; by default, the stable version
    #[arg(long, value_name = "VERSION")]
    version: Option<Version>,

    /// File for the predictions; by default, standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Format of the predictions; by default as the output file is named, or else jsonl
    #[arg(long, value_enum)]
    format: Option<OutputFormat>,

    /// Parts of a prediction that become columns of CSV, as in label,confidence; by default all numbers, texts and booleans
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    columns: Vec<String>,

    /// A column of the table that is not a feature, such as the label or an id. May be given several times
    #[arg(long, value_name = "NAME")]
    ignore_column: Vec<String>,

    /// Separator of the columns, as in ";" or tab, if the header does not show it, or the file is no .csv
    #[arg(long, value_name = "CHARACTER")]
    delimiter: Option<Delimiter>,

    /// Go on after rows that are refused. Their predictions are errors; the exit code is 3
    #[arg(long)]
    keep_going: bool,

    /// Number of requests at one time [default: 4; in this process, the number of cores and one more]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=MAX_CONCURRENCY))]
    concurrency: Option<u16>,

    /// Maximum number of rows in one request. The number is found by itself, from the time that requests take
    #[arg(long, value_name = "COUNT", default_value = "8192")]
    max_rows: NonZeroUsize,

    /// Listener for clients of the server: http://HOST:PORT, https://HOST:PORT or unix:/PATH [default: http.listen]
    #[arg(long, value_name = "URL", value_parser = ServerAddress::parse, conflicts_with = "models")]
    server: Option<ServerAddress>,

    /// File with the API key of the server, if it needs one
    #[arg(long, value_name = "FILE", conflicts_with = "models")]
    api_key_file: Option<PathBuf>,

    /// PEM file with the certificates to trust, if the server speaks TLS [default: http.tls.certificate of the configured
    /// server, and those of this machine for others]
    #[arg(long, value_name = "FILE", conflicts_with = "models")]
    ca_file: Option<PathBuf>,

    /// Load the model from this folder or location of models, in this process, without a server
    #[arg(short, long, value_name = "FOLDER")]
    models: Option<String>,

    #[command(flatten)]
    settings: ConfigArgs,
}

impl PredictArgs {
    /// Returns true if the model runs in this process.
    pub(super) fn loads_onnxruntime(&self) -> bool {
        self.models.is_some()
    }
}

pub(super) fn run(args: &PredictArgs, stages: Stages) -> Result<()> {
    let config = args.settings.load()?;
    match &args.models {
        Some(models) => {
            let predictor = InProcess::load(config, models_location(models)?, &args.model, args.version, stages)?;
            predict_all(args, &predictor)
        }
        None => {
            let given = args.server.clone();
            let key = args.api_key_file.as_deref();
            let predictor = ByServer::connect(&config, given, key, args.ca_file.clone(), (&args.model, args.version))?;
            predict_all(args, &predictor)
        }
    }
}

fn predict_all(args: &PredictArgs, predictor: &dyn Predictor) -> Result<()> {
    let place = match &args.data {
        path if path.as_os_str() == "-" => DataPlace::Stdin,
        path => DataPlace::Path(path.clone()),
    };
    if let (Some(output), DataPlace::Path(data)) = (&args.output, &place)
        && is_same_file(output, data)
    {
        bail!("{} is the file with the rows; write the predictions to another one", output.display());
    }
    if place == DataPlace::Stdin && std::io::stdin().is_terminal() {
        writeln!(terminal::stderr(), "reading rows from standard input; Ctrl-D ends them")?;
    }
    let (begin, read) = (Instant::now(), Arc::new(ReadProgress::default()));
    let mut progress = Progress::new(&place, &read);
    let mut output = Output::new(args.output.as_deref(), args.format, &args.columns, args.keep_going);
    let scoring = Scoring {
        predictor,
        in_flight: args.concurrency.map_or_else(|| predictor.concurrency(), usize::from),
        max_rows: args.max_rows.get(),
        keep_going: args.keep_going,
    };
    let rows =
        rows::Wanted { place, delimiter: args.delimiter, ignored_columns: args.ignore_column.clone(), progress: read };
    let (mut done, mut refused) = (0u64, 0u64);
    let scored = scoring.run(&rows, &mut |outcome| {
        done += 1;
        if let Outcome::Refused(Refused { place, problem }) = outcome {
            refused += 1;
            if refused <= MAX_NAMED && args.keep_going {
                progress.suspend(|| writeln!(terminal::stderr(), "{place}: {problem}"))?;
            }
        }
        output.write(outcome)?;
        progress.show(done);
        Ok(())
    });
    progress.finish();
    // Of a command that fails later, the predictions up to there are kept.
    let finished = if scored.is_ok() || done > 0 { output.finish() } else { Ok(()) };
    scored?;
    finished?;
    let took = begin.elapsed();
    let per_second = done as f64 / took.as_secs_f64().max(f64::MIN_POSITIVE);
    let mut said = terminal::stderr();
    if refused > MAX_NAMED {
        writeln!(said, "and {} more", refused - MAX_NAMED)?;
    }
    let name = predictor.name();
    let refusals = if refused > 0 { format!(", {refused} refused") } else { String::new() };
    writeln!(said, "{name}: {done} rows in {:.1} s ({per_second:.0} rows/s){refusals}", took.as_secs_f64())?;
    if refused > 0 { Err(Exit::silently(SOME_REFUSED)) } else { Ok(()) }
}

/// Returns true if both are paths of one file that exists.
fn is_same_file(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}
