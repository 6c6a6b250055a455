//! The trace that a request belongs to (W3C Trace Context, headers `traceparent` and `tracestate`), for the log and for
//! spans.

use axum::http::HeaderMap;
use axum::http::header::{HeaderName, HeaderValue};

use crate::telemetry::SpanIds;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// Maximum length of the vendors' part of a trace that is passed on, in bytes. The standard asks for 512.
const MAX_STATE: usize = 1_024;

/// Length of a value of version 00: version, trace id, span id and flags, with a dash between them.
const LENGTH: usize = 55;

/// A valid `traceparent`.
#[derive(Debug, Clone)]
pub(super) struct TraceContext(HeaderValue);

impl TraceContext {
    /// Returns the trace of a request, if it has a valid one. Any other is ignored, as the standard demands.
    pub(super) fn of(headers: &HeaderMap) -> Option<TraceContext> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next().filter(|value| is_valid(value.as_bytes()))?;
        values.next().is_none().then(|| TraceContext(value.clone()))
    }

    /// Returns the trace of a span of this server.
    pub(super) fn of_span(ids: SpanIds) -> Option<TraceContext> {
        HeaderValue::try_from(ids.to_string()).ok().map(TraceContext)
    }

    /// Returns the trace as the value of a header.
    pub(super) fn value(&self) -> &HeaderValue {
        &self.0
    }

    /// Returns the ids of the caller's span, if the caller has sampled it.
    pub(super) fn sampled_caller(&self) -> Option<SpanIds> {
        let flags = u8::from_str_radix(self.part(53, 55), 16).ok()?;
        SpanIds::from_hex(self.part(3, 35), self.part(36, 52)).filter(|_| flags & 1 == 1)
    }

    /// Returns the part of a trace that belongs to vendors: all values of `tracestate`, unless they are too long.
    pub(super) fn state_of(headers: &HeaderMap) -> String {
        let values: Vec<&str> = headers.get_all(TRACESTATE).iter().filter_map(|value| value.to_str().ok()).collect();
        let state = values.join(",");
        if state.len() <= MAX_STATE { state } else { String::new() }
    }

    /// Returns the ids of the trace and of the caller's span, as fields of a line in the log.
    pub(super) fn ids(trace: Option<&TraceContext>) -> (Option<&str>, Option<&str>) {
        (trace.map(|trace| trace.part(3, 35)), trace.map(|trace| trace.part(36, 52)))
    }

    /// Returns the same trace in memory of its own. A header shares the memory of the head that it came with.
    pub(super) fn copied(&self) -> TraceContext {
        TraceContext(HeaderValue::from_bytes(self.0.as_bytes()).unwrap_or_else(|_| self.0.clone()))
    }

    fn part(&self, from: usize, to: usize) -> &str {
        self.0.to_str().ok().and_then(|text| text.get(from..to)).unwrap_or_default()
    }
}

/// Returns true for a value of version 00, or of a later version that begins like one.
fn is_valid(value: &[u8]) -> bool {
    let is_hex = |part: &[u8]| part.iter().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte));
    let is_id = |part: &[u8]| is_hex(part) && part.iter().any(|byte| *byte != b'0');
    let Some((known, rest)) = value.split_at_checked(LENGTH) else { return false };
    let (version, dashes) = (&known[..2], [known[2], known[35], known[52]]);
    let is_later = is_hex(version) && version != b"00" && version != b"ff";
    dashes == [b'-'; 3]
        && (version == b"00" && rest.is_empty() || is_later && rest.first().is_none_or(|byte| *byte == b'-'))
        && is_id(&known[3..35])
        && is_id(&known[36..52])
        && is_hex(&known[53..])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the standard, sections 3.2 and 4.
    #[test]
    fn only_a_valid_header_is_taken() {
        let check = |values: &[&'static str], expected: Option<(&str, &str)>| {
            let headers = values.iter().map(|value| (TRACEPARENT, HeaderValue::from_static(value))).collect();
            let found = TraceContext::of(&headers);
            let (trace_id, span_id) = TraceContext::ids(found.as_ref());
            assert_eq!(trace_id.zip(span_id), expected, "{values:?}");
        };
        let ids = Some(("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"));
        check(&["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"], ids);
        check(&["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"], ids);
        check(&["cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"], ids);
        check(&["cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes"], ids);
        for wrong in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.more",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b77-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
        ] {
            check(&[wrong], None);
        }
        check(&["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"; 2], None);
        check(&[], None);
    }
}
