//! Phase 9, the way back: a server's bytes become the client's, with the id put back and nothing else touched.

use std::{borrow::Cow, convert::Infallible, time::Instant};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use portcullis_protocol::{
    Era, ParseLimits, parse, rpc,
    splice::{self, ResponseEdit},
};
use portcullis_upstream::{Message, MessageKind, MessageStream, UpstreamError};
use tokio::sync::mpsc;

use crate::{in_flight::Underway, reads::Keep, record::Record, relayed::What, session::level::Logs, tasks::TaskIds};

mod links;

pub use links::Links;

/// Events that wait for a slow client.
const BUFFERED: usize = 16;

/// How answers of one call are rewritten.
#[derive(Clone, Debug)]
pub struct Rewrite {
    /// The client's id, as JSON text.
    pub id: Box<str>,
    /// The client's progress token, as JSON text.
    pub progress: Option<Box<str>>,
    /// The client's era.
    pub client: Era,
    /// The server's era.
    pub server: Era,
    /// The most bytes of one message.
    pub max_bytes: usize,
    /// What was asked for: it decides how a refusal looks, and what a result has to say in the client's era.
    pub what: What,
    /// Which log messages the client gets.
    pub logs: Logs,
    /// Whether somebody else may be refused what this caller may have, so that nobody may keep an answer for others.
    pub private: bool,
    /// Resource links that may have to be rewritten.
    pub links: Option<Links>,
    /// Where the answer is kept, if it may be.
    pub keep: Option<Keep>,
    /// How ids of tasks are written, where the answer may have any.
    pub tasks: Option<TaskIds>,
}

impl Rewrite {
    /// The answer as the client gets it.
    ///
    /// # Errors
    /// When the server's answer is no valid message for a client of the other era.
    pub fn answer(&self, message: &Message) -> Result<Bytes, UpstreamError> {
        if let Some(keep) = &self.keep {
            keep.note(message);
        }
        let rewritten = self.links.as_ref().and_then(|links| links.rewritten(message));
        let message = rewritten.map_or(Cow::Borrowed(message), Cow::Owned);
        let with_tasks = self.tasks.as_ref().and_then(|tasks| tasks.rewritten(&message));
        let message = with_tasks.map_or(message, Cow::Owned);
        let message = self.what.adapted(message, (self.client, self.server), self.private);
        let adds_type = self.client == Era::Modern && self.server == Era::Legacy && message.kind == MessageKind::Result;
        if !adds_type {
            return Ok(Bytes::from(message.with_id(&self.id)));
        }
        let limits = ParseLimits { max_bytes: self.max_bytes, ..ParseLimits::default() };
        let parsed = parse(&message.body, &limits).map_err(|e| UpstreamError::Protocol(e.to_string()))?;
        Ok(splice::response(&parsed, &ResponseEdit { id: &self.id, defaults: self.what.modern_members() }))
    }

    /// Another message of the call as the client gets it; none where it is not for the client.
    pub fn other(&self, message: &Message) -> Option<Bytes> {
        match (message.kind, &self.progress) {
            (MessageKind::Progress, Some(token)) => Some(Bytes::from(message.with_token(token))),
            // A page that a person opened is done: 2026-07-28 has no such notification.
            (MessageKind::Notification, _)
                if self.client == Era::Modern
                    && message.method().as_deref() == Some("notifications/elicitation/complete") =>
            {
                None
            }
            (MessageKind::Notification, _) if self.logs.wants(message) => Some(message.body.clone()),
            _ => None,
        }
    }
}

/// One server-sent event with a message in it.
pub fn event(message: &[u8]) -> Bytes {
    portcullis_protocol::sse::encode_message(message)
}

/// A call whose server answers by a stream.
pub struct Relay {
    /// What the server sends.
    pub stream: MessageStream,
    /// How it becomes the client's.
    pub rewrite: Rewrite,
    /// Written when the answer came; when this is dropped before, the call was cancelled.
    pub record: Option<Record>,
    /// Whether the client can be asked anything.
    pub asked: bool,
}

impl Relay {
    /// The next event for the client; none after the answer.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let answered = match self.stream.next().await? {
                Ok(message) if !message.is_answer() => match self.rewrite.other(&message) {
                    Some(bytes) => return Some(event(&bytes)),
                    None => continue,
                },
                // A modern client knows no such error, and this one can't be asked to open a page.
                Ok(message)
                    if message.code == Some(rpc::URL_ELICITATION_REQUIRED) && self.rewrite.client == Era::Modern =>
                {
                    Err(UpstreamError::Refused { code: rpc::URL_ELICITATION_REQUIRED })
                }
                Ok(message) if message.input_required && !self.asked => {
                    Err(UpstreamError::Protocol("it asks a client that can't be asked".to_owned()))
                }
                Ok(message) => self.rewrite.answer(&message).map(|bytes| (message, bytes)),
                Err(error) => Err(error),
            };
            let record = self.record.take()?;
            return Some(event(&match answered {
                Ok((message, bytes)) => {
                    record.answered(&message);
                    bytes
                }
                Err(error) => {
                    let (fault, request_id) = record.failed(&error);
                    match self.rewrite.what {
                        What::Tool => rpc::tool_refusal(&self.rewrite.id, &fault, &request_id, self.rewrite.client),
                        _ => rpc::fault(Some(&self.rewrite.id), &fault, &request_id),
                    }
                }
            }));
        }
    }

    /// A body that carries the rest of the stream. When the client drops it, the call of a modern client is cancelled and
    /// that of a legacy client goes on (security decision 17). A client that reads too slowly loses its stream when the
    /// call's time is over, so that nobody holds a server's place for longer.
    pub fn body(mut self, deadline: Instant, underway: Option<Underway>) -> Body {
        let (sender, mut receiver) = mpsc::channel::<Bytes>(BUFFERED);
        let era = self.rewrite.client;
        tokio::spawn(async move {
            let cancelled = underway.as_ref().map(|u| u.cancelled.clone()).unwrap_or_default();
            let gone = sender.clone();
            let gone = async {
                match era {
                    Era::Modern => gone.closed().await,
                    Era::Legacy => cancelled.cancelled().await,
                }
            };
            let pump = async {
                while let Some(bytes) = self.next().await {
                    let sent = tokio::time::timeout_at(deadline.into(), sender.send(bytes)).await;
                    if sent.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = pump => {}
                () = gone => {}
            }
        });
        Body::from_stream(stream::poll_fn(move |cx| receiver.poll_recv(cx).map(|b| b.map(Ok::<_, Infallible>))))
    }
}
