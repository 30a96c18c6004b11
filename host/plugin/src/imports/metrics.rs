//! `portcullis:host/metrics`: figures of a plugin's own.

use portcullis_telemetry::NotKept;
use wasmtime::Result;

use crate::{bindings::portcullis::host::metrics, state::State};

impl State {
    fn noted(&mut self, name: &str, kept: std::result::Result<(), NotKept>) {
        if let Err(why) = kept
            && self.fixed.figures_dropped()
        {
            let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
            tracing::warn!(plugin = %self.fixed.name, tenant = %self.fixed.tenant, figure = name, %why, "a plugin's figures are dropped");
        }
    }
}

impl metrics::Host for State {
    fn count(&mut self, name: String, labels: Vec<(String, String)>, add: u64) -> Result<()> {
        if self.preparing {
            return self.forbid("metrics while getting ready");
        }
        let kept = self.fixed.metrics.count(&name, &labels, add);
        self.noted(&name, kept);
        Ok(())
    }
    fn observe(&mut self, name: String, labels: Vec<(String, String)>, value: f64) -> Result<()> {
        if self.preparing {
            return self.forbid("metrics while getting ready");
        }
        let kept = self.fixed.metrics.observe(&name, &labels, value);
        self.noted(&name, kept);
        Ok(())
    }
}
