//! The boundaries between modules: words that may occur only in a few places, as a table, and the order of the layers.
//! A module here is a top-level module of the crate.

use crate::sources::{ROOT, Source, sources};

/// A rule that none of these words occurs in a top-level module (or, if `module` is empty, in any) except in the places
/// of `allowed_in` (files or folders below `src/`).
struct Boundary {
    module: &'static str,
    words: &'static [&'static str],
    allowed_in: &'static [&'static str],
    because: &'static str,
}

const BOUNDARIES: &[Boundary] = &[
    Boundary {
        module: "",
        words: &["ort::", "use ort"],
        allowed_in: &["model/onnx.rs", "model/onnx/values.rs"],
        because: "one file knows ONNX Runtime, so that the rest can be tested without it and outlive its API",
    },
    Boundary {
        module: "",
        words: &["axum::", "hyper::", "hyper_util::", "tower::", "tower_http::", "StatusCode", "http_body_util::"],
        allowed_in: &["http/"],
        because: "only one module knows HTTP; predictions do not depend on it",
    },
    Boundary {
        module: "",
        words: &["tonic::", "tonic_reflection::"],
        allowed_in: &["grpc/"],
        because: "only one module knows gRPC's own types",
    },
    Boundary {
        module: "",
        words: &["prometheus::"],
        allowed_in: &["monitor/text.rs"],
        because: "one file knows the text format",
    },
    Boundary {
        module: "",
        words: &["env::var", "env::vars", "env::current_exe", "env::current_dir", "figment::"],
        allowed_in: &["config/"],
        because: "only one module reads settings",
    },
    Boundary {
        module: "",
        words: &["clap::", "anyhow::", "tracing_subscriber::"],
        allowed_in: &["cli/"],
        because: "only the command line parses arguments, reports errors as text and starts the log",
    },
    Boundary {
        module: "",
        words: &["Instant::now", "SystemTime::now"],
        allowed_in: &[
            "budget/clock.rs",
            "cli/demo/",
            "cli/panics.rs",
            "cli/predict/",
            "cli/top.rs",
            "deploy/deployer/",
            "http/access_log.rs",
            "http/compression.rs",
            "http/connections.rs",
            "http/exposition.rs",
            "http/grpc/messages.rs",
            "http/grpc/streams.rs",
            "http/listener.rs",
            "http/poll_again.rs",
            "http/request_layer.rs",
            "http/spinning.rs",
            "monitor/mod.rs",
            "prediction_log/writer.rs",
            "model/load_estimate.rs",
            "model/inline.rs",
            "model/isolated/",
            "model/mod.rs",
            "model/queue.rs",
            "model/queue/idle_runs.rs",
            "model/queue/inline_runs.rs",
            "model/queue/state.rs",
            "model/warm_up.rs",
            "model/runner.rs",
            "repository/load_cache.rs",
            "telemetry/export.rs",
            "repository/private_folder.rs",
            "repository/remote/download.rs",
            "registry/examine.rs",
            "registry/example.rs",
            "registry/loader.rs",
            "registry/sized_version.rs",
            "registry/trial.rs",
        ],
        because: "decisions are pure functions; the time is passed to them",
    },
    Boundary {
        module: "",
        words: &[".extensions", "extensions_mut"],
        allowed_in: &["http/context.rs"],
        because: "http::Extensions are not typed, so one file knows their contents",
    },
    Boundary {
        module: "",
        words: &["minisign::", "minisign_verify::"],
        allowed_in: &["authoring/sign.rs", "config/trusted_key.rs", "repository/signature.rs"],
        because: "few files know keys and signatures",
    },
    Boundary { module: "", words: &["sqlx::"], allowed_in: &["state/"], because: "one module owns the database" },
    Boundary {
        module: "",
        words: &["rustix::"],
        allowed_in: &[
            "machine/",
            "model/isolated/wire.rs",
            "model/runtime_libraries.rs",
            "http/sockets.rs",
            "http/stream.rs",
            "repository/regular_file.rs",
            "authoring/staging.rs",
            "model/warm_up.rs",
        ],
        because: "only a few places call the operating system",
    },
    Boundary {
        module: "",
        words: &["Timestamp::now"],
        allowed_in: &[
            "registry/loader.rs",
            "http/tls.rs",
            "repository/write_manifest.rs",
            "deploy/deployer/",
            "http/admin.rs",
            "http/console_data.rs",
            "http/feedback.rs",
            "cli/change.rs",
            "cli/learn.rs",
            "cli/log_window.rs",
            "rollout/controller.rs",
            "rollout/operate.rs",
        ],
        because: "a deployment is computed from the one before; the time is passed to it",
    },
    Boundary {
        module: "",
        words: &["tokio_rustls::"],
        allowed_in: &[
            "http/stream.rs",
            "http/tls.rs",
            "cli/client.rs",
            "repository/remote/connection.rs",
            "telemetry/otlp.rs",
        ],
        because: "one file makes the handshakes; clients choose who makes theirs",
    },
    Boundary {
        module: "",
        words: &["opentelemetry::", "opentelemetry_sdk::", "opentelemetry_otlp::"],
        allowed_in: &["telemetry/"],
        because: "one module knows spans; the others describe what they have done",
    },
    Boundary {
        module: "",
        words: &["object_store::"],
        allowed_in: &["repository/remote/"],
        because: "one folder knows object stores; everything else reads a store of models",
    },
    Boundary {
        module: "",
        words: &["ureq::"],
        allowed_in: &["cli/client.rs", "cli/demo/client.rs", "cli/unix_transport.rs"],
        because: "one file speaks to a running server, and one to the server of the demo",
    },
    Boundary {
        module: "deploy/",
        words: &[
            "std::fs",
            "fs::",
            "Fingerprint::of",
            "Manifest::read",
            "ModelConfig::read",
            "FoundVersion::find",
            "FoundVersion::find_trusted",
            ".list()",
            ".read_config(",
            ".read_manifest(",
            ".materialise(",
            ".verify_files(",
            "_fingerprint(",
            "VerifiedVersion::read",
            "VerifiedVersion::read_trusted",
        ],
        allowed_in: &["deploy/repository_view.rs", "deploy/offline.rs"],
        because: "the disk may be slow; only a sync reads it, and everything else is answered from memory",
    },
    Boundary {
        module: "registry/",
        words: &["std::fs", "LocalFolder", "Manifest::read"],
        allowed_in: &[],
        because: "versions come from a store, which need not be a folder",
    },
    Boundary {
        module: "cli/",
        words: &["Value", "json!"],
        allowed_in: &["cli/answer.rs"],
        because: "commands read answers as the types of `api`",
    },
    Boundary {
        module: "http/",
        words: &["Serialize"],
        allowed_in: &["http/json_answer.rs"],
        because: "answers are declared in `api`; only predictions are written directly, because they are many",
    },
    Boundary {
        module: "http/",
        words: &["route(\""],
        allowed_in: &[],
        because: "the table of endpoints is `api/routes.rs`",
    },
    Boundary {
        module: "",
        words: &["std::process::exit", "process::abort"],
        allowed_in: &[],
        because: "everything is dropped in order",
    },
];

/// The top-level modules, lowest layer first: a module may use those before it.
const LAYERS: &[&str] = &[
    "identity",
    "machine",
    "traffic",
    "stage",
    "error",
    "feature",
    "tensor",
    "budget",
    "config",
    "monitor",
    "telemetry",
    "model",
    "pipeline",
    "repository",
    "registry",
    "authoring",
    "api",
    "deploy",
    "feedback",
    "rollout",
    "state",
    "prediction_log",
    "serve",
    "openapi",
    "grpc",
    "http",
    "app",
    "cli",
    "fuzzing",
];

/// Returns true if `text` contains `word` as a whole word: `ort::` is not in `support::`.
fn stands_in(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(|before| before.is_alphanumeric() || before == '_')
            && (word.ends_with([':', '('])
                || !text[at + word.len()..].chars().next().is_some_and(|after| after.is_alphanumeric() || after == '_'))
    })
}

#[test]
fn no_word_stands_outside_its_module() {
    let mut broken = Vec::new();
    for Source { file, code, .. } in sources() {
        for boundary in BOUNDARIES.iter().filter(|boundary| file.starts_with(boundary.module)) {
            if boundary
                .allowed_in
                .iter()
                .any(|place| file == *place || (place.ends_with('/') && file.starts_with(place)))
            {
                continue;
            }
            for word in boundary.words.iter().filter(|word| stands_in(code, word)) {
                broken.push(format!("src/{file} says `{word}`: {}", boundary.because));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn modules_look_down_only() {
    let module_of = |file: &str| file.split(['/', '.']).next().unwrap().to_owned();
    let layer = |module: &str| LAYERS.iter().position(|known| *known == module);
    let mut broken = Vec::new();
    for Source { file, code, .. } in sources() {
        let module = module_of(file);
        // lib.rs and main.rs declare the top-level modules; they are not themselves in the table.
        let Some(own) = layer(&module) else { continue };
        for (above, other) in LAYERS.iter().enumerate().filter(|(above, _)| *above > own) {
            let looks_up =
                stands_in(code, &format!("crate::{other}::")) || stands_in(code, &format!("crate::{other};"));
            if looks_up {
                broken.push(format!("src/{file} uses the higher module `{other}` (layer {own} uses layer {above})"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// The test above searches for `crate::module`; other spellings of the path would escape it.
#[test]
fn modules_are_named_one_by_one() {
    for Source { file, code, .. } in sources() {
        for spelling in ["crate::{", "super::super"] {
            assert!(!code.contains(spelling), "src/{file} says `{spelling}`; write `crate::module`");
        }
    }
}

#[test]
fn every_file_belongs_to_a_module() {
    for Source { file, .. } in sources() {
        let module = file.split(['/', '.']).next().unwrap();
        assert!(
            LAYERS.contains(&module) || ["lib", "main"].contains(&module),
            "src/{file} is in no module of the table"
        );
    }
}

/// A misspelt place in the table would allow nothing, unnoticed.
#[test]
fn every_place_in_the_table_exists() {
    let files: Vec<&str> = sources().iter().map(|source| &*source.file).collect();
    for place in BOUNDARIES.iter().flat_map(|boundary| boundary.allowed_in) {
        assert!(files.iter().any(|file| file.starts_with(place)), "there is no src/{place}");
    }
}

/// The table of modules in the documentation of the crate has these modules, in this order.
#[test]
fn the_map_of_the_house_is_right() {
    let map = std::fs::read_to_string(format!("{ROOT}/src/lib.rs")).unwrap();
    let modules: Vec<&str> = map
        .lines()
        .filter_map(|line| line.strip_prefix("//! | [`")?.split_once("`] |"))
        .map(|(module, _)| module)
        .collect();
    // `fuzzing` is not part of a server.
    let layers: Vec<&str> = LAYERS.iter().copied().filter(|module| *module != "fuzzing").collect();
    assert_eq!(modules, layers);
}
