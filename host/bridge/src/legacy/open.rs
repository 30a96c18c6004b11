//! `initialize`: a session, with a process of its own where its client can be asked anything.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use portcullis_child::Backoff;
use portcullis_model::{Fault, Side};
use portcullis_protocol::{Era, Message, Version, headers, parse, rpc};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::timeout;

use crate::{
    body::{self, Body},
    link::{LIMITS, Owner, Who},
    pipes, refuse,
    serve::Bridge,
    session::Session,
};

/// A start that has to wait no longer than this is waited for.
const SHORT_WAIT: std::time::Duration = std::time::Duration::from_secs(1);

pub(super) async fn open(bridge: &Arc<Bridge>, message: &Message<'_>) -> Response<Body> {
    let id = message.id.map_or("null", |id| id.raw);
    let opened = match share(bridge, message).await {
        Ok(Some(opened)) => Ok(opened),
        Ok(None) => own(bridge, message).await,
        Err(fault) => Err(fault),
    };
    let (session, answer) = match opened {
        Ok(opened) => opened,
        Err(fault) => return refuse::http(Some(id), &fault),
    };
    let mut response = body::json(StatusCode::OK, answer);
    if let Some(session) = session {
        if let Err(fault) = bridge.sessions.insert(session.clone()) {
            return refuse::http(Some(id), &fault);
        }
        // Hexadecimal digits are always a header's value.
        if let Ok(value) = HeaderValue::from_str(&session.id) {
            response.headers_mut().insert(headers::SESSION_ID, value);
        }
    }
    response
}

type Opened = (Option<Arc<Session>>, Bytes);

/// A session on the shared process, where nothing speaks against it.
async fn share(bridge: &Arc<Bridge>, message: &Message<'_>) -> Result<Option<Opened>, Fault> {
    let params = message.params.as_ref();
    let version = params.and_then(|p| p.protocol_version.as_ref()).map_or("", AsRef::as_ref);
    let capabilities = params.and_then(|p| p.capabilities).map_or("{}", |c| c.raw);
    if bridge.options.per_session || version != Version::LATEST_LEGACY.as_str() || can_be_asked(capabilities) {
        return Ok(None);
    }
    let up = bridge.keeper.up().await?;
    if up.greeting.era == Era::Modern {
        return Ok(None);
    }
    let session = new(bridge)?;
    session.agree(agreed(&up.greeting.result));
    let id = message.id.map_or("null", |id| id.raw);
    Ok(Some((Some(session), rpc::result(id, &up.greeting.result))))
}

/// A session with a process of its own, which gets the client's own words; none where the process refuses them.
async fn own(bridge: &Arc<Bridge>, message: &Message<'_>) -> Result<Opened, Fault> {
    let place = bridge.places.clone().try_acquire_owned().map_err(|_| {
        refuse::busy(
            "as many processes of sessions run as may",
            "End sessions with DELETE, or raise the bridge's --max-children.",
        )
    })?;
    let wait = bridge.backoff(|b: &mut Backoff| b.wait(Instant::now()));
    if wait > SHORT_WAIT {
        return Err(refuse::unreachable("it keeps ending before it answers", Some(wait)));
    }
    tokio::time::sleep(wait).await;
    let begun = Instant::now();
    let session = new(bridge)?;
    let owner: std::sync::Weak<dyn Owner> = Arc::<Session>::downgrade(&session);
    let link = pipes::start(&bridge.options, &session.name, owner, &bridge.counters)
        .map_err(|e| refuse::unreachable(&e.to_string(), None))?;
    session.settle(link.clone(), place);
    let who = Who { id: message.id.map_or("null", |id| id.raw).into(), ..Who::default() };
    let mut call = link.call(message, who).await?;
    let answer = match timeout(bridge.options.start_timeout, call.answered()).await {
        Ok(Some(answer)) => answer,
        Ok(None) => {
            let now = Instant::now();
            bridge.backoff(|b| b.ended(begun, now));
            // Its pipes are closed, so its supervisor ends it in the grace.
            let mut ended = link.ended.subscribe();
            let how = timeout(bridge.options.start_timeout, ended.wait_for(Option::is_some)).await;
            let how = how.ok().and_then(Result::ok).and_then(|h| h.clone()).unwrap_or_default();
            return Err(refuse::unreachable(&how, None));
        }
        Err(_) => return Err(refuse::unreachable("it did not answer initialize in time", None)),
    };
    bridge.backoff(Backoff::reset);
    let result = parse(&answer, &LIMITS).ok().and_then(|m| m.result.map(|r| agreed(r.piece.raw)));
    let Some(version) = result else {
        // It refuses: its own words go to the client, and there is no session.
        return Ok((None, answer));
    };
    session.agree(version);
    let outside = Arc::downgrade(&session);
    tokio::spawn(async move {
        link.closing().await;
        if let Some(session) = outside.upgrade() {
            // Calls end by themselves; what is outside them ends here.
            session.finish(crate::log::OUTSIDE);
        }
    });
    Ok((Some(session), answer))
}

fn new(bridge: &Bridge) -> Result<Arc<Session>, Fault> {
    Session::new(bridge.options.clone(), bridge.counters.clone())
        .ok_or_else(|| Fault::new(Side::Gateway, "no-randomness", "no randomness for a session's name"))
}

/// The revision that a result of `initialize` names.
fn agreed(result: &str) -> Version {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Agreed {
        protocol_version: String,
    }
    let named = serde_json::from_str::<Agreed>(result).ok().and_then(|a| a.protocol_version.parse().ok());
    named.unwrap_or(Version::LATEST_LEGACY)
}

/// Whether a client says that a server may ask it something.
fn can_be_asked(capabilities: &str) -> bool {
    // Also what is not known here: it may be a way of asking.
    serde_json::from_str::<Map<String, Value>>(capabilities).map_or(true, |all| !all.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_can_do_nothing_shares() {
        assert!(!can_be_asked("{}"));
        for asked in [
            r#"{"roots":{}}"#,
            r#"{"sampling":{"tools":{}}}"#,
            r#"{"elicitation":{}}"#,
            r#"{"experimental":{"x":{}}}"#,
            "[]",
        ] {
            assert!(can_be_asked(asked), "{asked}");
        }
    }
}
