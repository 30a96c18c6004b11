//! What other gateways on the same store do to kept sign-ins: followed as it happens, and looked at again before a provider is asked, one
//! gateway at a time. A refresh token that is used twice looks stolen, and a refusal of one that somebody else renewed says nothing.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError, Weak, atomic::Ordering},
    time::Duration,
};

use portcullis_store::{Change, Lease, Record, Revision, StoreError, Watch, keys, scan_all};

use super::{KeptTokens, Person, record};

/// How long a gateway may take to renew one: longer than the provider may take to answer.
const LEASE: Duration = Duration::from_secs(40);
/// How long another one waits for it.
const WAIT: Duration = Duration::from_secs(2);
/// How long to wait before a broken watch is taken up again.
const AGAIN: Duration = Duration::from_secs(1);

/// A person's turn among gateways; none where there is one only.
pub(crate) struct Turn(Option<Lease>);

impl Turn {
    pub(crate) async fn end(self) {
        if let Some(lease) = self.0 {
            lease.release().await;
        }
    }
}

impl KeptTokens {
    /// Waits until no other gateway renews what is kept of a person, and takes over what one has done. None where another one still does.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn turn(&self, person: &Arc<Person>) -> Result<Option<Turn>, StoreError> {
        let Some(leases) = &self.leases else { return Ok(Some(Turn(None))) };
        let key = person.held().whose.key();
        let Some(lease) = leases.take(&format!("signin/{key}"), LEASE, WAIT).await? else { return Ok(None) };
        let looked = async {
            let _turn = self.writing.lock().await;
            match self.store.get(&key).await? {
                Some(record) => self.learn(&record),
                None => self.unlearn(&key, Revision(u64::MAX)),
            }
            Ok(())
        };
        let turn = Turn(Some(lease));
        match looked.await {
            Ok(()) => Ok(Some(turn)),
            Err(error) => {
                turn.end().await;
                Err(error)
            }
        }
    }

    /// Whether what is kept of a person is still of this sign-in.
    pub(crate) fn is_current(&self, person: &Arc<Person>) -> bool {
        self.find(&person.held().whose.key()).is_some_and(|now| Arc::ptr_eq(&now, person))
    }

    /// Under `writing`. Takes over a record that is newer than what is known.
    fn learn(&self, record: &Record) {
        let known = self.find(&record.key);
        if known.as_ref().is_some_and(|person| person.held().revision >= record.revision) {
            return;
        }
        let plain = self.sealing.unseal(&record.key, &record.value);
        let held = match plain.map(|plain| record::read(&plain, record.revision)) {
            Ok(Some(held)) if held.whose.key() == *record.key => held,
            Ok(_) => return tracing::error!(record = %record.key, "what was kept of a sign-in can't be read"),
            Err(error) => {
                return tracing::error!(record = %record.key, error, "what was kept of a sign-in can't be opened");
            }
        };
        match known.filter(|person| person.held().token.digest == held.token.digest) {
            Some(person) => {
                person.held.store(Arc::new(held));
                self.generation.fetch_add(1, Ordering::AcqRel);
            }
            None => self.put(record.key.to_string(), Person::new(held)),
        }
    }

    /// Under `writing`. Forgets what was removed after it was written.
    fn unlearn(&self, key: &str, removed: Revision) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if table.people.get(key).is_some_and(|person| person.held().revision < removed)
            && let Some(person) = table.people.remove(key)
        {
            table.sign_ins.remove(&person.held().token.digest);
            self.changed(&table);
        }
    }

    async fn reload(&self) -> Result<Revision, StoreError> {
        let _turn = self.writing.lock().await;
        let revision = self.store.revision();
        let records = scan_all(&*self.store, keys::LOGINS).await?;
        records.iter().for_each(|record| self.learn(record));
        let there: HashSet<&str> = records.iter().map(|record| &*record.key).collect();
        let known: Vec<String> = {
            let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
            table.people.keys().filter(|key| !there.contains(key.as_str())).cloned().collect()
        };
        known.iter().for_each(|key| self.unlearn(key, revision));
        Ok(revision)
    }
}

/// Keeps the memory in step with a store that others write to as well.
pub(super) async fn follow(kept: Weak<KeptTokens>, mut from: Revision) {
    loop {
        let Some(strong) = kept.upgrade() else { return };
        let watch = strong.store.watch(keys::LOGINS, from);
        drop(strong);
        let ended = match watch {
            Ok(watch) => follow_one(&kept, watch).await,
            Err(error) => Some(error),
        };
        let (Some(error), Some(kept)) = (ended, kept.upgrade()) else { return };
        if error != StoreError::TooOld {
            tracing::warn!(%error, "the watch of kept sign-ins broke; it is taken up again");
            tokio::time::sleep(AGAIN).await;
        }
        match kept.reload().await {
            Ok(revision) => from = revision,
            Err(error) => {
                tracing::warn!(%error, "kept sign-ins can't be read from the store; those known are used");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// Returns when the watch breaks, with the reason; none where nobody keeps them any more.
async fn follow_one(kept: &Weak<KeptTokens>, mut watch: Watch) -> Option<StoreError> {
    loop {
        let change = match watch.next().await {
            Ok(change) => change,
            Err(error) => return Some(error),
        };
        let kept = kept.upgrade()?;
        let _turn = kept.writing.lock().await;
        match &change {
            Change::Put(record) => kept.learn(record),
            Change::Deleted { key, revision } => kept.unlearn(key, *revision),
        }
    }
}
