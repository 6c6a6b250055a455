//! The address of a listener: `127.0.0.1:8080`, `localhost:8080`, or `:8080` for all addresses.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};

/// The accepted form of an address, for messages.
const EXPECTED: &str = "an address with a port, as in 127.0.0.1:8080, localhost:8080, or :8080 for all addresses";

/// Parses the address of a listener. A name is resolved; if it has IPv4 and IPv6 addresses, IPv4 is preferred.
///
/// ```
/// use leeway::config::listen_address;
/// assert_eq!(listen_address("[::1]:8080").unwrap().to_string(), "[::1]:8080");
/// assert!(listen_address("localhost:8080").unwrap().ip().is_loopback());
/// assert!(listen_address(":8080").unwrap().ip().is_unspecified());
/// assert!(listen_address("8080").unwrap_err().contains("as in 127.0.0.1:8080"));
/// ```
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let unexpected = || format!("found {text:?}, expected {EXPECTED}");
    let (host, port) = text.rsplit_once(':').ok_or_else(unexpected)?;
    let port: u16 = port.parse().map_err(|_| unexpected())?;
    if host.is_empty() {
        return Ok(all_addresses(port));
    }
    let found: Vec<SocketAddr> =
        (host, port).to_socket_addrs().map_err(|error| format!("{}; {host:?}: {error}", unexpected()))?.collect();
    found.iter().find(|address| address.is_ipv4()).or(found.first()).copied().ok_or_else(unexpected)
}

/// Returns the address that stands for all addresses of the machine. If the machine has IPv6, this is the IPv6 address,
/// which accepts IPv4, too.
fn all_addresses(port: u16) -> SocketAddr {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        Ok(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
        Err(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
    }
}

pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    struct Visitor;

    impl serde::de::Visitor<'_> for Visitor {
        type Value = SocketAddr;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(EXPECTED)
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SocketAddr, E> {
            listen_address(text).map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Visitor)
}
