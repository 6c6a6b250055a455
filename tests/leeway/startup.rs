//! Failures at the start of a server: one clear message, an exit code, and no port bound.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use leeway::config::Config;
use leeway::repository::Manifest;

use crate::harness::{KillOnDrop, PLAIN, Repository, Server, TENSOR_STAGES, checkout, leeway};

/// Returns the exit code and the text on standard error, without the test's folders.
fn failure(command: &mut Command, repository: &Path) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    // The log is JSON here. One of its lines gives the reason why the server ends.
    let shown = |line: &str| match serde_json::from_str::<serde_json::Value>(line) {
        Ok(line) if line["fatal"] == true => format!("error: {}\n", line["message"].as_str().unwrap()),
        Ok(_) => String::new(),
        Err(_) => format!("{line}\n"),
    };
    let text: String = text.lines().map(shown).collect();
    let text = text.replace(repository.to_str().unwrap(), "MODELS").replace(checkout().to_str().unwrap(), "CHECKOUT");
    format!("exit {}\n{}", status.code().unwrap(), text.trim_end())
}

/// A server that starts only if everything that is deployed can be served.
fn serve(repository: &Path) -> Command {
    let mut command = leeway(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--models",
        repository.to_str().unwrap(),
    ]);
    command.env("LEEWAY_REPOSITORY__START", "strict");
    command
}

fn model_file(repository: &Repository) -> PathBuf {
    repository.0.path().join("echo_float32/1/model.onnx")
}

#[test]
fn a_model_that_cannot_be_served_is_named() {
    let mut seen = String::new();
    let mut check = |name: &str, break_it: &dyn Fn(&Repository)| {
        let repository = Repository::of("echo_float32");
        break_it(&repository);
        writeln!(seen, "{name}: {}\n", failure(&mut serve(repository.0.path()), repository.0.path())).unwrap();
    };
    let toml = |text: &'static str| {
        move |repository: &Repository| {
            std::fs::write(repository.0.path().join("echo_float32/model.toml"), text).unwrap()
        }
    };
    check("model.onnx is missing", &|repository| std::fs::remove_file(model_file(repository)).unwrap());
    check("model.onnx is another one", &|repository| std::fs::write(model_file(repository), "").unwrap());
    // Sealed again, so that the digest does not reveal the change.
    let added = |model: Vec<u8>| {
        move |repository: &Repository| {
            std::fs::write(model_file(repository), &model).unwrap();
            Manifest::write_for(model_file(repository).parent().unwrap()).unwrap();
        }
    };
    let whole = std::fs::read(checkout().join("models/digits/2/model.onnx")).unwrap();
    check("model.onnx is empty", &added(Vec::new()));
    check("model.onnx is garbage", &added(vec![0xC3; 4096]));
    check("model.onnx is truncated", &added(whole[..whole.len() / 2].to_vec()));
    check("version.toml is missing", &|repository| {
        std::fs::remove_file(repository.0.path().join("echo_float32/1/version.toml")).unwrap();
    });
    check("version.toml is not TOML", &|repository| {
        std::fs::write(repository.0.path().join("echo_float32/1/version.toml"), "[files\n").unwrap();
    });
    check("model.toml is missing", &|repository| {
        std::fs::remove_file(repository.0.path().join("echo_float32/model.toml")).unwrap();
    });
    check("model.toml is not TOML", &toml("preprocess = [\n"));
    check("model.toml without a stage", &toml("[preprocess]\nkind = \"tensor\"\n"));
    check(
        "model.toml with an unknown kind",
        &toml("[preprocess]\nkind = \"tenser\"\n[postprocess]\nkind = \"tensor\"\n"),
    );
    check(
        "model.toml with an unknown key",
        &toml("[preprocess]\nkind = \"tensor\"\nscale = 16\n[postprocess]\nkind = \"tensor\"\n"),
    );
    check(
        "model.toml with an unknown session key",
        &toml("[preprocess]\nkind = \"tensor\"\n[model]\nthreads = 2\n[postprocess]\nkind = \"tensor\"\n"),
    );
    check(
        "model.toml with zero workers",
        &toml("[preprocess]\nkind = \"tensor\"\n[model]\nworkers = 0\n[postprocess]\nkind = \"tensor\"\n"),
    );
    let budget = |keys: &'static str| {
        move |repository: &Repository| {
            let text = format!("{TENSOR_STAGES}[budget]\n{keys}\n");
            std::fs::write(repository.0.path().join("echo_float32/model.toml"), text).unwrap();
        }
    };
    check("a budget whose parts do not fit", &budget("total_ms = 100\ninference_ms = 90"));
    check("a budget of nothing", &budget("total_ms = 0"));
    check("a budget below nothing", &budget("network_ms = -5"));
    check("a budget as text", &budget("total_ms = \"200ms\""));
    check("a budget with an unknown part", &budget("queue_ms = 50"));
    check("a budget that enforces something else", &budget("enforce = \"parts\""));
    check("a budget that ends every request", &budget("preprocess_ms = 0\nenforce = \"stages\""));
    check(
        "model.toml with an unknown provider",
        &toml("[preprocess]\nkind = \"tensor\"\n[model]\nproviders = [\"gpu\"]\n[postprocess]\nkind = \"tensor\"\n"),
    );
    check(
        "a classifier of something else",
        &toml(
            "[preprocess]\nkind = \"tensor\"\n[postprocess]\nkind = \"classifier\"\nscores = \"probabilities\"\nlabels = [\"a\", \"b\", \"c\"]\n",
        ),
    );
    check("a version that is not a number", &|repository| {
        std::fs::create_dir(repository.0.path().join("echo_float32/v2")).unwrap();
    });
    check("an empty repository", &|repository| {
        std::fs::remove_dir_all(repository.0.path().join("echo_float32")).unwrap();
    });
    check("no repository", &|repository| std::fs::remove_dir_all(repository.0.path()).unwrap());
    check(
        "cuda without a GPU, refused",
        &toml("[preprocess]\nkind = \"tensor\"\n[model]\nproviders = [\"cuda\"]\n[postprocess]\nkind = \"tensor\"\n"),
    );
    insta::assert_snapshot!(seen);
}

#[test]
fn an_output_without_a_row_per_instance_is_refused() {
    let repository = Repository::of("not_per_row");
    let text = failure(&mut serve(repository.0.path()), repository.0.path());
    assert!(text.starts_with("exit 1"), "{text}");
    assert!(text.contains("\"y\" does not have one row per instance"), "{text}");
}

/// The library at start is for CPUs: with `warn`, the CPU is used, and all reports say so.
#[tokio::test(flavor = "multi_thread")]
async fn cuda_without_a_gpu_can_be_a_warning() {
    let model_toml = format!("{PLAIN}providers = [\"cuda\", \"cpu\"]\nprovider_fallback = \"warn\"\n");
    let repository = Repository::new().with("echo", 1, "echo_float32", &model_toml);
    let server = Server::start(repository.0.path(), &[]);
    let client = crate::harness::client();
    let model: serde_json::Value =
        client.get(server.url("/v1/models/echo")).send().await.unwrap().json().await.unwrap();
    assert_eq!(model["versions"][0]["provider"], "cpu");
    let metrics = client.get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("provider=\"cpu\"} 1"), "{metrics}");

    let output = leeway(&["check", "--models", repository.0.path().to_str().unwrap()]).output().unwrap();
    let (table, log) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success() && table.contains(" cpu "), "{table}{log}");
    assert!(log.contains("WARN") && log.contains("cuda"), "{log}");
}

/// The model is served all the same: the budget may be right and the machine wrong.
#[test]
fn a_model_that_is_too_slow_for_its_budget_is_named() {
    let model_toml = format!("{TENSOR_STAGES}[budget]\ntotal_ms = 2\n");
    let repository = Repository::new().with("dense", 1, "dense", &model_toml);
    let output = leeway(&["check", "--models", repository.0.path().to_str().unwrap()]).output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{log}");
    assert!(
        log.contains("a run of one row takes ") && log.contains("the budget leaves 1 ms for the queue and the run"),
        "{log}"
    );
    assert!(log.contains("; write in model.toml: [budget] total_ms = "), "{log}");
}

#[test]
fn a_missing_library_is_one_message_that_says_how_to_mend_it() {
    let repository = Repository::of("echo_float32");
    let mut command = serve(repository.0.path());
    let text = failure(command.env("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so"), repository.0.path());
    insta::assert_snapshot!(text);
}

/// A library that reports version 1.16.0, made with the C compiler, because only the reported version matters.
#[test]
fn a_library_that_is_too_old_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (source, library) = (folder.path().join("old.c"), folder.path().join("libonnxruntime.so"));
    std::fs::write(
        &source,
        "static const void *api(unsigned v) { return 0; }\n\
         static const char *version(void) { return \"1.16.0\"; }\n\
         static const struct { const void *(*a)(unsigned); const char *(*v)(void); } base = { api, version };\n\
         const void *OrtGetApiBase(void) { return &base; }\n",
    )
    .unwrap();
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap();
    assert!(compiled.success());
    let repository = Repository::of("echo_float32");
    let mut command = serve(repository.0.path());
    let text = failure(command.env("ORT_DYLIB_PATH", &library), repository.0.path());
    assert!(text.starts_with("exit 1"), "{text}");
    assert!(text.contains("1.16.0") && text.contains("make onnxruntime"), "{text}");
}

#[test]
fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let repository = Repository::of("echo_float32");
    for (key, variable) in [("http.listen", "LEEWAY_HTTP__LISTEN"), ("admin.listen", "LEEWAY_ADMIN__LISTEN")] {
        let mut command = leeway(&["serve", "--models", repository.0.path().to_str().unwrap()]);
        command.env("LEEWAY_HTTP__LISTEN", "127.0.0.1:0").env("LEEWAY_ADMIN__LISTEN", "127.0.0.1:0");
        let text = failure(command.env(variable, &address), repository.0.path());
        assert!(text.starts_with("exit 1"), "{text}");
        assert!(text.contains(&format!("{key}: cannot listen on {address}")), "{text}");
        assert!(text.contains("another process uses this port"), "{text}");
    }
}

/// A load would stop at a fail point here, and never end.
#[cfg(feature = "failpoints")]
#[test]
fn a_port_in_use_is_told_before_models_are_loaded() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let repository = Repository::of("echo_float32");
    let mut command = leeway(&["serve", "--listen", "127.0.0.1:0", "--models", repository.0.path().to_str().unwrap()]);
    command.env("FAILPOINTS", "load::begun=pause").args(["--admin-listen", &taken.local_addr().unwrap().to_string()]);
    let text = failure(&mut command, repository.0.path());
    assert!(text.starts_with("exit 1") && text.contains("admin.listen: cannot listen on"), "{text}");
}

/// Log collectors read only the log.
#[test]
fn what_ends_the_start_is_a_line_of_the_log() {
    let repository = Repository::of("echo_float32");
    for (variable, value, code, said) in [
        ("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so", 1, "/nowhere/libonnxruntime.so"),
        ("LEEWAY_HTTP__THREADS", "0", 2, "LEEWAY_HTTP__THREADS"),
        ("LEEWAY_REPOSITORY__DEFAULT_MODEL", "nobody", 2, "nobody"),
    ] {
        let output = serve(repository.0.path()).env(variable, value).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{text}");
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let last = lines.last().unwrap();
        assert_eq!((&last["level"], &last["fatal"]), (&"ERROR".into(), &true.into()), "{text}");
        assert!(last["message"].as_str().unwrap().contains(said), "{text}");
        // The log for people is text.
        let output =
            serve(repository.0.path()).env("LEEWAY_LOG__FORMAT", "human").env(variable, value).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        if variable != "LEEWAY_HTTP__THREADS" {
            assert!(text.lines().any(|line| line.starts_with("error: ")), "{text}");
        }
    }
}

/// An incident starts with the question which program runs, and with which settings.
#[test]
fn the_first_line_of_the_log_says_which_programs_run_and_with_which_files() {
    let repository = Repository::of("echo_float32").with_shipped("digits", &[2]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("leeway.toml");
    std::fs::write(&file, "[log]\nformat = \"json\"\n").unwrap();
    let state = format!("sqlite:{}", folder.path().join("leeway.db").display());
    let first_line = |with_file: bool| {
        let mut command = serve(repository.0.path());
        if with_file {
            command.arg("--config").arg(&file).env("LEEWAY_STATE__URL", &state);
        }
        let mut server = KillOnDrop(command.stderr(Stdio::piped()).spawn().unwrap());
        let log = BufReader::new(server.0.stderr.take().unwrap()).lines();
        let mut lines = log.map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap());
        let first = lines.next().unwrap();
        let said = |line: serde_json::Value| line["message"].as_str().unwrap().to_owned();
        let ready = lines.map(said).find(|said| said.starts_with("ready: POST http://127.0.0.1:")).unwrap();
        // Of several models, none is the default.
        assert!(ready.ends_with("/v1/models/digits:predict"), "{ready}");
        first
    };
    let line = first_line(true);
    let text = |key: &str| line[key].as_str().unwrap_or_else(|| panic!("{key}: {line}"));
    assert_eq!((text("message"), text("version")), ("starting", env!("CARGO_PKG_VERSION")));
    assert!(text("onnxruntime").starts_with("1.") && Path::new(text("library")).is_absolute(), "{line}");
    assert_eq!(Path::new(text("configuration")), file);
    assert_eq!((Path::new(text("models")), text("state")), (repository.0.path(), &*state));
    let line = first_line(false);
    assert_eq!(line["configuration"], "none: defaults, environment and flags", "{line}");
}

#[test]
fn addresses_have_names_and_variables_that_are_empty_are_not_set() {
    let load = |overrides: &leeway::config::Overrides| Config::load(None, overrides).unwrap();
    let named = leeway::config::ListenAddresses::parse("localhost:1").unwrap();
    let unknown = leeway::config::ListenAddresses::parse("no.such.host.invalid:80").unwrap_err();
    assert!(unknown.contains("no.such.host.invalid") && unknown.contains("as in 127.0.0.1:8080"), "{unknown}");
    let config = load(&leeway::config::Overrides { listen: Some(named), ..Default::default() });
    assert!(config.http.listen.iter().all(leeway::config::ListenAddress::is_local));
    let repository = Repository::of("echo_float32");
    let mut command = leeway(&["serve", "--models", repository.0.path().to_str().unwrap()]);
    command.env("LEEWAY_HTTP__THREADS", "").env("LEEWAY_LOG__LEVEL", "").env("LEEWAY_HTTP_LISTEN", "");
    command.env("LEEWAY_ADMIN__TOKEN", "").env("ORT_DYLIB_PATH", "");
    let mut server = Server::spawn(&mut command);
    assert!(server.data.ip().is_loopback());
    server.signal("INT");
    assert!(server.wait().0.success());
    for (address, is_everywhere) in [("localhost:0", false), (":0", true)] {
        let mut command = leeway(&["serve", "--models", repository.0.path().to_str().unwrap(), "--listen", address]);
        server = Server::spawn(&mut command);
        assert_eq!(server.data.ip().is_unspecified(), is_everywhere, "{address}");
        server.signal("INT");
        assert!(server.wait().0.success());
    }
}

#[test]
fn a_wrong_setting_names_its_source_its_key_and_what_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("leeway.toml");
    let mut seen = String::new();
    let mut check = |name: &str, text: &str, environment: &[(&str, &str)], flags: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let mut command = leeway(&["check", "--config", file.to_str().unwrap()]);
        command.args(flags).envs(environment.iter().copied());
        writeln!(seen, "{name}: {}\n", failure(&mut command, folder.path())).unwrap();
    };
    check("unknown key", "[http]\nlisten_on = \"127.0.0.1:80\"\n", &[], &[]);
    check("unknown section", "[https]\nlisten = \"127.0.0.1:80\"\n", &[], &[]);
    check("wrong type", "[http]\nwrite_timeout_ms = \"30s\"\n", &[], &[]);
    check("not an address", "[http]\nlisten = \"localhost\"\n", &[], &[]);
    check("too little memory", "[http]\nbody_memory_bytes = 1000000\n", &[], &[]);
    check("zero", "[http]\nconnection_limit = 0\n", &[], &[]);
    check("negative", "[http]\nbody_limit_bytes = -1\n", &[], &[]);
    check("threads", "[http]\nthreads = \"many\"\n", &[], &[]);
    check("no threads", "[http]\nthreads = 0\n", &[], &[]);
    check("unknown level", "[log]\nlevel = \"loud\"\n", &[], &[]);
    check("bad model name", "[repository]\ndefault_model = \"../digits\"\n", &[], &[]);
    check("one port twice", "[http]\nlisten = \"127.0.0.1:8081\"\n", &[], &[]);
    check("not TOML", "[http\n", &[], &[]);
    check("unknown variable", "", &[("LEEWAY_HTTP__LISTEN_ON", "x")], &[]);
    check("unknown top variable", "", &[("LEEWAY_HTPP__LISTEN", "x")], &[]);
    check("variable of a wrong type", "", &[("LEEWAY_HTTP__LISTEN", "8080")], &[]);
    check("one underscore", "", &[("LEEWAY_HTTP_LISTEN", "127.0.0.1:80")], &[]);
    check("too many connections", "[http]\nconnection_limit = 4611686018427387904\n", &[], &[]);
    check("admin for everyone", "[admin]\nlisten = \"0.0.0.0:8081\"\n", &[], &[]);
    check("a token that is easy to guess", "[admin]\ntoken = \"secret\"\n", &[], &[]);
    check("state elsewhere", "[state]\nurl = \"postgres://db/leeway\"\n", &[], &[]);
    check("flag of a wrong type", "", &[], &["--listen", "8080"]);
    insta::assert_snapshot!(seen);

    let text = failure(&mut leeway(&["check", "--config", "nowhere.toml"]), folder.path());
    assert!(text.starts_with("exit 2") && text.contains("nowhere.toml"), "{text}");
}

/// A path below a regular file, which no user can write.
#[test]
fn a_state_that_cannot_be_opened_is_a_failure_and_not_a_wrong_setting() {
    let repository = Repository::of("echo_float32");
    let url = format!("sqlite:{}/model.onnx/state/leeway.db", repository.0.path().join("echo_float32/1").display());
    let check = leeway(&["check", "--models", repository.0.path().to_str().unwrap()]);
    for mut command in [serve(repository.0.path()), check] {
        let text = failure(command.env("LEEWAY_STATE__URL", &url), repository.0.path());
        assert!(text.starts_with("exit 1"), "{text}");
        let journal = "state.url: the deployment journal MODELS/echo_float32/1/model.onnx/state/leeway.db";
        assert!(text.contains(journal), "{text}");
        assert!(text.contains("MODELS/echo_float32/1/model.onnx is not a folder"), "{text}");
        assert!(text.contains("make the folder writable"), "{text}");
    }
}

/// As with `Type=notify` in deploy/systemd/leeway@.service.
#[test]
fn systemd_is_told_when_the_server_is_ready_and_when_it_stops() {
    let folder = tempfile::tempdir().unwrap();
    let socket = std::os::unix::net::UnixDatagram::bind(folder.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(crate::harness::PATIENCE)).unwrap();
    let told = || {
        let mut message = [0; 256];
        let length = socket.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).trim_end().to_owned()
    };
    let repository = Repository::of("echo_float32");
    let mut command = serve(repository.0.path());
    let server = Server::spawn(command.env("NOTIFY_SOCKET", folder.path().join("notify")));
    assert_eq!(told(), "READY=1");
    server.signal("INT");
    assert_eq!(told(), "STOPPING=1");
    assert!(server.wait().0.success());
}

/// The first process of a container is not ended by signals without handlers.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_signal_while_models_load_ends_the_server_at_once() {
    use std::io::{BufRead, BufReader};
    let repository = Repository::of("echo_float32");
    for signal in ["TERM", "INT"] {
        let mut command = serve(repository.0.path());
        command.env("FAILPOINTS", "load::begun=pause").stderr(std::process::Stdio::piped());
        let mut server = KillOnDrop(command.spawn().unwrap());
        let mut log = BufReader::new(server.0.stderr.take().unwrap()).lines().map(Result::unwrap);
        assert!(log.any(|line| line.contains("\"starting\"")), "the server ended");
        server.signal(signal);
        let ended = crate::harness::until(async || server.0.try_wait().unwrap()).await;
        assert!(ended.success(), "{signal}: {ended}");
        assert!(log.any(|line| line.contains("stopped while loading")), "{signal}");
    }
}

/// Kubernetes sets these variables for a Service called leeway.
#[test]
fn variables_of_others_with_our_prefix_are_passed_over() {
    let repository = Repository::of("echo_float32");
    let mut command = leeway(&["check", "--models", repository.0.path().to_str().unwrap()]);
    command.env("LEEWAY_PORT", "tcp://10.0.0.1:80").env("LEEWAY_SERVICE_HOST", "10.0.0.1");
    assert!(command.output().unwrap().status.success());
}

#[test]
fn later_sources_win() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("leeway.toml");
    std::fs::write(&file, "[http]\nlisten = \"127.0.0.1:1\"\n[admin]\nlisten = \"127.0.0.1:2\"\n").unwrap();
    let overrides = leeway::config::Overrides { admin_listen: Some(([127, 0, 0, 1], 3).into()), ..Default::default() };
    let config = Config::load(Some(&file), &overrides).unwrap();
    assert_eq!(
        (config.http.listen.to_string(), config.admin.listen.to_string()),
        ("127.0.0.1:1".into(), "127.0.0.1:3".into())
    );
}

#[test]
fn help_and_version_say_what_they_should() {
    let run = |arguments: &[&str]| {
        let output = leeway(arguments).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, version) = run(&["--version"]);
    assert_eq!(code, 0);
    assert!(version.starts_with(&format!("leeway {}\nONNX Runtime 1.", env!("CARGO_PKG_VERSION"))), "{version}");
    for arguments in [&["--help"][..], &["serve", "--help"], &["check", "--help"]] {
        let (code, help) = run(arguments);
        assert_eq!(code, 0);
        assert!(help.contains("Usage: leeway"), "{help}");
    }
    assert_eq!(run(&["sreve"]).0, 2);
}

#[cfg(target_os = "linux")]
#[test]
fn telemetry_of_onnxruntime_is_off_unless_somebody_turns_it_on() {
    let repository = Repository::of("echo_float32");
    for (set, expected) in [(None, "1"), (Some("0"), "0")] {
        let mut command = leeway(&["serve", "--models", repository.0.path().to_str().unwrap()]);
        command.env_remove("ORT_DISABLE_TELEMETRY").envs(set.map(|value| ("ORT_DISABLE_TELEMETRY", value)));
        let server = Server::spawn(&mut command);
        let of_process = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", server.process())).unwrap();
        let variable = format!("ORT_DISABLE_TELEMETRY={expected}");
        assert!(of_process("environ").split('\0').any(|set| set == variable), "{set:?}");
        assert_eq!(of_process("comm"), "leeway\n");
    }
}
