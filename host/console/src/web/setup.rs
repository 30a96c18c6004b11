//! How MCP clients are set up for a gateway: what to paste, and where.

mod snippets;

use axum::extract::{Query, State};
use maud::{Markup, html};
use portcullis_model::{DEFAULT_TENANT, Name};
use serde::Deserialize;

use super::{
    Visitor, Web,
    layout::{self, Page},
    view,
};
use snippets::{Snippet, all};

/// The most gateways that are offered.
const MOST: usize = 200;

#[derive(Deserialize)]
pub(super) struct Asked {
    gateway: Option<String>,
}

/// The address of a gateway.
pub fn url(web: &Web, tenant: &Name, gateway: &Name) -> String {
    match tenant.as_str() {
        DEFAULT_TENANT => format!("{}/mcp/{gateway}", web.base_url),
        _ => format!("{}/t/{tenant}/mcp/{gateway}", web.base_url),
    }
}

/// `GET /setup`.
pub async fn show(State(web): State<Web>, visitor: Visitor, Query(asked): Query<Asked>) -> Page {
    let tenant = &visitor.principal.tenant;
    let fleet = web.registry.snapshot();
    let gateways: Vec<Name> = fleet.gateways(tenant).map(|g| g.metadata.name.clone()).take(MOST).collect();
    let chosen = match &asked.gateway {
        Some(name) => gateways.iter().find(|g| g.as_str() == name),
        None => gateways.first(),
    };
    let body = html! {
        @if gateways.is_empty() {
            p { "There is no gateway yet. An operator makes one." }
        } @else {
            @if gateways.len() > 1 {
                form class="row" method="get" action="/setup" {
                    label { "Gateway" select name="gateway" { @for gateway in &gateways {
                        option value=(gateway) selected[Some(gateway) == chosen] { (gateway) }
                    } } }
                    button class="quiet" { "Show" }
                }
            }
            @match chosen {
                Some(gateway) => (clients(&web, tenant, gateway)),
                None => p role="alert" { "There is no such gateway." },
            }
        }
    };
    layout::page("Set up a client", Some(&visitor), body)
}

fn clients(web: &Web, tenant: &Name, gateway: &Name) -> Markup {
    let url = url(web, tenant, gateway);
    html! {
        p { "The address of the gateway " strong { (gateway) } " is" }
        pre tabindex="0" aria-label="Address" { code { (url) } }
        p { "Clients that can sign in by a browser need nothing else: they open a page of this site the first time. "
            "For those that can't, " a href="/tokens" { "make a token" } " and keep it where the client reads it, not in the file itself." }
        @for client in all(gateway.as_str(), &url) {
            section class="card" aria-labelledby=(client.id) {
                h2 id=(client.id) { (client.name) }
                (snippet(&client.signed_in, "With sign-in"))
                (snippet(&client.with_token, "With a token"))
            }
        }
    }
}

fn snippet(snippet: &Snippet, heading: &str) -> Markup {
    html! {
        h3 { (heading) }
        p { (view::text(&snippet.say)) }
        @if !snippet.paste.is_empty() { pre tabindex="0" aria-label=(snippet.say) { code { (snippet.paste) } } }
    }
}
