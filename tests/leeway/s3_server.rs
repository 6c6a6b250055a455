//! A server with the API of S3 for the tests, and a proxy before it that records requests and breaks connections.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::harness::checkout;

/// The server of all tests. Each test uses a bucket of its own.
pub(crate) struct S3Server {
    pub(crate) address: SocketAddr,
    child: Mutex<Child>,
}

impl S3Server {
    /// Returns the server, which ends with the process of the tests.
    pub(crate) fn get() -> &'static S3Server {
        static SERVER: OnceLock<S3Server> = OnceLock::new();
        SERVER.get_or_init(|| {
            let python = checkout().join(".clients/object_storage/bin/python");
            let program = checkout().join("tests/clients/object_storage/server.py");
            let child = Command::new(&python)
                .arg(program)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap_or_else(|error| panic!("{}: {error}; `make clients` installs it", python.display()));
            let mut server = S3Server { address: ([127, 0, 0, 1], 0).into(), child: Mutex::new(child) };
            let port = server.answer(|line| line.parse().ok());
            server.address.set_port(port);
            server
        })
    }

    /// Returns the first line of the server's output that has this form.
    fn answer<T>(&self, read: impl Fn(&str) -> Option<T>) -> T {
        let mut child = self.child.lock();
        let mut output = BufReader::with_capacity(1, child.stdout.as_mut().unwrap());
        loop {
            let mut line = String::new();
            assert!(output.read_line(&mut line).unwrap() > 0, "the server has ended");
            if let Some(answer) = read(line.trim()) {
                return answer;
            }
        }
    }

    /// Adds the model `many` with this many versions below a prefix of a bucket.
    pub(crate) fn seed(&self, bucket: &str, prefix: &str, versions: usize) {
        writeln!(self.child.lock().stdin.as_mut().unwrap(), "seed {bucket} {prefix} {versions}").unwrap();
        self.answer(|line| (line == "done").then_some(()));
    }

    /// Sends a request, and returns the status and the body of the answer.
    pub(crate) fn request(&self, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        // The server wants a signature, and does not check it.
        let signature = "authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, \
                         SignedHeaders=host, Signature=0\r\n";
        request(self.address, method, path, (signature, body))
    }

    /// Creates a bucket.
    pub(crate) fn create_bucket(&self, name: &str) {
        assert_eq!(self.request("PUT", name, b"").0, 200);
    }
}

/// Sends a request with further lines of its head, and returns the status and the body of the answer.
pub(crate) fn request(to: SocketAddr, method: &str, path: &str, (lines, body): (&str, &[u8])) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(to).unwrap();
    let length = body.len();
    let head = format!(
        "{method} /{path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: application/json\r\n{lines}\
         content-length: {length}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let status = String::from_utf8_lossy(&answer[9..12]).parse().unwrap();
    (status, answer.split_off(end + 4))
}

/// A proxy before a server, on a port of its own.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<ProxyState>>,
}

#[derive(Default)]
struct ProxyState {
    /// Heads of the requests.
    requests: Vec<String>,
    is_down: bool,
    /// Part of the first line of the request whose answer is cut off, and the number of bytes that are sent before.
    cut: Option<(String, usize)>,
    connections: Vec<TcpStream>,
}

impl Proxy {
    /// Starts a proxy before this server.
    pub(crate) fn before(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state: Arc<Mutex<ProxyState>> = Arc::default();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                // A dropped connection is what a client of a server that is down sees.
                if !state.lock().is_down {
                    std::thread::spawn(move || serve(client, server, &state));
                }
            }
        });
        Proxy { address, state }
    }

    /// Returns the first lines of the requests since the last call.
    pub(crate) fn requests(&self) -> Vec<String> {
        let requests = std::mem::take(&mut self.state.lock().requests);
        requests.iter().map(|head| head.lines().next().unwrap_or_default().to_owned()).collect()
    }

    /// Returns the requests since the last call, each with all of its head.
    pub(crate) fn heads(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().requests)
    }

    /// Ends all connections, and refuses new ones.
    pub(crate) fn go_down(&self) {
        let mut state = self.state.lock();
        state.is_down = true;
        for connection in state.connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn come_back(&self) {
        self.state.lock().is_down = false;
    }

    /// Cuts off the answer to the next request whose first line has this part, once, after this many bytes.
    pub(crate) fn cut(&self, part: &str, after: usize) {
        self.state.lock().cut = Some((part.to_owned(), after));
    }
}

/// Copies the bytes of a connection in both directions.
fn serve(mut client: TcpStream, server: SocketAddr, state: &Arc<Mutex<ProxyState>>) {
    let Ok(mut upstream) = TcpStream::connect(server) else { return };
    let left = Arc::new(Mutex::new(None::<usize>));
    let (mut to_client, mut from_server) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
    state.lock().connections.extend([client.try_clone().unwrap(), upstream.try_clone().unwrap()]);
    let limit = Arc::clone(&left);
    let answers = std::thread::spawn(move || {
        let mut bytes = [0; 1 << 14];
        while let Ok(count @ 1..) = from_server.read(&mut bytes) {
            let mut left = limit.lock();
            let sent = left.map_or(count, |left| left.min(count));
            if to_client.write_all(&bytes[..sent]).is_err() || sent < count {
                break;
            }
            *left = left.map(|left| left - sent);
        }
        let _ = to_client.shutdown(Shutdown::Both);
        let _ = from_server.shutdown(Shutdown::Both);
    });
    let mut bytes = [0; 1 << 14];
    while let Ok(count @ 1..) = client.read(&mut bytes) {
        let chunk = &bytes[..count];
        if [&b"GET "[..], b"PUT ", b"HEAD ", b"DELETE ", b"POST "].iter().any(|method| chunk.starts_with(method)) {
            let head = String::from_utf8_lossy(chunk).split("\r\n\r\n").next().unwrap_or_default().to_owned();
            let mut state = state.lock();
            let first = head.lines().next().unwrap_or_default();
            if let Some((_, after)) = state.cut.take_if(|(part, _)| first.contains(&**part)) {
                *left.lock() = Some(after);
            }
            state.requests.push(head);
        }
        if upstream.write_all(chunk).is_err() {
            break;
        }
    }
    let _ = upstream.shutdown(Shutdown::Both);
    let _ = answers.join();
}
