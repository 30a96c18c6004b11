//! The authorization endpoint: what a client asks for, what is refused before anybody is sent anywhere, consent, codes.

use std::net::IpAddr;

use portcullis_model::{Name, Subject};
use serde::{Deserialize, Serialize};

use super::{
    CODE_LIFE, CODE_MEMORY, CONSENT_LIFE, OAuth, OAuthError, Target,
    client::{Client, Origin},
    redirect,
};
use crate::{
    clock::{millis, now_ms},
    signin::{Who, digest, random_text},
};

pub(super) const CODE_LABEL: &str = "portcullis authorization code 1";
/// The most bytes of a state that is carried back.
const MAX_STATE: usize = 2048;

/// What a client asks for, as it stands in the query; each at most once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// `response_type`.
    pub response_type: Option<String>,
    /// `client_id`.
    pub client_id: Option<String>,
    /// `redirect_uri`.
    pub redirect_uri: Option<String>,
    /// `scope`.
    pub scope: Option<String>,
    /// `state`.
    pub state: Option<String>,
    /// `code_challenge`.
    pub code_challenge: Option<String>,
    /// `code_challenge_method`.
    pub code_challenge_method: Option<String>,
    /// `resource` (RFC 8707).
    pub resource: Option<String>,
    /// `prompt`.
    pub prompt: Option<String>,
}

/// A request that makes sense.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Who asks.
    pub client: Client,
    /// The gateway.
    pub target: Target,
    /// Where to go back to.
    pub redirect_uri: String,
    /// What the client wants to see again.
    pub state: Option<String>,
    /// The scopes that mean something at the gateway.
    pub scopes: Vec<String>,
    challenge: String,
    /// Whether the client wants the person to be asked again.
    pub ask_again: bool,
    /// Whether the client wants nobody to be asked.
    pub silent: bool,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The person is told: nobody knows that they would be sent back to the client that asks.
    Here(OAuthError),
    /// The client is told, at this URL. Only one that an operator registered: others are anybody's, and who asks wrongly on purpose would have us
    /// send people wherever they like (RFC 9700 section 4.11.2).
    Back(String),
}

/// What the store keeps of a code.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Code {
    pub(super) client: String,
    pub(super) target: Target,
    pub(super) redirect_uri: String,
    pub(super) challenge: String,
    pub(super) scopes: Vec<String>,
    pub(super) who: Who,
    pub(super) groups: Vec<String>,
    /// The identity provider that the person signed in by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) provider: Option<Name>,
    pub(super) issued_ms: u64,
    /// When the person signed in, in milliseconds since 1970.
    pub(super) signed_in_ms: u64,
    /// The grant that it gave, once it was redeemed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) redeemed: Option<String>,
}

/// Who consents.
#[derive(Clone, Debug)]
pub struct Consenting {
    /// The person's tenant.
    pub tenant: Name,
    /// The person.
    pub who: Who,
    /// Groups as its identity provider asserted them.
    pub groups: Vec<String>,
    /// That identity provider.
    pub provider: Option<Name>,
    /// When they signed in, in milliseconds since 1970.
    pub signed_in_ms: u64,
}

impl OAuth {
    /// Reads a request that comes from this address.
    ///
    /// # Errors
    /// [`Refusal`]: at first here, and at the client once its redirect URI is known to be its own.
    pub async fn wish(&self, asked: &Asked, from: IpAddr) -> Result<Wish, Refusal> {
        let here = Refusal::Here;
        let redirect_uri = asked.redirect_uri.as_deref().unwrap_or_default();
        // The resource says whose client this is, so what is wrong with it can't be told to a client yet.
        let resource = asked.resource.as_deref().ok_or_else(|| here(OAuthError::target()))?;
        let target = self.target(resource).map_err(here)?;
        let id = asked.client_id.as_deref().unwrap_or_default();
        let client = self.client(&target.tenant, id, Some(from)).await.map_err(here)?;
        if !redirect::allowed(client.redirect_uris.iter().map(String::as_str), redirect_uri) {
            return Err(here(OAuthError::request("redirect_uri is none that this client named")));
        }
        let state = asked.state.clone();
        if state.as_ref().is_some_and(|s| s.len() > MAX_STATE) {
            return Err(here(OAuthError::request("state is too long")));
        }
        let told = |error: OAuthError| match client.origin {
            Origin::Operator => self.tell(redirect_uri, state.as_deref(), &error),
            Origin::Itself | Origin::Document => here(error),
        };
        if asked.response_type.as_deref() != Some("code") {
            return Err(told(OAuthError::new("unsupported_response_type", "response_type has to be code")));
        }
        let challenge = asked.code_challenge.clone().unwrap_or_default();
        let plain = challenge.len() == 43 && challenge.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        if asked.code_challenge_method.as_deref() != Some("S256") || !plain {
            return Err(told(OAuthError::request("PKCE with code_challenge_method S256 is required")));
        }
        let scopes = self.scopes(&target, asked.scope.as_deref());
        let prompts: Vec<&str> = asked.prompt.as_deref().unwrap_or_default().split(' ').collect();
        let (ask_again, silent) =
            (prompts.contains(&"consent") || prompts.contains(&"login"), prompts.contains(&"none"));
        Ok(Wish { client, target, redirect_uri: redirect_uri.to_owned(), state, scopes, challenge, ask_again, silent })
    }

    /// A refusal that the client is told of.
    fn tell(&self, redirect_uri: &str, state: Option<&str>, error: &OAuthError) -> Refusal {
        let told = [("error", error.code), ("error_description", &*error.description)];
        redirect::back(redirect_uri, self.issuer(), state, &told)
            .map_or_else(|| Refusal::Here(error.clone()), Refusal::Back)
    }

    /// Whether a person has consented to this before. Where somebody else could pose as the client, they are asked each time:
    /// a program on the person's machine takes any loopback address or scheme, and a document's id is public.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn has_consented(&self, wish: &Wish, person: &Consenting) -> Result<bool, OAuthError> {
        if wish.ask_again || !remembers(wish) {
            return Ok(false);
        }
        Ok(self.consents.get(&self.consent_key(wish, person)).await?.is_some())
    }

    /// A person said yes: the URL that takes the code to the client.
    ///
    /// # Errors
    /// Where the person may not use the gateway's tenant, or the store fails.
    pub async fn consented(&self, wish: &Wish, person: &Consenting) -> Result<String, OAuthError> {
        if person.tenant != wish.target.tenant {
            return Err(OAuthError::target());
        }
        let now = now_ms();
        if remembers(wish) {
            let (key, until) = (self.consent_key(wish, person), now + millis(CONSENT_LIFE));
            match self.consents.get(&key).await? {
                Some(found) => {
                    self.consents.replace(&key, &found, until, &()).await?;
                }
                None => {
                    self.consents.claim(&key, until, &()).await?;
                }
            }
        }
        self.keep_client(&wish.client.id).await?;
        let text = random_text::<32>()?;
        let code = Code {
            client: wish.client.id.clone(),
            target: wish.target.clone(),
            redirect_uri: wish.redirect_uri.clone(),
            challenge: wish.challenge.clone(),
            scopes: wish.scopes.clone(),
            who: person.who.clone(),
            groups: person.groups.clone(),
            provider: person.provider.clone(),
            issued_ms: now,
            signed_in_ms: person.signed_in_ms,
            redeemed: None,
        };
        let until = now + millis(CODE_LIFE) + millis(CODE_MEMORY);
        self.codes.put(&digest(CODE_LABEL, text.expose()), until, &code).await?;
        // An exit: the code goes to the client by the OAuth redirect, the only URL that it may stand in (security.md 7).
        let text = String::from_utf8_lossy(text.expose()).into_owned();
        let told = [("code", text.as_str())];
        redirect::back(&wish.redirect_uri, self.issuer(), wish.state.as_deref(), &told)
            .ok_or_else(|| OAuthError::request("redirect_uri is no URI"))
    }

    /// A consent is a person's, to a client, for a gateway, these scopes and this way back. Of a later user of the same name it is none.
    fn consent_key(&self, wish: &Wish, person: &Consenting) -> String {
        let since = match &person.who {
            Who::User(name) => self.parts.directories.load().since(&person.tenant, &Subject::User(name.clone())),
            Who::Identity { .. } => None,
        };
        let parts = [
            person.tenant.as_str(),
            &person.who.to_string(),
            &since.unwrap_or_default().to_string(),
            &wish.client.id,
            wish.target.gateway.as_str(),
            &wish.scopes.join(" "),
            &wish.redirect_uri,
        ];
        digest("portcullis consent 2", parts.join("\0").as_bytes())
    }

    /// Whether a client may be told without a person having said anything: as with [`Refusal::Back`].
    pub fn may_tell(&self, wish: &Wish) -> bool {
        wish.client.origin == Origin::Operator
    }

    /// A person said no, or can't be asked: the URL that tells the client.
    pub fn denied(&self, wish: &Wish, code: &'static str) -> Option<String> {
        let told = [("error", code), ("error_description", "nobody consented")];
        redirect::back(&wish.redirect_uri, self.issuer(), wish.state.as_deref(), &told)
    }
}

fn remembers(wish: &Wish) -> bool {
    wish.client.origin == Origin::Itself || wish.client.is_confidential() || wish.redirect_uri.starts_with("https://")
}
