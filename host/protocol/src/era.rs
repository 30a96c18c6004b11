//! Protocol revisions, and the two eras that they fall into.

use std::{fmt, str::FromStr};

/// A released revision of MCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(non_camel_case_types)]
pub enum Version {
    /// 2024-11-05
    V2024_11_05,
    /// 2025-03-26
    V2025_03_26,
    /// 2025-06-18
    V2025_06_18,
    /// 2025-11-25
    V2025_11_25,
    /// 2026-07-28
    V2026_07_28,
}

/// Whether a peer shakes hands and keeps a session, or says everything in each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Era {
    /// Up to 2025-11-25: `initialize`, then a session.
    Legacy,
    /// From 2026-07-28 on: stateless, with the version and capabilities in each request's `_meta`.
    Modern,
}

impl Era {
    /// The word used in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Modern => "modern",
        }
    }
}

/// A text that names no revision spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a protocol version spoken here")]
pub struct UnknownVersion;

impl Version {
    /// Every revision spoken, newest first, as `supported` and `supportedVersions` list them.
    pub const ALL: [Self; 5] =
        [Self::V2026_07_28, Self::V2025_11_25, Self::V2025_06_18, Self::V2025_03_26, Self::V2024_11_05];
    /// The newest revision.
    pub const LATEST: Self = Self::V2026_07_28;
    /// The newest revision that has `initialize`.
    pub const LATEST_LEGACY: Self = Self::V2025_11_25;

    /// The revision's date.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }

    /// The era that it belongs to.
    pub fn era(self) -> Era {
        if self >= Self::V2026_07_28 { Era::Modern } else { Era::Legacy }
    }

    /// What to answer an `initialize` that asks for `requested`: the same where it is a legacy revision, else the newest
    /// legacy one, because whoever sends `initialize` wants a session.
    pub fn negotiate(requested: &str) -> Self {
        match requested.parse::<Self>() {
            Ok(version) if version.era() == Era::Legacy => version,
            _ => Self::LATEST_LEGACY,
        }
    }
}

impl FromStr for Version {
    type Err = UnknownVersion;

    fn from_str(text: &str) -> Result<Self, UnknownVersion> {
        Self::ALL.into_iter().find(|v| v.as_str() == text).ok_or(UnknownVersion)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initialize_never_gets_a_modern_revision() {
        assert_eq!(Version::negotiate("2025-03-26"), Version::V2025_03_26);
        assert_eq!(Version::negotiate("2026-07-28"), Version::LATEST_LEGACY);
        assert_eq!(Version::negotiate("1900-01-01"), Version::LATEST_LEGACY);
        assert_eq!(Version::negotiate(""), Version::LATEST_LEGACY);
    }

    #[test]
    fn dates_order_as_revisions_do() {
        assert!(Version::ALL.windows(2).all(|w| w[0] > w[1] && w[0].as_str() > w[1].as_str()));
        assert_eq!("2026-07-28".parse::<Version>().map(Version::era), Ok(Era::Modern));
    }
}
