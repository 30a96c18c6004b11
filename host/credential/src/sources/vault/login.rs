//! Logging in to Vault, and staying logged in: a token is renewed at half its time, and made anew when it can't be.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use portcullis_model::{Secret, spec::SecretSource};
use portcullis_outbound::Response;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Vault, VaultAuth, VaultReadError};
use crate::sources::local;

/// The shortest time between two renewals.
const LEAST: Duration = Duration::from_secs(1);

/// A token of Vault's.
pub(super) struct Session {
    token: Secret,
    /// When half of its time is over; none where it does not expire.
    renew: Option<Instant>,
    renewable: bool,
}

/// What a login and a renewal answer (API "auth").
#[derive(Deserialize)]
struct Granted {
    auth: Option<Auth>,
}

#[derive(Deserialize)]
struct Auth {
    client_token: Zeroizing<String>,
    /// Seconds; 0 where it does not expire.
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

/// What is told of a token (API "lookup-self").
#[derive(Deserialize)]
struct Looked {
    data: Facts,
}

#[derive(Deserialize)]
struct Facts {
    /// Seconds; 0 where it does not expire.
    #[serde(default)]
    ttl: u64,
    #[serde(default)]
    renewable: bool,
}

impl Session {
    fn new(token: Secret, seconds: u64, renewable: bool) -> Self {
        let half = Duration::from_secs(seconds) / 2;
        Self { token, renew: (seconds > 0).then(|| Instant::now() + half.max(LEAST)), renewable }
    }

    fn is_due(&self) -> bool {
        self.renew.is_some_and(|at| at <= Instant::now())
    }
}

impl Vault {
    /// A token that works, as far as is known.
    pub(super) async fn token(&self) -> Result<Secret, VaultReadError> {
        let mut session = self.session.lock().await;
        if let Some(known) = &*session {
            if !known.is_due() {
                return Ok(known.token.clone());
            }
            if known.renewable
                && let Some(renewed) = self.renew(&known.token).await
            {
                return Ok(session.insert(renewed).token.clone());
            }
        }
        *session = None;
        Ok(session.insert(self.login().await?).token.clone())
    }

    /// Forgets the token, so that the next request logs in. Answers whether there was one.
    pub(super) async fn forget(&self) -> bool {
        self.session.lock().await.take().is_some()
    }

    async fn renew(&self, token: &Secret) -> Option<Session> {
        let url = self.url(["auth", "token", "renew-self"].into_iter()).ok()?;
        let response = self.send(Method::POST, url, Some(token), Secret::new("{}")).await.ok()?;
        granted(&response).ok()
    }

    async fn login(&self) -> Result<Session, VaultReadError> {
        match &self.options.auth {
            VaultAuth::Token(source) => self.look_up(local::read(source)?).await,
            VaultAuth::Kubernetes { role, mount, token_file } => {
                #[derive(Serialize)]
                struct Login<'a> {
                    role: &'a str,
                    jwt: &'a str,
                }
                let token = local::read(&SecretSource::File(token_file.clone()))?;
                self.log_in(mount, &Login { role, jwt: text(&token)? }).await
            }
            VaultAuth::AppRole { role_id, secret_id, mount } => {
                #[derive(Serialize)]
                struct Login<'a> {
                    role_id: &'a str,
                    secret_id: &'a str,
                }
                let secret = local::read(secret_id)?;
                self.log_in(mount, &Login { role_id, secret_id: text(&secret)? }).await
            }
        }
    }

    async fn log_in(&self, mount: &str, login: &impl Serialize) -> Result<Session, VaultReadError> {
        let url = self.url(["auth"].into_iter().chain(mount.split('/')).chain(["login"]))?;
        let body = serde_json::to_vec(login).map_err(|_| VaultReadError::Unwritten)?;
        granted(&self.send(Method::POST, url, None, Secret::new(body)).await?)
    }

    /// How long a token that we were given holds.
    async fn look_up(&self, token: Secret) -> Result<Session, VaultReadError> {
        let url = self.url(["auth", "token", "lookup-self"].into_iter())?;
        let response = self.send(Method::GET, url, Some(&token), Secret::new("")).await?;
        if response.status != StatusCode::OK {
            return Err(VaultReadError::TokenRefused(response.status.as_u16()));
        }
        let looked: Looked = serde_json::from_slice(&response.body).map_err(|_| VaultReadError::NoFacts)?;
        Ok(Session::new(token, looked.data.ttl, looked.data.renewable))
    }
}

fn granted(response: &Response) -> Result<Session, VaultReadError> {
    if response.status != StatusCode::OK {
        return Err(VaultReadError::Login(response.status.as_u16()));
    }
    let granted: Option<Granted> = serde_json::from_slice(&response.body).ok();
    let auth = granted.and_then(|g| g.auth).ok_or(VaultReadError::NoToken)?;
    Ok(Session::new(Secret::new(auth.client_token.as_bytes()), auth.lease_duration, auth.renewable))
}

fn text(secret: &Secret) -> Result<&str, VaultReadError> {
    std::str::from_utf8(secret.expose()).map_err(|_| VaultReadError::CredentialNoText)
}
