//! `[http.cors]`: web pages of other origins that may send requests to the data listener.

use serde::{Deserialize, Serialize};

/// Origin that stands for all origins.
const ANY: &str = "*";
/// Maximum number of origins.
const MAX_ORIGINS: usize = 256;

/// `[http.cors]`: web pages of other origins that may send requests to the data listener. Without origins, browsers
/// refuse such requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CorsConfig {
    /// Origins of the web pages, as in `https://app.example`, or only `*` for all origins.
    pub origins: Vec<String>,
    /// True if browsers may send cookies and other credentials of theirs. Not possible for all origins.
    pub credentials: bool,
    /// Time for which a browser may remember the answer to a preflight request, in seconds.
    pub max_age_s: u32,
}

impl Default for CorsConfig {
    fn default() -> Self {
        // Chromium remembers no answer for longer than two hours.
        CorsConfig { origins: Vec::new(), credentials: false, max_age_s: 7_200 }
    }
}

impl CorsConfig {
    /// Returns true if web pages of all origins may send requests.
    pub fn is_for_all(&self) -> bool {
        self.origins.iter().any(|origin| origin == ANY)
    }

    /// Returns the first problem of these settings.
    pub(super) fn problem(&self) -> Option<String> {
        if self.is_for_all() && self.origins.len() > 1 {
            return Some("http.cors.origins: \"*\" stands for all origins; remove the others, or \"*\"".to_owned());
        }
        if self.is_for_all() && self.credentials {
            return Some(
                "http.cors.credentials: not possible with \"*\", because every web page could then act for its \
                 visitors; list the origins"
                    .to_owned(),
            );
        }
        if self.origins.len() > MAX_ORIGINS {
            return Some(format!("http.cors.origins: {} are too many, at most {MAX_ORIGINS}", self.origins.len()));
        }
        let wrong = self.origins.iter().find(|origin| *origin != ANY && !is_origin(origin))?;
        Some(format!(
            "http.cors.origins: found {wrong:?}, expected an origin as browsers send it: a scheme and a host in lower \
             case, without a path or a slash at the end, as in https://app.example or http://localhost:3000"
        ))
    }
}

/// Returns true if a browser may send this text as the origin of a web page.
fn is_origin(text: &str) -> bool {
    let Some((scheme, host)) = text.split_once("://") else { return false };
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    // A browser leaves out the usual port of a scheme.
    let usual = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte));
    let is_name = (1..=253).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._:[]".contains(&byte));
    let is_port = port.is_none_or(|port| {
        port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|number| number > 0 && Some(number) != usual)
    });
    is_scheme && is_name && is_port
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        for origin in ["https://app.example", "http://localhost:3000", "http://[::1]:3000", "chrome-extension://abc"] {
            assert!(is_origin(origin), "{origin}");
        }
        for text in [
            "app.example",
            "https://app.example/",
            "https://app.example/path",
            "https://App.example",
            "https://app.example:443",
            "https://*.example",
            "https://",
            "null",
            "https://app.example:port",
        ] {
            assert!(!is_origin(text), "{text}");
        }
    }

    #[test]
    fn all_origins_stand_alone_and_without_credentials() {
        let problem = |origins: &[&str], credentials| {
            let origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
            CorsConfig { origins, credentials, ..CorsConfig::default() }.problem().unwrap_or_default()
        };
        assert_eq!(problem(&["*"], false), "");
        assert_eq!(problem(&["https://app.example"], true), "");
        assert!(problem(&["*", "https://app.example"], false).contains("stands for all origins"));
        assert!(problem(&["*"], true).contains("list the origins"));
        assert!(problem(&["https://app.example/"], false).contains("found \"https://app.example/\""));
    }
}
