//! `portcullis:host/signing`: what is signed with a key is a handle that may go where the key may go.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use wasmtime::{Error, Result, component::Resource};

use crate::{
    bindings::portcullis::host::{
        secrets::Secret as WitSecret,
        signing::{self as wit, SigningError, Token},
    },
    secrets::Guarded,
    services::Signed,
    state::{Handle, State},
};

/// The most bytes of a token's claims.
const MAX_CLAIMS: usize = 16 << 10;
/// The most bytes of a header's value.
const MAX_HEADER: usize = 256;

/// A token that is being made.
#[derive(Clone, Default)]
pub(crate) struct SigningToken {
    claims: String,
    key_id: Option<String>,
    token_type: Option<String>,
    algorithm: Option<String>,
}

type Answer = Result<std::result::Result<Resource<WitSecret>, SigningError>>;

impl State {
    fn signing(&mut self, token: &Resource<Token>) -> Result<&mut SigningToken> {
        match self.handle(token)? {
            Handle::Signing(token) => Ok(token),
            _ => Err(Error::msg("no token that is being made")),
        }
    }

    /// The key, if this plugin may sign with it. A caller's token is none, nor is a text of the plugin's own.
    fn signing_key(&mut self, key: &Resource<WitSecret>) -> Result<std::result::Result<Guarded, SigningError>> {
        if self.preparing {
            return self.forbid("signing while getting ready");
        }
        if !self.fixed.grants.sign {
            self.denied("sign");
            return Ok(Err(SigningError::Denied("sign is not granted".into())));
        }
        let key = self.secret(key)?.clone();
        if key.is_callers() || !key.is_secret() {
            self.denied("sign");
            return Ok(Err(SigningError::Denied("only granted secrets are keys".into())));
        }
        Ok(Ok(key))
    }
}

impl wit::HostToken for State {
    fn new(&mut self, claims: String) -> Result<Resource<Token>> {
        self.own(Handle::Signing(Box::new(SigningToken { claims, ..SigningToken::default() })))
    }
    fn key_id(&mut self, token: Resource<Token>, id: String) -> Result<()> {
        self.signing(&token)?.key_id = Some(id);
        Ok(())
    }
    fn token_type(&mut self, token: Resource<Token>, name: String) -> Result<()> {
        self.signing(&token)?.token_type = Some(name);
        Ok(())
    }
    fn algorithm(&mut self, token: Resource<Token>, name: String) -> Result<()> {
        self.signing(&token)?.algorithm = Some(name);
        Ok(())
    }
    /// On a thread of its own: how long that takes is up to the key, and the guest is charged for what it does itself.
    async fn sign(&mut self, token: Resource<Token>, key: Resource<WitSecret>) -> Answer {
        let key = match self.signing_key(&key)? {
            Ok(key) => key,
            Err(error) => return Ok(Err(error)),
        };
        let token = self.signing(&token)?.clone();
        let long = |text: &Option<String>| text.as_ref().is_some_and(|text| text.len() > MAX_HEADER);
        if token.claims.len() > MAX_CLAIMS || long(&token.key_id) || long(&token.token_type) {
            return Ok(Err(SigningError::Claims("claims above 16 KiB, or a header above 256 bytes".into())));
        }
        if serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&token.claims).is_err() {
            return Ok(Err(SigningError::Claims("they are no JSON object".into())));
        }
        let Some(service) = self.fixed.services.assertions.clone() else {
            return Ok(Err(SigningError::Denied("nothing can be signed here".into())));
        };
        let bytes = key.value().clone();
        let signing = tokio::task::spawn_blocking(move || {
            let (key_id, token_type) = (token.key_id.as_deref(), token.token_type.as_deref());
            let algorithm = token.algorithm.as_deref();
            service.sign_claims(&bytes, &Signed { claims: &token.claims, key_id, token_type, algorithm })
        });
        match signing.await.unwrap_or_else(|_| Err("it was not signed to the end".to_owned())) {
            Ok(signed) => Ok(Ok(self.own(Handle::Secret(key.made_into(signed, "a token signed with")))?)),
            Err(why) => Ok(Err(SigningError::Key(why))),
        }
    }
    fn drop(&mut self, token: Resource<Token>) -> Result<()> {
        self.disown(&token)
    }
}

impl wit::Host for State {
    fn hmac_sha256(&mut self, key: Resource<WitSecret>, message: Vec<u8>) -> Answer {
        let key = match self.signing_key(&key)? {
            Ok(key) => key,
            Err(error) => return Ok(Err(error)),
        };
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.value().expose()) else {
            return Ok(Err(SigningError::Key("it is no key".into())));
        };
        mac.update(&message);
        let code = portcullis_model::Secret::new(mac.finalize().into_bytes().to_vec());
        Ok(Ok(self.own(Handle::Secret(key.made_into(code, "an HMAC by")))?))
    }
}
