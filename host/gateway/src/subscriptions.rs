//! Who wants to hear of changes, and how they are told: legacy sessions on their GET streams, modern clients on the streams
//! of their `subscriptions/listen` (2026-07-28, subscriptions).
//!
//! Changes of lists say nothing but that there was one, so many of them in a moment become one, and a client that reads
//! slowly misses none that matters.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use portcullis_model::{Fault, Name, Side};
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_util::sync::CancellationToken;

use crate::{
    catalogue::{Changed, Kind},
    gateways::Gateways,
};

pub mod listen;
pub mod resource;

/// Streams of `subscriptions/listen` at a time.
const MOST: usize = 100_000;
/// Those of one caller.
const MOST_OF_CALLER: usize = 1_000;
/// Notifications that wait for a slow client.
const BUFFERED: usize = 16;
/// How long changes are gathered before clients are told.
const GATHER: Duration = Duration::from_millis(50);

/// Which lists somebody wants to hear of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// `notifications/tools/list_changed`.
    pub tools: bool,
    /// `notifications/prompts/list_changed`.
    pub prompts: bool,
    /// `notifications/resources/list_changed`.
    pub resources: bool,
}

impl Lists {
    fn add(&mut self, kind: Kind) {
        match kind {
            Kind::Tools => self.tools = true,
            Kind::Prompts => self.prompts = true,
            Kind::Resources | Kind::Templates => self.resources = true,
        }
    }

    fn all() -> Self {
        Self { tools: true, prompts: true, resources: true }
    }

    fn both(self, other: Self) -> Self {
        Self {
            tools: self.tools && other.tools,
            prompts: self.prompts && other.prompts,
            resources: self.resources && other.resources,
        }
    }

    fn methods(self) -> impl Iterator<Item = &'static str> {
        [
            (self.tools, "notifications/tools/list_changed"),
            (self.prompts, "notifications/prompts/list_changed"),
            (self.resources, "notifications/resources/list_changed"),
        ]
        .into_iter()
        .filter_map(|(wanted, method)| wanted.then_some(method))
    }
}

/// A gateway of a tenant.
type At = (Name, Name);

/// The streams of `subscriptions/listen`.
#[derive(Default)]
pub struct Subscriptions {
    table: Mutex<HashMap<u64, Entry>>,
    next: AtomicU64,
}

struct Entry {
    at: At,
    caller: [u8; 16],
    lists: Lists,
    /// The members of `params` of each notification: `_meta` with the subscription's id.
    meta: Arc<str>,
    sender: mpsc::Sender<Bytes>,
    over: CancellationToken,
}

/// One stream in the table; taken out when dropped.
pub struct Entered {
    table: Weak<Gateways>,
    id: u64,
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(gateways) = self.table.upgrade() {
            gateways.subscriptions.table().remove(&self.id);
        }
    }
}

impl Subscriptions {
    fn enter(&self, gateways: &Arc<Gateways>, entry: Entry) -> Result<Entered, Fault> {
        let mut table = self.table();
        let own = || table.values().filter(|e| e.caller == entry.caller).count();
        if table.len() >= MOST || (table.len() >= MOST_OF_CALLER && own() >= MOST_OF_CALLER) {
            return Err(Fault::new(Side::Gateway, "overloaded", "too many streams of subscriptions are open")
                .next("Close those that you don't need")
                .retry_after_ms(10_000));
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        table.insert(id, entry);
        Ok(Entered { table: Arc::downgrade(gateways), id })
    }

    /// Ends every stream in good order: the process stops.
    pub fn end_all(&self) {
        self.table().values().for_each(|entry| entry.over.cancel());
    }

    fn tell(&self, at: &At, changed: Lists) {
        for entry in self.table().values().filter(|e| e.at == *at) {
            for method in changed.both(entry.lists).methods() {
                let message = format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{{{}}}}}"#, entry.meta);
                // Whoever has so many unread has one that says the same.
                let _ = entry.sender.try_send(Bytes::from(message));
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells clients of changes, for as long as there are gateways.
pub async fn announce(gateways: Weak<Gateways>) {
    let Some(mut changes) = gateways.upgrade().map(|g| g.changed()) else { return };
    loop {
        let first = changes.recv().await;
        // What changes together is told together.
        tokio::time::sleep(GATHER).await;
        let Some(gateways) = gateways.upgrade() else { return };
        let mut told: HashMap<At, Lists> = HashMap::new();
        let mut next = first;
        loop {
            match next {
                Ok(changed) => note(&gateways, changed, &mut told),
                Err(RecvError::Closed) => return,
                Err(RecvError::Lagged(_)) => {
                    for view in gateways.snapshot.load().all() {
                        told.insert((view.tenant.clone(), view.name.clone()), Lists::all());
                    }
                }
            }
            match changes.try_recv() {
                Ok(changed) => next = Ok(changed),
                Err(tokio::sync::broadcast::error::TryRecvError::Lagged(n)) => next = Err(RecvError::Lagged(n)),
                Err(_) => break,
            }
        }
        if told.is_empty() {
            continue;
        }
        for (at, lists) in &told {
            gateways.subscriptions.tell(at, *lists);
        }
        for live in gateways.sessions.all() {
            let Some(lists) = told.get(&live.at) else { continue };
            for method in lists.methods() {
                live.tell(Bytes::from(format!(r#"{{"jsonrpc":"2.0","method":"{method}"}}"#)));
            }
        }
    }
}

fn note(gateways: &Gateways, changed: Changed, told: &mut HashMap<At, Lists>) {
    match changed {
        Changed::Gateway { tenant, gateway } => {
            told.insert((tenant, gateway), Lists::all());
        }
        Changed::Server { tenant, server, kind } => {
            let snapshot = gateways.snapshot.load();
            let views = snapshot.all().filter(|v| v.tenant == tenant && v.servers.iter().any(|s| s.server == server));
            for view in views {
                told.entry((view.tenant.clone(), view.name.clone())).or_default().add(kind);
            }
        }
    }
}
