//! Declares a family and notes that it did, so that the golden file and the documentation can be held to it.

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::Histogram,
    },
    registry::Registry,
};

/// Label names and values.
pub(crate) type Labels = Vec<(&'static str, String)>;
/// A family of histograms that all have the same buckets.
pub(crate) type HistogramFamily = Family<Labels, Histogram, Buckets>;

/// From ten microseconds, which is what a warm step of a call costs, to a minute, which is what a slow tool takes.
const BUCKETS: [f64; 20] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
    0.5, 1.0, 2.5, 5.0, 15.0, 60.0,
];

/// Makes histograms with the buckets of this house.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(BUCKETS)
    }
}

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows; its series end in `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Its series end in `_bucket`, `_sum` and `_count`.
    Histogram,
}

impl MetricKind {
    /// The word in the exposition format.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One family, as declared.
#[derive(Clone, Copy, Debug)]
pub struct Declared {
    /// Its name without the prefix `portcullis_` and without `_total`.
    pub name: &'static str,
    /// Its type.
    pub kind: MetricKind,
    /// What it counts or measures.
    pub help: &'static str,
    /// Its labels.
    pub labels: &'static [&'static str],
}

impl Declared {
    /// The name to query: with the prefix, and `_total` for counters.
    pub fn full_name(&self) -> String {
        let suffix = if self.kind == MetricKind::Counter { "_total" } else { "" };
        format!("portcullis_{}{suffix}", self.name)
    }
}

pub(crate) struct Declarer {
    registry: Registry,
    declared: Vec<Declared>,
}

impl Declarer {
    pub(crate) fn new() -> Self {
        Self { registry: Registry::with_prefix("portcullis"), declared: Vec::new() }
    }

    fn add<M: super::Registrable + Clone>(
        &mut self,
        name: &'static str,
        kind: MetricKind,
        help: &'static str,
        labels: &'static [&'static str],
        metric: M,
    ) -> M {
        self.registry.register(name, help, metric.clone());
        self.declared.push(Declared { name, kind, help, labels });
        metric
    }

    pub(crate) fn counters(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Family<Labels, Counter> {
        self.add(name, MetricKind::Counter, help, labels, Family::default())
    }

    pub(crate) fn histograms(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> HistogramFamily {
        self.add(name, MetricKind::Histogram, help, labels, Family::new_with_constructor(Buckets))
    }

    /// Counters whose further labels are the plugins' own.
    pub(crate) fn own_counters(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Family<Vec<(String, String)>, Counter> {
        self.add(name, MetricKind::Counter, help, labels, Family::default())
    }

    /// Histograms whose further labels are the plugins' own.
    pub(crate) fn own_histograms(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Family<Vec<(String, String)>, Histogram, Buckets> {
        self.add(name, MetricKind::Histogram, help, labels, Family::new_with_constructor(Buckets))
    }

    pub(crate) fn counter(&mut self, name: &'static str, help: &'static str) -> Counter {
        self.add(name, MetricKind::Counter, help, &[], Counter::default())
    }

    pub(crate) fn gauge(&mut self, name: &'static str, help: &'static str) -> Gauge {
        self.add(name, MetricKind::Gauge, help, &[], Gauge::default())
    }

    pub(crate) fn histogram(&mut self, name: &'static str, help: &'static str) -> Histogram {
        self.add(name, MetricKind::Histogram, help, &[], Histogram::new(BUCKETS))
    }

    pub(crate) fn gauges(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Family<Labels, Gauge> {
        self.add(name, MetricKind::Gauge, help, labels, Family::default())
    }

    pub(crate) fn info(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Family<Labels, Gauge> {
        self.add(name, MetricKind::Gauge, help, labels, Family::default())
    }

    pub(crate) fn finish(self) -> (Registry, Vec<Declared>) {
        (self.registry, self.declared)
    }
}

/// Pairs names with values.
pub(crate) fn labels(names: &[&'static str], values: &[&str]) -> Labels {
    names.iter().copied().zip(values.iter().map(|v| (*v).to_owned())).collect()
}
