//! What a standing stream towards a server rests on: who it is for, that they may, and under whose account. It is opened once
//! and runs for hours, so whenever a connection, a person or a gateway changed, that is looked at again, and the stream ends
//! where any of it is otherwise. Whose credential does not work any more is another file's matter (`revoked`).

use std::{
    iter,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use portcullis_credential::Carried;
use portcullis_model::{Fault, Name};
use portcullis_plugin::{Attributes, ReadPurpose};
use tokio::sync::{Semaphore, watch};

use crate::{conversation::Who, gateways::Gateways, judge, view::Assigned};

/// How long changes are gathered: connections, people and gateways follow a write one after another.
const GATHER: Duration = Duration::from_millis(250);
/// How often it is looked at without a change that anybody told of.
const LOOK: Duration = Duration::from_secs(60);
/// How soon it is looked at again where it could not be told.
const AGAIN: Duration = Duration::from_secs(5);
/// How often it may not be told, one time after another, before the stream ends.
const UNKNOWN: u32 = 3;
/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// A change concerns every stream: so many look at a time.
static AT_ONCE: Semaphore = Semaphore::const_new(32);

/// Hears of everything that a stream rests on.
pub struct Changes {
    connections: watch::Receiver<u64>,
    gateways: watch::Receiver<u64>,
}

impl Changes {
    /// From now on: to be taken before anything is judged.
    pub fn of(gateways: &Gateways) -> Self {
        Self { connections: gateways.credentials.book().changes(), gateways: gateways.compiled.subscribe() }
    }

    /// The same where it was judged before.
    pub fn since_before(gateways: &Gateways) -> Self {
        let mut changes = Self::of(gateways);
        changes.connections.mark_changed();
        changes
    }

    /// Waits for one. False where nobody will tell of any more.
    async fn next(&mut self, patience: Duration) -> bool {
        let told = tokio::select! {
            told = self.connections.changed() => told.is_ok(),
            told = self.gateways.changed() => told.is_ok(),
            () = tokio::time::sleep(patience) => true,
        };
        tokio::time::sleep(GATHER).await;
        self.connections.mark_unchanged();
        self.gateways.mark_unchanged();
        told
    }
}

/// An account: the connection, its revision, and what tells others apart.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Account(Option<(Option<Name>, u64, Arc<str>)>);

impl Account {
    fn of(carried: Option<&Carried>) -> Self {
        Self(carried.map(|c| (c.connection.clone(), c.connection_revision, Arc::clone(&c.executed_as))))
    }
}

/// What a stream rests on.
#[derive(Clone)]
pub struct Rests {
    gateways: Weak<Gateways>,
    who: Who,
    server: Name,
    generation: u64,
    account: Account,
    /// The resource that it is about, as its server and as the client names it. Without one it is about a whole session.
    resource: Option<(String, String)>,
}

/// How that is now.
pub enum Now {
    /// As it was; with what is carried now.
    Holds(Option<Arc<Carried>>),
    /// It can't be told just now.
    Unknown,
    /// Otherwise.
    Over,
}

impl Rests {
    /// Of a stream that was begun for this caller with what is carried.
    pub fn of(gateways: &Arc<Gateways>, who: Who, assigned: &Assigned, carried: Option<&Carried>) -> Self {
        Self {
            gateways: Arc::downgrade(gateways),
            who,
            server: assigned.server.clone(),
            generation: assigned.generation,
            account: Account::of(carried),
            resource: None,
        }
    }

    /// One that is about a resource, which the caller has to be let read.
    pub fn about(self, own: &str, exposed: &str) -> Self {
        Self { resource: Some((own.to_owned(), exposed.to_owned())), ..self }
    }

    /// How it is now.
    pub async fn now(&self) -> Now {
        let Some(gateways) = self.gateways.upgrade() else { return Now::Over };
        let snapshot = gateways.snapshot.load_full();
        let view = snapshot.get(self.who.view.tenant.as_str(), self.who.view.name.as_str());
        let Some(view) = view.filter(|view| view.broken.is_none()) else { return Now::Over };
        let mut servers = view.servers.iter();
        let Some(assigned) = servers.find(|s| s.server == self.server && s.generation == self.generation) else {
            return Now::Over;
        };
        let Some(principal) = gateways.authenticator.as_of_now(&self.who.principal, &view.name) else {
            return Now::Over;
        };
        // What policies noted of one question says nothing of the next.
        let attributes = Attributes::default();
        let who = Who { view: Arc::clone(view), principal, attributes, ..self.who.clone() };
        if let Some((own, exposed)) = &self.resource {
            let deadline = Instant::now() + PATIENCE;
            let judged = judge::read_by(&who, &self.server, own, exposed, ReadPurpose::Subscribe, deadline).await;
            if let Err(fault) = judged {
                return refused(&fault);
            }
        }
        // A session is used by all tools, some of which may have a credential of their own.
        let of_tools = assigned.tool_plans.values().filter(|_| self.resource.is_none());
        let mut now = Now::Over;
        for plan in iter::once(assigned.plan.as_ref()).chain(of_tools.map(Some)) {
            let carried = match plan {
                None => None,
                Some(plan) => match gateways.credentials.resolve(plan, &who.principal, &who.headers).await {
                    Ok(carried) => Some(carried),
                    Err(fault) => {
                        if matches!(refused(&fault), Now::Unknown) {
                            now = Now::Unknown;
                        }
                        continue;
                    }
                },
            };
            if Account::of(carried.as_deref()) == self.account {
                return Now::Holds(carried);
            }
        }
        now
    }

    /// Waits until it is otherwise.
    pub async fn over(&self, mut changes: Changes) {
        let mut unknown = 0;
        loop {
            let told = changes.next(if unknown == 0 { LOOK } else { AGAIN }).await;
            let _turn = AT_ONCE.acquire().await;
            match self.now().await {
                Now::Holds(_) if told => unknown = 0,
                Now::Unknown if told && unknown < UNKNOWN => unknown += 1,
                Now::Holds(_) | Now::Unknown | Now::Over => break,
            }
        }
        tracing::debug!(request = &*self.who.request_id, server = %self.server, "what a stream rests on is gone; it ends");
    }
}

/// What passes by itself is no end.
fn refused(fault: &Fault) -> Now {
    if fault.retry_after_ms.is_some() { Now::Unknown } else { Now::Over }
}

#[cfg(test)]
mod tests {
    use portcullis_model::Side;

    use super::*;

    #[test]
    fn what_passes_by_itself_is_no_end() {
        let fault = Fault::new(Side::Gateway, "credential-unavailable", "x");
        assert!(matches!(refused(&fault.clone().retry_after_ms(1)), Now::Unknown));
        assert!(matches!(refused(&fault), Now::Over));
    }
}
