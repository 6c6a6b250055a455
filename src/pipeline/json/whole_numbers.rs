//! Exact reading of whole numbers in any notation of JSON: `3`, `3.0`, `3e2`, `9007199254740993`.
//!
//! Most JSON readers use double precision, which cannot represent all whole numbers beyond 2^53. They would silently
//! change identifiers and hashes.

/// Maximum number of digits of a 128-bit number.
const MAX_DIGITS: usize = 38;

/// Returns the value of a JSON number, if it is a whole number of at most 38 digits.
pub(crate) fn whole_number(text: &str) -> Option<i128> {
    let (is_negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    // Leading zeros of the whole part and trailing zeros of the fraction do not change the value.
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    if whole.is_empty() && fraction.is_empty() {
        return Some(0);
    }
    // If the exponent does not fit in 64 bits, the number is too large or not whole.
    let places = exponent.strip_prefix('+').unwrap_or(exponent).parse::<i64>().ok()?;
    let mut digits = 0i128;
    let mut count = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        count += usize::from(count > 0 || digit != b'0');
        if count > MAX_DIGITS {
            // Refuses more digits, even if the number is whole (1000…000e-40): such numbers are unusual.
            return None;
        }
        digits = digits * 10 + i128::from(digit - b'0');
    }
    let mut places = places.checked_sub(i64::try_from(fraction.len()).ok()?)?;
    while places < 0 {
        if digits % 10 != 0 {
            return None;
        }
        digits /= 10;
        places += 1;
    }
    let scale = u32::try_from(places).ok().filter(|places| *places as usize <= MAX_DIGITS)?;
    let value = digits.checked_mul(10i128.checked_pow(scale)?)?;
    Some(if is_negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn whole_numbers_are_read_however_they_are_written() {
        for (text, value) in [
            ("3", 3),
            ("-3.0", -3),
            ("3e2", 300),
            ("3E+2", 300),
            ("1.5e1", 15),
            ("300e-2", 3),
            ("-0", 0),
            ("-0.0e-5", 0),
            ("0e99999999999999999999", 0),
            ("9007199254740993", 9_007_199_254_740_993),
            ("9007199254740993.0", 9_007_199_254_740_993),
            ("0.00018446744073709551615e23", 18_446_744_073_709_551_615),
            ("-9223372036854775808", i64::MIN.into()),
        ] {
            assert_eq!(whole_number(text), Some(value), "{text}");
        }
    }

    #[test]
    fn what_is_no_whole_number_or_too_large_is_none() {
        for text in
            ["1.5", "1e-1", "1e-99999999999999999999", "1e39", "1e999999999", "1e99999999999999999999", "5e-324"]
        {
            assert_eq!(whole_number(text), None, "{text}");
        }
        assert_eq!(whole_number(&"9".repeat(1 << 20)), None);
    }

    proptest! {
        #[test]
        fn every_whole_number_of_64_bits_is_read(value in any::<i64>(), zeros in 0usize..5, places in 0usize..5) {
            let zeros = if zeros == 0 { String::new() } else { format!(".{}", "0".repeat(zeros)) };
            prop_assert_eq!(whole_number(&format!("{value}{zeros}")), Some(value.into()));
            let scaled = format!("{value}{}e-{places}", "0".repeat(places));
            prop_assert_eq!(whole_number(&scaled), Some(value.into()));
        }
    }
}
