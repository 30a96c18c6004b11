//! What waits for a person: sign-ins under way, and accounts that were connected and not confirmed yet. In memory: whoever is
//! interrupted by a restart begins again.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use super::error::OAuthError;

/// For how long anything waits.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);
/// The most that waits.
const MOST: usize = 4096;
/// The most that waits for one person of one tenant; the oldest goes.
const MOST_OF_ONE: usize = 16;

/// Whose browser it was, and who.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    /// Of the browser's session.
    pub(crate) session: [u8; 32],
    /// The person, with the tenant.
    pub(crate) user: String,
}

struct Entry<T> {
    binding: Binding,
    until: Instant,
    /// In the order of their coming.
    number: u64,
    what: T,
}

/// Things found by a text that only one browser knows, once.
pub(crate) struct Waiting<T> {
    inner: Mutex<Inner<T>>,
}

struct Inner<T> {
    /// By the digest of the text: what is looked up takes the same time whatever is close to it.
    entries: HashMap<[u8; 32], Entry<T>>,
    count: u64,
}

impl<T> Waiting<T> {
    pub(crate) fn new() -> Self {
        Self { inner: Mutex::new(Inner { entries: HashMap::new(), count: 0 }) }
    }

    /// Keeps something, and gives the text that finds it.
    pub(crate) fn put(&self, binding: Binding, what: T) -> Result<String, OAuthError> {
        let text = random()?;
        let now = Instant::now();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = |entry: &Entry<T>| entry.binding.user == binding.user;
        if inner.entries.values().filter(|e| mine(e)).count() >= MOST_OF_ONE {
            let oldest = inner.entries.iter().filter(|(_, e)| mine(e)).min_by_key(|(_, e)| e.number).map(|(k, _)| *k);
            oldest.map(|key| inner.entries.remove(&key));
        }
        if inner.entries.len() >= MOST {
            inner.entries.retain(|_, entry| entry.until > now);
            if inner.entries.len() >= MOST {
                return Err(OAuthError::Busy);
            }
        }
        inner.count += 1;
        let number = inner.count;
        inner.entries.insert(digest(&text), Entry { binding, until: now + PATIENCE, number, what });
        Ok(text)
    }

    /// Takes something: once, in time, and by the browser and person that it waits for. Whoever else comes with the text has
    /// used it up: then it is known to somebody who should not know it.
    pub(crate) fn take(&self, text: &str, binding: &Binding) -> Option<T> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = inner.entries.remove(&digest(text))?;
        (entry.binding == *binding && entry.until > Instant::now()).then_some(entry.what)
    }

    /// Looks at something that waits for this browser and person, and leaves it where it is.
    pub(crate) fn look<R>(&self, text: &str, binding: &Binding, at: impl FnOnce(&T) -> R) -> Option<R> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = inner.entries.get(&digest(text))?;
        (entry.binding == *binding && entry.until > Instant::now()).then(|| at(&entry.what))
    }

    /// How many wait. Forgets those that waited too long.
    pub(crate) fn sweep(&self) -> usize {
        let now = Instant::now();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.entries.retain(|_, entry| entry.until > now);
        inner.entries.len()
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// 256 random bits.
pub(crate) fn random() -> Result<String, OAuthError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|_| OAuthError::Internal("no randomness"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(session: u8, user: &str) -> Binding {
        Binding { session: [session; 32], user: user.to_owned() }
    }

    #[test]
    fn it_is_found_once_and_by_the_right_one() {
        let waiting = Waiting::new();
        let text = waiting.put(binding(1, "a"), 5).unwrap();
        assert_eq!(waiting.look(&text, &binding(1, "a"), |n| *n), Some(5));
        assert_eq!(waiting.look(&text, &binding(2, "a"), |n| *n), None);
        assert_eq!(waiting.take(&text, &binding(1, "a")), Some(5));
        assert_eq!(waiting.take(&text, &binding(1, "a")), None, "a state that is replayed");
        for other in [binding(2, "a"), binding(1, "b")] {
            let text = waiting.put(binding(1, "a"), 5).unwrap();
            assert_eq!(waiting.take(&text, &other), None);
            assert_eq!(waiting.take(&text, &binding(1, "a")), None, "it was used up");
        }
        assert_eq!(waiting.take("", &binding(1, "a")), None);
    }

    #[test]
    fn it_has_bounds() {
        let waiting = Waiting::new();
        let first = waiting.put(binding(1, "a"), 0).unwrap();
        for _ in 0..MOST_OF_ONE {
            waiting.put(binding(1, "a"), 1).unwrap();
        }
        assert_eq!(waiting.sweep(), MOST_OF_ONE);
        assert_eq!(waiting.take(&first, &binding(1, "a")), None);
        let mut refused = 0;
        for n in 0..MOST {
            refused += usize::from(waiting.put(binding(1, &n.to_string()), 1).is_err());
        }
        assert_eq!((waiting.sweep(), refused), (MOST, MOST_OF_ONE));
    }
}
