//! Figures for whoever operates the gateway. Bounded: 100 series of one plugin, 8 labels, 64 bytes of a name and of a value.

use crate::raw;

/// Adds to the series of `portcullis_plugin_events_total` with this name and these labels.
pub fn count(name: &str, labels: &[(&str, &str)], add: u64) {
    raw::count(name, labels, add);
}

/// Notes a value, such as a time in seconds, in `portcullis_plugin_values`.
pub fn observe(name: &str, labels: &[(&str, &str)], value: f64) {
    raw::observe(name, labels, value);
}
