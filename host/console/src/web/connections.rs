//! Connections that somebody may see: how they are doing, who uses them, and how they end.

use axum::{
    extract::{Path, Query, State as Extract},
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};
use portcullis_credential::Use;
use portcullis_identity::{
    Whose,
    permission::{Action, may},
};
use portcullis_model::{Kind, Name, Subject, spec::Connection};
use serde::Deserialize;

use super::{
    SignedForm, Visitor, Web, form,
    layout::{self, Page},
    owners::{self, Choice},
    state::State,
    tokens::who,
    view,
};
use crate::install::uninstall;

/// Connections of one page.
const PAGE: usize = 50;

#[derive(Deserialize)]
pub(super) struct Listed {
    after: Option<String>,
}

/// `GET /connections`.
pub async fn list(Extract(web): Extract<Web>, visitor: Visitor, Query(listed): Query<Listed>) -> Page {
    let principal = &visitor.principal;
    let fleet = web.registry.snapshot();
    let follows = |name: &Name| listed.after.as_deref().is_none_or(|after| name.as_str() > after);
    let mut seen: Vec<(Name, Name, Choice)> = fleet
        .connections(&principal.tenant)
        .filter(|c| follows(&c.metadata.name))
        .filter(|c| {
            let whose = owners::whose(&web, &principal.tenant, &c.spec.owner.subject());
            may(principal, &Action::See(Kind::Connection, whose.as_ref()))
        })
        .map(|c| {
            let owner = Choice::of(principal, &c.spec.owner.subject());
            (c.metadata.name.clone(), c.spec.server.clone(), owner)
        })
        .take(PAGE + 1)
        .collect();
    let more = seen.len() > PAGE;
    seen.truncate(PAGE);
    let next = seen.last().filter(|_| more).map(|(name, ..)| name.clone());
    let body = html! {
        @if seen.is_empty() {
            p { "Nothing is connected that you could see. " a href="/servers" { "See which servers there are" } "." }
        } @else {
            div class="scroll" tabindex="0" role="region" aria-label="Connections" { table {
                thead { tr { th scope="col" { "Connection" } th scope="col" { "Server" } th scope="col" { "Whose" } th scope="col" { "State" } } }
                tbody { @for (name, server, owner) in &seen { tr {
                    th scope="row" { a href={ "/connections/" (name) } { (name) } }
                    td { a href={ "/servers/" (server) } { (server) } }
                    td { (owner.label) }
                    td { (State::of(&web, &principal.tenant, name, server).mark()) }
                } } }
            } }
            @if listed.after.is_some() || next.is_some() {
                nav aria-label="Further connections" class="row" {
                    @if listed.after.is_some() { a href="/connections" { "First page" } }
                    @if let Some(next) = next { a href={ "/connections?after=" (next) } { "Next page" } }
                }
            }
        }
    };
    layout::page("Connections", Some(&visitor), body)
}

/// A connection that somebody may see, and whose it is.
struct Found {
    name: Name,
    spec: Connection,
    file: Option<String>,
    subject: Subject,
    whose: Option<Whose>,
}

fn find(web: &Web, visitor: &Visitor, name: &str) -> Option<Found> {
    let (tenant, name) = (&visitor.principal.tenant, name.parse::<Name>().ok()?);
    let fleet = web.registry.snapshot();
    let connection = fleet.connection(tenant, &name)?;
    let subject = connection.spec.owner.subject();
    let whose = owners::whose(web, tenant, &subject);
    if !may(&visitor.principal, &Action::See(Kind::Connection, whose.as_ref())) {
        return None;
    }
    let file = match &connection.metadata.door {
        Some(door) if door.reads_again() => Some(door.to_string()),
        _ => None,
    };
    Some(Found { name, spec: connection.spec.clone(), file, subject, whose })
}

#[derive(Deserialize)]
pub(super) struct Shown {
    /// Just connected.
    new: Option<String>,
}

/// `GET /connections/{name}`.
pub async fn show(
    Extract(web): Extract<Web>,
    visitor: Visitor,
    Path(name): Path<String>,
    Query(shown): Query<Shown>,
) -> Response {
    let Some(found) = find(&web, &visitor, &name) else { return view::not_found(&visitor, "connection") };
    let principal = &visitor.principal;
    let whose = found.whose.as_ref();
    let can_install = whose.is_some_and(|w| may(principal, &Action::Install(w)));
    let can_end = whose.is_some_and(|w| may(principal, &Action::Disconnect(w)));
    let state = State::of(&web, &principal.tenant, &found.name, &found.spec.server);
    let grant = web.book.status(&principal.tenant, &found.name).and_then(|now| now.grant).filter(|_| can_install);
    let uses = if can_install { Some(web.book.uses(&principal.tenant, &found.name).await) } else { None };
    let body = html! {
        @if shown.new.is_some() {
            div class="notice good" role="status" {
                p { strong { "Connected." } " If a call of your client asked for this, go back and try again: the same call works now." }
            }
        }
        @if state != State::Ok { div class="notice warn" { p { (state.sentence()) } } }
        dl {
            dt { "Server" } dd { a href={ "/servers/" (found.spec.server) } { (found.spec.server) } }
            dt { "State" } dd { (state.mark()) }
            dt { "Whose" } dd { (Choice::of(principal, &found.subject).label) }
            dt { "May be used by" } dd { (may_use(&web, &visitor, &found)) }
            @if let Some(grant) = &grant {
                @if let Some(account) = grant.account.title() { dt { "Account" } dd { (view::title(account)) } }
                @if !grant.scopes.is_empty() { dt { "Allowed" } dd { (view::text(&grant.scopes.join(", "))) } }
            }
            @if let Some(origin) = &found.spec.origin { dt { "Made for" } dd { code { (origin) } } }
            @if state == State::Suspended { @if let Some(now) = now_at(&web, &visitor, &found) { dt { "The server is at" } dd { code { (now) } } } }
            @if can_install { @for (field, value) in &found.spec.values { dt { (field) } dd { (view::text(value)) } } }
            @if let Some(file) = &found.file { dt { "Written in" } dd { code { (file) } } }
        }
        @if can_install || can_end {
            div class="row" {
                @if can_install && state != State::NoServer {
                    a class="button" href={ "/servers/" (found.spec.server) "/connect?connection=" (found.name) } { "Connect again" }
                }
                @if can_end && found.file.is_none() {
                    a class="button quiet" href={ "/connections/" (found.name) "/disconnect" } { "Disconnect" }
                }
            }
        }
        @if let Some(uses) = uses {
            h2 id="uses" { "Used by others" }
            @match uses { Ok(uses) => (used(&uses)), Err(_) => p role="alert" { "This can't be looked up now. Try again in a moment." } }
        }
    };
    layout::page(found.name.as_str(), Some(&visitor), body).into_response()
}

/// Where the server of a connection is now.
fn now_at(web: &Web, visitor: &Visitor, found: &Found) -> Option<String> {
    let fleet = web.registry.snapshot();
    fleet
        .server(&visitor.principal.tenant, &found.spec.server)
        .map(|s| portcullis_store::registry::server_origin(s.spec))
}

/// Whom a connection serves, as it holds now.
fn may_use(web: &Web, visitor: &Visitor, found: &Found) -> &'static str {
    let fleet = web.registry.snapshot();
    let server = fleet.server(&visitor.principal.tenant, &found.spec.server);
    let ruled = server.and_then(|s| s.spec.credential.as_ref()).is_some_and(|need| need.owner_only);
    match (&found.subject, found.spec.owner_only || ruled) {
        (Subject::Organization, _) => "everybody in the organization",
        (Subject::Agent(_), _) => "the agent only",
        (Subject::Team(_), true) => "the team's people and its own token only",
        (Subject::Team(_), false) => "the team, its agents, and tokens of the organization",
        (_, true) => "its owner only",
        (_, false) => "its owner, and tokens of the owner's teams and of the organization",
    }
}

fn used(uses: &[Use]) -> Markup {
    html! {
        @if uses.is_empty() {
            p class="soft" { "Nobody else has used it." }
        } @else {
            p class="hint" { "The last " (uses.len()) ". The audit stream has all." }
            div class="scroll" tabindex="0" role="region" aria-label="Used by others" { table {
                thead { tr { th scope="col" { "When" } th scope="col" { "Who" } th scope="col" { "What" } th scope="col" { "Gateway" } } }
                tbody { @for one in uses { tr {
                    td { (view::moment(one.at_ms)) }
                    td { (view::title(&one.by)) }
                    td { code { (view::title(&one.tool)) } }
                    td { (view::title(&one.gateway)) }
                } } }
            } }
        }
    }
}

/// `GET /connections/{name}/disconnect`: asks once more.
pub async fn confirm(Extract(web): Extract<Web>, visitor: Visitor, Path(name): Path<String>) -> Response {
    let Some(found) = find(&web, &visitor, &name) else { return view::not_found(&visitor, "connection") };
    if !found.whose.as_ref().is_some_and(|w| may(&visitor.principal, &Action::Disconnect(w))) {
        return view::forbidden(&visitor, "you may not disconnect this", "Ask its owner or an operator");
    }
    let body = html! {
        p { "Calls that run under " strong { (found.name) } " stop working at once, and what was sealed for it is deleted. "
            "It can be connected again later." }
        p class="soft" { "This does not end the access that the server itself gave. Revoke it there as well if it may be in wrong hands." }
        form class="row" method="post" action={ "/connections/" (found.name) "/disconnect" } {
            (form::token(&visitor.csrf))
            button class="danger" { "Disconnect " (found.name) }
            a href={ "/connections/" (found.name) } { "Keep it" }
        }
    };
    layout::page(&format!("Disconnect {}?", found.name), Some(&visitor), body).into_response()
}

/// `POST /connections/{name}/disconnect`.
pub async fn disconnect(
    Extract(web): Extract<Web>,
    Path(name): Path<String>,
    SignedForm { visitor, .. }: SignedForm,
) -> Response {
    let Some(found) = find(&web, &visitor, &name) else { return view::not_found(&visitor, "connection") };
    if !found.whose.as_ref().is_some_and(|w| may(&visitor.principal, &Action::Disconnect(w))) {
        return view::forbidden(&visitor, "you may not disconnect this", "Ask its owner or an operator");
    }
    match uninstall(&web.admin, &who(&visitor), &visitor.principal.tenant, &found.name).await {
        Ok(()) => Redirect::to("/connections").into_response(),
        Err(error) => view::failed(&visitor, &error),
    }
}
