//! Who is calling: a gateway's auth providers in order, and what they said, remembered.
//!
//! The warm path hashes the credential once, looks one entry up and reads two atomics; it asks no plugin, takes no lock and
//! waits for nothing. Whatever goes wrong on the cold path refuses.

mod callers_token;
mod limit;
mod provider;
mod refusal;
mod verdicts;

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderMap, header::AUTHORIZATION};
use portcullis_model::{Name, Principal, Secret, Subject};
use portcullis_plugin::{
    Asserted, AssertedPrincipal, AuthRequest, ClientCertificate, PluginError, PluginFailure, Read, Tokens as _, Verdict,
};

pub(crate) use limit::network;
pub use limit::{Failures, LimitOptions};
pub use provider::{Provider, ProviderAnswer, ProviderHook};
pub use refusal::AuthRefusal;

use crate::{
    clock::{millis, now_ms},
    directory::{Directories, Directory},
    jwt::JwtService,
    signin::kept::{KeptTokens, Whose},
    token::{Live, TokenService, Validity},
};
use verdicts::{Basis, Dependences, Entry, Stamp, Verdicts, presents_credential};

/// Where programs send a token of ours that can't set `Authorization`.
const API_KEY: &str = "x-api-key";

/// How verdicts are remembered, and failures limited.
#[derive(Clone, Debug)]
pub struct AuthOptions {
    /// The longest that a verdict on somebody of an identity provider is used; security wants 60 seconds at most.
    pub external: Duration,
    /// The longest that a verdict on a token of ours is used before its provider is asked again. Expiry, revocation and
    /// changes of teams hold at once in any case.
    pub own: Duration,
    /// How long a refusal is repeated without asking.
    pub refused: Duration,
    /// Bytes that remembered verdicts may take.
    pub verdict_bytes: u64,
    /// The most refusals that are remembered.
    pub refusals: usize,
    /// How many failures a client address may have.
    pub limit: LimitOptions,
}

impl Default for AuthOptions {
    fn default() -> Self {
        Self {
            external: Duration::from_secs(60),
            own: Duration::from_secs(300),
            refused: Duration::from_secs(5),
            verdict_bytes: 32 << 20,
            refusals: 4096,
            limit: LimitOptions::default(),
        }
    }
}

/// What a client sent to prove who it is.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// The tenant whose gateway was asked.
    pub tenant: &'a Name,
    /// The gateway that was asked.
    pub gateway: &'a Name,
    /// The HTTP method.
    pub method: &'a str,
    /// The path, without query.
    pub path: &'a str,
    /// The client's address, behind trusted proxies.
    pub address: IpAddr,
    /// The request's headers.
    pub headers: &'a HeaderMap,
    /// The certificate that the client proved in the TLS handshake. One whose time is over counts for nothing.
    pub certificate: Option<&'a Arc<ClientCertificate>>,
    /// The request's id, for the log.
    pub request: &'a str,
}

/// Asks auth providers, and remembers.
pub struct Authenticator {
    directories: Arc<Directories>,
    tokens: Arc<TokenService>,
    jwt: Arc<JwtService>,
    options: AuthOptions,
    verdicts: Verdicts,
    failures: Failures,
    kept: Option<Arc<KeptTokens>>,
}

impl Authenticator {
    /// One that has asked nobody yet. `tokens` and `jwt` are those that the providers use.
    pub fn new(
        directories: Arc<Directories>,
        tokens: Arc<TokenService>,
        jwt: Arc<JwtService>,
        options: AuthOptions,
    ) -> Arc<Self> {
        Arc::new(Self::made(directories, tokens, jwt, options, None))
    }

    /// The same; callers with a token of ours that they got by signing in have what is kept of that sign-in.
    pub fn keeping(
        directories: Arc<Directories>,
        tokens: Arc<TokenService>,
        jwt: Arc<JwtService>,
        options: AuthOptions,
        kept: Arc<KeptTokens>,
    ) -> Arc<Self> {
        Arc::new(Self::made(directories, tokens, jwt, options, Some(kept)))
    }

    fn made(
        directories: Arc<Directories>,
        tokens: Arc<TokenService>,
        jwt: Arc<JwtService>,
        options: AuthOptions,
        kept: Option<Arc<KeptTokens>>,
    ) -> Self {
        let verdicts = Verdicts::new(options.verdict_bytes, options.refusals);
        let failures = Failures::new(&options.limit);
        Self { directories, tokens, jwt, options, verdicts, failures, kept }
    }

    /// Who is calling. Providers are asked in order: `not-mine` goes to the next one, everything else is final. Nobody's
    /// caller is `anonymous` where the gateway allows that and no credential was sent.
    ///
    /// # Errors
    /// [`AuthRefusal`], ready to be answered.
    pub async fn authenticate(
        &self,
        providers: &[Arc<Provider>],
        anonymous: bool,
        presented: &Presented<'_>,
    ) -> Result<Arc<Principal>, AuthRefusal> {
        let now = now_ms();
        // It was in force at the handshake, which may be long ago.
        let certificate = presented.certificate.filter(|certificate| now < certificate.expires_ms);
        let presented = &Presented { certificate, ..*presented };
        let base = verdicts::base_key(providers, presented);
        if let Some(principal) = self.remembered(&base, presented, now) {
            return Ok(principal);
        }
        let credential = presents_credential(presented.headers);
        if !credential && providers.is_empty() && anonymous {
            return Ok(Arc::new(Principal::anonymous(presented.tenant.clone())));
        }
        // Taken before anybody is asked: what changes meanwhile makes the verdict be made again.
        let directory = self.directories.load_full();
        let refused = self.verdicts.refused(&base, directory.generation(), now);
        // Who sends no credential guesses none. Behind one address there may be many people, so what is limited is
        // credentials that prove nothing, and not who comes from there with one that does.
        if credential
            && let Some(wait) = self.failures.wait(presented.address)
            && (refused.is_some() || !self.proves_something(presented))
        {
            return Err(AuthRefusal::limited(wait));
        }
        if let Some(refusal) = refused {
            self.failures.note(presented.address);
            return Err(refusal);
        }
        let answer = self.ask(providers, anonymous && !credential, presented, &base, &directory).await;
        if let Err(refusal) = &answer
            && refusal.fault.side != portcullis_model::Side::Gateway
        {
            // Who sends no credential learns how to get one, and is no attacker for asking.
            if credential {
                self.failures.note(presented.address);
                let until = now.saturating_add(millis(self.options.refused));
                self.verdicts.refuse(base, refusal.clone(), directory.generation(), until);
            }
        }
        answer
    }

    /// Whether whoever was let in as this would still be, as far as is known here: the token works at this gateway, and whom
    /// it speaks for is there. Identity providers are not asked again. Cheap: memory only.
    pub fn stands(&self, principal: &Principal, gateway: &Name) -> bool {
        let directory = self.directories.load();
        let tenant = &principal.tenant;
        match (&principal.grant, &principal.token, &principal.subject) {
            // A client that renews its token holds what it held. Its token may have ended without it having come with the next one
            // yet, so that alone ends nothing; the grant's end revokes the token, and after an hour it is forgotten.
            (Some(grant), ..) => self
                .tokens
                .newest_of(tenant, grant)
                .is_some_and(|live| live.validity(Some(gateway), 0, &directory) == Validity::Valid),
            (None, Some(id), _) => self
                .tokens
                .live(tenant, id)
                .is_some_and(|live| live.validity(Some(gateway), now_ms(), &directory) == Validity::Valid),
            (None, None, Subject::External { .. } | Subject::Anonymous) => true,
            (None, None, subject) => directory.principal(tenant, subject).is_some(),
        }
    }

    /// Whoever was let in as this, with the teams and roles of now; none where they would not be let in any more. As
    /// [`Authenticator::stands`], from what is known here: what an identity provider said beside its groups stays as it was, and
    /// so do the teams of a user who was let in by its token.
    pub fn as_of_now(&self, principal: &Arc<Principal>, gateway: &Name) -> Option<Arc<Principal>> {
        if !self.stands(principal, gateway) {
            return None;
        }
        let (tenant, directory) = (&principal.tenant, self.directories.load());
        let live = principal.token.as_ref().and_then(|id| self.tokens.live(tenant, id));
        let on_behalf = live.as_ref().and_then(|live| live.record.on_behalf.as_ref());
        let now = match (on_behalf.and_then(|o| Some((o, o.identity.as_ref()?))), &principal.subject) {
            (Some((on_behalf, (issuer, subject))), _) => {
                directory.external(tenant, issuer, subject, on_behalf.groups.clone()).ok()?
            }
            (None, Subject::Anonymous) => return Some(Arc::clone(principal)),
            (None, Subject::External { issuer, subject }) => {
                directory.external(tenant, issuer, subject, principal.groups.clone()).ok()?
            }
            (None, Subject::User(_)) if principal.token.is_none() && !principal.groups.is_empty() => {
                return Some(Arc::clone(principal));
            }
            (None, subject) => directory.principal(tenant, subject)?,
        };
        // Somebody else by now, such as a user who claims that identity.
        if now.subject != principal.subject {
            return None;
        }
        let mut same = Principal::clone(principal);
        same.teams = now.teams;
        if principal.token.is_some() {
            same.roles = now.roles;
        }
        Some(Arc::new(same))
    }

    /// Whether a credential is worth asking providers about, though its address failed too often: a token of ours that works
    /// here, or one that an issuer signed whose keys are known. Both are told in memory, in microseconds. What only a
    /// provider can tell, such as a key that it looks up elsewhere, waits.
    fn proves_something(&self, presented: &Presented<'_>) -> bool {
        presented_token(presented.headers).is_some_and(|token| {
            self.tokens.lookup(presented.tenant, presented.gateway, &token).is_ok() || self.jwt.signed(&token)
        })
    }

    /// The warm path.
    fn remembered(&self, base: &[u8; 32], presented: &Presented<'_>, now: u64) -> Option<Arc<Principal>> {
        let entry = self.verdicts.get(base, presented)?;
        if now >= entry.expires_ms {
            return None;
        }
        let directory = self.directories.load();
        if let Basis::Token(live) = &entry.basis {
            if !live.still_valid(now) {
                return None;
            }
            if let Some(principal) = entry.principal(self.stamp(&entry.basis, &directory)) {
                live.touch(now);
                return Some(principal);
            }
            if live.validity(Some(presented.gateway), now, &directory) != Validity::Valid {
                return None;
            }
        } else if let Some(principal) = entry.principal(self.stamp(&entry.basis, &directory)) {
            return Some(principal);
        }
        // People changed since: who this is stays, what it belongs to is read again. No provider needs to be asked.
        let stamp = self.stamp(&entry.basis, &directory);
        let principal = self.build(&entry.basis, &entry.asserted, presented.tenant, &directory).ok()?;
        Some(entry.renew(stamp, principal))
    }

    /// Under which people, and which kept sign-ins where that matters, a principal is made. To be taken before it is made.
    fn stamp(&self, basis: &Basis, directory: &Directory) -> Stamp {
        let kept = match (basis, &self.kept) {
            (Basis::Token(live), Some(kept)) if is_signed_in(live) => kept.generation(),
            _ => 0,
        };
        (directory.generation(), kept)
    }

    /// The principal that a verdict means under this directory.
    fn build(
        &self,
        basis: &Basis,
        asserted: &AssertedPrincipal,
        tenant: &Name,
        directory: &Directory,
    ) -> Result<Arc<Principal>, AuthRefusal> {
        let mut principal = build(basis, asserted, tenant, directory)?;
        if let (Basis::Token(live), Some(kept)) = (basis, &self.kept)
            && let Some(whose) = signed_in(live)
        {
            principal.bearer = kept.of(&whose);
        }
        Ok(Arc::new(principal))
    }

    async fn ask(
        &self,
        providers: &[Arc<Provider>],
        anonymous: bool,
        presented: &Presented<'_>,
        base: &[u8; 32],
        directory: &Arc<Directory>,
    ) -> Result<Arc<Principal>, AuthRefusal> {
        let request = request(presented);
        let mut dependences = Dependences::default();
        for provider in providers {
            let ProviderAnswer { verdict, reads } = match provider.hook.ask(&request).await {
                Ok(answer) => answer,
                Err(failure) => return Err(failed(provider, presented, &failure)),
            };
            dependences.add(reads.as_deref());
            match verdict {
                Verdict::NotMine { .. } => {}
                Verdict::Anonymous { .. } => {
                    return if anonymous {
                        Ok(Arc::new(Principal::anonymous(presented.tenant.clone())))
                    } else {
                        Err(AuthRefusal::nobody())
                    };
                }
                Verdict::Challenge { parameters, message } => return Err(AuthRefusal::invalid(message, &parameters)),
                Verdict::Refused(message) => return Err(AuthRefusal::invalid(message, "error=\"invalid_token\"")),
                Verdict::Accepted { principal, expires_ms, vary, .. } => {
                    let vary: Vec<Read> = vary.into_iter().map(|h| Read::Header(h.to_ascii_lowercase())).collect();
                    dependences.add(Some(&vary));
                    return self.accept(*principal, expires_ms, dependences, presented, base, directory);
                }
            }
        }
        if anonymous {
            return Ok(Arc::new(Principal::anonymous(presented.tenant.clone())));
        }
        Err(if presents_credential(presented.headers) { AuthRefusal::unknown() } else { AuthRefusal::nobody() })
    }

    fn accept(
        &self,
        asserted: AssertedPrincipal,
        expires_ms: Option<u64>,
        dependences: Dependences,
        presented: &Presented<'_>,
        base: &[u8; 32],
        directory: &Arc<Directory>,
    ) -> Result<Arc<Principal>, AuthRefusal> {
        let now = now_ms();
        let (basis, most) = match &asserted.who {
            Asserted::Token(facts) => {
                // The provider's word is not enough: it may have kept it for a while, or made it up.
                let live = self.tokens.live(presented.tenant, &facts.id).ok_or_else(AuthRefusal::unknown)?;
                match live.validity(Some(presented.gateway), now, directory) {
                    Validity::Valid => {}
                    Validity::Expired => return Err(AuthRefusal::ended("the token has expired")),
                    Validity::Revoked | Validity::Orphaned => {
                        return Err(AuthRefusal::ended("the token was revoked"));
                    }
                    Validity::WrongGateway => return Err(AuthRefusal::ended("the token is not for this gateway")),
                }
                live.touch(now);
                (Basis::Token(live), self.options.own)
            }
            Asserted::External { issuer, subject } => {
                let token = callers_token::of(asserted.token.as_ref(), bearer(presented.headers));
                (Basis::External { issuer: issuer.clone(), subject: subject.clone(), token }, self.options.external)
            }
        };
        let expires = expires_ms.unwrap_or(u64::MAX).min(now.saturating_add(millis(most)));
        let stamp = self.stamp(&basis, directory);
        let principal = self.build(&basis, &asserted, presented.tenant, directory)?;
        // Nobody says from when on it is over, or it is over already: it holds for this request and is not remembered.
        if expires > now {
            let entry = Arc::new(Entry::new(basis, asserted, expires, stamp, Arc::clone(&principal)));
            self.verdicts.put(base, presented, &dependences, entry);
        }
        Ok(principal)
    }
}

/// Whether a token of ours was issued for a sign-in at an identity provider.
fn is_signed_in(live: &Live) -> bool {
    live.record.on_behalf.as_ref().is_some_and(|o| o.identity.is_some() && o.provider.is_some())
}

/// Whose sign-in at an identity provider a token of ours was issued for, where it was.
fn signed_in(live: &Live) -> Option<Whose> {
    let on_behalf = live.record.on_behalf.as_ref()?;
    let ((issuer, subject), provider) = (on_behalf.identity.clone()?, on_behalf.provider.clone()?);
    Some(Whose { tenant: live.record.tenant.clone(), provider, issuer, subject })
}

/// The principal of a verdict, without what is kept of a sign-in.
fn build(
    basis: &Basis,
    asserted: &AssertedPrincipal,
    tenant: &Name,
    directory: &Directory,
) -> Result<Principal, AuthRefusal> {
    let mut principal = match basis {
        Basis::Token(live) => {
            let on_behalf = live.record.on_behalf.as_ref();
            let mut principal = match on_behalf.and_then(|o| o.identity.as_ref().map(|identity| (o, identity))) {
                Some((on_behalf, (issuer, subject))) => directory
                    .external(tenant, issuer, subject, on_behalf.groups.clone())
                    .map_err(|e| AuthRefusal::denied(e.to_string()))?,
                None => {
                    let owner = directory.principal(tenant, &live.record.owner);
                    let mut principal = owner.ok_or_else(|| AuthRefusal::ended("the token's owner does not exist"))?;
                    principal.groups.clone_from(&asserted.groups);
                    principal
                }
            };
            principal.token = Some(live.record.id.clone());
            principal.grant = on_behalf.and_then(|o| o.grant.clone());
            principal.scopes = on_behalf.map(|o| o.scopes.clone());
            principal
        }
        Basis::External { issuer, subject, token } => {
            let mut principal = directory
                .external(tenant, issuer, subject, asserted.groups.clone())
                .map_err(|e| AuthRefusal::denied(e.to_string()))?;
            principal.bearer.clone_from(token);
            principal
        }
    };
    if principal.display_name.is_none() {
        principal.display_name.clone_from(&asserted.display_name);
    }
    principal.roles.extend(asserted.roles.iter().cloned());
    principal.roles.sort();
    principal.roles.dedup();
    principal.claims = asserted.claims.iter().cloned().collect();
    Ok(principal)
}

/// What a plugin may know of the request. Made on the cold path only, because it copies.
fn request(presented: &Presented<'_>) -> AuthRequest {
    AuthRequest {
        tenant: presented.tenant.clone(),
        gateway: presented.gateway.clone(),
        method: presented.method.into(),
        path: presented.path.into(),
        peer: presented.address.to_string().into(),
        headers: Arc::new(presented.headers.clone()),
        bearer: presented_token(presented.headers),
        certificate: presented.certificate.cloned(),
    }
}

/// The token of `Authorization: Bearer` (RFC 6750 section 2.1); none where there are several such headers, because a
/// proxy in front may have believed another one.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<Secret> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next()?.as_bytes();
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.split_at_checked(6)?;
    let token = token.strip_prefix(b" ")?.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer") && !token.is_empty()).then(|| Secret::new(token))
}

/// What proves who asks: the bearer token, or else a token of ours in `X-API-Key`, for programs that can set no other header.
fn presented_token(headers: &HeaderMap) -> Option<Secret> {
    if headers.contains_key(AUTHORIZATION) {
        return bearer(headers);
    }
    let mut values = headers.get_all(API_KEY).iter();
    let value = values.next()?.as_bytes().trim_ascii();
    // Keys of others are others' to read.
    (values.next().is_none() && value.starts_with(crate::token::PREFIX.as_bytes())).then(|| Secret::new(value))
}

/// A provider without an answer refuses. What it says in words of its own may be read; why it broke is for operators.
fn failed(provider: &Provider, presented: &Presented<'_>, failure: &PluginFailure) -> AuthRefusal {
    match failure {
        PluginFailure::Error(PluginError::Denied { message, .. }) => AuthRefusal::denied(message.clone()),
        PluginFailure::Error(PluginError::NeedsConsent { url, message }) => AuthRefusal::consent(message, url),
        PluginFailure::Error(PluginError::NotFound) => AuthRefusal::unknown(),
        PluginFailure::Error(PluginError::Expired) => AuthRefusal::ended("the credential has expired"),
        _ => {
            let plugin = provider.hook.name();
            let (tenant, gateway, request) = (presented.tenant, presented.gateway, presented.request);
            tracing::error!(request, %plugin, %tenant, %gateway, error = %failure, "an auth provider has no answer; the request is refused");
            let passing = matches!(
                failure,
                PluginFailure::PoolFull
                    | PluginFailure::Quarantined
                    | PluginFailure::Timeout
                    | PluginFailure::Error(
                        PluginError::Timeout | PluginError::Unavailable(_) | PluginError::Upstream { .. }
                    )
            );
            AuthRefusal::unavailable(passing)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_key_is_a_token_of_ours_and_never_beside_a_bearer() {
        let check = |pairs: &[(&'static str, &str)], wanted: Option<&str>| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, value.parse().unwrap());
            }
            let token = presented_token(&headers);
            assert_eq!(token.as_ref().map(|t| std::str::from_utf8(t.expose()).unwrap()), wanted, "{pairs:?}");
        };
        check(&[("x-api-key", "pcl_abc")], Some("pcl_abc"));
        check(&[("x-api-key", "sk-abc")], None);
        check(&[("x-api-key", "pcl_a"), ("x-api-key", "pcl_b")], None);
        check(&[("authorization", "Bearer pcl_a"), ("x-api-key", "pcl_b")], Some("pcl_a"));
        check(&[("authorization", "Basic x"), ("x-api-key", "pcl_b")], None);
    }

    #[test]
    fn a_bearer_token_is_read_as_the_rfc_says() {
        let check = |values: &[&str], expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            let token = bearer(&headers);
            let found = token.as_ref().map(|t| std::str::from_utf8(t.expose()).unwrap());
            assert_eq!(found, expected, "{values:?}");
        };
        check(&["Bearer abc"], Some("abc"));
        check(&["bearer abc"], Some("abc"));
        check(&["BEARER  abc "], Some("abc"));
        check(&["Bearer"], None);
        check(&["Bearer "], None);
        check(&["Bearerabc"], None);
        check(&["Basic abc"], None);
        check(&["é"], None);
        check(&[], None);
        check(&["Bearer a", "Bearer b"], None);
    }
}
