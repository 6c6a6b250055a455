//! Paths in the checkout and of its build products.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The folder of the checkout.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR").trim_end_matches("/benches/testkit"))
}

/// The folder for files that benches make and install.
pub fn workshop() -> PathBuf {
    checkout().join(".bench")
}

/// The ONNX Runtime library that `make onnxruntime` fetches.
pub fn onnxruntime() -> PathBuf {
    let library = if cfg!(target_os = "macos") { "libonnxruntime.dylib" } else { "libonnxruntime.so" };
    checkout().join(".onnxruntime").join(library)
}

/// Returns the build folder of the running test or bench, which is in `deps/` below it.
fn built() -> PathBuf {
    let this = std::env::current_exe().expect("the program of the test");
    this.ancestors().nth(2).expect("a folder above deps/").to_owned()
}

/// The program under test.
pub fn leeway_program() -> PathBuf {
    built().join("leeway")
}

/// A program of `benches/` that is built as an example.
pub fn example(name: &str) -> Command {
    Command::new(built().join("examples").join(name))
}

/// The folder of a version that Leeway ships.
pub fn shipped(name: &str, version: u32) -> PathBuf {
    checkout().join("models").join(name).join(version.to_string())
}

/// The file of a model of the tests.
pub fn test_model(name: &str) -> PathBuf {
    checkout().join("tests/data/models").join(name).with_extension("onnx")
}

/// Held-out instances of a shipped model, with the answers of the library that trained it.
pub fn held_out(model: &str) -> Value {
    let path = checkout().join(format!("tests/data/{model}_held_out.json"));
    serde_json::from_str(&std::fs::read_to_string(path).expect("held-out instances")).expect("JSON")
}

/// Copies the files of a folder.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder to copy to");
    for entry in std::fs::read_dir(from).expect("a folder to copy") {
        let entry = entry.expect("a file to copy");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}
