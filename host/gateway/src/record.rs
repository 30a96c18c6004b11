//! Phase 11, record: metrics and audit, never on the caller's time but for refusals, which are durable first.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

use portcullis_credential::Carried;
use portcullis_model::{Fault, Side};
use portcullis_plugin::Attributes;
use portcullis_telemetry::{Audit, AuditEvent, CallMetrics, Metrics, Outcome};
use portcullis_upstream::{Message, MessageKind, UpstreamError};

use crate::{asked::Asked, gateways::Gateways, judge, naming, relayed::What, view::Assigned};

/// The most bytes of a name or URI on record.
const MOST_NAME: usize = 512;

/// What will be written of one call. Dropped without an outcome, the call was cancelled.
pub struct Record {
    audit: Arc<Audit>,
    metrics: Arc<Metrics>,
    call: Arc<CallMetrics>,
    event: Option<AuditEvent>,
    request_id: Arc<str>,
    server: Option<Arc<str>>,
    tool: Arc<str>,
    started: Instant,
    sent: Option<Instant>,
    borrowed: bool,
    /// Where the caller's own token goes on to the server, and an operator's reason where there is one.
    passed: Option<Option<String>>,
    /// What the policies said, once all of them were asked.
    decision: Option<&'static str>,
    /// What policies note of it.
    attributes: Attributes,
}

impl Record {
    /// The record of a request to a server. Only tools have metrics by name: there may be any number of URIs.
    pub fn of(
        gateways: &Gateways,
        asked: &Asked<'_>,
        assigned: &Assigned,
        what: What,
        exposed: &str,
        own: &str,
    ) -> Self {
        let method = what.method();
        let label = method.unwrap_or(exposed);
        let call = match assigned.metrics.get(label) {
            Some(call) => call,
            None => {
                // Only tools that exist get a series of their own, so that made-up names don't use up the bound.
                let exists = method.is_some() || asked.view.has_tool(assigned, own, &gateways.catalogue);
                let shown = if exists { label } else { portcullis_telemetry::metrics::OTHER };
                let (tenant, gateway) = (asked.view.tenant.as_str(), asked.view.name.as_str());
                let call = gateways.metrics.call_handle(tenant, gateway, assigned.server.as_str(), shown);
                if exists {
                    assigned.metrics.insert(Box::from(label), Arc::clone(&call));
                }
                call
            }
        };
        Self::new(gateways, asked, call, Some(assigned.server.shared()), Arc::from(&*naming::cut(exposed, MOST_NAME)))
    }

    /// The record of a call to nothing that there is.
    pub fn outside(gateways: &Gateways, asked: &Asked<'_>, exposed: &str) -> Self {
        const OTHER: &str = portcullis_telemetry::metrics::OTHER;
        let call = gateways.metrics.call_handle(asked.view.tenant.as_str(), asked.view.name.as_str(), OTHER, OTHER);
        Self::new(gateways, asked, call, None, Arc::from(&*naming::quoted(exposed)))
    }

    /// The record of a call of a tool of the gateway's own.
    pub fn ours(gateways: &Gateways, asked: &Asked<'_>, tool: &'static str) -> Self {
        const OTHER: &str = portcullis_telemetry::metrics::OTHER;
        let call = gateways.metrics.call_handle(asked.view.tenant.as_str(), asked.view.name.as_str(), OTHER, tool);
        Self::new(gateways, asked, call, None, Arc::from(tool))
    }

    fn new(
        gateways: &Gateways,
        asked: &Asked<'_>,
        call: Arc<CallMetrics>,
        server: Option<Arc<str>>,
        tool: Arc<str>,
    ) -> Self {
        let mut event = AuditEvent::new("call");
        event.request_id = Some(asked.request_id.to_string());
        event.trace_id = trace_id(asked);
        event.tenant = Some(asked.view.tenant.shared());
        event.gateway = Some(asked.view.name.shared());
        event.caller = Some(Arc::clone(&asked.principal.subject_text));
        event.token = asked.principal.token.as_deref().map(Arc::from);
        event.method = Some(method(asked.message.method()));
        event.server.clone_from(&server);
        event.tool = Some(Arc::clone(&tool));
        Self {
            audit: Arc::clone(&gateways.audit),
            metrics: Arc::clone(&gateways.metrics),
            call,
            event: Some(event),
            request_id: Arc::clone(asked.request_id),
            server,
            tool,
            started: asked.started,
            sent: None,
            borrowed: false,
            passed: None,
            decision: None,
            attributes: asked.attributes.clone(),
        }
    }

    /// Notes that every policy has let the call pass, as it was or `modified`.
    pub fn decided(&mut self, modified: bool) {
        self.decision = Some(if modified { "modify" } else { "allow" });
    }

    /// Notes under whose account the call runs.
    pub fn runs_under(&mut self, carried: &Carried) {
        if let Some(event) = &mut self.event {
            event.executed_as = Some(Arc::clone(&carried.executed_as));
            event.connection = carried.connection.as_ref().map(portcullis_model::Name::shared);
            self.borrowed = carried.by_another;
            self.passed = carried.passed.as_ref().map(|passed| passed.exception.clone());
        }
    }

    /// Notes that the request is on its way; the use of somebody else's connection, and a caller's own token that goes on, are
    /// durable before it leaves (security decision 26).
    ///
    /// # Errors
    /// A fault when the audit stream can't take it.
    pub async fn sending(&mut self) -> Result<(), Fault> {
        let kind = match (&self.passed, self.borrowed) {
            (Some(_), _) => Some("passthrough"),
            (None, true) => Some("borrowed-connection"),
            (None, false) => None,
        };
        if let (Some(kind), Some(event)) = (kind, &self.event) {
            let reason = self.passed.clone().flatten().map(Cow::Owned);
            let event = AuditEvent { kind: Cow::Borrowed(kind), reason, ..event.clone() };
            self.audit.record_durable(event).await.map_err(|error| {
                tracing::error!(%error, "the audit stream takes nothing, so the call is refused");
                crate::record::unrecorded()
            })?;
        }
        self.sent = Some(Instant::now());
        Ok(())
    }

    /// The server answered.
    pub fn answered(mut self, answer: &Message) {
        let failed = answer.kind == MessageKind::Error || answer.is_error;
        let outcome = if failed { Outcome::ToolError } else { Outcome::Ok };
        self.write(None, outcome);
    }

    /// The gateway answered by itself.
    pub fn ended(mut self) {
        self.write(None, Outcome::Ok);
    }

    /// The server failed in mid-stream: what the caller is told, and the request's id.
    pub fn failed(mut self, error: &UpstreamError) -> (Fault, Arc<str>) {
        let fault = error.to_fault(self.server.as_deref().unwrap_or_default(), Some(&self.tool));
        self.metrics.refused(&fault);
        self.write(Some(fault.code), Outcome::of_fault(&fault));
        (fault, Arc::clone(&self.request_id))
    }

    /// Nobody was asked: there is no such tool. Where denials are waited for, so is this.
    pub async fn unknown(mut self, fault: &Fault, durable: bool) {
        self.metrics.refused(fault);
        let outcome = Outcome::of_fault(fault);
        if !durable {
            return self.write(Some(fault.code), outcome);
        }
        self.write_durable(fault.code, outcome).await;
    }

    /// The call was refused. What a policy denied, or what failed closed before all had decided, is on disk before the caller
    /// hears of it.
    pub async fn refused(mut self, fault: &Fault) {
        self.metrics.refused(fault);
        let outcome = Outcome::of_fault(fault);
        let denied = outcome == Outcome::Denied || (self.decision.is_none() && fault.side == Side::Gateway);
        if !denied {
            self.write(Some(fault.code), outcome);
            return;
        }
        self.denied(fault.code, outcome).await;
    }

    /// The tool is hidden from the caller: whatever was found wrong with the call, it was denied.
    pub async fn hidden(mut self, fault: &Fault) {
        self.metrics.refused(fault);
        self.denied(fault.code, Outcome::Denied).await;
    }

    async fn denied(&mut self, reason: &'static str, outcome: Outcome) {
        self.decision = Some(if reason == judge::APPROVAL { judge::REQUIRE_APPROVAL } else { "deny" });
        self.write_durable(reason, outcome).await;
    }

    async fn write_durable(&mut self, reason: &'static str, outcome: Outcome) {
        if let Some(event) = self.finish(Some(reason), outcome)
            && let Err(error) = self.audit.record_durable(event).await
        {
            // The call does not happen either way.
            tracing::error!(%error, "a refusal could not be recorded");
        }
    }

    fn write(&mut self, reason: Option<&'static str>, outcome: Outcome) {
        if let Some(event) = self.finish(reason, outcome) {
            self.audit.record(event);
        }
    }

    fn finish(&mut self, reason: Option<&'static str>, outcome: Outcome) -> Option<AuditEvent> {
        let mut event = self.event.take()?;
        let total = self.started.elapsed();
        let waited = self.sent.map_or(Duration::ZERO, |sent| sent.elapsed());
        self.call.record(outcome, total, waited);
        event.decision = self.decision.map(Cow::Borrowed);
        event.reason = reason.map(Cow::Borrowed);
        event.outcome = Some(Cow::Borrowed(outcome.as_str()));
        let noted = self.attributes.all();
        event.attributes = (!noted.is_empty()).then(|| noted.into_iter().collect());
        event.duration_us = Some(u64::try_from(total.as_micros()).unwrap_or(u64::MAX));
        Some(event)
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.write(Some("cancelled"), Outcome::Cancelled);
    }
}

/// What has to be on record and can't be, does not happen.
pub fn unrecorded() -> Fault {
    Fault::new(Side::Gateway, "audit-unavailable", "the call could not be recorded, so it is refused")
        .next("Ask your operator: the audit stream can't be written")
}

/// The method, without an allocation for those that there are.
pub fn method(asked: &str) -> Cow<'static, str> {
    const KNOWN: [&str; 4] = ["tools/call", "resources/read", "prompts/get", "completion/complete"];
    match KNOWN.into_iter().find(|known| *known == asked) {
        Some(known) => Cow::Borrowed(known),
        None => Cow::Owned(naming::quoted(asked).into_owned()),
    }
}

/// The trace that the caller is in: from `_meta` (2026-07-28), else from the header.
fn trace_id(asked: &Asked<'_>) -> Option<String> {
    let meta = asked.message.meta().and_then(|m| m.traceparent.as_ref()).map(AsRef::as_ref);
    let text = meta.or_else(|| asked.headers.get("traceparent").and_then(|v| v.to_str().ok()))?;
    portcullis_telemetry::TraceContext::parse(text).map(|t| t.trace_id())
}
