//! The answer to a POST: one JSON message, or a stream of events, both bounded in size and time.
//!
//! A legacy stream that breaks before its answer is resumed where the server numbered its events: always by GET, from the
//! last event that came whole, after the pause that the server asked for (2025-11-25, "Resumability and Redelivery").

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode, header::CONTENT_TYPE};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming as HyperBody;

use crate::{
    asking::Verdict,
    error::{Sent, UpstreamError},
    http::{
        HttpPeer,
        events::Events,
        wire::{Cancel, status_error},
    },
    listen::Changed,
    message::{Message, MessageKind, refuse},
    outgoing::LetGo,
};

/// The most bytes of a refusal that are read for a JSON-RPC error.
const MAX_REFUSAL: u64 = 64 << 10;
/// How many times `traffic.maxResponse` a stream may carry in all, its progress notifications included.
const STREAM_FACTOR: u64 = 4;
/// How long a stream that broke is left alone where the server does not say.
const RETRY: Duration = Duration::from_secs(1);
/// The least that it is left alone, whatever the server says.
const LEAST_RETRY: Duration = Duration::from_millis(20);
/// How many attempts in a row to resume a stream may fail.
const MAX_FAILURES: u32 = 5;

/// The messages of one answer.
pub(crate) struct HttpAnswer {
    peer: Arc<HttpPeer>,
    body: Body,
    id: Option<u64>,
    deadline: Instant,
    cancel: Option<Cancel>,
    /// A stream without an end: everything is handed on, and nothing counts against a call's bounds.
    lasting: bool,
}

enum Body {
    Whole(Response<HyperBody>),
    Events(Box<Events>),
    Gone,
}

/// An answer whose status is no success.
pub(crate) enum Reply {
    /// A JSON-RPC error all the same (2026-07-28 sends those with 400 and 404).
    Rpc(Message),
    /// Nothing but the status.
    Status(UpstreamError),
}

impl HttpAnswer {
    pub(crate) fn new(
        peer: Arc<HttpPeer>,
        response: Response<HyperBody>,
        id: Option<u64>,
        deadline: Instant,
        cancel: Cancel,
    ) -> Self {
        let body = match response.status().is_success() && is_events(&response) {
            true => {
                let budget = peer.limit.saturating_mul(STREAM_FACTOR);
                Body::Events(Box::new(Events::new(response, peer.limit, Some(budget))))
            }
            false => Body::Whole(response),
        };
        Self { peer, body, id, deadline, cancel: Some(cancel), lasting: false }
    }

    /// Who is told when the server lets go of a stream.
    pub(crate) fn watched(&mut self, watcher: Option<Arc<dyn LetGo>>) {
        if let Body::Events(events) = &mut self.body {
            events.watcher = watcher;
        }
    }

    /// The call is over: nothing is cancelled any more.
    pub(crate) fn finish(&mut self) {
        if let Some(cancel) = self.cancel.take() {
            cancel.disarm();
        }
    }

    /// It has no end but the server's.
    pub(crate) fn last(&mut self) {
        self.lasting = true;
        if let Body::Events(events) = &mut self.body {
            events.last();
        }
    }

    /// The next message: the answer, or a notification or request of this call.
    pub(crate) async fn next(&mut self) -> Result<Message, UpstreamError> {
        let message = match self.body {
            Body::Events(_) => self.next_event().await?,
            Body::Whole(_) | Body::Gone => self.whole().await?,
        };
        if message.is_answer() {
            self.finish();
        }
        Ok(message)
    }

    /// The answer, without what comes before it.
    pub(crate) async fn answer(&mut self) -> Result<Message, UpstreamError> {
        loop {
            let message = self.next().await?;
            if message.is_answer() {
                return Ok(message);
            }
        }
    }

    /// What a refusal says.
    pub(crate) async fn refused(&mut self) -> Reply {
        let Body::Whole(response) = std::mem::replace(&mut self.body, Body::Gone) else {
            return Reply::Status(UpstreamError::Closed { sent: Sent::Maybe });
        };
        let error = status_error(&response);
        let telling = !matches!(
            response.status(),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
        );
        if telling
            && content_type(&response, "application/json")
            && let Ok(body) = collect(response.into_body(), MAX_REFUSAL, self.deadline).await
            && let Ok(message) = Message::parse(body)
            && message.kind == MessageKind::Error
            && (message.id.is_none() || message.our_id() == self.id)
        {
            return Reply::Rpc(message);
        }
        Reply::Status(error)
    }

    async fn whole(&mut self) -> Result<Message, UpstreamError> {
        let Body::Whole(response) = std::mem::replace(&mut self.body, Body::Gone) else {
            return Err(UpstreamError::Closed { sent: Sent::Maybe });
        };
        if !content_type(&response, "application/json") {
            let what = match response.status() {
                StatusCode::ACCEPTED => "a request was answered with 202, as if it were a notification",
                _ => "the answer is neither application/json nor text/event-stream",
            };
            return Err(UpstreamError::Protocol(what.to_owned()));
        }
        let body = collect(response.into_body(), self.peer.limit, self.deadline).await?;
        let message = Message::parse(body).map_err(UpstreamError::Protocol)?;
        match message.kind {
            MessageKind::Result | MessageKind::Error => self.check(message),
            _ => Err(UpstreamError::Protocol("the answer is a request or a notification".to_owned())),
        }
    }

    async fn next_event(&mut self) -> Result<Message, UpstreamError> {
        loop {
            let Body::Events(events) = &mut self.body else {
                return Err(UpstreamError::Closed { sent: Sent::Maybe });
            };
            let data = match tokio::time::timeout_at(self.deadline.into(), events.next_message()).await {
                Err(_) => return Err(UpstreamError::Timeout { sent: Sent::Maybe }),
                Ok(Ok(Some(data))) => data,
                Ok(Ok(None)) => {
                    self.resume(true).await?;
                    continue;
                }
                Ok(Err(UpstreamError::Closed { .. })) => {
                    self.resume(false).await?;
                    continue;
                }
                Ok(Err(error)) => return Err(error),
            };
            let message = Message::parse(data).map_err(UpstreamError::Protocol)?;
            match message.kind {
                MessageKind::Result | MessageKind::Error => return self.check(message),
                MessageKind::Request => {
                    if let Some(message) = self.asked(message) {
                        return Ok(message);
                    }
                }
                MessageKind::Progress if message.our_token() != self.id => {
                    tracing::debug!(server = self.peer.name, "left out progress of another call");
                }
                MessageKind::Progress => return Ok(message),
                MessageKind::Notification => {
                    if self.lasting || self.is_ours(&message) {
                        return Ok(message);
                    }
                }
            }
        }
    }

    /// The server asks in mid-call: the client of its conversation, or nobody. The modern era has no such requests.
    fn asked(&self, request: Message) -> Option<Message> {
        let cancel = self.cancel.as_ref().filter(|c| c.armed().is_some())?;
        let verdict = match &self.peer.asking {
            Some(asking) => asking.judge(&request, self.id.unwrap_or_default()),
            None => Verdict::Answer(refuse(&request)),
        };
        match verdict {
            Verdict::Pass => return Some(request),
            Verdict::Answer(answer) => cancel.refuse(answer),
            Verdict::Drop => tracing::debug!(server = self.peer.name, "left out a request whose id stands open"),
        }
        None
    }

    /// Whether a notification is for the caller. On a session that several share, what tells of subscriptions is for those
    /// who subscribed, and what withdraws a request is for nobody, since none was passed on.
    fn is_ours(&self, message: &Message) -> bool {
        let method = message.method().unwrap_or_default();
        let shared = self.peer.asking.is_none();
        match (Changed::of(&method), &*method) {
            (Some(what), _) => {
                match shared {
                    true => drop(self.peer.hub.dispatch(message)),
                    false => self.peer.hub.changed(what),
                }
                true
            }
            (None, "notifications/resources/updated") if shared => {
                self.peer.hub.dispatch(message);
                false
            }
            (None, "notifications/cancelled") if shared => false,
            _ => true,
        }
    }

    /// Goes on with a stream that was over before its answer: `ended` by its server, or else broken.
    async fn resume(&mut self, ended: bool) -> Result<(), UpstreamError> {
        let broken = UpstreamError::Closed { sent: Sent::Maybe };
        let (Body::Events(events), Some((_, session, headers)), false) =
            (&mut self.body, self.cancel.as_ref().and_then(Cancel::armed), self.lasting)
        else {
            return Err(broken);
        };
        let Some(last) = events.last_id().map(str::to_owned) else {
            return Err(broken);
        };
        if let Some(watcher) = events.watcher.as_ref().filter(|_| ended) {
            watcher.let_go();
        }
        let pause = events.retry_ms().map_or(RETRY, Duration::from_millis).max(LEAST_RETRY);
        for _ in 0..MAX_FAILURES {
            if Instant::now() + pause >= self.deadline {
                tokio::time::sleep_until(self.deadline.into()).await;
                return Err(UpstreamError::Timeout { sent: Sent::Maybe });
            }
            tokio::time::sleep(pause).await;
            match self.peer.get(Some(session), headers, Some(&last), self.deadline).await {
                Ok(response) if response.status().is_success() && is_events(&response) => {
                    tracing::debug!(server = self.peer.name, "resumed a stream");
                    events.resume(response);
                    return Ok(());
                }
                Ok(response) if response.status().is_server_error() => {}
                Ok(_) => return Err(broken),
                Err(error) => {
                    tracing::debug!(server = self.peer.name, %error, "a stream could not be resumed");
                }
            }
        }
        Err(broken)
    }

    /// An answer has to be to this call. An error without an id belongs to the request of this very exchange.
    fn check(&self, message: Message) -> Result<Message, UpstreamError> {
        let ours = message.our_id() == self.id || (message.id.is_none() && message.kind == MessageKind::Error);
        if ours {
            Ok(message)
        } else {
            Err(UpstreamError::Protocol("the answer has the id of another request".to_owned()))
        }
    }
}

/// What the server asked on behalf of the call goes with it.
impl Drop for HttpAnswer {
    fn drop(&mut self) {
        if let (Some(asking), Some(id)) = (&self.peer.asking, self.id) {
            asking.ended(id);
        }
    }
}

/// Whether it is a stream of events.
pub(crate) fn is_events(response: &Response<HyperBody>) -> bool {
    content_type(response, "text/event-stream")
}

fn content_type(response: &Response<HyperBody>, wanted: &str) -> bool {
    response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.split(';').next())
        .is_some_and(|v| v.trim().eq_ignore_ascii_case(wanted))
}

/// Reads a whole body, up to `limit` bytes and until `deadline`.
async fn collect(mut body: HyperBody, limit: u64, deadline: Instant) -> Result<Bytes, UpstreamError> {
    let hint = body.size_hint();
    if hint.lower() > limit {
        return Err(UpstreamError::TooLarge { limit });
    }
    let read = async {
        let mut first = Bytes::new();
        let mut all: Option<BytesMut> = None;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| UpstreamError::Closed { sent: Sent::Maybe })?.into_data() else {
                continue;
            };
            let so_far = all.as_ref().map_or(first.len(), BytesMut::len);
            if (so_far + data.len()) as u64 > limit {
                return Err(UpstreamError::TooLarge { limit });
            }
            if so_far == 0 {
                // Most answers come in one piece, which is then not copied.
                first = data;
                continue;
            }
            let buffer = all.get_or_insert_with(|| {
                // The length that the server claims is trusted up to a mebibyte.
                let claimed = usize::try_from(hint.lower()).unwrap_or(0).min(1 << 20);
                let mut buffer = BytesMut::with_capacity(claimed.max(first.len() + data.len()));
                buffer.extend_from_slice(&first);
                buffer
            });
            buffer.extend_from_slice(&data);
        }
        Ok(all.map_or(first, BytesMut::freeze))
    };
    tokio::time::timeout_at(deadline.into(), read).await.map_err(|_| UpstreamError::Timeout { sent: Sent::Maybe })?
}
