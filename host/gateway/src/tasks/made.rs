//! What is remembered of tasks: who made which, so that a list shows a caller its own and nobody else's, and results of calls
//! that a client wanted as a task and a server answered at once.
//!
//! In this process alone, bounded: a caller finds its tasks again by their ids without any of this.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use portcullis_model::{Name, Subject};
use portcullis_telemetry::rfc3339;
use quick_cache::{Weighter, sync::Cache};
use sha2::{Digest, Sha256};

use crate::asked::Asked;

/// Callers whose tasks are remembered, and tasks of one of them.
const MOST_CALLERS: usize = 10_000;
const MOST_OF_CALLER: usize = 100;
/// Memory that results of calls that were answered at once may take, and one of them.
const MOST_BYTES: u64 = 16 << 20;
const MOST_ONE: usize = 1 << 20;
/// How long such a result is kept.
pub const KEPT: Duration = Duration::from_secs(10 * 60);

/// Who may list a task: the caller, of those without a credential each session by itself.
pub type Whose = [u8; 32];

/// Who asks.
pub fn whose(asked: &Asked<'_>) -> Whose {
    let binding = asked.binding();
    let mut hash = Sha256::new();
    for part in [binding.tenant.as_str(), binding.gateway.as_str()] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.update(binding.principal);
    if asked.principal.subject == Subject::Anonymous {
        hash.update(asked.client.session.unwrap_or_default());
    }
    hash.finalize().into()
}

/// A task that somebody made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its server; none for a result that is kept here.
    pub server: Option<Name>,
    /// Its id there.
    pub own: Arc<str>,
    /// As the caller knows it.
    pub exposed: Arc<str>,
}

/// The result of a call that was over when its task began.
#[derive(Clone, Debug)]
pub struct Result {
    whose: Whose,
    /// The result object.
    pub result: Bytes,
    /// Whether the tool failed.
    pub failed: bool,
    made: Duration,
    since: Instant,
}

impl Result {
    /// As a task of 2025-11-25.
    pub fn task(&self, exposed: &str) -> String {
        let status = if self.failed { "failed" } else { "completed" };
        let at = rfc3339(self.made);
        format!(
            r#"{{"taskId":"{exposed}","status":"{status}","createdAt":"{at}","lastUpdatedAt":"{at}","ttl":{},"pollInterval":1000}}"#,
            KEPT.as_millis()
        )
    }
}

#[derive(Clone)]
struct Size;

impl Weighter<Arc<str>, Result> for Size {
    fn weight(&self, key: &Arc<str>, kept: &Result) -> u64 {
        (key.len() + kept.result.len() + 256) as u64
    }
}

/// All of it.
pub struct Made {
    tasks: Cache<Whose, Arc<Mutex<VecDeque<Place>>>>,
    results: Cache<Arc<str>, Result, Size>,
}

impl Default for Made {
    fn default() -> Self {
        Self { tasks: Cache::new(MOST_CALLERS), results: Cache::with_weighter(1_000, MOST_BYTES, Size) }
    }
}

impl Made {
    /// Notes a task. The oldest of a caller who has too many is left out of lists from then on.
    pub fn note(&self, whose: &Whose, place: Place) {
        let made = self.tasks.get_or_insert_with(whose, || Ok::<_, std::convert::Infallible>(Arc::default()));
        let Ok(tasks) = made;
        let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if tasks.iter().any(|t| t.server == place.server && t.own == place.own) {
            return;
        }
        if tasks.len() >= MOST_OF_CALLER {
            tasks.pop_front();
        }
        tasks.push_back(place);
    }

    /// Somebody's tasks, the oldest first.
    pub fn of(&self, whose: &Whose) -> Vec<Place> {
        let Some(tasks) = self.tasks.get(whose) else { return Vec::new() };
        tasks.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Leaves out of lists what is gone.
    pub fn forget(&self, whose: &Whose, gone: &[Place]) {
        if let Some(tasks) = self.tasks.get(whose) {
            tasks.lock().unwrap_or_else(PoisonError::into_inner).retain(|task| !gone.contains(task));
        }
    }

    /// Keeps a result under this id. Whether it did.
    pub fn keep(&self, id: &Arc<str>, whose: Whose, result: Bytes, failed: bool) -> Option<Result> {
        if result.len() > MOST_ONE {
            return None;
        }
        let made = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let kept = Result { whose, result, failed, made, since: Instant::now() };
        self.results.insert(Arc::clone(id), kept.clone());
        Some(kept)
    }

    /// The kept result of this id, for whom it is.
    pub fn result(&self, id: &str, whose: &Whose) -> Option<Result> {
        let kept = self.results.get(id).filter(|kept| kept.whose == *whose)?;
        if kept.since.elapsed() >= KEPT {
            self.results.remove(id);
            return None;
        }
        Some(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_finds_their_own_and_so_many() {
        let made = Made::default();
        let place = |n: usize| Place {
            server: Some("jobs".parse().unwrap()),
            own: format!("t{n}").into(),
            exposed: format!("e{n}").into(),
        };
        for n in 0..MOST_OF_CALLER + 3 {
            made.note(&[1; 32], place(n));
        }
        made.note(&[1; 32], place(50));
        made.note(&[2; 32], place(7));
        let mine = made.of(&[1; 32]);
        assert_eq!((mine.len(), &mine[0]), (MOST_OF_CALLER, &place(3)));
        assert_eq!(made.of(&[2; 32]), [place(7)]);
        assert!(made.of(&[3; 32]).is_empty());
        made.forget(&[1; 32], &[place(3)]);
        assert_eq!(made.of(&[1; 32])[0], place(4));
        let id: Arc<str> = "x".into();
        assert!(made.keep(&id, [1; 32], Bytes::from_static(b"{}"), true).unwrap().task("e").contains("failed"));
        assert!(made.result("x", &[1; 32]).is_some());
        assert!(made.result("x", &[2; 32]).is_none(), "somebody else's");
        assert!(made.keep(&id, [1; 32], Bytes::from(vec![0; MOST_ONE + 1]), false).is_none());
    }
}
