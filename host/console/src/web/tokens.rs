//! One's own tokens: made, listed, revoked.

use std::time::Duration;

use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};
use portcullis_identity::{
    Lifetime, NewToken, TokenRecord, TokenStatus,
    permission::{Action, may},
};
use portcullis_model::{Name, Subject};

use super::{
    SignedForm, Visitor, Web,
    form::{self, Fields},
    layout::{self, Page},
    owners, view,
};
use crate::server::{Who, tokens as service};

/// How long a token may live, in days, as the page offers it.
const LIVES: [(u64, &str); 4] = [(7, "A week"), (30, "30 days"), (90, "90 days"), (365, "A year")];
const DEFAULT_LIFE: u64 = 90;
/// The most tokens and gateways that are shown.
const MOST: usize = 200;

/// `GET /tokens`.
pub async fn list(State(web): State<Web>, visitor: Visitor) -> Page {
    page(&web, &visitor, None, &[])
}

fn page(web: &Web, visitor: &Visitor, given: Option<&Fields>, wrong: &[(String, String)]) -> Page {
    let (tenant, owner) = (&visitor.principal.tenant, &visitor.principal.subject);
    let mut tokens = web.tokens.list(tenant, Some(owner));
    // A client that signs in gets a new one every few minutes: only what works now is of interest.
    // What an earlier owner of the name made is nobody's to see.
    tokens.retain(|token| match web.tokens.status(token) {
        TokenStatus::Active => true,
        TokenStatus::Orphaned => false,
        TokenStatus::Expired | TokenStatus::Revoked => token.on_behalf.is_none(),
    });
    // The newest first: that is the one somebody looks for.
    tokens.reverse();
    let more = tokens.len().saturating_sub(MOST);
    tokens.truncate(MOST);
    let body = html! {
        (view::summary(wrong))
        p { "A token lets a program call as you. Where a client can sign in by a browser, it needs none." }
        @if may_create(web, visitor) {
            section class="card" aria-labelledby="new" { h2 id="new" { "Make a token" } (form(web, visitor, given, wrong)) }
        } @else {
            p class="notice" { "You can't have tokens here: an operator has not made a " code { "User" } " of you." }
        }
        h2 { "Your tokens" }
        @if tokens.is_empty() {
            p class="soft" { "There is none." }
        } @else {
            div class="scroll" tabindex="0" role="region" aria-label="Your tokens" { table {
                thead { tr {
                    th scope="col" { "Name" } th scope="col" { "Gateways" } th scope="col" { "State" }
                    th scope="col" { "Last used" } th scope="col" { "Ends" } th scope="col" { "Revoke" }
                } }
                tbody { @for token in &tokens { (row(web, visitor, token)) } }
            } }
            @if more > 0 { p class="soft" { "And " (more) " older ones: " code { "portcullis token list" } " shows all." } }
        }
    };
    layout::page("Tokens", Some(visitor), body)
}

fn may_create(web: &Web, visitor: &Visitor) -> bool {
    let principal = &visitor.principal;
    owners::whose(web, &principal.tenant, &principal.subject).is_some_and(|w| may(principal, &Action::CreateToken(&w)))
        && matches!(principal.subject, Subject::User(_))
}

fn form(web: &Web, visitor: &Visitor, given: Option<&Fields>, wrong: &[(String, String)]) -> Markup {
    let fleet = web.registry.snapshot();
    let gateways: Vec<Name> =
        fleet.gateways(&visitor.principal.tenant).map(|g| g.metadata.name.clone()).take(MOST).collect();
    let chosen = |gateway: &Name| given.is_some_and(|g| g.all("gateway").any(|c| c == gateway.as_str()));
    let life = given.and_then(|g| g.get("days")?.parse().ok()).unwrap_or(DEFAULT_LIFE);
    html! {
        form class="stack" method="post" action="/tokens" novalidate {
            (form::token(&visitor.csrf))
            label for="name" {
                "Name"
                span class="hint" id="name-hint" { "For you to tell it by, such as the machine that it is for." }
                (view::field_error("name", wrong))
                input id="name" name="name" maxlength="120" required autocomplete="off" value=(given.and_then(|g| g.get("name")).unwrap_or_default())
                    aria-describedby={ "name-hint " (view::error_id("name")) } aria-invalid[wrong.iter().any(|(f, _)| f == "name")];
            }
            @if !gateways.is_empty() {
                fieldset {
                    legend { "Gateways that take it" }
                    p class="hint" { "All, where none is chosen." }
                    @for gateway in &gateways {
                        label class="choice" { input type="checkbox" name="gateway" value=(gateway) checked[chosen(gateway)]; " " (gateway) }
                    }
                }
            }
            label { "Ends after" select name="days" { @for (days, said) in LIVES {
                option value=(days) selected[days == life] { (said) }
            } } }
            div { button { "Make it" } }
        }
    }
}

fn row(web: &Web, visitor: &Visitor, token: &TokenRecord) -> Markup {
    let status = web.tokens.status(token);
    let (word, class) = match status {
        TokenStatus::Active => ("Works", "state good"),
        TokenStatus::Expired => ("Expired", "state"),
        TokenStatus::Revoked => ("Revoked", "state"),
        TokenStatus::Orphaned => ("Owner gone", "state"),
    };
    let name = match &token.on_behalf {
        Some(client) => format!("Signed-in client {}", view::title(&client.client)),
        None => view::title(token.name.as_deref().unwrap_or("unnamed")),
    };
    html! {
        tr {
            th scope="row" { (name) br; span class="soft" { code { (token.id) } } }
            td { @if token.gateways.is_empty() { "all" } @for (i, gateway) in token.gateways.iter().enumerate() { @if i > 0 { ", " } (gateway) } }
            td { span class=(class) { (word) } }
            td { @match token.last_used_ms { Some(at) => (view::moment(at)), None => "never" } }
            td { @match token.expires_ms { Some(at) => (view::moment(at)), None => "never" } }
            td { @if status == TokenStatus::Active {
                form method="post" action={ "/tokens/" (token.id) "/revoke" } {
                    (form::token(&visitor.csrf))
                    button class="quiet danger" aria-label={ "Revoke " (name) } { "Revoke" }
                }
            } }
        }
    }
}

/// `POST /tokens`.
pub async fn create(State(web): State<Web>, SignedForm { visitor, fields }: SignedForm) -> Response {
    if !may_create(&web, &visitor) {
        return view::forbidden(&visitor, "you may not make a token", "Ask your operator");
    }
    let name = fields.get("name").unwrap_or_default().trim();
    let days = fields.get("days").and_then(|d| d.parse::<u64>().ok()).filter(|d| LIVES.iter().any(|(l, _)| l == d));
    let mut wrong = Vec::new();
    if name.is_empty() {
        wrong.push(("name".to_owned(), "Name is missing".to_owned()));
    }
    let gateways: Result<Vec<Name>, _> = fields.all("gateway").map(str::parse).collect();
    let (Some(days), Ok(gateways), true) = (days, gateways, wrong.is_empty()) else {
        return (StatusCode::BAD_REQUEST, page(&web, &visitor, Some(&fields), &wrong)).into_response();
    };
    let wanted = NewToken {
        tenant: visitor.principal.tenant.clone(),
        owner: visitor.principal.subject.clone(),
        name: Some(name.to_owned()),
        gateways,
        admin: false,
        lifetime: Some(Lifetime::For(Duration::from_secs(days * 86_400))),
        on_behalf: None,
    };
    let created = match service::make(&web.admin, &who(&visitor), wanted).await {
        Ok(created) => created,
        Err(error) => return view::failed(&visitor, &error),
    };
    // An exit: the text is shown once, to whoever made it.
    let text = String::from_utf8_lossy(created.text.expose()).into_owned();
    let body = html! {
        div class="notice good" role="status" { p { "This is the token. It is shown this once: copy it now to where the client reads it." } }
        pre tabindex="0" aria-label="The new token" { code { (text) } }
        p { a href="/setup" { "Set up a client with it" } " or go back to " a href="/tokens" { "your tokens" } "." }
    };
    layout::page("A new token", Some(&visitor), body).into_response()
}

/// `POST /tokens/{id}/revoke`.
pub async fn revoke(
    State(web): State<Web>,
    Path(id): Path<String>,
    SignedForm { visitor, .. }: SignedForm,
) -> Response {
    let tenant = &visitor.principal.tenant;
    let owner = web.tokens.get(tenant, &id).map(|record| record.owner);
    let whose = owner.and_then(|owner| owners::whose(&web, tenant, &owner));
    if !whose.is_some_and(|whose| may(&visitor.principal, &Action::RevokeToken(&whose))) {
        return view::not_found(&visitor, "token");
    }
    match service::end(&web.admin, &who(&visitor), tenant, &id).await {
        Ok(_) => Redirect::to("/tokens").into_response(),
        Err(error) => view::failed(&visitor, &error),
    }
}

/// Who did it, for the audit stream.
pub(super) fn who(visitor: &Visitor) -> Who {
    Who::Caller(std::sync::Arc::clone(&visitor.principal))
}
