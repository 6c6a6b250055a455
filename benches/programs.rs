//! The programs that the load benches measure, and what is done to them beside the load.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

pub(crate) fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where the load generator is installed, and what a bench makes for itself.
pub(crate) fn workshop() -> PathBuf {
    checkout().join(".bench")
}

pub(crate) fn onnxruntime() -> PathBuf {
    let library = if cfg!(target_os = "macos") { "libonnxruntime.dylib" } else { "libonnxruntime.so" };
    checkout().join(".onnxruntime").join(library)
}

/// The program that is measured.
pub(crate) fn leeway_binary() -> PathBuf {
    checkout().join("target/release/leeway")
}

pub(crate) fn number_from(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |value| value.parse().expect(variable))
}

pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A program that is measured, killed with the bench.
pub(crate) struct Program {
    pub(crate) address: String,
    /// The admin listener's; the floor has none.
    pub(crate) admin: String,
    child: Child,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    /// `leeway serve` on the models of a folder.
    pub(crate) fn leeway(models: &Path) -> Program {
        Program::leeway_with(models, &[])
    }

    /// The same, with these settings in its environment.
    pub(crate) fn leeway_with(models: &Path, settings: &[(&str, &str)]) -> Program {
        Program::leeway_by(Command::new(leeway_binary()), models, settings)
    }

    /// The same, started by a command that puts itself in its place when its arguments follow.
    pub(crate) fn leeway_by(mut command: Command, models: &Path, settings: &[(&str, &str)]) -> Program {
        raise_file_limit();
        let mut child = command
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--models"])
            .arg(models)
            .current_dir(checkout())
            .env("LEEWAY_STATE__URL", "memory")
            .envs(settings.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .expect("target/release/leeway: run `make build` first");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let ready = |line: String| {
            let line = serde_json::from_str::<Value>(&line).ok()?;
            Some((line["data"].as_str()?.to_owned(), line["admin"].as_str()?.to_owned()))
        };
        let (address, admin) = lines.find_map(ready).expect("leeway did not start");
        // Whatever it says from now on is read, so that it is never kept waiting.
        std::thread::spawn(move || lines.for_each(drop));
        Program { child, address, admin }
    }

    /// The floor program (`benches/floor.rs`) on one model.
    pub(crate) fn floor(model: &Path) -> Program {
        let mut child = example("floor")
            .arg(model)
            .arg(onnxruntime())
            .stdout(Stdio::piped())
            .spawn()
            .expect("target/release/examples/floor: run `make bench-load`, which builds it");
        let address = BufReader::new(child.stdout.take().unwrap()).lines().next().unwrap().unwrap();
        Program { child, address, admin: String::new() }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Waits until it says that it is ready, as a load balancer would hear it.
    pub(crate) fn ready(self) -> Program {
        let is_ready = || {
            let mut stream = TcpStream::connect(&self.address).ok()?;
            stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: leeway\r\nconnection: close\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            answer.starts_with("HTTP/1.1 200").then_some(())
        };
        let begin = Instant::now();
        while is_ready().is_none() {
            assert!(begin.elapsed() < Duration::from_secs(60), "leeway does not become ready");
            std::thread::sleep(Duration::from_millis(1));
        }
        self
    }

    /// Asks its admin API for something, from the command line.
    pub(crate) fn command(&self, arguments: &[&str]) {
        let mut command = Command::new(leeway_binary());
        let output = command.args(arguments).env("LEEWAY_ADMIN__LISTEN", &self.admin).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it has ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// The memory that it has, in mebibytes (RSS; on Linux).
    pub(crate) fn memory(&self) -> f64 {
        self.of_status("VmRSS:").expect("leeway has ended, or this is not Linux")
    }

    /// A line of its status, in mebibytes, while it lives (on Linux).
    pub(crate) fn of_status(&self, name: &str) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let mebibytes = line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0;
        Some(mebibytes)
    }
}

/// As many files as this process may have, for it and for what it starts: connections are counted in thousands here.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("the limit of open files");
}

/// Does something while a helper does something else until it is told that it is over. If the work fails, the helper is told, too.
pub(crate) fn meanwhile<T, U: Send>(helper: impl FnOnce(&AtomicBool) -> U + Send, work: impl FnOnce() -> T) -> (T, U) {
    struct Told<'a>(&'a AtomicBool);
    impl Drop for Told<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let helper = scope.spawn(|| helper(&over));
        let done = {
            let _told = Told(&over);
            work()
        };
        (done, helper.join().unwrap())
    })
}

/// A program of `benches/` that is built as an example.
pub(crate) fn example(name: &str) -> Command {
    Command::new(checkout().join("target/release/examples").join(name))
}
