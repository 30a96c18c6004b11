//! Fakes of what a plugin remembers, signs and counts.

use std::cell::RefCell;

use super::host::{Secret, with_host};
use crate::{SigningError, StateEntry, StateError, SwapError};

/// The plugin's space; the installed host holds it. Nothing ends in it: a test sees what was said by [`Installed::state`].
///
/// [`Installed::state`]: super::Installed::state
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket;

/// A token that is being made.
#[derive(Clone, Debug)]
pub(crate) struct SigningToken {
    claims: String,
    said: RefCell<Vec<String>>,
}

impl SigningToken {
    pub(crate) fn new(claims: &str) -> Self {
        Self { claims: claims.into(), said: RefCell::default() }
    }

    pub(crate) fn key_id(&self, id: &str) {
        self.said.borrow_mut().push(format!("kid={id}"));
    }

    pub(crate) fn token_type(&self, name: &str) {
        self.said.borrow_mut().push(format!("typ={name}"));
    }

    pub(crate) fn algorithm(&self, name: &str) {
        self.said.borrow_mut().push(format!("alg={name}"));
    }
}

pub(crate) fn open_state() -> Bucket {
    Bucket
}

pub(crate) fn state_get(_: &Bucket, key: &str) -> Result<Option<StateEntry>, StateError> {
    Ok(with_host(|host| host.state.get(key).cloned()))
}

pub(crate) fn state_set(_: &Bucket, key: &str, value: &[u8], _: Option<u64>) -> Result<u64, StateError> {
    with_host(|host| {
        if host.state_full {
            return Err(StateError::Quota);
        }
        host.version += 1;
        let version = host.version;
        host.state.insert(key.into(), StateEntry { value: value.to_vec(), version });
        Ok(version)
    })
}

pub(crate) fn state_delete(_: &Bucket, key: &str) -> Result<(), StateError> {
    with_host(|host| drop(host.state.remove(key)));
    Ok(())
}

pub(crate) fn state_swap(
    bucket: &Bucket,
    key: &str,
    version: Option<u64>,
    value: &[u8],
    ttl_ms: Option<u64>,
) -> Result<u64, SwapError> {
    let there = with_host(|host| host.state.get(key).cloned());
    if there.as_ref().map(|entry| entry.version) != version {
        return Err(SwapError::Stale(there));
    }
    state_set(bucket, key, value, ttl_ms).map_err(SwapError::Failed)
}

/// What a fake signs can be read: the claims, the headers, and the key's text.
pub(crate) fn sign(token: &SigningToken, key: &Secret) -> Result<Secret, SigningError> {
    Ok(Secret::new(&format!("signed({};{};{})", token.claims, token.said.borrow().join(","), key.text())))
}

pub(crate) fn hmac_sha256(key: &Secret, message: &[u8]) -> Result<Secret, SigningError> {
    Ok(Secret::new(&format!("hmac({};{})", String::from_utf8_lossy(message), key.text())))
}

pub(crate) fn count(name: &str, labels: &[(&str, &str)], add: u64) {
    figure(name, labels, add as f64);
}

pub(crate) fn observe(name: &str, labels: &[(&str, &str)], value: f64) {
    figure(name, labels, value);
}

fn figure(name: &str, labels: &[(&str, &str)], value: f64) {
    let labels: Vec<String> = labels.iter().map(|(label, text)| format!("{label}={text}")).collect();
    with_host(|host| host.figures.push((name.into(), labels.join(","), value)));
}
