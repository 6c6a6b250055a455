//! Signed versions: `repository.trusted_keys`, `leeway sign` and `leeway add --sign`. `tests/data/make_signed_version.sh` has
//! made keys and signatures with minisign itself.

use std::path::{Path, PathBuf};
use std::process::Output;

use leeway::app::App;
use leeway::config::Config;
use leeway::pipeline::Stages;
use leeway::repository::SIGNATURE_FILE;
use serde_json::json;

use crate::harness::{PLAIN, Repository, TestApp, checkout, copy_folder, dependencies, leeway, runtime, until};

fn data(name: &str) -> PathBuf {
    checkout().join("tests/data/signed").join(name)
}

/// Returns the public key of a file of minisign.
fn public(name: &str) -> String {
    let text = std::fs::read_to_string(data(&format!("{name}.pub"))).unwrap();
    text.lines().nth(1).unwrap().to_owned()
}

/// A repository with the version that minisign has signed.
fn signed() -> Repository {
    let repository = Repository::new();
    copy_folder(&data("echo/1"), &repository.version("echo", 1));
    std::fs::copy(data("echo/model.toml"), repository.path().join("echo/model.toml")).unwrap();
    repository
}

fn trusting(repository: &Repository, keys: &[&str]) -> Config {
    let mut config = repository.config();
    config.repository.trusted_keys = keys.iter().map(|key| public(key).parse().unwrap()).collect();
    config
}

fn signature(repository: &Repository) -> PathBuf {
    repository.version("echo", 1).join(SIGNATURE_FILE)
}

/// Returns the reason why version 1 is not served; `None` if it is.
async fn reason(config: Config) -> Option<String> {
    let app = TestApp::with(config).await;
    let answer = app.predict("/v1/models/echo:predict", json!({ "instances": [[1.0, 2.0]] }).to_string()).await;
    if answer.status == 200 {
        return None;
    }
    let status = app.admin_get("/admin/v1/models/echo/versions/1").await.text;
    assert!(status.contains(r#""signature""#), "{status}");
    Some(status)
}

fn run_with(repository: &Repository, keys: &[&str], arguments: &[&str]) -> Output {
    let keys: Vec<String> = keys.iter().map(|key| format!("{:?}", public(key))).collect();
    let mut command = leeway(arguments);
    command.env("LEEWAY_REPOSITORY__PATH", repository.path());
    command.env("LEEWAY_REPOSITORY__TRUSTED_KEYS", format!("[{}]", keys.join(", ")));
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_minisign_has_signed_is_served_and_any_trusted_key_suffices() {
    assert_eq!(reason(trusting(&signed(), &["trusted"])).await, None);
    // While keys are rotated, both are trusted.
    assert_eq!(reason(trusting(&signed(), &["other", "trusted"])).await, None);
    // Without keys, nothing is checked.
    let repository = signed();
    std::fs::write(signature(&repository), "no signature").unwrap();
    assert_eq!(reason(repository.config()).await, None);
}

/// What is refused, and a part of the reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_without_a_valid_signature_of_its_own_is_refused_with_the_reason() {
    let replaced = |name: &'static str| {
        move |repository: &Repository| {
            std::fs::copy(data(&format!("signatures/{name}.minisig")), signature(repository)).unwrap();
        }
    };
    let written = |content: fn(String) -> String| {
        move |repository: &Repository| {
            let text = std::fs::read_to_string(signature(repository)).unwrap();
            std::fs::write(signature(repository), content(text)).unwrap();
        }
    };
    let manifest = |repository: &Repository| {
        let path = repository.version("echo", 1).join("version.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, format!("description = \"changed\"\n{text}")).unwrap();
    };
    type Change<'a> = &'a dyn Fn(&Repository);
    let cases: [(Change, &str); 10] = [
        (&|repository| std::fs::remove_file(signature(repository)).unwrap(), "the file is missing"),
        (&replaced("by_other_key"), "which repository.trusted_keys does not have"),
        (
            &replaced("of_version_2"),
            "\\\"model:echo version:2\\\", and that of this version has \\\"model:echo version:1\\\"",
        ),
        (&replaced("of_another_model"), "its trusted comment is \\\"model:other version:1\\\""),
        (&replaced("with_usual_comment"), "its trusted comment is \\\"timestamp:"),
        (&replaced("legacy"), "legacy mode"),
        (&manifest, "it is not a signature by the key 4E865049CB5B1B2A of this version.toml"),
        (&written(|text| text[..100].to_owned()), "it is not a signature of minisign"),
        (&written(|text| text.repeat(1_000)), "larger than 20480 bytes"),
        // The signature of the comment is checked, too.
        (&written(|text| text.replace("version:1", "version:01")), "it is not a signature by the key"),
    ];
    for (change, expected) in cases {
        let repository = signed();
        change(&repository);
        let reason = reason(trusting(&repository, &["trusted"])).await.unwrap_or_default();
        assert!(reason.contains(expected), "expected {expected} in {reason}");
    }
    // A file that differs from the signed manifest.
    let repository = signed();
    std::fs::write(repository.version("echo", 1).join("model.onnx"), "other").unwrap();
    let app = TestApp::with(trusting(&repository, &["trusted"])).await;
    let status = app.admin_get("/admin/v1/models/echo/versions/1").await.text;
    assert!(status.contains("model.onnx is not the file that was added"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_served_once_it_is_signed() {
    let repository = signed();
    std::fs::remove_file(signature(&repository)).unwrap();
    let app = TestApp::with(trusting(&repository, &["trusted"])).await;
    let body = json!({ "instances": [[1.0, 2.0]] }).to_string();
    assert_ne!(app.predict("/v1/models/echo:predict", body.clone()).await.status, 200);
    std::fs::copy(data("echo/1").join(SIGNATURE_FILE), signature(&repository)).unwrap();
    until(async || {
        app.admin_post("/admin/v1/reload", json!({})).await;
        (app.predict("/v1/models/echo:predict", body.clone()).await.status == 200).then_some(())
    })
    .await;
    // A signature that disappears is reported; the version in memory was checked, and is served on.
    std::fs::remove_file(signature(&repository)).unwrap();
    until(async || {
        app.admin_post("/admin/v1/reload", json!({})).await;
        app.admin_get("/admin/v1/models/echo/versions/1").await.text.contains("not signed").then_some(())
    })
    .await;
    assert_eq!(app.predict("/v1/models/echo:predict", body).await.status, 200);
}

/// The process of a trial checks the signature, too: the folder may change after the server has checked it.
#[test]
fn check_and_verify_name_the_key_or_the_reason() {
    let repository = signed();
    let checked = run_with(&repository, &["trusted"], &["check"]);
    assert!(checked.status.success(), "{}", text(&checked));
    let verified = run_with(&repository, &["trusted"], &["verify"]);
    assert!(text(&verified).contains(", signed by 4E865049CB5B1B2A"), "{}", text(&verified));
    std::fs::remove_file(signature(&repository)).unwrap();
    for command in ["check", "verify"] {
        let refused = run_with(&repository, &["trusted"], &[command]);
        let text = text(&refused);
        assert!(!refused.status.success() && text.contains("so the version is not signed"), "{text}");
        assert!(text.contains("`leeway sign echo 1 --key FILE`") && text.contains("4E865049CB5B1B2A"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_makes_signatures_that_are_accepted() {
    let repository = signed();
    std::fs::remove_file(signature(&repository)).unwrap();
    let key = data("trusted.key");
    let signed = run_with(&repository, &["trusted"], &["sign", "echo", "1", "--key", key.to_str().unwrap()]);
    assert!(signed.status.success(), "{}", text(&signed));
    assert!(text(&signed).contains("Signed echo 1 with the key 4E865049CB5B1B2A"), "{}", text(&signed));
    assert_eq!(reason(trusting(&repository, &["trusted"])).await, None);
    verified_by_minisign(&repository.version("echo", 1), "trusted");

    // A new key, made here.
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("new.key");
    let made = leeway(&["sign", "--generate", key.to_str().unwrap(), "--no-password"]).output().unwrap();
    assert!(made.status.success(), "{}", text(&made));
    let settings: toml::Table = String::from_utf8_lossy(&made.stdout).parse().unwrap();
    let public = settings["repository"]["trusted_keys"][0].as_str().unwrap();
    let file = std::fs::read_to_string(folder.path().join("new.key.pub")).unwrap();
    assert_eq!(file.lines().nth(1).unwrap(), public);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&key).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(
        !leeway(&["sign", "--generate", key.to_str().unwrap(), "--no-password"]).output().unwrap().status.success()
    );
    let signed = run_with(&repository, &["trusted"], &["sign", "echo", "1", "--key", key.to_str().unwrap()]);
    assert!(signed.status.success(), "{}", text(&signed));
    let mut config = repository.config();
    config.repository.trusted_keys = vec![public.parse().unwrap()];
    assert_eq!(reason(config).await, None);
}

/// Checks a signature with the library of minisign, as the program does.
fn verified_by_minisign(folder: &Path, key: &str) {
    let key = minisign::PublicKey::from_base64(&public(key)).unwrap();
    let signature = minisign::SignatureBox::from_file(folder.join(SIGNATURE_FILE)).unwrap();
    assert_eq!(signature.trusted_comment().unwrap(), "model:echo version:1");
    let manifest = std::io::Cursor::new(std::fs::read(folder.join("version.toml")).unwrap());
    minisign::verify(&key, &signature, manifest, true, false, false).unwrap();
}

#[test]
fn sign_refuses_a_version_whose_files_have_changed_and_keys_that_it_cannot_read() {
    let repository = signed();
    let sign = |key: &str| {
        let key = data(key);
        let refused = run_with(&repository, &[], &["sign", "echo", "1", "--key", key.to_str().unwrap()]);
        assert!(!refused.status.success());
        text(&refused)
    };
    let without_password = sign("encrypted.key");
    assert!(without_password.contains("LEEWAY_SIGNING_PASSWORD"), "{without_password}");
    let public = sign("trusted.pub");
    assert!(public.contains("it is not a secret key of minisign"), "{public}");
    let before = std::fs::read(signature(&repository)).unwrap();
    std::fs::write(repository.version("echo", 1).join("model.onnx"), "other").unwrap();
    let altered = sign("trusted.key");
    assert!(altered.contains("model.onnx is not the file that was added"), "{altered}");
    assert_eq!(std::fs::read(signature(&repository)).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn add_signs_the_version_that_it_makes() {
    let repository = Repository::new();
    std::fs::create_dir_all(repository.path().join("echo")).unwrap();
    let repository = repository.with_config("echo", PLAIN);
    let (model, onnx, key) = (repository.path().join("echo"), data("echo/1/model.onnx"), data("trusted.key"));
    let [model, onnx, key] = [&model, &onnx, &key].map(|path| path.to_str().unwrap());
    let added = run_with(&repository, &["trusted"], &["add", model, "--onnx", onnx, "--sign", key]);
    assert!(text(&added).contains("It is signed with the key 4E865049CB5B1B2A."), "{}", text(&added));
    assert_eq!(reason(trusting(&repository, &["trusted"])).await, None);
    let unsigned = run_with(&repository, &["trusted"], &["add", model, "--onnx", onnx]);
    assert!(unsigned.status.success() && text(&unsigned).contains("It is not signed"), "{}", text(&unsigned));
}

#[test]
fn a_key_that_is_none_is_refused_with_the_accepted_form() {
    let repository = signed();
    let mut command = leeway(&["check"]);
    command.env("LEEWAY_REPOSITORY__PATH", repository.path());
    command.env("LEEWAY_REPOSITORY__TRUSTED_KEYS", "[\"RWQsecret\"]");
    let refused = command.output().unwrap();
    let text = text(&refused);
    assert_eq!(refused.status.code(), Some(2), "{text}");
    assert!(text.contains("TRUSTED_KEYS") && text.contains("56 characters that begin with RW"), "{text}");
}

/// A strict start fails, and names the version.
#[tokio::test(flavor = "multi_thread")]
async fn a_strict_start_is_refused() {
    let repository = signed();
    std::fs::remove_file(signature(&repository)).unwrap();
    let mut config = trusting(&repository, &["trusted"]);
    config.repository.start = leeway::config::StartMode::Strict;
    let parts = dependencies(&config, runtime(), Stages::default()).await;
    let error = App::build_with(config, parts).await.unwrap_err().to_string();
    assert!(error.contains("version.toml.minisig: the file is missing"), "{error}");
}
