//! Renewing a grant (RFC 6749 section 6). One at a time for each connection; the new tokens are durable before anybody uses
//! them, and the old refresh token is forgotten by that same write.
//!
//! What a crash between the authorization server's answer and the write costs: the new tokens are lost, the record still holds
//! the old ones. The access token goes on until its end, since it was renewed ahead of time; then the old refresh token is
//! tried. Authorization servers with a grace period take it; others refuse, and the owner is asked to connect again.

use std::{sync::Arc, time::Duration};

use portcullis_model::spec::{McpServer, Remote, SecretSource};
use portcullis_store::{Expect, StoreError, registry::server_origin};

use super::{
    grant::{Grant, Renewal},
    grants::Grants,
    record::Held,
    token::{Client, NoTokens, TokenRequest, Tokens},
    web::Bounds,
};
use crate::resolver::now_ms;

/// How long one gateway may take to renew: longer than the authorization server may take to answer.
const LEASE: Duration = Duration::from_secs(20);
/// How long another one waits for it: until it has ended, or its lease has, where it died.
const WAIT: Duration = Duration::from_secs(25);
/// How often a write is tried again where another writer was faster.
const ATTEMPTS: usize = 4;

impl Grants {
    /// Renews a grant, or finds that somebody else did. `forced` is where the server refused a token that is not at its end.
    pub(super) async fn renew(&self, grant: &Arc<Grant>, forced: bool) -> Renewal {
        let before = grant.held();
        if before.unsaved {
            match self.save(grant, &before).await {
                Ok(()) if !before.is_due(now_ms()) => return Renewal::Renewed,
                Ok(()) => {}
                Err(ended) => return ended,
            }
        }
        // Two that renew at once would use one refresh token twice, which authorization servers take for a theft (RFC 9700 section
        // 4.14.2).
        let lease = match &self.leases {
            None => None,
            Some(leases) => {
                let name = format!("renew/{}/{}", grant.tenant, grant.connection);
                match leases.take(&name, LEASE, WAIT).await {
                    Ok(Some(lease)) => Some(lease),
                    Ok(None) => return self.failed(grant, "another gateway is renewing it", None),
                    Err(error) => return self.failed(grant, &error.to_string(), None),
                }
            }
        };
        let renewal = Box::pin(self.renew_alone(grant, &before, forced)).await;
        if let Some(lease) = lease {
            lease.release().await;
        }
        renewal
    }

    async fn renew_alone(&self, grant: &Arc<Grant>, before: &Held, forced: bool) -> Renewal {
        // Another replica may have been faster, or somebody has just connected.
        match self.stored(grant).await {
            Ok(None) => return Renewal::Gone,
            Ok(Some(stored)) if stored.revision > before.revision => {
                grant.install(stored);
                let now = grant.held();
                if now.broken.is_none()
                    && (forced || !now.is_due(now_ms()))
                    && now.access.expose() != before.access.expose()
                {
                    return Renewal::Renewed;
                }
            }
            Ok(Some(_)) => {}
            Err(error) => return self.failed(grant, &error.to_string(), None),
        }
        let held = grant.held();
        if let Some(why) = &held.broken {
            return Renewal::Refused(why.clone());
        }
        let (remote, client) = match self.client_of(grant, &held).await {
            Ok(found) => found,
            Err(ended) => return ended,
        };
        let Some(refresh) = &held.refresh else {
            return Renewal::Refused("the authorization server gave nothing to renew it with".to_owned());
        };
        let bounds = Bounds::of(&remote);
        let request = TokenRequest {
            web: &self.web,
            bounds: &bounds,
            endpoint: &held.token_endpoint,
            issuer: &held.account.issuer,
            client: &client,
            key: &self.key,
        };
        let mut form: Vec<(&str, &[u8])> = vec![("grant_type", b"refresh_token"), ("refresh_token", refresh.expose())];
        if !held.resource.is_empty() {
            form.push(("resource", held.resource.as_bytes()));
        }
        let began = now_ms();
        match request.send(&form, began).await {
            Ok(tokens) => self.take(grant, &held, tokens, began).await,
            Err(NoTokens::Refused(code)) => self.refused(grant, &held, &code).await,
            Err(NoTokens::Failed { why, retry_after }) => self.failed(grant, &why, retry_after),
        }
    }

    /// The server's address, and what the gateway is at the authorization server. The secret of a client that the operator
    /// gave is read where it is now.
    async fn client_of(&self, grant: &Grant, held: &Held) -> Result<(Remote, Client), Renewal> {
        let fleet = self.registry.snapshot();
        let connection = fleet.connection(&grant.tenant, &grant.connection).ok_or(Renewal::Gone)?;
        let server = fleet.server(&grant.tenant, &connection.spec.server).map(|s| s.spec).ok_or(Renewal::Gone)?;
        let remote = server.remote.clone().ok_or(Renewal::Gone)?;
        // A server that moved gets nothing, and nothing is asked for on its behalf (security.md 4).
        if connection.spec.origin.as_deref() != Some(&*server_origin(server)) {
            return Err(self.failed(grant, "the server moved: the connection is suspended", None));
        }
        let mut client = held.client.clone();
        if held.given
            && let Some(source) = secret_of(server, &client.id)
        {
            let secret = self.read(&grant.tenant, source).await;
            client.secret = Some(secret.map_err(|why| self.failed(grant, &why, None))?);
        }
        Ok((remote, client))
    }

    async fn take(&self, grant: &Arc<Grant>, held: &Held, tokens: Tokens, began: u64) -> Renewal {
        let next = held.with(|next| {
            next.unsaved = true;
            next.access = tokens.access;
            // RFC 6749 section 6: without a new one the old one holds.
            next.refresh = tokens.refresh.or(next.refresh.take());
            next.issued_ms = began;
            next.expires_ms = tokens.life_ms.map(|life| began.saturating_add(life));
            if let Some(scopes) = tokens.scopes {
                next.scopes = scopes;
            }
        });
        match self.save(grant, &next).await {
            Ok(()) => Renewal::Renewed,
            // The authorization server may have forgotten the old ones: the new ones serve from memory until they can be saved.
            Err(Renewal::Failed { why, .. }) => {
                tracing::error!(grant = ?grant, why, "renewed tokens could not be saved yet; they serve from memory");
                grant.install(next);
                Renewal::Renewed
            }
            // Deleted while it was renewed: whoever took back its tokens knew the old ones only.
            Err(Renewal::Gone) => {
                self.take_back(&grant.tenant, &grant.connection, Arc::new(next));
                Renewal::Gone
            }
            Err(other) => other,
        }
    }

    async fn refused(&self, grant: &Arc<Grant>, held: &Held, code: &str) -> Renewal {
        if !is_final(code) {
            return self.failed(grant, &format!("the authorization server answered {code}"), None);
        }
        let why = format!("the authorization server will not renew its access ({code})");
        tracing::warn!(grant = ?grant, code, "a connection has to be connected again");
        let next = held.with(|next| next.broken = Some(why.clone()));
        match self.save(grant, &next).await {
            Err(Renewal::Failed { .. }) => {
                // Not saved: it is asked again after a restart, and refused again.
                grant.install(held.with(|next| {
                    next.broken = Some(why.clone());
                    next.unsaved = true;
                }));
                Renewal::Refused(why)
            }
            Err(other) => other,
            // Somebody may have connected meanwhile.
            Ok(()) if grant.held().broken.is_none() => Renewal::Renewed,
            Ok(()) => Renewal::Refused(why),
        }
    }

    /// Makes it durable, then takes it over. Where somebody connected meanwhile, theirs is taken over instead.
    async fn save(&self, grant: &Arc<Grant>, next: &Held) -> Result<(), Renewal> {
        let mut revision = next.revision;
        let mut problem = String::new();
        for _ in 0..ATTEMPTS {
            let write = match self.sealing(&grant.tenant, &grant.connection, next, Expect::Is(revision)) {
                Ok(write) => write,
                Err(error) => return Err(self.failed(grant, &error.to_string(), None)),
            };
            match self.secrets.store().write(vec![write]).await {
                Ok(revision) => {
                    grant.install(next.with(|saved| {
                        saved.revision = revision;
                        saved.unsaved = false;
                    }));
                    return Ok(());
                }
                Err(StoreError::Conflict { .. }) => match self.stored(grant).await {
                    Ok(None) => return Err(Renewal::Gone),
                    Ok(Some(stored)) if stored.grant != next.grant => {
                        grant.install(stored);
                        return Ok(());
                    }
                    // Sealed again with another key, or renewed by somebody who was not accepted: ours is the newest.
                    Ok(Some(stored)) => revision = stored.revision,
                    Err(error) => problem = error.to_string(),
                },
                Err(error) => {
                    problem = error.to_string();
                    break;
                }
            }
        }
        Err(self.failed(grant, &problem, None))
    }

    fn failed(&self, grant: &Grant, why: &str, told: Option<std::time::Duration>) -> Renewal {
        tracing::warn!(grant = ?grant, why, "tokens could not be renewed; tried again");
        Renewal::Failed { why: why.to_owned(), retry_after_ms: grant.pause_ms(told) }
    }
}

/// Whether a refusal is about this grant and stays. Anything else, such as a client's wrong secret, is the operator's to mend,
/// and the connection works again afterwards.
fn is_final(code: &str) -> bool {
    // The second is what GitHub says.
    matches!(code, "invalid_grant" | "bad_refresh_token")
}

pub(super) fn secret_of(server: &McpServer, client: &str) -> Option<SecretSource> {
    let oauth = server.oauth()?;
    (oauth.client_id.as_deref() == Some(client)).then(|| oauth.client_secret.clone())?
}
