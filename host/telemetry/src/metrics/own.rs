//! Series that plugins fill themselves: names and labels are theirs, so each of both is bounded, for one plugin and for all.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use prometheus_client::metrics::{counter::Counter, family::Family, histogram::Histogram};

use super::declare::{Buckets, Declarer, Labels, labels};

/// The most series of one plugin.
const MAX_SERIES: usize = 100;
/// The most series of all plugins.
const MAX_ALL: usize = 5_000;
/// The most labels of one series.
const MAX_LABELS: usize = 8;
/// The most bytes of a name, and of a label's value.
const MAX_TEXT: usize = 64;
/// Labels that are the host's, or the format's.
const RESERVED: [&str; 5] = ["tenant", "plugin", "name", "le", "quantile"];

/// Names and values as a plugin gives them.
type OwnLabels = Vec<(String, String)>;
type Histograms = Family<OwnLabels, Histogram, Buckets>;

/// Why a figure of a plugin's own is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotKept {
    /// A name or a label is not of the form.
    #[error("a name is of a-z, 0-9 and _, at most 64 long, and a label is not one of the host's; at most 8 labels")]
    Form,
    /// There are too many series.
    #[error("more than 100 series")]
    TooMany,
    /// No number.
    #[error("the value is no number")]
    Value,
}

/// The families that hold them.
pub(super) struct Families {
    events: Family<OwnLabels, Counter>,
    values: Histograms,
    dropped: Family<Labels, Counter>,
    all: Arc<AtomicUsize>,
}

impl Families {
    pub(super) fn declare(declarer: &mut Declarer) -> Self {
        let with = &["tenant", "plugin", "name"];
        Self {
            events: declarer.own_counters("plugin_events", "What plugins count themselves", with),
            values: declarer.own_histograms("plugin_values", "What plugins measure themselves", with),
            dropped: declarer.counters(
                "plugin_figures_dropped",
                "Figures of plugins that are not kept: too many series, or names of another form",
                &["tenant", "plugin"],
            ),
            all: Arc::default(),
        }
    }

    pub(super) fn of(&self, tenant: &str, plugin: &str) -> OwnSeries {
        OwnSeries {
            events: self.events.clone(),
            values: self.values.clone(),
            dropped: self.dropped.clone(),
            all: Arc::clone(&self.all),
            known: Mutex::default(),
            tenant: tenant.to_owned(),
            plugin: plugin.to_owned(),
        }
    }
}

/// The series of one plugin.
#[derive(Debug)]
pub(super) struct OwnSeries {
    events: Family<OwnLabels, Counter>,
    values: Histograms,
    dropped: Family<Labels, Counter>,
    all: Arc<AtomicUsize>,
    known: Mutex<HashMap<(bool, OwnLabels), Series>>,
    tenant: String,
    plugin: String,
}

#[derive(Clone, Debug)]
enum Series {
    Counter(Counter),
    Histogram(Histogram),
}

impl OwnSeries {
    pub(super) fn count(&self, name: &str, own: &[(String, String)], add: u64) -> Result<(), NotKept> {
        if let Series::Counter(counter) = self.series(name, own, false)? {
            counter.inc_by(add);
        }
        Ok(())
    }

    pub(super) fn observe(&self, name: &str, own: &[(String, String)], value: f64) -> Result<(), NotKept> {
        if !value.is_finite() {
            return Err(self.not_kept(NotKept::Value));
        }
        if let Series::Histogram(histogram) = self.series(name, own, true)? {
            histogram.observe(value);
        }
        Ok(())
    }

    fn series(&self, name: &str, own: &[(String, String)], measured: bool) -> Result<Series, NotKept> {
        let right = is_word(name)
            && own.len() <= MAX_LABELS
            && own.iter().all(|(label, _)| is_word(label) && !RESERVED.contains(&label.as_str()));
        let mut key: OwnLabels = own.iter().map(|(label, value)| (label.clone(), cut(value))).collect();
        key.sort_unstable();
        if !right || key.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(self.not_kept(NotKept::Form));
        }
        key.push(("name".to_owned(), name.to_owned()));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (measured, key);
        if let Some(found) = known.get(&key) {
            return Ok(found.clone());
        }
        if known.len() >= MAX_SERIES || self.all.fetch_add(1, Relaxed) >= MAX_ALL {
            if known.len() < MAX_SERIES {
                self.all.fetch_sub(1, Relaxed);
            }
            return Err(self.not_kept(NotKept::TooMany));
        }
        let mut all = vec![("tenant".to_owned(), self.tenant.clone()), ("plugin".to_owned(), self.plugin.clone())];
        all.extend(key.1.iter().cloned());
        let made = match measured {
            false => Series::Counter(self.events.get_or_create_owned(&all)),
            true => Series::Histogram(self.values.get_or_create_owned(&all)),
        };
        known.insert(key, made.clone());
        Ok(made)
    }

    fn not_kept(&self, why: NotKept) -> NotKept {
        let values = [self.tenant.as_str(), self.plugin.as_str()];
        self.dropped.get_or_create(&labels(&["tenant", "plugin"], &values)).inc();
        why
    }
}

fn is_word(text: &str) -> bool {
    let first = text.bytes().next();
    first.is_some_and(|byte| byte.is_ascii_lowercase())
        && text.len() <= MAX_TEXT
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// A value on one line, not endless.
fn cut(value: &str) -> String {
    let mut end = value.len().min(MAX_TEXT);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    value[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use crate::Metrics;

    use super::*;

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn figures_of_plugins_are_shown_and_bounded() {
        let metrics = Metrics::new();
        let plugin = metrics.plugin_handle("default", "mine");
        let label = [pair("outcome", "hit\nx"), pair("a", "1")];
        assert_eq!(plugin.count("lookups", &label, 2), Ok(()));
        assert_eq!(plugin.count("lookups", &[label[1].clone(), label[0].clone()], 1), Ok(()), "in any order");
        assert_eq!(plugin.observe("seconds", &[], 0.5), Ok(()));
        let text = metrics.encode();
        let line =
            r#"portcullis_plugin_events_total{tenant="default",plugin="mine",a="1",outcome="hit x",name="lookups"} 3"#;
        assert!(text.contains(line), "{text}");
        assert!(
            text.contains(r#"portcullis_plugin_values_sum{tenant="default",plugin="mine",name="seconds"} 0.5"#),
            "{text}"
        );
        for wrong in
            [&[pair("tenant", "x")][..], &[pair("A", "x")], &[pair("", "x")], &[pair("a", "x"), pair("a", "y")]]
        {
            assert_eq!(plugin.count("lookups", wrong, 1), Err(NotKept::Form), "{wrong:?}");
        }
        assert_eq!(plugin.count("no-word", &[], 1), Err(NotKept::Form));
        assert_eq!(plugin.observe("seconds", &[], f64::NAN), Err(NotKept::Value));
        for i in 2..MAX_SERIES {
            assert_eq!(plugin.count("flood", &[pair("i", &i.to_string())], 1), Ok(()));
        }
        assert_eq!(plugin.count("flood", &[pair("i", "more")], 1), Err(NotKept::TooMany));
        assert_eq!(plugin.count("lookups", &label, 1), Ok(()), "what is known goes on");
        let other = metrics.plugin_handle("default", "other");
        assert_eq!(other.count("flood", &[], 1), Ok(()), "another plugin has room of its own");
        let text = metrics.encode();
        assert!(
            text.contains(r#"portcullis_plugin_figures_dropped_total{tenant="default",plugin="mine"} 7"#),
            "{text}"
        );
        let long = pair("l", &"ü".repeat(100));
        assert_eq!(other.count("flood", &[long], 1), Ok(()));
        assert!(metrics.encode().contains(&format!("l=\"{}\"", "ü".repeat(32))));
    }
}
