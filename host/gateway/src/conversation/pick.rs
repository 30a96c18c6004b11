//! Phase 8 for clients that can be asked: on which peer a call runs, and what its server may ask.
//!
//! A server of the modern era is told in each request what the client can do, on the peer that everybody shares. A legacy
//! server is told once per session, so the client gets a session, or a child, of its own (security decision 16).

use std::sync::{Arc, atomic::Ordering};

use portcullis_credential::Carried;
use portcullis_model::{Fault, spec::Interaction};
use portcullis_protocol::Era;
use portcullis_upstream::{Conversation, NO_CAPABILITIES, Peer, UpstreamError};

use super::{
    capabilities::{self, Capabilities},
    pool::Lease,
};
use crate::{asked::Asked, gateways::Gateways, targets, view::Assigned};

/// Where a call goes.
pub struct Way<'a> {
    /// The peer.
    pub peer: Arc<Peer>,
    /// What the server may ask the client, as a JSON object.
    pub capabilities: &'a str,
    /// The conversation that the call has for itself.
    pub lease: Option<Lease>,
    /// Whether the peer is this client's own.
    pub own: bool,
}

/// Why there is no way.
pub enum Blocked {
    /// The server can't be reached.
    Upstream(UpstreamError),
    /// Something else.
    Fault(Fault),
}

impl From<UpstreamError> for Blocked {
    fn from(error: UpstreamError) -> Self {
        Self::Upstream(error)
    }
}

/// The way of a call. `talks` is whether there is a line to the client.
///
/// # Errors
/// Why there is none.
pub async fn way<'a>(
    gateways: &Gateways,
    asked: &'a Asked<'_>,
    assigned: &Assigned,
    carried: Option<&Carried>,
    talks: bool,
    deadline: std::time::Instant,
) -> Result<Way<'a>, Blocked> {
    let shared = || peer(gateways, asked, assigned, carried, deadline);
    let capabilities = asked.capabilities();
    // An interactive conversation never runs under somebody else's connection (security decision 20).
    let foreign = carried.is_some_and(|c| c.by_another);
    if capabilities.len() <= 2 || foreign || assigned.traffic.interaction == Interaction::Shared {
        return Ok(Way { peer: shared().await?, capabilities: NO_CAPABILITIES, lease: None, own: false });
    }
    let peer = shared().await?;
    let era = match peer.era() {
        Some(era) => era,
        None => peer.connect(carried.map_or(&[], |c| &c.headers), deadline).await?.version.era(),
    };
    if era == Era::Modern {
        return Ok(Way { peer, capabilities, lease: None, own: false });
    }
    if !talks || !has_own_peers(assigned) || !capabilities::can_be_asked(capabilities) {
        return Ok(Way { peer, capabilities: NO_CAPABILITIES, lease: None, own: false });
    }
    let mut target = targets::target(asked.view, assigned, carried)?;
    target.key.era = peer.key().era;
    let told = Capabilities::read(capabilities).for_servers();
    let (conversation, lease) = match asked.client.session {
        Some(_) => (Arc::new(Conversation { id: asked.client.short_id().into(), capabilities: told.into() }), None),
        None => {
            let lease = gateways
                .pool
                .lease(&gateways.upstreams, &target.key, asked.binding().principal, &told)
                .map_err(Blocked::Fault)?;
            (Arc::clone(&lease.conversation), Some(lease))
        }
    };
    target.key.conversation = Some(conversation);
    Ok(Way { peer: gateways.upstreams.peer(&target)?, capabilities, lease, own: true })
}

/// The peer that everybody under this account shares. A server that speaks both eras is spoken to in the client's own, so
/// that nothing has to be translated; a process is not started twice for that.
async fn peer(
    gateways: &Gateways,
    asked: &Asked<'_>,
    assigned: &Assigned,
    carried: Option<&Carried>,
    deadline: std::time::Instant,
) -> Result<Arc<Peer>, UpstreamError> {
    let peer = targets::peer(&gateways.upstreams, asked.view, assigned, carried)?;
    if asked.client.era == Era::Modern
        || !assigned.reach.is_http()
        || !speaks_both(&peer)
        || assigned.one_era.load(Ordering::Relaxed)
    {
        return Ok(peer);
    }
    if let Some(known) = assigned.shared.as_ref().and_then(|shared| shared.legacy.get()) {
        return Ok(Arc::clone(known));
    }
    let mut target = targets::target(asked.view, assigned, carried)?;
    target.key.era = Some(Era::Legacy);
    let legacy = gateways.upstreams.peer(&target)?;
    match legacy.connect(carried.map_or(&[], |c| &c.headers), deadline).await {
        Ok(_) => {}
        // It says that it speaks both, and does not.
        Err(UpstreamError::Protocol(why)) => {
            tracing::info!(server = %assigned.server, why, "the server speaks one era only");
            assigned.one_era.store(true, Ordering::Relaxed);
            return Ok(peer);
        }
        Err(error) => return Err(error),
    }
    if let Some(shared) = &assigned.shared {
        return Ok(Arc::clone(shared.legacy.get_or_init(|| legacy)));
    }
    Ok(legacy)
}

fn speaks_both(peer: &Peer) -> bool {
    peer.facts().is_some_and(|facts| facts.version.era() == Era::Modern && facts.speaks(Era::Legacy))
}

/// Whether clients that can be asked get a session or child of their own.
pub fn has_own_peers(assigned: &Assigned) -> bool {
    match assigned.traffic.interaction {
        Interaction::Auto => assigned.reach.is_http(),
        Interaction::Session => true,
        Interaction::Shared => false,
    }
}
