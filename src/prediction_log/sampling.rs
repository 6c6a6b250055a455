//! The choice of the requests that are logged: a pure function of their ids, so that replicas, and the feedback on their
//! predictions, agree without asking each other.

use uuid::Uuid;

/// Returns true if a request belongs to the sample with this share of all requests. A larger sample has all requests of a
/// smaller one.
///
/// ```
/// use leeway::prediction_log::is_sampled;
/// use uuid::Uuid;
/// let request = Uuid::now_v7();
/// assert!(is_sampled(request, 1.0) && !is_sampled(request, 0.0));
/// assert_eq!(is_sampled(request, 0.5), is_sampled(request, 0.5));
/// ```
pub fn is_sampled(request: Uuid, share: f64) -> bool {
    let (high, low) = request.as_u64_pair();
    // The highest 53 bits: a double has no more, and 2^53 of them divide [0, 1) evenly.
    let position = (mixed(high ^ mixed(low)) >> 11) as f64 / (1u64 << 53) as f64;
    position < share
}

/// Spreads the bits of a number: the finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
/// Generators, 2014). The time in an id is not random.
fn mixed(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The first outputs of SplitMix64 with the seed 1234567, from the reference implementation.
    #[test]
    fn bits_are_spread_as_by_the_reference() {
        assert_eq!(mixed(1_234_567), 6_457_827_717_110_365_317);
    }

    #[test]
    fn a_sample_has_its_share_of_the_requests() {
        for share in [0.01, 0.1, 0.5, 0.9] {
            let sampled = (0..20_000).filter(|_| is_sampled(Uuid::now_v7(), share)).count() as f64;
            // Six standard deviations of a binomial distribution.
            let tolerated = 6.0 * (20_000.0 * share * (1.0 - share)).sqrt();
            assert!((sampled - 20_000.0 * share).abs() < tolerated, "{share}: {sampled}");
        }
    }

    proptest! {
        #[test]
        fn a_larger_sample_has_the_requests_of_a_smaller_one(id: u128, one in 0f64..=1.0, other in 0f64..=1.0) {
            let request = Uuid::from_u128(id);
            let (less, more) = (one.min(other), one.max(other));
            prop_assert!(!is_sampled(request, less) || is_sampled(request, more));
        }
    }
}
