//! A whole measurement: both revisions, directly and behind each setting, and what of it is new.

use std::{collections::BTreeMap, path::Path};

use anyhow::ensure;
use serde_json::{Value, json};

use crate::{
    client::{self, CLIENT},
    compare::{Difference, compare},
    fixture::{Eras, Fixture},
    known::{Entry, Known},
    payload,
    settings::{BRIDGED, Behind, Setting},
    suite::{self, Found, REVISIONS},
};

/// A difference, and where it was seen.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Behind what.
    pub setting: &'static str,
    /// Which revision of the suite.
    pub revision: &'static str,
    /// What differs.
    pub difference: Difference,
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Passed and failed checks by revision, then by `direct` or setting.
    pub counts: BTreeMap<&'static str, BTreeMap<&'static str, (usize, usize)>>,
    /// Every difference, known or not.
    pub seen: Vec<Observed>,
    /// What the fixture itself fails, which has to be nothing.
    pub fixture: Vec<String>,
}

impl Outcome {
    /// Runs everything. `program` is this crate's own.
    ///
    /// # Errors
    /// Where something does not run at all.
    pub async fn measure(revisions: &[&'static str], known: &Known, program: &Path) -> anyhow::Result<Self> {
        let mut outcome = Self::default();
        let fixture = Fixture::start(Eras::Both).await?;
        let legacy = Fixture::start(Eras::Legacy).await?;
        let modern = Fixture::start(Eras::Modern).await?;
        let behind = Behind::start(&fixture, &legacy, &modern).await?;
        for revision in revisions.iter().copied() {
            let direct = suite::server(&fixture.url, revision).await?;
            outcome.count(revision, "direct", &direct);
            let failed = direct.checks.iter().filter(|(_, c)| matches!(&*c.status, "FAILURE" | "WARNING"));
            outcome.fixture.extend(failed.map(|(p, c)| {
                format!("{revision} {} {}: {}", p.scenario, p.check, c.error_message.as_deref().unwrap_or_default())
            }));
            // Side by side: most of a run is waiting.
            let one = |setting: Setting| {
                let (behind, direct) = (&behind, &direct);
                async move { steadily(&behind.url(setting), setting.name(), revision, direct, known).await }
            };
            let (gateway, federated) = tokio::try_join!(one(Setting::Gateway), one(Setting::Federated))?;
            for (setting, through) in [(Setting::Gateway, gateway), (Setting::Federated, federated)] {
                outcome.count(revision, setting.name(), &through);
                outcome.saw(setting.name(), revision, compare(&direct, &through));
            }
            let direct = payload::transcript(&fixture.url, revision).await?;
            for setting in Setting::ALL {
                let through = payload::transcript(&behind.url(setting), revision).await?;
                outcome.saw(setting.name(), revision, payload::compare(&direct, &through, setting.shared()));
            }
            let through = payload::transcript(&behind.bridged(revision), revision).await?;
            outcome.saw(BRIDGED, revision, payload::compare(&direct, &through, false));
            let upstream = client::scenarios(revision, program).await?;
            outcome.count(revision, CLIENT, &upstream);
            outcome.saw(CLIENT, revision, client::failures(&upstream));
        }
        behind.stop().await?;
        Ok(outcome)
    }

    fn count(&mut self, revision: &'static str, column: &'static str, found: &Found) {
        let counts = (found.count("SUCCESS"), found.count("FAILURE"));
        self.counts.entry(revision).or_default().insert(column, counts);
    }

    fn saw(&mut self, setting: &'static str, revision: &'static str, differences: Vec<Difference>) {
        self.seen.extend(differences.into_iter().map(|difference| Observed { setting, revision, difference }));
    }

    /// Whether an entry of the list was looked for at all.
    fn looked(&self, entry: &Entry) -> bool {
        self.counts.contains_key(&*entry.revision)
    }

    /// The JSON of `cargo xtask conformance --json`. `differences` holds those of every setting.
    pub fn json(&self, known: &Known) -> Value {
        let column = |(name, (passed, failed)): (&&str, &(usize, usize))| {
            ((*name).to_owned(), json!({"passed": passed, "failed": failed}))
        };
        let revision = |(revision, columns): (&&'static str, &BTreeMap<&'static str, (usize, usize)>)| {
            let mut of: serde_json::Map<String, Value> = columns.iter().map(column).collect();
            let seen = self.seen.iter().filter(|o| o.revision == *revision);
            let differences: Vec<Value> = seen
                .map(|o| {
                    json!({"setting": o.setting, "scenario": o.difference.scenario, "check": o.difference.check,
                        "what": o.difference.what, "known": known.reason(o)})
                })
                .collect();
            of.insert("differences".to_owned(), json!(differences));
            ((*revision).to_owned(), Value::Object(of))
        };
        Value::Object(self.counts.iter().map(revision).collect())
    }

    /// Says what was measured, one line a difference.
    pub fn print(&self, known: &Known) {
        for (revision, columns) in &self.counts {
            for (column, (passed, failed)) in columns {
                println!("{revision} {column:10} {passed} passed, {failed} failed");
            }
        }
        for seen in &self.seen {
            let Observed { setting, revision, difference } = seen;
            let known = known.reason(seen).map_or(String::new(), |r| format!(" (known: {r})"));
            println!(
                "{setting} {revision} {} {}{known}\n    {}",
                difference.scenario, difference.check, difference.what
            );
        }
    }

    /// The list of known differences as it is true now.
    pub fn accepted(&self, known: &Known) -> Known {
        known.accepting(&self.seen, |e| self.looked(e))
    }

    /// Whether everything is as listed.
    ///
    /// # Errors
    /// What is not.
    pub fn judge(&self, known: &Known) -> anyhow::Result<()> {
        ensure!(self.fixture.is_empty(), "the fixture itself fails:\n{}", self.fixture.join("\n"));
        let new: Vec<String> = self
            .seen
            .iter()
            .filter(|o| known.reason(o).is_none())
            .map(|o| {
                let d = &o.difference;
                format!("{} {} {} {}: {}", o.setting, o.revision, d.scenario, d.check, d.what)
            })
            .collect();
        ensure!(new.is_empty(), "{} differences that are not listed:\n{}", new.len(), new.join("\n"));
        let gone = known.gone(&self.seen, |e| self.looked(e));
        let gone: Vec<String> =
            gone.iter().map(|e| format!("{} {} {} {}", e.setting, e.revision, e.scenario, e.check)).collect();
        ensure!(
            gone.is_empty(),
            "{} listed differences no longer occur; `cargo xtask conformance --accept` takes them out:\n{}",
            gone.len(),
            gone.join("\n")
        );
        Ok(())
    }
}

/// Runs a revision; scenarios with differences that nobody knows are run once more, since some of them wait for fractions
/// of a second only, which a busy machine may need for anything. What differs twice, differs.
async fn steadily(
    url: &str,
    setting: &'static str,
    revision: &'static str,
    direct: &Found,
    known: &Known,
) -> anyhow::Result<Found> {
    let unknown = |found: &Found| -> Vec<Difference> {
        let all = compare(direct, found).into_iter();
        all.map(|difference| Observed { setting, revision, difference })
            .filter(|o| known.reason(o).is_none())
            .map(|o| o.difference)
            .collect()
    };
    let mut through = suite::server(url, revision).await?;
    let mut again: Vec<String> = unknown(&through).into_iter().map(|d| d.scenario).collect();
    again.dedup();
    for scenario in again {
        let once_more = suite::server_scenario(url, revision, &scenario).await?;
        let mut candidate = Found { checks: through.checks.clone() };
        candidate.replace(&scenario, once_more);
        if unknown(&candidate).len() < unknown(&through).len() {
            through = candidate;
        }
    }
    Ok(through)
}

/// The revisions that a filter picks.
pub fn revisions(only: Option<&str>) -> Vec<&'static str> {
    REVISIONS.into_iter().filter(|r| only.is_none_or(|o| r.contains(o))).collect()
}
