//! The answer to a POST: one JSON message, or a stream of events, both bounded in size and time.

use std::{sync::Arc, time::Instant, vec};

use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode, header::CONTENT_TYPE};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming as HyperBody;
use portcullis_protocol::sse::{Decoder, Event};

use crate::{
    error::{Sent, UpstreamError},
    http::{Cancel, HttpPeer, status_error},
    message::{Message, MessageKind, refuse},
};

/// The most bytes of a refusal that are read for a JSON-RPC error.
const MAX_REFUSAL: u64 = 64 << 10;
/// How many times `traffic.maxResponse` a stream may carry in all, its progress notifications included.
const STREAM_FACTOR: u64 = 4;

/// The messages of one answer.
pub(crate) struct HttpAnswer {
    peer: Arc<HttpPeer>,
    response: Option<Response<HyperBody>>,
    /// For a stream of events: its decoder, and events read but not handed on.
    events: Option<(Decoder, vec::IntoIter<Event>)>,
    received: u64,
    id: Option<u64>,
    deadline: Instant,
    cancel: Option<Cancel>,
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
        let stream = content_type(&response, "text/event-stream");
        let events =
            stream.then(|| (Decoder::new(usize::try_from(peer.limit).unwrap_or(usize::MAX)), Vec::new().into_iter()));
        Self { peer, response: Some(response), events, received: 0, id, deadline, cancel: Some(cancel) }
    }

    /// The call is over: nothing is cancelled any more.
    pub(crate) fn finish(&mut self) {
        if let Some(cancel) = self.cancel.take() {
            cancel.disarm();
        }
    }

    /// The next message: the answer, or a notification of this call.
    pub(crate) async fn next(&mut self) -> Result<Message, UpstreamError> {
        let message = match self.events.is_some() {
            true => self.next_event().await?,
            false => self.whole().await?,
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
        let Some(response) = self.response.take() else {
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
        let Some(response) = self.response.take() else {
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
            let Some((decoder, events)) = &mut self.events else {
                return Err(UpstreamError::Closed { sent: Sent::Maybe });
            };
            if let Some(event) = events.next() {
                // Other types are none of MCP's, and an event without data only carries an id to resume from.
                if !event.is_message() || event.data.is_empty() {
                    continue;
                }
                let message = Message::parse(event.data).map_err(UpstreamError::Protocol)?;
                match message.kind {
                    MessageKind::Result | MessageKind::Error => return self.check(message),
                    // Nothing was advertised, so nothing is served. The modern era has no requests from servers at all.
                    MessageKind::Request => {
                        if let Some(cancel) = &self.cancel {
                            cancel.aside(refuse(&message));
                        }
                    }
                    MessageKind::Progress if message.our_token() != self.id => {
                        tracing::debug!(server = self.peer.name, "left out progress of another call");
                    }
                    MessageKind::Progress | MessageKind::Notification => return Ok(message),
                }
                continue;
            }
            let Some(response) = &mut self.response else {
                return Err(UpstreamError::Closed { sent: Sent::Maybe });
            };
            let frame = tokio::time::timeout_at(self.deadline.into(), response.body_mut().frame())
                .await
                .map_err(|_| UpstreamError::Timeout { sent: Sent::Maybe })?;
            let limit = self.peer.limit;
            match frame {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    self.received = self.received.saturating_add(data.len() as u64);
                    if self.received > limit.saturating_mul(STREAM_FACTOR) {
                        return Err(UpstreamError::TooLarge { limit });
                    }
                    let mut found = Vec::new();
                    let fed = decoder.feed(&data, &mut found);
                    if found.is_empty() {
                        fed.map_err(|_| UpstreamError::TooLarge { limit })?;
                    }
                    *events = found.into_iter();
                }
                Some(Err(_)) | None => return Err(UpstreamError::Closed { sent: Sent::Maybe }),
            }
        }
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
