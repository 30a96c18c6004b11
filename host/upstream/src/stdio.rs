//! Standard input and output: one child for many callers, their ids kept apart.
//!
//! A [`StdioPeer`] has at most one [`child::Child`] at a time, started when a call needs it, in a task of its own so that
//! an impatient caller doesn't keep a slow package runner from ever coming up.

mod child;
mod handshake;
mod lines;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use portcullis_model::spec::Traffic;
use portcullis_protocol::Version;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};

use crate::{
    error::{Sent, UpstreamError},
    facts::ServerFacts,
    launch::{LaunchError, LaunchSpec, Launcher},
    listen::Change,
    message::{Held, Incoming, Message, MessageStream, Source},
    outgoing::{NO_CAPABILITIES, Outgoing},
    server::{InFlight, Server},
    target::TargetKey,
};
pub(crate) use child::Call;
use child::Child;

/// How many calls may wait for a place, for each place.
const QUEUE_FACTOR: u32 = 16;

/// One process under one account.
pub(crate) struct StdioPeer {
    key: TargetKey,
    spec: Arc<LaunchSpec>,
    traffic: Arc<Traffic>,
    server: Arc<Server>,
    launcher: Arc<dyn Launcher>,
    changes: broadcast::Sender<Change>,
    child: ArcSwapOption<Child>,
    /// Held while a child is started; the outcome of the last start, so that those who waited for it share it.
    starting: tokio::sync::Mutex<Option<UpstreamError>>,
    /// How many starts have ended.
    starts: AtomicU64,
    places: Arc<Semaphore>,
    waiting: AtomicU32,
}

impl StdioPeer {
    pub(crate) fn new(
        key: TargetKey,
        spec: Arc<LaunchSpec>,
        traffic: Arc<Traffic>,
        server: Arc<Server>,
        launcher: Arc<dyn Launcher>,
        changes: broadcast::Sender<Change>,
    ) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(spec.process.max_in_flight.max(1) as usize));
        Arc::new(Self {
            key,
            spec,
            traffic,
            server,
            launcher,
            changes,
            child: ArcSwapOption::empty(),
            starting: tokio::sync::Mutex::new(None),
            starts: AtomicU64::new(0),
            places,
            waiting: AtomicU32::new(0),
        })
    }

    pub(crate) fn start_timeout(&self) -> Duration {
        self.spec.process.start_timeout.get()
    }

    /// See [`crate::Peer::connect`].
    pub(crate) async fn connect(self: &Arc<Self>, deadline: Instant) -> Result<Arc<ServerFacts>, UpstreamError> {
        let child = self.child(deadline).await?;
        Ok(child.facts().unwrap_or_else(|| Arc::new(ServerFacts::unknown(child.version()))))
    }

    /// What the child that runs said of itself.
    pub(crate) fn facts(&self) -> Option<Arc<ServerFacts>> {
        self.child.load().as_ref().and_then(|c| c.facts())
    }

    /// Hands the child an answer or a notification of the client. None is started for it.
    pub(crate) async fn reply(&self, body: Bytes, deadline: Instant) -> Result<(), UpstreamError> {
        match self.child.load_full().filter(|c| c.is_open()) {
            Some(child) => child.write(body, deadline).await,
            None => Err(UpstreamError::Closed { sent: Sent::No }),
        }
    }

    /// See [`crate::Peer::send`].
    pub(crate) async fn send(
        self: &Arc<Self>,
        outgoing: Outgoing<'_>,
        mut in_flight: InFlight,
    ) -> Result<Incoming, UpstreamError> {
        match self.exchange(&outgoing).await {
            Ok((message, _, _, version)) if message.is_answer() => {
                in_flight.ended(None);
                Ok(Incoming::Json { message, version })
            }
            Ok((first, call, place, version)) => {
                let held = Held { server: Some(in_flight), child: Some(place) };
                let source = Source::Stdio(Box::new(call));
                Ok(Incoming::Stream {
                    stream: MessageStream { first: Some(first), source, done: false, held },
                    version,
                })
            }
            Err(error) => {
                in_flight.ended(Some(&error));
                Err(error)
            }
        }
    }

    /// Sends the call, to the next child where one ended before the call reached it, and waits for the first message.
    async fn exchange(
        self: &Arc<Self>,
        outgoing: &Outgoing<'_>,
    ) -> Result<(Message, Call, OwnedSemaphorePermit, Version), UpstreamError> {
        let place = self.place(outgoing.deadline.min(Instant::now() + self.traffic.timeout.get())).await?;
        for attempt in 0.. {
            let child = self.child(outgoing.deadline).await?;
            // Time runs for the call itself from here on: a start that took long is not the call's fault.
            let deadline = outgoing.deadline.min(Instant::now() + self.traffic.timeout.get());
            let (id, version) = (child.next_id(), child.version());
            let body = outgoing.body.build(&outgoing.wire(id, version));
            let mut call = match child.call(id, body, outgoing.progress, deadline).await {
                // The child ended between two calls, and this one never reached it.
                Err(UpstreamError::Closed { sent: Sent::No }) if attempt == 0 => continue,
                other => other?,
            };
            let first = call.next().await?;
            return Ok((first, call, place, version));
        }
        Err(UpstreamError::Closed { sent: Sent::No })
    }

    /// Waits in line for a place among the calls in flight on the child: first come, first served.
    async fn place(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, UpstreamError> {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return Ok(place);
        }
        let _waiting = Waiting::new(&self.waiting);
        if self.waiting.load(Ordering::Relaxed) > self.spec.process.max_in_flight.saturating_mul(QUEUE_FACTOR) {
            return Err(UpstreamError::Busy { retry_after: Duration::from_secs(1) });
        }
        match tokio::time::timeout_at(deadline.into(), self.places.clone().acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) => Err(UpstreamError::ShuttingDown),
            Err(_) => Err(UpstreamError::Busy { retry_after: Duration::from_secs(1) }),
        }
    }

    /// The child, started if there is none.
    async fn child(self: &Arc<Self>, deadline: Instant) -> Result<Arc<Child>, UpstreamError> {
        if let Some(child) = self.child.load_full().filter(|c| c.is_open()) {
            return Ok(child);
        }
        let seen = self.starts.load(Ordering::Acquire);
        let peer = self.clone();
        let start = tokio::spawn(async move { peer.start(seen).await });
        match tokio::time::timeout_at(deadline.into(), start).await {
            Ok(Ok(child)) => child,
            Ok(Err(_)) => Err(UpstreamError::ShuttingDown),
            Err(_) => Err(LaunchError::Starting.into()),
        }
    }

    async fn start(self: Arc<Self>, seen: u64) -> Result<Arc<Child>, UpstreamError> {
        let mut last = self.starting.lock().await;
        if let Some(child) = self.child.load_full().filter(|c| c.is_open()) {
            return Ok(child);
        }
        if self.starts.load(Ordering::Acquire) != seen
            && let Some(error) = &*last
        {
            return Err(error.clone());
        }
        self.child.store(None);
        let result = self.launch().await;
        match &result {
            Ok(child) => {
                self.child.store(Some(child.clone()));
                *last = None;
            }
            Err(error) => {
                tracing::warn!(target = %self.key, %error, "the server's process did not come up");
                *last = Some(error.clone());
            }
        }
        self.starts.fetch_add(1, Ordering::Release);
        result
    }

    async fn launch(&self) -> Result<Arc<Child>, UpstreamError> {
        let pipes = self.launcher.launch(&self.key, &self.spec).await?;
        let child = Child::run(self.key.clone(), pipes, self.traffic.max_response.as_usize(), self.changes.clone());
        let capabilities = self.key.conversation.as_ref().map_or(NO_CAPABILITIES, |c| &c.capabilities);
        match handshake::shake(&child, self.server.era(), capabilities, self.start_timeout()).await {
            Ok(era) => {
                self.server.learn(era);
                child.ready();
                Ok(child)
            }
            Err(error) => {
                // Perhaps the program was exchanged for one of another era.
                self.server.forget_era();
                child.degraded(&error.to_string());
                child.close();
                Err(error)
            }
        }
    }
}

/// Dropping the peer ends its child, even while tasks still hold on to it.
impl Drop for StdioPeer {
    fn drop(&mut self) {
        if let Some(child) = self.child.swap(None) {
            child.close_when_idle();
        }
    }
}

/// Counts a caller in the queue.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
