//! The steps of a release (`scripts/release.py`), and what its workflow runs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{checkout, run};

/// Runs a step in a checkout at this place.
fn step(root: &Path, arguments: &[&str]) -> (i32, String) {
    run(Command::new("python3").arg(root.join("scripts/release.py")).args(arguments))
}

/// A checkout with only what a release needs.
fn small_checkout(changelog: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = root.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    };
    write("scripts/release.py", &std::fs::read_to_string(checkout().join("scripts/release.py")).unwrap());
    write("Cargo.toml", "[package]\nname = \"leeway\"\nversion = \"0.2.0\"\n");
    write("Cargo.lock", "[[package]]\nname = \"leeway\"\nversion = \"0.2.0\"\n");
    write("CHANGELOG.md", changelog);
    for name in ["LICENSE-MIT", "LICENSE-APACHE", "README.md", "config/leeway.toml", "models/digits/model.toml"] {
        write(name, name);
    }
    write("models/train.py", "belongs to the checkout");
    write(".onnxruntime/STAMP", "belongs to the checkout");
    write(".onnxruntime/libonnxruntime.so.1", "a library");
    std::os::unix::fs::symlink("libonnxruntime.so.1", root.path().join(".onnxruntime/libonnxruntime.so")).unwrap();
    root
}

const CHANGELOG: &str = "# Changelog\n\n## Unreleased\n\n- Later.\n\n## [0.2.0] - 2026-12-01\n\n### Added\n\n- One.\n\n## 0.1.0\n\n- Old.\n";

#[test]
fn the_tag_the_version_and_the_changelog_of_a_release_have_to_agree() {
    let check = |changelog: &str, tag: &str| step(small_checkout(changelog).path(), &["check", tag]);
    assert_eq!(check(CHANGELOG, "v0.2.0"), (0, "leeway 0.2.0 can be released\n".to_owned()));
    assert_eq!(check(CHANGELOG, "").0, 0);
    let (status, text) = check(CHANGELOG, "v0.3.0");
    assert!(status == 1 && text.contains("tag it v0.2.0, or change the version"), "{text}");
    let (status, text) = check("## Unreleased\n\n- Later.\n", "v0.2.0");
    assert!(status == 1 && text.contains("CHANGELOG.md has no section 0.2.0"), "{text}");
    let (status, text) = check("## 0.2.0 - 2026-12-01\n\n## 0.1.0\n\n- Old.\n", "v0.2.0");
    assert!(status == 1 && text.contains("the section 0.2.0 of CHANGELOG.md is empty"), "{text}");
    // A dry run of this checkout.
    let (status, text) = step(checkout(), &["check"]);
    assert_eq!(status, 0, "{text}");
}

#[test]
fn the_release_notes_are_the_section_of_the_changelog() {
    let root = small_checkout(CHANGELOG);
    assert_eq!(step(root.path(), &["notes", "0.2.0"]), (0, "### Added\n\n- One.\n".to_owned()));
    assert_eq!(step(root.path(), &["notes", "0.1.0"]), (0, "- Old.\n".to_owned()));
    assert_eq!(step(root.path(), &["notes"]), (0, "- Later.\n".to_owned()));
}

#[test]
fn the_same_files_make_the_same_archive_with_everything_that_runs() {
    let root = small_checkout(CHANGELOG);
    let program = root.path().join("leeway");
    std::fs::write(&program, "#!/bin/sh\necho runs\n").unwrap();
    std::fs::write(root.path().join("leeway.debug"), "names and lines").unwrap();
    let pack = |folder: &str| {
        let folder = root.path().join(folder);
        let (status, text) = step(root.path(), &["archive", program.to_str().unwrap(), folder.to_str().unwrap()]);
        assert_eq!(status, 0, "{text}");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<PathBuf> = files.collect();
        files.sort();
        <[PathBuf; 2]>::try_from(files).unwrap()
    };
    let ([one, debug], two) = (pack("one"), pack("two"));
    for (one, two) in [&one, &debug].into_iter().zip(&two) {
        assert_eq!(std::fs::read(one).unwrap(), std::fs::read(two).unwrap());
    }
    let name = one.file_name().unwrap().to_str().unwrap().strip_suffix(".tar.gz").unwrap();
    let release = name.strip_prefix("leeway-").unwrap();
    assert!(release.starts_with("0.2.0-"), "{name}");
    assert_eq!(debug.file_name().unwrap().to_str(), Some(&*format!("leeway-debug-info-{release}.tar.gz")));
    let (_, listed) = run(Command::new("tar").arg("-tzf").arg(&debug));
    assert_eq!(listed, format!("leeway-debug-info-{release}/leeway.debug\n"));
    let (status, listed) = run(Command::new("tar").arg("-tzf").arg(&one));
    let listed: Vec<&str> = listed.lines().map(|line| line.strip_prefix(name).unwrap()).collect();
    assert_eq!(
        (status, listed),
        (
            0,
            vec![
                "/bin/leeway",
                "/lib/leeway/libonnxruntime.so",
                "/lib/leeway/libonnxruntime.so.1",
                "/LICENSE-MIT",
                "/LICENSE-APACHE",
                "/README.md",
                "/CHANGELOG.md",
                "/config/leeway.toml",
                "/models/digits/model.toml",
            ]
        )
    );
    assert_eq!(run(Command::new("tar").arg("-xzf").arg(&one).arg("-C").arg(root.path())).0, 0);
    assert_eq!(run(&mut Command::new(root.path().join(name).join("bin/leeway"))), (0, "runs\n".to_owned()));

    let folder = root.path().join("one");
    let (status, text) = step(root.path(), &["checksums", folder.to_str().unwrap()]);
    assert_eq!(status, 0, "{text}");
    let lines = std::fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
    assert_eq!(lines, text);
    let line = |file: &Path| {
        let digest = leeway::identity::Sha256::of(&std::fs::read(file).unwrap());
        format!("{digest}  {}\n", file.file_name().unwrap().to_str().unwrap())
    };
    assert_eq!(lines, line(&one) + &line(&debug));
}

#[test]
fn the_bill_of_materials_has_the_crates_of_the_program_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("leeway.cdx.json");
    let (status, text) = run(Command::new("python3").arg(checkout().join("scripts/sbom.py")).arg(&file));
    assert_eq!(status, 0, "{text}");
    let bill: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&json!("CycloneDX"), &json!("1.6")));
    let program = format!("pkg:cargo/leeway@{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(bill["metadata"]["component"]["purl"], program);

    let components = bill["components"].as_array().unwrap();
    let named = |name: &str| components.iter().find(|component| component["name"] == name);
    let axum = named("axum").unwrap();
    assert_eq!(
        (&axum["licenses"][0]["expression"], axum["hashes"][0]["content"].as_str().unwrap().len()),
        (&json!("MIT"), 64)
    );
    assert!(named("onnxruntime").is_some());
    // They test and build it.
    for other in ["insta", "leeway-testkit", "protox"] {
        assert!(named(other).is_none(), "{other}");
    }
    // Every dependency that is named is a component.
    let references = components.iter().map(|component| component["bom-ref"].as_str().unwrap());
    let references: BTreeSet<&str> = references.chain([&*program]).collect();
    let needed = bill["dependencies"].as_array().unwrap().iter().flat_map(|edge| edge["dependsOn"].as_array().unwrap());
    assert!(needed.map(|needed| needed.as_str().unwrap()).all(|needed| references.contains(needed)));
    assert_eq!(references.len(), components.len() + 1);
}

/// A workflow runs only after a push. A script that it names may be gone by then.
#[test]
fn the_scripts_of_the_workflows_exist() {
    for name in ["ci", "release"] {
        let workflow = std::fs::read_to_string(checkout().join(format!(".github/workflows/{name}.yml"))).unwrap();
        for script in
            workflow.split_whitespace().filter(|word| word.starts_with("scripts/") || word.starts_with(".ci/"))
        {
            assert!(checkout().join(script).is_file(), "{name}: {script}");
        }
    }
}
