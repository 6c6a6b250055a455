//! Processes of tests and benches: the program with its arguments, and processes that end with their test.

use std::process::{Child, Command, Stdio};

use crate::places::{checkout, leeway_program};

/// A process that is killed with the test or bench.
pub struct KillOnDrop(pub Child);

impl KillOnDrop {
    /// Sends the process a signal, as in `TERM`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.0.id().to_string()]).status().expect("kill");
        assert!(status.success());
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns `leeway` with these arguments, in a folder without a configuration file, and without settings variables.
pub fn leeway(arguments: &[&str]) -> Command {
    let mut command = Command::new(leeway_program());
    command.args(arguments);
    isolate(&mut command);
    command
}

/// Changes a command to start `leeway` in a folder without a configuration file, and without settings variables.
pub(crate) fn isolate(command: &mut Command) {
    command.current_dir(checkout().join("tests/data")).stdin(Stdio::null());
    command.env_remove("ORT_DYLIB_PATH").env("LEEWAY_STATE__URL", "memory");
}

/// Runs a command to its end. Returns its exit status and its whole output.
pub fn run(command: &mut Command) -> (i32, String) {
    let output = command.output().expect("a program to run");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("UTF-8")).concat();
    (output.status.code().expect("an exit status"), text)
}
