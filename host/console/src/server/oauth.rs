//! Connecting a server with OAuth by the admin API: the link of the page, or the whole sign-in where the operator's own
//! browser is elsewhere and brings back the address that it was sent to.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use portcullis_credential::{Begin, CALLBACK_PATH, Callback, OAuthError, UpstreamOAuth};
use portcullis_identity::Action;
use portcullis_model::{Fault, Kind, Name, ResourceKey, Secret, Side, Subject};
use url::Url;

use super::{
    Admin, Tenant, Who,
    reply::{Answer, Body, not_found},
};
use crate::{
    api::{ApiError, Connected, OAuthAccount, OAuthBegin, OAuthBegun, OAuthFinish, OAuthSave},
    install,
};

/// The bytes of the secret that binds a sign-in to whoever began it.
const BINDING: usize = 32;

pub(super) async fn begin(
    State(admin): State<Admin>,
    Tenant(tenant): Tenant,
    who: Who,
    Body(request): Body<OAuthBegin>,
) -> Answer<OAuthBegun> {
    let what = format!("McpServer/{} for {}", request.server, request.owner.chars().take(200).collect::<String>());
    let attempt = if request.direct { Some(admin.attempt(&who, "connect-begin", &tenant, what).await?) } else { None };
    let begun = make(&admin, &tenant, &who, request).await;
    if let Some(attempt) = attempt {
        attempt.end(begun.is_ok()).await?;
    }
    Ok(Json(begun?))
}

async fn make(admin: &Admin, tenant: &Name, who: &Who, mut request: OAuthBegin) -> Result<OAuthBegun, ApiError> {
    if let Ok(owner) = request.owner.parse::<Subject>() {
        may_connect(admin, tenant, who, &request.server, &owner)?;
    }
    let fleet = admin.registry.snapshot();
    let key = ResourceKey { tenant: tenant.clone(), kind: Kind::McpServer, name: request.server.clone() };
    let server = fleet.server(tenant, &request.server).ok_or_else(|| not_found(&key))?;
    if server.spec.oauth().is_none() {
        return Err(ApiError::new(Side::Caller, "no-oauth", format!("{key} has no OAuth"))
            .next(format!("Connect it with `portcullis connect {} --owner OWNER`.", request.server)));
    }
    let subject: Subject = request.owner.parse().map_err(|e: portcullis_model::principal::InvalidSubject| {
        ApiError::new(Side::Caller, "invalid-owner", e.to_string())
    })?;
    let owner = install::owner(&subject)?;
    install::exists(&fleet, tenant, &owner)?;
    let connection = match request.name.take() {
        Some(name) => name,
        None => install::default_name(&fleet, tenant, &request.server, &owner)?,
    };
    if !request.direct {
        let link = admin.view.connect_link(tenant, &request.server, &subject, Some(&connection));
        let link = link.ok_or_else(|| ApiError::new(Side::Gateway, "no-link", "no link could be made"))?;
        return Ok(OAuthBegun { link: Some(link), url: None, session: None, connection, expires_ms: None });
    }
    let mut session = [0; BINDING];
    getrandom::fill(&mut session).map_err(|_| ApiError::new(Side::Gateway, "no-randomness", "no randomness"))?;
    let secrets: BTreeMap<String, Secret> = std::mem::take(&mut request.secrets)
        .into_iter()
        .map(|(field, value)| (field, Secret::new(value.into_bytes())))
        .collect();
    let begin = Begin {
        tenant: tenant.clone(),
        server: request.server.clone(),
        owner,
        connection: connection.clone(),
        owner_only: request.owner_only,
        values: std::mem::take(&mut request.values),
        secrets,
        session,
        user: user(who),
        redirect_uri: redirect_uri(admin)?,
    };
    let begun = oauth(admin)?.begin(begin).await.map_err(|error| match error {
        OAuthError::Invalid(problems) => {
            let key = ResourceKey { tenant: tenant.clone(), kind: Kind::Connection, name: connection.clone() };
            install::misfit(problems, &request.server, &key)
        }
        other => other.into(),
    })?;
    Ok(OAuthBegun {
        link: None,
        url: Some(begun.url.to_string()),
        session: Some(hex(&session)),
        connection,
        expires_ms: Some(begun.expires_ms),
    })
}

pub(super) async fn finish(
    State(admin): State<Admin>,
    Tenant(tenant): Tenant,
    who: Who,
    Body(mut request): Body<OAuthFinish>,
) -> Answer<OAuthAccount> {
    let callback = Callback {
        state: std::mem::take(&mut request.state),
        code: request.code.take().map(|code| Secret::new(code.into_bytes())),
        error: request.error.take(),
        iss: request.iss.take(),
        mark: request.mark.take(),
    };
    let found = oauth(&admin)?.finish(&tenant, binding(&request.session)?, &user(&who), callback).await?;
    Ok(Json(OAuthAccount {
        ticket: found.ticket,
        server: found.server,
        connection: found.connection,
        owner: found.owner.subject().to_string(),
        again: found.again,
        account: found.account.title().map(str::to_owned),
        issuer: found.account.issuer.clone(),
        scopes: found.scopes,
        refused_scopes: found.refused_scopes,
        renews: found.renews,
    }))
}

pub(super) async fn save(
    State(admin): State<Admin>,
    Tenant(tenant): Tenant,
    who: Who,
    Body(request): Body<OAuthSave>,
) -> Answer<Connected> {
    let (session, user) = (binding(&request.session)?, user(&who));
    let oauth = oauth(&admin)?;
    let Some((server, owner)) = oauth.waiting(&tenant, session, &user, &request.ticket) else {
        // Used up all the same: whoever should not have it has it.
        oauth.discard(&tenant, session, &user, &request.ticket);
        return Err(OAuthError::UnknownState.into());
    };
    // A role may have ended while they were away.
    if let Err(refused) = may_connect(&admin, &tenant, &who, &server, &owner.subject()) {
        oauth.discard(&tenant, session, &user, &request.ticket);
        return Err(refused.into());
    }
    let attempt =
        admin.attempt(&who, "connect", &tenant, format!("McpServer/{server} for {}", owner.subject())).await?;
    let saved = oauth.save(&tenant, session, &user, &request.ticket).await;
    let attempt = match &saved {
        Ok(saved) => attempt.of(format!("Connection/{}", saved.connection)),
        Err(_) => attempt,
    };
    admin.settle().await;
    attempt.end(saved.is_ok()).await?;
    let saved = saved?;
    let change = if saved.created { "created" } else { "updated" }.to_owned();
    Ok(Json(Connected { connection: saved.connection, change, origin: saved.origin, warnings: Vec::new() }))
}

/// Whether somebody may connect a server for an owner: the same rule as without a sign-in.
fn may_connect(admin: &Admin, tenant: &Name, who: &Who, server: &Name, owner: &Subject) -> Result<(), ApiError> {
    let whose = admin.whose(tenant, owner);
    who.must(&Action::Install(&whose), &format!("connect {server} for {owner}"))
}

fn oauth(admin: &Admin) -> Result<&UpstreamOAuth, ApiError> {
    admin.oauth.as_deref().ok_or_else(|| ApiError::new(Side::Gateway, "no-oauth", "nobody keeps tokens here"))
}

fn redirect_uri(admin: &Admin) -> Result<Url, ApiError> {
    let base = admin.view.status().url;
    format!("{}{CALLBACK_PATH}", base.trim_end_matches('/'))
        .parse()
        .map_err(|_| ApiError::new(Side::Gateway, "no-url", "the gateway's own URL is none"))
}

/// Somebody at the socket, who is no person of a tenant.
fn user(who: &Who) -> String {
    format!("admin {}", who.text())
}

fn binding(text: &str) -> Result<[u8; BINDING], ApiError> {
    let bytes = text.as_bytes();
    let mut session = [0; BINDING];
    let read = bytes.len() == 2 * BINDING
        && session.iter_mut().zip(bytes.chunks(2)).all(|(byte, pair)| {
            let digits = std::str::from_utf8(pair).ok().and_then(|t| u8::from_str_radix(t, 16).ok());
            digits.map(|d| *byte = d).is_some()
        });
    if read { Ok(session) } else { Err(OAuthError::UnknownState.into()) }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl From<OAuthError> for ApiError {
    fn from(error: OAuthError) -> Self {
        let Fault { side, code, message, next, .. } = error.to_fault();
        let error = Self::new(side, code, message);
        match next {
            Some(next) => error.next(next),
            None => error,
        }
    }
}
