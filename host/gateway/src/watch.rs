//! A policy that only watches: what it would have done is counted and recorded, and everything happens as if it had allowed it.
//!
//! One that waits for others is asked beside the call, so that a slow service of a policy that decides nothing makes nobody wait.
//! Where too many are asked so already, the call waits for its own: nothing that one says is lost.

use std::sync::Arc;

use portcullis_model::{Name, Principal};
use portcullis_plugin::{CallFacts, Decision, Placed, PluginError, PluginFailure, RequestFacts};
use portcullis_telemetry::{Audit, AuditEvent};
use tokio::sync::Semaphore;

use crate::naming;

/// The most bytes of a name on record.
const MOST_NAME: usize = 512;
/// The most questions beside calls, of all gateways.
const MOST_BESIDE: usize = 64;
/// Room for them.
static BESIDE: Semaphore = Semaphore::const_new(MOST_BESIDE);

/// The policy of such a place, and where what it would have done is written.
pub(crate) struct Watch {
    pub(crate) placed: Placed,
    audit: Arc<Audit>,
    gateway: Name,
}

/// What an answer was about.
pub(crate) struct About<'a> {
    pub(crate) hook: &'static str,
    pub(crate) server: Option<&'a Name>,
    pub(crate) name: &'a str,
}

impl<'a> About<'a> {
    /// A call of a tool.
    pub(crate) fn tool(hook: &'static str, call: &'a CallFacts) -> Self {
        Self { hook, server: Some(&call.server), name: &call.exposed_tool }
    }
}

impl Watch {
    pub(crate) fn new(placed: Placed, audit: Arc<Audit>, gateway: Name) -> Self {
        Self { placed, audit, gateway }
    }

    /// Asks it: beside the call where it may wait for others, and at once where it does not. Whatever it says, the call goes on.
    pub(crate) async fn ask<W>(self: &Arc<Self>, work: impl FnOnce(Arc<Self>) -> W) -> Decision
    where
        W: Future<Output = ()> + Send + 'static,
    {
        let work = work(Arc::clone(self));
        if self.placed.plugin.suspends()
            && let Ok(room) = BESIDE.try_acquire()
        {
            drop(tokio::spawn(async move {
                work.await;
                drop(room);
            }));
        } else {
            work.await;
        }
        Decision::Allow
    }

    /// Notes what it would have done.
    pub(crate) fn noted(
        &self,
        principal: &Principal,
        request: &RequestFacts,
        about: &About<'_>,
        answer: &Result<Decision, PluginFailure>,
    ) {
        let (word, reason): (&'static str, Option<&str>) = match answer {
            Ok(Decision::Allow) => ("allow", None),
            Ok(Decision::Deny { code, .. }) => ("deny", Some(code)),
            Ok(Decision::Modify(_)) => ("modify", None),
            Ok(Decision::RequireApproval(_)) => ("require-approval", None),
            Err(PluginFailure::Error(PluginError::Denied { code, .. })) => ("deny", Some(code)),
            Err(failure) if !failure.is_fault() => ("deny", Some("refused")),
            Err(failure) => ("failed", Some(failure.word())),
        };
        self.note(principal, request, about, word, reason);
    }

    /// Notes this of it.
    pub(crate) fn note(
        &self,
        principal: &Principal,
        request: &RequestFacts,
        about: &About<'_>,
        word: &'static str,
        reason: Option<&str>,
    ) {
        self.placed.plugin.metrics().monitored(about.hook, word);
        if word == "allow" {
            return;
        }
        let (policy, hook, reason) = (self.placed.plugin.name(), about.hook, reason.unwrap_or_default());
        tracing::info!(
            request = &*request.request_id,
            policy,
            hook,
            would = word,
            reason,
            "a policy that only watches"
        );
        self.audit.record(AuditEvent {
            request_id: Some(request.request_id.to_string()),
            tenant: Some(principal.tenant.shared()),
            gateway: Some(self.gateway.shared()),
            caller: Some(Arc::clone(&principal.subject_text)),
            token: principal.token.as_deref().map(Arc::from),
            method: Some(about.hook.into()),
            server: about.server.map(Name::shared),
            tool: (!about.name.is_empty()).then(|| Arc::from(&*naming::cut(about.name, MOST_NAME))),
            plugin: Some(Arc::from(policy)),
            decision: Some(word.into()),
            reason: (!reason.is_empty()).then(|| reason.to_owned().into()),
            ..AuditEvent::new("monitored")
        });
    }
}
