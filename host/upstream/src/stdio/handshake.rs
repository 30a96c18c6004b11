//! The first words with a child: which era it speaks.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use portcullis_protocol::{Era, Version};

use crate::{
    error::{Sent, UpstreamError},
    facts::{Proof, ServerFacts, read_discovery, read_initialized},
    http::session::{INITIALIZED, initialize},
    message::Message,
    outgoing::{Body, Params, Wire},
    stdio::child::{Call, Child},
};

/// How long a child may stay silent to `server/discover` before `initialize` is sent as well. A child that is still
/// downloading itself finds both when it comes up, in this order.
const PATIENCE: Duration = Duration::from_secs(3);

/// Greets the child and settles on a revision.
pub(crate) async fn shake(
    child: &Arc<Child>,
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
    settle(child, known, capabilities, deadline).await.map_err(not_sent)
}

async fn settle(
    child: &Arc<Child>,
    known: Option<Era>,
    capabilities: &str,
    deadline: Instant,
) -> Result<Era, UpstreamError> {
    let initialize = |id| initialize(id, capabilities);
    if known == Some(Era::Legacy) {
        let answer = ask(child, deadline, &initialize).await?.answer().await?;
        return legacy(child, &answer, deadline).await;
    }
    let mut discovery = ask(child, deadline, discover).await?;
    let early = tokio::time::timeout(PATIENCE, discovery.answer()).await;
    if let Ok(answer) = early {
        if let Proof::Modern(facts) = read_discovery(&answer?) {
            return modern(child, facts, deadline).await;
        }
        let answer = ask(child, deadline, &initialize).await?.answer().await?;
        return legacy(child, &answer, deadline).await;
    }
    let mut greeting = ask(child, deadline, &initialize).await?;
    tokio::select! {
        biased;
        answer = discovery.answer() => match read_discovery(&answer?) {
            Proof::Modern(facts) => modern(child, facts, deadline).await,
            Proof::Legacy => legacy(child, &greeting.answer().await?, deadline).await,
        },
        answer = greeting.answer() => legacy(child, &answer?, deadline).await,
    }
}

async fn ask(child: &Arc<Child>, deadline: Instant, build: impl Fn(u64) -> Bytes) -> Result<Call, UpstreamError> {
    let id = child.next_id();
    child.call(id, build(id), false, deadline).await
}

fn discover(id: u64) -> Bytes {
    Params { method: "server/discover", members: "" }.build(&Wire::own(id, Version::LATEST))
}

async fn modern(child: &Arc<Child>, facts: Option<Arc<ServerFacts>>, deadline: Instant) -> Result<Era, UpstreamError> {
    let facts = facts.unwrap_or_else(|| Arc::new(ServerFacts::unknown(Version::LATEST)));
    let list_changed = facts.announces().tools;
    child.settle(facts);
    if list_changed {
        // Its answer only comes when the subscription ends, so nobody waits for it.
        let body = Params { method: "subscriptions/listen", members: r#""notifications":{"toolsListChanged":true}"# }
            .build(&Wire::own(child.next_id(), Version::LATEST));
        child.write(body, deadline).await?;
    }
    Ok(Era::Modern)
}

async fn legacy(child: &Arc<Child>, answer: &Message, deadline: Instant) -> Result<Era, UpstreamError> {
    child.settle(read_initialized(answer)?);
    child.write(Bytes::from_static(INITIALIZED), deadline).await?;
    Ok(Era::Legacy)
}
