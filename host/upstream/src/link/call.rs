//! A call in flight on a link.

use std::{sync::Arc, time::Instant};

use tokio::sync::{mpsc, oneshot};

use crate::{
    error::{Sent, UpstreamError},
    link::Link,
    message::{Message, cancelled},
};

/// For whom a request is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// For a caller.
    Caller {
        /// Whether it wants progress.
        progress: bool,
        /// Whether it asked for log messages.
        logs: bool,
    },
    /// For ourselves: the handshake, a subscription to a resource.
    Own,
    /// For ourselves, and its answer is the end of something that lasts.
    Subscription,
}

impl Kind {
    /// Whether anything before the answer may be for it.
    pub(crate) fn hears(self, conversing: bool) -> bool {
        match self {
            Self::Caller { progress, logs } => progress || logs || conversing,
            Self::Own => false,
            Self::Subscription => true,
        }
    }

    pub(crate) fn is_callers(self) -> bool {
        matches!(self, Self::Caller { .. })
    }

    pub(crate) fn logs(self) -> bool {
        matches!(self, Self::Caller { logs: true, .. })
    }
}

/// A call in flight on a link. Dropping it before the answer cancels it.
pub(crate) struct Call {
    link: Arc<Link>,
    id: u64,
    answered: oneshot::Receiver<Result<Message, UpstreamError>>,
    before: Option<mpsc::Receiver<Message>>,
    deadline: Instant,
    sent: bool,
    done: bool,
}

impl Call {
    pub(crate) fn new(
        link: Arc<Link>,
        id: u64,
        answered: oneshot::Receiver<Result<Message, UpstreamError>>,
        before: Option<mpsc::Receiver<Message>>,
        deadline: Instant,
    ) -> Self {
        Self { link, id, answered, before, deadline, sent: false, done: false }
    }

    /// The server may have it from here on.
    pub(crate) fn sent(&mut self) {
        self.sent = true;
    }

    /// The next message: what comes before the answer, then the answer.
    pub(crate) async fn next(&mut self) -> Result<Message, UpstreamError> {
        let closed = UpstreamError::Closed { sent: Sent::Maybe };
        let next = async {
            if let Some(before) = &mut self.before {
                tokio::select! {
                    biased;
                    Some(message) = before.recv() => return (false, Ok(message)),
                    answer = &mut self.answered => return (true, answer.unwrap_or(Err(closed))),
                }
            }
            (true, (&mut self.answered).await.unwrap_or(Err(closed)))
        };
        let (last, message) = match tokio::time::timeout_at(self.deadline.into(), next).await {
            Ok(next) => next,
            Err(_) => (false, Err(UpstreamError::Timeout { sent: Sent::Maybe })),
        };
        self.done |= last;
        message
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
}

impl Drop for Call {
    fn drop(&mut self) {
        let waited = self.link.forget(self.id);
        if waited && self.sent && !self.done {
            self.link.write_aside(cancelled(self.id));
        }
    }
}
