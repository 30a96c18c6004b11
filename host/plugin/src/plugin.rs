//! A loaded plugin: a component with its configuration, grants and limits, ready to answer.

use std::sync::Arc;

use portcullis_model::{
    Name,
    spec::{Grants, Isolation, Limits},
};

use crate::{
    answer::{Description, Hooks},
    component::Exports,
    granted::Apart,
    health::{Health, Quarantine},
    host::Host,
    instances::Ready,
    state::Fixed,
};

/// A plugin that is ready. Dropping the last reference drops its warm instances; calls that run end on it.
pub struct Plugin {
    pub(crate) host: Arc<Host>,
    pub(crate) ready: Arc<Ready>,
    pub(crate) exports: Arc<Exports>,
    pub(crate) fixed: Arc<Fixed>,
    pub(crate) limits: Limits,
    pub(crate) isolation: Isolation,
    pub(crate) suspends: bool,
    pub(crate) health: Health,
    pub(crate) apart: Apart,
    pub(crate) description: Option<Description>,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("name", &self.fixed.name)
            .field("component", &self.ready.component)
            .finish_non_exhaustive()
    }
}

impl Plugin {
    /// The hooks that it serves.
    pub fn hooks(&self) -> Hooks {
        self.ready.component.hooks()
    }

    /// Where clients get the tokens that it accepts, if it says so.
    pub fn description(&self) -> Option<&Description> {
        self.description.as_ref()
    }

    /// SHA-256 of its component, in hex.
    pub fn digest(&self) -> &str {
        self.ready.component.digest()
    }

    /// The `Plugin` resource's name.
    pub fn name(&self) -> &str {
        &self.fixed.name
    }

    /// Whose it is.
    pub fn tenant(&self) -> &Name {
        &self.fixed.tenant
    }

    /// What it was granted, and asks for.
    pub fn grants(&self) -> &Grants {
        &self.fixed.grants
    }

    /// What was granted and is not handed out, since its manifest does not ask for it: `reveal`, `secrets key`.
    pub fn withheld(&self) -> &[String] {
        &self.apart.withheld
    }

    /// What its manifest asks for and nobody granted, with what for, in its author's words.
    pub fn ungranted(&self) -> &[String] {
        &self.apart.ungranted
    }

    /// Its configuration, as it reads it.
    pub fn config(&self) -> &str {
        &self.fixed.config
    }

    /// Whether its instances start from the memory that its `setup` left, rather than each getting ready by itself. True where it
    /// has no `setup`.
    pub fn starts_ready(&self) -> bool {
        !self.ready.unprepared
    }

    /// Whether its calls may wait for others; otherwise they are over before the future is polled a second time.
    pub fn suspends(&self) -> bool {
        self.suspends
    }

    /// Whether it is in quarantine, and until when.
    pub fn quarantine(&self) -> Option<Quarantine> {
        self.health.quarantine()
    }

    /// Where it is counted.
    pub fn metrics(&self) -> &Arc<portcullis_telemetry::metrics::PluginMetrics> {
        &self.fixed.metrics
    }
}
