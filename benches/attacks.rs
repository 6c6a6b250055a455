//! Attacks of clients that want a server to run out of memory, each in its own threads and at its own rate.
//!
//! The attacks hold connections and memory, and do not spin: the target is the memory, not the two cores that client
//! and server share. For the same reason their threads run only on idle cores.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::thread::Scope;
use std::time::{Duration, Instant};

use flate2::write::ZlibEncoder;
use flate2::{Compression, Crc};
use parking_lot::Mutex;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

/// Interval at which held connections are checked.
const LOOK: Duration = Duration::from_secs(1);

/// Timeout of sending to a server that does not read.
const SEND_TIME: Duration = Duration::from_secs(5);

/// Phase of the attacks, shared by all threads.
pub(crate) struct Phase(AtomicU8);

impl Phase {
    /// The first phase, in which all threads wait.
    pub(crate) fn quiet() -> Phase {
        Phase(AtomicU8::new(0))
    }

    /// Starts the attacks.
    pub(crate) fn attack(&self) {
        self.0.store(1, Relaxed);
    }

    /// Ends the threads and closes their connections.
    pub(crate) fn end(&self) {
        self.0.store(2, Relaxed);
    }
}

/// The server that is attacked, and prepared bodies.
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// Length of the longest row that the model `attention` accepts.
    pub(crate) longest_row: usize,
    /// A PNG of 1 MB that inflates to a thousand times its size.
    pub(crate) bomb: Vec<u8>,
    /// A body of 0.8 MB whose answer is as large.
    pub(crate) echoed: String,
}

/// One attack.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    threads: usize,
    /// Maximum number of connections that a thread has open, and the number that it opens each second.
    connections: usize,
    per_second: f64,
    /// Time for which a connection is held if it is not answered or closed.
    holds: Duration,
    /// True if answers are left unread, and their connections held.
    is_deaf: bool,
    /// Sends the attack on the connection with this number.
    send: fn(&Target, &mut TcpStream, usize) -> std::io::Result<()>,
    /// Number of connections by outcome.
    outcomes: Mutex<BTreeMap<String, u64>>,
}

/// Returns the attacks whose names contain `part`.
pub(crate) fn all(part: &str) -> Vec<Attack> {
    let attack = |name, threads, connections, per_second, seconds, is_deaf, send| Attack {
        name,
        threads,
        connections,
        per_second,
        holds: Duration::from_secs(seconds),
        is_deaf,
        send,
        outcomes: Mutex::default(),
    };
    let all = vec![
        attack("feedback of nested arrays, at the limit", 4, 4, 1.0, 20, false, nested_feedback),
        attack("bodies without their last byte", 2, 80, 4.0, 15, false, stalled_body),
        attack("chunks of a byte", 2, 2, 0.5, 20, false, one_byte_chunks),
        attack("metrics that nobody reads", 1, 250, 20.0, 40, true, unread_metrics),
        attack("answers of 0.9 MB that nobody reads", 1, 200, 5.0, 40, true, unread_answer),
        attack("heads of 380 KB, and of 60 KB without an end", 1, 1000, 20.0, 60, false, large_head),
        attack("silent connections", 1, 4000, 100.0, 60, false, silence),
        attack("PNGs that inflate", 2, 2, 1.0, 20, false, png_bomb),
        attack("rows that are too long", 1, 4, 2.0, 20, false, long_row),
        attack("garbage", 2, 4, 5.0, 20, false, garbage),
        attack("half-closed clients", 1, 50, 10.0, 20, false, half_closed),
    ];
    all.into_iter().filter(|attack| attack.name.contains(part)).collect()
}

/// Runs this thread only on idle cores, as if it were on another machine. A lower priority is not enough: with any
/// priority, a running thread keeps its core for some milliseconds after another thread has woken up.
fn take_only_idle_cores() {
    let thread = rustix::thread::gettid().to_string();
    let done = Command::new("chrt").args(["--idle", "--pid", "0", &thread]).status();
    assert!(done.expect("chrt (util-linux) is needed").success(), "the attackers' threads must run on idle cores only");
}

/// Returns the maximum number of open connections of all attacks together.
pub(crate) fn connections(attacks: &[Attack]) -> usize {
    attacks.iter().map(|attack| attack.threads * attack.connections).sum()
}

impl Attack {
    /// Starts the threads, which wait for the phase of the attack.
    pub(crate) fn start<'scope, 'env>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        target: &'env Target,
        phase: &'env Phase,
    ) {
        for _ in 0..self.threads {
            scope.spawn(move || {
                take_only_idle_cores();
                self.run(target, phase);
            });
        }
    }

    fn run(&self, target: &Target, phase: &Phase) {
        let pause = Duration::from_secs_f64(1.0 / self.per_second);
        let mut held: Vec<Held> = Vec::new();
        let (mut looked, mut opened, mut turn) = (Instant::now(), Instant::now(), 0);
        loop {
            match phase.0.load(Relaxed) {
                0 => {}
                1 => {
                    if looked.elapsed() > LOOK {
                        held.retain_mut(|held| !self.is_over(held));
                        looked = Instant::now();
                    }
                    if held.len() < self.connections && opened.elapsed() >= pause {
                        opened = Instant::now();
                        held.extend(self.open(target, turn));
                        turn += 1;
                    }
                }
                _ => return,
            }
            std::thread::sleep(pause.min(LOOK / 10));
        }
    }

    /// Opens a connection and sends the attack.
    fn open(&self, target: &Target, turn: usize) -> Option<Held> {
        self.count("sent");
        let opened = open(target.address, self.is_deaf);
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(error) => {
                self.count(&format!("no connection: {}", error.kind()));
                return None;
            }
        };
        // A server that refuses a request may not read all of it. Its answer is read later.
        let _ = (self.send)(target, &mut stream, turn);
        stream.set_nonblocking(true).unwrap();
        Some(Held { since: Instant::now(), stream, is_answered: false })
    }

    fn is_over(&self, held: &mut Held) -> bool {
        let mut begin = [0; 12];
        let outcome = match held.stream.peek(&mut begin) {
            Ok(0) => "closed".to_owned(),
            Ok(12) => String::from_utf8_lossy(&begin[9..]).into_owned(),
            Ok(_) => return held.since.elapsed() > self.holds,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let is_over = held.since.elapsed() > self.holds;
                if is_over {
                    self.count("held to the end");
                }
                return is_over;
            }
            Err(_) => "reset".to_owned(),
        };
        let is_new = !std::mem::replace(&mut held.is_answered, true);
        if is_new {
            self.count(&outcome);
        }
        let holds_on = self.is_deaf && outcome.starts_with('2');
        !holds_on || held.since.elapsed() > self.holds
    }

    fn count(&self, outcome: &str) {
        *self.outcomes.lock().entry(outcome.to_owned()).or_default() += 1;
    }

    pub(crate) fn outcomes(&self) -> BTreeMap<String, u64> {
        self.outcomes.lock().clone()
    }
}

/// A connection that is held.
struct Held {
    since: Instant,
    stream: TcpStream,
    is_answered: bool,
}

fn open(address: SocketAddr, is_deaf: bool) -> std::io::Result<TcpStream> {
    // Close-on-exec: the load generator is started meanwhile, and must not inherit the connection.
    let socket: OwnedFd = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    if is_deaf {
        // Before connecting, so that a larger window is never announced.
        sockopt::set_socket_recv_buffer_size(&socket, 2048)?;
    }
    connect(&socket, &address)?;
    // Closing resets the connection. Otherwise thousands of ports would be in TIME_WAIT for a minute.
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(SEND_TIME))?;
    stream.set_read_timeout(Some(SEND_TIME))?;
    Ok(stream)
}

// ===== requests of the attacks =====

pub(crate) const FEEDBACK_LIMIT: usize = 3 << 20;
const BODY_LIMIT: usize = 8 << 20;

fn post(stream: &mut TcpStream, path: &str, content_type: &str, body: &[u8]) -> std::io::Result<()> {
    head(stream, path, content_type, body.len())?;
    stream.write_all(body)
}

fn head(stream: &mut TcpStream, path: &str, content_type: &str, length: usize) -> std::io::Result<()> {
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n"
    )
}

fn json(stream: &mut TcpStream, path: &str, body: &str) -> std::io::Result<()> {
    post(stream, path, "application/json", body.as_bytes())
}

/// Sends a body of many values that would take many times its size in memory: nested arrays, many items, many amounts.
fn nested_feedback(_: &Target, stream: &mut TcpStream, turn: usize) -> std::io::Result<()> {
    let (begin, part, end) = match turn % 4 {
        0 => (
            format!(r#"{{"feedback":[{{"prediction_id":"x","label":{}"#, "[".repeat(100)),
            "0,",
            format!("0{}}}]}}", "]".repeat(100)),
        ),
        1 => (r#"{"feedback":["#.to_owned(), "{},", "{}]}".to_owned()),
        2 => (r#"{"feedback":[{"prediction_id":"x","metrics":{"#.to_owned(), r#""a":1,"#, r#""b":1}}]}"#.to_owned()),
        // Refused only after it was read whole: the label is a long text.
        _ => (r#"{"feedback":[{"prediction_id":"x","label":""#.to_owned(), r"\u0061", r#""}]}"#.to_owned()),
    };
    let parts = (FEEDBACK_LIMIT - begin.len() - end.len()) / part.len();
    json(stream, "/feedback", &format!("{begin}{}{end}", part.repeat(parts)))
}

/// Sends all of a body but its last byte. The server waits ten seconds for feedback, and the model's budget for a
/// prediction.
fn stalled_body(_: &Target, stream: &mut TcpStream, turn: usize) -> std::io::Result<()> {
    let (path, length) = match turn % 2 {
        0 => ("/feedback", FEEDBACK_LIMIT),
        _ => ("/v1/models/attention:predict", BODY_LIMIT),
    };
    head(stream, path, "application/json", length)?;
    stream.write_all(&vec![b' '; length - 1])
}

/// Sends half a million chunks of one byte, 5,000 at a time.
fn one_byte_chunks(_: &Target, stream: &mut TcpStream, _: usize) -> std::io::Result<()> {
    stream.write_all(b"POST /feedback HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")?;
    let chunks = b"1\r\n \r\n".repeat(5_000);
    for _ in 0..100 {
        stream.write_all(&chunks)?;
        std::thread::sleep(Duration::from_millis(80));
    }
    Ok(())
}

fn unread_metrics(_: &Target, stream: &mut TcpStream, _: usize) -> std::io::Result<()> {
    stream.write_all("GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n".repeat(20).as_bytes())
}

fn unread_answer(target: &Target, stream: &mut TcpStream, _: usize) -> std::io::Result<()> {
    json(stream, "/v1/models/echo:predict", &target.echoed)
}

fn large_head(_: &Target, stream: &mut TcpStream, turn: usize) -> std::io::Result<()> {
    let length = if turn.is_multiple_of(2) { 380_000 } else { 60_000 };
    write!(stream, "GET /livez HTTP/1.1\r\nhost: a\r\nx: {}", "a".repeat(length))
}

fn silence(_: &Target, stream: &mut TcpStream, turn: usize) -> std::io::Result<()> {
    if turn.is_multiple_of(3) { stream.write_all(b"POST /predict HTTP/1.1\r\nhost") } else { Ok(()) }
}

fn png_bomb(target: &Target, stream: &mut TcpStream, _: usize) -> std::io::Result<()> {
    post(stream, "/v1/models/pictures:predict", "image/png", &target.bomb)
}

/// Sends a row that is too long and, once a minute, the longest row that is accepted.
fn long_row(target: &Target, stream: &mut TcpStream, turn: usize) -> std::io::Result<()> {
    let length = match turn % 120 {
        60 => target.longest_row,
        _ => target.longest_row + 1 + fastrand::usize(..100_000),
    };
    json(stream, "/v1/models/attention:predict", &format!(r#"{{"instances":[[{}1]]}}"#, "1,".repeat(length - 1)))
}

/// Sends malformed bodies and long texts, of every size up to a megabyte.
fn garbage(_: &Target, stream: &mut TcpStream, turn: usize) -> std::io::Result<()> {
    let length = 1 << fastrand::u32(4..20);
    let characters = br#"[]{},:"\0123456789eE+-.truefalsn instancesu "#;
    let random = |_| char::from(characters[fastrand::usize(..characters.len())]);
    let body = match turn % 5 {
        0 => (0..length).map(random).collect(),
        1 => "[".repeat(length),
        2 => format!(r#"{{"instances":[[{}"#, "1e5,".repeat(length / 4)),
        3 => format!(r#"{{"instances":[{}""]}}"#, r#""a","#.repeat(length / 4)),
        _ => format!(r#"{{"instances":["{}"]}}"#, "a ".repeat(length / 2)),
    };
    let path = if turn % 5 < 3 { "/v1/models/digits:predict" } else { "/v1/models/sentences:predict" };
    json(stream, path, &body)
}

/// Sends a request, or half of one, and closes this direction of the connection.
fn half_closed(target: &Target, stream: &mut TcpStream, turn: usize) -> std::io::Result<()> {
    match turn % 4 {
        0 => json(stream, "/feedback", r#"{"feedback": []}"#)?,
        1 => json(stream, "/v1/models/echo:predict", &target.echoed[..target.echoed.len() / 2])?,
        2 => head(stream, "/v1/models/digits:predict", "application/json", 100_000)?,
        _ => stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n")?,
    }
    stream.shutdown(Shutdown::Write)
}

// ===== helpers =====

/// Returns a PNG of 8 x 8 pixels whose colour profile is a gigabyte of zeros.
pub(crate) fn bomb() -> Vec<u8> {
    let deflated = |bytes: usize| {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        let zeros = vec![0; bytes.min(1 << 20)];
        (0..bytes / zeros.len()).for_each(|_| encoder.write_all(&zeros).unwrap());
        encoder.finish().unwrap()
    };
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8], data: &[u8]| {
        let mut crc = Crc::new();
        crc.update(kind);
        crc.update(data);
        for part in [&(data.len() as u32).to_be_bytes(), kind, data, &crc.sum().to_be_bytes()] {
            png.extend_from_slice(part);
        }
    };
    chunk(b"IHDR", &[0, 0, 0, 8, 0, 0, 0, 8, 8, 2, 0, 0, 0]);
    chunk(b"iCCP", &[b"x\0\0", &*deflated(1 << 30)].concat());
    chunk(b"IDAT", &deflated(25 * 8));
    chunk(b"IEND", &[]);
    png
}

/// Posts a body and returns the whole response.
pub(crate) fn ask(address: SocketAddr, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
