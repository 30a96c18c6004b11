//! `portcullis:credential/caller-token` and `earlier`: what a resolver may know of the caller's own token, and of its own last answer.

use std::sync::Arc;

use portcullis_model::{CallerToken, TokenOrigin};
use wasmtime::{Error, Result, component::Resource};

use crate::{
    answer::Read,
    bindings::portcullis::{
        credential::{caller_token, earlier},
        host::secrets::Secret,
    },
    secrets::{Allowed, Guarded},
    state::{Handle, Lent, State},
};
use caller_token::Token;
use earlier::Earlier;

/// How the caller's token is called in audits.
pub(super) const LABEL: &str = "the caller's token";

impl State {
    /// The token behind a handle; none where it is a token of ours.
    fn callers(&mut self, token: &Resource<Token>) -> Result<Option<Arc<CallerToken>>> {
        match self.handle(token)? {
            Handle::CallerToken(token) => Ok(token.clone()),
            _ => Err(Error::msg("not a caller's token")),
        }
    }

    fn earlier(&self) -> Result<&crate::calls::Earlier> {
        match &self.lent {
            Lent::Resolve(resolving) => {
                resolving.earlier.as_ref().ok_or_else(|| Error::msg("no earlier answer is lent"))
            }
            _ => Err(Error::msg("no earlier answer is lent")),
        }
    }
}

impl caller_token::Host for State {
    fn get(&mut self) -> Result<Option<Resource<Token>>> {
        let Lent::Resolve(resolving) = &self.lent else { return Err(Error::msg("no caller is lent")) };
        let principal = Arc::clone(&resolving.principal);
        self.read(|| Read::CallerToken);
        if !self.fixed.grants.caller_token {
            self.denied("caller-token");
            return Ok(None);
        }
        match (&principal.bearer, &principal.token) {
            (Some(token), _) => Ok(Some(self.own(Handle::CallerToken(Some(Arc::clone(token))))?)),
            (None, Some(_)) => Ok(Some(self.own(Handle::CallerToken(None))?)),
            (None, None) => Ok(None),
        }
    }
}

impl caller_token::HostToken for State {
    fn kind(&mut self, token: Resource<Token>) -> Result<String> {
        Ok(self.callers(&token)?.map_or("ours", |t| t.origin.as_str()).to_owned())
    }
    fn issuer(&mut self, token: Resource<Token>) -> Result<Option<String>> {
        Ok(self.callers(&token)?.map(|t| t.issuer.clone()))
    }
    fn audiences(&mut self, token: Resource<Token>) -> Result<Vec<String>> {
        Ok(self.callers(&token)?.map(|t| t.audiences.clone()).unwrap_or_default())
    }
    fn expires_ms(&mut self, token: Resource<Token>) -> Result<Option<u64>> {
        Ok(self.callers(&token)?.and_then(|t| t.expires_ms))
    }
    fn bound(&mut self, token: Resource<Token>) -> Result<bool> {
        Ok(self.callers(&token)?.is_some_and(|t| t.bound))
    }
    fn token_type(&mut self, token: Resource<Token>) -> Result<Option<String>> {
        Ok(self.callers(&token)?.and_then(|t| t.token_type.clone()))
    }
    fn secret(&mut self, token: Resource<Token>) -> Result<Option<Resource<Secret>>> {
        let Some(token) = self.callers(&token)? else { return Ok(None) };
        let allowed = Allowed {
            origins: self.fixed.http_origins.clone(),
            // What is kept since a sign-in goes to no server, whatever is granted (security decision 22).
            target: self.fixed.grants.passthrough && token.origin == TokenOrigin::Presented,
            headers: Some(vec!["authorization".to_owned()]),
            body: true,
        };
        let guarded = Guarded::callers(token.secret.clone(), allowed, LABEL);
        Ok(Some(self.own(Handle::Secret(guarded))?))
    }
    fn drop(&mut self, token: Resource<Token>) -> Result<()> {
        self.disown(&token)
    }
}

impl earlier::Host for State {}

impl earlier::HostEarlier for State {
    fn expires_ms(&mut self, _: Resource<Earlier>) -> Result<Option<u64>> {
        Ok(self.earlier()?.expires_ms)
    }
    fn kept(&mut self, _: Resource<Earlier>, name: String) -> Result<Option<Resource<Secret>>> {
        let found = self.earlier()?.kept.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
        found.map(|value| self.own(Handle::Secret(value))).transpose()
    }
    fn drop(&mut self, _: Resource<Earlier>) -> Result<()> {
        Ok(())
    }
}
