//! Numbers of 16 bits, rounded once.
//!
//! The conversions of the crate `half` from 64 bits round to 32 bits first, or drop the last bits, so that some numbers
//! end as the wrong neighbour. Here 32 bits are rounded to odd, which keeps what the second rounding has to know: S.
//! Boldo and G. Melquiond, "When double rounding is odd", 2005.

use half::{bf16, f16};

/// Returns the nearest number of type float16, as NumPy does.
pub fn f16_of(number: f64) -> f16 {
    f16::from_f32(rounded_to_odd(number))
}

/// Returns the nearest number of type bfloat16.
pub fn bf16_of(number: f64) -> bf16 {
    bf16::from_f32(rounded_to_odd(number))
}

/// Returns the number if 32 bits have it; else, of the two beside it, the one whose last bit is 1.
fn rounded_to_odd(number: f64) -> f32 {
    let nearest = number as f32;
    if nearest.is_nan() || f64::from(nearest) == number {
        return nearest;
    }
    // The bits of a number towards zero are one less, and so are those of the largest number below infinity's.
    let is_beyond = f64::from(nearest).abs() > number.abs();
    f32::from_bits((nearest.to_bits() - u32::from(is_beyond)) | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bits are those of `numpy.float16(number)`, and of `ml_dtypes.bfloat16(number)` but for the last place of
    /// 1 + 2⁻⁸ + 2⁻⁴⁰, where that package rounds twice.
    #[test]
    fn a_number_is_rounded_once() {
        for (number, half, brain) in [
            (65_519.999, 0x7bff, 0x4780),
            (65_520.0, 0x7c00, 0x4780),
            (-65_519.999, 0xfbff, 0xc780),
            (1.0 + f64::powi(2.0, -11) + f64::powi(2.0, -40), 0x3c01, 0x3f80),
            (1.0 + f64::powi(2.0, -11), 0x3c00, 0x3f80),
            (1.0 + 3.0 * f64::powi(2.0, -11) - f64::powi(2.0, -40), 0x3c01, 0x3f80),
            (1.0 + f64::powi(2.0, -8) + f64::powi(2.0, -40), 0x3c04, 0x3f81),
            (f64::powi(2.0, -25) + f64::powi(2.0, -70), 0x0001, 0x3300),
            (f64::powi(2.0, -25), 0x0000, 0x3300),
            (5e-324, 0x0000, 0x0000),
            (1e300, 0x7c00, 0x7f80),
            (-0.0, 0x8000, 0x8000),
            (f64::INFINITY, 0x7c00, 0x7f80),
        ] {
            assert_eq!((f16_of(number).to_bits(), bf16_of(number).to_bits()), (half, brain), "{number:e}");
        }
        assert!(f16_of(f64::NAN).is_nan() && bf16_of(f64::NAN).is_nan());
    }
}
