//! Models that change the case of texts need a locale of the machine.

use std::process::Command;

use serde_json::json;

use crate::harness::{PLAIN, Repository, TestApp, checkout, leeway, run};

/// Returns true if this machine has the locale en_US.UTF-8.
fn has_the_locale() -> bool {
    let output = Command::new("locale").arg("-a").output().unwrap();
    String::from_utf8_lossy(&output.stdout).lines().any(|name| name.eq_ignore_ascii_case("en_US.utf8"))
}

/// Python's `str.lower` gives the same texts.
#[tokio::test(flavor = "multi_thread")]
async fn texts_are_lowered_if_the_machine_has_the_locale_and_else_it_is_named() {
    let onnx = checkout().join("tests/data/first_run/lower_case.onnx");
    let repository = Repository::new();
    let folder = repository.path().join("lower");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("model.toml"), PLAIN).unwrap();
    let (code, said) = run(leeway(&["add"]).arg(&folder).arg("--onnx").arg(&onnx));
    if has_the_locale() {
        assert!(code == 0 && said.contains("It loads, runs, and fits model.toml."), "{said}");
        let app = TestApp::with(repository.config()).await;
        let body = json!({ "instances": [["Hello World", "ÄPFEL", "Ünïcode 42"]] }).to_string();
        let predicted = app.predict("/v1/models/lower:predict", body).await.predictions();
        assert_eq!(predicted, json!([["hello world", "äpfel", "ünïcode 42"]]));
    } else {
        assert_eq!(code, 1, "{said}");
        let problem = "model.onnx needs the locale en_US.UTF-8, with which it changes the case of texts, and this machine \
                       does not have it (Leeway's container image has it). On Debian and Ubuntu, install the package \
                       locales-all; or install the package locales, add the line \"en_US.UTF-8 UTF-8\" to \
                       /etc/locale.gen, and run locale-gen";
        assert!(said.contains(problem), "{said}");
    }
}
