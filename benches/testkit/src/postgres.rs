//! A real PostgreSQL server, for tests and benches. `make postgres` brings the programs.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::places::checkout;
use crate::process::KillOnDrop;

/// PostgreSQL refuses to run as root. Then it runs as this user, as in `scripts/fetch_postgres.py`.
const NOBODY: u32 = 65_534;

/// Time for the server to start, on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A PostgreSQL server with a cluster of its own, at a socket in a temporary folder. Killed with the test or bench.
pub struct Postgres {
    folder: tempfile::TempDir,
    settings: Vec<String>,
    process: Option<KillOnDrop>,
}

impl Postgres {
    /// Starts a server, and waits until it answers.
    pub fn start() -> Postgres {
        Postgres::with(&[])
    }

    /// Starts a server with these settings, as in `ssl=on`.
    pub fn with(settings: &[&str]) -> Postgres {
        let folder = tempfile::tempdir().expect("a folder");
        let cluster = checkout().join(".postgres/data");
        assert!(cluster.exists(), "run `make postgres` first");
        // With the owner of the files.
        let copied = Command::new("cp").arg("-a").args([&cluster, &folder.path().join("data")]).status();
        assert!(copied.expect("cp").success());
        if is_root() {
            std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).expect("chown");
        }
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut postgres = Postgres { folder, settings, process: None };
        postgres.start_again();
        postgres
    }

    /// Starts the server again, after it was killed.
    pub fn start_again(&mut self) {
        let folder = self.folder.path();
        // Not by the link, because its user may have no access to the checkout.
        let program =
            std::fs::canonicalize(checkout().join(".postgres/bin/postgres")).expect("run `make postgres` first");
        let mut server = Command::new(program);
        server.arg("-D").arg(folder.join("data")).arg("-k").arg(folder);
        for setting in
            ["listen_addresses=", "shared_buffers=16MB"].into_iter().chain(self.settings.iter().map(String::as_str))
        {
            server.args(["-c", setting]);
        }
        if is_root() {
            server.uid(NOBODY).gid(NOBODY);
        }
        // A killed server leaves its lock file behind, whose process number may be in use again.
        let _ = std::fs::remove_file(folder.join("data/postmaster.pid"));
        let log = std::fs::File::create(folder.join("log")).expect("a log");
        server.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.process = Some(KillOnDrop(server.spawn().expect("postgres")));
        let begin = Instant::now();
        // The last line of this file says if clients are let in.
        while !std::fs::read_to_string(folder.join("data/postmaster.pid")).is_ok_and(|pid| pid.contains("ready")) {
            assert!(begin.elapsed() < TIMEOUT, "{}", std::fs::read_to_string(folder.join("log")).unwrap_or_default());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts the server again with these settings. Files that they name have to belong to the user of the server: see
    /// [`Postgres::write`].
    pub fn restart_with(&mut self, settings: &[&str]) {
        self.kill();
        self.settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        self.start_again();
    }

    /// Writes a file of the cluster that only the server can read, as for a key.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.data().join(name);
        std::fs::write(&path, text).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
        if is_root() {
            std::os::unix::fs::chown(&path, Some(NOBODY), Some(NOBODY)).expect("chown");
        }
    }

    /// Kills the server with all its processes, as if the machine had failed.
    pub fn kill(&mut self) {
        let Some(process) = self.process.take() else { return };
        let parent = process.0.id().to_string();
        // The others end by themselves once they notice; a connection must not outlive the kill.
        let children = Command::new("pgrep").args(["-P", &parent]).output().expect("pgrep").stdout;
        drop(process);
        for child in String::from_utf8(children).expect("numbers").lines() {
            let _ = Command::new("kill").args(["-s", "KILL", child]).stderr(Stdio::null()).status();
        }
    }

    /// Sends the server and its processes a signal, as in `STOP`.
    pub fn signal_all(&self, name: &str) {
        let Some(process) = &self.process else { return };
        let parent = process.0.id().to_string();
        let children = Command::new("pgrep").args(["-P", &parent]).output().expect("pgrep").stdout;
        let children = String::from_utf8(children).expect("numbers");
        for process in std::iter::once(parent.as_str()).chain(children.lines()) {
            let _ = Command::new("kill").args(["-s", name, process]).stderr(Stdio::null()).status();
        }
    }

    /// Returns the URL of the database at the socket, for `state.url`.
    pub fn url(&self) -> String {
        format!("postgres:///postgres?host={}&user=leeway", self.folder.path().display())
    }

    /// Returns the folder of the server, which holds `data`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the files of the cluster.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
