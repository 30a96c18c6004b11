//! Connecting by a sign-in at the server's own authorization server: there, back, and saved once the person has seen whose
//! account it is.
//!
//! What comes back is bound to the browser's session and the person, and works once (security.md 7 and 21):
//! `portcullis_credential` keeps that. Here is asked whether the person may connect for that owner, before they go and again
//! before anything is saved.

use axum::{
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use maud::html;
use portcullis_credential::{Begin, CALLBACK_PATH, Callback, Connected, OAuthError};
use portcullis_model::{Secret, Side};
use serde::Deserialize;

use super::task::Task;
use crate::{
    api::ConnectRequest,
    install,
    web::{
        SignedForm, Visitor, Web, form,
        layout::{self, Page},
        owners::{self, Choice},
        tokens::who,
        view,
    },
};

/// The longest of what an authorization server sends back, each.
const MAX_SENT: usize = 8 << 10;

/// Sends the person to the server's authorization server; what the form brought is kept until they are back.
///
/// # Errors
/// The page that says why not.
pub async fn begin(
    web: &Web,
    visitor: &Visitor,
    task: &Task,
    mut request: ConnectRequest,
) -> Result<Response, Response> {
    let tenant = &visitor.principal.tenant;
    let refused = |error: &OAuthError| failed(visitor, error);
    let subject = request.owner.parse().map_err(|_| view::not_found(visitor, "owner"))?;
    let owner = install::owner(&subject).map_err(|e| view::failed(visitor, &e))?;
    let connection = match request.name.take() {
        Some(name) => name,
        None => install::default_name(&web.registry.snapshot(), tenant, &task.server, &owner)
            .map_err(|e| view::failed(visitor, &e))?,
    };
    let redirect_uri = format!("{}{CALLBACK_PATH}", web.base_url.trim_end_matches('/'))
        .parse()
        .map_err(|_| refused(&OAuthError::Internal("the gateway's own URL is none")))?;
    let secrets = std::mem::take(&mut request.secrets);
    let begin = Begin {
        tenant: tenant.clone(),
        server: task.server.clone(),
        owner,
        connection,
        owner_only: request.owner_only,
        values: std::mem::take(&mut request.values),
        secrets: secrets.into_iter().map(|(field, value)| (field, Secret::new(value.into_bytes()))).collect(),
        session: visitor.binding,
        user: visitor.principal.subject_text.to_string(),
        redirect_uri,
    };
    let begun = web.oauth.begin(begin).await.map_err(|e| refused(&e))?;
    // By a page of its own: browsers hold what follows a form to the policy of the form's page.
    Ok(layout::onward(begun.url.as_str()))
}

#[derive(Deserialize)]
pub(in crate::web) struct Sent {
    #[serde(default)]
    state: String,
    code: Option<String>,
    error: Option<String>,
    iss: Option<String>,
}

/// `GET /oauth-client/callback`: back from an authorization server that an operator registered us with.
pub async fn back(State(web): State<Web>, visitor: Visitor, Query(sent): Query<Sent>) -> Response {
    came_back(&web, visitor, None, sent).await
}

/// `GET /oauth-client/callback/{mark}`: back from any other.
pub async fn back_to(
    State(web): State<Web>,
    visitor: Visitor,
    Path(mark): Path<String>,
    Query(sent): Query<Sent>,
) -> Response {
    came_back(&web, visitor, Some(mark), sent).await
}

/// Shows whose account it is; nothing is saved yet.
async fn came_back(web: &Web, visitor: Visitor, mark: Option<String>, sent: Sent) -> Response {
    let texts = [Some(&sent.state), sent.code.as_ref(), sent.error.as_ref(), sent.iss.as_ref()];
    if texts.into_iter().flatten().any(|text| text.len() > MAX_SENT) {
        return failed(&visitor, &OAuthError::UnknownState);
    }
    let callback = Callback {
        state: sent.state,
        code: sent.code.map(|code| Secret::new(code.into_bytes())),
        error: sent.error,
        iss: sent.iss,
        mark,
    };
    let principal = &visitor.principal;
    match web.oauth.finish(&principal.tenant, visitor.binding, &principal.subject_text, callback).await {
        Ok(connected) => confirm(&visitor, &connected).into_response(),
        Err(error) => failed(&visitor, &error),
    }
}

fn confirm(visitor: &Visitor, found: &Connected) -> Page {
    let owner = found.owner.subject();
    let account = found.account.title().map(view::title);
    let body = html! {
        p { "You have signed in. Nothing is kept until you say that this is the right account." }
        dl {
            dt { "Server" } dd { (found.server) }
            dt { "Account" } dd {
                @match &account {
                    Some(account) => strong { (account) },
                    None => "the authorization server does not say which",
                }
            }
            dt { "At" } dd { code { (view::title(&found.account.issuer)) } }
            dt { "For" } dd { (Choice::of(&visitor.principal, &owner).label) }
            @if !found.scopes.is_empty() { dt { "Allowed" } dd { (view::text(&found.scopes.join(", "))) } }
        }
        @if !found.refused_scopes.is_empty() {
            div class="notice warn" { p { "Not allowed, though asked for: " (view::text(&found.refused_scopes.join(", "))) ". Some calls may fail." } }
        }
        @if !found.renews {
            p class="hint" { "The server gave no leave to renew this by itself: it has to be connected again when it ends." }
        }
        form class="row" method="post" action="/oauth-client/save" {
            (form::token(&visitor.csrf))
            input type="hidden" name="ticket" value=(found.ticket);
            button name="do" value="save" { "Yes, connect it" }
            button class="quiet" name="do" value="discard" { "No, another account" }
        }
    };
    layout::page("Is this the right account?", Some(visitor), body)
}

/// `POST /oauth-client/save`: the account is the right one, or not.
pub async fn save(State(web): State<Web>, SignedForm { visitor, fields }: SignedForm) -> Response {
    let principal = &visitor.principal;
    let (tenant, user) = (&principal.tenant, &*principal.subject_text);
    let ticket = fields.get("ticket").unwrap_or_default();
    let Some((server, owner)) = web.oauth.waiting(tenant, visitor.binding, user, ticket) else {
        return failed(&visitor, &OAuthError::UnknownState);
    };
    if fields.get("do") != Some("save") {
        web.oauth.discard(tenant, visitor.binding, user, ticket);
        return Redirect::to(&format!("/servers/{server}/connect")).into_response();
    }
    // A role may have ended while they were away.
    if !owners::may_install(&web, principal, &owner.subject()) {
        web.oauth.discard(tenant, visitor.binding, user, ticket);
        return view::forbidden(&visitor, "you may not connect this any more", "Ask your operator");
    }
    let who = who(&visitor);
    let what = format!("McpServer/{server} for {}", owner.subject());
    let attempt = match web.admin.attempt(&who, "connect", tenant, what).await {
        Ok(attempt) => attempt,
        Err(error) => return view::failed(&visitor, &error),
    };
    let saved = web.oauth.save(tenant, visitor.binding, user, ticket).await;
    let attempt = match &saved {
        Ok(saved) => attempt.of(format!("Connection/{}", saved.connection)),
        Err(_) => attempt,
    };
    web.admin.settle().await;
    if let Err(error) = attempt.end(saved.is_ok()).await {
        return view::failed(&visitor, &error);
    }
    match saved {
        Ok(saved) => Redirect::to(&format!("/connections/{}?new=1", saved.connection)).into_response(),
        Err(error) => failed(&visitor, &error),
    }
}

fn failed(visitor: &Visitor, error: &OAuthError) -> Response {
    let fault = error.to_fault();
    let status = match fault.side {
        Side::Caller | Side::Policy => StatusCode::BAD_REQUEST,
        Side::Server => StatusCode::BAD_GATEWAY,
        Side::Gateway => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, layout::fault(Some(visitor), &fault)).into_response()
}
