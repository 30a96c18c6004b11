//! What a connection was granted, as it is sealed in the store under `u/t/{tenant}/{connection}`.

use std::sync::atomic::{AtomicU64, Ordering};

use portcullis_model::{Name, Secret};
use portcullis_store::Revision;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use url::Url;
use zeroize::Zeroizing;

use super::{
    account::Account,
    token::{Authentication, Client},
    web::Bounds,
};

/// The part of a token's life before its end in which it is renewed: a fifth, five minutes at most.
const MOST_AHEAD_MS: u64 = 300_000;
/// A token is not sent any more when it is this near to its end, so that it does not end on the way.
const MARGIN_MS: u64 = 2_000;

/// What was granted, at one moment. A renewal makes another.
#[derive(Debug)]
pub(crate) struct Held {
    /// Tells this from every other one of the process.
    pub(crate) stamp: u64,
    /// The record's; that of the one before where this could not be saved yet.
    pub(crate) revision: Revision,
    /// Whether it is in memory only.
    pub(crate) unsaved: bool,
    /// Made anew each time that somebody connects.
    pub(crate) grant: String,
    /// The server that it is for. None in records of before this was kept.
    pub(crate) server: Option<Name>,
    /// Where requests about that server could go when somebody signed in.
    pub(crate) bounds: Bounds,
    pub(crate) token_endpoint: Url,
    /// Where its tokens are taken back (RFC 7009), if anywhere.
    pub(crate) revocation_endpoint: Option<Url>,
    pub(crate) client: Client,
    /// Whether the client is the one that the operator gave, whose secret may be exchanged there.
    pub(crate) given: bool,
    /// Empty: none is named.
    pub(crate) resource: String,
    pub(crate) account: Account,
    pub(crate) access: Secret,
    pub(crate) refresh: Option<Secret>,
    pub(crate) issued_ms: u64,
    /// When somebody signed in, which renewing does not change; none in records of before this was kept.
    pub(crate) given_ms: Option<u64>,
    pub(crate) expires_ms: Option<u64>,
    /// What was asked for at the last sign-in.
    pub(crate) asked: Vec<String>,
    /// What was granted.
    pub(crate) scopes: Vec<String>,
    /// Why it can't be renewed any more: its owner has to connect again.
    pub(crate) broken: Option<String>,
    /// From when it is renewed.
    pub(crate) renew_ms: Option<u64>,
}

/// The record. Version 1.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    v: u8,
    grant: &'a str,
    server: Option<&'a Name>,
    bounds: Bounds,
    token_endpoint: &'a Url,
    revocation_endpoint: Option<&'a Url>,
    client_id: &'a str,
    client_secret: Option<&'a str>,
    authentication: Authentication,
    given: bool,
    resource: &'a str,
    account: &'a Account,
    access: &'a str,
    refresh: Option<&'a str>,
    issued_ms: u64,
    given_ms: Option<u64>,
    expires_ms: Option<u64>,
    asked: &'a [String],
    scopes: &'a [String],
    broken: Option<&'a str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Read {
    v: u8,
    grant: String,
    #[serde(default)]
    server: Option<Name>,
    #[serde(default)]
    bounds: Bounds,
    token_endpoint: Url,
    #[serde(default)]
    revocation_endpoint: Option<Url>,
    client_id: String,
    client_secret: Option<String>,
    authentication: Authentication,
    given: bool,
    resource: String,
    account: Account,
    access: String,
    refresh: Option<String>,
    issued_ms: u64,
    #[serde(default)]
    given_ms: Option<u64>,
    expires_ms: Option<u64>,
    asked: Vec<String>,
    scopes: Vec<String>,
    broken: Option<String>,
}

/// The next stamp.
pub(crate) fn stamp() -> u64 {
    static STAMPS: AtomicU64 = AtomicU64::new(1);
    STAMPS.fetch_add(1, Ordering::Relaxed)
}

impl Held {
    /// Opens a record. None where it is not one of this form.
    pub(crate) fn read(plain: &Secret, revision: Revision) -> Option<Self> {
        let read: Read = serde_json::from_slice(plain.expose()).ok()?;
        let secret = |text: String| Secret::new(text.into_bytes());
        if read.v != 1 {
            return None;
        }
        Some(Self {
            stamp: stamp(),
            revision,
            unsaved: false,
            grant: read.grant,
            server: read.server,
            bounds: read.bounds,
            token_endpoint: read.token_endpoint,
            revocation_endpoint: read.revocation_endpoint,
            client: Client { id: read.client_id, secret: read.client_secret.map(secret), method: read.authentication },
            given: read.given,
            resource: read.resource,
            account: read.account,
            access: secret(read.access),
            refresh: read.refresh.map(secret),
            issued_ms: read.issued_ms,
            given_ms: read.given_ms,
            expires_ms: read.expires_ms,
            asked: read.asked,
            scopes: read.scopes,
            broken: read.broken,
            renew_ms: renew_at(read.issued_ms, read.expires_ms),
        })
    }

    /// What is sealed.
    pub(crate) fn write(&self) -> Option<Secret> {
        fn text(secret: &Secret) -> Option<&str> {
            std::str::from_utf8(secret.expose()).ok()
        }
        fn optional(secret: &Option<Secret>) -> Option<Option<&str>> {
            match secret {
                Some(secret) => text(secret).map(Some),
                None => Some(None),
            }
        }
        let client_secret = optional(&self.client.secret)?;
        let refresh = optional(&self.refresh)?;
        let written = Written {
            v: 1,
            grant: &self.grant,
            server: self.server.as_ref(),
            bounds: self.bounds,
            token_endpoint: &self.token_endpoint,
            revocation_endpoint: self.revocation_endpoint.as_ref(),
            client_id: &self.client.id,
            client_secret,
            authentication: self.client.method,
            given: self.given,
            resource: &self.resource,
            account: &self.account,
            access: text(&self.access)?,
            refresh,
            issued_ms: self.issued_ms,
            given_ms: self.given_ms,
            expires_ms: self.expires_ms,
            asked: &self.asked,
            scopes: &self.scopes,
            broken: self.broken.as_deref(),
        };
        // Tokens have no characters that JSON escapes; a buffer that grows would leave copies behind.
        let room = 8 << 10;
        let secrets =
            self.access.len() + self.refresh.as_ref().map_or(0, Secret::len) + client_secret.map_or(0, str::len) * 2;
        let scopes: usize = self.asked.iter().chain(&self.scopes).map(|s| s.len() + 4).sum();
        let mut bytes = Zeroizing::new(Vec::with_capacity(room + secrets + scopes));
        serde_json::to_writer(&mut *bytes, &written).ok()?;
        Some(Secret::new(std::mem::take(&mut *bytes)))
    }

    /// The same with other facts.
    pub(crate) fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut next = Self {
            stamp: stamp(),
            revision: self.revision,
            unsaved: self.unsaved,
            grant: self.grant.clone(),
            server: self.server.clone(),
            bounds: self.bounds,
            token_endpoint: self.token_endpoint.clone(),
            revocation_endpoint: self.revocation_endpoint.clone(),
            client: self.client.clone(),
            given: self.given,
            resource: self.resource.clone(),
            account: self.account.clone(),
            access: self.access.clone(),
            refresh: self.refresh.clone(),
            issued_ms: self.issued_ms,
            given_ms: self.given_ms,
            expires_ms: self.expires_ms,
            asked: self.asked.clone(),
            scopes: self.scopes.clone(),
            broken: self.broken.clone(),
            renew_ms: None,
        };
        change(&mut next);
        next.renew_ms = renew_at(next.issued_ms, next.expires_ms);
        next
    }

    /// Whether the access token is at its end.
    pub(crate) fn is_over(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|at| now_ms.saturating_add(margin(self.issued_ms, at)) >= at)
    }

    /// Whether it is time to renew it.
    pub(crate) fn is_due(&self, now_ms: u64) -> bool {
        self.renew_ms.is_some_and(|at| now_ms >= at)
    }

    /// A number that another sign-in changes, and a renewal does not.
    pub(crate) fn account_mark(&self) -> u64 {
        let digest = Sha256::digest(self.grant.as_bytes());
        digest.iter().take(8).fold(0, |n, byte| n << 8 | u64::from(*byte))
    }

    /// The scopes of the last sign-in: what was asked for and what was granted.
    pub(crate) fn covers(&self, scope: &str) -> bool {
        self.asked.iter().chain(&self.scopes).any(|known| known == scope)
    }
}

pub(crate) fn margin(issued_ms: u64, expires_ms: u64) -> u64 {
    (expires_ms.saturating_sub(issued_ms) / 20).min(MARGIN_MS)
}

/// The lesser of five minutes and a fifth of its life before its end, less up to a fifth of that by chance: tokens that were
/// given at one moment are not all renewed at another.
fn renew_at(issued_ms: u64, expires_ms: Option<u64>) -> Option<u64> {
    let expires = expires_ms?;
    let ahead = (expires.saturating_sub(issued_ms) / 5).min(MOST_AHEAD_MS);
    let mut chance = [0; 2];
    // Without randomness it is renewed all the same.
    let _ = getrandom::fill(&mut chance);
    let less = ahead / 5 * u64::from(u16::from_be_bytes(chance)) / u64::from(u16::MAX);
    Some(expires - (ahead - less))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A grant that ends so many milliseconds after its beginning.
    pub(crate) fn held(issued_ms: u64, life_ms: Option<u64>) -> Held {
        let expires_ms = life_ms.map(|l| issued_ms + l);
        Held {
            stamp: stamp(),
            revision: Revision(1),
            unsaved: false,
            grant: "g".into(),
            server: Some("x".parse().unwrap()),
            bounds: Bounds::default(),
            token_endpoint: "https://as.example/token".parse().unwrap(),
            revocation_endpoint: Some("https://as.example/revoke".parse().unwrap()),
            client: Client { id: "c".into(), secret: Some(Secret::new("s\"x")), method: Authentication::Basic },
            given: false,
            resource: "https://x.example/mcp".into(),
            account: Account::of("https://as.example"),
            access: Secret::new("access"),
            refresh: Some(Secret::new("refresh")),
            issued_ms,
            given_ms: None,
            expires_ms,
            asked: vec!["a".into()],
            scopes: vec!["b".into()],
            broken: None,
            renew_ms: renew_at(issued_ms, expires_ms),
        }
    }

    #[test]
    fn a_record_survives_its_text() {
        let one = held(5, Some(1000)).with(|one| one.given_ms = Some(3));
        let two = Held::read(&one.write().unwrap(), Revision(7)).unwrap();
        assert_eq!((two.revision, &*two.grant, two.client.method), (Revision(7), "g", Authentication::Basic));
        assert_eq!(two.access.expose(), b"access");
        assert_eq!(two.refresh.as_ref().unwrap().expose(), b"refresh");
        assert_eq!(two.client.secret.as_ref().unwrap().expose(), b"s\"x");
        assert_ne!(one.stamp, two.stamp);
        assert_eq!(two.with(|renewed| renewed.issued_ms = 9).given_ms, Some(3));
        assert!(two.covers("a") && two.covers("b") && !two.covers("c"));
        assert_eq!((two.server, two.revocation_endpoint), (one.server, one.revocation_endpoint));
        assert!(Held::read(&Secret::new("{}"), Revision(1)).is_none());
    }

    #[test]
    fn it_is_renewed_ahead_of_time() {
        for _ in 0..50 {
            let hour = held(0, Some(3_600_000));
            let ahead = 3_600_000 - hour.renew_ms.unwrap();
            assert!((240_000..=300_000).contains(&ahead), "{ahead}");
            let short = held(0, Some(10_000));
            let ahead = 10_000 - short.renew_ms.unwrap();
            assert!((1_600..=2_000).contains(&ahead), "{ahead}");
            assert!(!short.is_over(9_000) && short.is_over(9_600));
        }
        let endless = held(0, None);
        assert!(!endless.is_due(u64::MAX) && !endless.is_over(u64::MAX));
    }
}
