//! Watching one resource at its server, for one client.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use portcullis_credential::Carried;
use portcullis_model::{Fault, Name, Side};
use portcullis_plugin::ReadPurpose;
use portcullis_protocol::splice::quote;
use portcullis_upstream::{Listen, Peer};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::{
    asked::Asked,
    catalogue::Kind,
    conversation::Who,
    forward,
    gateways::Gateways,
    judge,
    standing::{Changes, Now, Rests},
    targets,
};

/// How long subscribing may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long after a broken stream it is opened again.
const AGAIN: Duration = Duration::from_secs(5);

/// A resource that is about to be watched: the caller may, and its server can.
pub struct Watch {
    peer: Arc<Peer>,
    carried: Option<Arc<Carried>>,
    server: Name,
    own: String,
    stream: Option<portcullis_upstream::MessageStream>,
    rests: Rests,
    changes: Changes,
}

/// `notifications/resources/updated` of a server.
pub struct Updated<'u> {
    /// Its URI as the server says it: the watched one, or one below it.
    uri: &'u str,
    own: &'u str,
}

impl Updated<'_> {
    /// The params as a client gets them that knows the watched resource as `exposed`; `more` are further members.
    pub fn params(&self, exposed: &str, more: &str) -> String {
        let below = self.uri.strip_prefix(self.own).unwrap_or_default();
        let comma = if more.is_empty() { "" } else { "," };
        format!(r#"{{"uri":{}{comma}{more}}}"#, quote(&format!("{exposed}{below}")))
    }
}

/// Begins to watch a resource for this caller.
///
/// # Errors
/// Where there is none, or the caller may not see it, or its server does not tell of changes.
pub async fn watch(gateways: &Arc<Gateways>, asked: &Asked<'_>, exposed: &str) -> Result<Watch, Fault> {
    let changes = Changes::of(gateways);
    let (at, own) = forward::locate(gateways, asked, exposed).await?;
    let assigned = &asked.view.servers[at];
    let deadline = Instant::now() + PATIENCE;
    if let Err(fault) = judge::read(asked, &assigned.server, &own, exposed, ReadPurpose::Subscribe, deadline).await {
        let server = assigned.server.as_str();
        // Whoever does not see it in the list learns no more from this than that there is none.
        let hidden =
            fault.side == Side::Policy && judge::is_hidden(asked, Kind::Resources, server, &own, deadline).await;
        return Err(if hidden { forward::unknown_resource(exposed) } else { fault });
    }
    let carried = match &assigned.plan {
        None => None,
        Some(plan) => Some(asked.account(gateways, plan).await?),
    };
    let fault = |e: portcullis_upstream::UpstreamError| e.to_fault(assigned.server.as_str(), None);
    let peer = targets::peer(&gateways.upstreams, asked.view, assigned, carried.as_deref()).map_err(fault)?;
    let headers = carried.as_ref().map_or(&[][..], |c| &c.headers);
    let facts = peer.connect(headers, deadline).await.map_err(fault)?;
    let offers: serde_json::Value = serde_json::from_slice(&facts.capabilities).unwrap_or_default();
    if offers["resources"]["subscribe"] != true {
        return Err(Fault::new(
            Side::Server,
            "not-subscribable",
            "the server does not tell of changes of its resources",
        )
        .server(assigned.server.as_str())
        .next("Read it again from time to time"));
    }
    let listen = Listen { uris: &[&own], ..Listen::default() };
    let stream = Some(peer.listen(&listen, headers, deadline).await.map_err(fault)?);
    let rests = Rests::of(gateways, Who::of(asked), assigned, carried.as_deref()).about(&own, exposed);
    Ok(Watch { peer, carried, server: assigned.server.clone(), own, stream, rests, changes })
}

impl Watch {
    /// Watches until `over`, or until the caller may not any more or it would be under another account; tells of each update. At
    /// an end that the client did not ask for it is told once more: reading the resource again, it learns how things are.
    pub async fn run(self, who: Who, over: CancellationToken, tell: impl Fn(&Updated<'_>) + Send + Sync) {
        let Self { peer, carried, server, own, stream, rests, changes } = self;
        let mut watching = Watching { peer, carried, server, own: own.clone(), stream, rests: rests.clone() };
        tokio::select! {
            () = over.cancelled() => return,
            () = rests.over(changes) => {}
            () = watching.go_on(&who, &tell) => {}
        }
        tell(&Updated { uri: &own, own: &own });
    }
}

/// A resource that is watched.
struct Watching {
    peer: Arc<Peer>,
    carried: Option<Arc<Carried>>,
    server: Name,
    own: String,
    stream: Option<portcullis_upstream::MessageStream>,
    rests: Rests,
}

impl Watching {
    /// Until the stream broke and may not be opened again.
    async fn go_on(&mut self, who: &Who, tell: &(impl Fn(&Updated<'_>) + Send + Sync)) {
        loop {
            while let Some(stream) = &mut self.stream {
                match stream.next().await {
                    Some(Ok(message)) => {
                        if message.method().as_deref() == Some("notifications/resources/updated")
                            && let Some(uri) = uri_of(message.payload_text())
                            && uri.starts_with(&self.own)
                        {
                            tell(&Updated { uri: &uri, own: &self.own });
                        }
                    }
                    Some(Err(error)) => {
                        tracing::debug!(request = &*who.request_id, server = %self.server, %error, "a subscription broke");
                        self.stream = None;
                    }
                    None => self.stream = None,
                }
            }
            tokio::time::sleep(AGAIN).await;
            match self.rests.now().await {
                Now::Holds(carried) => self.carried = carried,
                Now::Unknown => continue,
                Now::Over => return,
            }
            let headers = self.carried.as_ref().map_or(&[][..], |c| &c.headers);
            let listen = Listen { uris: &[&self.own], ..Listen::default() };
            if let Ok(stream) = self.peer.listen(&listen, headers, Instant::now() + PATIENCE).await {
                self.stream = Some(stream);
                // What happened in between is not known, so the client had better read it again.
                tell(&Updated { uri: &self.own, own: &self.own });
            }
        }
    }
}

fn uri_of(params: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Params {
        uri: String,
    }
    serde_json::from_str::<Params>(params).ok().map(|p| p.uri)
}
