//! What a server says and asks outside any call of a client that has a session of its own with it: it goes to the client's
//! GET stream (2025-11-25, transports, "Listening for Messages from the Server").

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use portcullis_credential::Carried;
use portcullis_model::Name;
use portcullis_upstream::{Listen, Message, MessageKind, Peer};
use tokio_util::sync::CancellationToken;

use super::{
    Who,
    follow::{HUMAN, withdrawn},
    line::Line,
    question::Asker,
};
use crate::{gateways::Gateways, session::Live};

/// How long listening may take to begin.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client's own session with a server.
pub struct Own {
    /// The peer.
    pub peer: Weak<Peer>,
    /// Under which account.
    pub carried: Option<Arc<Carried>>,
    /// The server.
    pub server: Name,
    /// What the client can be asked.
    pub capabilities: Arc<str>,
    /// On whose behalf.
    pub who: Who,
}

/// Listens to a server for a session, until the session or the server ends.
pub async fn attend(gateways: Weak<Gateways>, live: Arc<Live>, own: Arc<Own>) {
    let over = live.over.clone();
    tokio::select! {
        () = over.cancelled() => {}
        () = listen(gateways, live, &own) => {}
    }
}

async fn listen(gateways: Weak<Gateways>, live: Arc<Live>, own: &Own) {
    let Some(peer) = own.peer.upgrade() else { return };
    let headers = own.carried.as_ref().map_or(&[][..], |c| &c.headers);
    let mut stream = match peer.listen(&Listen::default(), headers, Instant::now() + PATIENCE).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(server = %own.server, %error, "the server has nothing to say outside calls");
            return;
        }
    };
    let Some(line) = gateways.upgrade().map(|g| Line::get(&g, Arc::clone(&live))) else { return };
    let asker = Asker {
        peer: &peer,
        headers,
        server: &own.server,
        tool: None,
        who: &own.who,
        capabilities: &own.capabilities,
        line: &line,
    };
    let mut asked = FuturesUnordered::new();
    let mut withdrawals: HashMap<String, CancellationToken> = HashMap::new();
    loop {
        let message: Message = tokio::select! {
            next = stream.next() => match next {
                Some(Ok(message)) => message,
                _ => return,
            },
            Some(id) = asked.next() => {
                let id: String = id;
                withdrawals.remove(&id);
                continue;
            }
        };
        match message.kind {
            MessageKind::Request => {
                let (id, token) = (message.id_text().to_owned(), CancellationToken::new());
                withdrawals.insert(id.clone(), token.clone());
                let asker = &asker;
                asked.push(async move {
                    asker.ask(&message, Instant::now() + HUMAN, token).await;
                    id
                });
            }
            MessageKind::Notification => {
                if let Some(id) = withdrawn(&message) {
                    if let Some(token) = withdrawals.get(&id) {
                        token.cancel();
                    }
                    continue;
                }
                let method = message.method();
                // Lists are fetched again before clients are told that they changed.
                let told_otherwise = method
                    .as_deref()
                    .is_some_and(|m| m.ends_with("/list_changed") || m == "notifications/resources/updated");
                if !told_otherwise && live.level().is_none_or(|level| level.wants(&message)) {
                    live.tell(message.body.clone());
                }
            }
            MessageKind::Progress | MessageKind::Result | MessageKind::Error => {}
        }
    }
}
