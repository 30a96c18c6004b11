//! The events of a response, bounded in size.

use std::{sync::Arc, vec};

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use hyper::body::Incoming as HyperBody;
use portcullis_protocol::sse::{Decoder, Event};

use crate::{
    error::{Sent, UpstreamError},
    outgoing::LetGo,
};

/// Reads events. Dropping a future of [`Events::next`] loses nothing.
pub(crate) struct Events {
    response: Response<HyperBody>,
    decoder: Decoder,
    /// Read, but not handed on.
    ready: vec::IntoIter<Event>,
    /// The most bytes of one event.
    limit: u64,
    /// How many bytes may still come; `None` for a stream that lasts.
    budget: Option<u64>,
    /// Told when the server ends the stream before its answer, to be asked again.
    pub(crate) watcher: Option<Arc<dyn LetGo>>,
}

impl Events {
    /// A stream from its start. One event may have `limit` bytes, and all of them `budget`.
    pub(crate) fn new(response: Response<HyperBody>, limit: u64, budget: Option<u64>) -> Self {
        let decoder = Decoder::new(usize::try_from(limit).unwrap_or(usize::MAX));
        Self { response, decoder, ready: Vec::new().into_iter(), limit, budget, watcher: None }
    }

    /// Goes on with another response, after the last event that was finished.
    pub(crate) fn resume(&mut self, response: Response<HyperBody>) {
        self.response = response;
        self.decoder = self.decoder.resumed();
    }

    /// The stream may last, and say as much as it likes in all.
    pub(crate) fn last(&mut self) {
        self.budget = None;
    }

    /// What to resume from.
    pub(crate) fn last_id(&self) -> Option<&str> {
        self.decoder.last_event_id()
    }

    /// How long the server wants to be left alone before the stream is resumed, in milliseconds.
    pub(crate) fn retry_ms(&self) -> Option<u64> {
        self.decoder.retry_ms()
    }

    /// The data of the next message; `None` when the response ended.
    pub(crate) async fn next_message(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        loop {
            match self.next().await? {
                // Other types are none of MCP's, and an event without data only carries an id to resume from.
                Some(event) if !event.is_message() || event.data.is_empty() => {}
                next => return Ok(next.map(|event| event.data)),
            }
        }
    }

    /// The next event; `None` when the response ended.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, UpstreamError> {
        loop {
            if let Some(event) = self.ready.next() {
                return Ok(Some(event));
            }
            let data = match self.response.body_mut().frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => data,
                    Err(_) => continue,
                },
                Some(Err(_)) => return Err(UpstreamError::Closed { sent: Sent::Maybe }),
                None => return Ok(None),
            };
            let too_large = UpstreamError::TooLarge { limit: self.limit };
            if let Some(budget) = &mut self.budget {
                *budget = budget.checked_sub(data.len() as u64).ok_or_else(|| too_large.clone())?;
            }
            let mut found = Vec::new();
            let fed = self.decoder.feed(&data, &mut found);
            if found.is_empty() {
                fed.map_err(|_| too_large)?;
            }
            self.ready = found.into_iter();
        }
    }
}
