//! `tools/call`: phases 4 to 10.

use std::{borrow::Cow, sync::Arc, time::Instant};

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use portcullis_credential::Carried;
use portcullis_model::{Fault, Side, spec::Failure};
use portcullis_plugin::{Attributes, CallFacts, Decision, Item, PluginFailure, RequestFacts, ResultFacts};
use portcullis_protocol::{ParseLimits, rpc, splice::RequestEdit, strict};
use portcullis_upstream::{Incoming, MessageKind, Outgoing, Peer, Spliced, UpstreamError};

use crate::{
    answer,
    asked::Asked,
    gateways::Gateways,
    in_flight::Underway,
    naming,
    record::Record,
    relay::{Relay, Rewrite, event},
    targets,
    view::{self, Assigned, Policy},
};

/// Calls a tool, or says why not. `underway` is how a legacy client can cancel.
pub async fn call(gateways: &Gateways, asked: &Asked<'_>, underway: Option<Underway>) -> Response {
    let era = asked.client.era;
    let Some(exposed) = asked.message.name() else {
        let fault = Fault::new(Side::Caller, "invalid-params", "params.name is missing")
            .next("Name the tool as tools/list shows it");
        return answer::rpc_fault(asked.id(), &fault, asked.request_id, era);
    };
    if let Some(rate) = &asked.view.rate
        && let Err(fault) = rate.check(&asked.principal.subject_text)
    {
        Record::outside(gateways, asked, exposed).refused(&fault).await;
        return answer::tool_fault(asked.id(), &fault, asked.request_id, era);
    }
    let Some(route) = asked.view.route(exposed, &gateways.catalogue) else {
        let fault = unknown_tool(exposed);
        // With policies, what is denied is on disk before it is answered: so is this, or the time would tell them apart.
        let durable = !asked.view.policies.is_empty();
        Record::outside(gateways, asked, exposed).unknown(&fault, durable).await;
        return answer::rpc_fault(asked.id(), &fault, asked.request_id, era);
    };
    let assigned = &asked.view.servers[route.server];
    let mut one = Call { gateways, asked, assigned, exposed, tool: &route.tool, record: None, underway };
    one.record = Some(Record::of(gateways, asked, assigned, exposed, &route.tool));
    let outcome = match &one.underway {
        None => one.run().await,
        Some(underway) => {
            let cancelled = underway.cancelled.clone();
            tokio::select! {
                outcome = one.run() => outcome,
                // Nothing is said about a cancelled request (2025-11-25, cancellation).
                () = cancelled.cancelled() => return answer::empty(StatusCode::ACCEPTED),
            }
        }
    };
    match outcome {
        Ok(response) => response,
        Err(Refused { fault, hidden }) => {
            match one.record.take() {
                Some(record) if hidden => record.hidden(&fault).await,
                Some(record) => record.refused(&fault).await,
                None => {}
            }
            // Whoever does not see a tool in the list learns no more from calling it than that there is none. What is on
            // record says why.
            let fault = if hidden { unknown_tool(exposed) } else { fault };
            if fault.code == "unknown-tool" {
                return answer::rpc_fault(asked.id(), &fault, asked.request_id, era);
            }
            answer::tool_fault(asked.id(), &fault, asked.request_id, era)
        }
    }
}

fn unknown_tool(exposed: &str) -> Fault {
    let name = naming::quoted(exposed);
    Fault::new(Side::Caller, "unknown-tool", format!("there is no tool \"{name}\" at this gateway"))
        .tool(name)
        .next("List the tools again: the list may have changed")
}

/// Why a call does not happen.
struct Refused {
    fault: Fault,
    /// Whether the tool is hidden from this caller, so that the answer must not tell that there is one.
    hidden: bool,
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self { fault, hidden: false }
    }
}

struct Call<'a> {
    gateways: &'a Gateways,
    asked: &'a Asked<'a>,
    assigned: &'a Assigned,
    exposed: &'a str,
    tool: &'a str,
    /// Taken when the call's outcome is written.
    record: Option<Record>,
    underway: Option<Underway>,
}

impl Call<'_> {
    async fn run(&mut self) -> Result<Response, Refused> {
        let (asked, assigned) = (self.asked, self.assigned);
        let deadline = asked.started + assigned.traffic.timeout.get();
        let mut facts = None;
        let (arguments, modified) = if asked.view.policies.is_empty() {
            (self.arguments()?, false)
        } else {
            let decided = match self.arguments() {
                Ok(arguments) => self.decide(facts.insert(Facts::new(self, deadline, &arguments)), arguments).await,
                Err(fault) => Err(fault),
            };
            match decided {
                Ok(decided) => decided,
                Err(fault) => return Err(Refused { fault, hidden: self.is_hidden(deadline).await }),
            }
        };
        if let Some(record) = &mut self.record {
            record.decided(modified);
        }
        // After the policies: who may not use a tool is not told whether there is one.
        if let Some(shared) = &assigned.shared
            && shared.entry.has(self.tool) == Some(false)
        {
            self.gateways.refresh_shared(assigned, shared, asked.view);
            return Err(unknown_tool(self.exposed).into());
        }

        let carried = match assigned.plan_for(self.tool) {
            None => None,
            Some(plan) => Some(
                self.gateways
                    .credentials
                    .resolve(plan, asked.principal, asked.headers)
                    .await
                    .map_err(|fault| fault.server(assigned.server.as_str()).tool(self.exposed))?,
            ),
        };
        if self.tool == view::CONNECT && !asked.view.has_tool(assigned, self.tool, &self.gateways.catalogue) {
            return Ok(self.connected());
        }
        if let (Some(record), Some(carried)) = (&mut self.record, &carried) {
            record.runs_under(carried);
        }
        let peer = targets::peer(&self.gateways.upstreams, asked.view, assigned, carried.as_deref())
            .map_err(|e| e.to_fault(assigned.server.as_str(), Some(self.exposed)))?;
        Ok(self.send(&peer, carried.as_deref(), arguments, facts.as_ref(), deadline).await?)
    }

    /// Whether a policy leaves this tool out of this caller's list. A filter that fails hides nothing here: then the list is
    /// refused as a whole, and says so.
    async fn is_hidden(&self, deadline: Instant) -> bool {
        let request = request_facts(self.asked, deadline);
        let item = [Item { server: self.assigned.server.as_str(), name: self.tool }];
        for policy in self.asked.view.policies.iter().filter(|p| p.plugin.hooks().list_filter) {
            let kept = policy.plugin.filter(self.asked.principal, &request, "tools", &item).await;
            if kept.is_ok_and(|kept| kept.is_empty()) {
                return true;
            }
        }
        false
    }

    /// What stands in place of a server's tools was called, and there is an account by now.
    fn connected(&mut self) -> Response {
        let text = format!("{} is connected. List the tools again to see what it offers.", self.assigned.server);
        let result = serde_json::json!({ "content": [{ "type": "text", "text": text }], "resultType": "complete" });
        if let Some(record) = self.record.take() {
            record.ended();
        }
        answer::json(StatusCode::OK, rpc::result(self.asked.id(), &result.to_string()))
    }

    /// The arguments as they will be sent, unless a policy changes them. Where somebody decides by them or pins some,
    /// a key that stands twice could be read in two ways (security decision 14), so it is refused at any depth.
    fn arguments(&self) -> Result<Arguments, Fault> {
        let params = self.asked.message.params.as_ref();
        let Some(piece) = params.and_then(|p| p.arguments) else {
            return self.pinned("{}", Arguments::Absent);
        };
        let decided = !self.asked.view.policies.is_empty() || self.assigned.pinned.any(self.tool);
        if decided {
            let limits = ParseLimits { max_bytes: usize::MAX, ..ParseLimits::default() };
            strict::check(piece.raw.as_bytes(), &limits).map_err(|e| e.to_fault())?;
            if !piece.raw.starts_with('{') {
                return Err(Fault::new(Side::Caller, "invalid-params", "params.arguments must be an object"));
            }
        }
        self.pinned(piece.raw, Arguments::Sent(self.asked.body.slice(piece.range())))
    }

    fn pinned(&self, raw: &str, unchanged: Arguments) -> Result<Arguments, Fault> {
        match self.assigned.pinned.apply(self.tool, raw) {
            Ok(Cow::Borrowed(_)) => Ok(unchanged),
            Ok(Cow::Owned(changed)) => Ok(Arguments::Changed(Bytes::from(changed))),
            Err(what) => Err(Fault::new(Side::Caller, "invalid-params", what)),
        }
    }

    /// A policy's arguments with the pinned ones put back: no policy can change what the operator has pinned, and the next
    /// policy decides by what will be sent.
    fn pinned_again(&self, policy: &Policy, new: Bytes) -> Result<Bytes, Fault> {
        self.assigned.pinned.apply_again(self.tool, new).map_err(|error| {
            tracing::warn!(
                request = &**self.asked.request_id,
                policy = policy.plugin.name(),
                error,
                "a policy's new arguments are none"
            );
            Fault::new(Side::Gateway, "plugin-invalid", "a policy answered with invalid arguments")
                .server(self.assigned.server.as_str())
                .tool(self.exposed)
        })
    }

    /// Phase 6: each policy has to allow. Gives the arguments, and whether a policy changed them.
    async fn decide(&self, facts: &Facts, mut arguments: Arguments) -> Result<(Arguments, bool), Fault> {
        let mut changed: Option<CallFacts> = None;
        for policy in self.asked.view.policies.iter().filter(|p| p.plugin.hooks().tool_call) {
            let call = changed.as_ref().unwrap_or(&facts.call);
            let decision = policy.plugin.decide(self.asked.principal, &facts.request, call).await;
            if let Some(new) = self.allowed(policy, decision)? {
                let new = self.pinned_again(policy, new)?;
                changed = Some(CallFacts { arguments: new.clone(), ..facts.call.clone() });
                arguments = Arguments::Changed(new);
            }
        }
        Ok((arguments, changed.is_some()))
    }

    /// What a policy's answer means: nothing, other arguments (or another result), or a refusal.
    fn allowed(&self, policy: &Policy, decision: Result<Decision, PluginFailure>) -> Result<Option<Bytes>, Fault> {
        let here = |fault: Fault| Err(fault.server(self.assigned.server.as_str()).tool(self.exposed));
        match decision {
            Ok(Decision::Allow) => Ok(None),
            Ok(Decision::ModifyArguments(new)) => Ok(Some(new)),
            Ok(Decision::Deny { code, message }) => {
                tracing::debug!(request = &**self.asked.request_id, policy = policy.plugin.name(), code, "denied");
                here(Fault::new(Side::Policy, "denied", message).next("Ask your operator if you need this"))
            }
            Ok(Decision::RequireApproval(what)) => here(
                Fault::new(Side::Policy, "approval-required", format!("this call needs an approval: {what}"))
                    .next("Ask your operator"),
            ),
            Err(failure) => match crate::failure::meaning(&failure) {
                Some(refusal) => here(refusal),
                None if policy.on_error == Failure::Allow => Ok(None),
                None => {
                    tracing::warn!(
                        request = &**self.asked.request_id,
                        policy = policy.plugin.name(),
                        %failure,
                        "policy failed"
                    );
                    here(crate::failure::fault("policy", policy.plugin.name(), &failure))
                }
            },
        }
    }

    /// Phases 8 to 10.
    async fn send(
        &mut self,
        peer: &Peer,
        carried: Option<&Carried>,
        arguments: Arguments,
        facts: Option<&Facts>,
        deadline: Instant,
    ) -> Result<Response, Fault> {
        let asked = self.asked;
        let progress = asked.message.meta().and_then(|m| m.progress_token);
        let edit = RequestEdit {
            name: (self.tool != self.exposed).then_some(self.tool),
            arguments: match &arguments {
                Arguments::Changed(bytes) => std::str::from_utf8(bytes).ok(),
                Arguments::Absent | Arguments::Sent(_) => None,
            },
            ..RequestEdit::default()
        };
        let spliced = Spliced { message: asked.message, edit };
        let outgoing = Outgoing {
            name: Some(self.tool),
            headers: carried.map_or(&[], |c| &c.headers),
            progress: progress.is_some(),
            ..Outgoing::new("tools/call", &spliced, deadline)
        };
        if let Some(record) = &mut self.record {
            record.sending().await?;
        }
        let incoming = match peer.send(outgoing).await {
            Ok(incoming) => incoming,
            Err(error) => {
                if let (UpstreamError::Status { code: 401, .. }, Some(carried)) = (&error, carried) {
                    self.gateways.credentials.rejected(carried);
                }
                return Err(error.to_fault(self.assigned.server.as_str(), Some(self.exposed)));
            }
        };
        if let Some(carried) = carried {
            self.gateways.credentials.accepted(carried);
        }
        let (Incoming::Json { version, .. } | Incoming::Stream { version, .. }) = &incoming;
        let rewrite = Rewrite {
            id: asked.id().into(),
            progress: progress.map(|p| p.raw.into()),
            client: asked.client.era,
            server: version.era(),
            max_bytes: self.assigned.traffic.max_response.as_usize(),
        };
        let reviewed = facts.filter(|_| asked.view.policies.iter().any(|p| p.plugin.hooks().tool_result));
        match incoming {
            Incoming::Json { message, .. } => {
                let message = match reviewed {
                    Some(facts) => self.review(facts, message).await?,
                    None => message,
                };
                let body = rewrite
                    .answer(&message)
                    .map_err(|e| e.to_fault(self.assigned.server.as_str(), Some(self.exposed)))?;
                self.done(&message);
                Ok(answer::json(StatusCode::OK, body))
            }
            Incoming::Stream { mut stream, .. } if let Some(facts) = reviewed => {
                // What is reviewed has to be held; what came before the answer goes out with it.
                let mut events = Vec::new();
                let answer = loop {
                    match stream.next().await {
                        Some(Ok(message)) if message.is_answer() => break message,
                        Some(Ok(message)) => events.extend(rewrite.other(&message).map(|b| event(&b))),
                        Some(Err(e)) => return Err(e.to_fault(self.assigned.server.as_str(), Some(self.exposed))),
                        None => return Err(closed(self.assigned, self.exposed)),
                    }
                };
                let message = self.review(facts, answer).await?;
                let last = rewrite
                    .answer(&message)
                    .map_err(|e| e.to_fault(self.assigned.server.as_str(), Some(self.exposed)))?;
                events.push(event(&last));
                self.done(&message);
                Ok(answer::events(axum::body::Body::from(events.concat())))
            }
            Incoming::Stream { stream, .. } => {
                let relay = Relay { stream, rewrite, record: self.record.take() };
                Ok(answer::events(relay.body(deadline, self.underway.take())))
            }
        }
    }

    /// Phase 10: tool-result policies see the result before the client does.
    async fn review(
        &self,
        facts: &Facts,
        message: portcullis_upstream::Message,
    ) -> Result<portcullis_upstream::Message, Fault> {
        if message.kind != MessageKind::Result {
            return Ok(message);
        }
        let mut message = message;
        for policy in self.asked.view.policies.iter().filter(|p| p.plugin.hooks().tool_result) {
            let outcome =
                ResultFacts { is_error: message.is_error, content: message.body.slice(message.payload.clone()) };
            let decision = policy.plugin.review(self.asked.principal, &facts.request, &facts.call, &outcome).await;
            if let Some(new) = self.allowed(policy, decision)? {
                message = message.with_payload(&new).map_err(|e| {
                    tracing::warn!(policy = policy.plugin.name(), error = e, "a policy's new result is no result");
                    Fault::new(Side::Gateway, "plugin-invalid", "a policy answered with an invalid result")
                })?;
            }
        }
        Ok(message)
    }

    fn done(&mut self, answer: &portcullis_upstream::Message) {
        if let Some(record) = self.record.take() {
            record.answered(answer);
        }
    }
}

fn closed(assigned: &Assigned, exposed: &str) -> Fault {
    UpstreamError::Closed { sent: portcullis_upstream::Sent::Maybe }.to_fault(assigned.server.as_str(), Some(exposed))
}

/// What is sent as `params.arguments`.
enum Arguments {
    /// Nothing: the client sent none.
    Absent,
    /// What the client sent, byte for byte.
    Sent(Bytes),
    /// Something else: pinned, or changed by a policy.
    Changed(Bytes),
}

fn request_facts(asked: &Asked<'_>, deadline: Instant) -> RequestFacts {
    RequestFacts {
        gateway: asked.view.name.clone(),
        request_id: Arc::clone(asked.request_id),
        headers: Arc::clone(asked.headers),
        deadline,
        attributes: Attributes::default(),
    }
}

/// What policies are told. Made only where there are any.
struct Facts {
    request: RequestFacts,
    call: CallFacts,
}

impl Facts {
    fn new(call: &Call<'_>, deadline: Instant, arguments: &Arguments) -> Self {
        let asked = call.asked;
        Self {
            request: request_facts(asked, deadline),
            call: CallFacts {
                server: call.assigned.server.clone(),
                tool: Arc::from(call.tool),
                exposed_tool: Arc::from(call.exposed),
                arguments: match arguments {
                    Arguments::Absent => Bytes::from_static(b"{}"),
                    Arguments::Sent(bytes) | Arguments::Changed(bytes) => bytes.clone(),
                },
            },
        }
    }
}
