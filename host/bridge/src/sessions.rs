//! All sessions: found by their ids, bounded, ended when nobody uses them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use portcullis_model::Fault;

use crate::{
    options::Options,
    refuse,
    session::{LEVELS, Session},
};

/// How long the answers of a session whose process is gone can still be read.
const DEAD: Duration = Duration::from_secs(300);
/// A session that was used within this time does not make room for another.
const FRESH: Duration = Duration::from_secs(60);

/// The sessions.
pub(crate) struct Sessions {
    table: Mutex<HashMap<Box<str>, Arc<Session>>>,
    options: Arc<Options>,
}

impl Sessions {
    pub(crate) fn new(options: Arc<Options>) -> Arc<Self> {
        Arc::new(Self { table: Mutex::default(), options })
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<Session>> {
        self.table().get(id).cloned()
    }

    /// Adds one, where need be in the place of the one that nobody has used for longest.
    ///
    /// # Errors
    /// Where all are in use.
    pub(crate) fn insert(&self, session: Arc<Session>) -> Result<(), Fault> {
        let mut table = self.table();
        let mut gone = None;
        if table.len() >= self.options.max_sessions {
            let idle = |s: &Arc<Session>| s.idle().filter(|idle| s.is_dead() || *idle > FRESH);
            let longest = table.values().filter_map(|s| Some((idle(s)?, s.id.clone()))).max();
            let Some((_, id)) = longest else {
                return Err(refuse::busy(
                    "there are as many sessions as the bridge may have",
                    "End sessions with DELETE, or raise the bridge's --max-sessions.",
                ));
            };
            gone = table.remove(&id);
        }
        table.insert(session.id.clone(), session);
        drop(table);
        if let Some(gone) = gone {
            gone.end();
        }
        Ok(())
    }

    /// Takes one out; whoever does ends it.
    pub(crate) fn remove(&self, id: &str) -> Option<Arc<Session>> {
        self.table().remove(id)
    }

    /// Takes all out.
    pub(crate) fn take(&self) -> Vec<Arc<Session>> {
        std::mem::take(&mut *self.table()).into_values().collect()
    }

    /// Takes out those that nobody has used for long.
    pub(crate) fn stale(&self) -> Vec<Arc<Session>> {
        let most = |s: &Session| if s.is_dead() { DEAD } else { self.options.session_idle };
        let mut table = self.table();
        let stale: Vec<Box<str>> =
            table.values().filter(|s| s.idle().is_some_and(|idle| idle > most(s))).map(|s| s.id.clone()).collect();
        stale.iter().filter_map(|id| table.remove(id)).collect()
    }

    /// Those that share a process.
    pub(crate) fn shared(&self) -> Vec<Arc<Session>> {
        self.table().values().filter(|s| s.is_shared()).cloned().collect()
    }

    /// Every resource that a session of the shared process watches.
    pub(crate) fn uris(&self) -> BTreeSet<Box<str>> {
        self.shared().iter().flat_map(|s| s.wishes().uris.iter().cloned().collect::<Vec<_>>()).collect()
    }

    /// The least log level that any session of the shared process wants.
    pub(crate) fn level(&self) -> Option<&'static str> {
        let least = self.shared().iter().filter_map(|s| s.wishes().level).min()?;
        LEVELS.get(usize::from(least)).copied()
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Session>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
