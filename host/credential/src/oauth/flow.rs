//! Connecting an account: there and back, and saved when the person has seen whose it is.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderValue, Method, header::AUTHORIZATION};
use portcullis_model::{
    Door, Kind, Metadata, Name, Resource, ResourceKey, Secret, Spec,
    spec::{Connection, McpServer, Owner},
};
use portcullis_store::{Expect, Fleet, Registry, Revision, registry::server_origin};
use sha2::{Digest, Sha256};
use url::Url;
use zeroize::Zeroizing;

use super::{
    account::Account,
    client::{Wish, metadata_document},
    discover::{Discovered, Discovery, ServerMetadata},
    error::OAuthError,
    grants::Grants,
    pending::{Binding, PATIENCE, Waiting, random},
    record::{Held, stamp},
    token::{Client, NoTokens, TokenRequest, word},
    web::{Bounds, found},
};
use crate::{
    ConnectionBook,
    fields::{Given, misfits},
    resolver::now_ms,
};

/// Where authorization servers send people back to, below the gateway's public URL.
pub const CALLBACK_PATH: &str = "/oauth-client/callback";

/// What somebody wants to connect.
pub struct Begin {
    /// The tenant of all of it.
    pub tenant: Name,
    /// The server.
    pub server: Name,
    /// Whose connection it will be. Whether this person may connect for them is for the caller to decide, before and again
    /// before saving.
    pub owner: Owner,
    /// The connection's name. One that is there is connected again.
    pub connection: Name,
    /// Whether it will serve its owner only.
    pub owner_only: bool,
    /// Values of fields that are not sensitive.
    pub values: BTreeMap<String, String>,
    /// Values of sensitive fields.
    pub secrets: BTreeMap<String, Secret>,
    /// Of the browser's session: what comes back has to come by the same.
    pub session: [u8; 32],
    /// The person: what comes back has to come by the same.
    pub user: String,
    /// The gateway's public URL and [`CALLBACK_PATH`].
    pub redirect_uri: Url,
}

/// A sign-in that is under way.
#[derive(Clone, Debug)]
pub struct Begun {
    /// Where the person has to go. Holds the state: it is for that browser only, and for no log.
    pub url: Url,
    /// When it is too late, milliseconds since 1970.
    pub expires_ms: u64,
}

/// What an authorization server sent a person back with (RFC 6749 section 4.1.2, RFC 9207).
#[derive(Default)]
pub struct Callback {
    /// `state`.
    pub state: String,
    /// `code`.
    pub code: Option<Secret>,
    /// `error`.
    pub error: Option<String>,
    /// `iss`.
    pub iss: Option<String>,
}

/// An account that was connected and is not saved yet.
#[derive(Clone, Debug)]
pub struct Connected {
    /// What saves it, by the same browser and person, once.
    pub ticket: String,
    /// The tenant.
    pub tenant: Name,
    /// The server.
    pub server: Name,
    /// The connection's name.
    pub connection: Name,
    /// Whose it will be.
    pub owner: Owner,
    /// Whether it will serve its owner only.
    pub owner_only: bool,
    /// Whether there is a connection of that name, which is connected again.
    pub again: bool,
    /// Whose account it is, as far as the authorization server says.
    pub account: Account,
    /// The scopes that were granted.
    pub scopes: Vec<String>,
    /// Scopes that were asked for and not granted.
    pub refused_scopes: Vec<String>,
    /// Whether it can be renewed without the person.
    pub renews: bool,
}

/// A connection that was saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Its name.
    pub connection: Name,
    /// Whether it is new.
    pub created: bool,
    /// The origin that it is bound to.
    pub origin: String,
}

/// A sign-in under way.
struct Flow {
    wanted: Wanted,
    server: Arc<ServerMetadata>,
    client: Client,
    given: bool,
    resource: String,
    asked: Vec<String>,
    verifier: Secret,
    redirect_uri: Url,
}

/// An account that waits for a yes.
struct Unsaved {
    wanted: Wanted,
    held: Held,
}

/// Which connection it is about.
struct Wanted {
    tenant: Name,
    server: Name,
    /// Where the server was when it began: a server that moves meanwhile gets nothing.
    origin: String,
    owner: Owner,
    connection: Name,
    owner_only: bool,
    values: BTreeMap<String, String>,
    secrets: BTreeMap<String, Secret>,
}

/// Connects accounts.
pub struct UpstreamOAuth {
    registry: Arc<Registry>,
    grants: Arc<Grants>,
    book: Arc<ConnectionBook>,
    discovery: Discovery,
    flows: Waiting<Flow>,
    unsaved: Waiting<Unsaved>,
}

impl UpstreamOAuth {
    /// Connects for the connections of a book.
    pub fn new(registry: Arc<Registry>, grants: Arc<Grants>, book: Arc<ConnectionBook>) -> Arc<Self> {
        let discovery = Discovery::new(grants.web.clone());
        Arc::new(Self { registry, grants, book, discovery, flows: Waiting::new(), unsaved: Waiting::new() })
    }

    /// The client-id metadata document of a gateway whose callback is at this address.
    pub fn metadata_document(&self, redirect_uri: &Url) -> serde_json::Value {
        metadata_document(redirect_uri)
    }

    /// The key by which the gateway signs as a client, as a set.
    pub fn key_set(&self) -> serde_json::Value {
        self.grants.key.set()
    }

    /// Finds the authorization server, becomes its client, and says where the person has to go. What was given is checked
    /// first.
    ///
    /// # Errors
    /// What is in the way. Nothing was stored but perhaps the gateway's registration.
    pub async fn begin(&self, begin: Begin) -> Result<Begun, OAuthError> {
        let fleet = self.registry.snapshot();
        let no_server = || OAuthError::NoServer(format!("there is no server {} with OAuth", begin.server));
        let server = fleet.server(&begin.tenant, &begin.server).ok_or_else(no_server)?.spec.clone();
        let (Some(oauth), Some(remote)) = (server.oauth(), &server.remote) else { return Err(no_server()) };
        self.free(&begin.tenant, &begin.connection, &begin.server, &begin.owner)?;
        check(&fleet, &server, &begin)?;
        let found = self.discovery.find(remote, oauth).await?;
        let bounds = Bounds::of(remote);
        let wish = Wish {
            tenant: &begin.tenant,
            server_name: &begin.server,
            oauth,
            server: &found.server,
            bounds: &bounds,
            redirect_uri: &begin.redirect_uri,
        };
        let (client, given) = self.grants.client(&wish).await?;
        let asked = self.scopes(&begin, &server, &found);
        let verifier = Secret::new(random()?.into_bytes());
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.expose()));
        let mut url = found.server.authorization_endpoint.clone();
        {
            let mut query = url.query_pairs_mut();
            query.append_pair("response_type", "code").append_pair("client_id", &client.id);
            query.append_pair("redirect_uri", begin.redirect_uri.as_str());
            query.append_pair("code_challenge", &challenge).append_pair("code_challenge_method", "S256");
            if !asked.is_empty() {
                query.append_pair("scope", &asked.join(" "));
            }
            if !found.resource.is_empty() {
                query.append_pair("resource", &found.resource);
            }
            // OpenID Connect Core 1.0 section 11: without it, offline access is not given.
            if asked.iter().any(|s| s == "offline_access") && !oauth.extra_parameters.contains_key("prompt") {
                query.append_pair("prompt", "consent");
            }
            for (name, value) in &oauth.extra_parameters {
                query.append_pair(name, value);
            }
        }
        let binding = Binding { session: begin.session, user: by(&begin.tenant, &begin.user) };
        let flow = Flow {
            server: found.server,
            client,
            given,
            resource: found.resource,
            asked,
            verifier,
            redirect_uri: begin.redirect_uri,
            wanted: Wanted {
                origin: server_origin(&server),
                tenant: begin.tenant,
                server: begin.server,
                owner: begin.owner,
                connection: begin.connection,
                owner_only: begin.owner_only,
                values: begin.values,
                secrets: begin.secrets,
            },
        };
        let state = self.flows.put(binding, flow)?;
        self.grants.under_way(self.flows.sweep());
        url.query_pairs_mut().append_pair("state", &state);
        let patience = u64::try_from(PATIENCE.as_millis()).unwrap_or(u64::MAX);
        Ok(Begun { url, expires_ms: now_ms().saturating_add(patience) })
    }

    /// Takes what the person came back with, and gets the tokens. Works once, for the browser and the person that began.
    ///
    /// # Errors
    /// Why there is no account to confirm.
    pub async fn finish(
        &self,
        tenant: &Name,
        session: [u8; 32],
        user: &str,
        callback: Callback,
    ) -> Result<Connected, OAuthError> {
        let binding = Binding { session, user: by(tenant, user) };
        let flow = self.flows.take(&callback.state, &binding).ok_or(OAuthError::UnknownState)?;
        // Before anything else that it says is believed (RFC 9207 section 2.4): compared as text, not as URLs.
        match &callback.iss {
            Some(iss) if *iss != flow.server.issuer => return Err(OAuthError::WrongIssuer),
            None if flow.server.says_iss => return Err(OAuthError::WrongIssuer),
            _ => {}
        }
        if let Some(error) = callback.error {
            return Err(OAuthError::Denied(word(&error)));
        }
        let code = callback.code.ok_or(OAuthError::UnknownState)?;
        let bounds = self.bounds(&flow.wanted)?;
        let request = TokenRequest {
            web: &self.grants.web,
            bounds: &bounds,
            endpoint: &flow.server.token_endpoint,
            issuer: &flow.server.issuer,
            client: &flow.client,
            key: &self.grants.key,
        };
        let mut form: Vec<(&str, &[u8])> = vec![
            ("grant_type", b"authorization_code"),
            ("code", code.expose()),
            ("redirect_uri", flow.redirect_uri.as_str().as_bytes()),
            ("code_verifier", flow.verifier.expose()),
        ];
        if !flow.resource.is_empty() {
            form.push(("resource", flow.resource.as_bytes()));
        }
        let began = now_ms();
        let tokens = match request.send(&form, began).await {
            Ok(tokens) => tokens,
            Err(NoTokens::Failed { why, .. }) => return Err(OAuthError::Exchange(why)),
            Err(NoTokens::Refused(code)) => {
                if matches!(&*code, "invalid_client" | "unauthorized_client") && !flow.given {
                    self.grants.forget_client(tenant, &flow.server.issuer, &flow.redirect_uri).await;
                }
                return Err(OAuthError::Exchange(code));
            }
        };
        let mut account = Account::of(&flow.server.issuer);
        if let Some(token) = &tokens.id_token {
            account.read_id_token(token, &flow.client.id);
        }
        let scopes = tokens.scopes.unwrap_or_else(|| flow.asked.clone());
        if account.email.is_none() && account.name.is_none() && scopes.iter().any(|s| s == "openid") {
            self.ask_userinfo(&flow.server, &bounds, &tokens.access, &mut account).await;
        }
        let again = self.registry.snapshot().connection(tenant, &flow.wanted.connection).is_some();
        let refused = |scope: &&String| !scopes.contains(scope) && *scope != "offline_access";
        let connected = Connected {
            ticket: String::new(),
            tenant: flow.wanted.tenant.clone(),
            server: flow.wanted.server.clone(),
            connection: flow.wanted.connection.clone(),
            owner: flow.wanted.owner.clone(),
            owner_only: flow.wanted.owner_only,
            again,
            account: account.clone(),
            refused_scopes: flow.asked.iter().filter(refused).cloned().collect(),
            scopes: scopes.clone(),
            renews: tokens.refresh.is_some(),
        };
        let held = Held {
            stamp: stamp(),
            revision: Revision::default(),
            unsaved: true,
            grant: random()?,
            server: Some(flow.wanted.server.clone()),
            bounds,
            token_endpoint: flow.server.token_endpoint.clone(),
            revocation_endpoint: flow.server.revocation_endpoint.clone(),
            client: flow.client,
            given: flow.given,
            resource: flow.resource,
            account,
            access: tokens.access,
            refresh: tokens.refresh,
            issued_ms: began,
            expires_ms: tokens.life_ms.map(|life| began.saturating_add(life)),
            asked: flow.asked,
            scopes,
            broken: None,
            renew_ms: None,
        };
        let ticket = self.unsaved.put(binding, Unsaved { wanted: flow.wanted, held })?;
        Ok(Connected { ticket, ..connected })
    }

    /// Saves an account that the person confirmed: the connection and its tokens, in one write. Calls find it afterwards.
    ///
    /// # Errors
    /// Why nothing was saved.
    pub async fn save(&self, tenant: &Name, session: [u8; 32], user: &str, ticket: &str) -> Result<Saved, OAuthError> {
        let binding = Binding { session, user: by(tenant, user) };
        let Unsaved { wanted, held } = self.unsaved.take(ticket, &binding).ok_or(OAuthError::UnknownState)?;
        self.bounds(&wanted)?;
        let connection = &wanted.connection;
        self.free(tenant, connection, &wanted.server, &wanted.owner)?;
        let fleet = self.registry.snapshot();
        let existing = fleet.connection(tenant, connection);
        let grant = self.grants.sealing(tenant, connection, &held, Expect::Any)?;
        let mut writes = vec![grant];
        if !wanted.secrets.is_empty() {
            writes.push(self.grants.secrets.sealing(tenant, connection, &wanted.secrets)?);
        }
        let created = existing.is_none();
        // What a file says of a connection stays its own; the tokens are ours to keep.
        let revision = if existing.as_ref().is_some_and(|c| c.metadata.door.as_ref().is_some_and(Door::reads_again)) {
            self.grants.secrets.store().write(writes).await.map_err(crate::SecretsError::from)?
        } else {
            let mut metadata = Metadata::new(tenant.clone(), connection.clone());
            if let Some(existing) = &existing {
                metadata.labels = existing.metadata.labels.clone();
                metadata.annotations = existing.metadata.annotations.clone();
            }
            let spec = Connection {
                server: wanted.server.clone(),
                owner: wanted.owner.clone(),
                values: wanted.values,
                secrets: existing.map(|c| c.spec.secrets.clone()).unwrap_or_default(),
                owner_only: wanted.owner_only,
                origin: Some(wanted.origin.clone()),
            };
            let resource = Resource::new(metadata, Spec::Connection(spec));
            self.registry.apply_with(vec![resource], Door::Api, false, writes).await?;
            self.registry.store().revision()
        };
        // What the store says itself wins where somebody was faster.
        let saved = held.with(|saved| {
            saved.revision = revision;
            saved.unsaved = false;
        });
        self.grants.install(tenant, connection, saved);
        self.book.refresh().await.map_err(crate::SecretsError::from)?;
        self.book.reconnected(tenant, connection);
        Ok(Saved { connection: wanted.connection, created, origin: wanted.origin })
    }

    /// For which server, and whose, an account is that waits for a yes; to be asked before it is saved whether the person may
    /// still connect for them. None where nothing waits for this browser and person.
    pub fn waiting(&self, tenant: &Name, session: [u8; 32], user: &str, ticket: &str) -> Option<(Name, Owner)> {
        let binding = Binding { session, user: by(tenant, user) };
        self.unsaved.look(ticket, &binding, |unsaved| (unsaved.wanted.server.clone(), unsaved.wanted.owner.clone()))
    }

    /// Forgets an account that the person did not confirm.
    pub fn discard(&self, tenant: &Name, session: [u8; 32], user: &str, ticket: &str) {
        let binding = Binding { session, user: by(tenant, user) };
        drop(self.unsaved.take(ticket, &binding));
    }

    /// Where requests about a server may go, as it is now; it must still be where it was when the sign-in began.
    fn bounds(&self, wanted: &Wanted) -> Result<Bounds, OAuthError> {
        let fleet = self.registry.snapshot();
        let server = fleet.server(&wanted.tenant, &wanted.server).map(|s| s.spec);
        let remote = server.filter(|s| server_origin(s) == wanted.origin).and_then(|s| s.remote.as_ref());
        remote
            .map(Bounds::of)
            .ok_or_else(|| OAuthError::NoServer(format!("{} was moved or removed meanwhile", wanted.server)))
    }

    /// Whether a connection of this name may be made or connected again.
    fn free(&self, tenant: &Name, name: &Name, server: &Name, owner: &Owner) -> Result<(), OAuthError> {
        let fleet = self.registry.snapshot();
        let Some(existing) = fleet.connection(tenant, name) else { return Ok(()) };
        if existing.spec.server == *server && existing.spec.owner == *owner {
            return Ok(());
        }
        let key = ResourceKey { tenant: tenant.clone(), kind: Kind::Connection, name: name.clone() };
        let owner = existing.spec.owner.subject();
        Err(OAuthError::Conflict(format!("{key} connects {} for {owner} already", existing.spec.server)))
    }

    /// What is asked for: what the operator wrote, or what the server names; what it asked for in the middle of work; what the
    /// connection had before (SEP-2350); and leave to renew it, where that can be had (SEP-2207).
    fn scopes(&self, begin: &Begin, server: &McpServer, found: &Discovered) -> Vec<String> {
        let configured = server.oauth().map(|o| o.scopes.clone()).unwrap_or_default();
        let mut all = configured;
        if all.is_empty() || found.challenged {
            all.extend(found.scopes.iter().cloned());
        }
        if let Some(grant) = self.grants.get(&begin.tenant, &begin.connection) {
            let held = grant.held();
            if held.account.issuer == found.server.issuer {
                all.extend(held.asked.iter().chain(&held.scopes).cloned());
            }
            all.extend(grant.wanted());
        }
        if !all.is_empty() && found.server.scopes.iter().any(|s| s == "offline_access") {
            all.push("offline_access".to_owned());
        }
        let mut seen = std::collections::HashSet::new();
        all.retain(|scope| seen.insert(scope.clone()));
        all
    }

    async fn ask_userinfo(&self, server: &ServerMetadata, bounds: &Bounds, access: &Secret, account: &mut Account) {
        let Some(url) = &server.userinfo_endpoint else { return };
        let mut text = Zeroizing::new(Vec::with_capacity(access.len() + 7));
        text.extend_from_slice(b"Bearer ");
        text.extend_from_slice(access.expose());
        let Ok(mut value) = HeaderValue::from_bytes(&text) else { return };
        value.set_sensitive(true);
        let headers = vec![(AUTHORIZATION, value)];
        match self.grants.web.send(Method::GET, url, bounds, headers, Secret::new("")).await {
            Ok(answer) if found(&answer) => account.read_userinfo(&answer.body),
            Ok(answer) => tracing::debug!(status = answer.status.as_u16(), "userinfo was not told"),
            Err(error) => tracing::debug!(why = error.why, "userinfo was not told"),
        }
    }
}

impl std::fmt::Debug for UpstreamOAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamOAuth").finish_non_exhaustive()
    }
}

/// A person of a tenant.
fn by(tenant: &Name, user: &str) -> String {
    format!("{tenant}/{user}")
}

/// What is given, by the one rule that there is for it ([`misfits`]).
fn check(fleet: &Fleet, server: &McpServer, begin: &Begin) -> Result<(), OAuthError> {
    let existing = fleet.connection(&begin.tenant, &begin.connection);
    let given = Given {
        values: &begin.values,
        // One that is no text fits no field.
        secrets: begin
            .secrets
            .iter()
            .map(|(field, secret)| (field.as_str(), std::str::from_utf8(secret.expose()).unwrap_or("\0")))
            .collect(),
        elsewhere: existing.iter().flat_map(|c| c.spec.secrets.keys().map(String::as_str)).collect(),
    };
    let wrong = misfits(server, &given);
    if wrong.is_empty() { Ok(()) } else { Err(OAuthError::Invalid(wrong)) }
}
