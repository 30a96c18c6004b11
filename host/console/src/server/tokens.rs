//! Tokens: create, list, revoke.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
};
use portcullis_identity::{
    Action, Created, Lifetime, NewToken as Wanted, TokenError, TokenRecord, oauth::OAuthError, signin::Who as Person,
};
use portcullis_model::{Name, Side, Subject, text::shown};
use serde::Deserialize;

use super::{
    Admin, Tenant, Who,
    page::page,
    reply::{Answer, Body},
};
use crate::api::{ApiError, NewToken, Page, Revoked, TokenItem, TokenRequest};

/// How long a token for the admin API lives that is made with another, where nobody says.
const DEFAULT_ADMIN: Duration = Duration::from_secs(90 * 86_400);

#[derive(Deserialize)]
pub(super) struct ListQuery {
    owner: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn list(
    State(admin): State<Admin>,
    Tenant(tenant): Tenant,
    who: Who,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answer<Page<TokenItem>> {
    let Query(query) = query.map_err(ApiError::from)?;
    let owner = query.owner.as_deref().map(subject).transpose()?;
    if let Some(owner) = &owner {
        who.must(&Action::SeeTokens(&admin.whose(&tenant, owner)), &format!("see the tokens of {owner}"))?;
    }
    let mut records = admin.tokens.list(&tenant, owner.as_ref());
    records.retain(|record| sees(&admin, &who, record));
    records.sort_by(|a, b| a.id.cmp(&b.id));
    let follows = |r: &TokenRecord| query.after.as_ref().is_none_or(|after| r.id > *after);
    let (records, next) = page(records, query.limit, follows, |r| r.id.clone());
    let mut items = Vec::with_capacity(records.len());
    for record in &records {
        items.push(TokenItem { client: client(&admin, record).await, ..item(&admin, record) });
    }
    Ok(Json(Page { items, next }))
}

pub(super) async fn create(
    State(admin): State<Admin>,
    Tenant(tenant): Tenant,
    who: Who,
    Body(request): Body<TokenRequest>,
) -> Answer<NewToken> {
    let owner = subject(&request.owner)?;
    who.must(&Action::CreateToken(&admin.whose(&tenant, &owner)), &format!("make a token of {owner}"))?;
    let lifetime = lifetime(&admin, &who, &tenant, &request)?;
    let wanted = Wanted {
        tenant: tenant.clone(),
        owner,
        name: request.name,
        gateways: request.gateways,
        admin: request.admin,
        lifetime,
        on_behalf: None,
    };
    let created = make(&admin, &who, wanted).await?;
    // A named exit: the text is told once, to whoever made it, over the owner's own socket.
    let token = String::from_utf8_lossy(created.text.expose()).into_owned();
    Ok(Json(NewToken { token, item: item(&admin, &created.record) }))
}

pub(super) async fn revoke(
    State(admin): State<Admin>,
    Tenant(tenant): Tenant,
    who: Who,
    Path(id): Path<String>,
) -> Answer<TokenItem> {
    if let Who::Caller(_) = &who {
        // Whose tokens they may not see, those are not there.
        let record = admin.tokens.get(&tenant, &id).filter(|record| sees(&admin, &who, record));
        let record = record.ok_or_else(|| ApiError::from(TokenError::Unknown(shown(&id, 40))))?;
        who.must(&Action::RevokeToken(&admin.whose(&tenant, &record.owner)), "revoke this token")?;
    }
    let revoked = end(&admin, &who, &tenant, &id).await?;
    Ok(Json(item(&admin, &revoked)))
}

/// Makes a token and writes down who did: the one way of page and API.
///
/// # Errors
/// Those of [`portcullis_identity::TokenService::create`], and of the audit stream.
pub(crate) async fn make(admin: &Admin, who: &Who, wanted: Wanted) -> Result<Created, ApiError> {
    let owner = wanted.owner.to_string();
    let attempt = admin.attempt(who, "token.create", &wanted.tenant, owner.as_str()).await?;
    let created = admin.tokens.create(wanted).await;
    let attempt = match &created {
        Ok(created) => attempt.of(format!("{} for {owner}", created.record.id)),
        Err(_) => attempt,
    };
    attempt.end(created.is_ok()).await?;
    Ok(created?)
}

/// Revokes a token, with what it can be renewed by, and writes down who did: the one way of page and API.
///
/// # Errors
/// Those of [`portcullis_identity::TokenService::revoke`], and of the audit stream.
pub(crate) async fn end(admin: &Admin, who: &Who, tenant: &Name, id: &str) -> Result<TokenRecord, ApiError> {
    let attempt = admin.attempt_to_take(who, "token.revoke", tenant, id.chars().take(80).collect::<String>()).await;
    let revoked = revoke_one(admin, tenant, id).await;
    attempt.end(revoked.is_ok()).await?;
    revoked
}

async fn revoke_one(admin: &Admin, tenant: &Name, id: &str) -> Result<TokenRecord, ApiError> {
    // The grant first: a client that renewed it in between would have a token that nobody took back.
    let grant = admin.tokens.get(tenant, id).and_then(|record| record.on_behalf?.grant);
    if let (Some(grant), Some(authorization)) = (grant, &admin.authorization) {
        authorization.end_grant(&grant).await.map_err(not_ended)?;
    }
    Ok(admin.tokens.revoke(tenant, id).await?)
}

fn not_ended(error: OAuthError) -> ApiError {
    tracing::error!(%error, "a client's grant could not be ended");
    ApiError::new(Side::Gateway, "store-unavailable", "what the token can be renewed by could not be taken back")
        .next("Try again in a moment; until then the token works")
}

#[derive(Deserialize)]
pub(super) struct OwnerQuery {
    owner: String,
}

/// Every token of an owner at once: whoever leaves, or lost what held them.
pub(super) async fn revoke_all(
    State(admin): State<Admin>,
    Tenant(tenant): Tenant,
    who: Who,
    query: Result<Query<OwnerQuery>, QueryRejection>,
) -> Answer<Revoked> {
    let Query(query) = query.map_err(ApiError::from)?;
    let owner = subject(&query.owner)?;
    who.must(&Action::RevokeToken(&admin.whose(&tenant, &owner)), &format!("revoke the tokens of {owner}"))?;
    let attempt = admin.attempt_to_take(&who, "token.revoke", &tenant, format!("all of {owner}")).await;
    let revoked = revoke_everything(&admin, &tenant, &owner).await;
    attempt.end(revoked.is_ok()).await?;
    let Ended { tokens: revoked, clients, sessions } = revoked?;
    Ok(Json(Revoked { owner: owner.to_string(), revoked, clients, sessions }))
}

/// How many of each ended.
struct Ended {
    tokens: usize,
    clients: usize,
    sessions: usize,
}

/// What clients renew their tokens by, the tokens, and the sessions of an owner.
async fn revoke_everything(admin: &Admin, tenant: &Name, owner: &Subject) -> Result<Ended, ApiError> {
    let clients = match &admin.authorization {
        Some(authorization) => authorization.end_grants_of(tenant, owner).await.map_err(not_ended)?,
        None => 0,
    };
    let tokens = admin.tokens.revoke_owner(tenant, owner).await?;
    Ok(Ended { tokens, clients, sessions: end_sessions(admin, tenant, owner).await? })
}

/// Whoever found somebody's tokens may have found their browser too.
async fn end_sessions(admin: &Admin, tenant: &Name, owner: &Subject) -> Result<usize, ApiError> {
    let Subject::User(name) = owner else { return Ok(0) };
    let mut people = vec![Person::User(name.clone())];
    if let Some(user) = admin.registry.snapshot().user(tenant, name) {
        let identities = user.spec.identities.iter();
        people.extend(identities.map(|i| Person::Identity { issuer: i.issuer.clone(), subject: i.subject.clone() }));
    }
    let mut ended = 0;
    for person in &people {
        ended += admin.signin.end_sessions(tenant, person).await?;
    }
    Ok(ended)
}

fn sees(admin: &Admin, who: &Who, record: &TokenRecord) -> bool {
    who.may(&Action::SeeTokens(&admin.whose(&record.tenant, &record.owner)))
}

/// How long a new token lives. One for the admin API that is made with another of those ends with it at the latest: whoever
/// found one for an hour has it for that hour.
fn lifetime(admin: &Admin, who: &Who, tenant: &Name, request: &TokenRequest) -> Result<Option<Lifetime>, ApiError> {
    let wanted = request.expires_in_s.map(Duration::from_secs);
    let made_with = match who {
        Who::Caller(principal) if request.admin => principal.token.as_deref(),
        _ => None,
    };
    let ends = made_with.and_then(|id| admin.tokens.get(tenant, id)).and_then(|record| record.expires_ms);
    let Some(ends) = ends else { return Ok(wanted.map(Lifetime::For)) };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let left = Duration::from_millis(ends).saturating_sub(now);
    match wanted {
        Some(wanted) if wanted > left => {
            Err(who.forbidden("make a token for the admin API that outlives the one it is made with"))
        }
        Some(wanted) => Ok(Some(Lifetime::For(wanted))),
        None => Ok(Some(Lifetime::For(left.min(DEFAULT_ADMIN)))),
    }
}

/// What the OAuth client calls itself that a token was issued to.
async fn client(admin: &Admin, record: &TokenRecord) -> Option<String> {
    let id = &record.on_behalf.as_ref()?.client;
    match &admin.authorization {
        Some(authorization) => Some(authorization.client_name(&record.tenant, id).await),
        None => Some(id.clone()),
    }
}

fn item(admin: &Admin, record: &TokenRecord) -> TokenItem {
    TokenItem {
        id: record.id.clone(),
        owner: record.owner.to_string(),
        name: record.name.clone(),
        client: None,
        gateways: record.gateways.clone(),
        admin: record.admin,
        state: serde_json::to_value(admin.tokens.status(record))
            .ok()
            .and_then(|v| v.as_str().map(ToOwned::to_owned))
            .unwrap_or_default(),
        created_ms: record.created_ms,
        expires_ms: record.expires_ms,
        last_used_ms: record.last_used_ms,
    }
}

fn subject(text: &str) -> Result<Subject, ApiError> {
    text.parse().map_err(|e: portcullis_model::principal::InvalidSubject| {
        ApiError::new(Side::Caller, "invalid-owner", e.to_string())
    })
}
