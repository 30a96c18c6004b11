//! An auth provider at its place in a gateway.

use std::sync::Arc;

use portcullis_plugin::{AuthRequest, BoxFuture, Plugin, PluginFailure, Read, Verdict};

/// Whoever can say who is calling. A plugin with the provider hook is one.
pub trait ProviderHook: Send + Sync {
    /// For operators.
    fn name(&self) -> &str;
    /// Asks.
    fn ask<'a>(&'a self, request: &'a AuthRequest) -> BoxFuture<'a, Result<ProviderAnswer, PluginFailure>>;
}

/// What a provider answered, and what it read to get there.
#[derive(Debug)]
pub struct ProviderAnswer {
    /// The answer.
    pub verdict: Verdict,
    /// What it read beside the credential; none where that is not known, and then nothing is remembered.
    pub reads: Option<Vec<Read>>,
}

impl ProviderHook for Plugin {
    fn name(&self) -> &str {
        Plugin::name(self)
    }

    fn ask<'a>(&'a self, request: &'a AuthRequest) -> BoxFuture<'a, Result<ProviderAnswer, PluginFailure>> {
        Box::pin(async move {
            let verdict = self.authenticate(request).await?;
            let reads = match &verdict {
                Verdict::Accepted { reads, .. } | Verdict::NotMine { reads } | Verdict::Anonymous { reads } => {
                    Some(reads.clone())
                }
                // Refusals are remembered for the credential that was refused, and for moments only.
                Verdict::Challenge { .. } | Verdict::Refused(_) => Some(Vec::new()),
            };
            Ok(ProviderAnswer { verdict, reads })
        })
    }
}

/// A provider, and what tells it from every other one.
pub struct Provider {
    pub(super) hook: Arc<dyn ProviderHook>,
    /// Of component, configuration, grants and secrets: verdicts of another one do not hold here.
    pub(super) identity: Arc<str>,
}

impl Provider {
    /// A loaded plugin that serves the provider hook. `identity` is the one of `portcullis_plugin::Placed`.
    pub fn new(plugin: Arc<Plugin>, identity: &Arc<str>) -> Self {
        Self { hook: plugin, identity: Arc::clone(identity) }
    }

    /// For operators.
    pub fn name(&self) -> &str {
        self.hook.name()
    }

    /// Anything else that can say who is calling.
    pub fn of(hook: Arc<dyn ProviderHook>, identity: &str) -> Self {
        Self { hook, identity: identity.into() }
    }
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Provider").field("name", &self.hook.name()).finish_non_exhaustive()
    }
}
