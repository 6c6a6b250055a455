//! Clients of other servers, pointed at Leeway without a change: tritonclient, the KServe SDK, and others. Their scripts are
//! in tests/clients, and `make clients` installs the packages.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use leeway::repository::Manifest;

use crate::harness::{Server, checkout, copy_folder};

/// The token of operators.
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn script(name: &str) -> Command {
    let python = checkout().join(".clients/bin/python");
    assert!(python.exists(), "{} is missing: run `make clients`", python.display());
    let mut command = Command::new(python);
    command.arg(checkout().join("tests/clients").join(name)).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// Runs a script, and returns what it printed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

/// A repository with a model of each element type, and two of the shipped models.
fn repository() -> PathBuf {
    static REPOSITORY: OnceLock<PathBuf> = OnceLock::new();
    REPOSITORY
        .get_or_init(|| {
            let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("clients");
            let _ = std::fs::remove_dir_all(&folder);
            run(script("models.py").arg(&folder));
            for model in std::fs::read_dir(&folder).unwrap() {
                Manifest::write_for(&model.unwrap().path().join("1")).unwrap();
            }
            for model in ["digits", "penguins"] {
                let from = checkout().join("models").join(model);
                copy_folder(&from.join("1"), &folder.join(model).join("1"));
                let model_toml = std::fs::read_to_string(from.join("model.toml")).unwrap();
                // A test machine may be busy.
                let patient = model_toml.replace("total_ms = 200", "total_ms = 20000");
                std::fs::write(folder.join(model).join("model.toml"), patient).unwrap();
            }
            folder
        })
        .clone()
}

fn server() -> Server {
    server_of("digits")
}

fn server_of(default_model: &str) -> Server {
    let settings = [
        ("LEEWAY_LOADING__TRIAL", "false"),
        ("LEEWAY_ADMIN__TOKEN", TOKEN),
        ("LEEWAY_REPOSITORY__DEFAULT_MODEL", default_model),
        ("LEEWAY_STATE__URL", "memory"),
    ];
    Server::start(&repository(), &settings)
}

#[test]
fn every_type_and_rank_comes_back_unchanged_in_every_form() {
    let server = server();
    let address = server.data.to_string();
    let said = run(script("round_trip.py").arg(repository()).args([&address, &address]));
    assert!(said.contains("tensors compared, 0 differ"), "{said}");
}

#[test]
fn tritonclient_finds_everything_that_it_asks_for() {
    for kind in ["http", "http.aio", "grpc", "grpc.aio"] {
        let server = server();
        let said = run(script("triton.py").args([kind, &server.data.to_string(), TOKEN]));
        assert!(said.contains(&format!("{kind} repository: ok")), "{said}");
    }
}

#[test]
fn the_kserve_sdk_speaks_both_versions() {
    let server = server();
    let address = server.data.to_string();
    let said = run(script("kserve_sdk.py").args([&address, &address]));
    for expected in ["kserve v2: ok", "kserve v1: ok", "kserve grpc: ok"] {
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn the_client_of_mlflow_is_answered_in_every_form_that_it_sends() {
    let said = run(script("mlflow_payloads.py").arg(server_of("penguins").url("")));
    assert!(said.ends_with("ok\n"), "{said}");
}

/// Returns the examples of docs/clients.md, each with the words after `<!-- client:`.
fn examples() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(checkout().join("docs/clients.md")).unwrap();
    let example = |part: &str| {
        let (words, rest) = part.split_once(" -->\n```").unwrap();
        let (_, rest) = rest.split_once('\n').unwrap();
        let (code, _) = rest.split_once("\n```").unwrap();
        (words.to_owned(), code.to_owned())
    };
    text.split("<!-- client: ").skip(1).map(example).collect()
}

#[test]
fn the_documented_examples_run() {
    let server = server();
    let folder = tempfile::tempdir().unwrap();
    let examples = examples();
    assert_eq!(examples.len(), 8);
    for (words, code) in examples {
        let code = code.replace("127.0.0.1:8080", &server.data.to_string());
        let language = words.split(',').next().unwrap();
        let file = folder.path().join(if language == "typescript" { "example.mts" } else { "example" });
        std::fs::write(&file, code).unwrap();
        let mut command = match language {
            "python" => Command::new(checkout().join(".clients/bin/python")),
            "typescript" => {
                let tsc = checkout().join(".clients/node/node_modules/typescript/bin/tsc");
                let options = "--strict --noEmitOnError --target es2022 --module nodenext --lib es2022,dom";
                run(Command::new("node").arg(tsc).arg(&file).args(options.split(' ')));
                Command::new("node")
            }
            _ => Command::new("sh"),
        };
        let file = if language == "typescript" { file.with_extension("mjs") } else { file };
        let said = run(command.arg(&file));
        assert!(["Gentoo", "label "].iter().any(|answer| said.contains(answer)), "{words}: {said}");
    }
}
