//! Addresses of servers, as `--server` takes them: `http://host:8081`, `https://host`, `host:8081`, `dns:host:8081` or
//! `unix:/run/leeway.sock`.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;

use crate::config::{ListenAddress, ListenAddresses};

/// The accepted forms, for messages.
const EXPECTED: &str = "http://HOST:PORT, https://HOST:PORT, HOST:PORT, dns:HOST:PORT or unix:/PATH";

/// The address of a server that a command sends its requests to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ServerAddress {
    /// A host with a port, and perhaps a path before all others. It may be a name.
    Url {
        is_encrypted: bool,
        /// Host and port, and the rest of the URL, without a slash at its end.
        rest: String,
    },
    /// A name and a port: all servers at the addresses of the name.
    Dns(String),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl ServerAddress {
    /// Parses one address.
    pub(super) fn parse(text: &str) -> Result<ServerAddress, String> {
        let wrong = |problem: &str| format!("found {text:?}, which {problem}; expected {EXPECTED}");
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path.trim_start_matches("//"));
            return match path.is_absolute() {
                true => Ok(ServerAddress::Unix(path)),
                false => Err(wrong("is no absolute path")),
            };
        }
        if let Some(name) = text.strip_prefix("dns:") {
            return match ServerAddress::parse(name) {
                Ok(ServerAddress::Url { is_encrypted: false, rest }) if name == rest && !rest.contains('/') => {
                    Ok(ServerAddress::Dns(rest))
                }
                _ => Err(wrong("has no name and port")),
            };
        }
        let (is_encrypted, rest) = match text.split_once("://") {
            None => (false, text),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some(_) => return Err(wrong("has another scheme")),
        };
        let rest = rest.trim_end_matches('/');
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = match authority.rsplit_once(':') {
            // The colons of an IPv6 address are inside of brackets.
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        if port.is_some_and(|port| port.parse::<u16>().is_err()) {
            return Err(wrong("has no number as its port"));
        }
        if port.is_none() && !text.contains("://") {
            return Err(wrong("has no port"));
        }
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
        if host.is_empty() || !host.chars().all(is_host) {
            return Err(wrong("has no name or address of a host"));
        }
        if path.contains(['?', '#', '@']) || path.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(wrong("has more than a path behind the host"));
        }
        Ok(ServerAddress::Url { is_encrypted, rest: rest.to_owned() })
    }

    /// Parses addresses that are separated by commas.
    pub(super) fn parse_list(text: &str) -> Result<Vec<ServerAddress>, String> {
        text.split(',').map(|address| ServerAddress::parse(address.trim())).collect()
    }

    /// Returns the addresses of single servers: those of a name, in order, or this one.
    pub(super) fn resolve(self) -> Result<Vec<ServerAddress>, String> {
        let ServerAddress::Dns(name) = &self else { return Ok(vec![self]) };
        let found = name.to_socket_addrs().map_err(|error| format!("{self} cannot be resolved: {error}"))?;
        let found: BTreeSet<SocketAddr> = found.collect();
        let url = |address: SocketAddr| ServerAddress::Url { is_encrypted: false, rest: address.to_string() };
        match found.is_empty() {
            true => Err(format!("{self} has no addresses")),
            false => Ok(found.into_iter().map(url).collect()),
        }
    }

    /// Returns the address to connect to of a configured listener: an IP address, or else a Unix socket. A Unix socket of
    /// an encrypted listener comes first, because it needs no encryption.
    pub(super) fn of_listener(addresses: &ListenAddresses, is_encrypted: bool) -> ServerAddress {
        let is_tcp = |address: &ListenAddress| matches!(address, ListenAddress::Tcp(_));
        let preferred = addresses.iter().find(|address| is_tcp(address) != is_encrypted);
        match preferred.unwrap_or(addresses.first()) {
            ListenAddress::Tcp(address) => ServerAddress::Url { is_encrypted, rest: or_loopback(*address).to_string() },
            ListenAddress::Unix(path) => ServerAddress::Unix(path.clone()),
        }
    }

    pub(super) fn is_encrypted(&self) -> bool {
        matches!(self, ServerAddress::Url { is_encrypted: true, .. })
    }

    /// Returns the URL of a path. For a Unix socket, the host of the URL is not used to connect.
    pub(super) fn url(&self, path: &str) -> String {
        match self {
            ServerAddress::Url { is_encrypted: false, rest } | ServerAddress::Dns(rest) => {
                format!("http://{rest}{path}")
            }
            ServerAddress::Url { is_encrypted: true, rest } => format!("https://{rest}{path}"),
            ServerAddress::Unix(_) => format!("http://127.0.0.1{path}"),
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerAddress::Url { is_encrypted: false, rest } => f.write_str(rest),
            ServerAddress::Url { is_encrypted: true, rest } => write!(f, "https://{rest}"),
            ServerAddress::Dns(name) => write!(f, "dns:{name}"),
            ServerAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Returns the address to connect to: loopback for a server that listens on all addresses.
fn or_loopback(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port_or_a_path() {
        let url = |text: &str| ServerAddress::parse(text).map(|address| address.url("/metrics"));
        for (text, expected) in [
            ("http://a:8081", "http://a:8081/metrics"),
            ("HTTPS://a.example/", "https://a.example/metrics"),
            ("https://a.example/leeway/", "https://a.example/leeway/metrics"),
            ("127.0.0.1:8081", "http://127.0.0.1:8081/metrics"),
            ("localhost:8081", "http://localhost:8081/metrics"),
            ("[::1]:8081", "http://[::1]:8081/metrics"),
            ("http://[::1]", "http://[::1]/metrics"),
            ("unix:/run/leeway.sock", "http://127.0.0.1/metrics"),
        ] {
            assert_eq!(url(text).as_deref(), Ok(expected), "{text}");
        }
        for (text, problem) in [
            ("", "has no port"),
            ("localhost", "has no port"),
            ("http://", "no name or address of a host"),
            ("http://user@host:1", "no name or address of a host"),
            ("a:b", "no number as its port"),
            ("ftp://a:1", "another scheme"),
            ("unix:leeway.sock", "no absolute path"),
            ("dns:leeway", "has no name and port"),
            ("dns:http://leeway:8081", "has no name and port"),
            ("dns:leeway:8081/path", "has no name and port"),
            ("http://a:1/b?c", "more than a path"),
        ] {
            assert!(url(text).is_err_and(|error| error.contains(problem)), "{text}");
        }
        assert_eq!(ServerAddress::parse_list("a:1, b:2").unwrap().len(), 2);
        assert!(ServerAddress::parse_list("a:1,,b:2").is_err());
    }

    #[test]
    fn a_name_stands_for_all_its_addresses() {
        let resolved = |text: &str| ServerAddress::parse(text).unwrap().resolve().unwrap();
        let here = ["127.0.0.1:8081", "[::1]:8081"].map(|text| ServerAddress::parse(text).unwrap());
        let found = resolved("dns:localhost:8081");
        assert!(!found.is_empty() && found.iter().all(|address| here.contains(address)), "{found:?}");
        assert_eq!(resolved("dns:127.0.0.1:8081"), here[..1]);
        assert_eq!(resolved("localhost:8081"), [ServerAddress::parse("localhost:8081").unwrap()]);
        let error = ServerAddress::parse("dns:nothing.invalid:1").unwrap().resolve().unwrap_err();
        assert!(error.starts_with("dns:nothing.invalid:1 cannot be resolved"), "{error}");
    }

    #[test]
    fn the_address_of_a_listener_is_one_to_connect_to() {
        let of = |text: &[&str], is_encrypted| {
            let parts = text.iter().map(|text| ListenAddresses::parse(text).unwrap()).collect();
            ServerAddress::of_listener(&ListenAddresses::join(parts).unwrap(), is_encrypted).to_string()
        };
        assert_eq!(of(&["0.0.0.0:1"], false), "127.0.0.1:1");
        assert_eq!(of(&["[::]:1"], true), "https://[::1]:1");
        assert_eq!(of(&["unix:/a", "127.0.0.1:1"], false), "127.0.0.1:1");
        assert_eq!(of(&["127.0.0.1:1", "unix:/a"], true), "unix:/a");
    }
}
