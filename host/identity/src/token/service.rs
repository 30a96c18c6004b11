//! Making, listing, revoking and looking up tokens.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use portcullis_model::{
    Name, Secret, Subject,
    text::{deceives, shown},
};
use portcullis_plugin::{TokenFacts, TokenLookupError, Tokens};
use portcullis_store::{Expect, Revision, Store, StoreError, Write};

use super::{
    Live, NotAToken, OnBehalf, TokenDigest, TokenRecord, TokenStatus, Validity,
    live::LiveSet,
    text,
    usage::{self, key},
};
use crate::{
    clock::{millis, now_ms},
    directory::Directories,
};

/// How often a write that met another one is tried again.
const ATTEMPTS: usize = 5;
const MAX_NAME: usize = 120;
const MAX_GATEWAYS: usize = 64;
/// Revocations of one owner go to the store in pieces of this many.
const PIECE: usize = 500;

/// What tokens may be like.
#[derive(Clone, Debug)]
pub struct TokenOptions {
    /// How long a token lives of which nobody said how long.
    pub default_lifetime: Duration,
    /// The longest life; none allows tokens that never expire.
    pub max_lifetime: Option<Duration>,
    /// The most tokens of one owner that work at the same time.
    pub max_per_owner: usize,
    /// How long a revoked or expired token is still listed.
    pub keep_ended: Duration,
    /// How often uses are written down and old tokens are forgotten.
    pub housekeeping: Duration,
}

const DAY: Duration = Duration::from_secs(86_400);

impl Default for TokenOptions {
    fn default() -> Self {
        Self {
            default_lifetime: 90 * DAY,
            max_lifetime: Some(366 * DAY),
            max_per_owner: 1000,
            keep_ended: 30 * DAY,
            housekeeping: Duration::from_secs(60),
        }
    }
}

/// What somebody wants a token to be.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// The tenant.
    pub tenant: Name,
    /// Who calls with it: a user, a team, an agent or the organization.
    pub owner: Subject,
    /// What the owner calls it.
    pub name: Option<String>,
    /// The gateways that it is valid at; at all of the tenant where empty.
    pub gateways: Vec<Name>,
    /// Whether it is for the admin API, and then for no gateway.
    pub admin: bool,
    /// How long it lives; [`TokenOptions::default_lifetime`] where not said.
    pub lifetime: Option<Lifetime>,
    /// The OAuth client that it is issued to, where it is.
    pub on_behalf: Option<OnBehalf>,
}

/// How long a token lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// So long.
    For(Duration),
    /// Until it is revoked; refused unless [`TokenOptions::max_lifetime`] is none.
    Forever,
}

/// A token that was just made.
#[derive(Debug)]
pub struct Created {
    /// Its text: shown once, kept by nobody.
    pub text: Secret,
    /// Everything else.
    pub record: TokenRecord,
}

/// Why a token was not made or revoked.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// There is no such owner.
    #[error("{0} does not exist; tokens belong to a user, a team, an agent or the organization")]
    NoOwner(String),
    /// It would live too long.
    #[error("a token may live {} days at most", .0.as_secs() / 86_400)]
    TooLong(Duration),
    /// It would never work.
    #[error("a token has to live for some time")]
    TooShort,
    /// The owner has too many.
    #[error("{owner} already has {max} tokens that work; revoke some first")]
    TooMany {
        /// The owner.
        owner: String,
        /// The most.
        max: usize,
    },
    /// Its name or scope is no good.
    #[error("{0}")]
    Invalid(&'static str),
    /// There is no token with this id.
    #[error("there is no token with the id \"{0}\"")]
    Unknown(String),
    /// It does not work in this process any more, but may work again after a restart.
    #[error(
        "the revocation is in force here but was not saved, so it may be forgotten at the next start; try again: {0}"
    )]
    NotSaved(StoreError),
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No randomness.
    #[error("the operating system has no randomness to give")]
    NoRandomness,
}

/// Tokens of all tenants. Look-ups never wait.
pub struct TokenService {
    pub(super) store: Arc<dyn Store>,
    pub(super) live: LiveSet,
    pub(super) options: TokenOptions,
    directories: Arc<Directories>,
}

impl TokenService {
    /// Reads all tokens and follows the store from there, on the current tokio runtime, until the service is dropped.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn open(
        store: Arc<dyn Store>,
        directories: Arc<Directories>,
        options: TokenOptions,
    ) -> Result<Arc<Self>, StoreError> {
        let service = Arc::new(Self { store, live: LiveSet::new(), options, directories });
        let revision = service.reload().await?;
        usage::start(&service, revision);
        Ok(service)
    }

    /// Makes a token. It works when this returns, and is durable.
    ///
    /// # Errors
    /// [`TokenError`], all but `Unknown` and `NotSaved`.
    pub async fn create(&self, wanted: NewToken) -> Result<Created, TokenError> {
        let now = now_ms();
        let NewToken { tenant, owner, name, mut gateways, admin, lifetime, on_behalf } = wanted;
        if name.as_ref().is_some_and(|n| n.chars().count() > MAX_NAME || n.chars().any(deceives)) {
            return Err(TokenError::Invalid(
                "a token's name has 120 characters at most, and none that can't be printed",
            ));
        }
        gateways.sort();
        gateways.dedup();
        if gateways.len() > MAX_GATEWAYS {
            return Err(TokenError::Invalid("a token names 64 gateways at most; leave them out to allow all"));
        }
        if admin && !gateways.is_empty() {
            return Err(TokenError::Invalid("a token is for the admin API or for gateways: make one for each"));
        }
        let expires_ms = self.expiry(now, lifetime)?;
        self.directories.refresh();
        let external = on_behalf.is_some() && matches!(owner, Subject::External { .. });
        let since = if external { Some(0) } else { self.directories.load().since(&tenant, &owner) };
        let since = since.ok_or_else(|| TokenError::NoOwner(owner.to_string()))?;
        let of_owner = |live: &&Arc<Live>| live.record.tenant == tenant && live.record.owner == owner;
        if self.live.all().iter().filter(of_owner).filter(|l| l.still_valid(now)).count() >= self.options.max_per_owner
        {
            return Err(TokenError::TooMany { owner: owner.to_string(), max: self.options.max_per_owner });
        }
        let text = text::generate().map_err(|_| TokenError::NoRandomness)?;
        let digest = TokenDigest::of(&text).map_err(|_| TokenError::Invalid("the new token can't be read"))?;
        let record = TokenRecord {
            id: new_id()?,
            tenant,
            name,
            owner,
            gateways,
            admin,
            // A clock that was put back must not orphan a token at once.
            created_ms: now.max(since),
            expires_ms,
            revoked_ms: None,
            last_used_ms: None,
            on_behalf,
            digest,
        };
        let revision = self.store.write(vec![put(&record, Expect::Absent)?]).await?;
        self.live.put(record.clone(), revision);
        Ok(Created { text, record })
    }

    fn expiry(&self, now: u64, lifetime: Option<Lifetime>) -> Result<Option<u64>, TokenError> {
        let max = self.options.max_lifetime;
        match lifetime {
            None => {
                let lifetime = self.options.default_lifetime.min(max.unwrap_or(Duration::MAX));
                Ok(Some(now.saturating_add(millis(lifetime))))
            }
            Some(Lifetime::For(lifetime)) if millis(lifetime) == 0 => Err(TokenError::TooShort),
            Some(Lifetime::For(lifetime)) => match max {
                Some(max) if lifetime > max => Err(TokenError::TooLong(max)),
                _ => Ok(Some(now.saturating_add(millis(lifetime)))),
            },
            Some(Lifetime::Forever) => max.map_or(Ok(None), |max| Err(TokenError::TooLong(max))),
        }
    }

    /// The tokens of a tenant, or of one owner, oldest first. Ended ones are listed for [`TokenOptions::keep_ended`].
    pub fn list(&self, tenant: &Name, owner: Option<&Subject>) -> Vec<TokenRecord> {
        let wanted = |l: &&Arc<Live>| l.record.tenant == *tenant && owner.is_none_or(|o| *o == l.record.owner);
        let mut records: Vec<TokenRecord> = self.live.all().iter().filter(wanted).map(|l| listed(l)).collect();
        records.sort_by(|a, b| (a.created_ms, &a.id).cmp(&(b.created_ms, &b.id)));
        records
    }

    /// One token by its id.
    pub fn get(&self, tenant: &Name, id: &str) -> Option<TokenRecord> {
        self.live.by_id(id).filter(|l| l.record.tenant == *tenant).map(|l| listed(&l))
    }

    /// Whether a token works, apart from the gateways that it is for.
    pub fn status(&self, record: &TokenRecord) -> TokenStatus {
        let Some(live) = self.live.by_id(&record.id) else { return TokenStatus::Revoked };
        match live.validity(None, now_ms(), &self.directories.load()) {
            Validity::Valid | Validity::WrongGateway => TokenStatus::Active,
            Validity::Revoked => TokenStatus::Revoked,
            Validity::Expired => TokenStatus::Expired,
            Validity::Orphaned => TokenStatus::Orphaned,
        }
    }

    /// Revokes a token. It stops working before the store is asked, and when this returns that is durable. Revoking one
    /// that is revoked already is no error.
    ///
    /// # Errors
    /// [`TokenError::Unknown`]; [`TokenError::NotSaved`] where the store did not take it.
    pub async fn revoke(&self, tenant: &Name, id: &str) -> Result<TokenRecord, TokenError> {
        let unknown = || TokenError::Unknown(shown(id, 40));
        let live = self.live.by_id(id).filter(|l| l.record.tenant == *tenant).ok_or_else(unknown)?;
        self.revoke_all(vec![live]).await?;
        self.get(tenant, id).ok_or_else(unknown)
    }

    /// Revokes every token of an owner, and answers how many that were. Otherwise as [`TokenService::revoke`].
    ///
    /// # Errors
    /// [`TokenError::NotSaved`] where the store did not take it.
    pub async fn revoke_owner(&self, tenant: &Name, owner: &Subject) -> Result<usize, TokenError> {
        let mut tokens = self.live.all();
        tokens.retain(|l| l.record.tenant == *tenant && l.record.owner == *owner && l.record.revoked_ms.is_none());
        let count = tokens.len();
        self.revoke_all(tokens).await?;
        Ok(count)
    }

    /// The groups that a provider named of somebody, as the newest token says that a client got by their sign-in, and when it was made.
    pub(crate) fn said(&self, tenant: &Name, (issuer, subject): (&str, &str)) -> Option<(Vec<String>, u64)> {
        let now = now_ms();
        let said = |live: Arc<Live>| {
            let record = &live.record;
            let on_behalf = record.on_behalf.as_ref().filter(|o| o.provider.is_some() && record.tenant == *tenant)?;
            let theirs = on_behalf.identity.as_ref().is_some_and(|(i, s)| i == issuer && s == subject);
            (theirs && live.still_valid(now)).then(|| (on_behalf.groups.clone(), record.created_ms))
        };
        self.live.all().into_iter().filter_map(said).max_by_key(|(_, at)| *at)
    }

    /// Revokes every token that clients hold of somebody because a provider of the tenant vouched for them at a sign-in, and answers how
    /// many that were. Otherwise as [`TokenService::revoke`].
    ///
    /// # Errors
    /// [`TokenError::NotSaved`] where the store did not take it.
    pub(crate) async fn revoke_vouched(
        &self,
        tenant: &Name,
        provider: &Name,
        (issuer, subject): (&str, &str),
    ) -> Result<usize, TokenError> {
        let vouched = |on_behalf: &OnBehalf| {
            on_behalf.provider.as_ref() == Some(provider)
                && on_behalf.identity.as_ref().is_some_and(|(i, s)| i == issuer && s == subject)
        };
        let mut tokens = self.live.all();
        tokens.retain(|l| {
            let record = &l.record;
            record.tenant == *tenant && record.revoked_ms.is_none() && record.on_behalf.as_ref().is_some_and(vouched)
        });
        let count = tokens.len();
        self.revoke_all(tokens).await?;
        Ok(count)
    }

    async fn revoke_all(&self, mut tokens: Vec<Arc<Live>>) -> Result<(), TokenError> {
        tokens.iter().for_each(|live| live.end());
        let mut conflict = None;
        for _ in 0..ATTEMPTS {
            tokens.retain(|live| live.record.revoked_ms.is_none());
            conflict = None;
            for piece in tokens.chunks(PIECE) {
                match self.write_revoked(piece).await {
                    Ok(()) => {}
                    Err(error @ StoreError::Conflict { .. }) => conflict = Some(error),
                    Err(error) => return Err(TokenError::NotSaved(error)),
                }
            }
            if conflict.is_none() {
                return Ok(());
            }
            // Somebody else wrote meanwhile: read what is there and go on with that.
            self.reload().await.map_err(TokenError::NotSaved)?;
            tokens = tokens.iter().filter_map(|l| self.live.by_id(&l.record.id)).collect();
            tokens.iter().for_each(|live| live.end());
        }
        conflict.map_or(Ok(()), |error| Err(TokenError::NotSaved(error)))
    }

    async fn write_revoked(&self, tokens: &[Arc<Live>]) -> Result<(), StoreError> {
        let now = now_ms();
        let revoked: Vec<(TokenRecord, Revision)> = tokens
            .iter()
            .map(|live| (TokenRecord { revoked_ms: Some(now), ..live.record.clone() }, live.revision))
            .collect();
        let batch = revoked.iter().map(|(record, was)| put(record, Expect::Is(*was))).collect::<Result<Vec<_>, _>>()?;
        let revision = self.store.write(batch).await?;
        for (record, _) in revoked {
            self.live.put(record, revision);
        }
        Ok(())
    }

    /// The token of this text, whether it works or not.
    pub(crate) fn by_text(&self, token: &Secret) -> Option<TokenRecord> {
        self.live.by_digest(&TokenDigest::of(token).ok()?).map(|live| live.record.clone())
    }

    /// The newest token of a grant that a client renews its tokens by.
    pub(crate) fn newest_of(&self, tenant: &Name, grant: &str) -> Option<Arc<Live>> {
        self.live.by_grant(grant).filter(|live| live.record.tenant == *tenant)
    }

    /// The token that a verdict speaks of, if it works at this gateway.
    pub(crate) fn live(&self, tenant: &Name, id: &str) -> Option<Arc<Live>> {
        self.live.by_id(id).filter(|live| live.record.tenant == *tenant)
    }

    /// Makes the memory what the store is, and answers from which revision to watch on.
    pub(super) async fn reload(&self) -> Result<Revision, StoreError> {
        let revision = self.store.revision();
        let mut records = Vec::new();
        for record in portcullis_store::scan_all(&*self.store, key::TOKENS).await? {
            if let Some(token) = usage::read(&record) {
                records.push((token, record.revision));
            }
        }
        self.live.replace(records, revision);
        for record in portcullis_store::scan_all(&*self.store, key::USES).await? {
            if let Some((id, at)) = usage::read_use(&record)
                && let Some(live) = self.live.by_id(id)
            {
                live.learn_use(at);
            }
        }
        Ok(revision)
    }
}

impl Tokens for TokenService {
    fn lookup(&self, tenant: &Name, gateway: &Name, token: &Secret) -> Result<TokenFacts, TokenLookupError> {
        let digest = TokenDigest::of(token).map_err(|e| match e {
            NotAToken::Foreign => TokenLookupError::NotOurs,
            NotAToken::Damaged => TokenLookupError::Unknown,
        })?;
        // Another tenant's token is unknown here, not forbidden: it must not be possible to tell that it exists.
        let live =
            self.live.by_digest(&digest).filter(|l| l.record.tenant == *tenant).ok_or(TokenLookupError::Unknown)?;
        match live.validity(Some(gateway), now_ms(), &self.directories.load()) {
            Validity::Valid => Ok(TokenFacts {
                id: live.record.id.clone(),
                subject: live.record.owner.clone(),
                expires_ms: live.record.expires_ms,
            }),
            Validity::Revoked | Validity::Orphaned => Err(TokenLookupError::Revoked),
            Validity::Expired => Err(TokenLookupError::Expired),
            Validity::WrongGateway => Err(TokenLookupError::WrongGateway),
        }
    }
}

fn listed(live: &Live) -> TokenRecord {
    let used = live.last_used_ms();
    TokenRecord { last_used_ms: (used > 0).then_some(used), ..live.record.clone() }
}

fn put(record: &TokenRecord, expect: Expect) -> Result<Write, StoreError> {
    let value =
        serde_json::to_vec(record).map_err(|e| StoreError::Corrupt(format!("a token can't be written: {e}")))?;
    Ok(Write::Put { key: key::token(&record.tenant, &record.id), value: Bytes::from(value), expect })
}

/// 64 random bits: not secret, only different.
fn new_id() -> Result<String, TokenError> {
    let mut random = [0_u8; 8];
    getrandom::fill(&mut random).map_err(|_| TokenError::NoRandomness)?;
    Ok(format!("{:016x}", u64::from_be_bytes(random)))
}
