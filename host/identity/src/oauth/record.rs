//! What the authorization server gave, refused and took back, in the audit stream.
//!
//! Who gets access is a `session`, and who does not a `denial`; what ends before its time is a `revocation`. Refusals are written on
//! nobody's time, since any stranger can cause one; an address that does so is held up before it comes here.

use std::sync::Arc;

use portcullis_model::text::shown;
use portcullis_telemetry::AuditEvent;

use super::{
    OAuth, OAuthError, Target,
    client::Presented,
    grant::{Grant, Issued},
};

/// The most characters of a client's id.
const MAX_ID: usize = 200;

/// What became known of a request on the way to its answer.
#[derive(Default)]
pub(super) struct About {
    /// The client, as far as it has proven itself.
    pub(super) client: Option<String>,
    /// For which gateway.
    pub(super) target: Option<Target>,
    /// In whose name.
    pub(super) owner: Option<String>,
    /// The id of the access token that is about.
    pub(super) token: Option<String>,
    /// Why what was given before is ended, where it is.
    pub(super) ended: Option<&'static str>,
}

impl About {
    pub(super) fn is_of(&mut self, grant: &Grant) {
        self.target = Some(grant.target.clone());
        self.owner = Some(grant.who.to_string());
    }

    fn event(self, kind: &'static str, method: &'static str, presented: &Presented) -> AuditEvent {
        // Also what only claims to be that client: whoever looks for it wants to know.
        let client = self.client.as_deref().or(presented.id.as_deref());
        AuditEvent {
            tenant: self.target.as_ref().map(|t| t.tenant.shared()),
            gateway: self.target.as_ref().map(|t| t.gateway.shared()),
            caller: self.owner.map(Into::into),
            token: self.token.map(Into::into),
            method: Some(method.into()),
            tool: client.map(|id| Arc::from(shown(id, MAX_ID))),
            ..AuditEvent::new(kind)
        }
    }
}

impl OAuth {
    pub(super) async fn record_token(
        &self,
        presented: &Presented,
        mut about: About,
        answered: &Result<Issued, OAuthError>,
    ) {
        const METHOD: &str = "oauth.token";
        let error = match answered {
            Ok(issued) => {
                (about.owner, about.token) = (Some(issued.owner.clone()), Some(issued.token.clone()));
                let event = about.event("session", METHOD, presented);
                return self.parts.audit.record(AuditEvent { outcome: Some("ok".into()), ..event });
            }
            Err(error) => error,
        };
        if let Some(why) = about.ended {
            let event = about.event("revocation", METHOD, presented);
            return self.record_ended(AuditEvent { reason: Some(why.into()), ..event }).await;
        }
        // What nobody holds up is recorded by nobody either: it gave nothing, and asked for nothing that there is.
        if error.is_failure() {
            self.parts.audit.record(denial(about.event("denial", METHOD, presented), error));
        }
    }

    pub(super) async fn record_revoked(
        &self,
        presented: &Presented,
        about: About,
        answered: &Result<bool, OAuthError>,
    ) {
        const METHOD: &str = "oauth.revoke";
        match answered {
            Ok(true) => self.record_ended(about.event("revocation", METHOD, presented)).await,
            // What is unknown, or another's, was not there to be taken back.
            Ok(false) => {}
            Err(error) if error.is_failure() => {
                self.parts.audit.record(denial(about.event("denial", METHOD, presented), error));
            }
            Err(_) => {}
        }
    }

    pub(super) fn record_registered(&self, answered: Result<String, &OAuthError>) {
        let event = AuditEvent { method: Some("oauth.register".into()), ..AuditEvent::new("registration") };
        self.parts.audit.record(match answered {
            Ok(id) => AuditEvent { tool: Some(id.into()), outcome: Some("ok".into()), ..event },
            Err(error) => denial(event, error),
        });
    }

    /// It is ended whether or not it can be written down: a stolen token is worse than a missing line.
    async fn record_ended(&self, event: AuditEvent) {
        let event = AuditEvent { outcome: Some("revoked".into()), ..event };
        if let Err(error) = self.parts.audit.record_durable(event).await {
            tracing::error!(%error, "what was taken back from a client could not be recorded");
        }
    }
}

fn denial(event: AuditEvent, error: &OAuthError) -> AuditEvent {
    AuditEvent {
        decision: Some("deny".into()),
        reason: Some(error.code.into()),
        outcome: Some("refused".into()),
        ..event
    }
}
