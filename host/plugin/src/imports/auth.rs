//! `portcullis:auth`: the request to authenticate, tokens of ours, tokens of others, the answer.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_model::Name;
use serde_json::Value as Json;
use wasmtime::{Error, Result, component::Resource};

use super::{context::plain_header, host::callers_token, json};
use crate::{
    answer::{Asserted, Read, VerifiedToken},
    bindings::portcullis::{
        auth::{identity, jwt, request, tokens},
        host::secrets::Secret,
        types::context::Value,
    },
    facts::{AuthRequest, ClientCertificate},
    services::{JwtError, JwtRules, TokenLookupError},
    state::{Handle, IdentityDraft, Lent, MAX_FILLED, MAX_TEXT, State},
};
use identity::Identity;
use jwt::{Rules, Verified};
use request::{Certificate, Request};
use tokens::Token;

impl State {
    fn auth_request(&self) -> Result<&AuthRequest> {
        match &self.lent {
            Lent::Authenticate(authenticating) => Ok(&authenticating.request),
            _ => Err(Error::msg("no request is lent")),
        }
    }

    fn identity(&mut self) -> Result<&mut IdentityDraft> {
        match &mut self.lent {
            Lent::Authenticate(authenticating) => Ok(&mut authenticating.draft),
            _ => Err(Error::msg("no identity is lent")),
        }
    }

    fn certificate(&mut self, resource: &Resource<Certificate>) -> Result<&ClientCertificate> {
        match self.handle(resource)? {
            Handle::Certificate(certificate) => Ok(certificate),
            _ => Err(Error::msg("no certificate")),
        }
    }

    fn token(&mut self, resource: &Resource<Token>) -> Result<&crate::services::TokenFacts> {
        match self.handle(resource)? {
            Handle::Token(token) => Ok(token),
            _ => Err(Error::msg("not a token")),
        }
    }

    fn rules(&mut self, resource: &Resource<Rules>) -> Result<&mut JwtRules> {
        match self.handle(resource)? {
            Handle::Rules(rules) => Ok(rules),
            _ => Err(Error::msg("no rules")),
        }
    }

    fn verified(&mut self, resource: &Resource<Verified>) -> Result<&crate::services::VerifiedJwt> {
        match self.handle(resource)? {
            Handle::Verified(verified) => Ok(verified),
            _ => Err(Error::msg("not verified")),
        }
    }
}

impl request::Host for State {}

impl request::HostRequest for State {
    fn tenant(&mut self, _: Resource<Request>) -> Result<String> {
        Ok(self.auth_request()?.tenant.to_string())
    }
    fn gateway(&mut self, _: Resource<Request>) -> Result<String> {
        Ok(self.auth_request()?.gateway.to_string())
    }
    fn method(&mut self, _: Resource<Request>) -> Result<String> {
        self.read(|| Read::Method);
        Ok(self.auth_request()?.method.as_ref().to_owned())
    }
    fn path(&mut self, _: Resource<Request>) -> Result<String> {
        self.read(|| Read::Path);
        Ok(self.auth_request()?.path.as_ref().to_owned())
    }
    fn peer(&mut self, _: Resource<Request>) -> Result<String> {
        self.read(|| Read::Peer);
        Ok(self.auth_request()?.peer.as_ref().to_owned())
    }
    fn header(&mut self, _: Resource<Request>, name: String) -> Result<Option<String>> {
        let value = plain_header(&self.auth_request()?.headers, &name);
        self.read(|| Read::Header(name.to_ascii_lowercase()));
        Ok(value)
    }
    fn bearer(&mut self, _: Resource<Request>) -> Result<Option<Resource<Secret>>> {
        match self.auth_request()?.bearer.clone() {
            Some(token) => Ok(Some(self.own(Handle::Secret(callers_token(token)))?)),
            None => Ok(None),
        }
    }
    fn certificate(&mut self, _: Resource<Request>) -> Result<Option<Resource<Certificate>>> {
        match self.auth_request()?.certificate.clone() {
            Some(certificate) => Ok(Some(self.own(Handle::Certificate(certificate))?)),
            None => Ok(None),
        }
    }
    fn drop(&mut self, _: Resource<Request>) -> Result<()> {
        Ok(())
    }
}

impl request::HostCertificate for State {
    fn fingerprint(&mut self, certificate: Resource<Certificate>) -> Result<String> {
        Ok(self.certificate(&certificate)?.fingerprint.iter().map(|byte| format!("{byte:02x}")).collect())
    }
    fn subject(&mut self, certificate: Resource<Certificate>, attribute: String) -> Result<Vec<String>> {
        Ok(values(&self.certificate(&certificate)?.subject, &attribute))
    }
    fn issuer(&mut self, certificate: Resource<Certificate>, attribute: String) -> Result<Vec<String>> {
        Ok(values(&self.certificate(&certificate)?.issuer, &attribute))
    }
    fn uris(&mut self, certificate: Resource<Certificate>) -> Result<Vec<String>> {
        Ok(self.certificate(&certificate)?.uris.clone())
    }
    fn dns_names(&mut self, certificate: Resource<Certificate>) -> Result<Vec<String>> {
        Ok(self.certificate(&certificate)?.dns_names.clone())
    }
    fn emails(&mut self, certificate: Resource<Certificate>) -> Result<Vec<String>> {
        Ok(self.certificate(&certificate)?.emails.clone())
    }
    fn expires_ms(&mut self, certificate: Resource<Certificate>) -> Result<u64> {
        Ok(self.certificate(&certificate)?.expires_ms)
    }
    fn drop(&mut self, certificate: Resource<Certificate>) -> Result<()> {
        self.disown(&certificate)
    }
}

/// What a name says of an attribute.
fn values(name: &[(String, String)], attribute: &str) -> Vec<String> {
    name.iter().filter(|(known, _)| known == attribute).map(|(_, value)| value.clone()).collect()
}

impl tokens::Host for State {
    fn lookup(&mut self, secret: Resource<Secret>) -> Result<Result<Resource<Token>, tokens::LookupError>> {
        let (tenant, gateway) = {
            let request = self.auth_request()?;
            (request.tenant.clone(), request.gateway.clone())
        };
        let token = self.secret(&secret)?.value().clone();
        let Some(service) = self.fixed.services.tokens.clone().filter(|_| self.fixed.grants.tokens) else {
            self.denied("tokens");
            return Ok(Err(tokens::LookupError::Unavailable("not granted".into())));
        };
        Ok(match service.lookup(&tenant, &gateway, &token) {
            Ok(facts) => Ok(self.own(Handle::Token(facts))?),
            Err(error) => Err(match error {
                TokenLookupError::NotOurs => tokens::LookupError::NotOurs,
                TokenLookupError::Unknown => tokens::LookupError::Unknown,
                TokenLookupError::Expired => tokens::LookupError::Expired,
                TokenLookupError::Revoked => tokens::LookupError::Revoked,
                TokenLookupError::WrongGateway => tokens::LookupError::WrongGateway,
                TokenLookupError::Unavailable(why) => tokens::LookupError::Unavailable(why),
            }),
        })
    }
}

impl tokens::HostToken for State {
    fn subject(&mut self, token: Resource<Token>) -> Result<String> {
        Ok(self.token(&token)?.subject.to_string())
    }
    fn kind(&mut self, token: Resource<Token>) -> Result<String> {
        Ok(self.token(&token)?.subject.kind().as_str().to_owned())
    }
    fn expires_ms(&mut self, token: Resource<Token>) -> Result<Option<u64>> {
        Ok(self.token(&token)?.expires_ms)
    }
    fn drop(&mut self, token: Resource<Token>) -> Result<()> {
        self.disown(&token)
    }
}

/// The most audiences and algorithms of one set of rules.
const MAX_RULES: usize = 16;

impl jwt::HostRules for State {
    fn new(&mut self, issuer: String) -> Result<Resource<Rules>> {
        self.own(Handle::Rules(JwtRules {
            issuer,
            jwks_url: None,
            audiences: Vec::new(),
            algorithms: Vec::new(),
            leeway_seconds: 30,
            token_type: None,
        }))
    }
    fn jwks_url(&mut self, rules: Resource<Rules>, url: String) -> Result<()> {
        self.rules(&rules)?.jwks_url = Some(url);
        Ok(())
    }
    fn audience(&mut self, rules: Resource<Rules>, audience: String) -> Result<()> {
        let rules = self.rules(&rules)?;
        if rules.audiences.len() >= MAX_RULES {
            return self.forbid("more than 16 audiences");
        }
        rules.audiences.push(audience);
        Ok(())
    }
    fn algorithm(&mut self, rules: Resource<Rules>, name: String) -> Result<()> {
        let rules = self.rules(&rules)?;
        if rules.algorithms.len() >= MAX_RULES {
            return self.forbid("more than 16 algorithms");
        }
        rules.algorithms.push(name);
        Ok(())
    }
    fn leeway(&mut self, rules: Resource<Rules>, seconds: u32) -> Result<()> {
        self.rules(&rules)?.leeway_seconds = seconds.min(300);
        Ok(())
    }
    fn token_type(&mut self, rules: Resource<Rules>, name: String) -> Result<()> {
        self.rules(&rules)?.token_type = Some(name);
        Ok(())
    }
    fn drop(&mut self, rules: Resource<Rules>) -> Result<()> {
        self.disown(&rules)
    }
}

impl jwt::HostVerified for State {
    fn issuer(&mut self, verified: Resource<Verified>) -> Result<String> {
        Ok(self.verified(&verified)?.issuer.clone())
    }
    fn subject(&mut self, verified: Resource<Verified>) -> Result<String> {
        Ok(self.verified(&verified)?.subject.clone())
    }
    fn expires_ms(&mut self, verified: Resource<Verified>) -> Result<u64> {
        Ok(self.verified(&verified)?.expires_ms)
    }
    fn claim(&mut self, verified: Resource<Verified>, pointer: String) -> Result<Option<Value>> {
        let claims = &self.verified(&verified)?.claims;
        let found = if pointer.starts_with('/') { claims.pointer(&pointer) } else { claims.get(&pointer) };
        Ok(found.filter(|v| !v.is_null()).map(json::to_wit))
    }
    fn drop(&mut self, verified: Resource<Verified>) -> Result<()> {
        self.disown(&verified)
    }
}

impl jwt::Host for State {
    fn unverified_issuer(&mut self, token: Resource<Secret>) -> Result<Option<String>> {
        let token = self.secret(&token)?.value().clone();
        Ok(self.fixed.services.jwt.as_ref().and_then(|jwt| jwt.unverified_issuer(&token)))
    }

    async fn verify(
        &mut self,
        token: Resource<Secret>,
        rules: Resource<Rules>,
    ) -> Result<Result<Resource<Verified>, jwt::JwtError>> {
        let handle = self.secret(&token)?.clone();
        let token = handle.value().clone();
        let rules = self.rules(&rules)?.clone();
        let Some(service) = self.fixed.services.jwt.clone() else {
            return Ok(Err(jwt::JwtError::Unavailable("not available here".into())));
        };
        if !self.fixed.grants.issuers.contains(&rules.issuer) {
            self.denied("issuer");
            return Ok(Err(jwt::JwtError::Issuer));
        }
        let issuer = rules.issuer.clone();
        Ok(match service.verify(&token, &rules).await {
            Ok(verified) if verified.issuer == issuer => {
                if let Lent::Authenticate(authenticating) = &mut self.lent
                    && handle.is_callers()
                    && authenticating.request.bearer.as_ref().is_some_and(|bearer| handle.is(bearer))
                {
                    if let Err(why) = proven(&verified.claims, authenticating.request.certificate.as_deref()) {
                        return Ok(Err(jwt::JwtError::Other(why.to_owned())));
                    }
                    let known = &mut authenticating.draft.verified;
                    known.retain(|token| token.issuer != issuer);
                    known.push(VerifiedToken::of(&verified));
                }
                Ok(self.own(Handle::Verified(Box::new(verified)))?)
            }
            Ok(_) => Err(jwt::JwtError::Issuer),
            Err(error) => Err(match error {
                JwtError::Malformed => jwt::JwtError::Malformed,
                JwtError::Algorithm(name) => jwt::JwtError::Algorithm(name),
                JwtError::UnknownKey => jwt::JwtError::UnknownKey,
                JwtError::Signature => jwt::JwtError::Signature,
                JwtError::Issuer => jwt::JwtError::Issuer,
                JwtError::Audience => jwt::JwtError::Audience,
                JwtError::Expired => jwt::JwtError::Expired,
                JwtError::NotYetValid => jwt::JwtError::NotYetValid,
                JwtError::TokenType => jwt::JwtError::TokenType,
                JwtError::Unavailable(why) => jwt::JwtError::Unavailable(why),
                JwtError::Other(why) => jwt::JwtError::Other(why),
            }),
        })
    }
}

/// Whether whoever sends a token has the key that it is bound to (RFC 7800 section 3.1): that of the client certificate which it
/// names (RFC 8705 section 3.1), or none. A token that is bound to anything else would be worth as much to a thief as to its owner
/// here (RFC 9449 section 7.1 refuses it as a bearer token for that reason).
fn proven(claims: &Json, certificate: Option<&ClientCertificate>) -> Result<(), &'static str> {
    let Some(bound) = claims.get("cnf") else { return Ok(()) };
    let thumbprint = bound.as_object().filter(|members| members.len() == 1).and_then(|members| members.get("x5t#S256"));
    let Some(thumbprint) = thumbprint.and_then(Json::as_str) else {
        return Err("the token is bound to a key, and nothing in the request proves that its sender has it");
    };
    let proven = certificate.is_some_and(|c| URL_SAFE_NO_PAD.encode(c.fingerprint) == thumbprint);
    proven.then_some(()).ok_or("the token is bound to a client certificate, and the connection did not come with it")
}

impl IdentityDraft {
    /// Adds to a list of the answer, within bounds.
    fn push<T>(list: &mut Vec<T>, item: T, size: usize, invalid: &mut Option<String>, what: &str) {
        if list.len() >= MAX_FILLED || size > MAX_TEXT {
            *invalid = Some(format!("too many or too long {what}"));
        } else {
            list.push(item);
        }
    }
}

impl identity::Host for State {}

impl identity::HostIdentity for State {
    fn adopt(&mut self, _: Resource<Identity>, token: Resource<Token>) -> Result<()> {
        let facts = self.token(&token)?.clone();
        self.identity()?.who = Some(Asserted::Token(facts));
        Ok(())
    }
    fn external(&mut self, _: Resource<Identity>, issuer: String, subject: String) -> Result<()> {
        if !self.fixed.grants.issuers.contains(&issuer) {
            self.denied("issuer");
            self.identity()?.invalid = Some("it names somebody of an issuer that it was not granted".into());
        } else if subject.is_empty() || subject.len() > 1024 {
            self.identity()?.invalid = Some("the external subject is empty or too long".into());
        } else {
            self.identity()?.who = Some(Asserted::External { issuer, subject });
        }
        Ok(())
    }
    fn display_name(&mut self, _: Resource<Identity>, name: String) -> Result<()> {
        self.identity()?.display_name = Some(name.chars().filter(|c| !c.is_control()).take(200).collect());
        Ok(())
    }
    fn group(&mut self, _: Resource<Identity>, name: String) -> Result<()> {
        let size = name.len();
        let draft = self.identity()?;
        // People belong to many groups; each is a short text.
        if draft.groups.len() >= 1024 || size > 256 {
            draft.invalid = Some("too many or too long groups".into());
        } else {
            draft.groups.push(name);
        }
        Ok(())
    }
    fn role(&mut self, _: Resource<Identity>, name: String) -> Result<()> {
        let granted: Option<Name> = self.fixed.grants.roles.iter().find(|role| role.as_str() == name).cloned();
        let Some(role) = granted else {
            self.denied("role");
            self.identity()?.invalid = Some("it gives a role that it was not granted".into());
            return Ok(());
        };
        let draft = self.identity()?;
        if !draft.roles.contains(&role) {
            draft.roles.push(role);
        }
        Ok(())
    }
    fn claim(&mut self, _: Resource<Identity>, name: String, value: Value) -> Result<()> {
        let value: Json = json::from_wit(value);
        let size = name.len() + value.to_string().len();
        let draft = self.identity()?;
        IdentityDraft::push(&mut draft.claims, (name, value), size, &mut draft.invalid, "claims");
        Ok(())
    }
    fn expires(&mut self, _: Resource<Identity>, at_ms: u64) -> Result<()> {
        self.identity()?.expires_ms = Some(at_ms);
        Ok(())
    }
    fn vary(&mut self, _: Resource<Identity>, header: String) -> Result<()> {
        let size = header.len();
        let draft = self.identity()?;
        IdentityDraft::push(&mut draft.vary, header.to_ascii_lowercase(), size, &mut draft.invalid, "vary");
        Ok(())
    }
    fn drop(&mut self, _: Resource<Identity>) -> Result<()> {
        Ok(())
    }
}
