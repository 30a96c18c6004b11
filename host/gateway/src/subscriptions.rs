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
use portcullis_model::{Fault, Name, Principal, Side};
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
pub struct Subscriptions {
    table: Mutex<Table>,
    next: AtomicU64,
    most_of_caller: usize,
}

#[derive(Default)]
struct Table {
    streams: HashMap<u64, Entry>,
    callers: HashMap<[u8; 16], usize>,
}

impl Table {
    fn remove(&mut self, id: u64) {
        let Some(entry) = self.streams.remove(&id) else { return };
        if let Some(count) = self.callers.get_mut(&entry.caller) {
            *count -= 1;
            if *count == 0 {
                self.callers.remove(&entry.caller);
            }
        }
    }
}

struct Entry {
    at: At,
    caller: [u8; 16],
    whose: Arc<Principal>,
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
            gateways.subscriptions.table().remove(self.id);
        }
    }
}

impl Subscriptions {
    /// None yet; so many of one caller at most.
    pub fn new(most_of_caller: usize) -> Self {
        Self { table: Mutex::default(), next: AtomicU64::new(0), most_of_caller }
    }

    /// Whether there is any stream.
    pub fn any(&self) -> bool {
        !self.table().streams.is_empty()
    }

    /// Ends those streams whose caller (and gateway) `which` says.
    pub fn end_where(&self, which: impl Fn(&Principal, &Name) -> bool) {
        let table = self.table();
        for entry in table.streams.values().filter(|entry| which(&entry.whose, &entry.at.1)) {
            entry.over.cancel();
        }
    }

    fn enter(&self, gateways: &Arc<Gateways>, entry: Entry) -> Result<Entered, Fault> {
        let mut table = self.table();
        let own = table.callers.get(&entry.caller).copied().unwrap_or(0);
        if table.streams.len() >= MOST || own >= self.most_of_caller {
            let whose = if own >= self.most_of_caller { "this caller has" } else { "there are" };
            return Err(Fault::new(
                Side::Gateway,
                "overloaded",
                format!("{whose} too many streams of subscriptions open"),
            )
            .next("Close those that you don't need, or ask the operator to raise maxStreamsPerCaller")
            .retry_after_ms(10_000));
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        *table.callers.entry(entry.caller).or_default() += 1;
        table.streams.insert(id, entry);
        drop(table);
        gateways.holds.notify_one();
        Ok(Entered { table: Arc::downgrade(gateways), id })
    }

    /// Ends every stream in good order: the process stops.
    pub fn end_all(&self) {
        self.table().streams.values().for_each(|entry| entry.over.cancel());
    }

    fn tell(&self, at: &At, changed: Lists) {
        for entry in self.table().streams.values().filter(|e| e.at == *at) {
            for method in changed.both(entry.lists).methods() {
                let message = format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{{{}}}}}"#, entry.meta);
                // Whoever has so many unread has one that says the same.
                let _ = entry.sender.try_send(Bytes::from(message));
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
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
