//! People who sign in to the pages: one-time codes, and the sessions that follow.
//!
//! Both are kept as digests with an end; every use reads the store, so that a sign-out holds at once and everywhere. Pages
//! are not the path of a call.

mod code;
pub mod kept;
pub mod oidc;
mod session;

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_model::Secret;
use portcullis_store::{Store, StoreError};
use portcullis_telemetry::Metrics;
use sha2::{Digest as _, Sha256};

pub use code::{CodeError, NewCode};
pub(crate) use session::is_known;
pub use session::{NewSession, Session, SessionError, SessionId, SignedIn, Who, browser_cookie, csrf};

use crate::{
    directory::Directories,
    shelf::{Shelf, ShelfPlan},
};

/// How long a session lasts.
pub const SESSION_LIFE: Duration = Duration::from_secs(12 * 3600);
/// How long a one-time code can be used.
pub const CODE_LIFE: Duration = Duration::from_secs(600);
/// The most sessions of one person; a new one ends the oldest.
const MAX_SESSIONS: usize = 20;
/// How often what has ended is forgotten.
const SWEEP: Duration = Duration::from_secs(300);

/// Sign-in codes and sessions.
pub struct SignIn {
    sessions: Shelf<session::Record>,
    codes: Shelf<code::Record>,
    /// Sign-ins by a provider that came back: each once.
    flows: Shelf<()>,
    directories: Arc<Directories>,
}

impl std::fmt::Debug for SignIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignIn").finish_non_exhaustive()
    }
}

impl SignIn {
    /// Opens what the store has, and forgets what has ended from now on, on the current tokio runtime.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn open(
        store: Arc<dyn Store>,
        directories: Arc<Directories>,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, StoreError> {
        let sessions = ShelfPlan { what: "sessions", prefix: "w/s/", most: 100_000 };
        let codes = ShelfPlan { what: "sign-in codes", prefix: "w/c/", most: 10_000 };
        let flows = ShelfPlan { what: "sign-ins by provider", prefix: "w/f/", most: 20_000 };
        let signin = Arc::new(Self {
            flows: Shelf::open(Arc::clone(&store), Arc::clone(&metrics), flows).await?,
            sessions: Shelf::open(Arc::clone(&store), Arc::clone(&metrics), sessions).await?,
            codes: Shelf::open(store, metrics, codes).await?,
            directories,
        });
        tokio::spawn(keep_house(Arc::downgrade(&signin)));
        Ok(signin)
    }
}

async fn keep_house(signin: Weak<SignIn>) {
    let mut tick = tokio::time::interval(SWEEP);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(signin) = signin.upgrade() else { return };
        for swept in [signin.sessions.sweep().await, signin.codes.sweep().await, signin.flows.sweep().await] {
            if let Err(error) = swept {
                tracing::warn!(%error, "ended sessions could not be forgotten; tried again later");
            }
        }
    }
}

/// The digest under which something secret is kept, as text. What has 128 random bits or more needs no slow hash.
pub(crate) fn digest(label: &str, secret: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest_bytes(label, secret))
}

/// The same as bytes.
pub(crate) fn digest_bytes(label: &str, secret: &[u8]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(label.as_bytes());
    hasher.update([0]);
    hasher.update(secret);
    hasher.finalize().into()
}

/// Random text of so many bytes in base64url.
///
/// # Errors
/// The operating system has no randomness to give.
pub(crate) fn random_text<const N: usize>() -> Result<Secret, getrandom::Error> {
    let mut random = zeroize::Zeroizing::new([0_u8; N]);
    getrandom::fill(&mut *random)?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(*random)))
}
