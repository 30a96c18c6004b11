//! Phases 7 to 11 for every request that goes to one server: whose account, the way there, the way back, the record.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::response::Response;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use portcullis_credential::{Carried, CredentialPlan, Rejection};
use portcullis_model::Fault;
use portcullis_protocol::{
    Era, headers, mirror, rpc,
    splice::{MODERN_CACHEABLE, MODERN_RESULT, RequestEdit},
};
use portcullis_upstream::{Incoming, LetGo, Message, MessageKind, NO_CAPABILITIES, Outgoing, Spliced, UpstreamError};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_util::sync::DropGuard;

use crate::{
    answer,
    asked::Asked,
    catalogue::Kind,
    conversation::{follow::Patience, line::Line, pick::Way, rounds::Again},
    enrich::layered,
    gateways::Gateways,
    in_flight::Underway,
    reads::Keep,
    record::Record,
    relay::{Links, Relay, Rewrite, event},
    session::{Level, Live},
    tasks::{TaskIds, era},
    view::Assigned,
};

mod bridge;
mod talk;

use talk::Trip;

/// How long a refused call waits for the definition that says which headers it needs.
const DEFINITION: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// `tools/call`.
    Tool,
    /// `prompts/get`.
    Prompt,
    /// `resources/read`.
    Resource,
    /// `completion/complete`.
    Completion,
    /// A method that nobody here knows.
    Other,
}

impl What {
    /// The method, which is what metrics go by, of everything but tools.
    pub fn method(self) -> Option<&'static str> {
        match self {
            Self::Tool => None,
            Self::Prompt => Some("prompts/get"),
            Self::Resource => Some("resources/read"),
            Self::Completion => Some("completion/complete"),
            // Made-up methods don't use up the bound on series.
            Self::Other => Some("extension"),
        }
    }

    /// What a result for a modern client has to say beside what a legacy server writes.
    pub fn modern_members(self) -> &'static [(&'static str, &'static str)] {
        if self == Self::Resource { MODERN_CACHEABLE } else { MODERN_RESULT }
    }

    /// An answer as a client of its era has to get it: a resource that is not there has another code in each era, and what
    /// is for this caller only must not be kept for others. `eras` are the client's and the server's.
    pub fn adapted<'m>(self, message: Cow<'m, Message>, eras: (Era, Era), private: bool) -> Cow<'m, Message> {
        if self != Self::Resource {
            return message;
        }
        let new = match (message.kind, message.code, eras) {
            (MessageKind::Error, Some(rpc::RESOURCE_NOT_FOUND), (Era::Modern, Era::Legacy)) => {
                replaced(&message, Member::Code, &rpc::INVALID_PARAMS.to_string())
            }
            // The same code for other mistakes names no resource.
            (MessageKind::Error, Some(rpc::INVALID_PARAMS), (Era::Legacy, Era::Modern)) if names_resource(&message) => {
                replaced(&message, Member::Code, &rpc::RESOURCE_NOT_FOUND.to_string())
            }
            (MessageKind::Result, _, (Era::Modern, _)) if private => replaced(&message, Member::Scope, "\"private\""),
            _ => None,
        };
        new.map_or(message, Cow::Owned)
    }
}

/// Whether an error says which resource it is about.
fn names_resource(error: &Message) -> bool {
    #[derive(Deserialize)]
    struct Data {
        #[expect(dead_code, reason = "its being there is what counts")]
        uri: String,
    }
    #[derive(Deserialize)]
    struct Error {
        #[expect(dead_code, reason = "its being there is what counts")]
        data: Data,
    }
    serde_json::from_str::<Error>(error.payload_text()).is_ok()
}

/// A member of a result or error that may have to say something else.
#[derive(Clone, Copy)]
enum Member {
    Code,
    Scope,
    Ttl,
}

/// The message with another value of a member of its result or error; none where it has no such member.
fn replaced(message: &Message, member: Member, value: &str) -> Option<Message> {
    #[derive(Deserialize)]
    struct Members<'a> {
        #[serde(borrow, default)]
        code: Option<&'a RawValue>,
        #[serde(borrow, default, rename = "cacheScope")]
        scope: Option<&'a RawValue>,
        #[serde(borrow, default, rename = "ttlMs")]
        ttl: Option<&'a RawValue>,
    }
    let payload = message.payload_text();
    let members: Members<'_> = serde_json::from_str(payload).ok()?;
    let old = match member {
        Member::Code => members.code,
        Member::Scope => members.scope,
        Member::Ttl => members.ttl,
    }?
    .get();
    let at = old.as_ptr() as usize - payload.as_ptr() as usize;
    message.with_payload(format!("{}{value}{}", &payload[..at], &payload[at + old.len()..]).as_bytes()).ok()
}

/// A request on its way to one server.
pub struct Relayed<'a> {
    /// All gateways.
    pub gateways: &'a Gateways,
    /// The request.
    pub asked: &'a Asked<'a>,
    /// The position of the assignment.
    pub at: usize,
    /// The assignment.
    pub assigned: &'a Assigned,
    /// What is asked for.
    pub what: What,
    /// Its name or URI as the client sees it; of an unknown method the method.
    pub exposed: &'a str,
    /// The same as its server knows it.
    pub own: &'a str,
    /// Taken when the outcome is written.
    pub record: Option<Record>,
    /// How a legacy client can cancel.
    pub underway: Option<Underway>,
    /// Where the answer is kept, if it may be.
    pub keep: Option<Keep>,
    /// The task that is asked for: its id at the server, and as the client knows it.
    pub task: Option<(&'a str, &'a str)>,
    /// Whether the call is made a task of the other era's.
    pub bridged: bool,
}

/// What goes to the server.
pub struct Sent<'s> {
    /// The client's message, or what was made of it.
    pub message: &'s portcullis_protocol::Message<'s>,
    /// What changes in it.
    pub edit: RequestEdit<'s>,
    /// What `Mcp-Name` says.
    pub name: Option<&'s str>,
    /// A tool's arguments as they are sent, which may have to be said in headers too.
    pub arguments: Option<&'s str>,
    /// When the caller's patience ends.
    pub deadline: Instant,
}

/// Why a request has no answer, and whether the server refused what it carried.
pub(crate) struct Failed {
    pub(crate) fault: Fault,
    refusal: Option<Refusal>,
}

/// A server's refusal of a credential, before it did anything.
struct Refusal {
    status: u16,
    www_authenticate: Option<String>,
}

impl Failed {
    pub(crate) fn of(error: &UpstreamError, fault: Fault) -> Self {
        let refusal = match error {
            UpstreamError::Status { code: status @ (401 | 403), www_authenticate, .. } => {
                Some(Refusal { status: *status, www_authenticate: www_authenticate.clone() })
            }
            _ => None,
        };
        Self { fault, refusal }
    }
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        Self { fault, refusal: None }
    }
}

impl From<Failed> for Fault {
    fn from(failed: Failed) -> Self {
        failed.fault
    }
}

/// Somebody who sees results before the client does.
pub trait Review: Sync {
    /// The result as it may go out.
    fn review(&self, message: Message) -> impl Future<Output = Result<Message, Fault>> + Send;
}

/// Nobody.
pub struct Unreviewed;

impl Review for Unreviewed {
    async fn review(&self, message: Message) -> Result<Message, Fault> {
        Ok(message)
    }
}

impl<'a> Relayed<'a> {
    /// A fault with the server in it, and the tool where it is one.
    pub fn fault(&self, fault: Fault) -> Fault {
        let fault = fault.server(self.assigned.server.as_str());
        if self.what == What::Tool { fault.tool(self.exposed) } else { fault }
    }

    /// What the caller is told where the server can't be asked or does not answer.
    pub fn upstream_fault(&self, error: &UpstreamError) -> Fault {
        error.to_fault(self.assigned.server.as_str(), (self.what == What::Tool).then_some(self.exposed))
    }

    /// Phase 7: under whose account it runs; none where the server needs none.
    ///
    /// # Errors
    /// What is missing, and how to get it.
    pub async fn account(&self, plan: Option<&Arc<CredentialPlan>>) -> Result<Option<Arc<Carried>>, Fault> {
        let Some(plan) = plan else { return Ok(None) };
        let (credentials, asked) = (&self.gateways.credentials, self.asked);
        let mut resolved = asked.account(self.gateways, plan).await;
        // Back from the page, the person may still be at it.
        if asked.returns
            && matches!(&resolved, Err(fault) if fault.need.is_some())
            && let Some(waits) = self.gateways.connecting.wait()
        {
            resolved = credentials.resolve_until(plan, asked.principal, asked.headers, waits.until).await;
        }
        resolved.map(Some).map_err(|fault| self.fault(fault))
    }

    /// When the caller's patience ends: what a person took at a page is not the server's time (security decision 19).
    pub fn after_the_page(&self, deadline: Instant) -> Instant {
        match self.asked.returns {
            true => deadline.max(Instant::now() + self.assigned.traffic.timeout.get()),
            false => deadline,
        }
    }

    /// What a call with this deadline may take, with the time in which its client is asked.
    fn patience(&self, deadline: Instant) -> Patience {
        Patience::new(deadline, self.gateways.settings.answer_within)
    }

    /// Until when the client may answer what it is asked now.
    fn answered_by(&self) -> Instant {
        Instant::now() + self.gateways.settings.answer_within
    }

    /// Notes under whose account it runs.
    pub fn runs_under(&mut self, carried: Option<&Arc<Carried>>) {
        if let (Some(record), Some(carried)) = (&mut self.record, carried) {
            record.runs_under(carried);
        }
    }

    /// Phases 8 to 11. `review` is asked where somebody reviews results, and then streams are held until they are complete.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn send(
        &mut self,
        sent: &Sent<'_>,
        carried: Option<&Arc<Carried>>,
        review: Option<&impl Review>,
    ) -> Result<Response, Fault> {
        if let Some(resumes) = self.underway.as_mut().and_then(|u| u.resumes.take()) {
            let response = resumes.go(self.gateways, self.asked).await?;
            if let Some(record) = self.record.take() {
                record.ended();
            }
            return Ok(response);
        }
        let line = self.underway.as_ref().and_then(|u| u.line.clone());
        let live = self.live();
        let level = self.level(live.as_deref());
        let log_level = level.filter(|_| self.asked.client.era == Era::Legacy).map(Level::as_str);
        let patience = self.patience(sent.deadline);
        let mut another = None;
        let (mut way, _attended, mut incoming) = loop {
            let carried = another.as_ref().or(carried);
            match self.attempt(sent, carried, line.as_ref(), (level, live.as_deref()), &patience).await {
                Ok(reached) => break reached,
                // It refused what the call carried and did nothing: once, it is sent again with what may be carried instead.
                Err(failed) => another = Some(self.instead(failed, carried, another.is_some()).await?),
            }
        };
        let carried = another.as_ref().or(carried);
        let deadline = if way.own { patience.until } else { sent.deadline };
        let trip = Trip { way: &way, log_level, members: "", deadline, line: line.as_ref() };
        if sent.arguments.is_some() && says_headers_differ(&incoming) {
            // The definition has changed since it was fetched (2026-07-28, transports: "Client Behavior").
            self.fetch_definition(carried).await;
            incoming = self.ask(trip, sent, carried).await?;
        }
        if let Some(carried) = carried {
            self.gateways.credentials.accepted(carried);
        }
        let (Incoming::Json { version, .. } | Incoming::Stream { version, .. }) = incoming;
        let mut rewrite = self.rewrite(version.era(), level);
        let asks = self.asked.view.policies.iter().any(|p| p.hooks().server_request);
        let mut events = Vec::new();
        let message = match (incoming, &line) {
            (Incoming::Json { message, .. }, _) => message,
            (Incoming::Stream { stream, .. }, Some(line)) => {
                self.follow(stream, &way, line, &rewrite, &patience, carried).await?
            }
            // What is reviewed has to be held; what came before the answer goes out with it.
            (Incoming::Stream { mut stream, .. }, None)
                if review.is_some() || self.bridged || (asks && way.capabilities != NO_CAPABILITIES) =>
            {
                loop {
                    match stream.next().await {
                        Some(Ok(message)) if message.is_answer() => break message,
                        Some(Ok(message)) => events.extend(rewrite.other(&message).map(|b| event(&b))),
                        Some(Err(e)) => return Err(self.upstream_fault(&e)),
                        None => return Err(self.upstream_fault(&closed())),
                    }
                }
            }
            (Incoming::Stream { stream, .. }, None) => {
                let asked = way.capabilities != NO_CAPABILITIES;
                let relay = Relay { stream, rewrite, record: self.record.take(), asked };
                return Ok(answer::events(relay.body(sent.deadline, self.underway.take())));
            }
        };
        let message = match (message.code, rewrite.client) {
            (Some(rpc::URL_ELICITATION_REQUIRED), Era::Modern) => {
                self.pages(&message, way.capabilities, patience.until).await?
            }
            _ => message,
        };
        let message = match (message.input_required, rewrite.client, &line) {
            // Asked for by the gateway, and judged.
            (true, Era::Modern, _) if version.era() == Era::Legacy => message,
            (false, ..) => message,
            (true, Era::Modern, _) => self.questions(message, way.capabilities, patience.until).await?,
            (true, Era::Legacy, Some(line)) => self.rounds(message, sent, trip, line, &rewrite, carried).await?,
            (true, Era::Legacy, None) => return Err(self.upstream_fault(&closed())),
        };
        if let Some(lease) = &mut way.lease {
            lease.clean();
        }
        let message = if self.bridged { self.made(message, &mut rewrite) } else { message };
        let message = match review {
            Some(reviewer) if !message.input_required => reviewer.review(message).await?,
            _ => message,
        };
        let body = rewrite.answer(&message).map_err(|e| self.upstream_fault(&e))?;
        let status = match rewrite.client {
            // The SDKs of that era read no body of an answer with another status.
            Era::Legacy => http::StatusCode::OK,
            Era::Modern => rpc::rpc_http_status(message.code.unwrap_or(0), Era::Modern),
        };
        self.done(&message);
        if events.is_empty() {
            return Ok(answer::json(status, body));
        }
        events.push(event(&body));
        Ok(answer::events(axum::body::Body::from(events.concat())))
    }

    /// The way to the server, and its first word.
    async fn attempt(
        &mut self,
        sent: &Sent<'_>,
        carried: Option<&Arc<Carried>>,
        line: Option<&Arc<Line>>,
        (level, live): (Option<Level>, Option<&Live>),
        patience: &Patience,
    ) -> Result<(Way<'a>, Option<DropGuard>, Incoming), Failed> {
        let way = self.way(carried, line.is_some() && !self.bridged, sent.deadline).await?;
        let mut attended = None;
        if let Some(line) = line {
            line.serves(&self.assigned.server);
            attended = self.attend(&way, line, carried).await?;
        }
        if level.is_some() {
            self.tell_level(&way, level, live, carried).await;
        }
        if let Some(record) = &mut self.record {
            record.sending().await?;
        }
        if let Some((carried, connection)) = carried.and_then(|c| Some((c, c.connection.as_ref()?)))
            && carried.by_another
        {
            let (by, gateway) = (self.asked.principal, &self.asked.view.name);
            if !self.gateways.credentials.book().lent(connection, by, self.exposed, gateway) {
                self.gateways.metrics.lent_uses_dropped.inc();
            }
        }
        let deadline = if way.own { patience.until } else { sent.deadline };
        let log_level = level.filter(|_| self.asked.client.era == Era::Legacy).map(Level::as_str);
        let trip = Trip { way: &way, log_level, members: "", deadline, line };
        let incoming = self.ask_own(trip, sent, carried, line, patience).await?;
        Ok((way, attended, incoming))
    }

    /// What a call carries after the server refused what it carried: another credential, once.
    ///
    /// # Errors
    /// Where there is nothing else, the refusal, or what the connection's owner has to do.
    async fn instead(
        &self,
        failed: Failed,
        carried: Option<&Arc<Carried>>,
        already: bool,
    ) -> Result<Arc<Carried>, Fault> {
        let plan = match self.what {
            What::Tool => self.assigned.plan_for(self.own),
            _ => self.assigned.plan.as_ref(),
        };
        let (Some(refusal), Some(carried), Some(plan)) = (failed.refusal, carried, plan) else {
            return Err(failed.fault);
        };
        let mut fault = failed.fault;
        if let (401, Some(connection)) = (refusal.status, &carried.connection) {
            fault = fault.need(&self.assigned.server, &self.asked.principal.subject, Some(connection));
        }
        let credentials = &self.gateways.credentials;
        if already && refusal.status == 401 {
            credentials.rejected(carried);
            return Err(fault);
        }
        let rejection = Rejection { status: refusal.status, www_authenticate: refusal.www_authenticate.as_deref() };
        let refused = credentials.refused(plan, self.asked.principal, self.asked.headers, carried, rejection).await;
        refused.map_err(|fault| self.fault(fault))?.ok_or(fault)
    }

    /// How answers of a server of this era are written for the client.
    fn rewrite(&mut self, server: Era, level: Option<Level>) -> Rewrite {
        let asked = self.asked;
        Rewrite {
            id: asked.id().into(),
            progress: asked.message.meta().and_then(|m| m.progress_token).map(|p| p.raw.into()),
            client: asked.client.era,
            server,
            max_bytes: self.assigned.traffic.max_response.as_usize(),
            what: self.what,
            logs: self.logs(server, level),
            private: !asked.view.is_open(),
            links: Links::of(asked.view, &self.gateways.catalogue, self.at),
            keep: self.keep.take(),
            tasks: TaskIds::of(self.gateways, asked, &self.assigned.server, self.task),
        }
    }

    /// Answers with what the server said before, which still holds for so long.
    ///
    /// # Errors
    /// Never, in truth: it was an answer before.
    pub fn again(&mut self, message: &Message, left: Duration) -> Result<Response, Fault> {
        let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let message = replaced(message, Member::Ttl, &left.to_string());
        let message = message.ok_or_else(|| self.upstream_fault(&closed()))?;
        // Only servers of the modern era say how long an answer may be kept.
        let body = self.rewrite(Era::Modern, None).answer(&message).map_err(|e| self.upstream_fault(&e))?;
        if let Some(record) = self.record.take() {
            record.ended();
        }
        Ok(answer::json(http::StatusCode::OK, body))
    }

    /// Sends it once.
    async fn ask(&self, trip: Trip<'_>, sent: &Sent<'_>, carried: Option<&Arc<Carried>>) -> Result<Incoming, Failed> {
        let body = Again { spliced: Spliced { message: sent.message, edit: sent.edit }, members: trip.members };
        let credential: &[(HeaderName, HeaderValue)] = carried.map_or(&[], |c| &c.headers);
        let mirrored = sent.arguments.map(|arguments| self.mirrored(arguments)).unwrap_or_default();
        let mut headers = match mirrored.is_empty() {
            true => Cow::Borrowed(credential),
            false => Cow::Owned([credential, &mirrored].concat()),
        };
        if let Some(enrich) = &self.assigned.enrich {
            let tool = (self.what == What::Tool).then_some(self.own);
            headers = Cow::Owned(layered(enrich.headers(tool, self.asked.headers), &headers));
        }
        let capabilities = match (self.bridged, self.asked.client.era) {
            (true, Era::Legacy) => Cow::Owned(era::with_extension(trip.way.capabilities)),
            _ => Cow::Borrowed(trip.way.capabilities),
        };
        let outgoing = Outgoing {
            name: sent.name,
            headers: &headers,
            progress: self.asked.message.meta().is_some_and(|m| m.progress_token.is_some()),
            capabilities: &capabilities,
            log_level: trip.log_level,
            watcher: trip.line.map(|line| Arc::clone(line) as Arc<dyn LetGo>),
            ..Outgoing::new(self.asked.message.method(), &body, trip.deadline)
        };
        let answer = trip.way.peer.send(outgoing).await;
        answer.map_err(|error| Failed::of(&error, self.upstream_fault(&error)))
    }

    /// The headers that go with a tool's arguments: by its definition, as far as that is known, and what else the client
    /// sent of the kind (an intermediary passes on what it does not know).
    fn mirrored(&self, arguments: &str) -> Vec<(HeaderName, HeaderValue)> {
        let listing = self.asked.view.any_entry(self.at, &self.gateways.catalogue).and_then(|e| e.listing(Kind::Tools));
        let known = listing.as_ref().map_or(&[][..], |l| l.mirrored(self.own));
        let mut all = if known.is_empty() { Vec::new() } else { mirror::headers(known, arguments) };
        if self.asked.client.era == Era::Modern {
            let others = headers::param_headers(self.asked.headers);
            all.extend(
                others
                    .filter(|(name, _)| known.iter().all(|m| m.header != **name))
                    .map(|(name, value)| (name.clone(), value.clone())),
            );
        }
        all
    }

    /// Fetches the server's tools again, and waits for them.
    async fn fetch_definition(&self, carried: Option<&Arc<Carried>>) {
        let (view, gateways) = (self.asked.view, self.gateways);
        let (_, entry) = gateways.catalogue_entry(view, self.assigned, carried, &[]);
        entry.expire(Kind::Tools);
        gateways.catalogue_entry(view, self.assigned, carried, &[Kind::Tools]);
        gateways.catalogue.refetched(&entry, Kind::Tools, DEFINITION).await;
    }

    /// Phase 11.
    pub fn done(&mut self, answer: &Message) {
        if let Some(record) = self.record.take() {
            record.answered(answer);
        }
    }
}

fn says_headers_differ(incoming: &Incoming) -> bool {
    matches!(incoming, Incoming::Json { message, .. } if message.code == Some(rpc::HEADER_MISMATCH))
}

fn closed() -> UpstreamError {
    UpstreamError::Closed { sent: portcullis_upstream::Sent::Maybe }
}

/// Params of a request with the text of a string in them replaced, everything else byte for byte.
pub fn with_text(source: &str, at: std::ops::Range<usize>, text: &str) -> Bytes {
    let quoted = portcullis_protocol::splice::quote(text);
    Bytes::from([&source[..at.start], &quoted, &source[at.end..]].concat())
}
