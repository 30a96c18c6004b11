//! The first page: what somebody can do here.

use axum::extract::State;
use maud::html;

use super::{
    Visitor, Web,
    layout::{self, Page},
    setup, signin, view,
};

/// The most gateways that are shown on the first page.
const MOST: usize = 20;

/// `GET /`.
pub async fn show(State(web): State<Web>, visitor: Visitor) -> Page {
    let tenant = &visitor.principal.tenant;
    let fleet = web.registry.snapshot();
    let gateways: Vec<_> = fleet.gateways(tenant).take(MOST + 1).collect();
    let body = html! {
        section aria-labelledby="gateways" {
            h2 id="gateways" { "Gateways" }
            @if gateways.is_empty() {
                p class="soft" { "There is no gateway yet. An operator makes one." }
            } @else {
                p { "An MCP client connects to one of these addresses." }
                ul class="plain" {
                    @for gateway in gateways.iter().take(MOST) {
                        @let url = setup::url(&web, tenant, &gateway.metadata.name);
                        li class="card" {
                            h3 { (view::title(gateway.spec.title.as_deref().unwrap_or(gateway.metadata.name.as_str()))) }
                            p { code { (url) } }
                            p { a href={ "/setup?gateway=" (gateway.metadata.name) } { "Set up a client for " (gateway.metadata.name) } }
                        }
                    }
                }
                @if gateways.len() > MOST { p { a href="/setup" { "More gateways" } } }
            }
        }
        @if let Some(whose) = visitor.sign_in().filter(|w| web.oidc.keeps(&w.tenant, &w.provider)) {
            @let title = web.oidc.title(&whose.tenant, &whose.provider);
            section aria-labelledby="sign-in" {
                h2 id="sign-in" { "Your sign-in" }
                @match web.kept.standing(&whose) {
                    Some(standing) => p {
                        "A token of " (title) " is kept, sealed, so that servers that want one can be called in your name. "
                        @if standing.renews { "It is renewed by itself. " }
                        @else if let Some(until) = standing.until_ms { "It ends at " (view::moment(until)) ". " }
                        "It is dropped when you sign out."
                    },
                    None => p {
                        "No token of " (title) " is kept any more, and servers that want one can't be called in your name until you sign in again."
                    },
                }
                p { a class="button quiet" href=(signin::provider_url(&whose.provider, &whose.tenant, None)) { "Sign in again with " (title) } }
            }
        }
        section aria-labelledby="next" {
            h2 id="next" { "What you can do" }
            ul {
                li { a href="/servers" { "Servers" } ": see which there are, and connect your account to one" }
                li { a href="/connections" { "Connections" } ": see what you have connected, who uses it, and disconnect it" }
                li { a href="/tokens" { "Tokens" } ": make or revoke a token for a program that can't sign in by a browser" }
            }
        }
    };
    layout::page(&format!("Hello {}", view::title(layout::name(&visitor))), Some(&visitor), body)
}
