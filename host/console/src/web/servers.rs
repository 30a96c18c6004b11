//! The registry: which servers there are, what each asks for, and which of them somebody has connected.

use std::collections::BTreeSet;

use axum::{
    extract::{Path, Query, State as Extract},
    response::{IntoResponse as _, Response},
};
use maud::{Markup, html};
use portcullis_identity::permission::{Action, may};
use portcullis_model::{
    Kind, Name, Principal,
    spec::{Field, FieldType, McpServer},
};
use portcullis_store::{Fleet, registry::server_origin};
use serde::Deserialize;

use super::{
    Visitor, Web,
    layout::{self, Page},
    owners::{self, Choice},
    state::State,
    view,
};

/// Servers of one page.
const PAGE: usize = 25;
/// The longest search that is looked for.
const MAX_SEARCH: usize = 100;

#[derive(Deserialize)]
pub(super) struct Search {
    #[serde(default)]
    q: String,
    after: Option<String>,
}

/// `GET /servers`.
pub async fn list(Extract(web): Extract<Web>, visitor: Visitor, Query(search): Query<Search>) -> Page {
    let fleet = web.registry.snapshot();
    let tenant = &visitor.principal.tenant;
    let q: String = search.q.trim().to_lowercase().chars().take(MAX_SEARCH).collect();
    let wanted = |name: &Name, server: &McpServer| {
        let mut texts = [Some(name.as_str()), server.title.as_deref(), server.description.as_deref()].into_iter();
        q.is_empty() || texts.any(|t| t.is_some_and(|t| t.to_lowercase().contains(&q)))
    };
    let follows = |name: &Name| search.after.as_deref().is_none_or(|after| name.as_str() > after);
    let mut found: Vec<(Name, &McpServer)> = fleet
        .servers(tenant)
        .filter(|s| wanted(&s.metadata.name, s.spec) && follows(&s.metadata.name))
        .map(|s| (s.metadata.name.clone(), s.spec))
        .take(PAGE + 1)
        .collect();
    let more = found.len() > PAGE;
    found.truncate(PAGE);
    let next = found.last().filter(|_| more).map(|(name, _)| name.clone());
    let body = html! {
        form role="search" class="row" method="get" action="/servers" {
            label class="grow" { "Search" input type="search" name="q" value=(search.q) maxlength=(MAX_SEARCH) autocomplete="off"; }
            button class="quiet" { "Search" }
        }
        @if found.is_empty() {
            p role="status" { @if q.is_empty() { "There is no server yet. An operator adds one." } @else { "No server matches." } }
        } @else {
            ul class="plain" { @for (name, server) in &found { (entry(&web, &visitor, &fleet, name, server)) } }
            (pager(&search, next.as_ref()))
        }
    };
    layout::page("Servers", Some(&visitor), body)
}

fn entry(web: &Web, visitor: &Visitor, fleet: &Fleet, name: &Name, server: &McpServer) -> Markup {
    let connected = connected(web, &visitor.principal, fleet, name);
    html! {
        li class="card" {
            h2 { a href={ "/servers/" (name) } { (label(name, server)) } }
            @if let Some(description) = &server.description { p { (view::text(description)) } }
            p class="soft" { (asks(server)) }
            @if !connected.is_empty() {
                p { "Connected: " @for (i, one) in connected.iter().enumerate() {
                    @if i > 0 { ", " }
                    a href={ "/connections/" (one.name) } { (one.owner.label) } " (" (one.state.mark()) ")"
                } }
            }
        }
    }
}

fn pager(search: &Search, next: Option<&Name>) -> Markup {
    let link = |after: Option<&Name>| {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        if !search.q.is_empty() {
            query.append_pair("q", &search.q);
        }
        if let Some(after) = after {
            query.append_pair("after", after.as_str());
        }
        format!("/servers?{}", query.finish())
    };
    html! {
        @if search.after.is_some() || next.is_some() {
            nav aria-label="Further servers" class="row" {
                @if search.after.is_some() { a href=(link(None)) { "First page" } }
                @if let Some(next) = next { a href=(link(Some(next))) { "Next page" } }
            }
        }
    }
}

/// `GET /servers/{name}`.
pub async fn show(Extract(web): Extract<Web>, visitor: Visitor, Path(name): Path<String>) -> Response {
    let fleet = web.registry.snapshot();
    let tenant = &visitor.principal.tenant;
    let found = name.parse::<Name>().ok().and_then(|name| Some((fleet.server(tenant, &name)?.spec, name)));
    let Some((server, name)) = found else { return view::not_found(&visitor, "server") };
    let connected = connected(&web, &visitor.principal, &fleet, &name);
    let can_connect = is_connectable(server) && !owners::choices(&web, &visitor.principal).is_empty();
    let gateways: BTreeSet<&Name> = fleet
        .gateways(tenant)
        .filter(|g| g.spec.servers.iter().any(|s| s.server == name))
        .map(|g| &g.metadata.name)
        .collect();
    let body = html! {
        @if let Some(description) = &server.description { p { (view::text(description)) } }
        dl {
            dt { "Name" } dd { code { (name) } }
            dt { "Where it is" } dd { (place(server)) }
            dt { "Shown at" }
            dd { @if gateways.is_empty() { "no gateway yet" } @for (i, gateway) in gateways.iter().enumerate() {
                @if i > 0 { ", " } a href={ "/setup?gateway=" (gateway) } { (gateway) }
            } }
        }
        h2 { "What it asks for" }
        p { (asks(server)) }
        @if !server.fields.is_empty() { (fields(&server.fields)) }
        h2 { "Connections" }
        @if connected.is_empty() {
            p class="soft" { "Nothing is connected that you could see." }
        } @else {
            ul { @for one in &connected { li { a href={ "/connections/" (one.name) } { (one.owner.label) } ": " (one.state.mark()) } } }
        }
        @if can_connect { p { a class="button" href={ "/servers/" (name) "/connect" } { "Connect " (label(&name, server)) } } }
    };
    layout::page(&label(&name, server), Some(&visitor), body).into_response()
}

fn fields(fields: &[Field]) -> Markup {
    html! {
        div class="scroll" tabindex="0" role="region" aria-label="What it asks for" {
            table {
                thead { tr { th scope="col" { "Field" } th scope="col" { "What it is" } th scope="col" { "Needed" } } }
                tbody { @for field in fields {
                    tr {
                        th scope="row" { (view::title(field.label())) }
                        td {
                            (kind(field))
                            @if let Some(description) = &field.description { br; span class="soft" { (view::text(description)) } }
                        }
                        td { @if field.required { "yes" } @else if field.default.is_some() { "has a default" } @else { "no" } }
                    }
                } }
            }
        }
    }
}

fn kind(field: &Field) -> &'static str {
    match field.kind {
        _ if field.sensitive => "a secret: it is sealed, and never shown again",
        _ if !field.options.is_empty() => "a choice",
        FieldType::String => "a text",
        FieldType::Text => "a text of several lines",
        FieldType::Number => "a number",
        FieldType::Boolean => "yes or no",
        FieldType::Url => "a URL",
        FieldType::Email => "an e-mail address",
    }
}

/// Whether there is anything to connect.
pub fn is_connectable(server: &McpServer) -> bool {
    !server.fields.is_empty() || server.oauth().is_some()
}

/// What people read as the server's name.
pub fn label(name: &Name, server: &McpServer) -> String {
    view::title(server.title.as_deref().unwrap_or(name.as_str()))
}

/// Where what is connected goes to, as people should know before they give it away.
pub fn place(server: &McpServer) -> String {
    match (&server.remote, &server.kubernetes) {
        (Some(_), _) => server_origin(server),
        (None, Some(pods)) => format!("runs in a cluster of your operator's, from the image {}", pods.repository()),
        (None, None) => "runs beside this gateway, as a program of your operator's".to_owned(),
    }
}

/// What a server asks for, in a sentence.
fn asks(server: &McpServer) -> String {
    let signs_in = server.oauth().is_some();
    if signs_in && server.fields.is_empty() {
        return "You sign in with your account there.".to_owned();
    }
    if server.fields.is_empty() {
        return "It asks for nothing: its tools work without an account.".to_owned();
    }
    let secrets = server.fields.iter().filter(|f| f.sensitive).count();
    let others = server.fields.len() - secrets;
    let count = |n: usize, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
    let fields = match (secrets, others) {
        (0, n) => count(n, "value"),
        (n, 0) => count(n, "secret"),
        (n, m) => format!("{} and {}", count(n, "secret"), count(m, "value")),
    };
    let sign_in = if signs_in { ", and you sign in with your account there" } else { "" };
    format!("It asks for {fields}{sign_in}.")
}

/// A connection that somebody may see.
pub struct Seen {
    /// Its name.
    pub name: Name,
    /// Whose it is.
    pub owner: Choice,
    /// How it is doing.
    pub state: State,
}

/// Connections of a server that this person may see, their own first.
pub fn connected(web: &Web, principal: &Principal, fleet: &Fleet, server: &Name) -> Vec<Seen> {
    let tenant = &principal.tenant;
    let mut found: Vec<Seen> = fleet
        .connections_of(tenant, server)
        .filter(|c| {
            let whose = owners::whose(web, tenant, &c.spec.owner.subject());
            may(principal, &Action::See(Kind::Connection, whose.as_ref()))
        })
        .take(PAGE)
        .map(|c| Seen {
            name: c.metadata.name.clone(),
            owner: Choice::of(principal, &c.spec.owner.subject()),
            state: State::of(web, tenant, &c.metadata.name, server),
        })
        .collect();
    found.sort_by_key(|one| one.owner.owner != principal.subject);
    found
}
