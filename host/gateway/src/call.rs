//! `tools/call`: phases 4 to 6, and what is a tool's own of the others.

use std::{borrow::Cow, sync::Arc, time::Instant};

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use portcullis_model::{Fault, Side};
use portcullis_plugin::{CallFacts, RequestFacts, ResultFacts};
use portcullis_protocol::{Era, ParseLimits, headers::HeaderFault, mirror, parse, rpc, splice::RequestEdit, strict};
use portcullis_upstream::{Message, MessageKind};

use crate::{
    answer,
    asked::Asked,
    catalogue::Kind,
    connecting,
    gateways::Gateways,
    in_flight::Underway,
    judge, naming,
    policy::Policy,
    record::Record,
    relayed::{Relayed, Review, Sent, What},
    scopes, search, view,
};

/// Who wrote the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The client itself, which has to say some arguments in headers as well.
    Direct,
    /// One of our own tools on the client's behalf.
    Inner,
}

/// Calls a tool, or says why not. `underway` is how a legacy client can cancel.
pub async fn call(gateways: &Gateways, asked: &Asked<'_>, underway: Option<Underway>, caller: Caller) -> Response {
    let era = asked.client.era;
    let Some(exposed) = asked.message.name() else {
        let fault = Fault::new(Side::Caller, "invalid-params", "params.name is missing")
            .next("Name the tool as tools/list shows it");
        return answer::rpc_fault(asked.id(), &fault, asked.request_id, era);
    };
    if caller == Caller::Direct && search::is_ours(asked.view, exposed) {
        return search::call(gateways, asked, exposed, underway).await;
    }
    if let Some(rate) = &asked.view.rate
        && let Err(fault) = rate.check(&asked.principal.subject_text)
    {
        Record::outside(gateways, asked, exposed).refused(&fault).await;
        return answer::tool_fault(asked.id(), &fault, asked.request_id, era);
    }
    let Some(route) = asked.view.route(exposed, &gateways.catalogue) else {
        let fault = unknown_tool(exposed);
        // With policies, what is denied is on disk before it is answered: so is this, or the time would tell them apart.
        let durable = asked.view.policies.enforce();
        Record::outside(gateways, asked, exposed).unknown(&fault, durable).await;
        return answer::rpc_fault(asked.id(), &fault, asked.request_id, era);
    };
    let assigned = &asked.view.servers[route.server];
    let named = (&assigned.server, &*route.name);
    if let Some((fault, challenge)) = scopes::refuse(gateways, asked.view, asked.principal, asked.headers, named) {
        Record::outside(gateways, asked, exposed).refused(&fault).await;
        return scopes::forbidden(asked.id(), &fault, challenge, asked.request_id);
    }
    let record = Record::of(gateways, asked, assigned, What::Tool, exposed, &route.name);
    let (at, own) = (route.server, &*route.name);
    let (what, record) = (What::Tool, Some(record));
    let mut one = Call {
        relayed: Relayed {
            gateways,
            asked,
            at,
            assigned,
            what,
            exposed,
            own,
            record,
            underway,
            keep: None,
            task: None,
            bridged: false,
        },
        caller,
    };
    let outcome = match &one.relayed.underway {
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
        Err(Refused { fault, hidden, headers }) => {
            match one.relayed.record.take() {
                Some(record) if hidden => record.hidden(&fault).await,
                Some(record) => record.refused(&fault).await,
                None => {}
            }
            // Whoever does not see a tool in the list learns no more from calling it than that there is none. What is on
            // record says why.
            let fault = if hidden { unknown_tool(exposed) } else { fault };
            let plan = one.relayed.assigned.plan_for(one.relayed.own);
            let fault = match connecting::answer(gateways, asked, fault, plan) {
                Ok(page) => return page,
                Err(fault) => fault,
            };
            if let Some(headers) = headers {
                return answer::header_fault(Some(asked.id()), &headers, asked.request_id);
            }
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
    /// What is wrong with the headers, where they are.
    headers: Option<HeaderFault>,
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self { fault, hidden: false, headers: None }
    }
}

impl From<HeaderFault> for Refused {
    fn from(fault: HeaderFault) -> Self {
        Self { fault: fault.to_fault(), hidden: false, headers: Some(fault) }
    }
}

struct Call<'a> {
    relayed: Relayed<'a>,
    caller: Caller,
}

impl<'a> Call<'a> {
    async fn run(&mut self) -> Result<Response, Refused> {
        let Relayed { gateways, asked, assigned, .. } = self.relayed;
        let (tool, exposed) = (self.relayed.own, self.relayed.exposed);
        if tool == view::STAND_IN {
            return Err(unknown_tool(exposed).into());
        }
        // Once, so that what policies let pass as this goes to no server.
        let stands_in = assigned.stands_in(tool, asked.view, &gateways.catalogue);
        let judged = if stands_in { view::STAND_IN } else { tool };
        let deadline = asked.started + assigned.traffic.timeout.get();
        let mut facts = None;
        let policies = self.policies(judged);
        let (arguments, modified) = if policies.is_empty() {
            (self.arguments(&policies)?, false)
        } else {
            let decided = match self.arguments(&policies) {
                Ok(arguments) => {
                    let facts = facts.insert(Facts::new(self, judged, deadline, &arguments));
                    self.decide(&policies, facts, arguments).await
                }
                Err(fault) => Err(fault),
            };
            match decided {
                Ok(decided) => decided,
                Err(fault) => {
                    let server = assigned.server.as_str();
                    let hidden = judge::is_hidden(asked, Kind::Tools, server, judged, deadline).await;
                    return Err(Refused { fault, hidden, headers: None });
                }
            }
        };
        if let Some(record) = &mut self.relayed.record {
            record.decided(modified);
        }
        // After the policies: who may not use a tool is not told whether there is one.
        if let Some(shared) = &assigned.shared
            && shared.entry.has(Kind::Tools, tool) == Some(false)
        {
            gateways.refresh_shared(assigned, shared, asked.view);
            return Err(unknown_tool(exposed).into());
        }
        self.check_headers()?;

        let carried = self.relayed.account(assigned.plan_for(tool)).await?;
        let deadline = self.relayed.after_the_page(deadline);
        if stands_in {
            return Ok(self.connected());
        }
        self.relayed.runs_under(carried.as_ref());
        let as_task = self.relayed.as_task(carried.as_ref(), deadline).await?;
        let limits = ParseLimits { max_bytes: usize::MAX, ..ParseLimits::default() };
        let as_task = as_task.as_ref().map(|body| parse(body, &limits)).transpose().map_err(|e| e.to_fault())?;
        let sent = Sent {
            message: as_task.as_ref().unwrap_or(asked.message),
            edit: RequestEdit {
                name: (tool != exposed).then_some(tool),
                arguments: match &arguments {
                    Arguments::Changed(bytes) => std::str::from_utf8(bytes).ok(),
                    Arguments::Absent | Arguments::Sent(_) => None,
                },
                ..RequestEdit::default()
            },
            name: Some(tool),
            arguments: match &arguments {
                Arguments::Absent => None,
                Arguments::Sent(bytes) | Arguments::Changed(bytes) => std::str::from_utf8(bytes).ok(),
            },
            deadline,
        };
        let reviewed = policies.iter().any(|p| p.hooks().tool_result);
        let reviewer = facts.as_ref().filter(|_| reviewed).map(|facts| Reviewer {
            policies: &policies,
            asked,
            server: &assigned.server,
            exposed,
            facts,
        });
        Ok(self.relayed.send(&sent, carried.as_ref(), reviewer.as_ref()).await?)
    }

    /// What a client of the modern era says in headers has to be what it says in the arguments (2026-07-28, transports:
    /// "Server Behavior for Custom Headers").
    fn check_headers(&self) -> Result<(), Refused> {
        let Relayed { gateways, asked, at, own, .. } = self.relayed;
        if self.caller != Caller::Direct || asked.client.era != Era::Modern {
            return Ok(());
        }
        let Some(entry) = asked.view.any_entry(at, &gateways.catalogue) else { return Ok(()) };
        let Some(listing) = entry.listing(Kind::Tools) else { return Ok(()) };
        let mirrored = listing.mirrored(own);
        if mirrored.is_empty() {
            return Ok(());
        }
        let arguments = asked.message.params.as_ref().and_then(|p| p.arguments).map_or("{}", |piece| piece.raw);
        // A key that stands twice could be read in two ways.
        let limits = ParseLimits { max_bytes: usize::MAX, ..ParseLimits::default() };
        strict::check(arguments.as_bytes(), &limits).map_err(|e| e.to_fault())?;
        Ok(mirror::check(mirrored, arguments, asked.headers)?)
    }

    /// What stands in place of a server's tools was called, and there is an account by now.
    fn connected(&mut self) -> Response {
        let text =
            format!("{} is connected. List the tools again to see what it offers.", self.relayed.assigned.server);
        let result = serde_json::json!({ "content": [{ "type": "text", "text": text }], "resultType": "complete" });
        if let Some(record) = self.relayed.record.take() {
            record.ended();
        }
        answer::json(StatusCode::OK, rpc::result(self.relayed.asked.id(), &result.to_string()))
    }

    /// The policies that are asked about this call, in order.
    fn policies(&self, judged: &str) -> Vec<&'a Policy> {
        let Relayed { asked, assigned, .. } = self.relayed;
        let server = assigned.server.as_str();
        asked.view.policies.iter().filter(|p| p.applies(asked.principal, Kind::Tools, server, judged)).collect()
    }

    /// The arguments as they will be sent, unless a policy changes them. Where somebody decides by them or pins some,
    /// a key that stands twice could be read in two ways (security decision 14), so it is refused at any depth.
    fn arguments(&self, policies: &[&Policy]) -> Result<Arguments, Fault> {
        let params = self.relayed.asked.message.params.as_ref();
        let Some(piece) = params.and_then(|p| p.arguments) else {
            return self.pinned("{}", Arguments::Absent);
        };
        let decided = policies.iter().any(|p| p.enforces()) || self.relayed.assigned.pinned.any(self.relayed.own);
        if decided {
            let limits = ParseLimits { max_bytes: usize::MAX, ..ParseLimits::default() };
            strict::check(piece.raw.as_bytes(), &limits).map_err(|e| e.to_fault())?;
            if !piece.raw.starts_with('{') {
                return Err(Fault::new(Side::Caller, "invalid-params", "params.arguments must be an object"));
            }
        }
        self.pinned(piece.raw, Arguments::Sent(self.relayed.asked.body.slice(piece.range())))
    }

    fn pinned(&self, raw: &str, unchanged: Arguments) -> Result<Arguments, Fault> {
        match self.relayed.assigned.pinned.apply(self.relayed.own, raw) {
            Ok(Cow::Borrowed(_)) => Ok(unchanged),
            Ok(Cow::Owned(changed)) => Ok(Arguments::Changed(Bytes::from(changed))),
            Err(what) => Err(Fault::new(Side::Caller, "invalid-params", what)),
        }
    }

    /// A policy's arguments with the pinned ones put back: no policy can change what the operator has pinned, and the next
    /// policy decides by what will be sent.
    fn pinned_again(&self, policy: &Policy, new: Bytes) -> Result<Bytes, Fault> {
        self.relayed.assigned.pinned.apply_again(self.relayed.own, new).map_err(|error| {
            tracing::warn!(
                request = &**self.relayed.asked.request_id,
                policy = policy.name(),
                error,
                "a policy's new arguments are none"
            );
            let fault = Fault::new(Side::Gateway, "plugin-invalid", "a policy answered with invalid arguments");
            self.relayed.fault(fault)
        })
    }

    /// Phase 6: each policy has to allow. Gives the arguments, and whether a policy changed them.
    async fn decide(
        &self,
        policies: &[&Policy],
        facts: &Facts,
        mut arguments: Arguments,
    ) -> Result<(Arguments, bool), Fault> {
        let mut changed: Option<CallFacts> = None;
        let asked = self.relayed.asked;
        // Where all of them only watch, nothing has looked at the arguments yet.
        let readable = policies.iter().any(|p| p.enforces()) || judge::is_readable(&facts.call.arguments);
        for policy in policies.iter().filter(|p| p.hooks().tool_call) {
            let call = changed.as_ref().unwrap_or(&facts.call);
            if !readable {
                policy.unreadable(asked.principal, &facts.request, call);
                continue;
            }
            let decision = policy.decide(asked.principal, &facts.request, call).await;
            if let Some(new) = judge::meaning(asked, policy, decision).map_err(|f| self.relayed.fault(f))? {
                let new = judge::unambiguous(policy.name(), new).map_err(|f| self.relayed.fault(f))?;
                let new = self.pinned_again(policy, new)?;
                changed = Some(CallFacts { arguments: new.clone(), ..facts.call.clone() });
                arguments = Arguments::Changed(new);
            }
        }
        Ok((arguments, changed.is_some()))
    }
}

/// Phase 10: tool-result policies see the result before the client does.
struct Reviewer<'a> {
    policies: &'a [&'a Policy],
    asked: &'a Asked<'a>,
    server: &'a portcullis_model::Name,
    exposed: &'a str,
    facts: &'a Facts,
}

impl Review for Reviewer<'_> {
    async fn review(&self, mut message: Message) -> Result<Message, Fault> {
        if message.kind != MessageKind::Result {
            return Ok(message);
        }
        let mut unambiguous = false;
        for policy in self.policies.iter().filter(|p| p.hooks().tool_result) {
            let outcome = ResultFacts::new(message.is_error, message.body.slice(message.payload.clone()));
            let (request, call) = (&self.facts.request, &self.facts.call);
            let decision = policy.review(self.asked.principal, request, call, &outcome).await;
            let place = |fault: Fault| fault.server(self.server.as_str()).tool(self.exposed);
            let new = judge::meaning(self.asked, policy, decision).map_err(place)?;
            match new {
                // What nobody looks into costs nothing; what somebody judges by has to be what the client reads.
                None if policy.enforces() && outcome.was_read() && !unambiguous => {
                    judge::result_reads_one_way(&outcome.content).map_err(place)?;
                    unambiguous = true;
                }
                None => {}
                Some(new) => {
                    // What it did not touch is still the server's.
                    let new = judge::unambiguous(policy.name(), new)
                        .map_err(|fault| place(judge::result_reads_one_way(&outcome.content).err().unwrap_or(fault)))?;
                    judge::is_still_a_result(policy.name(), &outcome.content, &new).map_err(place)?;
                    unambiguous = true;
                    message = message.with_payload(&new).map_err(|e| {
                        tracing::warn!(policy = policy.name(), error = e, "a policy's new result is no result");
                        Fault::new(Side::Gateway, "plugin-invalid", "a policy answered with an invalid result")
                    })?;
                }
            }
        }
        Ok(message)
    }
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

/// What policies are told. Made only where there are any.
struct Facts {
    request: RequestFacts,
    call: CallFacts,
}

impl Facts {
    /// `judged` is the tool's own name, or what stands for it.
    fn new(call: &Call<'_>, judged: &str, deadline: Instant, arguments: &Arguments) -> Self {
        let call = &call.relayed;
        Self {
            request: judge::request_facts(call.asked, deadline),
            call: CallFacts {
                server: call.assigned.server.clone(),
                tool: Arc::from(judged),
                exposed_tool: Arc::from(call.exposed),
                arguments: match arguments {
                    Arguments::Absent => Bytes::from_static(b"{}"),
                    Arguments::Sent(bytes) | Arguments::Changed(bytes) => bytes.clone(),
                },
            },
        }
    }
}
