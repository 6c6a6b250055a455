//! Division of a model's requests over its versions: shares in percent, and a stable choice of a version for a key.
//!
//! Pure: no clock, no randomness. The same key gets the same version on every replica and after every restart.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

use crate::identity::{ModelName, Version};

/// A share of a model's requests, in steps of a hundredth of a percent. Written in percent: `12.5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Share(u16);

/// Division of a model's requests over its versions. The shares add up to 100%, and none is 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "BTreeMap<Version, Share>", into = "BTreeMap<Version, Share>")]
pub struct TrafficSplit(BTreeMap<Version, Share>);

/// Shadow traffic of a model: a version that gets copies of a share of the requests that the stable version answers. Its
/// answers are compared, and never returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shadow {
    /// The version that gets the copies.
    pub version: Version,
    /// Share of the stable version's requests that are copied, in percent.
    pub percent: Share,
}

/// The reason why a share, or a split, is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidShares(String);

// ===== impl Share =====

impl Share {
    /// The share of a version without requests: 0%.
    pub const NONE: Share = Share(0);
    /// The share of a version with all requests: 100%.
    pub const ALL: Share = Share(10_000);

    /// Creates a share from a percentage, 0 to 100, with up to two decimals.
    ///
    /// ```
    /// use leeway::traffic::Share;
    /// assert_eq!(Share::from_percent(12.5).unwrap().percent(), 12.5);
    /// assert!(Share::from_percent(100.5).is_err());
    /// assert!(Share::from_percent(0.001).is_err());
    /// ```
    pub fn from_percent(percent: f64) -> Result<Share, InvalidShares> {
        let hundredths = percent * 100.0;
        // 0.07 * 100 is 7.000000000000001.
        let whole = hundredths.round();
        if (0.0..=10_000.0).contains(&whole) && (hundredths - whole).abs() < 1e-6 {
            Ok(Share(whole as u16))
        } else {
            Err(InvalidShares(format!("found {percent}, expected percent from 0 to 100 with at most two decimals")))
        }
    }

    /// Returns the share in percent.
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    /// Returns the share as a part of 1.
    pub fn ratio(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.percent())
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Writes whole percentages as integers: 90, not 90.0.
        if self.0.is_multiple_of(100) {
            (self.0 / 100).serialize(serializer)
        } else {
            self.percent().serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        f64::deserialize(deserializer).and_then(|percent| Share::from_percent(percent).map_err(de::Error::custom))
    }
}

impl JsonSchema for Share {
    fn schema_name() -> Cow<'static, str> {
        "Share".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "description": "A share in percent, with at most two decimals.", "type": "number", "minimum": 0, "maximum": 100 })
    }
}

// ===== impl Shadow =====

impl Shadow {
    /// Creates shadow traffic beside this stable version. Fails if a version would shadow itself, or get no copies.
    ///
    /// ```
    /// use leeway::traffic::{Shadow, Share};
    /// let [one, two] = ["1", "2"].map(|version| version.parse().unwrap());
    /// assert!(Shadow::beside(one, two, Share::ALL).is_ok());
    /// let error = Shadow::beside(one, one, Share::ALL).unwrap_err();
    /// assert_eq!(error.to_string(), "version 1 is the stable version, whose requests are copied; name another version");
    /// ```
    pub fn beside(stable: Version, version: Version, percent: Share) -> Result<Shadow, InvalidShares> {
        if version == stable {
            let problem = "is the stable version, whose requests are copied; name another version";
            return Err(InvalidShares(format!("version {version} {problem}")));
        }
        if percent == Share::NONE {
            return Err(InvalidShares("found 0 percent, expected more than 0".to_owned()));
        }
        Ok(Shadow { version, percent })
    }
}

/// Written as on the command line: `3=20`.
impl fmt::Display for Shadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.version, self.percent.percent())
    }
}

// ===== impl TrafficSplit =====

impl TrafficSplit {
    /// Creates a traffic split of these shares, which must add up to 100%. Shares of 0 are left out.
    ///
    /// ```
    /// use leeway::traffic::{Share, TrafficSplit};
    /// let percent = |percent| Share::from_percent(percent).unwrap();
    /// let [one, two] = ["1", "2"].map(|version| version.parse().unwrap());
    /// let split = TrafficSplit::new([(one, percent(90.0)), (two, percent(10.0))]).unwrap();
    /// assert_eq!(split.share(two), percent(10.0));
    /// let error = TrafficSplit::new([(one, percent(90.0)), (two, percent(20.0))]).unwrap_err();
    /// assert_eq!(error.to_string(), "the shares add up to 110%, but must add up to 100%: 1=90 2=20");
    /// ```
    pub fn new(shares: impl IntoIterator<Item = (Version, Share)>) -> Result<TrafficSplit, InvalidShares> {
        let shares: BTreeMap<Version, Share> = shares.into_iter().filter(|(_, share)| *share != Share::NONE).collect();
        let total: u64 = shares.values().map(|share| u64::from(share.0)).sum();
        if total == u64::from(Share::ALL.0) {
            return Ok(TrafficSplit(shares));
        }
        let shown: Vec<String> =
            shares.iter().map(|(version, share)| format!("{version}={}", share.percent())).collect();
        Err(InvalidShares(format!(
            "the shares add up to {}%, but must add up to 100%: {}",
            total as f64 / 100.0,
            if shown.is_empty() { "none is given".to_owned() } else { shown.join(" ") }
        )))
    }

    /// Creates the split with all requests on one version.
    pub fn all_to(version: Version) -> TrafficSplit {
        TrafficSplit(BTreeMap::from([(version, Share::ALL)]))
    }

    /// Returns the share of a version; 0 if it is not in the split.
    pub fn share(&self, version: Version) -> Share {
        self.0.get(&version).copied().unwrap_or(Share::NONE)
    }

    /// Returns the versions that have a share, with their shares.
    pub fn shares(&self) -> impl Iterator<Item = (Version, Share)> {
        self.0.iter().map(|(version, share)| (*version, *share))
    }

    /// Returns the version for a key, by weighted rendezvous hashing (Schindelhauer and Schomaker, "Weighted
    /// distributed hash tables", SPAA 2005). Each version v draws u_v, uniform over (0, 1), from SHA-256(model, v,
    /// key), and the largest w_v / −ln u_v wins, which happens with probability w_v / Σw. A version whose share grows
    /// only gains keys, and a version whose share shrinks only loses keys.
    ///
    /// ```
    /// use leeway::traffic::TrafficSplit;
    /// let (model, two) = ("digits".parse().unwrap(), "2".parse().unwrap());
    /// assert_eq!(TrafficSplit::all_to(two).pick(&model, b"any key"), two);
    /// ```
    pub fn pick(&self, model: &ModelName, key: &[u8]) -> Version {
        let mut best = (Version::FIRST, f64::NEG_INFINITY);
        for (&version, share) in &self.0 {
            if *share == Share::ALL {
                return version;
            }
            let score = share.ratio() / -uniform(model, version, key).ln();
            if score > best.1 {
                best = (version, score);
            }
        }
        best.0
    }
}

/// Returns a pseudorandom number strictly between 0 and 1, always the same for the same arguments.
fn uniform(model: &ModelName, version: Version, key: &[u8]) -> f64 {
    let mut hash = Sha256::new();
    hash.update(model.as_str());
    // The name of a model never contains this byte, so different arguments never hash the same bytes.
    hash.update([0]);
    hash.update(version.get().to_be_bytes());
    hash.update(key);
    let digest: [u8; 32] = hash.finalize().into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    // An f64 represents 52 bits plus a half exactly. The half excludes 0 and 1.
    ((u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 12) as f64 + 0.5) / (1u64 << 52) as f64
}

impl TryFrom<BTreeMap<Version, Share>> for TrafficSplit {
    type Error = InvalidShares;

    fn try_from(shares: BTreeMap<Version, Share>) -> Result<TrafficSplit, InvalidShares> {
        TrafficSplit::new(shares)
    }
}

impl From<TrafficSplit> for BTreeMap<Version, Share> {
    fn from(split: TrafficSplit) -> Self {
        split.0
    }
}

/// Written as on the command line: `1=90 2=10`.
impl fmt::Display for TrafficSplit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (version, share)) in self.shares().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{version}={}", share.percent())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEYS: u32 = 100_000;

    fn version(number: u32) -> Version {
        number.to_string().parse().unwrap()
    }

    fn split(shares: &[(u32, f64)]) -> TrafficSplit {
        TrafficSplit::new(shares.iter().map(|(number, share)| (version(*number), Share::from_percent(*share).unwrap())))
            .unwrap()
    }

    fn picks(split: &TrafficSplit) -> Vec<Version> {
        let model = "digits".parse().unwrap();
        (0..KEYS).map(|key| split.pick(&model, format!("user-{key}").as_bytes())).collect()
    }

    /// Returns the deviation of the number of keys on a version from its share, in standard deviations (binomial).
    fn deviations(picks: &[Version], number: u32, share: f64) -> f64 {
        let (n, p) = (f64::from(KEYS), share / 100.0);
        let found = picks.iter().filter(|pick| **pick == version(number)).count() as f64;
        (found - n * p) / (n * p * (1.0 - p)).sqrt()
    }

    #[test]
    fn shares_are_kept_within_statistical_error() {
        for shares in [&[(1, 90.0), (2, 10.0)][..], &[(1, 99.5), (7, 0.5)], &[(1, 50.0), (2, 30.0), (3, 20.0)]] {
            let picks = picks(&split(shares));
            for (number, share) in shares {
                let off = deviations(&picks, *number, *share);
                assert!(off.abs() < 4.0, "{shares:?}: version {number} is {off:.1} standard deviations off");
            }
        }
    }

    #[test]
    fn moving_a_share_moves_only_those_keys() {
        let (before, after) = (picks(&split(&[(1, 90.0), (2, 10.0)])), picks(&split(&[(1, 80.0), (2, 20.0)])));
        let moved: Vec<(Version, Version)> =
            before.into_iter().zip(after).filter(|(before, after)| before != after).collect();
        assert!(moved.iter().all(|moved| *moved == (version(1), version(2))));
        let (n, p) = (f64::from(KEYS), 0.1);
        assert!((moved.len() as f64 - n * p).abs() < 4.0 * (n * p * (1.0 - p)).sqrt(), "{} moved", moved.len());
    }

    /// A key in the canary of one model is not more likely to be in the canary of another model.
    #[test]
    fn models_divide_their_keys_independently() {
        let split = split(&[(1, 50.0), (2, 50.0)]);
        let [a, b] = ["a", "b"].map(|name| name.parse::<ModelName>().unwrap());
        let same = (0..KEYS).filter(|key| {
            let key = key.to_string();
            split.pick(&a, key.as_bytes()) == split.pick(&b, key.as_bytes())
        });
        let (n, same) = (f64::from(KEYS), same.count() as f64);
        assert!((same - n / 2.0).abs() < 4.0 * (n / 4.0).sqrt(), "{same} of {n}");
    }

    proptest! {
        /// Of three versions, the growing one only gains keys, and the shrinking one only loses keys.
        #[test]
        fn a_growing_version_loses_no_key(key in any::<Vec<u8>>(), small in 1u16..5000, more in 1u16..5000) {
            let model = "digits".parse().unwrap();
            let (rest, third) = (Share(5_000), Share(5_000 - small));
            let before = TrafficSplit::new([(version(1), rest), (version(2), Share(small)), (version(3), third)]).unwrap();
            let taken = more.min(rest.0);
            let after = TrafficSplit::new([
                (version(1), Share(rest.0 - taken)), (version(2), Share(small + taken)), (version(3), third),
            ]).unwrap();
            let (was, is) = (before.pick(&model, &key), after.pick(&model, &key));
            if was == version(2) { prop_assert_eq!(is, version(2)); }
            if is == version(1) { prop_assert_eq!(was, version(1)); }
        }

        #[test]
        fn what_is_written_is_read_again(small in 1u16..10_000) {
            let split = TrafficSplit::new([(version(1), Share(small)), (version(2), Share(10_000 - small))]).unwrap();
            let text = serde_json::to_string(&split).unwrap();
            prop_assert_eq!(serde_json::from_str::<TrafficSplit>(&text).unwrap(), split);
        }
    }
}
