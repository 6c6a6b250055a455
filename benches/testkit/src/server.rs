//! `leeway serve` as a process.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::places::leeway_program;
use crate::process::{KillOnDrop, isolate, leeway};

/// `leeway serve` as a process, killed with the test or bench.
pub struct Server {
    child: KillOnDrop,
    /// The address for clients.
    pub data: SocketAddr,
    /// The address for operators.
    pub admin: SocketAddr,
    /// The thread that reads the log, so that the process never waits for a reader.
    log: JoinHandle<String>,
}

impl Server {
    /// Starts `leeway serve` for a test, and waits until it listens.
    pub fn start(models: &Path, settings: &[(&str, &str)]) -> Server {
        Server::spawn(leeway(&["serve", "--models"]).arg(models).envs(settings.iter().copied()))
    }

    /// Starts this command as a server for a test, and waits until it listens.
    pub fn spawn(command: &mut Command) -> Server {
        // A test expects the effects of its last request.
        Server::listening(command.env("LEEWAY_HTTP__METRICS_MAX_AGE_MS", "0"))
    }

    /// Starts `leeway serve` for a bench, and waits until it listens.
    pub fn measured(models: &Path, settings: &[(&str, &str)]) -> Server {
        Server::measured_by(Command::new(leeway_program()), models, settings)
    }

    /// Starts a server for a bench by a command that replaces itself by `leeway` with the arguments that are added.
    pub fn measured_by(mut command: Command, models: &Path, settings: &[(&str, &str)]) -> Server {
        raise_file_limit();
        isolate(&mut command);
        let arguments: [&OsStr; 3] = ["serve".as_ref(), "--models".as_ref(), models.as_ref()];
        Server::listening(command.args(arguments).envs(settings.iter().copied()))
    }

    /// Starts a server on free ports, and waits until it listens.
    fn listening(command: &mut Command) -> Server {
        command.env("LEEWAY_HTTP__LISTEN", "127.0.0.1:0").env("LEEWAY_ADMIN__LISTEN", "127.0.0.1:0");
        let child = command.stderr(Stdio::piped()).spawn();
        let mut child = KillOnDrop(child.unwrap_or_else(|error| panic!("{command:?}: {error}")));
        let mut log = BufReader::new(child.0.stderr.take().expect("the log"));
        let mut seen = String::new();
        let (data, admin) = loop {
            let start = seen.len();
            assert!(log.read_line(&mut seen).expect("the log") > 0, "the server ended:\n{seen}");
            // The address is a field of the log's JSON, not a part of the message.
            let line: Value = serde_json::from_str(&seen[start..]).unwrap_or_default();
            // The first one, if there are several.
            let address = |key: &str| line[key].as_str()?.split(", ").next()?.parse().ok();
            if let (Some(data), Some(admin)) = (address("data"), address("admin")) {
                break (data, admin);
            }
        };
        let rest = move || {
            let mut rest = String::new();
            let _ = log.read_to_string(&mut rest);
            rest
        };
        Server { child, data, admin, log: std::thread::spawn(rest) }
    }

    /// Returns a URL for clients.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.data)
    }

    /// Waits until the server is ready, by the check that load balancers use.
    pub fn ready(self) -> Server {
        let begin = Instant::now();
        while !self.is_ready().unwrap_or(false) {
            assert!(begin.elapsed() < Duration::from_secs(60), "leeway did not become ready");
            std::thread::sleep(Duration::from_millis(1));
        }
        self
    }

    fn is_ready(&self) -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(self.data)?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: leeway\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.starts_with("HTTP/1.1 200"))
    }

    /// Runs a command that uses the admin API of this server.
    pub fn command(&self, arguments: &[&str]) {
        let mut command = leeway(arguments);
        let output = command.env("LEEWAY_ADMIN__LISTEN", self.admin.to_string()).output().expect("leeway");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Sends the process a signal, as in `TERM`.
    pub fn signal(&self, name: &str) {
        self.child.signal(name);
    }

    /// Id of the process.
    pub fn process(&self) -> u32 {
        self.child.0.id()
    }

    /// Kills the process after a delay, from a new thread.
    pub fn kill_at(&self, at: Instant) -> JoinHandle<()> {
        let id = self.process().to_string();
        std::thread::spawn(move || {
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            assert!(Command::new("kill").args(["-s", "KILL", &id]).status().expect("kill").success());
        })
    }

    /// Returns the exit status of the process, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.0.try_wait().expect("a child")
    }

    /// Waits for the process to end. Returns its exit status and the rest of its log.
    pub fn wait(self) -> (ExitStatus, String) {
        let Server { mut child, log, .. } = self;
        let log = log.join().expect("the log");
        (child.0.wait().expect("a child"), log)
    }

    /// Returns the resident memory, in mebibytes (on Linux).
    pub fn memory(&self) -> f64 {
        self.of_status("VmRSS:").expect("leeway has ended, or this is not Linux")
    }

    /// Returns the memory of the process in mebibytes (on Linux), where a page that is mapped more than once counts once. Waits
    /// until memory that is not used any more has been returned.
    pub fn proportional_memory(&self) -> f64 {
        std::thread::sleep(Duration::from_secs(15));
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.process())).expect("Linux");
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).expect("the memory");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
    }

    /// Returns the processor time that the process has used (on Linux), to a hundredth of a second.
    pub fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process())).expect("the process, on Linux");
        // The fields after the name, which may contain spaces: the 12th and 13th are the times of user and system.
        let fields = stat.rsplit_once(')').expect("a name").1.split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).map(|field| field.parse::<u64>().expect("a time")).sum();
        Duration::from_millis(10 * ticks)
    }

    /// Returns a line of the status of the process, in mebibytes (on Linux); `None` if it has ended.
    pub fn of_status(&self, name: &str) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse().ok()?;
        Some(kibibytes / 1024.0)
    }
}

/// Raises the limit of open files of this process and its children: benches open thousands of connections.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("the limit of open files");
}
