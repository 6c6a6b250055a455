//! The Python package: the tests of its module, its types, and the ONNX Runtime that the program finds in the environment that
//! `pip` installed it into. `scripts/test_wheel.py` installs the wheel itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::checkout;

/// The environment that `make clients` makes for the module.
fn environment() -> PathBuf {
    let folder = checkout().join(".clients/module");
    assert!(folder.join("bin/python").exists(), "{} is missing: run `make clients`", folder.display());
    folder
}

fn python(arguments: &[&str]) {
    let mut command = Command::new(environment().join("bin/python"));
    command.args(arguments).current_dir(checkout()).env("LEEWAY_PROGRAM", env!("CARGO_BIN_EXE_leeway"));
    command.env_remove("ORT_DYLIB_PATH").env("PYTHONDONTWRITEBYTECODE", "1");
    let output = command.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {said}");
}

#[test]
fn the_module_passes_its_tests() {
    python(&["-m", "pytest", "--quiet", "-p", "no:cacheprovider", "python/tests"]);
}

#[test]
fn the_module_is_typed() {
    python(&["-m", "mypy", "--strict", "--cache-dir", "/dev/null", "python/leeway"]);
}

/// Makes an environment as `pip` does, with this program and, if `has_library` is set, with the package `onnxruntime`.
fn installed(folder: &Path, has_library: bool) -> PathBuf {
    let program = folder.join("bin/leeway");
    let packages = folder.join("lib/python3.99/site-packages");
    for made in [program.parent().unwrap(), &packages.join("leeway")] {
        std::fs::create_dir_all(made).unwrap();
    }
    let built = env!("CARGO_BIN_EXE_leeway");
    std::fs::hard_link(built, &program).or_else(|_| std::fs::copy(built, &program).map(drop)).unwrap();
    if has_library {
        let found = std::fs::read_dir(environment().join("lib")).unwrap().map(|entry| entry.unwrap().path());
        let package = found.map(|python| python.join("site-packages/onnxruntime")).find(|path| path.exists());
        std::os::unix::fs::symlink(package.unwrap(), packages.join("onnxruntime")).unwrap();
    }
    program
}

fn check(program: &Path) -> String {
    let mut command = Command::new(program);
    command.args(["check", "--models", checkout().join("models").to_str().unwrap()]).current_dir("/");
    let output = command.env_remove("ORT_DYLIB_PATH").env("LEEWAY_STATE__URL", "memory").output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn the_program_finds_the_library_of_its_environment() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let said = check(&installed(folder.path(), true));
    assert!(said.contains("penguins"), "{said}");
    let with_library = "lib/python3.99/site-packages/onnxruntime/capi/libonnxruntime";
    assert!(said.contains(with_library) && !said.contains("no usable"), "{said}");
}

/// The environment is outside of the checkout, whose own library would be found otherwise.
#[test]
fn a_program_without_its_library_says_which_package_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let said = check(&installed(folder.path(), false));
    assert!(said.contains("no usable ONNX Runtime library"), "{said}");
    assert!(said.contains("`pip install onnxruntime` adds it"), "{said}");
}

/// The library that `pip` brings is the one that is tested.
#[test]
fn the_package_depends_on_the_tested_library() {
    let read = |path: &str| std::fs::read_to_string(checkout().join(path)).unwrap();
    let fetched = read("scripts/fetch_onnxruntime.py");
    let version = fetched.split("\nVERSION = \"").nth(1).unwrap().split('"').next().unwrap();
    let next = {
        let parts: Vec<u32> = version.split('.').map(|part| part.parse().unwrap()).collect();
        format!("{}.{}", parts[0], parts[1] + 1)
    };
    let expected = format!("dependencies = [\"onnxruntime>={version},<{next}\"]");
    assert!(read("pyproject.toml").contains(&expected), "{expected}");
}
