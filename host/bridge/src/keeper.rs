//! The shared process: started with the bridge, greeted, started again when it ends.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use bytes::Bytes;
use portcullis_child::Backoff;
use portcullis_model::Fault;
use portcullis_protocol::{Era, Message, splice};
use tokio::sync::watch;

use crate::{
    counters::Counters,
    handshake::{self, Greeting},
    link::{Link, Owner, declined},
    log::OUTSIDE,
    options::Options,
    pipes, refuse,
    session::rank,
    sessions::Sessions,
};

/// A start that has to wait no longer than this is waited for; a longer wait is told.
const SHORT_WAIT: Duration = Duration::from_secs(1);
/// How shells say that a program can't be run.
const CANNOT_RUN: &str = "it ended with status 126";

/// Keeps the shared process.
pub(crate) struct Keeper {
    options: Arc<Options>,
    counters: Arc<Counters>,
    sessions: Arc<Sessions>,
    state: watch::Sender<State>,
}

/// A process that answers.
pub(crate) struct Up {
    pub(crate) link: Arc<Link>,
    pub(crate) greeting: Greeting,
}

#[derive(Clone)]
enum State {
    Starting,
    Up(Arc<Up>),
    Down {
        why: Arc<str>,
        until: Instant,
    },
    /// It will not be started again.
    Over(Arc<str>),
}

impl Keeper {
    pub(crate) fn new(options: Arc<Options>, counters: Arc<Counters>, sessions: Arc<Sessions>) -> Arc<Self> {
        Arc::new(Self { options, counters, sessions, state: watch::Sender::new(State::Starting) })
    }

    /// Whether the process answers now.
    pub(crate) fn is_up(&self) -> bool {
        matches!(&*self.state.borrow(), State::Up(up) if up.link.is_open())
    }

    /// The process, waited for while it starts.
    ///
    /// # Errors
    /// Where it does not come up in time, or is not to be started for a while.
    pub(crate) async fn up(&self) -> Result<Arc<Up>, Fault> {
        let mut states = self.state.subscribe();
        let found = async {
            loop {
                let state = states.borrow_and_update().clone();
                match state {
                    State::Up(up) if up.link.is_open() => return Ok(up),
                    State::Over(why) => return Err(refuse::unreachable(&why, None)),
                    State::Down { why, until } => {
                        let wait = until.saturating_duration_since(Instant::now());
                        if wait > SHORT_WAIT {
                            return Err(refuse::unreachable(&why, Some(wait)));
                        }
                    }
                    State::Up(_) | State::Starting => {}
                }
                // The sender lives as long as `self`.
                let _ = states.changed().await;
            }
        };
        match tokio::time::timeout(self.options.start_timeout, found).await {
            Ok(found) => found,
            Err(_) => Err(refuse::unreachable("it is still starting", Some(SHORT_WAIT))),
        }
    }

    /// Waits until nothing will start it again, and says why.
    pub(crate) async fn over(&self) -> Arc<str> {
        let mut states = self.state.subscribe();
        match states.wait_for(|s| matches!(s, State::Over(_))).await.as_deref() {
            Ok(State::Over(why)) => why.clone(),
            _ => "".into(),
        }
    }

    /// Keeps it running until `stop` is raised.
    pub(crate) async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut backoff = Backoff::default();
        let mut answered = false;
        while !*stop.borrow() {
            self.state.send_replace(State::Starting);
            let begun = Instant::now();
            let why = tokio::select! {
                ended = self.live(&mut answered) => ended,
                _ = stop.wait_for(|s| *s) => break,
            };
            if !answered && why == CANNOT_RUN {
                self.state.send_replace(State::Over("its program can't be run".into()));
                return;
            }
            if !answered && self.options.fail_fast {
                self.state.send_replace(State::Over(why.into()));
                return;
            }
            let now = Instant::now();
            backoff.ended(begun, now);
            let wait = backoff.wait(now);
            tracing::warn!(
                why,
                wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                "the shared process is started again"
            );
            self.state.send_replace(State::Down { why: why.into(), until: now + wait });
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = stop.wait_for(|s| *s) => break,
            }
        }
        let last = self.state.send_replace(State::Over("the bridge is ending".into()));
        if let State::Up(up) = last {
            up.link.close();
        }
    }

    /// One life of the process; how it ended.
    async fn live(self: &Arc<Self>, answered: &mut bool) -> String {
        let owner: Weak<dyn Owner> = Arc::<Self>::downgrade(self);
        let link = match pipes::start(&self.options, "shared", owner, &self.counters) {
            Ok(link) => Ends(link),
            Err(error) => return format!("it can't be started: {error}"),
        };
        let greeted = tokio::time::timeout(self.options.start_timeout, handshake::shake(&link.0)).await;
        let failed = match greeted {
            Ok(Ok(greeting)) => {
                *answered = true;
                tracing::info!(era = greeting.era.as_str(), "the server answers");
                if greeting.era == Era::Legacy {
                    self.restore(&link.0);
                }
                self.state.send_replace(State::Up(Arc::new(Up { link: link.0.clone(), greeting })));
                link.0.closing().await;
                None
            }
            Ok(Err(why)) => Some(why),
            Err(_) => Some("it did not answer in time".to_owned()),
        };
        link.0.close();
        let mut ended = link.0.ended.subscribe();
        // The supervisor needs its grace and then kills, so this ends.
        let how = ended.wait_for(Option::is_some).await.ok().and_then(|how| how.clone()).unwrap_or_default();
        match failed {
            // How it ended by itself says more than what its pipes said.
            Some(why) if how == "it ended with status 0" || how.contains("signal 15") => why,
            _ => how,
        }
    }

    /// Tells a new process what sessions had asked of the one before.
    fn restore(&self, link: &Arc<Link>) {
        for uri in self.sessions.uris() {
            aside(link, "resources/subscribe", format!(r#"{{"uri":{}}}"#, splice::quote(&uri)));
        }
        if let Some(level) = self.sessions.level() {
            aside(link, "logging/setLevel", format!(r#"{{"level":"{level}"}}"#));
        }
    }
}

/// Ends a process even where whoever greets it is dropped.
struct Ends(Arc<Link>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Sends a request of the bridge's own whose answer says nothing to anybody.
pub(crate) fn aside(link: &Arc<Link>, method: &'static str, params: String) {
    let link = link.clone();
    tokio::spawn(async move {
        let Ok(mut call) = link.own(method, &params).await else { return };
        // Where it stays silent, it is cancelled.
        let _ = tokio::time::timeout(Duration::from_secs(30), call.answered()).await;
    });
}

impl Owner for Keeper {
    fn asked(&self, link: &Link, request: &Message<'_>) {
        match &*self.state.borrow() {
            // In the stateless era it may not ask, and no answer may be written either.
            State::Up(up) if up.greeting.era == Era::Modern => self.counters.unplaced.inc(),
            _ => link.tell(declined(request)),
        }
    }

    fn told(&self, link: &Link, notification: &Message<'_>) {
        let body = || Bytes::copy_from_slice(notification.source.as_bytes());
        match notification.method() {
            "notifications/tools/list_changed"
            | "notifications/prompts/list_changed"
            | "notifications/resources/list_changed" => {
                self.sessions.shared().iter().for_each(|s| s.push(OUTSIDE, body()));
            }
            "notifications/resources/updated" => {
                let Some(uri) = notification.params.as_ref().and_then(|p| p.uri.as_ref()) else { return };
                let wants = |s: &&Arc<crate::session::Session>| s.wishes().uris.contains(uri.as_ref());
                self.sessions.shared().iter().filter(wants).for_each(|s| s.push(OUTSIDE, body()));
            }
            "notifications/message" => {
                let params = notification.params.as_ref().map_or("{}", |p| p.piece.raw);
                let level = rank_of(params);
                let wants = |who: &crate::link::Who| who.level.is_some_and(|least| level >= least);
                if !link.hand_to_only(notification.source.as_bytes(), wants) {
                    self.counters.unplaced.inc();
                }
            }
            _ => self.counters.unplaced.inc(),
        }
    }
}

/// The rank of the level that parameters name; the lowest where they name none.
pub(crate) fn rank_of(params: &str) -> u8 {
    #[derive(serde::Deserialize)]
    struct Level<'a> {
        #[serde(borrow)]
        level: std::borrow::Cow<'a, str>,
    }
    serde_json::from_str::<Level<'_>>(params).ok().and_then(|l| rank(&l.level)).unwrap_or(0)
}
