//! Signing in by an identity provider (OpenID Connect Core 1.0, authorization code flow with PKCE).
//!
//! What a browser has to bring back is in its own cookie, and state, nonce and PKCE verifier follow from that, so that nobody
//! fills a table of ours by starting to sign in. ID tokens are verified by the same service as every other token of others.

mod ended;
mod groups;
mod renew;
mod wire;

pub(crate) use renew::Reread;

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_model::{
    Name, Secret,
    spec::{IdentityProvider, LoginToken},
};
use portcullis_outbound::Client as Outbound;
use portcullis_plugin::{Jwt as _, JwtRules, SecretReader, VerifiedJwt};
use portcullis_store::{Registry, StoreError};
use portcullis_telemetry::Audit;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use url::Url;

use super::{
    SignIn, SignedIn, Who, digest,
    kept::{Given, KeptTokens, Whose},
    random_text,
};
use crate::{
    JwtService, TokenService,
    clock::{millis, now_ms},
    shelf::ShelfError,
};

/// How long somebody may take at their identity provider.
pub const FLOW_LIFE: Duration = Duration::from_secs(600);
/// Clock skew that ID tokens may have, in seconds.
const LEEWAY: u32 = 60;

/// What signing in by a provider works with.
pub struct OidcParts {
    /// Providers.
    pub registry: Arc<Registry>,
    /// Verifies ID tokens.
    pub jwt: Arc<JwtService>,
    /// Asks providers.
    pub outbound: Arc<Outbound>,
    /// Reads our secrets at providers.
    pub secrets: Arc<dyn SecretReader>,
    /// Whether providers may have private addresses.
    pub allow_private: bool,
    /// Keeps the tokens of those who signed in, where the operator wants that.
    pub kept: Arc<KeptTokens>,
    /// What clients hold of them, which ends where a provider takes back its word.
    pub tokens: Arc<TokenService>,
    /// Where that is written down.
    pub audit: Arc<Audit>,
}

/// Signs people in by identity providers.
pub struct Oidc {
    parts: OidcParts,
    signin: Arc<SignIn>,
    metadata: wire::Cached,
}

impl std::fmt::Debug for Oidc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Oidc").finish_non_exhaustive()
    }
}

/// Where a browser is sent, and what it has to bring back.
#[derive(Debug)]
pub struct Begun {
    /// The provider's page.
    pub url: String,
    /// What the browser keeps.
    pub cookie: Secret,
}

/// What came back with the browser.
#[derive(Debug, Default)]
pub struct Returned {
    /// `code`.
    pub code: Option<Secret>,
    /// `state`.
    pub state: Option<String>,
    /// `iss` (RFC 9207).
    pub iss: Option<String>,
    /// `error`.
    pub error: Option<String>,
}

/// Somebody whom the provider knows.
#[derive(Debug)]
pub struct Finished {
    /// Who.
    pub signed_in: SignedIn,
    /// Where they wanted to go.
    pub next: Option<String>,
}

/// Why nobody is signed in.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// There is no such provider for sign-in.
    #[error("there is no such identity provider")]
    NoProvider,
    /// The answer belongs to no sign-in of this browser, or to one that is over.
    #[error("this sign-in was not begun in this browser, or is over")]
    NotBegun,
    /// The provider, or the person there, said no.
    #[error("the identity provider did not sign you in")]
    Denied,
    /// The provider has no answer, or one that can't be believed. The reason is for operators.
    #[error("the identity provider gave no answer that can be used: {0}")]
    Provider(String),
    /// Nobody here goes by this identity.
    #[error("nobody here goes by this identity")]
    Nobody,
    /// The operating system has no randomness to give.
    #[error("the operating system has no randomness to give")]
    NoRandomness,
    /// The store failed.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
}

impl From<StoreError> for OidcError {
    fn from(error: StoreError) -> Self {
        Self::Shelf(error.into())
    }
}

/// What the cookie says, which is nobody's word but the browser's own.
struct Flow<'c> {
    secret: &'c str,
    tenant: Name,
    provider: Name,
    until_ms: u64,
    next: Option<String>,
}

impl<'c> Flow<'c> {
    fn read(cookie: &'c str) -> Option<Self> {
        let mut parts = cookie.split('.');
        let (secret, tenant, provider, until, next) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || secret.len() != 43 {
            return None;
        }
        let next = String::from_utf8(URL_SAFE_NO_PAD.decode(next).ok()?).ok()?;
        Some(Self {
            secret,
            tenant: tenant.parse().ok()?,
            provider: provider.parse().ok()?,
            until_ms: until.parse().ok()?,
            next: (!next.is_empty()).then_some(next),
        })
    }

    /// All but where to go afterwards is part of it: a cookie that says otherwise fits no state.
    fn derive(&self, label: &str) -> String {
        let all = format!("{}.{}.{}.{}", self.secret, self.tenant, self.provider, self.until_ms);
        digest(label, all.as_bytes())
    }

    fn state(&self) -> String {
        self.derive("portcullis sign-in state 1")
    }

    fn nonce(&self) -> String {
        self.derive("portcullis sign-in nonce 1")
    }

    fn verifier(&self) -> String {
        self.derive("portcullis sign-in verifier 1")
    }
}

impl Oidc {
    /// Over these parts.
    pub fn new(parts: OidcParts, signin: Arc<SignIn>) -> Arc<Self> {
        Arc::new(Self { parts, signin, metadata: wire::Cached::default() })
    }

    /// The providers by which people of a tenant may sign in, with what their buttons say.
    pub fn providers(&self, tenant: &Name) -> Vec<(Name, String)> {
        let fleet = self.parts.registry.snapshot();
        let named = fleet.identity_providers(tenant).filter(|p| p.spec.sign_in).map(|p| {
            let name = p.metadata.name.clone();
            let title = p.spec.title.clone().unwrap_or_else(|| name.to_string());
            (name, title)
        });
        named.collect()
    }

    /// What a provider's button says.
    pub fn title(&self, tenant: &Name, name: &Name) -> String {
        self.provider(tenant, name).ok().and_then(|p| p.title).unwrap_or_else(|| name.to_string())
    }

    /// Whether tokens of those who sign in by a provider are kept.
    pub fn keeps(&self, tenant: &Name, name: &Name) -> bool {
        self.provider(tenant, name).is_ok_and(|p| p.login_tokens.is_some())
    }

    fn provider(&self, tenant: &Name, name: &Name) -> Result<IdentityProvider, OidcError> {
        let fleet = self.parts.registry.snapshot();
        let found = fleet.identity_provider(tenant, name).filter(|p| p.spec.sign_in);
        found.map(|p| p.spec.clone()).ok_or(OidcError::NoProvider)
    }

    /// Sends a browser to a provider.
    ///
    /// # Errors
    /// [`OidcError`].
    pub async fn begin(
        &self,
        tenant: &Name,
        name: &Name,
        redirect_uri: &str,
        next: Option<&str>,
    ) -> Result<Begun, OidcError> {
        let provider = self.provider(tenant, name)?;
        let metadata = self.metadata.of(&self.parts, &provider).await.map_err(OidcError::Provider)?;
        let secret = random_text::<32>().map_err(|_| OidcError::NoRandomness)?;
        let next = URL_SAFE_NO_PAD.encode(next.unwrap_or_default());
        let until = now_ms().saturating_add(millis(FLOW_LIFE));
        let cookie = format!("{}.{tenant}.{name}.{until}.{next}", String::from_utf8_lossy(secret.expose()));
        let mut url = metadata.authorization_endpoint.clone();
        {
            let flow = Flow::read(&cookie).ok_or(OidcError::NotBegun)?;
            let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(flow.verifier()));
            let scope =
                std::iter::once("openid").chain(provider.scopes.iter().map(String::as_str).filter(|s| *s != "openid"));
            let mut query = url.query_pairs_mut();
            query.append_pair("response_type", "code");
            query.append_pair("client_id", &provider.client_id);
            query.append_pair("redirect_uri", redirect_uri);
            query.append_pair("scope", &scope.collect::<Vec<_>>().join(" "));
            query.append_pair("state", &flow.state());
            query.append_pair("nonce", &flow.nonce());
            query.append_pair("code_challenge", &challenge);
            query.append_pair("code_challenge_method", "S256");
            query.extend_pairs(provider.login_tokens.iter().flat_map(|kept| &kept.parameters));
        }
        Ok(Begun { url: url.into(), cookie: Secret::new(cookie) })
    }

    /// A browser came back from a tenant's provider.
    ///
    /// # Errors
    /// [`OidcError`].
    pub async fn finish(
        &self,
        (tenant, name): (&Name, &Name),
        redirect_uri: &str,
        cookie: Option<&str>,
        returned: &Returned,
    ) -> Result<Finished, OidcError> {
        let flow = cookie.and_then(Flow::read).ok_or(OidcError::NotBegun)?;
        let state = returned.state.as_deref().unwrap_or_default();
        let mine = bool::from(state.as_bytes().ct_eq(flow.state().as_bytes()));
        // Each provider has a place of its own to come back to, so that one can't pass another's answer off as its own.
        let now = now_ms();
        let latest = now.saturating_add(millis(FLOW_LIFE));
        if !mine || flow.tenant != *tenant || flow.provider != *name || !(now + 1..=latest).contains(&flow.until_ms) {
            return Err(OidcError::NotBegun);
        }
        let provider = self.provider(&flow.tenant, name)?;
        let metadata = self.metadata.of(&self.parts, &provider).await.map_err(OidcError::Provider)?;
        let from_it = match returned.iss.as_deref() {
            Some(iss) => iss == provider.issuer,
            None => !metadata.says_iss,
        };
        if !from_it {
            return Err(OidcError::NotBegun);
        }
        if self.signin.flows.get(&flow.state()).await?.is_some() {
            return Err(OidcError::NotBegun);
        }
        let (Some(code), None) = (&returned.code, &returned.error) else { return Err(OidcError::Denied) };
        let endpoint =
            wire::TokenEndpoint { parts: &self.parts, tenant: &flow.tenant, provider: &provider, metadata: &metadata };
        let given = endpoint.redeem(code, &flow.verifier(), redirect_uri).await;
        let mut tokens = given.map_err(|e| OidcError::Provider(e.to_string()))?;
        let id_token = tokens.id_token.take();
        let id_token = id_token.ok_or_else(|| OidcError::Provider("it gave no ID token".to_owned()))?;
        let jwt = self.verified(&provider, &id_token).await.map_err(OidcError::Provider)?;
        let text = |claim: &str| jwt.claims.get(claim).and_then(Value::as_str);
        let nonce = text("nonce").unwrap_or_default();
        if !bool::from(nonce.as_bytes().ct_eq(flow.nonce().as_bytes())) {
            return Err(OidcError::Provider("its ID token is of another sign-in".to_owned()));
        }
        // Once. Written only now: cookies are the browser's own word, so before the provider has vouched for one, anybody could have made it up,
        // and what strangers can have us keep must be nothing. The code worked once at the provider already.
        if !self.signin.flows.claim(&flow.state(), flow.until_ms, &()).await? {
            return Err(OidcError::NotBegun);
        }
        let asked = groups::Asked { parts: &self.parts, provider: &provider, metadata: &metadata };
        let groups = asked.of(&jwt, tokens.access_token.as_ref()).await.unwrap_or_else(|why| {
            // Less than may be theirs, never more.
            tracing::warn!(provider = %name, why, "the identity provider does not tell somebody's groups");
            Vec::new()
        });
        let shown = ["name", "preferred_username", "email"].into_iter().find_map(text);
        let signed_in = SignedIn {
            tenant: flow.tenant.clone(),
            who: Who::Identity { issuer: jwt.issuer.clone(), subject: jwt.subject.clone() },
            groups,
            display_name: shown.map(|s| portcullis_model::text::shown(s, 120)),
            provider: Some(name.clone()),
            anybody: provider.anybody,
        };
        if !self.signin.is_somebody(&signed_in) {
            return Err(OidcError::Nobody);
        }
        tokens.id_token = Some(id_token);
        self.keep(name, &provider, &signed_in, &jwt, tokens).await;
        Ok(Finished { signed_in, next: flow.next })
    }

    /// An ID token of a provider that was made for us; the sentence otherwise is for operators.
    async fn verified(&self, provider: &IdentityProvider, id_token: &Secret) -> Result<VerifiedJwt, String> {
        let rules = JwtRules {
            issuer: provider.issuer.clone(),
            jwks_url: provider.jwks_url.as_ref().map(Url::to_string),
            audiences: vec![provider.client_id.clone()],
            algorithms: ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]
                .map(str::to_owned)
                .to_vec(),
            leeway_seconds: LEEWAY,
            token_type: None,
        };
        let verified = self.parts.jwt.verify(id_token, &rules).await;
        let jwt = verified.map_err(|e| format!("its ID token is refused: {e}"))?;
        // Where it names who may use it, that is us (OpenID Connect Core 1.0 section 3.1.3.7, 4 and 5).
        let azp = jwt.claims.get("azp").and_then(Value::as_str);
        let shared = jwt.claims.get("aud").and_then(Value::as_array).is_some_and(|a| a.len() > 1);
        if azp.is_some_and(|azp| azp != provider.client_id) || (shared && azp.is_none()) {
            return Err("its ID token is another client's".to_owned());
        }
        Ok(jwt)
    }

    /// Keeps what the operator wants kept. Where that fails, the person is signed in all the same: what is lacking is said
    /// where it is needed.
    async fn keep(
        &self,
        name: &Name,
        provider: &IdentityProvider,
        signed_in: &SignedIn,
        jwt: &VerifiedJwt,
        tokens: wire::Tokens,
    ) {
        let Some(wanted) = &provider.login_tokens else { return };
        let whose = Whose {
            tenant: signed_in.tenant.clone(),
            provider: name.clone(),
            issuer: jwt.issuer.clone(),
            subject: jwt.subject.clone(),
        };
        let Some((token, audiences, expires_ms)) = chosen(wanted.token, jwt, &tokens) else {
            tracing::warn!(provider = %name, "the identity provider gave no token to keep");
            return;
        };
        let refresh = if wanted.refresh { tokens.refresh_token } else { None };
        let nonce = jwt.claims.get("nonce").and_then(Value::as_str).unwrap_or_default().to_owned();
        let (groups, groups_ms) = (signed_in.groups.clone(), now_ms());
        let given = Given { token, audiences, expires_ms, refresh, groups, groups_ms, nonce };
        if let Err(error) = self.parts.kept.keep(whose, provider, given).await {
            tracing::warn!(provider = %name, %error, "the tokens of a sign-in could not be kept");
        }
    }
}

/// Of what a provider gave, the token that stands for the person, with its audiences and its end.
fn chosen(wanted: LoginToken, jwt: &VerifiedJwt, tokens: &wire::Tokens) -> Option<(Secret, Vec<String>, Option<u64>)> {
    match wanted {
        LoginToken::IdToken => {
            let audiences = match jwt.claims.get("aud") {
                Some(Value::String(one)) => vec![one.clone()],
                Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
                _ => Vec::new(),
            };
            Some((tokens.id_token.clone()?, audiences, Some(jwt.expires_ms)))
        }
        // It is the provider's own affair what stands in it.
        LoginToken::AccessToken => {
            let until = tokens.life_ms.map(|life| now_ms().saturating_add(life));
            Some((tokens.access_token.clone()?, Vec::new(), until))
        }
    }
}
