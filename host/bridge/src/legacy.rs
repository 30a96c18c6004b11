//! Requests of the older era: `initialize`, and what follows in its session (2025-11-25, basic/transports).

mod open;
mod read;
pub(crate) mod shared;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use portcullis_model::{Fault, Side};
use portcullis_protocol::{Kind, Message, headers};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    body::{self, Body},
    link::{Call, Next, Who},
    post::Accepts,
    refuse,
    serve::Bridge,
    session::{Begun, Session},
};

/// A message of a client.
pub(crate) async fn post(
    bridge: &Arc<Bridge>,
    headers: &HeaderMap,
    message: &Message<'_>,
    accepts: Accepts,
) -> Response<Body> {
    if message.method() == "initialize" && message.kind == Kind::Request {
        return open::open(bridge, message).await;
    }
    let id = message.id.map(|id| id.raw);
    let session = match session(bridge, headers) {
        Ok(session) if session.is_dead() => return refuse::http(id, &unknown()),
        Ok(session) => session,
        Err(fault) => return refuse::http(id, &fault),
    };
    session.touch();
    match message.kind {
        Kind::Request => request(bridge, &session, message, accepts).await,
        Kind::Response => {
            if let (Some(id), Some(link)) = (id, session.link())
                && session.closes(id)
                && let Err(fault) = link.write(owned(message)).await
            {
                return refuse::http(None, &fault);
            }
            body::empty(StatusCode::ACCEPTED)
        }
        Kind::Notification => {
            if let Err(fault) = notification(&session, message).await {
                return refuse::http(None, &fault);
            }
            body::empty(StatusCode::ACCEPTED)
        }
    }
}

/// The stream outside calls, or one that broke off.
pub(crate) fn get(bridge: &Arc<Bridge>, headers: &HeaderMap) -> Response<Body> {
    match session(bridge, headers) {
        Ok(session) => read::resume(bridge, &session, headers.get(headers::LAST_EVENT_ID)),
        Err(fault) => refuse::http(None, &fault),
    }
}

/// The client ends its session.
pub(crate) fn delete(bridge: &Arc<Bridge>, headers: &HeaderMap) -> Response<Body> {
    let found = session(bridge, headers).and_then(|s| bridge.sessions.remove(&s.id).ok_or_else(unknown));
    match found {
        Ok(session) => {
            bridge.end(&session);
            body::empty(StatusCode::NO_CONTENT)
        }
        Err(fault) => refuse::http(None, &fault),
    }
}

fn session(bridge: &Bridge, headers: &HeaderMap) -> Result<Arc<Session>, Fault> {
    let mut ids = headers.get_all(headers::SESSION_ID).iter();
    match (ids.next(), ids.next()) {
        (Some(id), None) => id.to_str().ok().and_then(|id| bridge.sessions.get(id)).ok_or_else(unknown),
        _ => Err(Fault::new(Side::Caller, "missing-session", "the request names no session")
            .next("Send initialize first, and its Mcp-Session-Id from then on.")),
    }
}

fn unknown() -> Fault {
    Fault::new(Side::Caller, "unknown-session", "there is no such session, or its process has ended")
        .next("Start a new one with initialize.")
}

fn owned(message: &Message<'_>) -> Bytes {
    Bytes::copy_from_slice(message.source.as_bytes())
}

async fn notification(session: &Arc<Session>, message: &Message<'_>) -> Result<(), Fault> {
    match (message.method(), session.link()) {
        ("notifications/cancelled", _) => {
            if let Some(id) = message.params.as_ref().and_then(|p| p.request_id) {
                session.cancel(id.raw);
            }
            Ok(())
        }
        (_, Some(link)) => link.write(owned(message)).await,
        // The shared process was told by us all that it has to know.
        (_, None) => Ok(()),
    }
}

async fn request(
    bridge: &Arc<Bridge>,
    session: &Arc<Session>,
    message: &Message<'_>,
    accepts: Accepts,
) -> Response<Body> {
    let id = message.id.map_or("null", |id| id.raw);
    let link = match session.link() {
        Some(link) => link.clone(),
        None => match bridge.keeper.up().await {
            Ok(up) => up.link.clone(),
            Err(fault) => return refuse::http(Some(id), &fault),
        },
    };
    let Some((begun, cancelled)) = session.begin(id) else {
        let fault =
            refuse::invalid("the id is that of a request which is under way", "Use another id for each request.");
        return refuse::http(Some(id), &fault);
    };
    let stream = begun.stream;
    let who = Who {
        id: id.into(),
        token: message.meta().and_then(|m| m.progress_token).map(|t| t.raw.into()),
        stream,
        level: session.wishes().level,
        ..Who::default()
    };
    let called = match session.is_shared() {
        true => shared::call(bridge, session, &link, message, who).await,
        false => link.call(message, who).await.map(shared::Done::Called),
    };
    match called {
        Ok(shared::Done::Called(call)) => {
            tokio::spawn(follow(begun, call, cancelled, bridge.options.call_timeout, bridge.clone()));
        }
        Ok(shared::Done::Answered(answer)) => session.push(stream, answer),
        Err(fault) => return refuse::http(Some(id), &fault),
    }
    match accepts {
        Accepts::Events => read::begin(bridge, session, stream),
        Accepts::JsonOnly => read::whole(session, stream, id).await,
    }
}

/// Writes what comes of a call to its stream, whether or not anybody reads: losing a connection is not cancelling (2025-11-25,
/// basic/transports, "Sending Messages to the Server").
async fn follow(
    begun: Begun,
    mut call: Call,
    mut cancelled: oneshot::Receiver<()>,
    most: Duration,
    bridge: Arc<Bridge>,
) {
    let until = Instant::now() + most;
    let (session, stream) = (&begun.session, begun.stream);
    loop {
        let next = tokio::select! {
            biased;
            _ = &mut cancelled => break,
            () = session.over() => break,
            next = call.next() => next,
            () = tokio::time::sleep_until(until) => {
                session.push(stream, refuse::answer(&begun.id, &refuse::too_long()));
                break;
            }
        };
        match next {
            Next::Before(message) => session.push(stream, message),
            Next::Answer(answer) => {
                session.push(stream, answer);
                break;
            }
            Next::Lost => {
                bridge.counters.lost.inc();
                session.push(stream, refuse::answer(&begun.id, &refuse::lost()));
                break;
            }
        }
    }
}
