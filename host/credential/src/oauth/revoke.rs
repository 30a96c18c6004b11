//! Taking tokens back at their authorization server when a connection is deleted (RFC 7009): in the background, after they are
//! forgotten here, so that nobody waits for it and no failure of it keeps a connection.
//!
//! It is tried a few times while the process runs and not again after a restart: what was to be taken back is not in the store
//! any more. Some authorization servers end all that a person granted to this client, not only these tokens.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use portcullis_model::{Name, Secret};
use portcullis_outbound::Response;
use portcullis_telemetry::AuditEvent;
use serde::Deserialize;
use tokio::sync::Semaphore;
use url::Url;

use super::{
    grants::Grants,
    record::Held,
    refresh::secret_of,
    token::{Client, NoTokens, TokenRequest, word},
    web::{Bounds, retry_after},
};
use crate::resolver::now_ms;

/// How many authorization servers are asked at once.
const AT_ONCE: usize = 8;
/// How many connections' tokens may wait to be taken back. Further ones are left to end by themselves.
const MOST: usize = 1_000;
/// How often it is tried.
const ATTEMPTS: u32 = 3;
/// The first pause between two attempts; the next is four times as long. What the authorization server asks for is kept to as
/// far as the longest one.
const PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What is under way.
pub(super) struct TakingBack {
    turns: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

impl Default for TakingBack {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(AT_ONCE)), waiting: Arc::default() }
    }
}

/// One of those that wait; no longer when it is dropped.
struct Waits(Arc<AtomicUsize>);

impl TakingBack {
    fn wait(&self) -> Option<Waits> {
        let waits = Waits(Arc::clone(&self.waiting));
        // The guard is there first, so that whoever is too many takes back what it counted.
        (self.waiting.fetch_add(1, Ordering::Relaxed) < MOST).then_some(waits)
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Revoked,
    Refused,
    /// It takes back another sort of token only.
    OtherSort,
    Failed,
    Nowhere,
    LeftOut,
}

impl Ended {
    fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Refused | Self::OtherSort => "refused",
            Self::Failed => "failed",
            Self::Nowhere => "nowhere",
            Self::LeftOut => "left-out",
        }
    }
}

impl Grants {
    /// Takes back what a connection held that is not in the store any more.
    pub(super) fn take_back(&self, tenant: &Name, connection: &Name, held: Arc<Held>) {
        let Some(grants) = self.me.upgrade() else { return };
        let (tenant, connection) = (tenant.clone(), connection.clone());
        let Some(waits) = self.taking_back.wait() else {
            return self.took_back(&tenant, &connection, &held, Ended::LeftOut);
        };
        self.runtime().spawn(async move {
            let ended = grants.ask_back(&tenant, &held).await;
            grants.took_back(&tenant, &connection, &held, ended);
            drop(waits);
        });
    }

    fn took_back(&self, tenant: &Name, connection: &Name, held: &Held, ended: Ended) {
        let (issuer, outcome) = (&*held.account.issuer, ended.as_str());
        match ended {
            Ended::Revoked => {
                tracing::info!(%tenant, %connection, issuer, "the tokens of a connection were taken back")
            }
            _ => tracing::warn!(
                %tenant, %connection, issuer, outcome,
                "the tokens of a connection that is gone were not taken back: they work until they end"
            ),
        }
        self.count_revocation(outcome);
        let mut event = AuditEvent::new("revocation");
        event.tenant = Some(tenant.shared());
        event.server = held.server.as_ref().map(Name::shared);
        event.connection = Some(connection.shared());
        event.outcome = Some(outcome.into());
        self.audit.record(event);
    }

    async fn ask_back(&self, tenant: &Name, held: &Held) -> Ended {
        let Some(endpoint) = &held.revocation_endpoint else { return Ended::Nowhere };
        let (bounds, client) = match self.as_client(tenant, held).await {
            Ok(found) => found,
            Err(why) => {
                tracing::warn!(why, "tokens can't be taken back");
                return Ended::Failed;
            }
        };
        // The refresh token first: with it, most take back the access token too (section 2.1).
        let mut ended = Ended::OtherSort;
        for (token, hint) in held.refresh.iter().map(|t| (t, "refresh_token")).chain([(&held.access, "access_token")]) {
            ended = match (ended, self.ask_back_one(held, endpoint, (&bounds, &client), (token, hint)).await) {
                (worse @ (Ended::Refused | Ended::Failed), _) | (worse, Ended::OtherSort) => worse,
                (_, this) => this,
            };
        }
        ended
    }

    async fn ask_back_one(
        &self,
        held: &Held,
        endpoint: &Url,
        (bounds, client): (&Bounds, &Client),
        (token, hint): (&Secret, &str),
    ) -> Ended {
        let request =
            TokenRequest { web: &self.web, bounds, endpoint, issuer: &held.account.issuer, client, key: &self.key };
        let form: [(&str, &[u8]); 2] = [("token", token.expose()), ("token_type_hint", hint.as_bytes())];
        let mut pause = PAUSE;
        for attempt in 1..=ATTEMPTS {
            // Not while it waits: one that is slow must not keep the others from their turn.
            let answered = match self.taking_back.turns.acquire().await {
                Ok(_turn) => request.post(&form, now_ms()).await,
                Err(_) => return Ended::Failed,
            };
            let told = match answered {
                Ok(answer) => match read(&answer) {
                    Ok(ended) => return ended,
                    Err(told) => told,
                },
                Err(NoTokens::Failed { why, .. }) => {
                    tracing::debug!(why, attempt, "tokens were not taken back yet");
                    None
                }
                Err(NoTokens::Refused(_)) => return Ended::Refused,
            };
            if attempt < ATTEMPTS {
                tokio::time::sleep(told.unwrap_or(pause).min(LONGEST_PAUSE)).await;
                pause *= 4;
            }
        }
        Ended::Failed
    }

    /// Where requests may go, and as whom: by what stands in the server's entry now, else as it was at the sign-in.
    async fn as_client(&self, tenant: &Name, held: &Held) -> Result<(Bounds, Client), String> {
        let fleet = self.registry.snapshot();
        let server = held.server.as_ref().and_then(|name| fleet.server(tenant, name)).map(|s| s.spec);
        let bounds = server.and_then(|s| s.remote.as_ref()).map_or(held.bounds, Bounds::of);
        let mut client = held.client.clone();
        if held.given
            && let Some(source) = server.and_then(|s| secret_of(s, &client.id))
        {
            client.secret = Some(self.read(tenant, source).await?);
        }
        Ok((bounds, client))
    }
}

#[derive(Deserialize)]
struct Answer {
    error: Option<String>,
}

/// How it ended (RFC 7009 section 2.2: 200 also for a token that was known no more); an error is the pause that was asked for
/// before the next attempt.
fn read(answer: &Response) -> Result<Ended, Option<Duration>> {
    let status = answer.status;
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return Err(retry_after(&answer.headers));
    }
    let said: Option<Answer> = serde_json::from_slice(&answer.body).ok();
    match said.and_then(|said| said.error) {
        // Section 2.2.1. Access tokens that are signed can't be taken back at many: then the refresh token is what counts.
        Some(code) if code == "unsupported_token_type" => Ok(Ended::OtherSort),
        Some(code) => {
            tracing::warn!(code = word(&code), "an authorization server does not take tokens back");
            Ok(Ended::Refused)
        }
        None if status.is_success() => Ok(Ended::Revoked),
        None => Ok(Ended::Refused),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;

    #[test]
    fn answers_are_taken_for_what_they_are() {
        let of = |status: u16, body: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", "7".parse().unwrap());
            let status = StatusCode::from_u16(status).unwrap();
            read(&Response { status, headers, body: Bytes::from_static(body.as_bytes()) })
        };
        assert_eq!(of(200, ""), Ok(Ended::Revoked));
        assert_eq!(of(204, ""), Ok(Ended::Revoked));
        assert_eq!(of(400, r#"{"error":"unsupported_token_type"}"#), Ok(Ended::OtherSort));
        assert_eq!(of(200, r#"{"error":"invalid_client"}"#), Ok(Ended::Refused));
        assert_eq!(of(401, r#"{"error":"invalid_client"}"#), Ok(Ended::Refused));
        assert_eq!(of(302, ""), Ok(Ended::Refused));
        assert_eq!(of(503, ""), Err(Some(Duration::from_secs(7))));
    }

    #[test]
    fn no_more_wait_than_there_is_room_for() {
        let taking = TakingBack::default();
        let all: Vec<_> = std::iter::from_fn(|| taking.wait()).take(2 * MOST).collect();
        assert_eq!(all.len(), MOST);
        drop(all);
        assert!(taking.wait().is_some());
    }
}
