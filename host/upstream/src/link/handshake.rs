//! The first words on a link: which era the server speaks.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use portcullis_protocol::{Era, Version};

use crate::{
    error::{Sent, UpstreamError},
    facts::{Proof, ServerFacts, read_discovery, read_initialized},
    link::{Call, Kind, Link},
    message::Message,
    outgoing::{Body, CLIENT_INFO, Params, Wire},
};

/// How long a server may stay silent to `server/discover` before `initialize` is sent as well. A child that is still
/// downloading itself finds both when it comes up, in this order.
const PATIENCE: Duration = Duration::from_secs(3);

/// The notification that ends the legacy handshake.
pub(crate) const INITIALIZED: &[u8] = br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// The `initialize` request, which advertises what a conversation's client can do, and nothing for a shared peer.
pub(crate) fn initialize(id: u64, capabilities: &str) -> Bytes {
    let members = format!(
        r#""protocolVersion":"{}","capabilities":{capabilities},"clientInfo":{CLIENT_INFO}"#,
        Version::LATEST_LEGACY.as_str()
    );
    Params { method: "initialize", members: &members }.build(&Wire::own(id, Version::LATEST_LEGACY))
}

/// The `server/discover` request.
pub(crate) fn discover(id: u64) -> Bytes {
    Params { method: "server/discover", members: "" }.build(&Wire::own(id, Version::LATEST))
}

/// Greets the server and settles on a revision.
pub(crate) async fn shake(
    link: &Arc<Link>,
    known: Option<Era>,
    capabilities: &str,
    patience: Duration,
) -> Result<Era, UpstreamError> {
    let deadline = Instant::now() + patience;
    let not_sent = |error| match error {
        UpstreamError::Timeout { .. } => UpstreamError::Timeout { sent: Sent::No },
        UpstreamError::Closed { .. } => UpstreamError::Closed { sent: Sent::No },
        other => other,
    };
    settle(link, known, capabilities, deadline).await.map_err(not_sent)
}

async fn settle(
    link: &Arc<Link>,
    known: Option<Era>,
    capabilities: &str,
    deadline: Instant,
) -> Result<Era, UpstreamError> {
    let initialize = |id| initialize(id, capabilities);
    if known == Some(Era::Legacy) {
        let answer = ask(link, deadline, initialize).await?.answer().await?;
        return legacy(link, &answer, deadline).await;
    }
    let mut discovery = ask(link, deadline, discover).await?;
    let early = tokio::time::timeout(PATIENCE, discovery.answer()).await;
    if let Ok(answer) = early {
        if let Proof::Modern(facts) = read_discovery(&answer?) {
            return Ok(modern(link, facts));
        }
        let answer = ask(link, deadline, initialize).await?.answer().await?;
        return legacy(link, &answer, deadline).await;
    }
    let mut greeting = ask(link, deadline, initialize).await?;
    tokio::select! {
        biased;
        answer = discovery.answer() => match read_discovery(&answer?) {
            Proof::Modern(facts) => Ok(modern(link, facts)),
            Proof::Legacy => legacy(link, &greeting.answer().await?, deadline).await,
        },
        answer = greeting.answer() => legacy(link, &answer?, deadline).await,
    }
}

async fn ask(link: &Arc<Link>, deadline: Instant, build: impl Fn(u64) -> Bytes) -> Result<Call, UpstreamError> {
    let id = link.next_id();
    link.call(id, build(id), Kind::Own, deadline).await
}

fn modern(link: &Arc<Link>, facts: Option<Arc<ServerFacts>>) -> Era {
    link.settle(facts.unwrap_or_else(|| Arc::new(ServerFacts::unknown(Version::LATEST))));
    Era::Modern
}

async fn legacy(link: &Arc<Link>, answer: &Message, deadline: Instant) -> Result<Era, UpstreamError> {
    link.settle(read_initialized(answer)?);
    link.write(Bytes::from_static(INITIALIZED), deadline).await?;
    Ok(Era::Legacy)
}
