//! Python for benches: virtual environments below `.bench`, installed once.

use std::path::PathBuf;
use std::process::Command;

use crate::places::{checkout, workshop};

/// Returns the interpreter of a virtual environment with these packages (a file of requirements in the checkout).
pub fn python(name: &str, requirements: &str, packages: &str) -> PathBuf {
    let (folder, requirements) = (workshop().join(name), checkout().join(requirements));
    let (python, stamp) = (folder.join("bin/python"), folder.join("INSTALLED"));
    let wanted = std::fs::read_to_string(&requirements).expect("the requirements");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return python;
    }
    println!("installing {packages} into .bench/{name} (once, some minutes) ...");
    succeed(Command::new("python3").args(["-m", "venv"]).arg(&folder));
    succeed(Command::new(&python).args(["-m", "pip", "install", "--quiet", "-r"]).arg(&requirements));
    std::fs::write(stamp, wanted).expect("a file in the environment");
    python
}

/// Returns the interpreter with the servers that Leeway is compared with, which also makes models for benches.
pub fn python_of_peers() -> PathBuf {
    python("peers", "benches/python/peers/requirements.txt", "FastAPI, LitServe, BentoML and LightGBM")
}

/// Runs a command that has to succeed.
pub fn succeed(command: &mut Command) {
    assert!(command.status().is_ok_and(|status| status.success()), "{command:?}");
}
