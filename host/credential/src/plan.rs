//! How the credential of an assignment's calls is chosen, compiled once with the gateway's snapshot.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use http::HeaderMap;
use portcullis_model::{
    Name, Principal,
    spec::{CredentialMode, McpServer},
};
use portcullis_plugin::{
    Attributes, Earlier, Placed, Plugin, PluginFailure, Rejection, RequestFacts, Resolution, TargetFacts,
};
use portcullis_store::registry::server_origin;
use sha2::{Digest, Sha256};

/// How long a resolver may wait for others at most; its plugin's own limit is usually shorter.
const WAIT: Duration = Duration::from_secs(30);

/// Answers whose credential a call carries. Plugins do; tests bring their own.
pub trait Resolve: Send + Sync {
    /// Sees only what the cache of its answer is keyed by.
    fn resolve<'a>(
        &'a self,
        principal: &'a Arc<Principal>,
        headers: &'a Arc<HeaderMap>,
        target: &'a TargetFacts,
    ) -> BoxFuture<'a, Result<Resolution, PluginFailure>>;

    /// Whether it gives new answers ahead of the end of old ones.
    fn refreshes(&self) -> bool {
        false
    }

    /// Whether it says what to do where a server refuses what it gave.
    fn hears_of_rejections(&self) -> bool {
        false
    }

    /// Whether it may take the caller's own token.
    fn takes_callers_token(&self) -> bool {
        false
    }

    /// Whether it asks somebody else before it answers, such as an identity provider in the caller's name.
    fn asks_others(&self) -> bool {
        self.takes_callers_token()
    }

    /// A new answer in an earlier one's place.
    fn refresh<'a>(
        &'a self,
        _principal: &'a Arc<Principal>,
        _headers: &'a Arc<HeaderMap>,
        _target: &'a TargetFacts,
        _earlier: &'a Earlier,
    ) -> BoxFuture<'a, Result<Resolution, PluginFailure>> {
        Box::pin(async { Err(PluginFailure::NoHook) })
    }

    /// What to do after a server refused an answer.
    fn rejected<'a>(
        &'a self,
        _principal: &'a Arc<Principal>,
        _headers: &'a Arc<HeaderMap>,
        _target: &'a TargetFacts,
        _earlier: &'a Earlier,
    ) -> BoxFuture<'a, Result<Rejection, PluginFailure>> {
        Box::pin(async { Err(PluginFailure::NoHook) })
    }
}

/// A resolver is lent no call: gateway, deadline and attributes are nothing that its answer may depend on, since others use the
/// answer at other gateways and later. Its own limits bound its time.
fn request(headers: &Arc<HeaderMap>, target: &TargetFacts) -> RequestFacts {
    RequestFacts {
        gateway: target.server.clone(),
        request_id: Arc::from(""),
        headers: Arc::clone(headers),
        deadline: Instant::now() + WAIT,
        attributes: Attributes::default(),
    }
}

/// The active version, or the candidate for the callers of its share: always the same ones, so that what is remembered of a
/// caller is of one version.
impl Resolve for Placed {
    fn resolve<'a>(
        &'a self,
        principal: &'a Arc<Principal>,
        headers: &'a Arc<HeaderMap>,
        target: &'a TargetFacts,
    ) -> BoxFuture<'a, Result<Resolution, PluginFailure>> {
        Box::pin(async move { self.of(principal).resolve(principal, &request(headers, target), target).await })
    }

    fn refreshes(&self) -> bool {
        self.plugin.hooks().refresher
    }

    fn hears_of_rejections(&self) -> bool {
        self.plugin.hooks().on_rejected
    }

    fn takes_callers_token(&self) -> bool {
        let takes = |plugin: &Plugin| plugin.grants().caller_token;
        takes(&self.plugin) || self.candidate.as_ref().is_some_and(|candidate| takes(&candidate.plugin))
    }

    fn asks_others(&self) -> bool {
        let waits = |plugin: &Plugin| plugin.grants().caller_token || plugin.suspends();
        waits(&self.plugin) || self.candidate.as_ref().is_some_and(|candidate| waits(&candidate.plugin))
    }

    fn refresh<'a>(
        &'a self,
        principal: &'a Arc<Principal>,
        headers: &'a Arc<HeaderMap>,
        target: &'a TargetFacts,
        earlier: &'a Earlier,
    ) -> BoxFuture<'a, Result<Resolution, PluginFailure>> {
        Box::pin(async move { self.of(principal).refresh(principal, &request(headers, target), target, earlier).await })
    }

    fn rejected<'a>(
        &'a self,
        principal: &'a Arc<Principal>,
        headers: &'a Arc<HeaderMap>,
        target: &'a TargetFacts,
        earlier: &'a Earlier,
    ) -> BoxFuture<'a, Result<Rejection, PluginFailure>> {
        Box::pin(
            async move { self.of(principal).rejected(principal, &request(headers, target), target, earlier).await },
        )
    }
}

/// What a plan is made of.
pub struct PlanParts<'a> {
    /// The tenant of gateway and server.
    pub tenant: Name,
    /// The server's name.
    pub server: Name,
    /// The server.
    pub spec: &'a McpServer,
    /// How the credential is chosen.
    pub mode: &'a CredentialMode,
    /// The resolver that `mode` names.
    pub resolver: Arc<dyn Resolve>,
    /// Of that plugin and its candidate, see `portcullis_plugin::Placed`: answers of others are not used.
    pub resolver_identity: String,
}

/// How the credential of calls is chosen. Immutable; made anew when a resource that it depends on changes.
pub struct CredentialPlan {
    pub(crate) tenant: Name,
    pub(crate) server: Name,
    pub(crate) spec: McpServer,
    pub(crate) origin: String,
    pub(crate) mode: String,
    pub(crate) target: TargetFacts,
    pub(crate) resolver: Arc<dyn Resolve>,
    pub(crate) fingerprint: [u8; 32],
}

impl CredentialPlan {
    /// A plan. A server whose calls need no credential needs none.
    pub fn new(parts: PlanParts<'_>) -> Arc<Self> {
        let url = parts.spec.remote.as_ref().map_or_else(String::new, |r| r.url.to_string());
        let target = TargetFacts {
            server: parts.server.clone(),
            url: url.into(),
            connection: parts.mode.connection.clone(),
            settings: Arc::new(parts.mode.settings.clone().into_iter().collect()),
        };
        let mut hash = Sha256::new();
        for part in [parts.tenant.as_str(), parts.server.as_str(), &parts.resolver_identity] {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        for part in [serde_json::to_vec(parts.spec), serde_json::to_vec(parts.mode)] {
            // Specs are plain data and always serialize; were one not to, the plan would share no answer with an equal one.
            let part = part.unwrap_or_default();
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        Arc::new(Self {
            origin: server_origin(parts.spec),
            tenant: parts.tenant,
            server: parts.server,
            spec: parts.spec.clone(),
            mode: parts.mode.mode.clone(),
            target,
            resolver: parts.resolver,
            fingerprint: hash.finalize().into(),
        })
    }
}

impl std::fmt::Debug for CredentialPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CredentialPlan").field("server", &self.server).field("mode", &self.mode).finish_non_exhaustive()
    }
}
