//! The addresses of the listeners: several at once, names, and Unix sockets.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use leeway::app::Stop;
use leeway::config::{ListenAddresses, SocketMode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::harness::{TestApp, config, held_out, leeway, until};

fn unix(path: &Path) -> ListenAddresses {
    ListenAddresses::parse(&format!("unix:{}", path.display())).unwrap()
}

fn with_tcp(path: &Path) -> ListenAddresses {
    ListenAddresses::join(vec![([127, 0, 0, 1], 0).into(), unix(path)]).unwrap()
}

/// Sends one request on a connection, and returns the whole response.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
}

/// Runs a command of the program, and returns its success and its output.
async fn command(arguments: &[&str]) -> (bool, String) {
    let mut command = leeway(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_serves_beside_a_port_and_is_gone_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let (data, admin) = (folder.path().join("data.sock"), folder.path().join("admin.sock"));
    let mut config = config();
    (config.http.listen, config.admin.listen) = (with_tcp(&data), with_tcp(&admin));
    config.http.unix_socket_mode = serde_json::from_str::<SocketMode>("\"0666\"").unwrap();
    let app = TestApp::with(config).await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&data), mode(&admin)), (0o666, 0o600));

    let body = serde_json::json!({ "instances": held_out("digits")["instances"].as_array().unwrap()[..2] }).to_string();
    let head = "POST /predict HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n";
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    let answer = ask(UnixStream::connect(&data).await.unwrap(), &request).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"predictions\""), "{answer}");
    assert_eq!(app.predict("/predict", body).await.status, 200);
    assert!(app.metric("leeway_connections_total").await >= 2.0);

    // The commands reach the server through its sockets, too.
    let socket = |path: &Path| format!("unix:{}", path.display());
    let (ok, said) = command(&["health", "--listen", &socket(&data)]).await;
    assert!(ok && said.contains(&socket(&data)), "{said}");
    let (ok, said) = command(&["status", "--admin-listen", &socket(&admin)]).await;
    assert!(ok && said.contains("digits"), "{said}");

    // A request in flight is finished, while new clients no longer find the socket.
    let mut open = UnixStream::connect(&data).await.unwrap();
    open.write_all(get("/livez").as_bytes()).await.unwrap();
    app.stop.send(Stop::AtOnce).await.unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    app.running.await.unwrap().unwrap();
    assert!(!data.exists() && !admin.exists());
    let (ok, said) = command(&["health", "--listen", &socket(&data)]).await;
    assert!(!ok && said.contains("no server answers at unix:"), "{said}");
}

/// One limit holds for all addresses of a listener.
#[tokio::test(flavor = "multi_thread")]
async fn the_addresses_of_a_listener_share_its_places() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.sock");
    let mut config = config();
    config.http.listen = with_tcp(&path);
    config.http.connection_limit = std::num::NonZeroUsize::MIN;
    let app = TestApp::with(config).await;
    let mut first = TcpStream::connect(app.data).await.unwrap();
    first.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut byte = [0; 4096];
    assert!(first.read(&mut byte).await.unwrap() > 0);
    // The idle connection gives up its place to one on the other address.
    let answer = ask(UnixStream::connect(&path).await.unwrap(), &get("/livez")).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let ended = tokio::time::timeout(Duration::from_secs(60), first.read(&mut byte)).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn localhost_and_all_addresses_take_ipv4_and_ipv6_where_both_exist() {
    let has_ipv6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for host in ["localhost", ""] {
        // Another process may take the free port meanwhile.
        let (app, port) = until(async || {
            let (port, mut config) = (free(), config());
            config.http.listen = ListenAddresses::parse(&format!("{host}:{port}")).unwrap();
            let parts = crate::harness::dependencies(&config, crate::harness::runtime(), Default::default()).await;
            let built = leeway::app::App::build_with(config, parts).await.unwrap();
            let bound = built.bind().await.ok()?;
            let (stop, stopped) = tokio::sync::mpsc::channel(4);
            Some(((tokio::spawn(bound.run(stopped)), stop), port))
        })
        .await;
        let addresses = if has_ipv6 { vec!["127.0.0.1", "::1"] } else { vec!["127.0.0.1"] };
        for ip in addresses {
            let stream = TcpStream::connect((ip, port)).await.unwrap();
            assert!(ask(stream, &get("/livez")).await.starts_with("HTTP/1.1 200"), "{host} {ip}");
        }
        app.1.send(Stop::AtOnce).await.unwrap();
        app.0.await.unwrap().unwrap();
    }
}
