//! Tasks of a server of the other era: made, looked at, cancelled and brought to their result in the client's words.
//!
//! | client | server | |
//! |---|---|---|
//! | 2025-11-25 asks for a task | 2026-07-28 decides | the extension is declared for it; an answer at once becomes a task that is over |
//! | 2026-07-28 knows tasks | 2025-11-25 wants to be asked | asked for wherever the tool has them, and told that its client can be asked nothing meanwhile |
//!
//! A server of 2025-11-25 that wants input in the middle of a task asks on a stream that a client of 2026-07-28 has not got,
//! so it is told that it can't: it says so itself, before or in the task.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use portcullis_credential::Carried;
use portcullis_model::{Fault, Side};
use portcullis_protocol::{Era, rpc, splice::quote};
use portcullis_upstream::{Incoming, Message, MessageKind, NO_CAPABILITIES, Outgoing, Params};

use super::{Relayed, closed};
use crate::{
    answer,
    catalogue::Kind,
    conversation::{Who, pick::Way, rounds::Wanted},
    members::Members,
    relay::Rewrite,
    tasks::{self, EXTENSION, era, made},
};

impl Relayed<'_> {
    /// The request that makes a call a task of the server's era; none where nothing has to be translated. A server that wants
    /// a task of a client that knows none refuses the call itself.
    ///
    /// # Errors
    /// Where the server can't be reached.
    pub async fn as_task(&mut self, carried: Option<&Arc<Carried>>, until: Instant) -> Result<Option<Bytes>, Fault> {
        let asked = self.asked;
        let params = asked.message.params.as_ref();
        let asks = asked.client.era == Era::Legacy && params.is_some_and(|p| p.piece.raw.contains("\"task\""));
        let entry = asked.view.any_entry(self.at, &self.gateways.catalogue);
        let Some(facts) = entry.as_ref().and_then(|e| e.facts()).filter(|facts| facts.has_tasks()) else {
            return Ok(None);
        };
        let support = || {
            let listing = entry.as_ref()?.listing(Kind::Tools)?;
            era::support(std::str::from_utf8(&listing.get(self.own)?.raw).ok()?)
        };
        let support = (asked.client.era == Era::Modern && facts.calls_as_tasks()).then(support).flatten();
        if !asks && support.is_none() {
            return Ok(None);
        }
        // A server that speaks both eras is spoken to in its client's.
        let way = self.way(carried, false, until).await?;
        let server = match way.peer.era() {
            Some(era) => era,
            None => facts.version.era(),
        };
        drop(way);
        if server == asked.client.era {
            return Ok(None);
        }
        let mut members = match params.and_then(|p| Members::read(p.piece.raw)) {
            Some(members) => members,
            None => return Ok(None),
        };
        match (asked.client.era, support.as_deref()) {
            (Era::Legacy, _) => {
                if members.take("task").is_none() {
                    return Ok(None);
                }
            }
            (Era::Modern, Some("required" | "optional")) if asked.capabilities().contains(EXTENSION) => {
                members.set("task", "{}");
            }
            (Era::Modern, _) => return Ok(None),
        }
        self.bridged = true;
        let source = asked.message.source;
        let range = params.map(|p| p.piece.range()).unwrap_or_default();
        let body = [&source[..range.start], &members.to_string(), &source[range.end..]].concat();
        Ok(Some(Bytes::from(body)))
    }

    /// What a server answered to such a call, in the client's words.
    pub(super) fn made(&self, message: Message, rewrite: &mut Rewrite) -> Message {
        if message.kind != MessageKind::Result || message.input_required {
            return message;
        }
        let payload = message.payload_text();
        let translated = match self.asked.client.era {
            Era::Modern => era::made_legacy(payload).and_then(|task| {
                let task = Members::read(&task)?;
                Some(era::to_modern(&task, "\"task\"").to_string())
            }),
            Era::Legacy => match era::made_modern(payload) {
                Some(task) => Some(format!(r#"{{"task":{}}}"#, era::to_legacy(task))),
                None => {
                    // Its id is the client's already: there is no other to write it for.
                    rewrite.tasks = None;
                    self.made_at_once(&message)
                }
            },
        };
        translated.and_then(|result| message.with_payload(result.as_bytes()).ok()).unwrap_or(message)
    }

    /// The task of a call that its server answered at once.
    fn made_at_once(&self, message: &Message) -> Option<String> {
        let whose = made::whose(self.asked);
        let id: Arc<str> = crate::elicit_url::fresh_id().into();
        let mut result = Members::read(message.payload_text())?;
        result.take("resultType");
        let result = Bytes::from(result.to_string());
        let kept = self.gateways.made.keep(&id, whose, result, message.is_error)?;
        let exposed = tasks::kept_id(self.gateways, self.asked, &id)?;
        let place = made::Place { server: None, own: id, exposed: exposed.as_str().into() };
        self.gateways.made.note(&whose, place);
        Some(format!(r#"{{"task":{}}}"#, kept.task(&exposed)))
    }

    /// What is asked about a task of a server of the other era; none where nothing has to be translated.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn about(&mut self, carried: Option<&Arc<Carried>>, until: Instant) -> Result<Option<Response>, Fault> {
        let way = self.way(carried, false, until).await?;
        let server = match way.peer.era() {
            Some(era) => era,
            None => {
                let headers = carried.map_or(&[][..], |c| &c.headers);
                let facts = way.peer.connect(headers, until).await.map_err(|e| self.upstream_fault(&e))?;
                facts.version.era()
            }
        };
        if server == self.asked.client.era {
            return Ok(None);
        }
        if let Some(record) = &mut self.record {
            record.sending().await?;
        }
        let line = self.underway.as_ref().and_then(|u| u.line.clone());
        let task = About { relayed: self, way: &way, carried, until };
        let answered = match server {
            Era::Modern => task.modern(line.as_deref()).await?,
            Era::Legacy => task.legacy().await?,
        };
        let rewrite = self.rewrite(self.asked.client.era, None);
        let body = rewrite.answer(&answered).map_err(|e| self.upstream_fault(&e))?;
        let status = match self.asked.client.era {
            Era::Legacy => StatusCode::OK,
            Era::Modern => rpc::rpc_http_status(answered.code.unwrap_or(0), Era::Modern),
        };
        self.done(&answered);
        Ok(Some(answer::json(status, body)))
    }

    /// One task as a client of 2025-11-25 sees it in a list; none where it is gone.
    pub async fn listed(&mut self, carried: Option<&Arc<Carried>>, talks: bool, until: Instant) -> Option<String> {
        let way = self.way(carried, talks, until).await.ok()?;
        let era = match way.peer.era() {
            Some(era) => era,
            None => way.peer.connect(carried.map_or(&[][..], |c| &c.headers), until).await.ok()?.version.era(),
        };
        let about = About { relayed: self, way: &way, carried, until };
        let found = about.ask("tasks/get", "").await.ok()?;
        if found.kind != MessageKind::Result {
            return None;
        }
        let task = Members::read(found.payload_text())?;
        let mut task = if era == Era::Modern { era::to_legacy(task) } else { task };
        task.take("_meta");
        let exposed = quote(self.exposed);
        task.set("taskId", exposed);
        Some(task.to_string())
    }
}

/// One task of a server of the other era.
struct About<'r, 'a> {
    relayed: &'r Relayed<'a>,
    way: &'r Way<'a>,
    carried: Option<&'r Arc<Carried>>,
    until: Instant,
}

impl About<'_, '_> {
    /// Sends a request about the task, and waits for the answer. `more` are further members of its params, each with a comma
    /// before it.
    async fn ask(&self, method: &str, more: &str) -> Result<Message, Fault> {
        let relayed = self.relayed;
        let members = format!(r#""taskId":{}{more}"#, quote(relayed.own));
        let body = Params { method, members: &members };
        let capabilities = match self.way.peer.era() {
            Some(Era::Modern) => era::with_extension(self.way.capabilities),
            _ => NO_CAPABILITIES.to_owned(),
        };
        let outgoing = Outgoing {
            name: Some(relayed.own),
            headers: self.carried.map_or(&[], |c| &c.headers),
            capabilities: &capabilities,
            ..Outgoing::new(method, &body, self.until)
        };
        let incoming = self.way.peer.send(outgoing).await.map_err(|e| relayed.upstream_fault(&e))?;
        match incoming {
            Incoming::Json { message, .. } => Ok(message),
            Incoming::Stream { mut stream, .. } => loop {
                match stream.next().await {
                    Some(Ok(message)) if message.is_answer() => return Ok(message),
                    Some(Ok(_)) => {}
                    Some(Err(e)) => return Err(relayed.upstream_fault(&e)),
                    None => return Err(relayed.upstream_fault(&closed())),
                }
            },
        }
    }

    fn broken(&self) -> Fault {
        self.relayed.fault(Fault::new(Side::Server, "server-protocol", "the server's task is none"))
    }

    fn result(&self, text: &str) -> Result<Message, Fault> {
        era::message(text).ok_or_else(|| self.broken())
    }

    fn error(&self, code: i64, text: &str) -> Result<Message, Fault> {
        Message::parse(rpc::error(Some("0"), code, text, None)).map_err(|_| self.broken())
    }

    /// A client of 2025-11-25 asks a server of 2026-07-28.
    async fn modern(&self, line: Option<&crate::conversation::line::Line>) -> Result<Message, Fault> {
        let found = self.ask("tasks/get", "").await?;
        if found.kind == MessageKind::Error {
            return Ok(found);
        }
        match self.relayed.asked.message.method() {
            "tasks/result" => return self.brought(found, line).await,
            "tasks/cancel" => {
                let task = Members::read(found.payload_text()).ok_or_else(|| self.broken())?;
                if era::is_over(&era::status(&task)) {
                    return self.error(rpc::INVALID_PARAMS, "The task has ended");
                }
                let cancelled = self.ask("tasks/cancel", "").await?;
                if cancelled.kind == MessageKind::Error {
                    return Ok(cancelled);
                }
            }
            _ => return self.shown(&found),
        }
        let found = self.ask("tasks/get", "").await?;
        if found.kind == MessageKind::Error { Ok(found) } else { self.shown(&found) }
    }

    fn shown(&self, found: &Message) -> Result<Message, Fault> {
        let task = Members::read(found.payload_text()).ok_or_else(|| self.broken())?;
        self.result(&era::to_legacy(task).to_string())
    }

    /// Waits for a task's end, asks the client what it wants to know meanwhile, and gives its result.
    async fn brought(
        &self,
        mut found: Message,
        line: Option<&crate::conversation::line::Line>,
    ) -> Result<Message, Fault> {
        let relayed = self.relayed;
        let who = Who::of(relayed.asked);
        let mut until = self.until;
        loop {
            let next = {
                let task = Members::read(found.payload_text()).ok_or_else(|| self.broken())?;
                match &*era::status(&task) {
                    "completed" => {
                        let result = task.get("result").ok_or_else(|| self.broken())?;
                        let result = era::related(result, relayed.own).ok_or_else(|| self.broken())?;
                        return self.result(&result);
                    }
                    "failed" => {
                        let error = task.get("error").ok_or_else(|| self.broken())?;
                        let text = format!(r#"{{"jsonrpc":"2.0","id":0,"error":{error}}}"#);
                        return Message::parse(Bytes::from(text)).map_err(|_| self.broken());
                    }
                    "cancelled" => return self.error(rpc::INVALID_PARAMS, "The task was cancelled"),
                    "input_required" => {
                        let began = Instant::now();
                        let answers = self.answers(&task, &who, line).await?;
                        // A person's time is not the server's.
                        until += began.elapsed();
                        Next::Tell(answers)
                    }
                    _ => Next::Wait(era::poll(&task)),
                }
            };
            match next {
                Next::Tell(answers) => {
                    let told = self.ask("tasks/update", &answers).await?;
                    if told.kind == MessageKind::Error {
                        return Ok(told);
                    }
                }
                Next::Wait(time) => tokio::time::sleep(time).await,
            }
            if Instant::now() >= until {
                return Err(relayed.upstream_fault(&portcullis_upstream::UpstreamError::Timeout {
                    sent: portcullis_upstream::Sent::Maybe,
                }));
            }
            found = self.ask("tasks/get", "").await?;
            if found.kind == MessageKind::Error {
                return Ok(found);
            }
        }
    }

    /// The client's answers to what a task wants to know, as a member of `tasks/update`.
    async fn answers(
        &self,
        task: &Members<'_>,
        who: &Who,
        line: Option<&crate::conversation::line::Line>,
    ) -> Result<String, Fault> {
        let relayed = self.relayed;
        let requests = task.get("inputRequests").ok_or_else(|| self.broken())?;
        let message = self.result(&format!(r#"{{"resultType":"input_required","inputRequests":{requests}}}"#))?;
        let wanted = Wanted::of(&message).ok_or_else(|| self.broken())?.map_err(|f| relayed.fault(f))?;
        let unreachable = || {
            Fault::new(Side::Server, "client-capability", "the task needs input, and its client can't be asked")
                .next("Ask for its result with Accept: application/json, text/event-stream")
        };
        let line = line.filter(|line| line.reaches()).ok_or_else(|| relayed.fault(unreachable()))?;
        let until = relayed.answered_by();
        let changed = relayed.judged(&wanted, who, relayed.asked.capabilities(), until).await?;
        let asked: BTreeMap<String, String> =
            wanted.with_meta(&changed, |meta| era::with_related(meta, relayed.exposed));
        let answers = wanted.ask(line, &asked, until).await.map_err(|f| relayed.fault(f))?;
        Ok(format!(",{}", answers.trim_end_matches(',')))
    }

    /// A client of 2026-07-28 asks a server of 2025-11-25.
    async fn legacy(&self) -> Result<Message, Fault> {
        const DONE: &str = r#"{"resultType":"complete"}"#;
        let method = self.relayed.asked.message.method();
        if method == "tasks/cancel" {
            let cancelled = self.ask("tasks/cancel", "").await?;
            if cancelled.kind == MessageKind::Result {
                return self.result(DONE);
            }
        }
        let found = self.ask("tasks/get", "").await?;
        if found.kind == MessageKind::Error {
            return Ok(found);
        }
        if method != "tasks/get" {
            // Nothing was asked, so that whatever is answered is to nobody; and what has ended stays so.
            return self.result(DONE);
        }
        let task = Members::read(found.payload_text()).ok_or_else(|| self.broken())?;
        let status = era::status(&task);
        let mut shown = era::to_modern(&task, "\"complete\"");
        if !matches!(&*status, "completed" | "failed") {
            return self.result(&shown.to_string());
        }
        let brought = self.ask("tasks/result", "").await?;
        if brought.kind == MessageKind::Error {
            shown.set("status", "\"failed\"");
            shown.set("error", brought.payload_text());
            return self.result(&shown.to_string());
        }
        let mut result = Members::read(brought.payload_text()).ok_or_else(|| self.broken())?;
        let meta = result.take("_meta");
        if let Some(mut meta) = meta.as_deref().and_then(Members::read) {
            meta.take(era::RELATED);
            if !meta.is_empty() {
                let meta = meta.to_string();
                result.set("_meta", meta);
            }
        }
        // A tool that failed has a result all the same.
        shown.set("status", "\"completed\"");
        shown.set("result", result.to_string());
        self.result(&shown.to_string())
    }
}

enum Next {
    Tell(String),
    Wait(Duration),
}
