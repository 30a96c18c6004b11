//! What a plugin remembers from call to call.

use std::{fmt, time::Duration};

use crate::{Error, raw};

/// The plugin's space in the memory of this replica: one for each plugin of a tenant, gone when the process ends. Needs the grant
/// `state`.
///
/// ```
/// use std::time::Duration;
/// use portcullis_sdk::{Error, State, fake};
///
/// fn count(who: &str) -> Result<u64, Error> {
///     Ok(State::open().update(who, Some(Duration::from_secs(60)), |before| {
///         let n = before.and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes) + 1;
///         (n.to_le_bytes().to_vec(), n)
///     })?)
/// }
///
/// let _host = fake::Host::new().install();
/// assert_eq!((count("ann")?, count("ann")?, count("bob")?), (1, 2, 1));
/// # Ok::<(), Error>(())
/// ```
pub struct State(raw::Bucket);

/// A value, and what tells it from earlier ones under its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateEntry {
    /// What was kept.
    pub value: Vec<u8>,
    /// Another one after each change.
    pub version: u64,
}

/// Why something is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateError {
    /// The grant's bytes are used up.
    Quota,
    /// A key above 256 bytes, or a value above 64 KiB.
    TooLarge,
    /// State is not to be had.
    Unavailable(String),
    /// Others change the same key again and again.
    Contended,
    /// Anything else.
    Other(String),
}

/// Why a swap did not happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SwapError {
    /// Somebody else was there first: what is there now.
    Stale(Option<StateEntry>),
    /// It could not be kept.
    Failed(StateError),
}

/// How often [`State::update`] tries.
const ATTEMPTS: u32 = 16;

impl State {
    /// This plugin's space.
    pub fn open() -> Self {
        Self(raw::open_state())
    }

    /// What is kept under a key, unless its time is over.
    ///
    /// # Errors
    /// Where state is not to be had.
    pub fn get(&self, key: &str) -> Result<Option<StateEntry>, StateError> {
        raw::state_get(&self.0, key)
    }

    /// Keeps a value, for so long or until the process ends; gives its version.
    ///
    /// # Errors
    /// Why it is not kept.
    pub fn set(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Result<u64, StateError> {
        raw::state_set(&self.0, key, value, millis(ttl))
    }

    /// Keeps nothing under the key any more.
    ///
    /// # Errors
    /// Where state is not to be had.
    pub fn delete(&self, key: &str) -> Result<(), StateError> {
        raw::state_delete(&self.0, key)
    }

    /// Keeps a value only where what is there has this version (none: where nothing is there); gives the new version.
    ///
    /// # Errors
    /// What is there instead, or why it is not kept.
    pub fn swap(&self, key: &str, version: Option<u64>, value: &[u8], ttl: Option<Duration>) -> Result<u64, SwapError> {
        raw::state_swap(&self.0, key, version, value, millis(ttl))
    }

    /// Makes a value of the one before, so that no other call comes in between: `change` may be asked several times.
    ///
    /// # Errors
    /// Why it is not kept; [`StateError::Contended`] after 16 attempts.
    pub fn update<R>(
        &self,
        key: &str,
        ttl: Option<Duration>,
        mut change: impl FnMut(Option<&[u8]>) -> (Vec<u8>, R),
    ) -> Result<R, StateError> {
        let mut there = self.get(key)?;
        for _ in 0..ATTEMPTS {
            let (value, told) = change(there.as_ref().map(|entry| entry.value.as_slice()));
            match self.swap(key, there.as_ref().map(|entry| entry.version), &value, ttl) {
                Ok(_) => return Ok(told),
                Err(SwapError::Stale(now)) => there = now,
                Err(SwapError::Failed(why)) => return Err(why),
            }
        }
        Err(StateError::Contended)
    }
}

fn millis(ttl: Option<Duration>) -> Option<u64> {
    ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quota => f.write_str("the plugin's state is full"),
            Self::TooLarge => f.write_str("too large to be kept"),
            Self::Contended => f.write_str("too many calls change the same state"),
            Self::Unavailable(why) | Self::Other(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for StateError {}

impl From<StateError> for Error {
    fn from(error: StateError) -> Self {
        Self::Unavailable(format!("state: {error}"))
    }
}
