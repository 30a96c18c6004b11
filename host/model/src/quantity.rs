//! Durations and sizes as people write them.

use std::{fmt, str::FromStr, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration: a whole number and `ms`, `s`, `m`, `h` or `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
#[schemars(with = "String", extend("pattern" = r"^[0-9]+(ms|s|m|h|d)$"))]
pub struct Span(Duration);

/// A size: a whole number and `B`, `KiB`, `MiB` or `GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
#[schemars(with = "String", extend("pattern" = r"^[0-9]+(B|KiB|MiB|GiB)$"))]
pub struct Bytes(u64);

/// A text that is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not {wanted}")]
pub struct InvalidQuantity {
    text: String,
    wanted: &'static str,
}

const SPAN_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const BYTE_UNITS: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("B", 1)];

fn parse(text: &str, units: &[(&str, u64)], wanted: &'static str) -> Result<u64, InvalidQuantity> {
    units
        .iter()
        .filter_map(|(unit, factor)| {
            let digits = text.strip_suffix(unit)?;
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| digits.parse::<u64>().ok()?.checked_mul(*factor)).flatten()
        })
        .next()
        .ok_or_else(|| InvalidQuantity { text: crate::text::shown(text, 40), wanted })
}

fn largest(value: u64, units: &[(&'static str, u64)]) -> (u64, &'static str) {
    let mut sorted = units.to_vec();
    sorted.sort_by_key(|(_, factor)| std::cmp::Reverse(*factor));
    sorted
        .into_iter()
        .find(|(_, factor)| value != 0 && value.is_multiple_of(*factor))
        .map_or((value, units[units.len() - 1].0), |(unit, factor)| (value / factor, unit))
}

impl Span {
    /// So many milliseconds.
    pub const fn millis(n: u64) -> Self {
        Self(Duration::from_millis(n))
    }
    /// So many seconds.
    pub const fn seconds(n: u64) -> Self {
        Self(Duration::from_secs(n))
    }
    /// As the standard type.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl Bytes {
    /// So many bytes.
    pub const fn new(n: u64) -> Self {
        Self(n)
    }
    /// So many mebibytes.
    pub const fn mebi(n: u64) -> Self {
        Self(n << 20)
    }
    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
    /// The number of bytes, or the most that fits.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for Span {
    type Err = InvalidQuantity;
    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        parse(text, &SPAN_UNITS, "a duration such as 500ms, 30s, 5m, 1h or 7d").map(Self::millis)
    }
}

impl FromStr for Bytes {
    type Err = InvalidQuantity;
    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        parse(text, &BYTE_UNITS, "a size such as 512B, 64KiB, 16MiB or 1GiB").map(Self)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let (n, unit) = if millis == 0 { (0, "s") } else { largest(millis, &SPAN_UNITS) };
        write!(f, "{n}{unit}")
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (n, unit) = largest(self.0, &BYTE_UNITS);
        write!(f, "{n}{unit}")
    }
}

macro_rules! as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
as_text!(Span);
as_text!(Bytes);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_survive_their_text() {
        for text in ["0s", "1ms", "1500ms", "30s", "5m", "1h", "7d"] {
            assert_eq!(text.parse::<Span>().expect(text).to_string(), text);
        }
        for text in ["0B", "1B", "64KiB", "16MiB", "1GiB"] {
            assert_eq!(text.parse::<Bytes>().expect(text).to_string(), text);
        }
        for bad in ["", "s", "-1s", "1.5s", "1 s", "10", "99999999999999999999s", "18446744073709551615d"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }
}
