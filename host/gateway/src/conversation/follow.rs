//! What a server sends before its answer: passed on to the client, and what it asks answered. The call's own time stands
//! still while a person is asked (security decision 19).

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use portcullis_protocol::{ParseLimits, parse};
use portcullis_upstream::{Message, MessageKind, MessageStream, Sent, UpstreamError};
use tokio_util::sync::CancellationToken;

use super::question::Asker;
use crate::relay::Rewrite;

/// What a call that is followed may take.
pub struct Patience {
    /// How long the server may take, without the time in which a person is asked.
    pub timeout: Duration,
    /// When all ends.
    pub until: Instant,
}

impl Patience {
    /// That of a call with this deadline of its own, while its client has `answer` for all that it is asked.
    pub fn new(deadline: Instant, answer: Duration) -> Self {
        let now = Instant::now();
        let timeout = deadline.saturating_duration_since(now);
        Self { timeout, until: now + timeout + answer }
    }
}

/// Follows a stream to its answer.
///
/// # Errors
/// As [`MessageStream::next`].
pub async fn follow(
    mut stream: MessageStream,
    asker: &Asker<'_>,
    rewrite: &Rewrite,
    patience: &Patience,
) -> Result<Message, UpstreamError> {
    let mut asked = FuturesUnordered::new();
    let mut withdrawals: HashMap<String, CancellationToken> = HashMap::new();
    let mut left = patience.timeout;
    loop {
        let began = Instant::now();
        let until = if asked.is_empty() { (began + left).min(patience.until) } else { patience.until };
        let next = tokio::select! {
            next = tokio::time::timeout_at(until.into(), stream.next()) => next,
            Some(id) = asked.next() => {
                let id: String = id;
                withdrawals.remove(&id);
                continue;
            }
        };
        if asked.is_empty() {
            left = left.saturating_sub(began.elapsed());
        }
        let message = match next {
            Err(_) => return Err(UpstreamError::Timeout { sent: Sent::Maybe }),
            Ok(None) => return Err(UpstreamError::Closed { sent: Sent::Maybe }),
            Ok(Some(message)) => message?,
        };
        if message.is_answer() {
            return Ok(message);
        }
        if message.kind == MessageKind::Request {
            let id = message.id_text().to_owned();
            let withdrawn = CancellationToken::new();
            withdrawals.insert(id.clone(), withdrawn.clone());
            asked.push(async move {
                asker.ask(&message, patience.until, withdrawn).await;
                id
            });
            continue;
        }
        if let Some(id) = withdrawn(&message) {
            if let Some(token) = withdrawals.get(&id) {
                token.cancel();
            }
            continue;
        }
        if let Some(bytes) = rewrite.other(&message) {
            asker.line.say(bytes, patience.until).await;
        }
    }
}

/// The server's id of a request that it does not want answered any more.
pub fn withdrawn(message: &Message) -> Option<String> {
    if message.method().as_deref() != Some("notifications/cancelled") {
        return None;
    }
    let limits = ParseLimits { max_bytes: usize::MAX, max_depth: 512 };
    let parsed = parse(&message.body, &limits).ok()?;
    parsed.params.as_ref().and_then(|p| p.request_id).map(|p| p.raw.to_owned())
}
