//! Grants: what one sign-in gave one client. A grant is renewed by refresh tokens, each of which works once; who shows one that
//! was used already ends the whole grant, with every access token of it (RFC 9700 section 4.14).

use std::time::Duration;

use portcullis_model::{Name, Secret, Subject};
use serde::{Deserialize, Serialize};

use super::{
    GRANT_LIFE, OAuth, OAuthError, Target,
    client::Presented,
    confirm::{Confirmed, Said},
    exchange::Asked,
    record::About,
};
use crate::{
    clock::{millis, now_ms},
    signin::{Who, digest, is_known, random_text},
    token::{Lifetime, NewToken, OnBehalf},
};

/// What refresh tokens begin with, so that secret scanners find them in the wrong places.
pub(super) const PREFIX: &str = "pcr_";
const LABEL: &str = "portcullis refresh token 1";
/// Access tokens of a grant that may still work.
const MAX_ACCESS: usize = 8;

/// What the store keeps of a grant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Grant {
    pub(super) client: String,
    pub(super) target: Target,
    pub(super) scopes: Vec<String>,
    pub(super) who: Who,
    pub(super) groups: Vec<String>,
    /// The identity provider that the person signed in by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) provider: Option<Name>,
    /// The digest of the refresh token that works.
    refresh: String,
    /// Ids of access tokens that may still work.
    access: Vec<String>,
    /// When the person signed in, in milliseconds since 1970: whoever gets the name later is somebody else.
    #[serde(default)]
    signed_in_ms: u64,
    /// When that provider last stood by who this is and the groups, in milliseconds since 1970; none where it was at sign-in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    said_ms: Option<u64>,
}

/// What a client gets.
pub struct Issued {
    /// The access token.
    pub access_token: Secret,
    /// The refresh token, where there is one.
    pub refresh_token: Option<Secret>,
    /// How long the access token lives, in seconds.
    pub expires_in_s: u64,
    /// What it may do.
    pub scopes: Vec<String>,
    /// Whose it is, for the record.
    pub owner: String,
    /// The id of the access token, for the record.
    pub token: String,
}

/// Who a grant is for.
pub(super) struct For<'a> {
    pub(super) client: &'a str,
    pub(super) target: &'a Target,
    pub(super) scopes: &'a [String],
    pub(super) who: &'a Who,
    pub(super) groups: &'a [String],
    /// When the person signed in, in milliseconds since 1970.
    pub(super) signed_in_ms: u64,
    /// The identity provider that the person signed in by here; none where a client brought an assertion instead.
    pub(super) provider: Option<&'a Name>,
    /// The grant, where it can be renewed.
    pub(super) grant: Option<&'a str>,
}

impl OAuth {
    /// A new grant with its first tokens. `id` is its own.
    pub(super) async fn grant(&self, id: &str, wanted: For<'_>) -> Result<Issued, OAuthError> {
        let (mut issued, refresh) = (self.access(&wanted).await?, random_text::<32>()?);
        let grant = Grant {
            client: wanted.client.to_owned(),
            target: wanted.target.clone(),
            scopes: wanted.scopes.to_vec(),
            who: wanted.who.clone(),
            groups: wanted.groups.to_vec(),
            provider: wanted.provider.cloned(),
            refresh: digest(LABEL, refresh.expose()),
            access: vec![issued.token.clone()],
            signed_in_ms: wanted.signed_in_ms,
            said_ms: None,
        };
        self.grants.put(id, now_ms() + millis(GRANT_LIFE), &grant).await?;
        issued.refresh_token = Some(text(id, &refresh));
        Ok(issued)
    }

    /// Whose grant a refresh token is of, as far as that can be told.
    pub(super) async fn tenant_of_grant(&self, shown: &Secret) -> Result<portcullis_model::Name, OAuthError> {
        let found = match split(shown) {
            Some((id, _)) => self.grants.get(&id).await?,
            None => None,
        };
        Ok(found.map_or_else(portcullis_model::Name::default_tenant, |f| f.value.target.tenant))
    }

    /// Renews a grant.
    pub(super) async fn renew(
        &self,
        client: &str,
        shown: &Secret,
        asked: &Asked,
        about: &mut About,
    ) -> Result<Issued, OAuthError> {
        let (scope, resource) = (asked.scope.as_deref(), asked.resource.as_deref());
        let (id, secret) = split(shown).ok_or_else(OAuthError::grant)?;
        let found = self.grants.get(&id).await?.ok_or_else(OAuthError::grant)?;
        let grant = &found.value;
        about.is_of(grant);
        if grant.client != client {
            // Another client's refresh token was taken from somewhere.
            self.end_grant(&id).await?;
            about.ended = Some("shown-by-another-client");
            return Err(OAuthError::grant());
        }
        if !same(&digest(LABEL, &secret), &grant.refresh) {
            tracing::warn!(client, grant = id, "a refresh token was used twice: the whole grant is ended");
            self.end_grant(&id).await?;
            about.ended = Some("refresh-token-used-twice");
            return Err(OAuthError::grant());
        }
        // Whoever revokes what a client holds means all of it, the next access token as well.
        let revoked = |token: &String| {
            let record = self.parts.tokens.get(&grant.target.tenant, token);
            record.is_some_and(|record| record.revoked_ms.is_some())
        };
        if grant.access.iter().any(revoked) {
            self.end_grant(&id).await?;
            about.ended = Some("access-token-revoked");
            return Err(OAuthError::grant());
        }
        if let Some(resource) = resource
            && self.target(resource)? != grant.target
        {
            return Err(OAuthError::target());
        }
        // Narrower if that is asked for, never wider (RFC 6749 section 6).
        let scopes = match scope {
            Some(asked) => {
                self.scopes(&grant.target, Some(asked)).into_iter().filter(|s| grant.scopes.contains(s)).collect()
            }
            None => grant.scopes.clone(),
        };
        let said = Said { groups: grant.groups.clone(), at_ms: grant.said_ms.unwrap_or(grant.signed_in_ms) };
        let said = match self.confirmed(&grant.target.tenant, &grant.who, grant.provider.as_ref(), said).await? {
            Confirmed::Said(said) => said,
            Confirmed::TookBack => {
                self.end_grant(&id).await?;
                about.ended = Some("refused-by-provider");
                return Err(OAuthError::grant());
            }
        };
        let fresh = random_text::<32>()?;
        let wanted = For {
            client,
            target: &grant.target,
            scopes: &scopes,
            who: &grant.who,
            groups: &said.groups,
            signed_in_ms: grant.signed_in_ms,
            provider: grant.provider.as_ref(),
            grant: Some(&id),
        };
        let mut issued = self.access(&wanted).await?;
        let mut next = grant.clone();
        (next.groups, next.said_ms) = (said.groups.clone(), Some(said.at_ms));
        next.refresh = digest(LABEL, fresh.expose());
        next.access.push(issued.token.clone());
        let over = next.access.len().saturating_sub(MAX_ACCESS);
        let dropped: Vec<String> = next.access.drain(..over).collect();
        if !self.grants.replace(&id, &found, found.until_ms, &next).await? {
            // Somebody renewed it at the same moment, with the same token: one of the two is no honest client.
            self.parts.tokens.revoke(&grant.target.tenant, &issued.token).await?;
            self.end_grant(&id).await?;
            about.ended = Some("refresh-token-used-twice");
            return Err(OAuthError::grant());
        }
        // What the grant does not know any more, its end could not end.
        for token in &dropped {
            self.revoke_access(&grant.target.tenant, token).await?;
        }
        issued.refresh_token = Some(text(&id, &fresh));
        Ok(issued)
    }

    /// An access token alone.
    pub(super) async fn access(&self, wanted: &For<'_>) -> Result<Issued, OAuthError> {
        let tenant = &wanted.target.tenant;
        let identity = match wanted.who {
            Who::Identity { issuer, subject } => Some((issuer.clone(), subject.clone())),
            Who::User(_) => None,
        };
        let subject = {
            self.parts.directories.refresh();
            let directory = self.parts.directories.load();
            match wanted.who {
                Who::User(name) => {
                    let user = portcullis_model::Subject::User(name.clone());
                    // A sign-in of an earlier user of this name is nobody's.
                    let since = directory.since(tenant, &user).ok_or_else(OAuthError::grant)?;
                    if wanted.signed_in_ms < since {
                        return Err(OAuthError::grant());
                    }
                    user
                }
                Who::Identity { issuer, subject } => {
                    let principal = directory.external(tenant, issuer, subject, wanted.groups.to_vec());
                    let principal = principal.map_err(|_| OAuthError::grant())?;
                    // Asked again at each renewal: whoever is nobody any more gets nothing more.
                    let fleet = self.parts.registry.snapshot();
                    let anybody =
                        || fleet.identity_providers(tenant).any(|p| p.spec.anybody && p.spec.issuer == *issuer);
                    if !is_known(&principal) && !anybody() {
                        return Err(OAuthError::grant());
                    }
                    principal.subject
                }
            }
        };
        let on_behalf = OnBehalf {
            client: wanted.client.to_owned(),
            scopes: wanted.scopes.to_vec(),
            identity,
            groups: wanted.groups.to_vec(),
            provider: wanted.provider.cloned(),
            grant: wanted.grant.map(str::to_owned),
        };
        self.make(wanted.target, subject, on_behalf).await
    }

    pub(super) async fn make(
        &self,
        target: &Target,
        owner: portcullis_model::Subject,
        on_behalf: OnBehalf,
    ) -> Result<Issued, OAuthError> {
        let (scopes, shown) = (on_behalf.scopes.clone(), owner.to_string());
        let wanted = NewToken {
            tenant: target.tenant.clone(),
            owner,
            name: None,
            gateways: vec![target.gateway.clone()],
            admin: false,
            lifetime: Some(Lifetime::For(self.options.access_life + grace(self.options.access_life))),
            on_behalf: Some(on_behalf),
        };
        let created = self.parts.tokens.create(wanted).await?;
        Ok(Issued {
            access_token: created.text,
            refresh_token: None,
            expires_in_s: self.options.access_life.as_secs(),
            scopes,
            owner: shown,
            token: created.record.id,
        })
    }

    /// Ends every grant of somebody, also those that no token is of just now.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn end_grants_of(&self, tenant: &Name, owner: &Subject) -> Result<usize, OAuthError> {
        let mut ended = 0;
        for (id, found) in self.grants.list("").await? {
            let grant = &found.value;
            let theirs = grant.target.tenant == *tenant
                && match &grant.who {
                    Who::User(name) => *owner == Subject::User(name.clone()),
                    Who::Identity { issuer, subject } => {
                        let directory = self.parts.directories.load_full();
                        let principal = directory.external(tenant, issuer, subject, grant.groups.clone());
                        principal.is_ok_and(|p| p.subject == *owner)
                    }
                };
            if theirs {
                self.end_grant(&id).await?;
                ended += 1;
            }
        }
        Ok(ended)
    }

    /// For how long a client gets access that is let in now, for whoever lets it in. `vouched` is whether an identity provider says who
    /// they are.
    pub fn how_long(&self, vouched: bool) -> String {
        let life = match self.options.access_life.as_secs() {
            seconds if seconds.is_multiple_of(60) => format!("{} minutes", seconds / 60),
            seconds => format!("{seconds} seconds"),
        };
        let days = GRANT_LIFE.as_secs() / 86_400;
        let until = if vouched { ", as long as your sign-in at your identity provider counts," } else { "" };
        format!("It gets access for {life} at a time{until} for {days} days at most.")
    }

    /// Ends a grant and every access token of it.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn end_grant(&self, id: &str) -> Result<(), OAuthError> {
        // Taken, so that who renews it at this moment fails.
        while let Some(found) = self.grants.get(id).await? {
            if let Some(grant) = self.grants.take(id).await? {
                for token in &grant.access {
                    self.revoke_access(&grant.target.tenant, token).await?;
                }
                return Ok(());
            }
            drop(found);
        }
        Ok(())
    }

    /// An access token that is gone already is no error.
    async fn revoke_access(&self, tenant: &portcullis_model::Name, token: &str) -> Result<(), OAuthError> {
        match self.parts.tokens.revoke(tenant, token).await {
            Ok(_) | Err(crate::TokenError::Unknown(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Answers the revocation endpoint (RFC 7009).
    ///
    /// # Errors
    /// `invalid_client`, or those of the store.
    pub async fn revoke_shown(&self, presented: &Presented, shown: &Secret) -> Result<(), OAuthError> {
        let mut about = About::default();
        let answered = self.take_back(presented, shown, &mut about).await;
        self.record_revoked(presented, about, &answered).await;
        answered.map(drop)
    }

    /// Answers whether there was something to take back.
    async fn take_back(&self, presented: &Presented, shown: &Secret, about: &mut About) -> Result<bool, OAuthError> {
        let tenant = match split(shown) {
            Some((id, _)) => self.grants.get(&id).await?.map(|f| f.value.target.tenant),
            None => self.parts.tokens.by_text(shown).map(|r| r.tenant),
        };
        let tenant = tenant.unwrap_or_else(portcullis_model::Name::default_tenant);
        let client = self.authenticate(&tenant, presented).await?;
        about.client = Some(client.id.clone());
        self.revoke(&client.id, shown, about).await
    }

    /// Revokes what a client shows: a refresh token with its whole grant, or an access token. What is unknown, or another
    /// client's, is no error (RFC 7009 section 2.2). Answers whether there was something.
    async fn revoke(&self, client: &str, shown: &Secret, about: &mut About) -> Result<bool, OAuthError> {
        if let Some((id, secret)) = split(shown) {
            let Some(found) = self.grants.get(&id).await? else { return Ok(false) };
            if found.value.client != client || !same(&digest(LABEL, &secret), &found.value.refresh) {
                return Ok(false);
            }
            about.is_of(&found.value);
            self.end_grant(&id).await?;
            return Ok(true);
        }
        let Some(record) = self.parts.tokens.by_text(shown) else { return Ok(false) };
        if record.revoked_ms.is_some() || record.on_behalf.is_none_or(|o| o.client != client) {
            return Ok(false);
        }
        let gateway = record.gateways.into_iter().next();
        about.target = gateway.map(|gateway| Target { tenant: record.tenant.clone(), gateway });
        (about.owner, about.token) = (Some(record.owner.to_string()), Some(record.id.clone()));
        self.parts.tokens.revoke(&record.tenant, &record.id).await?;
        Ok(true)
    }
}

/// How much longer a token works than its client is told: clients that go by the clock renew it in time also where the answer was
/// slow. Some ask the person again where they are refused, without trying to renew.
fn grace(life: Duration) -> Duration {
    (life / 4).min(Duration::from_secs(10))
}

fn same(a: &str, b: &str) -> bool {
    use subtle::ConstantTimeEq as _;
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

fn text(id: &str, secret: &Secret) -> Secret {
    let mut text = zeroize::Zeroizing::new(format!("{PREFIX}{id}.").into_bytes());
    text.extend_from_slice(secret.expose());
    Secret::new(text.as_slice())
}

/// A grant's id and its refresh token's secret part.
fn split(shown: &Secret) -> Option<(String, zeroize::Zeroizing<Vec<u8>>)> {
    let text = std::str::from_utf8(shown.expose()).ok()?;
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('.')?;
    let plain = |t: &str| t.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    (id.len() <= 32 && plain(id) && secret.len() == 43 && plain(secret))
        .then(|| (id.to_owned(), zeroize::Zeroizing::new(secret.as_bytes().to_vec())))
}
