//! Files of another kind than the expected one are named, with what to do.

use std::io::Write as _;
use std::path::Path;

use leeway::repository::Manifest;

use crate::harness::{PLAIN, Repository, checkout, leeway, run};

/// What `git clone` leaves of a file if Git LFS is not installed. The address in it ends in the version of the format.
const POINTER: &str = "version https://git-lfs.example/spec/v1\n\
    oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn add(repository: &Repository, more: &[&str]) -> (i32, String) {
    let model = repository.0.path().join("plus");
    run(&mut leeway(&[&["add", model.to_str().unwrap()][..], more].concat()))
}

fn write(folder: &Path, name: &str, content: &[u8]) -> String {
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_file_that_is_not_a_model_is_named_when_it_is_added() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
    let model = std::fs::read(checkout().join("tests/data/models/plus_1.onnx")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (name, content, problem) in [
        ("m.onnx", POINTER.into(), "m.onnx: a Git LFS pointer, not the file itself; run `git lfs pull`"),
        ("m.onnx", b"\n<!DOCTYPE html>\n<html>".into(), "not an ONNX file, but an HTML page"),
        ("m.onnx", Vec::new(), "not an ONNX file, but an empty file; download or copy it again"),
        ("m.onnx.gz", gzip(&model), "not an ONNX file, but a gzip archive; unpack it first"),
        ("m.json", b"{\"a\": 1}".into(), "not an ONNX file, but JSON"),
        ("m.pkl", b"\x80\x04\x95\x0a".into(), "not an ONNX file, but a Python pickle"),
        ("m.bin", vec![0xC3; 4096], "not an ONNX file: failed to decode"),
    ] {
        let (code, said) = add(&repository, &["--onnx", &write(folder.path(), name, &content)]);
        assert!(code == 1 && said.contains(problem), "{problem}: {said}");
    }
    let onnx = checkout().join("tests/data/models/plus_1.onnx");
    let labels = write(folder.path(), "labels.txt", POINTER.as_bytes());
    let (code, said) = add(&repository, &["--onnx", onnx.to_str().unwrap(), "--file", &labels]);
    assert!(code == 1 && said.contains("labels.txt: a Git LFS pointer, not the file itself"), "{said}");
    assert!(!repository.0.path().join("plus/2").exists());
}

/// A repository of models in Git, cloned without Git LFS: a pointer has another digest than its file. A pointer that
/// was added would be read as the weights.
#[test]
fn a_pointer_in_the_place_of_a_versions_file_is_named() {
    for is_added in [false, true] {
        for name in ["model.onnx", "plus_5.onnx.data", "labels.txt"] {
            let repository = Repository::new().with("plus", 1, "plus_5_external", PLAIN);
            let folder = repository.0.path().join("plus/1");
            let weights = checkout().join("tests/data/models/plus_5.onnx.data");
            std::fs::copy(weights, folder.join("plus_5.onnx.data")).unwrap();
            write(&folder, "labels.txt", b"a\nb\n");
            Manifest::write_for(&folder).unwrap();
            write(&folder, name, POINTER.as_bytes());
            if is_added {
                Manifest::write_for(&folder).unwrap();
            }
            let models = repository.0.path().to_str().unwrap();
            let problem = format!("{name}: a Git LFS pointer, not the file itself; run `git lfs pull`");
            let commands: &[&str] = if is_added && name == "labels.txt" { &[] } else { &["check", "verify"] };
            for command in commands {
                let (code, said) = run(&mut leeway(&[command, "--models", models]));
                assert!(code != 0 && said.contains(&problem), "{command}, {name}, added {is_added}: {said}");
            }
        }
    }
}

/// Good files that were cut off, or in which one byte was changed.
#[test]
fn a_model_that_cannot_be_loaded_is_refused_with_what_to_do() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
    let model = std::fs::read(checkout().join("tests/data/models/plus_1.onnx")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let size = model.len();
    let with = |place: usize, byte: u8| {
        let mut changed = model.clone();
        changed[place] = byte;
        changed
    };
    let operator = model.windows(3).position(|name| name == b"Add").unwrap();
    let cut = |at: usize| model[..at].to_vec();
    for (content, problem) in [
        (cut(size / 2), format!("m.onnx: the file ends too early, after {} bytes: it was truncated", size / 2)),
        (cut(size - 1), format!("m.onnx: the file ends too early, after {} bytes: it was truncated", size - 1)),
        // The producer's name is complete, and the graph is missing.
        (cut(16), "the file ends too early, after 16 bytes: it was truncated".to_owned()),
        (with(operator, 0xFF), format!("the file of {size} bytes is damaged (failed to decode")),
        (with(1, 99), "model.onnx has the IR version 99, and ONNX Runtime 1.".to_owned()),
        (with(1, 99), "reads versions up to 13: export the model with an older version of the onnx package".to_owned()),
        (with(size - 1, 99), "model.onnx uses opset 99 of ai.onnx, and ONNX Runtime 1.".to_owned()),
        (with(size - 1, 99), "knows opsets up to 26: export the model with opset 26 or an older one".to_owned()),
        (
            with(operator + 2, b'o'),
            "uses the operator Ado, which does not exist in the opset that it declares (18)".to_owned(),
        ),
    ] {
        let (code, said) = add(&repository, &["--onnx", &write(folder.path(), "m.onnx", &content)]);
        assert!(code == 1 && said.contains(&problem), "{problem}: {said}");
    }
    let onnx = checkout().join("tests/data/first_run/unknown_rank.onnx");
    let (code, said) = add(&repository, &["--onnx", onnx.to_str().unwrap()]);
    assert!(
        code == 1 && said.contains("the rank of the model's input \"x\" is unknown: its file gives no shape"),
        "{said}"
    );
    assert!(!repository.0.path().join("plus/2").exists());
}
