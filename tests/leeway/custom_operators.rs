//! Libraries with custom operators: only the configuration of the server allows them, by path and digest. The library is
//! a real one, compiled from `tests/data/custom_operator.c`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sha2::Digest;

use crate::harness::{PLAIN, Repository, Server, checkout, client, leeway, run};

/// Compiles the library into a folder.
fn library(folder: &Path) -> PathBuf {
    let library = folder.join("custom_operator.so");
    let source = checkout().join("tests/data/custom_operator.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
    assert!(built.unwrap().success());
    library
}

fn digest(file: &Path) -> String {
    let digest = sha2::Sha256::digest(std::fs::read(file).unwrap());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The value of the setting, as in a file or in the environment.
fn allowed(library: &Path, sha256: &str) -> String {
    format!("[{{ path = \"{}\", sha256 = \"{sha256}\" }}]", library.display())
}

fn model() -> PathBuf {
    checkout().join("tests/data/operators/add_one.onnx")
}

/// Runs `leeway` with a configuration file that allows this library.
fn run_allowing(folder: &Path, allowed: &str, arguments: &[&str]) -> (i32, String) {
    let file = folder.join("leeway.toml");
    std::fs::write(&file, format!("[onnxruntime]\ncustom_operators = {allowed}\n")).unwrap();
    run(leeway(arguments).args(["--config", file.to_str().unwrap()]))
}

#[test]
fn a_library_with_another_digest_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let library = library(folder.path());
    let repository = Repository::of("echo_float32");
    let models = repository.0.path().to_str().unwrap();
    let found = digest(&library);
    let other = "0".repeat(64);
    let text = folder.path().join("text.so");
    std::fs::write(&text, "no library").unwrap();
    for (library, sha256, status, problems) in [
        (&library, &other, 2, vec!["custom_operator.so has the SHA-256", &found, &other]),
        (&library, &"abc".to_owned(), 2, vec!["custom_operators"]),
        (&folder.path().join("none.so"), &found, 2, vec!["none.so cannot be read: No such file"]),
        (
            &text,
            &digest(&text),
            2,
            vec!["text.so is no library with custom operators for this ONNX Runtime", "text.so: file too short"],
        ),
        (&library, &found, 0, vec!["All models load and run."]),
    ] {
        let (ended, said) = run_allowing(folder.path(), &allowed(library, sha256), &["check", "--models", models]);
        assert_eq!(ended, status, "{said}");
        problems.iter().for_each(|problem| assert!(said.contains(*problem), "{problem}: {said}"));
    }
}

#[test]
fn a_model_with_operators_of_its_own_is_refused_with_what_to_allow() {
    let repository = Repository::new();
    let folder = repository.0.path().join("own");
    std::fs::create_dir_all(&folder).unwrap();
    for isolation in ["", "isolation = \"process\"\n"] {
        std::fs::write(folder.join("model.toml"), format!("{PLAIN}{isolation}")).unwrap();
        let (ended, said) = run(leeway(&["add"]).arg(&folder).args(["--onnx", model().to_str().unwrap()]));
        assert_eq!(ended, 1, "{said}");
        assert!(said.contains("leeway.tests:AddOne(-1) is not a registered function/op; the operators of"), "{said}");
        assert!(said.contains("onnxruntime.custom_operators"), "{said}");
    }
}

/// The trial, the server and the processes of models use the bytes that were verified at the start, even after the file
/// was replaced.
#[tokio::test(flavor = "multi_thread")]
async fn allowed_operators_run_in_the_server_in_trials_and_in_processes_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let library = library(folder.path());
    let allowed = allowed(&library, &digest(&library));
    let repository = Repository::new();
    for (name, isolation) in [("own", ""), ("apart", "isolation = \"process\"\n")] {
        let model_folder = repository.0.path().join(name);
        std::fs::create_dir_all(&model_folder).unwrap();
        std::fs::write(model_folder.join("model.toml"), format!("{PLAIN}{isolation}")).unwrap();
        for _version in 1..=2 {
            let add = ["add", model_folder.to_str().unwrap(), "--onnx", model().to_str().unwrap()].map(str::to_owned);
            let (ended, said) = run_allowing(folder.path(), &allowed, &add.each_ref().map(String::as_str));
            assert_eq!(ended, 0, "{said}");
        }
    }
    let server = Server::start(repository.0.path(), &[("LEEWAY_ONNXRUNTIME__CUSTOM_OPERATORS", &allowed)]);
    std::fs::write(&library, "replaced").unwrap();
    for name in ["own", "apart"] {
        for command in [["unload", name, "1"], ["load", name, "1"]] {
            let (ended, said) = run(leeway(&command).env("LEEWAY_ADMIN__LISTEN", server.admin.to_string()));
            assert_eq!(ended, 0, "{command:?}: {said}");
        }
        for version in ["1", "2"] {
            let url = server.url(&format!("/v1/models/{name}/versions/{version}:predict"));
            let body = json!({ "instances": [[1.0, 2.0], [3.0, 4.5]] });
            let answer: Value = client().post(url).json(&body).send().await.unwrap().json().await.unwrap();
            assert_eq!(answer["predictions"], json!([[2.0, 3.0], [4.0, 5.5]]), "{name} {version}: {answer}");
        }
    }
}
