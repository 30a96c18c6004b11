//! What administrators do, on record: that it begins before anything changes, and how it ended before it is answered.
//!
//! So nothing is changed that nobody wrote down, also where store or audit stream fail in the middle: an attempt without an end
//! is one of which nobody knows how far it came. What takes tokens away waits for no record.

use portcullis_model::{Name, Side};
use portcullis_telemetry::AuditEvent;

use super::{Admin, Who};
use crate::api::ApiError;

/// The outcome of an attempt that is still under way.
const BEGUN: &str = "begun";

/// Something that somebody is about to do. What is dropped without [`Attempt::end`] stays on record as begun.
#[must_use]
pub(crate) struct Attempt<'a> {
    admin: &'a Admin,
    who: &'a Who,
    verb: &'static str,
    tenant: Name,
    what: String,
}

impl Admin {
    /// Writes down that somebody is about to do something. To be called before the first change.
    ///
    /// # Errors
    /// `audit-failed`: nothing may be changed then.
    pub(crate) async fn attempt<'a>(
        &'a self,
        who: &'a Who,
        verb: &'static str,
        tenant: &Name,
        what: impl Into<String>,
    ) -> Result<Attempt<'a>, ApiError> {
        let what = what.into();
        let written = self.write(who, verb, tenant, &what, BEGUN).await;
        written.map_err(|why| failed(format!("{verb} was not begun, because it could not be recorded: {why}")))?;
        Ok(Attempt { admin: self, who, verb, tenant: tenant.clone(), what })
    }

    /// The same of what only takes rights away: it is done also where it can't be recorded, since a stolen token is worse than
    /// a missing line. [`Attempt::end`] tells whoever asked.
    pub(crate) async fn attempt_to_take<'a>(
        &'a self,
        who: &'a Who,
        verb: &'static str,
        tenant: &Name,
        what: impl Into<String>,
    ) -> Attempt<'a> {
        let what = what.into();
        if let Err(error) = self.write(who, verb, tenant, &what, BEGUN).await {
            tracing::error!(%error, verb, "it could not be recorded, and is done all the same");
        }
        Attempt { admin: self, who, verb, tenant: tenant.clone(), what }
    }

    /// Writes down what changed nothing, such as a denial.
    ///
    /// # Errors
    /// `audit-failed`.
    pub(crate) async fn record(
        &self,
        who: &Who,
        verb: &'static str,
        tenant: &Name,
        what: &str,
        outcome: &'static str,
    ) -> Result<(), ApiError> {
        let written = self.write(who, verb, tenant, what, outcome).await;
        written.map_err(|why| failed(format!("{verb} ended as {outcome}, but could not be recorded: {why}")))
    }

    async fn write(
        &self,
        who: &Who,
        verb: &'static str,
        tenant: &Name,
        what: &str,
        outcome: &'static str,
    ) -> Result<(), portcullis_telemetry::audit::AuditError> {
        let event = AuditEvent {
            tenant: Some(tenant.as_str().into()),
            caller: Some(who.text()),
            token: who.token(),
            method: Some(verb.into()),
            tool: Some(what.into()),
            outcome: Some(outcome.into()),
            ..AuditEvent::new("administration")
        };
        self.audit.record_durable(event).await
    }
}

impl Attempt<'_> {
    /// The same, of something whose name is known only now.
    pub(crate) fn of(self, what: String) -> Self {
        Self { what, ..self }
    }

    /// Writes down how it ended: `done`, or `refused`.
    ///
    /// # Errors
    /// `audit-failed`; that it was begun is on record.
    pub(crate) async fn end(self, done: bool) -> Result<(), ApiError> {
        let outcome = if done { "done" } else { "refused" };
        self.admin.record(self.who, self.verb, &self.tenant, &self.what, outcome).await
    }
}

fn failed(message: String) -> ApiError {
    ApiError::new(Side::Gateway, "audit-failed", message).next("Look at the audit file and the space on its disk.")
}
