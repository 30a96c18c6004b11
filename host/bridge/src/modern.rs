//! Requests of the stateless era (2026-07-28, basic/transports/streamable-http).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Response, StatusCode};
use portcullis_model::{Fault, Side};
use portcullis_protocol::{Era, Kind, Message, parse, rpc, sse};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    body::{self, Body},
    link::{Call, LIMITS, Next, Who},
    post::Accepts,
    refuse,
    serve::Bridge,
};

/// How often a silent stream says that it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A message of a client.
pub(crate) async fn post(bridge: &Arc<Bridge>, message: &Message<'_>, accepts: Accepts) -> Response<Body> {
    let id = match (message.kind, message.id) {
        (Kind::Request, Some(id)) => id.raw,
        (Kind::Response, _) | (Kind::Request, None) => {
            return refuse::http(
                None,
                &refuse::invalid("this revision has no answers of clients", "Send requests only."),
            );
        }
        // Ending the response is how a request is cancelled, and nothing else is told without asking.
        (Kind::Notification, _) => return body::empty(StatusCode::ACCEPTED),
    };
    if let "initialize" | "ping" | "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe" =
        message.method()
    {
        let fault = Fault::new(Side::Caller, "unknown-method", "this revision has no such method");
        return body::json(StatusCode::NOT_FOUND, refuse::answer(id, &fault));
    }
    if message.method() == "subscriptions/listen" && accepts == Accepts::JsonOnly {
        let fault = Fault::new(Side::Caller, "not-acceptable", "a subscription is told by events");
        return refuse::http(Some(id), &fault.next("Send Accept: application/json, text/event-stream."));
    }
    let up = match bridge.keeper.up().await {
        Ok(up) => up,
        Err(fault) => return refuse::http(Some(id), &fault),
    };
    if up.greeting.era == Era::Legacy {
        // As a server of that era refuses what has no session: a client that speaks both goes on with `initialize`.
        let fault = refuse::invalid("the server speaks an older revision", "Start a session with initialize.");
        return refuse::http(Some(id), &fault);
    }
    let who = Who {
        id: id.into(),
        token: message.meta().and_then(|m| m.progress_token).map(|t| t.raw.into()),
        level: message.meta().and_then(|m| m.log_level).map(|_| 0),
        lasting: message.method() == "subscriptions/listen",
        ..Who::default()
    };
    let lasting = who.lasting;
    let mut call = match up.link.call(message, who).await {
        Ok(call) => call,
        Err(fault) => return refuse::http(Some(id), &fault),
    };
    let until = (!lasting).then(|| Instant::now() + bridge.options.call_timeout);
    loop {
        match following(&mut call, until).await {
            Some(Next::Answer(answer)) => return answered(answer),
            Some(Next::Before(message)) if accepts == Accepts::Events => {
                let (sender, response) = body::events();
                let stream = Stream { bridge: bridge.clone(), call, id: id.into(), until, lasting };
                tokio::spawn(stream.write(message, sender));
                return response;
            }
            Some(Next::Before(_)) => {}
            Some(Next::Lost) => {
                bridge.counters.lost.inc();
                return answered(refuse::answer(id, &refuse::lost()));
            }
            None => return answered(refuse::answer(id, &refuse::too_long())),
        }
    }
}

/// What comes next; none where the time is over.
async fn following(call: &mut Call, until: Option<Instant>) -> Option<Next> {
    match until {
        Some(until) => tokio::time::timeout_at(until, call.next()).await.ok(),
        None => Some(call.next().await),
    }
}

/// The answer alone, with the status that its error has.
fn answered(answer: Bytes) -> Response<Body> {
    let code = parse(&answer, &LIMITS).ok().and_then(|m| m.error.and_then(|e| e.code));
    let status = code.map_or(StatusCode::OK, |code| rpc::rpc_http_status(code, Era::Modern));
    body::json(status, answer)
}

/// An answer as events.
struct Stream {
    bridge: Arc<Bridge>,
    call: Call,
    id: Box<str>,
    until: Option<Instant>,
    lasting: bool,
}

impl Stream {
    /// Writes what comes until the answer. Dropping the call cancels it, which is what the end of the connection means.
    async fn write(mut self, first: Bytes, sender: mpsc::Sender<Bytes>) {
        let mut draining = self.bridge.draining.subscribe();
        let mut next = sse::encode_message(&first);
        let mut last = false;
        loop {
            if sender.send(next).await.is_err() || last {
                return;
            }
            next = tokio::select! {
                biased;
                following = following(&mut self.call, self.until) => match following {
                    Some(Next::Before(message)) => sse::encode_message(&message),
                    other => {
                        last = true;
                        sse::encode_message(&match other {
                            Some(Next::Answer(answer)) => answer,
                            None => refuse::answer(&self.id, &refuse::too_long()),
                            _ => {
                                self.bridge.counters.lost.inc();
                                refuse::answer(&self.id, &refuse::lost())
                            }
                        })
                    }
                },
                () = sender.closed() => return,
                _ = draining.wait_for(|d| *d), if self.lasting => return,
                () = tokio::time::sleep(KEEP_ALIVE) => Bytes::from_static(sse::KEEP_ALIVE),
            };
        }
    }
}
