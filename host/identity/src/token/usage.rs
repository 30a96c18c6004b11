//! What happens behind the tokens' back: following the store, noting uses, forgetting old tokens.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use portcullis_store::{Change, Expect, Record, Revision, StoreError, Watch, Write};

use super::{Live, TokenRecord, TokenService};
use crate::clock::{millis, now_ms};

/// Where tokens are kept.
pub(super) mod key {
    use portcullis_model::Name;

    /// The prefix of all tokens.
    pub(in super::super) const TOKENS: &str = "t/";
    /// The prefix of all last uses. Records of their own, so that noting a use never undoes a revocation.
    pub(in super::super) const USES: &str = "tu/";

    pub(in super::super) fn token(tenant: &Name, id: &str) -> String {
        format!("{TOKENS}{tenant}/{id}")
    }

    pub(in super::super) fn last_use(tenant: &Name, id: &str) -> String {
        format!("{USES}{tenant}/{id}")
    }

    /// The id at the end of either.
    pub(in super::super) fn id(key: &str) -> &str {
        key.rsplit_once('/').map_or(key, |(_, id)| id)
    }
}

/// The most uses or forgotten tokens that are written at once.
const PIECE: usize = 1000;
/// How long an access token of an OAuth client is kept that has ended.
const BRIEF: Duration = Duration::from_secs(3600);
/// How long to wait before a broken watch is taken up again.
const AGAIN: Duration = Duration::from_millis(500);

/// A token as the store has it. One that can't be read is nobody's token: it is logged and works for nobody.
pub(super) fn read(record: &Record) -> Option<TokenRecord> {
    let token = serde_json::from_slice::<TokenRecord>(&record.value);
    match token {
        Ok(token) if key::token(&token.tenant, &token.id) == *record.key => Some(token),
        Ok(_) => {
            tracing::error!(key = %record.key, "a token belongs to another key and is ignored");
            None
        }
        Err(error) => {
            tracing::error!(key = %record.key, %error, "a token can't be read and is ignored");
            None
        }
    }
}

pub(super) fn read_use(record: &Record) -> Option<(&str, u64)> {
    Some((key::id(&record.key), std::str::from_utf8(&record.value).ok()?.parse().ok()?))
}

pub(super) fn start(service: &Arc<TokenService>, from: Revision) {
    let weak = Arc::downgrade(service);
    tokio::spawn(follow(weak, from));
    tokio::spawn(keep_house(Arc::downgrade(service), service.options.housekeeping));
}

/// Keeps the memory in step with the store, so that another process's revocation holds here as well.
async fn follow(service: Weak<TokenService>, mut from: Revision) {
    loop {
        let Some(strong) = service.upgrade() else { return };
        let watch = strong.store.watch(key::TOKENS, from);
        drop(strong);
        let ended = match watch {
            Ok(watch) => follow_one(&service, watch, &mut from).await,
            Err(error) => Some(error),
        };
        let (Some(error), Some(service)) = (ended, service.upgrade()) else { return };
        if error != StoreError::TooOld {
            tracing::warn!(%error, "the watch of tokens broke; it is taken up again");
            tokio::time::sleep(AGAIN).await;
        }
        match service.reload().await {
            Ok(revision) => from = revision,
            Err(error) => {
                tracing::warn!(%error, "tokens can't be read from the store; those known are used");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// Returns when the watch breaks, with the reason; none where the service is gone.
async fn follow_one(service: &Weak<TokenService>, mut watch: Watch, from: &mut Revision) -> Option<StoreError> {
    loop {
        let change = match watch.next().await {
            Ok(change) => change,
            Err(error) => return Some(error),
        };
        let service = service.upgrade()?;
        *from = (*from).max(change.revision());
        match &change {
            Change::Put(record) => match read(record) {
                Some(token) => service.live.put(token, record.revision),
                None => service.live.remove(key::id(&record.key), record.revision),
            },
            Change::Deleted { key, revision } => service.live.remove(key::id(key), *revision),
        }
    }
}

async fn keep_house(service: Weak<TokenService>, every: Duration) {
    let mut ticks = tokio::time::interval(every.max(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(service) = service.upgrade() else { return };
        // Neither is worth more than a log line: uses are for people to read, and old tokens work for nobody.
        if let Err(error) = service.write_uses().await {
            tracing::warn!(%error, "last uses of tokens were not written down");
        }
        if let Err(error) = service.forget_old().await {
            tracing::warn!(%error, "old tokens were not removed");
        }
    }
}

impl TokenService {
    /// Writes down last uses that the store does not have yet.
    async fn write_uses(&self) -> Result<(), StoreError> {
        let used: Vec<(Arc<Live>, u64)> = self
            .live
            .all()
            .into_iter()
            .map(|live| (Arc::clone(&live), live.last_used_ms()))
            .filter(|(live, at)| *at > live.stored_use_ms.load(Ordering::Relaxed))
            .collect();
        for piece in used.chunks(PIECE) {
            let put = |(live, at): &(Arc<Live>, u64)| Write::Put {
                key: key::last_use(&live.record.tenant, &live.record.id),
                value: Bytes::from(at.to_string()),
                expect: Expect::Any,
            };
            self.store.write(piece.iter().map(put).collect()).await?;
            piece.iter().for_each(|(live, at)| live.learn_use(*at));
        }
        Ok(())
    }

    /// Removes tokens that ended long ago.
    async fn forget_old(&self) -> Result<(), StoreError> {
        let before = now_ms().saturating_sub(millis(self.options.keep_ended));
        // Access tokens come and go every few minutes, and nobody lists them once they have ended.
        let brief = now_ms().saturating_sub(millis(BRIEF));
        let ended = |live: &Arc<Live>| {
            let ends = [live.record.revoked_ms, live.record.expires_ms];
            let before = if live.record.on_behalf.is_some() { brief } else { before };
            ends.into_iter().flatten().min().is_some_and(|at| at < before)
        };
        let mut old = self.live.all();
        old.retain(ended);
        for piece in old.chunks(PIECE) {
            let both = |live: &Arc<Live>| {
                let (tenant, id) = (&live.record.tenant, &live.record.id);
                [
                    Write::Delete { key: key::token(tenant, id), expect: Expect::Any },
                    Write::Delete { key: key::last_use(tenant, id), expect: Expect::Any },
                ]
            };
            let revision = self.store.write(piece.iter().flat_map(both).collect()).await?;
            piece.iter().for_each(|live| self.live.remove(&live.record.id, revision));
        }
        Ok(())
    }
}
