//! Standard input and output: one child for many callers, their ids kept apart.
//!
//! A [`StdioPeer`] has at most one child at a time, behind a [`Link`], started when a call needs it, in a task of its own so that
//! an impatient caller doesn't keep a slow package runner from ever coming up.

mod idle;
mod pipes;

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use portcullis_model::spec::Traffic;
use portcullis_protocol::Version;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    asking::Asking,
    error::{Sent, UpstreamError},
    facts::ServerFacts,
    launch::{LaunchError, LaunchSpec, Launcher},
    link::{Call, Kind, Link, feed, handshake, raised},
    listen::hub::Hub,
    message::{Incoming, Message, Source},
    outgoing::{NO_CAPABILITIES, Outgoing},
    pause::Pause,
    server::{InFlight, Server},
    target::TargetKey,
};

/// How many calls may wait for a place, for each place.
const QUEUE_FACTOR: u32 = 16;

/// One process under one account.
pub(crate) struct StdioPeer {
    key: TargetKey,
    spec: Arc<LaunchSpec>,
    traffic: Arc<Traffic>,
    server: Arc<Server>,
    launcher: Arc<dyn Launcher>,
    hub: Arc<Hub>,
    asking: Option<Arc<Asking>>,
    child: ArcSwapOption<Link>,
    /// Held while a child is started; the outcome of the last start, so that those who waited for it share it.
    starting: tokio::sync::Mutex<Option<UpstreamError>>,
    /// How many starts have ended.
    starts: AtomicU64,
    places: Arc<Semaphore>,
    waiting: AtomicU32,
}

impl From<Call> for Source {
    fn from(call: Call) -> Self {
        Self::Link(Box::new(call))
    }
}

impl StdioPeer {
    pub(crate) fn new(
        key: TargetKey,
        spec: Arc<LaunchSpec>,
        traffic: Arc<Traffic>,
        server: Arc<Server>,
        launcher: Arc<dyn Launcher>,
        hub: Arc<Hub>,
    ) -> Arc<Self> {
        let asking = key.conversation.as_deref().map(|c| Arc::new(Asking::new(c)));
        let places = Arc::new(Semaphore::new(spec.process.max_in_flight.max(1) as usize));
        Arc::new(Self {
            key,
            spec,
            traffic,
            server,
            launcher,
            hub,
            asking,
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
            Some(child) => child.reply(body, deadline).await,
            None => Err(UpstreamError::Closed { sent: Sent::No }),
        }
    }

    /// See [`crate::Peer::send`].
    pub(crate) async fn send(
        self: &Arc<Self>,
        outgoing: Outgoing<'_>,
        in_flight: InFlight,
    ) -> Result<Incoming, UpstreamError> {
        let place = self.place(outgoing.deadline.min(Instant::now() + self.traffic.timeout.get())).await;
        let (exchanged, place) = match place {
            Ok(place) => (self.exchange(&outgoing).await, Some(place)),
            Err(error) => (Err(error), None),
        };
        Incoming::of(exchanged, in_flight, place)
    }

    /// Sends the call, to the next child where one ended before the call reached it, and waits for the first message.
    async fn exchange(self: &Arc<Self>, outgoing: &Outgoing<'_>) -> Result<(Message, Call, Version), UpstreamError> {
        for attempt in 0.. {
            let child = self.child(outgoing.deadline).await?;
            // Time runs for the call itself from here on: a start that took long is not the call's fault.
            // But for a conversation, which may wait for a person: only its caller can tell whose time it is.
            let deadline = match self.asking {
                Some(_) => outgoing.deadline,
                None => outgoing.deadline.min(Instant::now() + self.traffic.timeout.get()),
            };
            let (id, version) = (child.next_id(), child.version());
            let body = outgoing.body.build(&outgoing.wire(id, version));
            let kind = Kind::Caller { progress: outgoing.progress, logs: outgoing.log_level.is_some() };
            let mut call = match child.call(id, body, kind, deadline).await {
                // The child ended between two calls, and this one never reached it.
                Err(UpstreamError::Closed { sent: Sent::No }) if attempt == 0 => continue,
                other => other?,
            };
            let first = call.next().await?;
            return Ok((first, call, version));
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
    async fn child(self: &Arc<Self>, deadline: Instant) -> Result<Arc<Link>, UpstreamError> {
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

    async fn start(self: Arc<Self>, seen: u64) -> Result<Arc<Link>, UpstreamError> {
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

    /// Keeps a child running for as long as anybody listens. A conversation ends with its child: the next one would know
    /// nothing of it.
    pub(crate) async fn attend(peer: Weak<Self>, hub: Arc<Hub>) {
        let mut pause = Pause::default();
        while !hub.retire() {
            let Some(peer) = peer.upgrade() else { return };
            let child = match peer.child(Instant::now() + peer.start_timeout()).await {
                Ok(child) => child,
                Err(error) => {
                    hub.end_all(&error);
                    continue;
                }
            };
            let conversing = peer.key.conversation.is_some();
            drop(peer);
            let mut closing = child.closing();
            drop(child);
            let born = Instant::now();
            tokio::select! {
                () = raised(&mut closing) => {}
                () = hub.emptied() => continue,
            }
            if conversing {
                hub.end_all(&UpstreamError::Closed { sent: Sent::No });
                continue;
            }
            pause.after(born.elapsed()).await;
        }
    }

    async fn launch(&self) -> Result<Arc<Link>, UpstreamError> {
        let pipes = self.launcher.launch(&self.key, &self.spec).await?;
        let limit = self.traffic.max_response.as_usize();
        let child = pipes::run(self.key.clone(), self.hub.clone(), self.asking.clone(), pipes, limit);
        let capabilities = self.key.conversation.as_ref().map_or(NO_CAPABILITIES, |c| &c.capabilities);
        match handshake::shake(&child, self.server.era(), capabilities, self.start_timeout()).await {
            Ok(era) => {
                self.server.learn(era);
                child.ready();
                tokio::spawn(feed::feed(Arc::downgrade(&child), self.hub.clone()));
                // A conversation would end with its child, so it lasts as long as its client wants.
                let after = self.spec.process.idle_after.get();
                if self.key.conversation.is_none() && !after.is_zero() {
                    tokio::spawn(idle::watch(Arc::downgrade(&child), self.hub.clone(), after));
                }
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
