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
use portcullis_upstream::{Listen, Message, MessageKind, MessageStream, Peer};
use tokio_util::sync::CancellationToken;

use super::{Who, follow::withdrawn, line::Line, question::Asker};
use crate::session::Live;

/// How long listening may take to begin.
const PATIENCE: Duration = Duration::from_secs(10);

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

/// Begins to listen to a server. Done before the first call of a conversation: servers built on the older SDKs ask on this
/// stream whatever a call needs, and drop the question where nobody listens yet. None where the server has no such stream.
pub async fn begin(own: &Own) -> Option<MessageStream> {
    let peer = own.peer.upgrade()?;
    let headers = own.carried.as_ref().map_or(&[][..], |c| &c.headers);
    match peer.listen(&Listen::default(), headers, Instant::now() + PATIENCE).await {
        Ok(stream) => Some(stream),
        Err(error) => {
            tracing::debug!(server = %own.server, %error, "the server has nothing to say outside calls");
            None
        }
    }
}

/// Listens to a server until `over` or its end: what it asks goes down the line, what else it says to `told`.
pub async fn attend(
    stream: MessageStream,
    own: Arc<Own>,
    line: Arc<Line>,
    over: CancellationToken,
    told: impl Fn(&Message) + Send,
) {
    tokio::select! {
        () = over.cancelled() => {}
        () = hear(stream, &own, &line, told) => {}
    }
}

async fn hear(mut stream: MessageStream, own: &Own, line: &Line, told: impl Fn(&Message) + Send) {
    let Some(peer) = own.peer.upgrade() else { return };
    let asker = Asker {
        peer: &peer,
        headers: own.carried.as_ref().map_or(&[][..], |c| &c.headers),
        server: &own.server,
        tool: None,
        who: &own.who,
        capabilities: &own.capabilities,
        line,
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
                    asker.ask(&message, Instant::now() + line.gateways().settings.answer_within, token).await;
                    id
                });
            }
            MessageKind::Notification => match withdrawn(&message) {
                Some(id) => {
                    if let Some(token) = withdrawals.get(&id) {
                        token.cancel();
                    }
                }
                None => told(&message),
            },
            MessageKind::Progress | MessageKind::Result | MessageKind::Error => {}
        }
    }
}

/// Passes on what a server says outside calls, to a session whose lists are told of otherwise: they are fetched again before
/// clients hear that they changed.
pub fn pass_on(live: &Live, message: &Message) {
    let method = message.method();
    let otherwise =
        method.as_deref().is_some_and(|m| m.ends_with("/list_changed") || m == "notifications/resources/updated");
    if !otherwise && live.level().is_none_or(|level| level.wants(message)) {
        live.tell(message.body.clone());
    }
}
