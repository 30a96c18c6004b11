//! Reading a session's streams: as the answer to a request, outside all calls, or again after a connection was lost.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use portcullis_model::{Fault, Side};
use portcullis_protocol::{
    Kind, Version, parse,
    sse::{self, Event},
};
use tokio::sync::mpsc;

use crate::{
    body::{self, Body},
    link::LIMITS,
    log::{OUTSIDE, Read},
    refuse,
    serve::Bridge,
    session::Session,
};

/// How often a silent stream says that it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The answer to a request, as events from the first on.
pub(super) fn begin(bridge: &Arc<Bridge>, session: &Arc<Session>, stream: u64) -> Response<Body> {
    // It says nothing, and gives an id to come again with (2025-11-25; clients of before can't read an event without data).
    let prime = session.version() >= Version::V2025_11_25;
    start(bridge, session, stream, 0, prime)
}

/// A stream that a client opens by GET.
pub(super) fn resume(bridge: &Arc<Bridge>, session: &Arc<Session>, last: Option<&HeaderValue>) -> Response<Body> {
    session.touch();
    let Some(last) = last else {
        if session.is_dead() {
            return refuse::http(None, &super::unknown());
        }
        let seen = session.log().seen(OUTSIDE);
        return start(bridge, session, OUTSIDE, seen, false);
    };
    let known = last.to_str().ok().and_then(|l| l.split_once('.'));
    let known = known.and_then(|(stream, event)| Some((stream.parse().ok()?, event.parse().ok()?)));
    match known {
        Some((stream, event)) if session.log().knows(stream, event) => start(bridge, session, stream, event, false),
        _ => {
            let what = "Last-Event-ID names no event of this session that is still known";
            let fault = Fault::new(Side::Caller, "unknown-event", what);
            refuse::http(None, &fault.next("Send the request again if it may run twice."))
        }
    }
}

fn start(bridge: &Arc<Bridge>, session: &Arc<Session>, stream: u64, after: u64, prime: bool) -> Response<Body> {
    // Whoever comes now takes the place of whoever read before.
    let reader = session.log().attend(stream);
    let Some(reader) = reader else { return refuse::http(None, &super::unknown()) };
    let (sender, response) = body::events();
    let at = Place { stream, reader, after };
    tokio::spawn(read(bridge.clone(), session.clone(), at, prime, sender));
    response
}

struct Place {
    stream: u64,
    reader: u64,
    after: u64,
}

async fn read(
    bridge: Arc<Bridge>,
    session: Arc<Session>,
    Place { stream, reader, mut after }: Place,
    prime: bool,
    sender: mpsc::Sender<Bytes>,
) {
    let _reading = session.reading();
    let mut changes = session.changes();
    let mut draining = bridge.draining.subscribe();
    if prime && sender.send(encoded(stream, 0, Bytes::new())).await.is_err() {
        return session.log().leave(stream, reader);
    }
    loop {
        changes.borrow_and_update();
        let found = session.log().read(stream, reader, after);
        let event = match found {
            Read::Event(at, event) => {
                after = at;
                encoded(stream, at, event)
            }
            Read::Lost(at, request) => {
                after = at;
                match request {
                    None => continue,
                    // Its answer may be among what is gone, so this is the last that is said about it.
                    Some(id) => {
                        let _ = sender.send(encoded(stream, at, refuse::answer(&id, &gone()))).await;
                        break;
                    }
                }
            }
            Read::End => break,
            Read::Wait => tokio::select! {
                _ = changes.changed() => continue,
                () = sender.closed() => break,
                // Whoever listens comes again, perhaps to the next bridge; whoever waits for an answer gets it.
                _ = draining.wait_for(|d| *d), if stream == OUTSIDE => break,
                () = tokio::time::sleep(KEEP_ALIVE) => Bytes::from_static(sse::KEEP_ALIVE),
            },
        };
        if sender.send(event).await.is_err() {
            break;
        }
    }
    session.log().leave(stream, reader);
}

/// The answer to a request, for a client that reads no events.
pub(super) async fn whole(session: &Arc<Session>, stream: u64, id: &str) -> Response<Body> {
    let _reading = session.reading();
    let mut changes = session.changes();
    let Some(reader) = session.log().attend(stream) else { return refuse::http(Some(id), &super::unknown()) };
    let (mut after, mut answer) = (0, None);
    loop {
        changes.borrow_and_update();
        let found = session.log().read(stream, reader, after);
        match found {
            Read::Event(at, event) => {
                after = at;
                if parse(&event, &LIMITS).is_ok_and(|m| m.kind == Kind::Response) {
                    answer = Some(event);
                }
            }
            Read::Lost(at, _) => after = at,
            Read::End => break,
            // The sender lives as long as the session.
            Read::Wait => drop(changes.changed().await),
        }
    }
    match answer {
        Some(answer) => body::json(StatusCode::OK, answer),
        None => body::json(StatusCode::OK, refuse::answer(id, &gone())),
    }
}

fn gone() -> Fault {
    Fault::new(Side::Gateway, "answer-lost", "the answer is no longer there: it was cancelled, or kept for too long")
        .next("What became of the call is not known: look before you call again.")
}

fn encoded(stream: u64, at: u64, data: Bytes) -> Bytes {
    let event = (!data.is_empty()).then(|| "message".into());
    let mut out = Vec::with_capacity(data.len() + 64);
    sse::encode(&Event { event, data, id: Some(format!("{stream}.{at}").into()) }, &mut out);
    out.into()
}
