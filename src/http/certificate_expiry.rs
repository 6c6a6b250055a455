//! Reads the time of expiry of a certificate (RFC 5280, section 4.1), and nothing else of it.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Tags of the encoding (X.690).
const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// Tag of the version of a certificate, which is optional.
const VERSION: u8 = 0xa0;

/// Returns the last moment at which a certificate in DER is valid.
pub(super) fn expiry(certificate: &[u8]) -> Option<Timestamp> {
    let (certificate, _) = inside(SEQUENCE, certificate)?;
    let (mut fields, _) = inside(SEQUENCE, certificate)?;
    if fields.first() == Some(&VERSION) {
        (_, fields) = inside(VERSION, fields)?;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        (_, _, fields) = element(fields)?;
    }
    let (validity, _) = inside(SEQUENCE, fields)?;
    let (_, _, after_start) = element(validity)?;
    let (tag, end, _) = element(after_start)?;
    time(tag, std::str::from_utf8(end).ok()?)
}

/// Returns the tag and the content of the first element, and the bytes after it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = bytes.split_first_chunk()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // The length itself takes up to four bytes.
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// Returns the content of the first element, which must have this tag, and the bytes after it.
fn inside(expected: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (tag, content, rest) = element(bytes)?;
    (tag == expected).then_some((content, rest))
}

/// Parses a time: `YYMMDDHHMMSSZ`, where years below 50 are in this century, or `YYYYMMDDHHMMSSZ`.
fn time(tag: u8, text: &str) -> Option<Timestamp> {
    let digits = text.strip_suffix('Z').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let full = match (tag, digits.len()) {
        (UTC_TIME, 12) if digits < "50" => format!("20{digits}"),
        (UTC_TIME, 12) => format!("19{digits}"),
        (GENERALIZED_TIME, 14) => digits.to_owned(),
        _ => return None,
    };
    let part = |from: usize, to: usize| full.get(from..to)?.parse::<i8>().ok();
    let date = DateTime::new(
        full.get(..4)?.parse().ok()?,
        part(4, 6)?,
        part(6, 8)?,
        part(8, 10)?,
        part(10, 12)?,
        part(12, 14)?,
        0,
    );
    TimeZone::UTC.to_timestamp(date.ok()?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn certificate(year: i32) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 12, 31);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_time_of_expiry_is_read_in_both_forms() {
        // RFC 5280: until 2049 in the short form, and then in the long one.
        for (year, expected) in
            [(2030, "2030-12-31T00:00:00Z"), (2049, "2049-12-31T00:00:00Z"), (2051, "2051-12-31T00:00:00Z")]
        {
            assert_eq!(expiry(&certificate(year)).unwrap(), expected.parse().unwrap());
        }
    }

    proptest! {
        #[test]
        fn damaged_bytes_have_no_time_and_end(at in 0usize..400, byte: u8, length in 0usize..500) {
            let mut bytes = certificate(2030);
            let last = bytes.len() - 1;
            bytes[at.min(last)] = byte;
            bytes.truncate(length);
            let _ = expiry(&bytes);
        }
    }
}
