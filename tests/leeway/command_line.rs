//! The commands that ask a running server: addresses, tables in a terminal, exit codes, completions and manual pages.

use crate::harness::{Repository, Server, TENSOR_STAGES, held_out, leeway, run};

fn server(repository: &Repository) -> Server {
    Server::start(repository.path(), &[("LEEWAY_REPOSITORY__POLL_INTERVAL_MS", "0")])
}

/// Runs a command for this server, in a terminal of 80 columns.
fn say(server: &Server, arguments: &[&str]) -> (i32, String) {
    run(leeway(arguments).env("LEEWAY_SERVER", server.admin.to_string()).env("COLUMNS", "80"))
}

/// Replaces what differs from run to run, without changing the width of the text.
fn steady(text: &str, server: &Server) -> String {
    let address = server.admin.to_string();
    let text = text.replace(&address, &"A".repeat(address.len()));
    let text: Vec<String> = text
        .lines()
        .map(|line| match line.split_once(" by ") {
            Some((before, _)) if line.contains("generation") => format!("{before} by …"),
            _ => match line.split_once("sha256 ") {
                Some((before, rest)) => {
                    let kept =
                        rest.split(", ").filter(|part| part.starts_with("batching")).collect::<Vec<_>>().join(", ");
                    format!("{before}sha256 …, {kept}")
                }
                None => line.to_owned(),
            },
        })
        .collect();
    text.join("\n")
}

#[test]
fn the_tables_fit_a_terminal_of_80_columns() {
    let repository = Repository::new().with_shipped("digits", &[1, 2]).with_shipped("penguins", &[2]);
    let server = server(&repository);
    let table = |arguments: &[&str]| {
        let (code, said) = say(&server, arguments);
        assert_eq!(code, 0, "{said}");
        let is_table = |line: &&str| !line.contains(": ") || line.contains("─");
        let wide: Vec<&str> = said.lines().filter(is_table).filter(|line| line.chars().count() > 80).collect();
        assert!(wide.is_empty(), "{arguments:?}: {wide:?}\n{said}");
        assert!(!said.contains('\u{1b}'), "{said}");
        said
    };
    insta::assert_snapshot!("status", steady(&table(&["status"]), &server));
    insta::assert_snapshot!("top", steady(&table(&["top", "--once", "--interval", "1"]), &server));
    insta::assert_snapshot!("outcomes", table(&["outcomes", "digits", "--version", "2"]));
    table(&["drift", "digits", "--window", "1h"]);
    table(&["drift", "digits", "--feature", "pixels[20]"]);
    table(&["history", "digits"]);
}

#[test]
fn the_numbers_of_a_server_are_shown() {
    let repository = Repository::new().with_shipped("digits", &[2]);
    let server = server(&repository);
    let rows = repository.path().join("rows.jsonl");
    let instances = held_out("digits")["instances"].as_array().unwrap()[..50].to_vec();
    std::fs::write(&rows, instances.iter().map(|instance| format!("{instance}\n")).collect::<String>()).unwrap();
    let url = server.url("");
    let (code, said) = run(&mut leeway(&["predict", "digits", rows.to_str().unwrap(), "--server", &url]));
    assert!(code == 0 && said.contains("50 rows in"), "{said}");
    // The cells of the first row behind its first cells, which say which it is.
    let row = |arguments: &[&str], first: &[&str]| {
        let (code, said) = say(&server, arguments);
        assert_eq!(code, 0, "{said}");
        let lines: Vec<Vec<&str>> = said.lines().map(|line| line.split_whitespace().collect()).collect();
        let found = lines.iter().find_map(|cells| cells.strip_prefix(first));
        found.unwrap_or_else(|| panic!("{first:?}: {said}")).iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>()
    };
    let is_time = |cell: &str| cell.trim_end_matches('!').parse::<f64>().is_ok_and(|time| time > 0.0);
    let status = row(&["status"], &["2", "100%", "loaded"]);
    assert_eq!(status[..3], ["1", "0", "0"], "requests, errors and shed");
    assert!(is_time(&status[3]) && status[4..] == ["too", "few", "-"], "{status:?}");
    assert_eq!(
        row(&["top", "--once", "--interval", "1"], &["digits", "budget"]),
        ["15", "20", "100", "100", "20", "200"]
    );
    let traffic = row(&["top", "--once", "--interval", "1"], &["digits", "2", "100%"]);
    assert!(traffic[..4] == ["0.0", "0.0", "0.0", "0"] && is_time(&traffic[4]), "{traffic:?}");
    assert_eq!(row(&["outcomes", "digits"], &["2"])[..2], ["50", "0"]);
}

#[test]
fn the_check_of_a_server_has_exit_codes() {
    let repository = Repository::new().with("plus", 1, "plus_1", TENSOR_STAGES);
    let server = server(&repository);
    assert_eq!(say(&server, &["status", "--check"]), (0, "ok: 1 model, 1 version\n".to_owned()));
    let folder = repository.version("plus", 2);
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("model.onnx"), "nothing").unwrap();
    let (code, said) = say(&server, &["reload"]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = say(&server, &["status", "--check"]);
    assert!(code == 1 && said.starts_with("problem: plus version 2: refused: "), "{code} {said}");
    assert_eq!(say(&server, &["status", "plus", "--check"]).0, 1);
    let (code, said) = say(&server, &["status", "minus", "--check"]);
    assert!(code == 1 && said.contains("there is no model minus"), "{said}");
    let (code, said) = run(&mut leeway(&["status", "--check", "--server", "127.0.0.1:1"]));
    assert!(code == 2 && said.contains("no server answers at 127.0.0.1:1"), "{code} {said}");
    let (code, said) = run(&mut leeway(&["status", "--check", "--server", "nonsense"]));
    assert!(code == 2 && said.contains("which has no port"), "{code} {said}");
}

#[test]
fn a_command_asks_one_of_several_servers_and_changes_all() {
    let repository = Repository::new().with("plus", 1, "plus_1", TENSOR_STAGES);
    repository.add("plus", 2, "plus_1");
    let (first, second) = (server(&repository), server(&repository));
    let several = format!("http://{},{}", first.admin, second.admin);
    let with_nobody = format!("127.0.0.1:1,{}", first.admin);
    let say = |arguments: &[&str]| run(&mut leeway(arguments));
    let (code, said) = say(&["history", "plus", "--server", &with_nobody]);
    assert!(code == 0 && said.contains("generation"), "{said}");
    let (code, said) = say(&["status", "--server", &several]);
    assert_eq!((code, said.matches("plus: generation 1").count()), (0, 2), "{said}");
    for server in [&first, &second] {
        assert!(said.contains(&format!("server {}\n", server.admin)), "{said}");
    }
    let (code, said) = say(&["status", "--server", &with_nobody]);
    assert!(code == 1 && said.contains("error: no server answers") && said.contains("plus: generation 1"), "{said}");
    let (code, said) = say(&["status", "--check", "--server", &several]);
    assert_eq!((code, said.matches(": ok: 1 model, 2 versions").count()), (0, 2), "{said}");
    let (code, said) = say(&["status", "--check", "--server", &with_nobody]);
    assert!(code == 2 && said.contains("127.0.0.1:1: problem: no server") && said.contains(": ok: "), "{said}");
    let (code, said) = say(&["promote", "plus", "1", "--server", &several]);
    let made = "plus: 2=100 -> 1=100, stable version 1, generation 2";
    for server in [&first, &second] {
        assert!(code == 0 && said.contains(&format!("{}: {made}\n", server.admin)), "{said}");
    }
    let (code, said) = say(&["rollback", "plus", "--server", &with_nobody]);
    assert!(code == 1 && said.contains("127.0.0.1:1: error: no server answers at 127.0.0.1:1"), "{said}");
    assert!(said.contains("1=100 -> 2=100") && said.contains("1 of 2 servers failed: 127.0.0.1:1"), "{said}");
}

#[test]
fn a_token_comes_from_a_file() {
    let repository = Repository::new().with("plus", 1, "plus_1", TENSOR_STAGES);
    let server = Server::start(repository.path(), &[("LEEWAY_ADMIN__TOKEN", "a-secret-of-operators")]);
    let file = repository.path().join("token");
    std::fs::write(&file, "a-secret-of-operators\n").unwrap();
    let url = format!("http://{}", server.admin);
    let (code, said) = run(&mut leeway(&["status", "--server", &url]));
    assert!(code == 1 && said.contains("token"), "{said}");
    let (code, said) = run(&mut leeway(&["status", "--server", &url, "--token-file", file.to_str().unwrap()]));
    assert!(code == 0 && said.contains("plus: generation 1"), "{said}");
    let (code, said) = run(&mut leeway(&["status", "--server", &url, "--token-file", "nowhere"]));
    assert!(code == 1 && said.contains("nowhere cannot be read"), "{said}");
}

#[test]
fn completions_and_manual_pages_have_all_commands() {
    for (shell, says) in [("bash", "complete -F"), ("zsh", "#compdef leeway"), ("fish", "complete -c leeway")] {
        let (code, said) = run(&mut leeway(&["completions", shell]));
        assert!(code == 0 && said.contains(says) && said.contains("keep-going"), "{shell}: {said}");
    }
    let folder = tempfile::tempdir().unwrap();
    let (code, said) = run(&mut leeway(&["man", folder.path().to_str().unwrap()]));
    assert!(code == 0 && said.contains("leeway.1"), "{said}");
    for page in ["leeway.1", "leeway-predict.1", "leeway-status.1"] {
        let text = std::fs::read_to_string(folder.path().join(page)).unwrap();
        assert!(text.contains(".TH leeway"), "{page}: {text}");
    }
    assert!(!folder.path().join("leeway-trial-load.1").exists());
}

#[test]
fn a_help_shows_only_what_the_command_uses() {
    for (command, has, has_not) in [
        ("status", &["--server", "--token-file", "--check"][..], &["--listen", "--models"][..]),
        ("promote", &["--server", "--offline", "--models"], &["--listen"]),
        ("check", &["--models", "--config", "--listen"], &["--server"]),
        ("verify", &["--models", "--config"], &["--listen", "--server"]),
        ("predict", &["--server", "--models", "--keep-going"], &["--listen", "--token-file"]),
        ("health", &["--server", "--live"], &["--models", "--listen"]),
    ] {
        let (code, help) = run(&mut leeway(&[command, "--help"]));
        assert_eq!(code, 0);
        for option in has {
            assert!(help.contains(option), "{command} has no {option}: {help}");
        }
        for option in has_not {
            assert!(!help.contains(&format!("{option} ")), "{command} has {option}: {help}");
        }
    }
}
