//! The steps of a release (`scripts/release.py`), and what its workflow runs.

use std::path::Path;
use std::process::Command;

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
    let (status, text) = step(&checkout(), &["check"]);
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
    let pack = |folder: &str| {
        let folder = root.path().join(folder);
        let (status, text) = step(root.path(), &["archive", program.to_str().unwrap(), folder.to_str().unwrap()]);
        assert_eq!(status, 0, "{text}");
        std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path()
    };
    let (one, two) = (pack("one"), pack("two"));
    assert_eq!(std::fs::read(&one).unwrap(), std::fs::read(two).unwrap());
    let name = one.file_name().unwrap().to_str().unwrap().strip_suffix(".tar.gz").unwrap();
    assert!(name.starts_with("leeway-0.2.0-"), "{name}");
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
    let digest = leeway::identity::Sha256::of(&std::fs::read(&one).unwrap());
    assert_eq!(lines, format!("{digest}  {name}.tar.gz\n"));
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
