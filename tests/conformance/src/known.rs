//! Differences that are known (`differences.toml`), each with its reason. The list is strict both ways: what is not in it
//! fails, and what is in it and no longer occurs fails too, so that it can only shrink.

use std::fs;

use anyhow::Context;
use portcullis_e2e::parts::root;
use serde::Deserialize;

use crate::run::Observed;

/// Where the list is, in the checkout.
pub const FILE: &str = "tests/conformance/differences.toml";

/// The list.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// What federation rules out: it stays.
    #[serde(default)]
    pub ruled_out: Vec<Entry>,
    /// What is not right yet.
    #[serde(default)]
    pub pending: Vec<Entry>,
}

/// A known difference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Behind what: `gateway`, `federated`, ...
    pub setting: String,
    /// The revision of the suite.
    pub revision: String,
    /// The scenario, or `payload`.
    pub scenario: String,
    /// The check, with its case and number.
    pub check: String,
    /// Why.
    pub reason: String,
}

impl Entry {
    fn is(&self, seen: &Observed) -> bool {
        self.setting == seen.setting
            && self.revision == seen.revision
            && self.scenario == seen.difference.scenario
            && self.check == seen.difference.check
    }
}

impl Known {
    /// Reads the list.
    ///
    /// # Errors
    /// Where it is missing or not TOML of this form.
    pub fn read() -> anyhow::Result<Self> {
        toml::from_str(&fs::read_to_string(root().join(FILE))?).context(FILE)
    }

    /// The reason that the list gives for a difference.
    pub fn reason(&self, seen: &Observed) -> Option<&str> {
        self.all().find(|e| e.is(seen)).map(|e| &*e.reason)
    }

    /// What is listed and was looked for, but not seen.
    pub fn gone(&self, seen: &[Observed], looked: impl Fn(&Entry) -> bool) -> Vec<&Entry> {
        self.all().filter(|e| looked(e) && !seen.iter().any(|o| e.is(o))).collect()
    }

    /// The list as it would be if it were true: reasons are kept, and what is new is pending.
    pub fn accepting(&self, seen: &[Observed], looked: impl Fn(&Entry) -> bool) -> Self {
        let still = |e: &&Entry| !looked(e) || seen.iter().any(|o| e.is(o));
        let ruled_out: Vec<Entry> = self.ruled_out.iter().filter(still).cloned().collect();
        let mut pending: Vec<Entry> = self.pending.iter().filter(still).cloned().collect();
        pending.extend(seen.iter().filter(|o| self.reason(o).is_none()).map(|o| Entry {
            setting: o.setting.to_owned(),
            revision: o.revision.to_owned(),
            scenario: o.difference.scenario.clone(),
            check: o.difference.check.clone(),
            reason: "not built yet".to_owned(),
        }));
        pending.sort();
        Self { ruled_out, pending }
    }

    /// Writes the list.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn write(&self) -> anyhow::Result<()> {
        let head = "# Known differences between a server and the same server behind the gateway, each with its reason.\n\
                    # Strict both ways: `cargo xtask conformance` fails on what is not listed and on what no longer occurs.\n\
                    # `--accept` writes it anew; reasons of entries that stay are kept.\n\n";
        let mut text = head.to_owned();
        for (list, entries) in [("ruled_out", &self.ruled_out), ("pending", &self.pending)] {
            for Entry { setting, revision, scenario, check, reason } in entries {
                let line = |name: &str, value: &str| format!("{name} = {}\n", serde_json::Value::from(value));
                text += &format!("[[{list}]]\n");
                text += &[
                    ("setting", setting),
                    ("revision", revision),
                    ("scenario", scenario),
                    ("check", check),
                    ("reason", reason),
                ]
                .map(|(name, value)| line(name, value))
                .concat();
                text.push('\n');
            }
        }
        fs::write(root().join(FILE), text).context(FILE)
    }

    fn all(&self) -> impl Iterator<Item = &Entry> {
        self.ruled_out.iter().chain(&self.pending)
    }
}
