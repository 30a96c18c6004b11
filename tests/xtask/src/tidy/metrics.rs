//! No metric is promised that nothing writes: each that is declared is written by somebody outside the module that declares it.

use std::{collections::BTreeSet, fs};

use anyhow::Context;

use super::{Findings, files};
use crate::shell::root;

const DECLARED: &str = "host/telemetry/src/metrics.rs";
/// Types of fields, and of what methods give, that count or measure.
const KINDS: [&str; 3] = ["Gauge", "Counter", "Histogram"];

pub(super) fn check(found: &mut Findings) -> anyhow::Result<()> {
    let text = fs::read_to_string(root().join(DECLARED)).context(DECLARED)?;
    let names = written_by(&text);
    if names.len() < KINDS.len() {
        found.fault(format!("{DECLARED} is written in another way than the check of metrics reads"));
    }
    let sources = files::sources()?;
    let outside = |path: &str| {
        path.starts_with("host/")
            && !path.starts_with("host/telemetry/src/metrics")
            && !path.contains("/tests")
            && !path.contains("/examples/")
    };
    let mut unused = names;
    for source in sources.iter().filter(|s| outside(&s.path)) {
        unused.retain(|name| !uses(&source.text, name));
    }
    for name in unused {
        found.fault(format!("{DECLARED}: nothing in host/ writes `{name}`"));
    }
    Ok(())
}

/// The public fields and methods by which metrics are written.
fn written_by(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in text.lines().map(str::trim) {
        if let Some((name, kind)) = line.strip_prefix("pub ").and_then(|rest| rest.split_once(": "))
            && KINDS.iter().any(|k| kind.trim_end_matches(',') == *k)
        {
            names.insert(name.to_owned());
        }
        let method = line.strip_prefix("pub fn ").and_then(|rest| rest.split_once('('));
        if let Some((name, rest)) = method
            && rest.starts_with("&self")
            && !["encode", "declared"].contains(&name)
        {
            names.insert(name.to_owned());
        }
    }
    names
}

/// Whether a text holds `.name` as a word of its own.
fn uses(text: &str, name: &str) -> bool {
    let whole = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    text.match_indices(&format!(".{name}")).any(|(at, dotted)| whole(&text[at + dotted.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_writes_and_what_does_not() {
        let names = written_by(
            "    pub in_flight: Gauge,\n    registry: Registry,\n    pub fn refused(&self, fault: &Fault) {\n    pub fn encode(&self) -> String {\n    pub fn new() -> Arc<Self> {",
        );
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["in_flight", "refused"]);
        assert!(uses("metrics.in_flight.inc()", "in_flight"));
        assert!(!uses("metrics.in_flight_more.inc(), in_flight", "in_flight"));
    }
}
