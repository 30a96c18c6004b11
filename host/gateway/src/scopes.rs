//! What an OAuth client's token may do at a gateway, and how it is told to ask for more.

use axum::response::Response;
use globset::{Glob, GlobSet, GlobSetBuilder};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use portcullis_identity::oauth;
use portcullis_model::{Fault, Name, Principal, Side, spec::ScopeRule};
use portcullis_protocol::rpc;

use crate::{answer, gateways::Gateways, view::View};

/// Which tools need which scope.
#[derive(Debug, Default)]
pub struct Scopes(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    scope: String,
    servers: Vec<Name>,
    tools: Option<GlobSet>,
}

impl Scopes {
    /// Compiles a gateway's rules.
    ///
    /// # Errors
    /// In words, for a glob that is none.
    pub fn new(rules: &[ScopeRule]) -> Result<Self, String> {
        let compile = |rule: &ScopeRule| {
            let mut tools = GlobSetBuilder::new();
            for pattern in &rule.tools {
                tools.add(Glob::new(pattern).map_err(|e| e.to_string())?);
            }
            let tools = tools.build().map_err(|e| e.to_string())?;
            let tools = (!rule.tools.is_empty()).then_some(tools);
            Ok(Rule { scope: rule.scope.clone(), servers: rule.servers.clone(), tools })
        };
        Ok(Self(rules.iter().map(compile).collect::<Result<_, String>>()?))
    }

    /// The scopes that a call needs of a token of an OAuth client.
    pub fn needed(&self, server: &Name, tool: &str) -> Vec<&str> {
        let needed = self.0.iter().filter(|rule| {
            (rule.servers.is_empty() || rule.servers.contains(server))
                && rule.tools.as_ref().is_none_or(|tools| tools.is_match(tool))
        });
        needed.map(|rule| rule.scope.as_str()).collect()
    }

    /// The scopes that a call needs and its caller's token lacks. Only tokens of OAuth clients are limited.
    fn missing(&self, principal: &Principal, server: &Name, tool: &str) -> Vec<&str> {
        let Some(held) = &principal.scopes else { return Vec::new() };
        self.needed(server, tool).into_iter().filter(|scope| !held.iter().any(|h| h == scope)).collect()
    }
}

/// Refuses a call whose token lacks a scope: one challenge names all that the client needs then, so that it asks once
/// (2026-07-28 authorization, "Scope Challenge Handling").
pub fn refuse(
    gateways: &Gateways,
    view: &View,
    principal: &Principal,
    headers: &HeaderMap,
    call: (&Name, &str),
) -> Option<(Fault, HeaderValue)> {
    let missing = view.scopes.missing(principal, call.0, call.1);
    if missing.is_empty() {
        return None;
    }
    let mut all: Vec<&str> = principal.scopes.iter().flatten().map(String::as_str).chain(missing).collect();
    all.sort_unstable();
    all.dedup();
    let scope = all.join(" ");
    let fault =
        Fault::new(Side::Caller, "insufficient-scope", format!("this tool needs a token with the scope {scope}"))
            .next("Sign in again with these scopes; a client that knows OAuth does so by itself");
    let metadata = place(gateways, view, headers);
    let challenge = format!(
        "Bearer error=\"insufficient_scope\", scope=\"{scope}\", resource_metadata=\"{metadata}\", \
         error_description=\"this tool needs more\""
    );
    Some((fault, HeaderValue::try_from(challenge).ok()?))
}

/// The answer to such a call.
pub fn forbidden(id: &str, fault: &Fault, challenge: HeaderValue, request_id: &str) -> Response {
    let mut response = answer::json(StatusCode::FORBIDDEN, rpc::fault(Some(id), fault, request_id));
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}

/// A challenge that also says where to find out how to get in (RFC 9728 section 5.1).
pub fn challenge(gateways: &Gateways, view: &View, headers: &HeaderMap, said: &HeaderValue) -> HeaderValue {
    let Ok(said_text) = said.to_str() else { return said.clone() };
    if !view.oauth || said_text.contains("resource_metadata=") {
        return said.clone();
    }
    let comma = if said_text == "Bearer" { "" } else { "," };
    let text = format!("{said_text}{comma} resource_metadata=\"{}\"", place(gateways, view, headers));
    HeaderValue::try_from(text).unwrap_or_else(|_| said.clone())
}

fn place(gateways: &Gateways, view: &View, headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
    let target = oauth::Target { tenant: view.tenant.clone(), gateway: view.name.clone() };
    oauth::protected_resource(&oauth::base(&gateways.base_url, host), &target.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tokens_of_oauth_clients_are_limited_by_scopes() {
        let rules: Vec<ScopeRule> = serde_json::from_str(
            r#"[{"scope":"w","servers":["files"],"tools":["write_*"]},{"scope":"f","servers":["files"]}]"#,
        )
        .unwrap();
        let scopes = Scopes::new(&rules).unwrap();
        let name = |n: &str| n.parse::<Name>().unwrap();
        let mut principal = Principal::anonymous(name("default"));
        assert!(scopes.missing(&principal, &name("files"), "write_file").is_empty());
        principal.scopes = Some(Vec::new());
        assert_eq!(scopes.missing(&principal, &name("files"), "write_file"), ["w", "f"]);
        assert_eq!(scopes.missing(&principal, &name("files"), "read"), ["f"]);
        assert!(scopes.missing(&principal, &name("time"), "write_file").is_empty());
        principal.scopes = Some(vec!["f".to_owned()]);
        assert_eq!(scopes.missing(&principal, &name("files"), "write_file"), ["w"]);
    }
}
