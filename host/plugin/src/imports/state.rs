//! `portcullis:host/state`: what a plugin remembers from call to call.

use wasmtime::{Error, Result, component::Resource};

use crate::{
    bindings::portcullis::host::state::{self as wit, Bucket, StateError, SwapError},
    spaces::{Entry, NotKept},
    state::{Handle, State},
};

type Answer<T> = Result<std::result::Result<T, StateError>>;

impl State {
    /// The bytes of the grant, where there is one.
    fn quota(&mut self, bucket: &Resource<Bucket>) -> Result<Option<usize>> {
        if !matches!(self.handle(bucket)?, Handle::Bucket) {
            return Err(Error::msg("no bucket"));
        }
        let quota = self.fixed.grants.state.map(portcullis_model::Bytes::as_usize);
        if quota.is_none() {
            self.denied("state");
        }
        Ok(quota)
    }

    fn remembered(&self) {
        self.fixed.metrics.remembers(self.fixed.space.used());
    }
}

fn ungranted() -> StateError {
    StateError::Unavailable("state is not granted".into())
}

fn lower(entry: &Entry) -> wit::Entry {
    wit::Entry { value: entry.value.to_vec(), version: entry.version }
}

impl From<NotKept> for StateError {
    fn from(why: NotKept) -> Self {
        match why {
            NotKept::Quota => Self::Quota,
            NotKept::TooLarge => Self::TooLarge,
        }
    }
}

impl wit::Host for State {
    fn open(&mut self) -> Result<Resource<Bucket>> {
        self.own(Handle::Bucket)
    }
}

impl wit::HostBucket for State {
    fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<Option<wit::Entry>> {
        if self.quota(&bucket)?.is_none() {
            return Ok(Err(ungranted()));
        }
        Ok(Ok(self.fixed.space.get(&key).as_ref().map(lower)))
    }
    fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>, ttl_ms: Option<u64>) -> Answer<u64> {
        let Some(quota) = self.quota(&bucket)? else { return Ok(Err(ungranted())) };
        let kept = self.fixed.space.set(&key, value, ttl_ms, quota);
        self.remembered();
        Ok(kept.map_err(StateError::from))
    }
    fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<()> {
        if self.quota(&bucket)?.is_none() {
            return Ok(Err(ungranted()));
        }
        self.fixed.space.delete(&key);
        self.remembered();
        Ok(Ok(()))
    }
    fn swap(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        version: Option<u64>,
        value: Vec<u8>,
        ttl_ms: Option<u64>,
    ) -> Result<std::result::Result<u64, SwapError>> {
        let Some(quota) = self.quota(&bucket)? else { return Ok(Err(SwapError::Failed(ungranted()))) };
        let swapped = self.fixed.space.swap(&key, version, value, ttl_ms, quota);
        self.remembered();
        Ok(match swapped {
            Ok(Ok(version)) => Ok(version),
            Ok(Err(there)) => Err(SwapError::Stale(there.as_ref().map(lower))),
            Err(why) => Err(SwapError::Failed(why.into())),
        })
    }
    fn drop(&mut self, bucket: Resource<Bucket>) -> Result<()> {
        self.disown(&bucket)
    }
}
