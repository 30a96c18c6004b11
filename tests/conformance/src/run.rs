//! A whole measurement: both revisions, directly and behind each setting, and what of it is new.

use std::{collections::BTreeMap, path::Path};

use anyhow::ensure;
use serde_json::{Value, json};

use crate::{
    authorization::{self, AUTHORIZATION},
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
            let urls = [behind.url(Setting::Gateway), behind.url(Setting::Federated), behind.bridged(revision)];
            let [gateway, federated, bridged] = &urls;
            let (gateway, federated, bridged) = tokio::try_join!(
                payload::transcript(gateway, revision),
                payload::transcript(federated, revision),
                payload::transcript(bridged, revision)
            )?;
            for (setting, through) in [(Setting::Gateway, gateway), (Setting::Federated, federated)] {
                outcome.saw(setting.name(), revision, payload::compare(&direct, &through, setting.shared()));
            }
            outcome.saw(BRIDGED, revision, payload::compare(&direct, &bridged, false));
            let upstream = client::scenarios(revision, program).await?;
            outcome.count(revision, CLIENT, &upstream);
            outcome.saw(CLIENT, revision, client::failures(&upstream));
            let server = authorization::scenarios(revision).await?;
            outcome.count(revision, AUTHORIZATION, &server);
            outcome.saw(AUTHORIZATION, revision, client::failures(&server));
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
                println!("{revision} {column:13} {passed} passed, {failed} failed");
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

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(check: &str) -> Observed {
        let difference = Difference { scenario: "s".to_owned(), check: check.to_owned(), what: "w".to_owned() };
        Observed { setting: "gateway", revision: REVISIONS[0], difference }
    }

    fn listed(check: &str, revision: &str) -> Entry {
        Entry {
            setting: "gateway".to_owned(),
            revision: revision.to_owned(),
            scenario: "s".to_owned(),
            check: check.to_owned(),
            reason: "a reason".to_owned(),
        }
    }

    fn outcome(differences: &[&str]) -> Outcome {
        Outcome {
            counts: BTreeMap::from([(REVISIONS[0], BTreeMap::from([("direct", (1, 0)), ("gateway", (1, 0))]))]),
            seen: differences.iter().map(|d| seen(d)).collect(),
            fixture: Vec::new(),
        }
    }

    #[test]
    fn the_list_of_known_differences_is_strict_both_ways() {
        let known = Known { ruled_out: vec![listed("a", REVISIONS[0])], pending: vec![listed("b", REVISIONS[0])] };
        assert!(outcome(&["a", "b"]).judge(&known).is_ok());
        let error = outcome(&["a", "b", "c"]).judge(&known).unwrap_err().to_string();
        assert!(error.contains("not listed") && error.contains("s c"), "{error}");
        let error = outcome(&["a"]).judge(&known).unwrap_err().to_string();
        assert!(error.contains("no longer occur") && error.contains("s b"), "{error}");
        // Of a revision that was not run nothing is known.
        let other = Known { ruled_out: vec![listed("a", REVISIONS[1])], pending: Vec::new() };
        assert!(outcome(&[]).judge(&other).is_ok());
    }

    #[test]
    fn a_fixture_that_fails_by_itself_proves_nothing() {
        let mut broken = outcome(&[]);
        broken.fixture.push("tools-list fails".to_owned());
        assert!(broken.judge(&Known::default()).is_err());
    }

    #[test]
    fn accepting_keeps_reasons_and_drops_what_is_gone() {
        let known =
            Known { ruled_out: Vec::new(), pending: vec![listed("a", REVISIONS[0]), listed("b", REVISIONS[0])] };
        let accepted = outcome(&["b", "c"]).accepted(&known);
        let kept: Vec<(&str, &str)> = accepted.pending.iter().map(|e| (&*e.check, &*e.reason)).collect();
        assert_eq!(kept, [("b", "a reason"), ("c", "not built yet")]);
    }

    #[test]
    fn the_json_has_the_shape_that_others_read() {
        let json = outcome(&["a"]).json(&Known::default());
        let revision = &json[REVISIONS[0]];
        assert_eq!(revision["direct"], json!({"passed": 1, "failed": 0}));
        assert_eq!(revision["gateway"], json!({"passed": 1, "failed": 0}));
        assert_eq!(revision["differences"].as_array().map(Vec::len), Some(1));
    }
}
