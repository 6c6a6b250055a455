//! The sockets of a listener: binds its addresses, accepts connections from all of them, and removes the files of Unix
//! sockets at the end.

use std::fs::{self, Permissions};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as BlockingUnixStream;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};

use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixSocket, UnixStream};

use super::stream::SocketStream;
use crate::config::{ListenAddress, ListenAddresses, SocketMode};
use crate::error::{Result, SetupError};

/// Maximum number of connections that the kernel queues for a socket until they are accepted.
const BACKLOG: u32 = 1024;

/// Size of the kernel's send buffer of a connection. By default, the kernel lets it grow to several megabytes.
const SEND_BUFFER: u32 = 256 << 10;

/// The addresses of a listener, bound so that no other process can take them, but not listening yet.
#[derive(Debug)]
pub struct BoundAddresses {
    all: Vec<(BoundSocket, ListenAddress)>,
    /// The configuration key of the addresses, for messages.
    name: &'static str,
}

#[derive(Debug)]
enum BoundSocket {
    Tcp(TcpSocket),
    Unix(UnixSocket, SocketFile),
}

/// The sockets of a listener, which listen: the kernel queues their connections. Not registered with a runtime yet.
#[derive(Debug)]
pub(super) struct ListeningSockets {
    all: Vec<ListeningSocket>,
    addresses: Vec<ListenAddress>,
}

#[derive(Debug)]
enum ListeningSocket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, SocketFile),
}

/// The sockets of a listener, registered with the runtime that accepts their connections.
pub(super) struct Acceptors {
    all: Vec<Acceptor>,
    /// Socket that is asked first, so that busy sockets take turns.
    next: usize,
}

enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// The socket of a connection that was accepted. Not registered with a runtime yet.
#[derive(Debug)]
pub(super) enum AcceptedStream {
    Tcp(std::net::TcpStream),
    Unix(BlockingUnixStream),
}

/// The file of a Unix socket. It is removed when this is dropped, unless another process has replaced it.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode of the file.
    id: (u64, u64),
}

// ===== impl BoundAddresses =====

impl BoundAddresses {
    /// Binds all addresses. Connections are refused until [`Listener::listen`](super::Listener::listen). `name` is the
    /// configuration key of the addresses, and `mode` are the permissions of Unix sockets.
    pub fn bind(
        addresses: &ListenAddresses,
        mode: SocketMode,
        name: &'static str,
    ) -> Result<BoundAddresses, SetupError> {
        let bind = |address: &ListenAddress| {
            let bound = match address {
                ListenAddress::Tcp(address) => bind_tcp(*address, is_for_ipv6_only(*address, addresses)),
                ListenAddress::Unix(path) => bind_unix(path, mode),
            };
            bound.map_err(|error| cannot_listen(name, address, &error))
        };
        Ok(BoundAddresses { all: addresses.iter().map(bind).collect::<Result<_, _>>()?, name })
    }

    /// Starts to listen: the kernel queues connections from now on. Must be called within a runtime.
    pub(super) fn listen(self) -> Result<ListeningSockets, SetupError> {
        let name = self.name;
        let (mut all, mut addresses) = (Vec::new(), Vec::new());
        for (socket, address) in self.all {
            all.push(socket.listen().map_err(|error| cannot_listen(name, &address, &error))?);
            addresses.push(address);
        }
        Ok(ListeningSockets { all, addresses })
    }
}

/// Returns true if the address for all IPv6 addresses must not take IPv4, because IPv4 has its own address in the list.
fn is_for_ipv6_only(address: SocketAddr, all: &ListenAddresses) -> bool {
    let ipv4 = ListenAddress::Tcp((Ipv4Addr::UNSPECIFIED, address.port()).into());
    address.port() != 0 && all.iter().any(|other| *other == ipv4)
}

fn bind_tcp(address: SocketAddr, is_for_ipv6_only: bool) -> io::Result<(BoundSocket, ListenAddress)> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        rustix::net::sockopt::set_ipv6_v6only(&socket, is_for_ipv6_only)?;
    }
    // Allows the address even if the kernel still has connections of an earlier process at this address.
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    let address = ListenAddress::Tcp(socket.local_addr()?);
    Ok((BoundSocket::Tcp(socket), address))
}

/// Binds a Unix socket. A socket that a process has left behind is removed first.
fn bind_unix(path: &Path, mode: SocketMode) -> io::Result<(BoundSocket, ListenAddress)> {
    if is_left_behind(path)? {
        tracing::info!(path = %path.display(), "removed the socket of a process that has ended");
        fs::remove_file(path)?;
    }
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    let file = SocketFile::new(path)?;
    // Nobody can connect before the permissions are set: the socket does not listen yet.
    fs::set_permissions(path, Permissions::from_mode(mode.bits()))?;
    Ok((BoundSocket::Unix(socket, file), ListenAddress::Unix(path.to_owned())))
}

/// Returns true if there is a socket at `path` to which nobody listens. Anything else at `path` is an error.
fn is_left_behind(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is not a socket"));
        }
        Ok(_) => {}
    }
    match BlockingUnixStream::connect(path) {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn cannot_listen(name: &str, address: &ListenAddress, error: &io::Error) -> SetupError {
    let hint = match (address, error.kind()) {
        (ListenAddress::Tcp(_), io::ErrorKind::AddrInUse) => {
            "; another process uses this port: stop it, or choose another address"
        }
        (ListenAddress::Tcp(_), io::ErrorKind::PermissionDenied) => {
            "; ports below 1024 need privileges: choose another port"
        }
        (ListenAddress::Tcp(_), io::ErrorKind::AddrNotAvailable) => {
            "; this machine does not have the address: choose another one"
        }
        (ListenAddress::Unix(_), io::ErrorKind::AddrInUse) => {
            "; another process listens on this socket: stop it, or choose another path"
        }
        (ListenAddress::Unix(_), io::ErrorKind::AlreadyExists) => "; remove it, or choose another path",
        (ListenAddress::Unix(_), io::ErrorKind::NotFound) => "; make the folder of the socket first",
        (ListenAddress::Unix(_), io::ErrorKind::PermissionDenied) => {
            "; this process has to be allowed to write to the folder of the socket"
        }
        _ => "",
    };
    SetupError::Listen(format!("{name}: cannot listen on {address}: {error}{hint}"))
}

impl BoundSocket {
    fn listen(self) -> io::Result<ListeningSocket> {
        match self {
            BoundSocket::Tcp(socket) => socket.listen(BACKLOG)?.into_std().map(ListeningSocket::Tcp),
            BoundSocket::Unix(socket, file) => {
                let listener = socket.listen(BACKLOG)?.into_std()?;
                // Until a socket listens, another process that starts takes it for one that was left behind.
                if !file.is_ours() {
                    return Err(io::ErrorKind::AddrInUse.into());
                }
                Ok(ListeningSocket::Unix(listener, file))
            }
        }
    }
}

// ===== impl SocketFile =====

impl SocketFile {
    fn new(path: &Path) -> io::Result<SocketFile> {
        Ok(SocketFile { path: path.to_owned(), id: file_id(path)? })
    }

    /// Returns true if no other process has replaced the file.
    fn is_ours(&self) -> bool {
        file_id(&self.path).is_ok_and(|id| id == self.id)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_ours()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "the file of a Unix socket could not be removed");
        }
    }
}

/// Returns the device and the inode of a file.
fn file_id(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

// ===== impl ListeningSockets =====

impl ListeningSockets {
    /// Returns the addresses, with the actual ports where port 0 was configured.
    pub(super) fn addresses(&self) -> &[ListenAddress] {
        &self.addresses
    }

    /// Registers the sockets with the runtime that accepts their connections.
    pub(super) fn register(self) -> io::Result<Acceptors> {
        let register = |socket| match socket {
            ListeningSocket::Tcp(listener) => TcpListener::from_std(listener).map(Acceptor::Tcp),
            ListeningSocket::Unix(listener, file) => {
                UnixListener::from_std(listener).map(|listener| Acceptor::Unix(listener, file))
            }
        };
        Ok(Acceptors { all: self.all.into_iter().map(register).collect::<io::Result<_>>()?, next: 0 })
    }
}

// ===== impl Acceptors =====

impl Acceptors {
    /// Waits for a connection on any of the sockets.
    pub(super) async fn accept(&mut self) -> io::Result<AcceptedStream> {
        std::future::poll_fn(|context| {
            for _ in 0..self.all.len() {
                let socket = self.next;
                self.next = (self.next + 1) % self.all.len();
                if let Poll::Ready(accepted) = self.all[socket].poll_accept(context) {
                    return Poll::Ready(accepted);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Closes the sockets, and passes the connections that the kernel has already queued to `serve`.
    pub(super) fn close(self, mut serve: impl FnMut(AcceptedStream)) {
        self.all.into_iter().for_each(|acceptor| acceptor.close(&mut serve));
    }
}

impl Acceptor {
    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<AcceptedStream>> {
        match self {
            Acceptor::Tcp(listener) => listener
                .poll_accept(context)
                .map(|accepted| accepted.and_then(|(stream, _)| stream.into_std()).map(AcceptedStream::Tcp)),
            Acceptor::Unix(listener, _) => listener
                .poll_accept(context)
                .map(|accepted| accepted.and_then(|(stream, _)| stream.into_std()).map(AcceptedStream::Unix)),
        }
    }

    fn close(self, serve: &mut impl FnMut(AcceptedStream)) {
        // From now on the kernel should queue as few connections as possible, because those that are still queued at
        // the close are reset.
        let reduced = match &self {
            Acceptor::Tcp(listener) => rustix::net::listen(listener, 0),
            Acceptor::Unix(listener, _) => rustix::net::listen(listener, 0),
        };
        if let Err(error) = reduced {
            tracing::debug!(%error, "the backlog could not be reduced");
        }
        match self {
            Acceptor::Tcp(listener) => {
                let Ok(listener) = listener.into_std() else { return };
                serve_queued(serve, || {
                    let (stream, _) = listener.accept()?;
                    stream.set_nonblocking(true)?;
                    Ok(AcceptedStream::Tcp(stream))
                });
            }
            Acceptor::Unix(listener, file) => {
                // New clients do not find the socket any more.
                drop(file);
                let Ok(listener) = listener.into_std() else { return };
                serve_queued(serve, || {
                    let (stream, _) = listener.accept()?;
                    stream.set_nonblocking(true)?;
                    Ok(AcceptedStream::Unix(stream))
                });
            }
        }
    }
}

/// Passes connections to `serve` until none is queued. They are at most as many as the backlog can hold.
fn serve_queued(serve: &mut impl FnMut(AcceptedStream), accept: impl Fn() -> io::Result<AcceptedStream>) {
    for _ in 0..=2 * BACKLOG {
        match accept() {
            Ok(stream) => serve(stream),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            // The backlog is empty, or no file descriptor is free.
            Err(_) => return,
        }
    }
}

// ===== impl AcceptedStream =====

impl AcceptedStream {
    /// Turns off Nagle's algorithm: responses are small and complete, and should be sent at once.
    pub(super) fn set_nodelay(&self) {
        if let AcceptedStream::Tcp(stream) = self
            && let Err(error) = stream.set_nodelay(true)
        {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
    }

    /// Registers the connection with the runtime that serves it.
    pub(super) fn register(self) -> io::Result<SocketStream> {
        match self {
            AcceptedStream::Tcp(stream) => TcpStream::from_std(stream).map(SocketStream::Tcp),
            AcceptedStream::Unix(stream) => UnixStream::from_std(stream).map(SocketStream::Unix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(path: &Path) -> Result<BoundAddresses, SetupError> {
        let address = ListenAddresses::parse(&format!("unix:{}", path.display())).unwrap();
        BoundAddresses::bind(&address, SocketMode::GROUP, "http.listen")
    }

    fn refusal(bound: Result<BoundAddresses, SetupError>) -> String {
        bound.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_socket_that_was_left_behind_is_replaced_and_no_other_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        // Dropping a listener of the standard library leaves the file behind, as the end of a process does.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let bound = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let listening = bound.listen().unwrap();
        assert!(refusal(bind(&path)).contains("another process listens on this socket"));
        drop(listening);
        assert!(!path.exists());
        fs::write(&path, "text").unwrap();
        assert!(refusal(bind(&path)).contains("not a socket; remove it"));
        assert!(refusal(bind(&folder.path().join("none/a.sock"))).contains("make the folder"));
    }

    #[tokio::test]
    async fn of_two_that_start_at_the_same_time_one_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let (first, second) = (bind(&path).unwrap(), bind(&path).unwrap());
        let problem = first.listen().unwrap_err().to_string();
        assert!(problem.contains("another process listens on this socket"), "{problem}");
        let listening = second.listen().unwrap();
        assert!(BlockingUnixStream::connect(&path).is_ok());
        drop(listening);
    }

    #[tokio::test]
    async fn all_addresses_are_accepted_from_in_turn() {
        let folder = tempfile::tempdir().unwrap();
        let unix = ListenAddresses::parse(&format!("unix:{}", folder.path().join("a.sock").display())).unwrap();
        let addresses = ListenAddresses::join(vec![([127, 0, 0, 1], 0).into(), unix]).unwrap();
        let listening = BoundAddresses::bind(&addresses, SocketMode::OWNER, "http.listen").unwrap().listen().unwrap();
        let [ListenAddress::Tcp(tcp), ListenAddress::Unix(path)] = listening.addresses() else { panic!() };
        let (tcp, path) = (*tcp, path.clone());
        let clients: Vec<_> = (0..3).map(|_| std::net::TcpStream::connect(tcp).unwrap()).collect();
        let _unix = BlockingUnixStream::connect(&path).unwrap();
        let mut acceptors = listening.register().unwrap();
        let mut of_unix = Vec::new();
        for _ in 0..2 {
            of_unix.push(matches!(acceptors.accept().await.unwrap(), AcceptedStream::Unix(_)));
        }
        // The queue of one address does not keep the other waiting.
        assert!(of_unix.contains(&true), "{of_unix:?}");
        let mut queued = 0;
        acceptors.close(|_| queued += 1);
        assert_eq!(queued, 2);
        assert!(!path.exists());
        drop(clients);
    }
}
