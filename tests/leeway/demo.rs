//! `leeway demo`: tells the whole story by itself, with the numbers of a real server, and leaves nothing behind.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{KillOnDrop, checkout, leeway, run};

/// The demo, with a folder of its own for temporary files.
fn demo(arguments: &[&str], temporary: &Path) -> Command {
    let mut command = leeway(&[&["demo"], arguments].concat());
    // A setting of the user does not change the demo.
    command.env("TMPDIR", temporary).env("LEEWAY_HTTP__LISTEN", "127.0.0.1:1");
    command
}

/// Returns the numbers of a version in the last table with this header.
fn numbers(text: &str, version: &str) -> Vec<f64> {
    let rows = text.lines().filter(|line| line.split_whitespace().next() == Some(version));
    let mut numbers =
        rows.filter_map(|row| row.split_whitespace().map(|cell| cell.parse().ok()).collect::<Option<Vec<_>>>());
    numbers.next_back().unwrap_or_else(|| panic!("no row of version {version} in\n{text}"))
}

/// Returns a text with each number, and the spaces before it, as `#`.
fn without_digits(text: &str) -> String {
    let mut masked = String::new();
    for c in text.chars() {
        if !c.is_ascii_digit() {
            masked.push(c);
        } else if !masked.ends_with('#') {
            masked.truncate(masked.trim_end_matches(' ').len());
            masked.push('#');
        }
    }
    masked
}

#[test]
fn the_demo_shows_a_worse_canary_a_rollback_drift_and_accuracy() {
    let temporary = tempfile::tempdir().unwrap();
    let (status, text) = run(&mut demo(&["--seconds", "1", "--keep"], temporary.path()));
    assert_eq!(status, 0, "{text}");

    let [_, requests, labels, right, accuracy] = numbers(&text, "2")[..] else { panic!("{text}") };
    let [_, canary_requests, canary_labels, _, canary_accuracy] = numbers(&text, "3")[..] else { panic!("{text}") };
    assert_eq!((requests + canary_requests, labels, canary_labels), (1_800.0, requests, canary_requests), "{text}");
    assert!((right / labels - accuracy).abs() < 0.01, "{text}");
    // scikit-learn's own accuracy on these rows: 0.99 and 0.36, and 0.44 with lengths in centimetres.
    assert!((100.0..300.0).contains(&canary_requests) && canary_accuracy < 0.5, "{text}");
    let until = text.find("The outcomes show it").unwrap();
    assert_eq!(numbers(&text[..until], "2").last(), Some(&0.99), "{text}");
    assert!(text.contains("version 3 is worse than version 2"), "{text}");
    assert!(text.contains("264 of the last 600 predictions were right"), "{text}");

    assert!(text.contains("2=70 3=30 -> 2=100"), "{text}");
    for feature in ["bill_length_mm", "bill_depth_mm", "flipper_length_mm"] {
        let is_drifted = |line: &str| {
            line.trim_start().starts_with(feature)
                && line.contains(" drifted ")
                && line.ends_with(" below all training data")
        };
        assert_eq!(text.lines().filter(|line| is_drifted(line)).count(), 1, "{feature}: {text}");
    }
    assert!(text.contains("3 features have drifted"), "{text}");
    let actions = text.lines().filter_map(|line| line.split_whitespace().next());
    let history: Vec<&str> = actions.filter(|word| ["discover", "traffic", "rollback"].contains(word)).collect();
    assert_eq!(history, ["rollback", "traffic", "discover"], "{text}");
    // Only what names the temporary folder may be longer.
    let lines = text.lines().filter(|line| !line.contains(temporary.path().to_str().unwrap()));
    assert!(lines.into_iter().all(|line| line.chars().count() <= 80), "{text}");

    // The README shows a part of it, from another run.
    let readme = std::fs::read_to_string(checkout().join("README.md")).unwrap();
    let (_, excerpt) = readme.split_once("<!-- output: demo -->\n```text\n").unwrap();
    let (excerpt, _) = excerpt.split_once("```").unwrap();
    let printed = without_digits(&text);
    let mut printed = printed.lines();
    for line in without_digits(excerpt).lines().filter(|line| *line != "...") {
        assert!(printed.any(|printed| printed == line), "{line} is not the next line in\n{text}");
    }

    // What is kept can be served again.
    let kept = std::fs::read_dir(temporary.path()).unwrap().map(|entry| entry.unwrap().path()).next().unwrap();
    assert!(text.contains(&format!("leeway serve --models {}/models", kept.display())), "{text}");
    let (status, text) = run(&mut leeway(&["verify", "--models", kept.join("models").to_str().unwrap()]));
    assert_eq!(status, 0, "{text}");
    assert!(kept.join("leeway.db").is_file());
}

#[test]
fn a_demo_that_is_interrupted_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let started = demo(&["--seconds", "600"], temporary.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut started = KillOnDrop(started.unwrap());
    let mut out = BufReader::new(started.0.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("2. Traffic") {
        line.clear();
        assert!(out.read_line(&mut line).unwrap() > 0);
    }
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 1);
    started.signal("INT");
    let _ = out.read_to_string(&mut line);
    assert_eq!(started.0.wait().unwrap().code(), Some(1));
    let mut problem = String::new();
    started.0.stderr.take().unwrap().read_to_string(&mut problem).unwrap();
    assert!(problem.contains("stopped by a signal"), "{problem}");
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
}
