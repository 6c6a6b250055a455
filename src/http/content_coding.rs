//! Content codings (RFC 9110, section 8.4): gzip (RFC 1952) and zstd (RFC 8878, RFC 9659).

use axum::http::HeaderMap;
use axum::http::header::{ACCEPT_ENCODING, HeaderValue};

/// A content coding of bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Zstd,
}

/// The content codings of request bodies, as the header `Accept-Encoding` names them.
pub(super) const ACCEPTED: HeaderValue = HeaderValue::from_static("gzip, zstd");

impl Coding {
    /// Returns the coding with this name.
    pub(super) fn of(name: &[u8]) -> Option<Coding> {
        if name.eq_ignore_ascii_case(b"gzip") || name.eq_ignore_ascii_case(b"x-gzip") {
            Some(Coding::Gzip)
        } else if name.eq_ignore_ascii_case(b"zstd") {
            Some(Coding::Zstd)
        } else {
            None
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Zstd => "zstd",
        }
    }
}

/// Returns the coding among `offered` that the client prefers (RFC 9110, section 12.5.3); `None` if it prefers no
/// coding. Of several with the same weight, the first one in `offered` wins.
pub(super) fn preferred(headers: &HeaderMap, offered: &[Coding]) -> Option<Coding> {
    let mut accepted = Accepted::default();
    for value in headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()) {
        value.split(',').for_each(|element| accepted.add(element));
    }
    let mut best: Option<(Coding, f32)> = None;
    for coding in offered {
        let weight = accepted.weight(*coding);
        if weight > best.map_or(0.0, |(_, weight)| weight) {
            best = Some((*coding, weight));
        }
    }
    best.filter(|(_, weight)| *weight >= accepted.identity.unwrap_or(0.0)).map(|(coding, _)| coding)
}

/// The weights of a client's `Accept-Encoding`.
#[derive(Debug, Default)]
struct Accepted {
    gzip: Option<f32>,
    zstd: Option<f32>,
    identity: Option<f32>,
    any: Option<f32>,
}

impl Accepted {
    fn add(&mut self, element: &str) {
        let mut parts = element.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let quality = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        // A weight that is no number counts as 0: the client then gets an uncompressed answer, which it understands.
        let quality = quality.map_or(1.0, |quality| quality.trim().parse().unwrap_or(0.0));
        match Coding::of(name.as_bytes()) {
            Some(Coding::Gzip) => self.gzip = Some(quality),
            Some(Coding::Zstd) => self.zstd = Some(quality),
            None if name.eq_ignore_ascii_case("identity") => self.identity = Some(quality),
            None if name == "*" => self.any = Some(quality),
            None => {}
        }
    }

    fn weight(&self, coding: Coding) -> f32 {
        let own = match coding {
            Coding::Gzip => self.gzip,
            Coding::Zstd => self.zstd,
        };
        own.or(self.any).unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_chooses_by_weights() {
        let check = |value: &'static str, expected: Option<Coding>| {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))]);
            assert_eq!(preferred(&headers, &[Coding::Zstd, Coding::Gzip]), expected, "{value}");
        };
        check("gzip", Some(Coding::Gzip));
        check("x-gzip", Some(Coding::Gzip));
        check("br, GZIP;q=0.5", Some(Coding::Gzip));
        check("gzip, deflate, br, zstd", Some(Coding::Zstd));
        check("gzip;q=1.0, zstd;q=0.9", Some(Coding::Gzip));
        check("gzip; q=0.2 , zstd;Q=0.1", Some(Coding::Gzip));
        check("*", Some(Coding::Zstd));
        check("zstd;q=0, *", Some(Coding::Gzip));
        check("gzip;q=0", None);
        check("gzip; q=0.000, deflate", None);
        check("gzip;q=0.5, identity", None);
        check("gzip, identity;q=0.5", Some(Coding::Gzip));
        check("gzip;q=high", None);
        check("gzip;q=NaN", None);
        check("identity", None);
        check("br", None);
        check("", None);
        assert_eq!(preferred(&HeaderMap::new(), &[Coding::Gzip]), None);
    }
}
