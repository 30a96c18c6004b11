//! Keeps the listeners of a peer over HTTP served: by GET and subscriptions to resources in the legacy era, by one
//! `subscriptions/listen` in the modern one. A stream that ends is opened again, one that floods is cut.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use http::StatusCode;
use portcullis_protocol::{Version, splice};

use crate::{
    asking::{OUTSIDE, Verdict},
    error::{Sent, UpstreamError},
    facts::Announces,
    http::{
        HttpPeer, Refusal, Way,
        answer::{HttpAnswer, is_events},
        events::Events,
        session::Session,
        wire::status_error,
    },
    link::{feed::Filter, raised},
    listen::hub::{Headers, Hub},
    message::{Message, MessageKind, refuse},
    meter::Opened,
    outgoing::{Outgoing, Params},
    pause::Pause,
};

/// How long opening a stream or a subscription may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// What lasts for as long as somebody listens.
const LASTING: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// How long a stream that ended is left alone where the server does not say.
const RETRY: Duration = Duration::from_secs(1);
/// The least that it is left alone, whatever the server says.
const LEAST_RETRY: Duration = Duration::from_millis(50);
/// How many attempts in a row to listen again may fail.
const MAX_FAILURES: u32 = 8;
/// The most messages within a second that are no flood.
const MAX_RATE: u32 = 2_000;
/// Wishes that come within this time are one.
const GATHER: Duration = Duration::from_millis(2);

impl HttpPeer {
    /// Serves the hub's listeners for as long as there are any.
    pub(crate) async fn attend(peer: Weak<Self>, hub: Arc<Hub>) {
        let mut pause = Pause::default();
        // Attempts in a row that failed since anybody heard anything; `None` before that.
        let mut failures = None;
        while !hub.retire() {
            let Some(peer) = peer.upgrade() else { return };
            let began = Instant::now();
            let mut served = false;
            let outcome = tokio::select! {
                outcome = peer.hear(&hub, &mut served) => outcome,
                () = hub.emptied() => {
                    hub.unserve();
                    continue;
                }
            };
            hub.unserve();
            if served {
                failures = Some(0);
            }
            if let Err(error) = outcome {
                failures = failures.map(|n| n + 1);
                tracing::debug!(server = peer.name, %error, failures, "lost a stream");
                peer.server.meter.opened(Opened::StreamFailed);
                // What was heard before and is gone for a while is for us to mend; anything else is for the listeners.
                if failures.is_none_or(|n| n > MAX_FAILURES) || !passes(&error) {
                    failures = None;
                    hub.end_all(&error);
                    continue;
                }
            }
            drop(peer);
            pause.after(began.elapsed()).await;
        }
    }

    /// Serves the listeners until the stream ends.
    async fn hear(self: &Arc<Self>, hub: &Arc<Hub>, served: &mut bool) -> Result<(), UpstreamError> {
        let headers = hub.headers();
        self.server.check()?;
        match self.open(self.server.era(), &headers, Instant::now() + PATIENCE).await? {
            None => self.hear_modern(hub, &headers, served).await,
            Some(session) => match &session.link {
                Some(link) => {
                    // The link's own feed serves.
                    *served = true;
                    raised(&mut link.closing()).await;
                    Ok(())
                }
                None => self.hear_legacy(hub, &session, &headers, served).await,
            },
        }
    }

    async fn hear_legacy(
        self: &Arc<Self>,
        hub: &Arc<Hub>,
        session: &Arc<Session>,
        headers: &Headers,
        served: &mut bool,
    ) -> Result<(), UpstreamError> {
        let mut gone = session.gone.subscribe();
        let mut changed = hub.watch();
        let mut rate = Rate::new();
        let mut subscribed = BTreeSet::new();
        let mut events = self.stream(session, headers, None).await?;
        self.server.meter.opened(Opened::Stream);
        loop {
            changed.mark_unchanged();
            let wanted = hub.wanted();
            self.subscribe(hub, &wanted.uris, &mut subscribed, headers).await?;
            if *gone.borrow() {
                return Ok(());
            }
            hub.serve(wanted.generation);
            *served = true;
            loop {
                let message = tokio::select! {
                    biased;
                    () = raised(&mut gone) => return Ok(()),
                    _ = changed.changed() => break,
                    message = events.next_message() => message,
                };
                match message {
                    Ok(Some(data)) => {
                        rate.count()?;
                        let message = Message::parse(data).map_err(UpstreamError::Protocol)?;
                        self.told(session, headers, &message);
                    }
                    // Broken or closed for a while: go on from where it was, as far as the server can.
                    Ok(None) | Err(UpstreamError::Closed { .. }) => {
                        rate.count()?;
                        let pause = events.retry_ms().map_or(RETRY, Duration::from_millis).max(LEAST_RETRY);
                        tokio::time::sleep(pause.min(PATIENCE)).await;
                        let last = events.last_id().map(str::to_owned);
                        match last {
                            Some(last) => {
                                let response = self.open_stream(session, headers, Some(&last)).await?;
                                events.resume(response);
                            }
                            None => events = self.stream(session, headers, None).await?,
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
            tokio::time::sleep(GATHER).await;
        }
    }

    /// A message outside any call.
    fn told(self: &Arc<Self>, session: &Arc<Session>, headers: &Headers, message: &Message) {
        match message.kind {
            MessageKind::Notification => drop(self.hub.dispatch(message)),
            MessageKind::Request => {
                let verdict = match &self.asking {
                    Some(asking) => asking.judge(message, OUTSIDE),
                    None => Verdict::Answer(refuse(message)),
                };
                match verdict {
                    Verdict::Drop => {}
                    Verdict::Answer(answer) => self.refuse(session, headers, answer),
                    Verdict::Pass => {
                        if !self.hub.dispatch(message) {
                            if let Some(asking) = &self.asking {
                                asking.forget(message.id_text());
                            }
                            self.refuse(session, headers, refuse(message));
                        }
                    }
                }
            }
            // Belongs to a call, which is heard on its own stream.
            MessageKind::Progress | MessageKind::Result | MessageKind::Error => {}
        }
    }

    async fn stream(
        &self,
        session: &Arc<Session>,
        headers: &Headers,
        last: Option<&str>,
    ) -> Result<Events, UpstreamError> {
        Ok(Events::new(self.open_stream(session, headers, last).await?, self.limit, None))
    }

    async fn open_stream(
        &self,
        session: &Arc<Session>,
        headers: &Headers,
        last: Option<&str>,
    ) -> Result<http::Response<hyper::body::Incoming>, UpstreamError> {
        let response = self.get(Some(session), headers, last, Instant::now() + PATIENCE).await?;
        match response.status() {
            status if status.is_success() && is_events(&response) => Ok(response),
            status if status.is_success() => {
                Err(UpstreamError::Protocol("a stream was asked for and something else came".to_owned()))
            }
            StatusCode::NOT_FOUND if session.id.is_some() => {
                self.forget(session);
                Err(UpstreamError::Closed { sent: Sent::No })
            }
            // Only one stream may be open in a session with some servers, and the old one is not gone yet.
            StatusCode::CONFLICT => Err(UpstreamError::Closed { sent: Sent::No }),
            _ => Err(status_error(&response)),
        }
    }

    /// Subscribes to what is wanted and not yet subscribed to, and ends what is no longer wanted.
    async fn subscribe(
        self: &Arc<Self>,
        hub: &Hub,
        wanted: &BTreeSet<Arc<str>>,
        subscribed: &mut BTreeSet<Arc<str>>,
        headers: &Headers,
    ) -> Result<(), UpstreamError> {
        for uri in &*subscribed - wanted {
            let _ = self.ask("resources/unsubscribe", &uri, headers).await;
            subscribed.remove(&uri);
        }
        for uri in wanted - &*subscribed {
            match self.ask("resources/subscribe", &uri, headers).await {
                Ok(()) => drop(subscribed.insert(uri)),
                Err(error @ UpstreamError::Refused { .. }) => hub.end_uri(&uri, &error),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn ask(self: &Arc<Self>, method: &str, uri: &str, headers: &Headers) -> Result<(), UpstreamError> {
        let members = format!(r#""uri":{}"#, splice::quote(uri));
        let body = Params { method, members: &members };
        let outgoing = Outgoing { headers, ..Outgoing::new(method, &body, Instant::now() + PATIENCE) };
        let (first, way, _) = self.exchange(&outgoing).await?;
        let answer = match way {
            _ if first.is_answer() => first,
            Way::Http(mut answer) => answer.answer().await?,
            Way::Link(mut call) => call.answer().await?,
        };
        match answer.kind {
            MessageKind::Error => Err(UpstreamError::Refused { code: answer.code.unwrap_or(0) }),
            _ => Ok(()),
        }
    }

    async fn hear_modern(
        self: &Arc<Self>,
        hub: &Arc<Hub>,
        headers: &Headers,
        served: &mut bool,
    ) -> Result<(), UpstreamError> {
        let mut changed = hub.watch();
        let mut rate = Rate::new();
        let mut current: Option<(Filter, HttpAnswer)> = None;
        loop {
            changed.mark_unchanged();
            let wanted = hub.wanted();
            let filter = Filter::of(&wanted, Announces::default());
            if filter.is_empty() {
                current = None;
            } else if !current.as_ref().is_some_and(|(had, _)| had.does_for(&filter)) {
                // The one before goes only now: nothing is missed in between.
                current = Some((filter.clone(), self.subscription(&filter, headers).await?));
                self.server.meter.opened(Opened::Stream);
            }
            hub.serve(wanted.generation);
            *served = true;
            loop {
                let message = tokio::select! {
                    biased;
                    _ = changed.changed() => break,
                    message = next(&mut current) => message?,
                };
                rate.count()?;
                match message.kind {
                    MessageKind::Notification => drop(hub.dispatch(&message)),
                    // The server ended it in good order.
                    MessageKind::Result => return Ok(()),
                    MessageKind::Error => return Err(UpstreamError::Refused { code: message.code.unwrap_or(0) }),
                    MessageKind::Progress | MessageKind::Request => {}
                }
            }
            tokio::time::sleep(GATHER).await;
        }
    }

    /// Opens a subscription and waits until the server says that it stands.
    async fn subscription(self: &Arc<Self>, filter: &Filter, headers: &Headers) -> Result<HttpAnswer, UpstreamError> {
        const METHOD: &str = "subscriptions/listen";
        let members = filter.members();
        let body = Params { method: METHOD, members: &members };
        let outgoing = Outgoing { headers, ..Outgoing::new(METHOD, &body, Instant::now() + LASTING) };
        let opened = self.call(&outgoing, Version::LATEST, None, outgoing.deadline);
        let late = |_| UpstreamError::Timeout { sent: Sent::No };
        match tokio::time::timeout(PATIENCE, opened).await.map_err(late)? {
            Ok((first, mut answer)) if first.kind == MessageKind::Notification => {
                answer.last();
                Ok(answer)
            }
            Ok((first, _)) => Err(UpstreamError::Refused { code: first.code.unwrap_or(0) }),
            Err(Refusal::Error(error)) => Err(error),
            Err(Refusal::SessionGone | Refusal::OtherEra(..)) => {
                self.server.forget_era();
                Err(UpstreamError::Closed { sent: Sent::No })
            }
        }
    }
}

/// The next message of the subscription; never, where there is none.
async fn next(current: &mut Option<(Filter, HttpAnswer)>) -> Result<Message, UpstreamError> {
    match current {
        Some((_, answer)) => answer.next().await,
        None => std::future::pending().await,
    }
}

/// Whether trying again may help.
fn passes(error: &UpstreamError) -> bool {
    matches!(
        error,
        UpstreamError::Connect(_)
            | UpstreamError::Open { .. }
            | UpstreamError::Timeout { .. }
            | UpstreamError::Closed { .. }
            | UpstreamError::Status { code: 408 | 425 | 429 | 500..=599, .. }
    )
}

/// How many messages come in a second.
struct Rate {
    since: Instant,
    count: u32,
}

impl Rate {
    fn new() -> Self {
        Self { since: Instant::now(), count: 0 }
    }

    fn count(&mut self) -> Result<(), UpstreamError> {
        if self.since.elapsed() > Duration::from_secs(1) {
            *self = Self::new();
        }
        self.count += 1;
        if self.count > MAX_RATE { Err(UpstreamError::Flooded) } else { Ok(()) }
    }
}
