//! A number of bytes as people write it.

use portcullis_sdk::Schema;
use serde::Deserialize;

/// Bytes: a whole number, or a text such as `64KiB` or `1MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Schema)]
#[serde(try_from = "Written")]
pub struct Size(pub u64);

#[derive(Deserialize, Schema)]
#[serde(untagged)]
enum Written {
    Bytes(u64),
    Text(String),
}

impl TryFrom<Written> for Size {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let text = match written {
            Written::Bytes(bytes) => return Ok(Self(bytes)),
            Written::Text(text) => text,
        };
        let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("B", 1), ("", 1)];
        let (digits, unit) = units
            .iter()
            .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?.trim_end(), *unit)))
            .unwrap_or((&text, 1));
        let number: Option<u64> = digits.parse().ok();
        let bytes = number.and_then(|number| number.checked_mul(unit));
        bytes.map(Self).ok_or_else(|| format!("\"{text}\" is no size such as 64KiB or 1MiB"))
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (unit, name) in [(1u32 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
            if self.0 >= u64::from(unit) {
                let places = usize::from(!self.0.is_multiple_of(u64::from(unit)));
                #[allow(clippy::cast_precision_loss, reason = "for people")]
                return write!(f, "{:.places$} {name}", self.0 as f64 / f64::from(unit));
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Size;

    #[test]
    fn sizes_are_read_and_shown() {
        let read = |json: &str| serde_json::from_str::<Size>(json);
        for (json, bytes) in [("7", 7), ("\"7\"", 7), ("\"7B\"", 7), ("\"64KiB\"", 65_536), ("\"2 MiB\"", 2 << 20)] {
            assert_eq!(read(json).unwrap(), Size(bytes), "{json}");
        }
        for json in ["\"\"", "\"KiB\"", "\"1.5MiB\"", "\"-1\"", "-1", "\"1MB\"", "\"99999999999999999999GiB\""] {
            assert!(read(json).is_err(), "{json}");
        }
        let shown = [0, 1023, 1 << 10, 1_600, 3 << 20].map(|bytes| Size(bytes).to_string());
        assert_eq!(shown, ["0 bytes", "1023 bytes", "1 KiB", "1.6 KiB", "3 MiB"]);
    }
}
