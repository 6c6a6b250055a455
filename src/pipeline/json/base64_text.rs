//! Decodes base64 in the forms that encoders produce. Both alphabets of RFC 4648 are accepted, with or without padding,
//! split into lines, or as a data URL.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};

/// Base64 settings that accept missing padding.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

const STANDARD: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::URL_SAFE, LENIENT);

/// Returns the bytes of a base64 text.
pub(crate) fn decoded(text: &str) -> Result<Vec<u8>, String> {
    // Browsers produce data URLs.
    let data = text.strip_prefix("data:").and_then(|url| url.split_once(";base64,"));
    let encoded = data.map_or(text, |(_, encoded)| encoded).trim_ascii();
    // GNU's base64, Python's encodebytes and MIME split the text into lines.
    let encoded = match memchr::memchr2(b'\n', b' ', encoded.as_bytes()) {
        None => Cow::Borrowed(encoded),
        Some(_) => Cow::Owned(encoded.split_ascii_whitespace().collect::<String>()),
    };
    let is_url_safe = memchr::memchr2(b'-', b'_', encoded.as_bytes()).is_some();
    let decoded = if is_url_safe { &URL_SAFE } else { &STANDARD }.decode(&*encoded);
    decoded.map_err(|error| format!("found a string that is not base64 (A-Z, a-z, 0-9, + and /, or - and _): {error}"))
}

/// Decodes a text, and panics if the bytes do not encode to it again, whatever its form. For the fuzz targets of `fuzz/`.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzzed(text: &str) {
    match decoded(text) {
        Ok(bytes) => {
            assert!(bytes.len() <= text.len() / 4 * 3 + 3);
            let again = decoded(&STANDARD.encode(&bytes));
            assert_eq!(again, Ok(bytes));
        }
        Err(problem) => assert!(problem.len() <= 1_000, "a message of {} bytes", problem.len()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_flavour_is_taken() {
        let bytes = [0xfb, 0xff, 0xbf, 0x00, 0x10];
        for text in [
            "+/+/ABA=",
            "+/+/ABA",
            "-_-_ABA=",
            "-_-_ABA",
            "+/+/\nABA=\n",
            "+/+/\r\nABA=\r\n",
            "  -_-_ AB A",
            "data:image/png;base64,+/+/ABA=",
            "data:image/png;charset=x;base64,-_-_\nABA",
        ] {
            assert_eq!(decoded(text).as_deref(), Ok(&bytes[..]), "{text:?}");
        }
        for text in ["%", "+_+_ABA=", "data:image/png,abc", "A", "ABCDE"] {
            assert!(decoded(text).unwrap_err().starts_with("found a string that is not base64 (A-Z"), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(bytes in prop::collection::vec(any::<u8>(), 0..200), line in 1usize..80) {
            for engine in [&STANDARD, &URL_SAFE] {
                let encoded = engine.encode(&bytes);
                prop_assert_eq!(decoded(&encoded).unwrap(), bytes.clone());
                let lines: Vec<&str> = encoded.as_bytes().chunks(line).map(|line| std::str::from_utf8(line).unwrap()).collect();
                prop_assert_eq!(decoded(&lines.join("\n")).unwrap(), bytes.clone());
            }
        }
    }
}
