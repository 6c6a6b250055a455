//! Models in an object store: added, served, promoted and verified over the API of S3; cuts, wrong bytes and a store that is
//! down; and models on a web server.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use leeway::config::RepositoryConfig;
use leeway::repository::{RemoteStore, Store};
use object_store::aws::AmazonS3Builder;
use serde_json::Value;

use crate::documentation::blocks_after;
use crate::harness::{KillOnDrop, Repository, Server, checkout, leeway, run};
use crate::s3_server::{Proxy, S3Server, request};

/// A bucket, a proxy before it, and a folder for the state and the cache.
struct Bucket {
    name: &'static str,
    proxy: Proxy,
    folder: tempfile::TempDir,
    endpoint: String,
    state: String,
}

impl Bucket {
    fn new(name: &'static str) -> Bucket {
        let server = S3Server::get();
        server.create_bucket(name);
        let (proxy, folder) = (Proxy::before(server.address), tempfile::tempdir().unwrap());
        let endpoint = format!("http://{}", proxy.address);
        let state = format!("sqlite:{}", folder.path().join("leeway.db").display());
        Bucket { name, proxy, folder, endpoint, state }
    }

    /// The shipped versions of *digits*, with a long budget, because a test machine may be busy.
    fn with_digits(name: &'static str) -> Bucket {
        let bucket = Bucket::new(name);
        bucket.put("digits/model.toml", patient_digits().as_bytes());
        for version in ["1", "2"] {
            for file in std::fs::read_dir(checkout().join("models/digits").join(version)).unwrap() {
                let path = file.unwrap().path();
                let file = path.file_name().unwrap().to_str().unwrap();
                bucket.put(&format!("digits/{version}/{file}"), &std::fs::read(&path).unwrap());
            }
        }
        bucket
    }

    fn put(&self, path: &str, content: &[u8]) {
        let (status, _) = S3Server::get().request("PUT", &format!("{}/models/{path}", self.name), content);
        assert_eq!(status, 200);
    }

    /// Returns the names of all objects.
    fn objects(&self) -> Vec<String> {
        let (_, list) = S3Server::get().request("GET", &format!("{}?list-type=2", self.name), b"");
        let list = String::from_utf8(list).unwrap();
        list.split("<Key>").skip(1).map(|key| key.split('<').next().unwrap().to_owned()).collect()
    }

    fn url(&self) -> String {
        format!("s3://{}/models", self.name)
    }

    fn settings(&self) -> [(&str, &str); 7] {
        [
            ("AWS_ENDPOINT_URL", &self.endpoint),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-store"),
            ("AWS_REGION", "us-east-1"),
            ("LEEWAY_STATE__URL", &self.state),
            ("LEEWAY_REPOSITORY__POLL_INTERVAL_MS", "0"),
            ("LEEWAY_REPOSITORY__NEWEST_VERSIONS", "2"),
        ]
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = leeway(arguments);
        command.envs(self.settings());
        command
    }

    fn serve(&self) -> Server {
        Server::start(Path::new(&self.url()), &self.settings()).ready()
    }
}

fn patient_digits() -> String {
    let model_toml = std::fs::read_to_string(checkout().join("models/digits/model.toml")).unwrap();
    model_toml.replace("total_ms = 200", "total_ms = 60000")
}

fn shipped(version: u32) -> String {
    checkout().join(format!("models/digits/{version}/model.onnx")).to_str().unwrap().to_owned()
}

/// Returns the version that answers a prediction.
fn answering(server: SocketAddr) -> u64 {
    let instance = vec!["0"; 64].join(",");
    let body = format!("{{\"instances\": [[{instance}]]}}");
    let (status, answer) = request(server, "POST", "predict", ("", body.as_bytes()));
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
    serde_json::from_slice::<Value>(&answer).unwrap()["model"]["version"].as_u64().unwrap()
}

/// Returns what `leeway status` says.
fn status(server: &Server) -> String {
    run(leeway(&["status"]).env("LEEWAY_ADMIN__LISTEN", server.admin.to_string())).1
}

/// Returns the requests that read objects, not lists of them.
fn reads(requests: &[String]) -> Vec<&String> {
    requests.iter().filter(|request| !request.contains("list-type=2")).collect()
}

#[test]
fn a_model_in_a_bucket_is_added_served_promoted_and_served_while_the_store_is_down() {
    let bucket = Bucket::new("lifecycle");
    let model_toml = bucket.folder.path().join("model.toml");
    std::fs::write(&model_toml, patient_digits()).unwrap();
    let model = format!("{}/digits", bucket.url());
    let (code, said) = run(&mut bucket.command(&["add", &model, "--onnx", &shipped(1)]));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("model digits has no model.toml in the repository yet; give it with --model-toml"), "{said}");
    let model_toml = model_toml.to_str().unwrap();
    let add = ["add", &model, "--onnx", &shipped(1), "--model-toml", model_toml];
    let (code, said) = run(&mut bucket.command(&add));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("Added version 1: s3://lifecycle/models/digits/1\n"), "{said}");
    assert!(said.contains("the first version of digits"), "{said}");
    let files = ["models/digits/1/model.onnx", "models/digits/1/version.toml", "models/digits/model.toml"];
    assert_eq!(bucket.objects(), files);

    let server = bucket.serve();
    assert_eq!(answering(server.data), 1);
    // With a location as repository.path, the name of the model is enough.
    let mut add = bucket.command(&["add", "digits", "--onnx", &shipped(2)]);
    let (code, said) = run(add.env("LEEWAY_REPOSITORY__PATH", bucket.url()));
    assert_eq!(code, 0, "{said}");
    server.command(&["reload"]);
    server.command(&["promote", "digits", "2"]);
    assert_eq!(answering(server.data), 2);

    // A poll of what has not changed is one request.
    bucket.proxy.requests();
    server.command(&["reload"]);
    let requests = bucket.proxy.requests();
    assert_eq!((requests.len(), reads(&requests).len()), (1, 0), "{requests:?}");

    bucket.proxy.go_down();
    server.command(&["reload"]);
    assert_eq!(answering(server.data), 2);
    let said = status(&server);
    assert!(said.contains("the repository cannot be reached, and its last listing is used"), "{said}");
    assert!(!said.contains("served from memory"), "{said}");
    drop(server);

    // A strict start is an error, and the log says why.
    let (code, said) = run(&mut bucket.command(&["check", "--models", &bucket.url()]));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("the listing that was remembered on disk is used"), "{said}");
    assert!(said.contains("s3://lifecycle/models: the repository cannot be reached"), "{said}");
    assert!(!said.contains("a-secret-of-the-store"), "{said}");

    // The last listing and the cache are enough for a lenient one.
    let server = bucket.serve();
    assert_eq!(answering(server.data), 2);
    bucket.proxy.come_back();
    bucket.proxy.requests();
    server.command(&["reload"]);
    assert!(!status(&server).contains("cannot be reached"));
    let requests = bucket.proxy.requests();
    assert_eq!(reads(&requests), [""; 0]);
    drop(server);

    // A restart downloads nothing again.
    bucket.serve();
    let requests = bucket.proxy.requests();
    assert!(!requests.is_empty());
    assert_eq!(reads(&requests), [""; 0]);
}

#[test]
fn a_download_that_is_cut_off_is_continued() {
    let bucket = Bucket::with_digits("cut");
    bucket.proxy.cut("digits/2/model.onnx", 9_000);
    let server = bucket.serve();
    assert_eq!(answering(server.data), 2);
    let heads = bucket.proxy.heads();
    let of_model: Vec<_> = heads.iter().filter(|head| head.contains("digits/2/model.onnx")).collect();
    let range = |head: &str| head.lines().find_map(|line| Some(line.strip_prefix("range: bytes=")?.to_owned()));
    assert_eq!(of_model.len(), 2, "{heads:?}");
    assert_eq!(range(of_model[0]), None);
    // Only the bytes that are missing are asked for.
    let from: u64 = range(of_model[1]).unwrap().split('-').next().unwrap().parse().unwrap();
    assert!((1_000..=9_000).contains(&from), "{from}");
}

#[test]
fn wrong_bytes_in_a_bucket_are_never_served() {
    let bucket = Bucket::with_digits("wrong");
    let right = std::fs::read(shipped(2)).unwrap();
    let mut wrong = right.clone();
    wrong[9_000] ^= 1;
    bucket.put("digits/2/model.onnx", &wrong);
    let server = bucket.serve();
    assert_eq!(answering(server.data), 1);
    let said = status(&server);
    let name = "s3://wrong/models/digits/2/model.onnx";
    let problem = format!("{name} is not the file that was added: its SHA-256 is ");
    assert!(said.contains(&problem) && said.contains("put the right file there again"), "{said}");
    let (code, said) = run(&mut bucket.command(&["verify", "--models", &bucket.url()]));
    assert_eq!(code, 1);
    assert!(said.contains(&problem) && said.contains("digits 1: "), "{said}");

    bucket.put("digits/2/model.onnx", &right);
    server.command(&["reload"]);
    assert!(!status(&server).contains(&problem));
    server.command(&["promote", "digits", "2"]);
    // A file that changes below a loaded version is noticed, and the version serves on.
    bucket.put("digits/2/model.onnx", &wrong);
    server.command(&["reload"]);
    assert_eq!(answering(server.data), 2);
    let (code, said) = run(&mut bucket.command(&["verify", "--models", &bucket.url()]));
    assert_eq!(code, 1);
    assert!(said.contains(&problem), "{said}");
}

#[test]
fn two_additions_at_one_time_become_two_versions() {
    let bucket = Bucket::new("adds");
    let model_toml = bucket.folder.path().join("model.toml");
    std::fs::write(&model_toml, patient_digits()).unwrap();
    let model = format!("{}/digits", bucket.url());
    let adding: Vec<_> = [1, 2]
        .map(shipped)
        .iter()
        .map(|onnx| {
            let add = ["add", &model, "--onnx", onnx, "--model-toml", model_toml.to_str().unwrap()];
            let mut command = bucket.command(&add);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in adding {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let (code, said) = run(&mut bucket.command(&["verify", "--models", &bucket.url()]));
    assert_eq!(code, 0, "{said}");
    assert!(said.ends_with("2 versions are as they were added.\n"), "{said}");
    assert_eq!(bucket.objects().len(), 5);
}

/// Requires fail points: `cargo test --features failpoints`, as `make test` does.
#[cfg(feature = "failpoints")]
#[test]
fn an_upload_that_fails_leaves_no_version() {
    let bucket = Bucket::with_digits("failed");
    let before = bucket.objects();
    let model = format!("{}/digits", bucket.url());
    let add = ["add", &model, "--onnx", &shipped(1)];
    let (code, said) = run(bucket.command(&add).env("FAILPOINTS", "publish::uploaded_file=return"));
    assert_eq!(code, 1, "{said}");
    assert_eq!(bucket.objects(), before);
    // Killed in the middle, it leaves objects without a manifest, which are no version and keep their number.
    let mut killed = bucket.command(&add);
    let killed = killed.env("FAILPOINTS", "publish::claimed=panic").output().unwrap();
    assert!(!killed.status.success());
    let (code, said) = run(&mut bucket.command(&["verify", "--models", &bucket.url()]));
    assert_eq!((code, said.lines().last()), (0, Some("2 versions are as they were added.")), "{said}");
    let (code, said) = run(&mut bucket.command(&add));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("Added version 4: "), "{said}");
}

#[test]
fn a_thousand_versions_take_three_requests() {
    let bucket = Bucket::new("many");
    S3Server::get().seed("many", "models", 1_000);
    let store = AmazonS3Builder::new()
        .with_endpoint(&bucket.endpoint)
        .with_allow_http(true)
        .with_bucket_name("many")
        .with_access_key_id("test")
        .with_secret_access_key("test");
    let config = RepositoryConfig { cache: Some(bucket.folder.path().join("cache")), ..RepositoryConfig::default() };
    // Clients of TLS need a provider, also for servers without TLS.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let open =
        || RemoteStore::over(Arc::new(store.clone().build().unwrap()), &bucket.url(), "models", &config).unwrap();
    let timed = |store: &RemoteStore| {
        let begin = Instant::now();
        let found = store.list().unwrap();
        assert_eq!((found.models[0].versions.len(), found.problems.len()), (1_000, 0));
        (bucket.proxy.requests(), begin.elapsed())
    };
    let first = open();
    let (requests, took) = timed(&first);
    // 2,001 objects are three pages. The model.toml and the manifests are read once.
    assert_eq!((requests.len(), reads(&requests).len()), (3 + 1_001, 1_001));
    eprintln!("first listing of 1,000 versions: {} requests, {took:?}", requests.len());
    let (requests, took) = timed(&first);
    assert_eq!((requests.len(), reads(&requests).len()), (3, 0));
    eprintln!("a poll of 1,000 versions: {} requests, {took:?}", requests.len());
    let (requests, took) = timed(&open());
    assert_eq!((requests.len(), reads(&requests).len()), (3, 0));
    eprintln!("first listing after a restart: {} requests, {took:?}", requests.len());
}

/// A static web server without ranges.
struct WebServer {
    _child: KillOnDrop,
    address: SocketAddr,
}

impl WebServer {
    fn start(folder: &Path) -> WebServer {
        let python: PathBuf = checkout().join(".clients/object_storage/bin/python");
        let mut command = Command::new(python);
        command.args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory"]).arg(folder);
        let mut child = KillOnDrop(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
        let mut line = String::new();
        BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port: u16 = line.split("port ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        WebServer { address: ([127, 0, 0, 1], port).into(), _child: child }
    }
}

#[test]
fn models_on_a_web_server_are_served_by_its_index() {
    let repository = Repository::new().with_shipped("digits", &[1]).with_config("digits", &patient_digits());
    let folder = repository.path().to_str().unwrap();
    let (code, said) = run(&mut leeway(&["index", folder]));
    assert_eq!((code, &*said), (0, &*format!("Wrote {folder}/index.json: 1 models, 5 files.\n")));
    let web = WebServer::start(repository.path());
    let proxy = Proxy::before(web.address);
    let url = format!("http://{}", proxy.address);
    proxy.cut("digits/1/model.onnx", 2_000);
    let server = Server::start(Path::new(&url), &[("LEEWAY_REPOSITORY__POLL_INTERVAL_MS", "0")]).ready();
    assert_eq!(answering(server.data), 1);
    // This server sends no part of a file, so a download that is cut off begins again.
    let heads = proxy.heads();
    let of_model: Vec<_> = heads.iter().filter(|head| head.contains("digits/1/model.onnx")).collect();
    assert_eq!(of_model.iter().map(|head| head.contains("range: bytes=")).collect::<Vec<_>>(), [false, true, false]);
    server.command(&["reload"]);
    assert_eq!(proxy.requests(), ["GET /index.json HTTP/1.1"]);
    let (code, said) = run(&mut leeway(&["add", &format!("{url}/digits"), "--onnx", &shipped(2)]));
    assert_eq!(code, 1);
    assert!(said.contains("a web server is read only") && said.contains("`leeway index`"), "{said}");
    // A version that is not in the index does not exist.
    repository.add_file("digits", 2, Path::new(&shipped(2)));
    server.command(&["reload"]);
    assert!(!status(&server).contains("digits     2"));
    assert_eq!(run(&mut leeway(&["index", folder])).0, 0);
    server.command(&["reload"]);
    server.command(&["promote", "digits", "2"]);
    assert_eq!(answering(server.data), 2);
}

#[test]
fn a_wrong_location_is_an_error_at_the_start() {
    for (models, problem) in [
        ("ftp://host/models", "--models: found the scheme \"ftp://\", expected a folder, s3://bucket/prefix"),
        ("s3://", "names no bucket; expected s3://bucket/prefix"),
        ("s3://key:hunter2@bucket", "credentials come from the environment"),
        ("az://container/models", "repository.path: az://container"),
    ] {
        let (code, said) = run(leeway(&["serve", "--models", models]).env_remove("AZURE_STORAGE_ACCOUNT_NAME"));
        assert_eq!(code, 2, "{said}");
        // The log is JSON.
        let said = said.replace("\\\"", "\"");
        assert!(said.contains(problem) && !said.contains("hunter2"), "{said}");
    }
    let (code, said) = run(leeway(&["check"]).env("LEEWAY_REPOSITORY__PATH", "s3://key:hunter2@bucket"));
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("LEEWAY_REPOSITORY__PATH") && !said.contains("hunter2"), "{said}");
    let (code, said) = run(&mut leeway(&["baseline", "s3://bucket/digits", "1", "--data", "rows.csv"]));
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("a version in an object store never changes"), "{said}");
    let (code, said) = run(&mut leeway(&["init", &shipped(1), "--models", "s3://bucket/models"]));
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("s3://bucket/models: this is not a folder; `leeway init` writes to a folder"), "{said}");
}

#[test]
fn the_documented_commands_work() {
    let bucket = Bucket::new("models");
    std::fs::copy(shipped(1), bucket.folder.path().join("digits.onnx")).unwrap();
    std::fs::write(bucket.folder.path().join("model.toml"), patient_digits()).unwrap();
    let page = std::fs::read_to_string(checkout().join("docs/object-storage.md")).unwrap();
    let commands = blocks_after(&page, "run: object-storage").concat();
    let script = format!("set -e\nleeway() {{ {} \"$@\"; }}\n{commands}", env!("CARGO_BIN_EXE_leeway"));
    let mut bash = Command::new("bash");
    bash.args(["-c", &script]).current_dir(bucket.folder.path()).env_remove("ORT_DYLIB_PATH").envs(bucket.settings());
    let (code, said) = run(&mut bash);
    assert_eq!(code, 0, "{said}");
    for says in ["Added version 1: s3://models/production/digits/1", "1 versions are", "All models load and run."] {
        assert!(said.contains(says), "{says}: {said}");
    }
}

#[test]
fn a_signed_version_and_a_deployment_file_work_in_a_bucket() {
    let bucket = Bucket::with_digits("signed");
    let key = bucket.folder.path().join("versions.key");
    let key = key.to_str().unwrap();
    assert_eq!(run(&mut leeway(&["sign", "--generate", key, "--no-password"])).0, 0);
    let public = std::fs::read_to_string(format!("{key}.pub")).unwrap();
    let public = public.lines().nth(1).unwrap();
    let model = format!("{}/digits", bucket.url());
    let (code, said) = run(&mut bucket.command(&["add", &model, "--onnx", &shipped(1), "--sign", key]));
    assert_eq!(code, 0, "{said}");
    bucket.put("digits/deployment.toml", b"stable = 3\n");
    let keys = format!("[\"{public}\"]");
    let mut settings = bucket.settings().to_vec();
    settings.push(("LEEWAY_REPOSITORY__TRUSTED_KEYS", &keys));
    let server = Server::start(Path::new(&bucket.url()), &settings).ready();
    assert_eq!(answering(server.data), 3);
    let said = status(&server);
    assert!(said.contains("version.toml.minisig: the file is missing, so the version is not signed"), "{said}");
}
