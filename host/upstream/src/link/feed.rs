//! Keeps what a link's server tells in step with what listeners want: subscriptions to resources in the legacy era, one
//! `subscriptions/listen` in the modern one. Changes of lists a legacy server tells by itself.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use portcullis_protocol::{Era, splice};
use tokio::sync::watch;

use crate::{
    error::UpstreamError,
    facts::Announces,
    link::{Call, Kind, Link, raised},
    listen::hub::{Hub, Wanted},
    message::MessageKind,
    outgoing::{Body, Params, Wire},
};

/// How long a server may take to answer a subscription.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one that ends its subscriptions is left alone.
const PAUSE: Duration = Duration::from_secs(5);
/// What lasts for as long as the link does.
const LASTING: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Wishes that come within this time are one.
const GATHER: Duration = Duration::from_millis(2);

/// What a modern server was asked to tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    tools: bool,
    prompts: bool,
    resources: bool,
    uris: BTreeSet<Arc<str>>,
}

impl Filter {
    /// What listeners want, and beyond that the changes of lists that the server announces.
    pub(crate) fn of(wanted: &Wanted, announced: Announces) -> Self {
        Self {
            tools: wanted.tools || announced.tools,
            prompts: wanted.prompts || announced.prompts,
            resources: wanted.resources || announced.resources,
            uris: wanted.uris.clone(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.tools && !self.prompts && !self.resources && self.uris.is_empty()
    }

    /// Whether a subscription to `self` also does for `other`: all of it is told, and not much more.
    pub(crate) fn does_for(&self, other: &Self) -> bool {
        self.tools >= other.tools
            && self.prompts >= other.prompts
            && self.resources >= other.resources
            && self.uris.is_superset(&other.uris)
            && self.uris.len() <= other.uris.len() * 2 + 16
    }

    /// The members of the request's parameters.
    pub(crate) fn members(&self) -> String {
        let mut parts = Vec::new();
        for (wanted, name) in [
            (self.tools, "toolsListChanged"),
            (self.prompts, "promptsListChanged"),
            (self.resources, "resourcesListChanged"),
        ] {
            if wanted {
                parts.push(format!(r#""{name}":true"#));
            }
        }
        if !self.uris.is_empty() {
            let uris: Vec<_> = self.uris.iter().map(|u| splice::quote(u)).collect();
            parts.push(format!(r#""resourceSubscriptions":[{}]"#, uris.join(",")));
        }
        format!(r#""notifications":{{{}}}"#, parts.join(","))
    }
}

/// Runs for as long as the link stands.
pub(crate) async fn feed(link: Weak<Link>, hub: Arc<Hub>) {
    let Some((closing, era, announced)) = link.upgrade().map(|l| {
        let announced = l.facts().map(|f| f.announces()).unwrap_or_default();
        (l.closing(), l.version().era(), announced)
    }) else {
        return;
    };
    let feed = Feed { link, hub: hub.clone(), closing };
    match era {
        Era::Legacy => feed.legacy().await,
        Era::Modern => feed.modern(announced).await,
    }
    hub.unserve();
}

struct Feed {
    link: Weak<Link>,
    hub: Arc<Hub>,
    closing: watch::Receiver<bool>,
}

/// What woke the feed.
enum Woken {
    Closed,
    Changed,
    Ended(Result<crate::message::Message, UpstreamError>),
}

impl Feed {
    async fn legacy(mut self) {
        let mut changed = self.hub.watch();
        let mut subscribed: BTreeSet<Arc<str>> = BTreeSet::new();
        loop {
            changed.mark_unchanged();
            let wanted = self.hub.wanted();
            for uri in &subscribed - &wanted.uris {
                let _ = self.ask("resources/unsubscribe", &uri).await;
                subscribed.remove(&uri);
            }
            for uri in &wanted.uris - &subscribed {
                match self.ask("resources/subscribe", &uri).await {
                    Ok(()) => drop(subscribed.insert(uri)),
                    Err(UpstreamError::Closed { .. }) => return,
                    Err(error) => self.hub.end_uri(&uri, &error),
                }
            }
            self.hub.serve(wanted.generation);
            if matches!(self.wait(&mut changed, None).await, Woken::Closed) {
                return;
            }
        }
    }

    async fn modern(mut self, announced: Announces) {
        let mut changed = self.hub.watch();
        let mut current: Option<(Filter, Call)> = None;
        loop {
            changed.mark_unchanged();
            let wanted = self.hub.wanted();
            let filter = Filter::of(&wanted, announced);
            if filter.is_empty() {
                current = None;
            } else if !current.as_ref().is_some_and(|(had, _)| had.does_for(&filter)) {
                match self.subscribe(&filter).await {
                    // Only now the one before may go: nothing is missed in between.
                    Ok(call) => current = Some((filter, call)),
                    Err(UpstreamError::Closed { .. }) => return,
                    Err(error) => {
                        tracing::debug!(target = self.key(), %error, "a subscription failed");
                        self.hub.end_all(&error);
                        current = None;
                    }
                }
            }
            self.hub.serve(wanted.generation);
            match self.wait(&mut changed, current.as_mut().map(|(_, call)| call)).await {
                Woken::Closed => return,
                Woken::Changed => {}
                Woken::Ended(ended) => {
                    tracing::debug!(target = self.key(), answered = ended.is_ok(), "the server ended a subscription");
                    current = None;
                    tokio::select! {
                        () = tokio::time::sleep(PAUSE) => {}
                        () = raised(&mut self.closing) => return,
                    }
                }
            }
        }
    }

    fn key(&self) -> String {
        self.link.upgrade().map(|l| l.key().to_string()).unwrap_or_default()
    }

    /// Opens a subscription and waits until the server says that it stands.
    async fn subscribe(&self, filter: &Filter) -> Result<Call, UpstreamError> {
        let link = self.link()?;
        let id = link.next_id();
        let body =
            Params { method: "subscriptions/listen", members: &filter.members() }.build(&Wire::own(id, link.version()));
        let mut call = link.call(id, body, Kind::Subscription, Instant::now() + LASTING).await?;
        drop(link);
        let first = tokio::time::timeout(PATIENCE, call.next()).await;
        match first.map_err(|_| UpstreamError::Timeout { sent: crate::Sent::No })?? {
            message if message.kind == MessageKind::Error => {
                Err(UpstreamError::Refused { code: message.code.unwrap_or(0) })
            }
            message if message.is_answer() => Err(UpstreamError::Refused { code: 0 }),
            _ => Ok(call),
        }
    }

    /// Subscribes to a resource, or ends that.
    async fn ask(&self, method: &str, uri: &str) -> Result<(), UpstreamError> {
        let link = self.link()?;
        let id = link.next_id();
        let members = format!(r#""uri":{}"#, splice::quote(uri));
        let body = Params { method, members: &members }.build(&Wire::own(id, link.version()));
        let mut call = link.call(id, body, Kind::Own, Instant::now() + PATIENCE).await?;
        drop(link);
        match call.answer().await? {
            message if message.kind == MessageKind::Error => {
                Err(UpstreamError::Refused { code: message.code.unwrap_or(0) })
            }
            _ => Ok(()),
        }
    }

    fn link(&self) -> Result<Arc<Link>, UpstreamError> {
        self.link.upgrade().ok_or(UpstreamError::Closed { sent: crate::Sent::No })
    }

    /// Waits until something else is wanted, the link closes, or the subscription ends.
    async fn wait(&mut self, changed: &mut watch::Receiver<u64>, current: Option<&mut Call>) -> Woken {
        let ended = async {
            match current {
                Some(call) => call.answer().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = raised(&mut self.closing) => Woken::Closed,
            ended = ended => Woken::Ended(ended),
            changed = changed.changed() => {
                if changed.is_err() {
                    return Woken::Closed;
                }
                // Many often come at once, such as after a restart.
                tokio::time::sleep(GATHER).await;
                Woken::Changed
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(tools: bool, uris: &[&str]) -> Filter {
        Filter { tools, uris: uris.iter().map(|u| Arc::from(*u)).collect(), ..Filter::default() }
    }

    #[test]
    fn a_subscription_does_for_less_but_not_for_much_less() {
        let all: Vec<String> = (0..40).map(|n| n.to_string()).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        assert!(filter(true, &["a", "b"]).does_for(&filter(false, &["a"])));
        assert!(!filter(true, &["a"]).does_for(&filter(true, &["b"])));
        assert!(!filter(false, &["a"]).does_for(&filter(true, &["a"])));
        assert!(filter(true, &all).does_for(&filter(true, &all[..12])));
        assert!(!filter(true, &all).does_for(&filter(true, &all[..11])));
    }

    #[test]
    fn writes_what_the_schema_asks_for() {
        assert_eq!(
            filter(true, &["a\"b", "c"]).members(),
            r#""notifications":{"toolsListChanged":true,"resourceSubscriptions":["a\"b","c"]}"#
        );
        assert!(filter(false, &[]).is_empty());
    }
}
