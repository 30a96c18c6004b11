//! Where a gateway says how to get in: protected-resource metadata (RFC 9728) and the challenge that points to it.

use serde_json::{Value, json};

use url::Url;

use super::{Describes, OAuth, Target, redirect::is_loopback};

/// How a client reaches us, without a slash at its end: as the operator says, or by the name of this machine that it used, since
/// clients compare what we say with the URL that they were given.
pub fn base(base_url: &str, host: Option<&str>) -> String {
    let find = || {
        let (base, host) = (Url::parse(base_url).ok()?, host?);
        let used = Url::parse(&format!("{}://{host}", base.scheme())).ok()?;
        let plain =
            used.path() == "/" && used.query().is_none() && used.fragment().is_none() && used.username().is_empty();
        let same_port = used.port_or_known_default() == base.port_or_known_default();
        let local = is_loopback(&used) && (is_loopback(&base) || base.host_str() == Some("0.0.0.0"));
        (plain && local && same_port)
            .then(|| format!("{}{}", used.origin().ascii_serialization(), base.path().trim_end_matches('/')))
    };
    find().unwrap_or_else(|| base_url.to_owned())
}

/// The place of a gateway's metadata, by its own path: what is well known stands before all of the path, also of that at which
/// a proxy in front has us (RFC 9728 section 3.1).
pub fn protected_resource(base: &str, path: &str) -> String {
    let (origin, before) = split(base);
    format!("{origin}/.well-known/oauth-protected-resource{before}{path}")
}

/// A URL without a slash at its end, as origin and path.
pub fn split(base: &str) -> (&str, &str) {
    let from = base.find("://").map_or(0, |at| at + 3);
    let at = base[from..].find('/').map_or(base.len(), |at| from + at);
    base.split_at(at)
}

impl OAuth {
    /// Who knows what the auth providers of a gateway say of themselves. The first one that is said stays.
    pub fn described_by(&self, describes: Describes) {
        let _ = self.described.set(describes);
    }

    /// A gateway's metadata; none where there is no such gateway. `base` is how this client reaches us.
    pub fn resource_metadata(&self, target: &Target, base: &str) -> Option<Value> {
        let said = self.described.get().and_then(|describes| describes(target)).unwrap_or_default();
        self.with_gateway(target, |gateway| {
            let mut scopes: Vec<&str> = gateway.oauth.scopes.iter().map(|r| r.scope.as_str()).collect();
            scopes.extend(said.scopes.iter().map(String::as_str));
            scopes.sort_unstable();
            scopes.dedup();
            // What the operator wrote, else what the providers say, else our own.
            let named = [&gateway.oauth.authorization_servers, &said.authorization_servers];
            let servers: Vec<&str> = match named.into_iter().find(|servers| !servers.is_empty()) {
                Some(servers) => servers.iter().map(String::as_str).collect(),
                None => vec![&self.options.issuer],
            };
            let mut metadata = json!({
                "resource": format!("{base}{}", target.path()),
                "authorization_servers": servers,
                "bearer_methods_supported": ["header"],
                "resource_name": super::resource::title(gateway, &target.gateway),
            });
            if !scopes.is_empty() {
                metadata["scopes_supported"] = json!(scopes);
            }
            if let Some(page) = &said.documentation {
                metadata["resource_documentation"] = json!(page);
            }
            metadata
        })
    }

    /// The authorization server's own metadata (RFC 8414 section 2).
    pub fn server_metadata(&self) -> Value {
        let issuer = &self.options.issuer;
        let mut scopes: Vec<String> = {
            let fleet = self.parts.registry.snapshot();
            let tenants = fleet.tenants();
            tenants
                .iter()
                .flat_map(|tenant| fleet.gateways(tenant))
                .flat_map(|gateway| gateway.spec.oauth.scopes.iter().map(|r| r.scope.clone()))
                .collect()
        };
        scopes.sort();
        scopes.dedup();
        scopes.truncate(200);
        let methods = ["none", "client_secret_basic", "client_secret_post", "private_key_jwt"];
        let algorithms = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
        let mut metadata = json!({
            "issuer": issuer,
            "authorization_endpoint": format!("{issuer}/oauth/authorize"),
            "token_endpoint": format!("{issuer}/oauth/token"),
            "revocation_endpoint": format!("{issuer}/oauth/revoke"),
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": [
                "authorization_code", "refresh_token", "client_credentials",
                "urn:ietf:params:oauth:grant-type:jwt-bearer",
            ],
            "authorization_grant_profiles_supported": ["urn:ietf:params:oauth:grant-profile:id-jag"],
            "token_endpoint_auth_methods_supported": methods,
            "token_endpoint_auth_signing_alg_values_supported": algorithms,
            "revocation_endpoint_auth_methods_supported": methods,
            "revocation_endpoint_auth_signing_alg_values_supported": algorithms,
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": true,
            "client_id_metadata_document_supported": true,
        });
        if !scopes.is_empty() {
            metadata["scopes_supported"] = json!(scopes);
        }
        if self.options.registration {
            metadata["registration_endpoint"] = json!(format!("{issuer}/oauth/register"));
        }
        metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_well_known_stands_before_the_path_of_the_proxy() {
        let place = |base| protected_resource(base, "/mcp/main");
        assert_eq!(place("https://x.example"), "https://x.example/.well-known/oauth-protected-resource/mcp/main");
        assert_eq!(
            place("https://x.example/a/b"),
            "https://x.example/.well-known/oauth-protected-resource/a/b/mcp/main"
        );
        assert_eq!(split("https://x.example"), ("https://x.example", ""));
        assert_eq!(split("http://[::1]:8/p"), ("http://[::1]:8", "/p"));
        let base = |host| base("http://127.0.0.1:9/p", Some(host));
        assert_eq!(base("localhost:9"), "http://localhost:9/p");
        assert_eq!(base("evil.example:9"), "http://127.0.0.1:9/p");
    }
}
