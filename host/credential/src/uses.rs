//! Uses of somebody's connection by others, for its owner to see (security.md 20): the last few of each connection.
//!
//! A call notes its use in memory and goes on; once a second, what was noted joins the store. What a crash loses here stands
//! in the audit stream, which had it before the call left.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use portcullis_model::{Name, Principal, text::shown};
use portcullis_store::{Expect, Registry, StoreError, Write, keys};
use serde::{Deserialize, Serialize};

/// How many uses of a connection are kept.
pub const MAX_USES: usize = 50;
/// How many are noted until they are written; more than that in a second are left to the audit stream.
const MAX_NOTED: usize = 4096;
/// The most characters of a caller or a tool.
const MAX_TEXT: usize = 200;
/// How often what was noted is written.
const EVERY: Duration = Duration::from_secs(1);

/// A call of somebody under a connection that is not theirs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Use {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Who.
    pub by: String,
    /// The tool, prompt or resource, as the caller named it.
    pub tool: String,
    /// The gateway.
    pub gateway: String,
}

/// What was noted since the last write, by tenant and connection, and how much that is.
#[derive(Default)]
struct Noted {
    uses: HashMap<(Name, Name), Vec<Use>>,
    total: usize,
}

/// The uses of every connection by others.
pub(crate) struct Uses {
    registry: Arc<Registry>,
    noted: Mutex<Noted>,
    writing: tokio::sync::Mutex<()>,
}

impl Uses {
    /// Keeps uses in the registry's store, on the current tokio runtime, for as long as it lives.
    pub(crate) fn open(registry: Arc<Registry>) -> Arc<Self> {
        let uses = Arc::new(Self { registry, noted: Mutex::default(), writing: tokio::sync::Mutex::const_new(()) });
        tokio::spawn(keep(Arc::downgrade(&uses)));
        uses
    }

    /// Notes a use, without waiting. False where there were too many just now.
    pub(crate) fn note(&self, tenant: &Name, connection: &Name, by: &Principal, tool: &str, gateway: &Name) -> bool {
        let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let one = Use {
            at_ms: u64::try_from(at_ms).unwrap_or(u64::MAX),
            by: shown(&by.subject_text, MAX_TEXT),
            tool: shown(tool, MAX_TEXT),
            gateway: gateway.to_string(),
        };
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.total >= MAX_NOTED {
            return false;
        }
        noted.total += 1;
        noted.uses.entry((tenant.clone(), connection.clone())).or_default().push(one);
        true
    }

    /// The uses of a connection, the latest first.
    pub(crate) async fn of(&self, tenant: &Name, connection: &Name) -> Result<Vec<Use>, StoreError> {
        self.write().await?;
        let mut uses = self.kept(tenant, connection).await?;
        uses.reverse();
        Ok(uses)
    }

    async fn kept(&self, tenant: &Name, connection: &Name) -> Result<Vec<Use>, StoreError> {
        let record = self.registry.store().get(&keys::uses(tenant, connection)).await?;
        // What can't be read is of no use to anybody, and the next use replaces it.
        Ok(record.and_then(|r| serde_json::from_slice(&r.value).ok()).unwrap_or_default())
    }

    /// Writes what was noted. What can't be written is lost here, and stands in the audit stream.
    pub(crate) async fn write(&self) -> Result<(), StoreError> {
        let _turn = self.writing.lock().await;
        let noted = std::mem::take(&mut *self.noted.lock().unwrap_or_else(PoisonError::into_inner));
        let mut batch = Vec::new();
        for ((tenant, connection), new) in noted.uses {
            // One that was deleted meanwhile leaves nothing behind.
            if self.registry.snapshot().connection(&tenant, &connection).is_none() {
                continue;
            }
            let mut uses = self.kept(&tenant, &connection).await?;
            uses.extend(new);
            let over = uses.len().saturating_sub(MAX_USES);
            uses.drain(..over);
            let value = serde_json::to_vec(&uses).map_err(|e| StoreError::Corrupt(e.to_string()))?;
            let key = keys::uses(&tenant, &connection);
            batch.push(Write::Put { key, value: value.into(), expect: Expect::Any });
        }
        if !batch.is_empty() {
            self.registry.store().write(batch).await?;
        }
        Ok(())
    }
}

async fn keep(uses: Weak<Uses>) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(uses) = uses.upgrade() else { return };
        if let Err(error) = uses.write().await {
            tracing::warn!(%error, "uses of connections by others could not be kept; the audit stream has them");
        }
    }
}
