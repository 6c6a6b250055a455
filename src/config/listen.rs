//! The addresses of a listener: `127.0.0.1:8080`, `localhost:8080`, `:8080` for all addresses, or
//! `unix:/run/leeway.sock`; one of them, or a list.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The accepted form of an address, for messages.
const EXPECTED: &str = "an address with a port, as in 127.0.0.1:8080, localhost:8080, or :8080 for all addresses; or \
                        unix: and the absolute path of a socket";
/// Prefix of the address of a Unix socket.
const UNIX: &str = "unix:";
/// Maximum length of the path of a Unix socket, in bytes (`sockaddr_un` on macOS).
const MAX_PATH: usize = 103;
/// Maximum number of addresses of a listener.
const MAX_ADDRESSES: usize = 16;

/// An address that a listener binds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and a port. Port 0 chooses a free port.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// The addresses of a listener, at least one.
///
/// ```
/// use leeway::config::ListenAddresses;
/// let shown = |text| ListenAddresses::parse(text).map(|addresses| addresses.to_string());
/// assert_eq!(shown("[::1]:8080").unwrap(), "[::1]:8080");
/// assert_eq!(shown("unix:/run/leeway.sock").unwrap(), "unix:/run/leeway.sock");
/// assert!(shown("localhost:8080").unwrap().starts_with("127.0.0.1:8080"));
/// assert!(shown(":8080").unwrap().ends_with(":8080"));
/// assert!(shown("8080").unwrap_err().contains("as in 127.0.0.1:8080"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddresses(Vec<ListenAddress>);

/// Permissions of the file of a Unix socket, written as `0660`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketMode(u32);

// ===== impl ListenAddress =====

impl ListenAddress {
    /// Returns true if only programs on this machine can reach the address.
    pub fn is_local(&self) -> bool {
        match self {
            ListenAddress::Tcp(address) => address.ip().is_loopback(),
            ListenAddress::Unix(_) => true,
        }
    }

    /// Returns true if both addresses cannot be bound at the same time.
    fn excludes(&self, other: &ListenAddress) -> bool {
        match self {
            ListenAddress::Tcp(address) if address.port() == 0 => false,
            _ => self == other,
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(address) => write!(f, "{address}"),
            ListenAddress::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

// ===== impl ListenAddresses =====

impl ListenAddresses {
    /// Parses one address. A name stands for all of its addresses that this machine has, IPv4 first.
    pub fn parse(text: &str) -> Result<ListenAddresses, String> {
        if let Ok(address) = text.parse() {
            return Ok(ListenAddresses(vec![ListenAddress::Tcp(address)]));
        }
        if let Some(path) = text.strip_prefix(UNIX) {
            return Ok(ListenAddresses(vec![ListenAddress::Unix(socket_path(path)?)]));
        }
        let unexpected = || format!("found {text:?}, expected {EXPECTED}");
        let (host, port) = text.rsplit_once(':').ok_or_else(unexpected)?;
        let port: u16 = port.parse().map_err(|_| unexpected())?;
        if host.is_empty() {
            return Ok(all_addresses(port).into());
        }
        let resolve = || (host, port).to_socket_addrs().map(Iterator::collect);
        let found: Vec<SocketAddr> = match host {
            // Not resolved, because the name always means these (RFC 6761), but not all machines say so.
            "localhost" => vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()],
            _ => resolve().map_err(|error| format!("{}; {host:?}: {error}", unexpected()))?,
        };
        let mut here: Vec<SocketAddr> = found.iter().filter(|address| is_here(address.ip())).copied().collect();
        here = if here.is_empty() { found } else { here };
        here.sort_by_key(SocketAddr::is_ipv6);
        here.dedup();
        ListenAddresses::of(here.into_iter().map(ListenAddress::Tcp).collect()).map_err(|_| unexpected())
    }

    /// Joins several lists of addresses. Fails if the result is empty, too long, or names an address twice.
    pub fn join(parts: Vec<ListenAddresses>) -> Result<ListenAddresses, String> {
        ListenAddresses::of(parts.into_iter().flat_map(|part| part.0).collect())
    }

    fn of(all: Vec<ListenAddress>) -> Result<ListenAddresses, String> {
        if all.is_empty() || all.len() > MAX_ADDRESSES {
            return Err(format!("found {} addresses, expected 1 to {MAX_ADDRESSES}", all.len()));
        }
        for (index, address) in all.iter().enumerate() {
            if all[..index].iter().any(|other| other.excludes(address)) {
                return Err(format!("the address {address} occurs twice; write it once"));
            }
        }
        Ok(ListenAddresses(all))
    }

    /// Returns the addresses, in the configured order.
    pub fn iter(&self) -> std::slice::Iter<'_, ListenAddress> {
        self.0.iter()
    }

    /// Returns the first address.
    pub fn first(&self) -> &ListenAddress {
        // A listener has at least one address.
        &self.0[0]
    }

    /// Returns an address of `self` that `other` has, too, so that only one of the two can be bound.
    pub(super) fn shared(&self, other: &ListenAddresses) -> Option<&ListenAddress> {
        self.iter().find(|address| other.iter().any(|other| address.excludes(other)))
    }
}

impl From<SocketAddr> for ListenAddresses {
    fn from(address: SocketAddr) -> ListenAddresses {
        ListenAddresses(vec![ListenAddress::Tcp(address)])
    }
}

impl From<([u8; 4], u16)> for ListenAddresses {
    fn from(address: ([u8; 4], u16)) -> ListenAddresses {
        SocketAddr::from(address).into()
    }
}

impl fmt::Display for ListenAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, address) in self.iter().enumerate() {
            write!(f, "{}{address}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Writes one address as a text, and several as a list.
impl Serialize for ListenAddresses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &*self.0 {
            [one] => serializer.collect_str(one),
            several => serializer.collect_seq(several.iter().map(ListenAddress::to_string)),
        }
    }
}

impl<'de> Deserialize<'de> for ListenAddresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ListenAddresses, D::Error> {
        struct Visitor;

        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = ListenAddresses;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{EXPECTED}; or a list of these")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ListenAddresses, E> {
                ListenAddresses::parse(text).map_err(E::custom)
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<ListenAddresses, A::Error> {
                let mut parts = Vec::new();
                while let Some(text) = list.next_element::<String>()? {
                    parts.push(ListenAddresses::parse(&text).map_err(serde::de::Error::custom)?);
                }
                ListenAddresses::join(parts).map_err(serde::de::Error::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

fn socket_path(text: &str) -> Result<PathBuf, String> {
    if !text.starts_with('/') || text.ends_with('/') || text.contains('\0') {
        return Err(format!("found {:?}, expected {EXPECTED}", format!("{UNIX}{text}")));
    }
    if text.len() > MAX_PATH {
        return Err(format!("the path of the socket {text:?} is longer than {MAX_PATH} bytes; choose a shorter one"));
    }
    Ok(PathBuf::from(text))
}

/// Returns the address that stands for all addresses of the machine. If the machine has IPv6, this is the IPv6 address,
/// which accepts IPv4, too.
fn all_addresses(port: u16) -> SocketAddr {
    let ip = if is_here(Ipv6Addr::UNSPECIFIED.into()) {
        IpAddr::from(Ipv6Addr::UNSPECIFIED)
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    SocketAddr::new(ip, port)
}

/// Returns true if this machine has an address.
fn is_here(ip: IpAddr) -> bool {
    TcpListener::bind((ip, 0)).is_ok()
}

// ===== impl SocketMode =====

impl SocketMode {
    /// Access for the owner and the group.
    pub const GROUP: SocketMode = SocketMode(0o660);
    /// Access for the owner.
    pub const OWNER: SocketMode = SocketMode(0o600);

    /// Returns the permissions as the operating system expects them.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl fmt::Display for SocketMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl Serialize for SocketMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SocketMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SocketMode, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = SocketMode;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("permissions as an octal number in quotes, as in \"0660\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SocketMode, E> {
                let is_octal = (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
                let mode = u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
                mode.map(SocketMode).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, expected: Result<&[&str], &str>) {
        match (serde_json::from_str::<ListenAddresses>(json), expected) {
            (Ok(found), Ok(expected)) => {
                assert_eq!(found.iter().map(ListenAddress::to_string).collect::<Vec<_>>(), expected, "{json}");
            }
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{json}: {error}"),
            (found, _) => panic!("{json}: {found:?}"),
        }
    }

    #[test]
    fn an_address_is_one_text_or_several() {
        check(r#""127.0.0.1:8080""#, Ok(&["127.0.0.1:8080"]));
        check(r#"["127.0.0.1:80", "unix:/run/a.sock"]"#, Ok(&["127.0.0.1:80", "unix:/run/a.sock"]));
        check(r#"["127.0.0.1:0", "127.0.0.1:0"]"#, Ok(&["127.0.0.1:0", "127.0.0.1:0"]));
        check("[]", Err("found 0 addresses, expected 1 to 16"));
        check(r#"["127.0.0.1:80", "127.0.0.1:80"]"#, Err("127.0.0.1:80 occurs twice"));
        check(r#""unix:a.sock""#, Err("absolute path of a socket"));
        check(r#""unix:""#, Err("absolute path of a socket"));
        check(&format!("\"unix:/{}\"", "a".repeat(200)), Err("longer than 103 bytes"));
        check("8080", Err("expected an address with a port"));
        check(r#""127.0.0.1:65536""#, Err("expected an address with a port"));
    }

    #[test]
    fn permissions_are_an_octal_text() {
        let read = |json: &str| serde_json::from_str::<SocketMode>(json).map(SocketMode::bits).ok();
        assert_eq!(read(r#""0660""#), Some(0o660));
        assert_eq!(read(r#""600""#), Some(0o600));
        for json in ["660", r#""0680""#, r#""4777""#, r#""66""#, r#""+660""#, r#""""#] {
            assert_eq!(read(json), None, "{json}");
        }
        assert_eq!(SocketMode::GROUP.to_string(), "0660");
    }
}
