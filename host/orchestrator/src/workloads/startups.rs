//! What images start: asked of whoever knows, where a definition does not say it and a bridge has to be told.

use portcullis_model::{Name, Secret, spec::Kubernetes};
use portcullis_workload::{Startup, plan::needs_startup};
use tokio::sync::watch;

use super::{Inner, Wish};

/// Who knows what images start.
pub trait Startups: Send + Sync {
    /// What the image of a tenant's definition starts. `passwords` are those of its logins, in their order. Never waits: what is not known
    /// is found out, and [`Startups::changes`] tells when it is.
    ///
    /// # Errors
    /// Why it is not known, or not yet, in a sentence for operators.
    fn of(&self, tenant: &Name, spec: &Kubernetes, passwords: &[Secret]) -> Result<Startup, String>;

    /// Counts what was found out, and what is worth another try.
    fn changes(&self) -> watch::Receiver<u64>;
}

impl Inner {
    /// What the image of a wish starts; none where nobody has to know.
    pub(super) fn startup(&self, wish: &Wish, passwords: &[Secret]) -> Result<Option<Startup>, String> {
        match wish.server.kubernetes.as_ref().filter(|spec| needs_startup(spec)) {
            Some(spec) => self.startups.of(&wish.identity.tenant, spec, passwords).map(Some),
            None => Ok(None),
        }
    }
}
