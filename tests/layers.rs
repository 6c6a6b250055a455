//! The walls of the house, as a table over its source: which words may stand where.
//!
//! A new arrow between rooms fails here, so that it is a decision and not an accident.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::path::{Path, PathBuf};

/// A wall: none of these words outside these places (files or folders below `src/`).
struct Wall {
    words: &'static [&'static str],
    allowed_in: &'static [&'static str],
    because: &'static str,
}

const WALLS: &[Wall] = &[
    Wall {
        words: &["ort::", "use ort"],
        allowed_in: &["model/onnx.rs"],
        because: "one file knows ONNX Runtime, so that the rest can be tested without it and outlive its API",
    },
    Wall {
        words: &["axum::", "hyper::", "hyper_util::", "tower::", "tower_http::", "StatusCode", "http_body_util::"],
        allowed_in: &["http/"],
        because: "predictions are not about HTTP",
    },
    Wall {
        words: &["prometheus::"],
        allowed_in: &["monitor/metrics/text.rs"],
        because: "one file knows the text format",
    },
    Wall {
        words: &["env::var", "env::vars", "env::current_exe", "env::current_dir", "figment::"],
        allowed_in: &["config/"],
        because: "settings have one door",
    },
    Wall {
        words: &["clap::", "anyhow::", "tracing_subscriber::"],
        allowed_in: &["cli/"],
        because: "a library has neither",
    },
    Wall {
        words: &["Instant::now", "SystemTime::now"],
        allowed_in: &[
            "budget/clock.rs",
            "cli/panics.rs",
            "deploy/deployer/",
            "http/connections.rs",
            "http/exposition.rs",
            "http/listener.rs",
            "http/request_context.rs",
            "monitor/mod.rs",
            "model/attention.rs",
            "model/hint.rs",
            "model/isolated/",
            "model/queue.rs",
            "model/warm_up.rs",
            "model/worker.rs",
            "registry/findings.rs",
            "registry/loader.rs",
            "registry/trial.rs",
        ],
        because: "what decides is pure; time is read by those who drive",
    },
    Wall {
        words: &["sqlx::"],
        allowed_in: &["deploy/journal.rs", "feedback/ledger.rs"],
        because: "one file knows how deployments are kept, and one how feedback is",
    },
    Wall {
        words: &["rustix::"],
        allowed_in: &[
            "machine.rs",
            "model/isolated/wire.rs",
            "http/listener.rs",
            "registry/system.rs",
            "registry/files.rs",
            "registry/add.rs",
            "model/warm_up.rs",
        ],
        because: "what is asked of the operating system is asked in few places",
    },
    Wall {
        words: &["Timestamp::now"],
        allowed_in: &[
            "registry/loader.rs",
            "registry/add.rs",
            "deploy/deployer/",
            "http/admin.rs",
            "http/feedback.rs",
            "cli/deploy.rs",
        ],
        because: "deployments follow from each other; the time is told to them",
    },
    Wall { words: &["ureq::"], allowed_in: &["cli/client.rs"], because: "one file speaks to a running server" },
    Wall {
        words: &["std::process::exit", "process::abort"],
        allowed_in: &[],
        because: "everything is dropped in order",
    },
];

/// The rooms, ground floor first: a room may use those before it.
const FLOORS: &[&str] = &[
    "identity", "machine", "traffic", "stage", "error", "feature", "tensor", "budget", "config", "monitor", "model",
    "pipeline", "registry", "deploy", "feedback", "serve", "http", "app", "cli", "fuzzing",
];

fn sources() -> Vec<(String, String)> {
    fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { collect(&path, into) } else { into.push(path) }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    paths
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
            (name, code(&std::fs::read_to_string(&path).unwrap()))
        })
        .collect()
}

/// The text without comments, and without the unit tests at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Whether `word` stands in `text` as a word of its own: `ort::` is not in `support::`.
fn stands_in(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(|before| before.is_alphanumeric() || before == '_')
            && (word.ends_with(':')
                || !text[at + word.len()..].chars().next().is_some_and(|after| after.is_alphanumeric() || after == '_'))
    })
}

#[test]
fn no_word_stands_outside_its_room() {
    let mut broken = Vec::new();
    for (file, text) in sources() {
        for wall in WALLS {
            if wall.allowed_in.iter().any(|place| file == *place || (place.ends_with('/') && file.starts_with(place))) {
                continue;
            }
            for word in wall.words.iter().filter(|word| stands_in(&text, word)) {
                broken.push(format!("src/{file} says `{word}`: {}", wall.because));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn rooms_look_down_only() {
    let room_of = |file: &str| file.split(['/', '.']).next().unwrap().to_owned();
    let floor = |room: &str| FLOORS.iter().position(|known| *known == room);
    let mut broken = Vec::new();
    for (file, text) in sources() {
        let room = room_of(&file);
        // lib.rs and main.rs name the rooms; they are not rooms.
        let Some(own) = floor(&room) else { continue };
        for (above, other) in FLOORS.iter().enumerate().filter(|(above, _)| *above > own) {
            let looks_up =
                stands_in(&text, &format!("crate::{other}::")) || stands_in(&text, &format!("crate::{other};"));
            if looks_up {
                broken.push(format!("src/{file} looks up to `{other}` (floor {own} to {above})"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// The wall above reads `crate::room`; other spellings of the same would get past it.
#[test]
fn rooms_are_named_one_by_one() {
    for (file, text) in sources() {
        for spelling in ["crate::{", "super::super"] {
            assert!(!text.contains(spelling), "src/{file} says `{spelling}`; name the room in full");
        }
    }
}

#[test]
fn every_file_belongs_to_a_room() {
    for (file, _) in sources() {
        let room = file.split(['/', '.']).next().unwrap();
        assert!(FLOORS.contains(&room) || ["lib", "main"].contains(&room), "src/{file} is in no room of the table");
    }
}

/// A wall that nothing leans on has a misspelt place.
#[test]
fn every_place_in_the_table_exists() {
    let files: Vec<String> = sources().into_iter().map(|(file, _)| file).collect();
    for place in WALLS.iter().flat_map(|wall| wall.allowed_in) {
        assert!(files.iter().any(|file| file.starts_with(place)), "there is no src/{place}");
    }
}
