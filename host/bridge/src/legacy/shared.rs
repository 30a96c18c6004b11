//! Requests of sessions that share a process: what one of them asks for must not change what another gets.

use std::sync::Arc;

use bytes::Bytes;
use portcullis_model::{Fault, Side};
use portcullis_protocol::{Era, Message, rpc, splice};

use crate::{
    keeper::aside,
    link::{Call, Link, Who},
    serve::Bridge,
    session::{Session, rank},
};

/// What became of a request.
pub(super) enum Done {
    /// The process has it.
    Called(Call),
    /// It is answered here.
    Answered(Bytes),
}

/// Sends a request on, or answers it.
///
/// # Errors
/// As [`Link::call`].
pub(super) async fn call(
    bridge: &Arc<Bridge>,
    session: &Arc<Session>,
    link: &Arc<Link>,
    message: &Message<'_>,
    who: Who,
) -> Result<Done, Fault> {
    let params = message.params.as_ref();
    let uri = params.and_then(|p| p.uri.as_ref()).map(AsRef::as_ref);
    let others_watch = |uri: &str| bridge.sessions.uris().iter().any(|u| &**u == uri);
    match (message.method(), uri) {
        ("logging/setLevel", _) => {
            let level = params.map_or("{}", |p| p.piece.raw);
            let Some(level) = named(level) else { return link.call(message, who).await.map(Done::Called) };
            session.wishes().level = Some(level);
            // The process has one level for all, so it gets the least; each session hears what it wants itself.
            if let Some(least) = bridge.sessions.level() {
                aside(link, "logging/setLevel", format!(r#"{{"level":"{least}"}}"#));
            }
            Ok(Done::Answered(rpc::empty(&who.id, Era::Legacy)))
        }
        ("resources/subscribe", Some(uri)) => {
            if !session.watch(uri) {
                let fault = Fault::new(
                    Side::Caller,
                    "too-many-subscriptions",
                    "the session watches as many resources as it may",
                );
                return Err(fault.next("Unsubscribe from some."));
            }
            link.call(message, who).await.map(Done::Called)
        }
        ("resources/unsubscribe", Some(uri)) => {
            session.wishes().uris.remove(uri);
            match others_watch(uri) {
                true => Ok(Done::Answered(rpc::empty(&who.id, Era::Legacy))),
                false => link.call(message, who).await.map(Done::Called),
            }
        }
        // It would show one session the tasks of another.
        ("tasks/list", _) => {
            let why = "tasks are not listed where sessions share a process: start the bridge with --per-session";
            Ok(Done::Answered(rpc::error(Some(&who.id), rpc::METHOD_NOT_FOUND, why, None)))
        }
        _ => link.call(message, who).await.map(Done::Called),
    }
}

/// A session of the shared process is over: nobody is told what only it wanted to hear.
pub(crate) fn over(bridge: &Arc<Bridge>, session: &Session, link: &Arc<Link>) {
    let gone: Vec<Box<str>> = session.wishes().uris.drain().collect();
    let kept = bridge.sessions.uris();
    for uri in gone.iter().filter(|u| !kept.contains(*u)) {
        aside(link, "resources/unsubscribe", format!(r#"{{"uri":{}}}"#, splice::quote(uri)));
    }
}

fn named(params: &str) -> Option<u8> {
    let level = serde_json::from_str::<serde_json::Value>(params).ok()?;
    rank(level.get("level")?.as_str()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_those_of_the_protocol() {
        assert_eq!(named(r#"{"level":"debug"}"#), Some(0));
        assert_eq!(named(r#"{"level":"emergency"}"#), Some(7));
        assert_eq!(named(r#"{"level":"loud"}"#), None);
    }
}
