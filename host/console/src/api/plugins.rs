//! How plugins stand, as the admin API says it.

use portcullis_plugin::Difference;
use serde::{Deserialize, Serialize};

/// How a `Plugin` resource stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginItem {
    /// Its name.
    pub name: String,
    /// `active`, `previous` (what its resource says can't be loaded, an earlier version serves), `refused` (nothing serves),
    /// `rolled-back`, `fetching` or `compiling` (what its resource says is not there yet; what served before, if anything, serves).
    pub state: String,
    /// SHA-256 of the component that its resource names; none where it can't be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<String>,
    /// SHA-256 of the component that serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<String>,
    /// The hooks that it serves, such as `policy/tool-call`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<String>,
    /// What is granted and not handed out, since its manifest does not ask for it: `reveal`, `secrets key`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub withheld: Vec<String>,
    /// What its manifest asks for and nobody granted, with what for in its author's words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ungranted: Vec<String>,
    /// Why it is not as its resource says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Since when it is so, in milliseconds since 1970-01-01T00:00:00Z.
    pub since_ms: u64,
    /// Components that `rollback` can go back to, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub previous: Vec<String>,
    /// The version that is tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<CandidateItem>,
    /// That some of its places are in quarantine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<QuarantineItem>,
}

/// How a candidate stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CandidateItem {
    /// SHA-256 of its component; none where it can't be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Of a hundred callers, how many get its answers; 0 is asked beside the active version.
    pub share: u8,
    /// Whether it is asked.
    pub asked: bool,
    /// Why it is refused, or not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What it said otherwise last, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<Difference>,
}

/// Places in quarantine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QuarantineItem {
    /// How many places.
    pub places: usize,
    /// When the last of them lets a call through again, in milliseconds since 1970-01-01T00:00:00Z.
    pub until_ms: u64,
}
