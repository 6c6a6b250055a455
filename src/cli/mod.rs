//! The command line: one file per subcommand, and the exit codes.

#![warn(missing_docs)]

mod add;
mod add_target;
mod answer;
mod baseline;
mod change;
mod check;
mod clean_up;
mod client;
mod compare;
mod completions;
mod demo;
mod drift;
mod drift_change;
mod exit;
mod findings;
mod first_request;
mod health;
mod history;
mod index;
mod init;
mod key;
mod learn;
mod load;
mod log;
mod log_window;
mod logging;
mod man;
mod metrics_text;
mod one_model;
mod outcomes;
mod panics;
mod predict;
mod promote;
mod reload;
mod replicas;
mod rollback;
mod rollout;
mod schema;
mod serve;
mod server_address;
mod servers;
mod settings;
mod shadow;
mod sign;
mod status;
mod table;
mod table_cells;
mod terminal;
mod top;
mod traffic;
mod unix_transport;
mod version_numbers;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

use self::exit::Exit;
use self::settings::{RepositoryArgs, SettingsArgs};

use crate::config::this_program;
use crate::error::SetupError;
use crate::machine;
use crate::model::Engine;
use crate::model::isolated::{RUN_COMMAND, answer_runs};
use crate::model::onnx::OnnxRuntime;
use crate::pipeline::Stages;
use crate::registry::{TRIAL_COMMAND, answer_trial};

/// Exit code for a wrong command line or configuration. clap uses the same code.
const USAGE: u8 = 2;

/// Serves ONNX models over HTTP.
#[derive(Debug, Parser)]
#[command(
    name = "leeway",
    disable_version_flag = true,
    subcommand_required = false,
    arg_required_else_help = true,
    after_help = "\
A repository of models is a folder:

    models/digits/model.toml      the pipeline and its settings
    models/digits/1/              version 1: model.onnx, version.toml and its other files
    models/digits/2/              version 2

`leeway init` makes a model of an ONNX file, and `leeway add` adds further versions. Start with `leeway check`, which loads everything and reports its findings, then `leeway \
serve`, then

    curl http://127.0.0.1:8080/predict -H 'content-type: application/json' -d '{\"instances\": [[...]]}'

Exit codes: 0 success, 1 failure, 2 wrong command line or configuration."
)]
struct Cli {
    /// Print the versions of Leeway and of ONNX Runtime
    #[arg(short = 'V', long)]
    version: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load the models and serve them until SIGTERM or Ctrl-C
    #[command(after_help = "\
    leeway serve                     the repository of models
    leeway serve model.onnx          one model, with the settings that `leeway init` would choose; nothing is written

Settings come from the configuration file, then from the environment, then from the flags above; later ones \
win. Every key has a variable: http.listen is LEEWAY_HTTP__LISTEN, repository.path is LEEWAY_REPOSITORY__PATH.

On SIGTERM the server reports not ready, continues to serve for shutdown.deregistration_delay_ms, then finishes the \
requests in flight. On Ctrl-C it skips the delay.")]
    Serve(serve::ServeArgs),
    /// Make a model of an ONNX file or of an exported folder: a commented model.toml and version 1
    #[command(after_help = "\
Looks into the file and the files beside it (tokenizer.json, config.json, preprocessor_config.json, MLmodel), chooses \
the settings and tries the model out with them. Each setting in model.toml has its reason; what has to be compared \
with the training is marked CHECK. Where nothing shows how data are prepared or outputs are read, the stages are \
\"tensor\", which take and answer the model's own numbers.

    leeway init churn.onnx --data train.csv --ignore-column churned
    leeway init ./distilbert-sst2 --name sentiment
    leeway init yolov8n.onnx --print")]
    Init(Box<init::InitArgs>),
    /// Check the configuration, load every model, run each once, and print the findings
    #[command(after_help = "Binds no port and serves nothing. The exit code is 0 if `leeway serve` would start.")]
    Check(SettingsArgs),
    /// Check a model file and add it to the repository as the next version
    #[command(after_help = "\
The model is tried out in a separate process, with its model.toml, before it becomes a version; a failure leaves \
nothing behind. The version is never changed afterwards.

    leeway add models/digits --onnx digits.onnx --trained-at 2026-11-24 --dataset digits-v7 \\
        --metric accuracy=0.978 --record-golden instances.jsonl
    leeway add s3://bucket/models/digits --onnx digits.onnx --model-toml model.toml")]
    Add(Box<add::AddArgs>),
    /// Make the baseline that drift is measured against, for a version that was never deployed
    #[command(after_help = "\
Training data go through the version's own pipeline, as requests do, so that both can be compared. A baseline is part \
of its version: once the version has had traffic, add a new version with `leeway add --baseline-data`.

    leeway baseline digits 3 --data train.csv --ignore-column digit
    leeway baseline digits 3 --from-log --since 7d")]
    Baseline(Box<baseline::BaselineArgs>),
    /// Hash every file of the repository and compare it with its manifest
    Verify(RepositoryArgs),
    /// Sign a version, for servers that trust only signed ones, or make the key for that
    #[command(after_help = "\
The signature is of version.toml, which has the digest of every file, and names the model and the version. It is in \
version.toml.minisig, in the format of minisign. Servers check it if repository.trusted_keys has the public key.

    leeway sign --generate versions.key
    leeway sign digits 3 --key versions.key")]
    Sign(Box<sign::SignArgs>),
    /// Write the list of files with which a static web server shows a repository
    #[command(after_help = "\
    leeway index models     # writes models/index.json; then, elsewhere: leeway serve --models https://host/models")]
    Index(index::IndexArgs),
    /// Predict the rows of a file, by a running server or in this process
    #[command(after_help = "\
    leeway predict digits rows.csv --ignore-column digit > predictions.jsonl
    leeway predict digits rows.parquet --output predictions.csv
    zcat rows.csv.gz | leeway predict digits --models models --columns label,confidence

A row that is refused ends the predictions, and is named with its line. With --keep-going, the others are predicted.

Exit codes: 0 all rows are predicted, 1 failure, 2 wrong command line or configuration, 3 rows were refused \
(--keep-going).")]
    Predict(Box<predict::PredictArgs>),
    /// Show what a running server has loaded and deployed, and its numbers
    #[command(after_help = "\
Requests, errors (expired, or failed in the model or the server) and shed requests are counted since the version was \
loaded. P95 is that of the quantile window; drift that of the drift window.

    leeway status --check    # for cron and Nagios: exit code 0, 1 if something is wrong, 2 if the server cannot be asked")]
    Status(status::StatusArgs),
    /// Watch the rates, P95 by stage, queues and drift of a running server
    Top(top::TopArgs),
    /// Show what a model takes and answers, as JSON Schema, with an example
    #[command(after_help = "\
    leeway schema digits
    leeway schema digits --example | curl http://127.0.0.1:8080/v1/models/digits:predict \\
        -H 'content-type: application/json' --data-binary @-")]
    Schema(schema::SchemaArgs),
    /// Show the deployments of a model, the newest first
    History(history::HistoryArgs),
    /// Divide a model's requests over its versions
    #[command(after_help = "\
    leeway traffic digits 2=90 3=10 --reason \"canary\"

The same routing key (the header X-Routing-Key, or else the request's id) always goes to the same version. When a \
share grows, its version gains keys and loses none. The stable version stays the same: `leeway rollback` gives it \
all requests again.")]
    Traffic(traffic::TrafficArgs),
    /// Make a version the stable one, and give it all requests
    Promote(promote::PromoteArgs),
    /// Give all requests to the stable version, or, if it has them already, to the stable version before it
    Rollback(rollback::RollbackArgs),
    /// Compare two versions by their requests, latencies, predictions and true outcomes, with p-values that stay valid
    #[command(after_help = "\
    leeway compare digits 2 3        # is version 3 better than version 2?

Counts what the server has counted since each version was loaded. \"about N more labels\" is how many both versions together \
need until the observed difference is decided.")]
    Compare(compare::CompareArgs),
    /// Roll a version out step by step, with an end that its own counters decide: promoted, or rolled back
    #[command(after_help = "\
    leeway rollout digits 3 --steps 1,5,25,50,100 --every 10m --watch
    leeway rollout digits                # what is decided so far, and why
    leeway rollout digits --pause --reason \"lunch\"

At each step, the version's requests are compared with those of the stable version: errors, refused input, answers \
beyond the budget, confidence, wrong predictions. It advances once every guardrail says that it is not worse, and is \
rolled back once one says that it is. See docs/rollouts.md.")]
    Rollout(Box<rollout::RolloutArgs>),
    /// Copy a share of the requests to a version, whose answers are compared and never returned
    #[command(after_help = "\
    leeway shadow digits 3 --percent 20 --reason \"is it as good?\"
    leeway status digits             # how far the answers agree
    leeway shadow digits --off

The copies are run when there is room, at the lowest priority; callers do not wait for them. Requests that name a version \
are not copied. Shadow traffic ends with a rollback, and when its version becomes the stable one.")]
    Shadow(shadow::ShadowArgs),
    /// Load a version and keep it loaded
    Load(load::VersionArgs),
    /// Take a version without traffic out of memory
    Unload(load::VersionArgs),
    /// Show the distance of the last requests to a running server from the training data
    #[command(after_help = "\
Shows for each feature and each part of the predictions: the PSI against the version's baseline, less the PSI \
expected by chance; the status; and what has changed. A difference counts if it is large, and not explained by \
chance. The verdict, which alerts are based on, also knows the hour and the weekday.

    leeway drift digits --version 2 --window 1h
    leeway drift digits --feature 'pixels[20]'")]
    Drift(drift::DriftArgs),
    /// See a canary that is worse, a rollback and drift, in one minute, with a shipped model
    #[command(after_help = "\
Starts a server on free ports of this machine, sends it requests and the true outcomes, and tells what happens. The \
server ends with the demo, and its files are removed.")]
    Demo(demo::DemoArgs),
    /// Show how right the predictions were, as far as feedback has reported their true outcomes
    Outcomes(outcomes::OutcomesArgs),
    /// Print the logged predictions of a model, with their truths
    #[command(after_help = "\
Reads the files of the prediction log ([prediction_log] in the configuration), also while a server writes them. \
Truths that feedback has reported are beside their predictions.

    leeway log digits --since 24h | head
    leeway log digits --count
    leeway log digits --path /var/log/leeway --format csv > digits.csv")]
    Log(log::LogArgs),
    /// Make a running server sync with its repository now
    Reload(servers::ServerArgs),
    /// Make a random API key for a client, and print its entry in the configuration
    Key(key::KeyArgs),
    /// Report if the server is ready: exit code 0 if it is, 1 if not
    Health(health::HealthArgs),
    /// Print the completions of this command line for a shell
    #[command(after_help = "\
    leeway completions bash > ~/.local/share/bash-completion/completions/leeway
    leeway completions fish > ~/.config/fish/completions/leeway.fish")]
    Completions(completions::CompletionsArgs),
    /// Write the manual pages of all commands into a folder
    Man(man::ManArgs),
    /// Load the version described on standard input, and report the result
    #[command(name = TRIAL_COMMAND, hide = true)]
    TrialLoad,
    /// Run a model for the server whose socket is standard input
    #[command(name = RUN_COMMAND, hide = true)]
    RunModel,
}

impl Cli {
    fn loads_onnxruntime(&self) -> bool {
        use Command::{Add, Baseline, Check, Demo, Init, Predict, Serve};
        match &self.command {
            Some(Serve(_) | Check(_) | Init(_) | Add(_) | Baseline(_) | Demo(_)) => true,
            Some(Predict(args)) => args.loads_onnxruntime(),
            _ => self.version,
        }
    }
}

/// Runs the command line of this process, with the built-in kinds of stages.
pub fn main() -> ExitCode {
    main_with(Stages::default())
}

/// Runs the command line of this process, with stages of your own.
///
/// Length: a table of the commands.
pub fn main_with(stages: Stages) -> ExitCode {
    panics::report_panics();
    let cli = Cli::parse();
    if cli.loads_onnxruntime() {
        machine::turn_telemetry_off(this_program());
    }
    // Points at which tests stop the process. They do nothing in a release.
    let _fail_points = fail::FailScenario::setup();
    let done = match cli.command {
        _ if cli.version => version(),
        Some(Command::Serve(args)) => serve::run(args, stages),
        Some(Command::Init(args)) => init::run(*args, &stages),
        Some(Command::Check(settings)) => check::run(settings, stages),
        Some(Command::Add(args)) => add::run(*args, &stages),
        Some(Command::Baseline(args)) => baseline::run(*args, &stages),
        Some(Command::Verify(settings)) => add::verify(&settings),
        Some(Command::Sign(args)) => sign::run(*args),
        Some(Command::Index(args)) => index::run(&args),
        Some(Command::Predict(args)) => predict::run(&args, stages),
        Some(Command::Status(args)) => status::run(args),
        Some(Command::Top(args)) => top::run(args),
        Some(Command::Schema(args)) => schema::run(args),
        Some(Command::History(args)) => history::run(args),
        Some(Command::Traffic(args)) => traffic::run(args),
        Some(Command::Promote(args)) => promote::run(args),
        Some(Command::Rollback(args)) => rollback::run(args),
        Some(Command::Compare(args)) => compare::run(args),
        Some(Command::Rollout(args)) => rollout::run(*args),
        Some(Command::Shadow(args)) => shadow::run(args),
        Some(Command::Load(args)) => load::load(args),
        Some(Command::Unload(args)) => load::unload(args),
        Some(Command::Drift(args)) => drift::run(args),
        Some(Command::Demo(args)) => demo::run(args, stages),
        Some(Command::Outcomes(args)) => outcomes::run(args),
        Some(Command::Log(args)) => log::run(args),
        Some(Command::Reload(args)) => reload::run(&args),
        Some(Command::Key(args)) => key::run(&args),
        Some(Command::Health(args)) => health::run(args),
        Some(Command::Completions(args)) => completions::run(&args, Cli::command()),
        Some(Command::Man(args)) => man::run(&args, Cli::command()),
        Some(Command::TrialLoad) => {
            answer_trial(std::io::stdin().lock(), std::io::stdout().lock(), &stages).map_err(Into::into)
        }
        Some(Command::RunModel) => answer_runs().map_err(Into::into),
        // Without a subcommand, clap has printed the help.
        None => Ok(()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has closed the pipe, as `head` does.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let exit = error.downcast_ref::<Exit>();
            let is_said = exit.is_some_and(|exit| exit.message.is_empty());
            if !is_said && error.downcast_ref::<logging::Logged>().is_none() {
                let _ = writeln!(terminal::stderr(), "error: {error:#}");
            }
            match (exit, error.downcast_ref()) {
                (Some(exit), _) => ExitCode::from(exit.code),
                (None, Some(SetupError::Config(_))) => ExitCode::from(USAGE),
                (None, _) => ExitCode::FAILURE,
            }
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(|error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn version() -> Result<()> {
    let settings = SettingsArgs { config: None, listen: Vec::new(), admin_listen: Vec::new(), models: None };
    let config = settings.load().unwrap_or_default();
    let mut out = std::io::stdout();
    writeln!(out, "leeway {}", env!("CARGO_PKG_VERSION"))?;
    match OnnxRuntime::load(&config.library_candidates()) {
        Ok(runtime) => writeln!(out, "ONNX Runtime {} ({})", runtime.version(), runtime.library().display())?,
        Err(_) => writeln!(out, "ONNX Runtime: not found (`leeway check` lists the places that were searched)")?,
    }
    Ok(())
}
