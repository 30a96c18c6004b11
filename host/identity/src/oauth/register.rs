//! Clients that register themselves (RFC 7591): bounded, forgotten where they are not used, and believed in nothing but where
//! people are sent back to.

use portcullis_model::{Secret, text::deceives};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    CLIENT_LIFE, OAuth, OAuthError, UNUSED_LIFE,
    client::{Client, Origin, Proof, SECRET_LABEL},
    redirect::redirect_problem,
};
use crate::{
    clock::{millis, now_ms},
    shelf::ShelfError,
    signin::{digest, random_text},
};

/// What the ids of such clients begin with.
pub(super) const PREFIX: &str = "dyn-";
/// The most redirect URIs of one client.
const MAX_URIS: usize = 10;
/// How many of those that wait for their first sign-in are forgotten where there is no room.
const MADE_ROOM: usize = 100;
/// The most characters of a name.
const MAX_NAME: usize = 100;

/// What the store keeps of such a client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Registered {
    name: String,
    redirect_uris: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

/// What a client sends (RFC 7591 section 2). What else it says is not asked for.
#[derive(Debug, Deserialize)]
pub struct Registration {
    #[serde(default)]
    redirect_uris: Vec<String>,
    #[serde(default)]
    client_name: Option<String>,
    #[serde(default)]
    token_endpoint_auth_method: Option<String>,
    #[serde(default)]
    grant_types: Vec<String>,
    #[serde(default)]
    response_types: Vec<String>,
    #[serde(default)]
    application_type: Option<String>,
}

/// A client that was just registered.
pub struct NewClient {
    /// The answer, without the secret (RFC 7591 section 3.2.1).
    pub answer: Value,
    /// Its secret, told this once.
    pub secret: Option<Secret>,
}

impl OAuth {
    /// Registers a client.
    ///
    /// # Errors
    /// `invalid_redirect_uri`, `invalid_client_metadata`, or that registration is not offered.
    pub async fn register(&self, wanted: Registration) -> Result<NewClient, OAuthError> {
        let answered = self.take_in(wanted).await;
        let id = |new: &NewClient| new.answer["client_id"].as_str().unwrap_or_default().to_owned();
        self.record_registered(answered.as_ref().map(id));
        answered
    }

    async fn take_in(&self, wanted: Registration) -> Result<NewClient, OAuthError> {
        if !self.options.registration {
            return Err(OAuthError::new("access_denied", "clients can't register themselves here; ask the operator"));
        }
        let wrong = |why: &'static str| OAuthError::new("invalid_client_metadata", why);
        if wanted.redirect_uris.is_empty() || wanted.redirect_uris.len() > MAX_URIS {
            return Err(OAuthError::new("invalid_redirect_uri", "name 1 to 10 redirect URIs"));
        }
        for uri in &wanted.redirect_uris {
            redirect_problem(uri)
                .map_err(|why| OAuthError::new("invalid_redirect_uri", format!("a redirect URI {why}")))?;
        }
        let known = |grant: &String| matches!(grant.as_str(), "authorization_code" | "refresh_token");
        if !wanted.grant_types.is_empty() && !wanted.grant_types.iter().any(|g| g == "authorization_code") {
            return Err(wrong("only clients that sign people in can register themselves (grant authorization_code)"));
        }
        if !wanted.response_types.is_empty() && !wanted.response_types.iter().any(|r| r == "code") {
            return Err(wrong("response_types has to hold code"));
        }
        let method = wanted.token_endpoint_auth_method.as_deref().unwrap_or("client_secret_basic");
        if !matches!(method, "none" | "client_secret_basic" | "client_secret_post") {
            return Err(wrong("token_endpoint_auth_method has to be none, client_secret_basic or client_secret_post"));
        }
        let name: String = wanted
            .client_name
            .unwrap_or_default()
            .chars()
            .filter(|c| !deceives(*c))
            .take(MAX_NAME)
            .collect::<String>()
            .trim()
            .to_owned();
        let secret = if method == "none" { None } else { Some(random_text::<32>()?) };
        let random = random_text::<18>()?;
        let id = format!("{PREFIX}{}", String::from_utf8_lossy(random.expose()));
        let registered = Registered {
            name: if name.is_empty() { "A program without a name".to_owned() } else { name },
            redirect_uris: wanted.redirect_uris,
            secret: secret.as_ref().map(|s| digest(SECRET_LABEL, s.expose())),
        };
        let now = now_ms();
        let until = now + millis(UNUSED_LIFE);
        match self.clients.put(&id[PREFIX.len()..], until, &registered).await {
            Err(ShelfError::Full(_)) => {
                self.make_room(now).await?;
                self.clients.put(&id[PREFIX.len()..], until, &registered).await?;
            }
            other => other?,
        }
        let mut grants: Vec<String> = wanted.grant_types.into_iter().filter(known).collect();
        if grants.is_empty() {
            grants = vec!["authorization_code".to_owned(), "refresh_token".to_owned()];
        }
        let mut answer = json!({
            "client_id": id,
            "client_id_issued_at": now / 1000,
            "client_name": registered.name,
            "redirect_uris": registered.redirect_uris,
            "grant_types": grants,
            "response_types": ["code"],
            "token_endpoint_auth_method": method,
        });
        if let Some(kind) = wanted.application_type.filter(|k| matches!(k.as_str(), "native" | "web")) {
            answer["application_type"] = json!(kind);
        }
        if secret.is_some() {
            // It does not expire by itself.
            answer["client_secret_expires_at"] = json!(0);
        }
        Ok(NewClient { answer, secret })
    }

    /// Forgets the oldest of those that nobody has signed in with: strangers who fill the place keep nobody out for a day.
    async fn make_room(&self, now: u64) -> Result<(), OAuthError> {
        let _one_at_a_time = self.making_room.lock().await;
        if self.clients.has_room() {
            return Ok(());
        }
        let unused = now + millis(UNUSED_LIFE);
        let mut waiting = self.clients.list("").await?;
        waiting.retain(|(_, found)| found.until_ms <= unused);
        waiting.sort_by_key(|(_, found)| found.until_ms);
        for (key, _) in waiting.iter().take(MADE_ROOM) {
            self.clients.remove(key).await?;
        }
        Ok(())
    }

    pub(super) async fn registered(&self, id: &str, rest: &str) -> Result<Client, OAuthError> {
        if rest.len() > 64 {
            return Err(OAuthError::client());
        }
        let found = self.clients.get(rest).await?.ok_or_else(OAuthError::client)?.value;
        Ok(Client {
            id: id.to_owned(),
            name: found.name,
            origin: Origin::Itself,
            redirect_uris: found.redirect_uris,
            agent: None,
            proof: found.secret.map_or(Proof::None, Proof::Digest),
        })
    }

    /// A client that somebody signed in with is kept longer.
    pub(super) async fn keep_client(&self, id: &str) -> Result<(), OAuthError> {
        let Some(rest) = id.strip_prefix(PREFIX) else { return Ok(()) };
        let Some(found) = self.clients.get(rest).await? else { return Ok(()) };
        let until = now_ms() + millis(CLIENT_LIFE);
        // A day more or less is not worth a write.
        if until.saturating_sub(found.until_ms) > millis(UNUSED_LIFE) {
            // Who changed it meanwhile kept it as well.
            self.clients.replace(rest, &found, until, &found.value).await?;
        }
        Ok(())
    }
}
