//! The part of a relayed request in which its server and its client talk with each other before the answer.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use portcullis_credential::Carried;
use portcullis_model::{Fault, Side};
use portcullis_protocol::{Era, Version, rpc};
use portcullis_upstream::{Incoming, Message, MessageStream, Outgoing, Params, UpstreamError};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Failed, Relayed, Sent, What};
use crate::{
    conversation::{
        Who,
        attend::{self, Own},
        capabilities::Capabilities,
        follow::{Patience, follow},
        line::Line,
        pick::{self, Blocked, Way},
        question::{self, Asker, Question},
        rounds::{MOST_ROUNDS, Wanted},
    },
    elicit_url,
    relay::Rewrite,
    session::{Level, Live, level::Logs},
};

/// One way to a server and back.
#[derive(Clone, Copy)]
pub struct Trip<'t> {
    /// Where.
    pub way: &'t Way<'t>,
    /// The log level that a modern server is asked for.
    pub log_level: Option<&'t str>,
    /// Members that are added to the params, each with a comma behind it.
    pub members: &'t str,
    /// When it ends.
    pub deadline: Instant,
    /// The way to a client that takes more than the answer.
    pub line: Option<&'t Arc<Line>>,
}

impl<'a> Relayed<'a> {
    /// Phase 8.
    pub(super) async fn way(
        &self,
        carried: Option<&Arc<Carried>>,
        talks: bool,
        deadline: Instant,
    ) -> Result<Way<'a>, Failed> {
        let carried = carried.map(Arc::as_ref);
        pick::way(self.gateways, self.asked, self.assigned, carried, talks, deadline).await.map_err(|why| match why {
            Blocked::Upstream(error) => Failed::of(&error, self.upstream_fault(&error)),
            Blocked::Fault(fault) => self.fault(fault).into(),
        })
    }

    /// What the session of a legacy client holds; nothing for most.
    pub(super) fn live(&self) -> Option<Arc<Live>> {
        self.gateways.sessions.get(self.asked.client.session.as_ref()?)
    }

    /// The log level that the client wants.
    pub(super) fn level(&self, live: Option<&Live>) -> Option<Level> {
        match self.asked.client.era {
            Era::Legacy => live?.level(),
            Era::Modern => {
                let said = self.asked.message.meta()?.log_level?;
                serde_json::from_str(said.raw).ok()
            }
        }
    }

    /// Which log messages the client gets of a server of this era.
    pub(super) fn logs(&self, server: Era, level: Option<Level>) -> Logs {
        match (self.asked.client.era, server, level) {
            (_, _, Some(level)) => Logs::From(level),
            (Era::Modern, Era::Legacy, None) => Logs::Nothing,
            _ => Logs::All,
        }
    }

    /// Tells a legacy server which level the client wants, before the first call after it said so. Where several clients
    /// share a session, the last one's counts at the server, and each gets what it wants of that.
    pub(super) async fn tell_level(
        &self,
        way: &Way<'_>,
        level: Option<Level>,
        live: Option<&Live>,
        carried: Option<&Arc<Carried>>,
    ) {
        let logs =
            || way.peer.facts().is_some_and(|f| String::from_utf8_lossy(&f.capabilities).contains("\"logging\""));
        if way.peer.era() != Some(Era::Legacy) || !logs() {
            return;
        }
        let level = match live {
            Some(live) => live.tells_level(way.peer.key()),
            None => level,
        };
        let Some(level) = level else { return };
        let members = format!(r#""level":"{}""#, level.as_str());
        let body = Params { method: "logging/setLevel", members: &members };
        let outgoing = Outgoing {
            headers: carried.map_or(&[], |c| &c.headers),
            ..Outgoing::new("logging/setLevel", &body, Instant::now() + crate::conversation::line::ASIDE)
        };
        if let Err(error) = way.peer.send(outgoing).await {
            tracing::debug!(server = %self.assigned.server, %error, "the server was not told the log level");
        }
    }

    /// Hears what a server says beside calls to a client that has a session of its own with it: for as long as that session,
    /// or for as long as what is given back.
    pub(super) async fn attend(
        &self,
        way: &Way<'_>,
        line: &Arc<Line>,
        carried: Option<&Arc<Carried>>,
    ) -> Result<Option<DropGuard>, Fault> {
        if !way.own {
            return Ok(None);
        }
        let own = || Own {
            peer: Arc::downgrade(&way.peer),
            carried: carried.cloned(),
            server: self.assigned.server.clone(),
            capabilities: way.capabilities.into(),
            who: Who::of(self.asked),
        };
        if self.asked.client.session.is_none() {
            let own = Arc::new(own());
            let over = CancellationToken::new();
            if let Some(stream) = attend::begin(&own).await {
                tokio::spawn(attend::attend(stream, own, Arc::clone(line), over.clone(), |_| {}));
            }
            return Ok(Some(over.drop_guard()));
        }
        let live = self.gateways.live(self.asked)?;
        let key = way.peer.key();
        let Some(own) = live.own_peer(key, own) else { return Ok(None) };
        if let Err(fault) = self.gateways.pool.joined(key) {
            live.forget_own_peer(key);
            self.gateways.upstreams.release(key);
            return Err(self.fault(fault));
        }
        if let Some(stream) = attend::begin(&own).await {
            let line = Arc::new(Line::get(line.gateways(), Arc::clone(&live)));
            let over = live.over.clone();
            tokio::spawn(attend::attend(stream, own, line, over, move |message| attend::pass_on(&live, message)));
        }
        Ok(None)
    }

    /// Sends it to a client's own session: the server's time stands still while the client is asked beside the call.
    pub(super) async fn ask_own(
        &self,
        trip: Trip<'_>,
        sent: &Sent<'_>,
        carried: Option<&Arc<Carried>>,
        line: Option<&Arc<Line>>,
        patience: &Patience,
    ) -> Result<Incoming, Failed> {
        let Some(line) = line.filter(|_| trip.way.own) else { return self.ask(trip, sent, carried).await };
        let ask = self.ask(trip, sent, carried);
        tokio::pin!(ask);
        loop {
            tokio::select! {
                incoming = &mut ask => return incoming,
                () = tokio::time::sleep(patience.timeout) => {
                    if !line.is_asking() {
                        let late = UpstreamError::Timeout { sent: portcullis_upstream::Sent::Maybe };
                        return Err(self.upstream_fault(&late).into());
                    }
                }
            }
        }
    }

    /// Follows a stream to its answer.
    pub(super) async fn follow(
        &self,
        stream: MessageStream,
        way: &Way<'_>,
        line: &Line,
        rewrite: &Rewrite,
        patience: &Patience,
        carried: Option<&Arc<Carried>>,
    ) -> Result<Message, Fault> {
        let who = Who::of(self.asked);
        let asker = Asker {
            peer: &way.peer,
            headers: carried.map_or(&[], |c| &c.headers),
            server: &self.assigned.server,
            tool: (self.what == What::Tool).then_some(self.own),
            who: &who,
            capabilities: way.capabilities,
            line,
        };
        follow(stream, &asker, rewrite, patience).await.map_err(|e| self.upstream_fault(&e))
    }

    /// Asks a legacy client what a modern server wants to know, and the server again, until it has enough.
    pub(super) async fn rounds(
        &self,
        mut message: Message,
        sent: &Sent<'_>,
        trip: Trip<'_>,
        line: &Line,
        rewrite: &Rewrite,
        carried: Option<&Arc<Carried>>,
    ) -> Result<Message, Fault> {
        let who = Who::of(self.asked);
        for _ in 0..MOST_ROUNDS {
            let members = {
                let Some(wanted) = Wanted::of(&message) else { return Ok(message) };
                let wanted = wanted.map_err(|f| self.fault(f))?;
                let until = self.answered_by();
                if let Some(pages) = wanted.pages_only().filter(|_| self.is_told_of_pages(trip.way.capabilities, line))
                {
                    self.judged(&wanted, &who, elicit_url::CAPABILITIES, until).await?;
                    let error = elicit_url::required("0", "A page has to be opened first", &pages);
                    return Message::parse(error).map_err(|_| self.fault(broken()));
                }
                let changed = self.judged(&wanted, &who, trip.way.capabilities, until).await?;
                wanted.ask(line, &changed, until).await.map_err(|f| self.fault(f))?
            };
            let patience = self.patience(Instant::now() + self.assigned.traffic.timeout.get());
            let trip = Trip { members: &members, deadline: Instant::now() + patience.timeout, ..trip };
            message = match self.ask(trip, sent, carried).await? {
                Incoming::Json { message, .. } => message,
                Incoming::Stream { stream, .. } => {
                    self.follow(stream, trip.way, line, rewrite, &patience, carried).await?
                }
            };
        }
        Err(self.fault(Fault::new(Side::Server, "server-protocol", "the server asks for input without an end")))
    }

    /// Whether a legacy client is told of pages by an error, because it can't be asked to open one in mid-call.
    fn is_told_of_pages(&self, capabilities: &str, line: &Line) -> bool {
        let can = Capabilities::read(capabilities).allows("elicitation/create", r#"{"mode":"url"}"#);
        self.asked.client.version >= Version::V2025_11_25 && !(can && line.reaches())
    }

    /// A legacy server's wish that a person opens pages, as a modern client is asked for it (it then sends the request
    /// again).
    ///
    /// # Errors
    /// Where the client can't be asked that, or a policy will not have it.
    pub(super) async fn pages(&self, message: &Message, capabilities: &str, until: Instant) -> Result<Message, Fault> {
        if !matches!(self.what, What::Tool | What::Prompt | What::Resource) {
            return Err(self.fault(client_can_not()));
        }
        let pages = elicit_url::pages(message.payload_text()).ok_or_else(|| self.fault(broken()))?;
        let who = Who::of(self.asked);
        let tool = (self.what == What::Tool).then_some(self.own);
        let mut all = Vec::with_capacity(pages.len());
        for page in &pages {
            let params = page.params();
            let question =
                Question { server: &self.assigned.server, tool, method: "elicitation/create", params: &params };
            let judged = question::judge(&who, capabilities, &question, until).await.map_err(|fault| {
                self.gateways.metrics.question("refused");
                self.fault(if fault.code == "client-capability" { client_can_not() } else { fault })
            })?;
            all.push(judged.map_or(params, |new| String::from_utf8_lossy(&new).into_owned()));
        }
        let result = rpc::result("0", &elicit_url::input_required(&all));
        Message::parse(result).map_err(|_| self.fault(broken()))
    }

    pub(super) async fn judged(
        &self,
        wanted: &Wanted<'_>,
        who: &Who,
        capabilities: &str,
        until: Instant,
    ) -> Result<BTreeMap<String, String>, Fault> {
        let tool = (self.what == What::Tool).then_some(self.own);
        let judged = wanted.judge(who, capabilities, &self.assigned.server, tool, until).await;
        judged.map_err(|fault| {
            self.gateways.metrics.question("refused");
            self.fault(fault)
        })
    }

    /// What a modern server asks a modern client, as it may go out.
    pub(super) async fn questions(
        &self,
        message: Message,
        capabilities: &str,
        until: Instant,
    ) -> Result<Message, Fault> {
        let changed = {
            let Some(wanted) = Wanted::of(&message) else { return Ok(message) };
            let wanted = wanted.map_err(|f| self.fault(f))?;
            self.judged(&wanted, &Who::of(self.asked), capabilities, until).await?
        };
        if changed.is_empty() {
            return Ok(message);
        }
        let broken = |_| Fault::new(Side::Gateway, "plugin-invalid", "a policy answered with invalid params");
        let mut result: serde_json::Value = serde_json::from_str(message.payload_text()).map_err(broken)?;
        for (key, params) in changed {
            result["inputRequests"][key]["params"] = serde_json::from_str(&params).map_err(broken)?;
        }
        message
            .with_payload(result.to_string().as_bytes())
            .map_err(|_| Fault::new(Side::Gateway, "plugin-invalid", "a policy answered with invalid params"))
    }
}

fn client_can_not() -> Fault {
    Fault::new(
        Side::Server,
        "client-capability",
        "the server wants its user to open a page, and this client can't be asked for that",
    )
    .next("Use a client that declares elicitation with the mode url")
}

fn broken() -> Fault {
    Fault::new(Side::Server, "server-protocol", "the server wants pages opened in a way that nobody can read")
}
