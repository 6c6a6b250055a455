//! Tries a version out in a process of its own, before the server touches it.
//!
//! A model can abort the process that loads it, take all its memory, or never finish, and the process itself cannot
//! catch any of that. So a child process loads the model first, exactly as the server would, but with limits. The
//! server loads it only if that succeeds.

use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::findings::{Findings, MAX_COMPARING};
use super::load_order::{LoadOrder, Pace};
use super::opened_version::OpenedVersion;
use super::sized_version::{SESSION_MEMORY, most_workers};
use crate::config::{ModelConfig, Provider, SessionPlace, TrustedKey, own_variables};
use crate::error::{Error, LoadFault, Result, is_about_memory};
use crate::identity::{ModelName, Version};
use crate::machine;
use crate::model::RuntimeLibraries;
use crate::model::onnx::OnnxRuntime;
use crate::pipeline::Stages;
use crate::repository::{FoundVersion, LoadCache, LocalVersion, Refusal, Trust, TrustedKeys};

/// The subcommand of the program that is started for a trial.
pub const TRIAL_COMMAND: &str = "trial-load";

/// Prefix of Rust's hint after the message of a panic, a line of standard error without the reason for the panic.
const HINT_OF_A_PANIC: &str = "note: run with `RUST_BACKTRACE";

/// Maximum size of the child's verdict, in bytes. It contains the names of outputs and the example.
const MAX_VERDICT_BYTES: u64 = 1 << 24;

/// Maximum size of the child's standard error that is read, in bytes.
const MAX_COMPLAINTS_BYTES: u64 = 1 << 16;

/// Divisor of the memory limit of a trial. The quotient is the memory for the concurrent runs of all workers, if
/// callers choose the length of rows.
const RUNS_MEMORY: u64 = 8;

/// Memory that the process of a trial needs besides the model and its tensors, in bytes.
const BASE_MEMORY: u64 = 1 << 30;

/// Trial of versions in a process of their own.
#[derive(Debug, Clone)]
pub struct Trial {
    /// The program of the child process: this one.
    pub program: PathBuf,
    /// The libraries that the server has loaded.
    pub libraries: RuntimeLibraries,
    /// Memory limit in bytes; `None` for a limit that depends on the size of the model.
    pub memory: Option<u64>,
    pub timeout: Duration,
    /// The findings and graphs of earlier trials; `None` if none are kept.
    pub cache: Option<Arc<LoadCache>>,
}

/// Limit of the memory of a trial.
#[derive(Debug, Clone, Copy)]
struct TrialMemory {
    /// The limit, in bytes.
    bytes: u64,
    /// The limit that would apply if enough memory were free.
    wanted: u64,
}

/// Order for the child, on its standard input.
#[derive(Debug, Serialize, Deserialize)]
struct TrialOrder {
    model: ModelName,
    version: Version,
    config: Arc<ModelConfig>,
    config_place: String,
    place: LocalVersion,
    /// Keys, one of which the version has to be signed with.
    trusted_keys: Vec<TrustedKey>,
    libraries: RuntimeLibraries,
    memory: Option<u64>,
    /// Maximum number of workers that may be chosen by measuring.
    most_workers: NonZeroUsize,
    graph: Option<GraphOrder>,
    /// Maximum time for comparing rows that run alone and together.
    comparing: Duration,
}

/// Order to compare the answers of the model's optimised graph with those of the model's file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum GraphOrder {
    /// The graph in this folder.
    Open(PathBuf),
    /// A graph that is made in this empty folder.
    Make(PathBuf),
}

/// Answer of the child, on its standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Passed(Box<Findings>),
    Refused(Refusal),
}

impl Trial {
    /// Describes the limits, which the findings depend on.
    pub(super) fn limits(&self) -> String {
        format!("{:?} {:?}", self.memory, self.timeout)
    }

    /// Loads a version in a child process, and returns its findings.
    pub fn run(&self, order: &LoadOrder, found: &FoundVersion) -> Result<Findings, Refusal> {
        self.run_with_graph(order, found, None)
    }

    /// The same; in addition, compares the answers of the model's optimised graph.
    pub(super) fn run_with_graph(
        &self,
        order: &LoadOrder,
        found: &FoundVersion,
        graph: Option<GraphOrder>,
    ) -> Result<Findings, Refusal> {
        let memory = self.memory(&order.config, found, graph.is_some());
        let trial_order = TrialOrder {
            model: order.model.clone(),
            version: order.version,
            config: Arc::clone(&order.config),
            config_place: order.config_place.clone(),
            place: found.place().clone(),
            trusted_keys: found.trusted_keys().keys().to_vec(),
            libraries: self.libraries.clone(),
            memory: memory.map(|memory| memory.bytes),
            most_workers: self.most_workers(&order.config, found),
            graph,
            comparing: MAX_COMPARING.min(self.timeout / 5),
        };
        let begin = Instant::now();
        let mut child = Running(self.start(&trial_order).map_err(|error| {
            let what = format!("the trial load could not be started with {}", self.program.display());
            Refusal::of_io(LoadFault::Internal, &what, &error)
        })?);
        let said = read_to_end(child.0.stdout.take(), MAX_VERDICT_BYTES);
        let complaints = read_to_end(child.0.stderr.take(), MAX_COMPLAINTS_BYTES);
        let said = match said.recv_timeout(self.timeout) {
            Ok(said) => said,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                return Err(Refusal::new(
                    LoadFault::Trial,
                    format!(
                        "the trial load did not finish within {} ms and was ended (loading.trial_timeout_ms)",
                        self.timeout.as_millis()
                    ),
                ));
            }
        };
        let status = child.end(self.timeout.saturating_sub(begin.elapsed()));
        match serde_json::from_slice(&said) {
            Ok(Verdict::Passed(findings)) => Ok(*findings),
            Ok(Verdict::Refused(refusal)) => Err(explained(refusal, memory)),
            // The child ended without a verdict.
            Err(_) => {
                let complaints = complaints.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
                let last = String::from_utf8_lossy(&complaints)
                    .lines()
                    .rev()
                    .find(|line| !line.trim().is_empty() && !line.starts_with(HINT_OF_A_PANIC))
                    .map_or_else(String::new, |line| {
                        format!("; its last message was {:?}", line.chars().take(300).collect::<String>())
                    });
                let fault = fault_of(status);
                let ended = status.map_or_else(|| "ended".to_owned(), machine::describe_end);
                let refusal = Refusal::new(fault, format!("its process {ended} when the model was tried out{last}"));
                Err(explained(refusal, memory))
            }
        }
    }

    fn start(&self, order: &TrialOrder) -> std::io::Result<Child> {
        let mut child = machine::part_of_this_program(&self.program, TRIAL_COMMAND, &own_variables())
            // Without a backtrace, the last line of standard error is the reason for the failure.
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // An error is ignored: a child that ends before it has read the order is noticed by its missing verdict.
            let _ = stdin.write_all(&serde_json::to_vec(order)?);
        }
        Ok(child)
    }

    /// Returns the maximum number of workers that may be chosen by measuring, for whose sessions there is memory.
    fn most_workers(&self, config: &ModelConfig, found: &FoundVersion) -> NonZeroUsize {
        let memory = self.memory.or_else(machine::available_memory).unwrap_or(u64::MAX);
        most_workers(&config.model, found.size(), memory)
    }

    /// Returns the memory limit; `None` with a GPU, whose driver maps far more memory than it uses.
    fn memory(&self, config: &ModelConfig, found: &FoundVersion, with_graph: bool) -> Option<TrialMemory> {
        match self.memory {
            Some(bytes) => Some(TrialMemory { bytes, wanted: bytes }),
            None if config.model.providers.contains(&Provider::Cuda) => None,
            None => {
                let of_graph = if with_graph { GRAPH_MEMORY } else { 0 };
                let of_workers = SESSION_MEMORY * self.most_workers(config, found).get() as u64;
                let copies = 3 + of_workers + of_graph;
                let wanted = BASE_MEMORY.saturating_add(found.size().saturating_mul(copies));
                let bytes = machine::available_memory().map_or(wanted, |available| wanted.min(available));
                Some(TrialMemory { bytes, wanted })
            }
        }
    }
}

/// Memory for making and opening an optimised graph, in multiples of the size of the model.
const GRAPH_MEMORY: u64 = 4;

/// A child process that does not outlive the trial.
struct Running(Child);

impl Running {
    /// Returns the exit status of a child that has closed its output, if it ends by itself within this time.
    fn end(&mut self, within: Duration) -> Option<ExitStatus> {
        let begin = Instant::now();
        loop {
            match self.0.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if begin.elapsed() < within => std::thread::sleep(Duration::from_millis(1)),
                _ => return None,
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads a stream on a thread, so that the caller can stop waiting. Bytes beyond the limit are read and dropped.
fn read_to_end(from: Option<impl Read + Send + 'static>, limit: u64) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut from) = from {
            let _ = from.by_ref().take(limit).read_to_end(&mut bytes);
            let _ = std::io::copy(&mut from, &mut std::io::sink());
        }
        // The receiver may be gone.
        let _ = sender.send(bytes);
    });
    receiver
}

/// Returns the fault of a version whose trial ended without a verdict.
fn fault_of(status: Option<ExitStatus>) -> LoadFault {
    const SIGKILL: i32 = 9;
    match status.and_then(|status| status.signal()) {
        // When memory is short, the kernel kills the trial first, even if another process takes the memory.
        Some(SIGKILL) => LoadFault::Resources,
        _ => LoadFault::Trial,
    }
}

/// Adds the memory limit of the trial to the message of a refusal that may be about memory.
fn explained(refusal: Refusal, memory: Option<TrialMemory>) -> Refusal {
    match memory {
        Some(TrialMemory { bytes, wanted }) if !refusal.fault.is_transient() && is_about_memory(&refusal.message) => {
            let (fault, more) = match bytes < wanted {
                true => (LoadFault::Resources, format!("of {} MiB, because no more was free", wanted >> 20)),
                false => (LoadFault::Trial, "in the trial load; loading.trial_memory_mb allows more".to_owned()),
            };
            let message = format!("{} (it was allowed {} MiB {more})", refusal.message, bytes >> 20);
            Refusal { fault, message }
        }
        _ => refusal,
    }
}

/// Runs in the child: reads the order from `input`, tries the version out, and writes the verdict to `output`.
pub fn answer_trial(input: impl Read, mut output: impl Write, stages: &Stages) -> Result<()> {
    let order: TrialOrder = serde_json::from_reader(input).map_err(Error::internal)?;
    machine::confine_this_process(order.memory).map_err(Error::internal)?;
    let verdict = match attempt(order, stages) {
        Ok(findings) => Verdict::Passed(Box::new(findings)),
        Err(refusal) => Verdict::Refused(refusal),
    };
    serde_json::to_writer(&mut output, &verdict).map_err(Error::internal)?;
    output.flush().map_err(Error::internal)
}

fn attempt(order: TrialOrder, stages: &Stages) -> Result<Findings, Refusal> {
    let (comparing, graph, most_workers) = (order.comparing, order.graph, order.most_workers);
    let runtime = OnnxRuntime::of_server(order.libraries).map_err(Refusal::of(LoadFault::Internal))?;
    // Checked again: the folder may have changed since the server has checked it.
    let keys = TrustedKeys::from(order.trusted_keys);
    let trust = Trust { keys: &keys, model: &order.model, version: order.version };
    let found = FoundVersion::find_trusted(order.place, trust)?;
    let order = LoadOrder {
        model: order.model,
        version: order.version,
        config: order.config,
        config_place: order.config_place,
        place: SessionPlace::Server,
        pace: Pace::Full,
    };
    // A model that takes long to open is not opened again with other numbers of threads.
    let longest = comparing / 4;
    let (mut opened, sizing) =
        OpenedVersion::open_sized(&runtime, stages, &order, found.read()?, (most_workers, longest))?;
    let mut first = opened.session()?;
    let mut findings = Findings { sizing, ..opened.examine(&mut *first, comparing)? };
    if let Some(graph) = graph {
        findings.graph = opened.prove_graph(&runtime, graph, &mut *first, &findings.warm_up)?;
    }
    // Opens as many sessions as the server, all at the same time, to check that memory and threads suffice.
    let workers = opened.threads().workers.get() as u64;
    let mut others = Vec::new();
    while (1 + others.len() as u64) < workers {
        let mut session = opened.session()?;
        opened.warm_up(&mut *session, &findings.warm_up)?;
        others.push(session);
    }
    drop(others);
    // Done last, because the session may not work any more after these runs.
    let run_memory = machine::memory_limit().unwrap_or(u64::MAX) / RUNS_MEMORY / workers;
    let bounds = opened.find_bounds(&mut *first, run_memory, comparing);
    findings.bounds = Some(bounds.or_at_least(findings.elements_of_known_rows()));
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_that_lacks_memory_is_the_models_fault_only_if_it_had_all_that_suits_the_model() {
        let fault = |fault, message, bytes, wanted| {
            explained(Refusal::new(fault, message), Some(TrialMemory { bytes, wanted })).fault
        };
        assert_eq!(fault(LoadFault::Model, "std::bad_alloc", 100, 100), LoadFault::Trial);
        assert_eq!(fault(LoadFault::Model, "std::bad_alloc", 99, 100), LoadFault::Resources);
        assert_eq!(fault(LoadFault::Model, "no such operator", 99, 100), LoadFault::Model);
        assert_eq!(fault(LoadFault::Resources, "out of memory", 100, 100), LoadFault::Resources);
    }

    #[test]
    fn a_trial_that_the_kernel_killed_says_nothing_of_the_model() {
        let (killed, aborted) = (9, 6);
        assert_eq!(fault_of(Some(ExitStatus::from_raw(killed))), LoadFault::Resources);
        assert_eq!(fault_of(Some(ExitStatus::from_raw(aborted))), LoadFault::Trial);
        assert_eq!(fault_of(Some(ExitStatus::from_raw(1 << 8))), LoadFault::Trial);
        assert_eq!(fault_of(None), LoadFault::Trial);
    }
}
