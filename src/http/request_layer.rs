//! The outermost layer: gives every request its id, notes its time of arrival, and finishes every response.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::extract::{Request, State};
use axum::http::Version;
use axum::http::header::{CONNECTION, DATE, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING};
use axum::http::uri::Authority;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use uuid::{NoContext, Uuid};

use super::HttpState;
use super::body;
use super::context::{self, Failure, RequestContext};
use super::error_response::{self, Format};
use super::request_report::RequestReport;
use crate::error::{Error, Result};

/// Name of the header with the request id, in requests and responses.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Attaches a context to a request, runs its handler, renders a failure, and adds the headers that every response has.
pub(super) async fn layer(
    State((state, format)): State<(Arc<HttpState>, Format)>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let above_limit = context::above_limit(&request);
    let unique = new_id();
    let id = request_id(&request, unique);
    let mut report = RequestReport::begin(&state, &request, &id, started, format);
    let notes = report.notes();
    RequestContext { unique, id: id.clone(), started, above_limit, notes }.attach(&mut request);

    let mut response = match check_head(&request) {
        Ok(()) => next.run(request).await,
        Err(error) => {
            let (head, mut body) = request.into_parts();
            // A body that cannot be decoded is not read.
            if error != Error::UnsupportedTransfer {
                body::discard(&head, &mut body, &error).await;
            }
            Failure::from(error).into_response()
        }
    };

    if let Some(Failure(error)) = context::take_failure(&mut response) {
        state.monitor.server().error_response(error.code());
        report.failed(&error, &id);
        response = error_response::render(&error, &id, format);
    }
    let headers = response.headers_mut();
    if above_limit.is_some() || !state.readiness.is_ready() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    report.answered(&mut response, &id, started);
    let headers = response.headers_mut();
    headers.insert(X_REQUEST_ID, id);
    // Replaces the date that hyper would add, which stays ahead after the clock is set back.
    if let Some(date) = date(SystemTime::now()) {
        headers.insert(DATE, date);
    }
    response
}

/// Returns the date header of a response at this time; `None` if HTTP cannot express the date.
fn date(now: SystemTime) -> Option<HeaderValue> {
    thread_local! {
        /// The last date header of this thread, with its time in seconds since 1970.
        static LAST: RefCell<Option<(u64, HeaderValue)>> = const { RefCell::new(None) };
    }
    let second = now.duration_since(SystemTime::UNIX_EPOCH).ok().filter(|_| is_date(now))?.as_secs();
    LAST.with_borrow_mut(|last| {
        if last.as_ref().is_none_or(|(known, _)| *known != second) {
            let date = HeaderValue::try_from(httpdate::fmt_http_date(now)).ok()?;
            *last = Some((second, date));
        }
        last.as_ref().map(|(_, date)| date.clone())
    })
}

/// Refuses a request head that servers and proxies may interpret in different ways (RFC 9112, sections 3.2 and 6.1).
fn check_head(request: &Request) -> Result<()> {
    let headers = request.headers();
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => {
            let is_other = |authority: &Authority| !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes());
            if request.version() == Version::HTTP_2 && request.uri().authority().is_some_and(is_other) {
                let problem = "the header Host names another host than :authority; send one of them";
                return Err(Error::InvalidInput(problem.to_owned()));
            }
        }
        // HTTP/2 has the host in the URI.
        (None, _) if request.version() == Version::HTTP_2 && request.uri().authority().is_some() => {}
        (None, _) if request.version() < Version::HTTP_11 => {}
        (None, _) if request.version() == Version::HTTP_2 => {
            return Err(Error::InvalidInput("HTTP/2 needs :authority, or the header Host".to_owned()));
        }
        (None, _) => return Err(Error::InvalidInput("HTTP/1.1 needs the header Host".to_owned())),
        (Some(_), Some(_)) => {
            return Err(Error::InvalidInput("the header Host occurs twice; send it once".to_owned()));
        }
    }
    let codings = headers.get_all(TRANSFER_ENCODING).iter().flat_map(|value| value.as_bytes().split(|&b| b == b','));
    let mut codings = codings.map(<[u8]>::trim_ascii).filter(|coding| !coding.is_empty());
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Error::UnsupportedTransfer),
    }
}

/// Returns true if the clock shows a time that HTTP can express as a date.
pub(super) fn has_a_date() -> bool {
    is_date(SystemTime::now())
}

/// Returns true if HTTP can express a time as a date: 1970 to 9999.
fn is_date(time: SystemTime) -> bool {
    const YEAR_10000: Duration = Duration::from_secs(253_402_300_800);
    // A margin of a day, because the check is done once for the whole lifetime of a connection.
    let last = YEAR_10000.saturating_sub(Duration::from_secs(86_400));
    time.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| since < last)
}

/// Returns an id that no other request has.
pub(super) fn new_id() -> Uuid {
    unique_at(SystemTime::now())
}

/// Returns a UUID of version 7 with this time. If the clock is set back, later ids have earlier times. A time before
/// 1970 counts as 1970, because a UUID cannot express it.
fn unique_at(now: SystemTime) -> Uuid {
    let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Uuid::new_v7(uuid::Timestamp::from_unix(NoContext, since_1970.as_secs(), since_1970.subsec_nanos()))
}

/// Returns the request id that the caller sent if it is 1–128 visible ASCII characters that need no quoting in a log,
/// else the unique id.
fn request_id(request: &Request, unique: Uuid) -> HeaderValue {
    let sane = |value: &&HeaderValue| {
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:/+=@".contains(b);
        (1..=128).contains(&value.len()) && value.as_bytes().iter().all(allowed)
    };
    if let Some(id) = request.headers().get(X_REQUEST_ID).filter(sane) {
        return id.clone();
    }
    let mut text = Uuid::encode_buffer();
    // A hyphenated UUID is always a valid header value.
    HeaderValue::from_str(unique.hyphenated().encode_lower(&mut text)).unwrap_or(HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn seconds(id: Uuid) -> u64 {
        id.get_timestamp().map_or(0, |time| time.to_unix().0)
    }

    #[test]
    fn a_date_follows_the_clock_wherever_it_goes() {
        let at = |seconds: u64| date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        // The example of RFC 9110, section 5.6.7; an hour ahead, and back.
        for (seconds, expected) in [
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (784_115_377, "Sun, 06 Nov 1994 09:49:37 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
        ] {
            assert_eq!(at(seconds).unwrap(), expected);
        }
        assert_eq!(at(253_402_300_800), None);
        assert_eq!(date(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), None);
    }

    #[test]
    fn an_id_has_the_time_that_the_clock_says_whatever_it_says() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        // The clock goes an hour ahead and back. Times after 2038 and far in the future work, too.
        for time in [1_800_003_600, 1_800_000_000, 1_800_000_001, 1 << 32, 221_845_392_000] {
            assert_eq!(seconds(unique_at(at(time))), time);
        }
        let before_1970 = SystemTime::UNIX_EPOCH - Duration::from_secs(10 * 365 * 86_400);
        assert_eq!(seconds(unique_at(before_1970)), 0);
        let unique: HashSet<Uuid> = (0..10_000).map(|_| unique_at(before_1970)).collect();
        assert_eq!(unique.len(), 10_000);
    }
}
