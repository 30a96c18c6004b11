//! Where things are kept: the first letter says what, the tenant comes next.

use portcullis_model::{Kind, Name, ResourceKey};

/// The prefix of all resources.
pub const RESOURCES: &str = "r/";
/// The prefix of all sealed connection secrets.
pub const SECRETS: &str = "s/";
/// The prefix of what is kept about uses of connections by others.
const USES: &str = "cu/";

/// The prefix of everything sealed that has to do with OAuth towards servers.
pub const UPSTREAM: &str = "u/";
/// The prefix of connections' sealed tokens.
pub const UPSTREAM_GRANTS: &str = "u/t/";
/// The sealed key by which the gateway signs as a client of authorization servers.
pub const UPSTREAM_KEY: &str = "u/k";
/// The prefix of the host's own keys, such as the one that seals session ids.
pub const OWN_KEYS: &str = "k/";
/// The prefix of leases.
const LEASES: &str = "le/";
/// The prefix of sealed tokens of identity providers, kept since people signed in.
pub const LOGINS: &str = "l/";
/// Prefixes under which every record is sealed, each for its own key. Whoever keeps sealed records elsewhere adds the place
/// here: what is not here is neither checked at start nor sealed again with a new key.
pub const SEALED: [&str; 4] = [SECRETS, OWN_KEYS, UPSTREAM, LOGINS];

/// The key of a resource: `r/{tenant}/{Kind}/{name}`.
pub fn resource(key: &ResourceKey) -> String {
    format!("{RESOURCES}{}/{}/{}", key.tenant, key.kind, key.name)
}

/// The key of a connection's sealed secrets: `s/{tenant}/{connection}`.
pub fn secret(tenant: &Name, connection: &Name) -> String {
    format!("{SECRETS}{tenant}/{connection}")
}

/// The key of the last uses of a connection by others: `cu/{tenant}/{connection}`.
pub fn uses(tenant: &Name, connection: &Name) -> String {
    format!("{USES}{tenant}/{connection}")
}

/// The key of a connection's sealed tokens: `u/t/{tenant}/{connection}`.
pub fn upstream_grant(tenant: &Name, connection: &Name) -> String {
    format!("{UPSTREAM_GRANTS}{tenant}/{connection}")
}

/// The key of a client that an authorization server registered: `u/c/{tenant}/{digest}` of issuer and redirect URI.
pub fn upstream_client(tenant: &Name, digest: &str) -> String {
    format!("{UPSTREAM}c/{tenant}/{digest}")
}

/// The key of the issuer that a given client belongs to: `u/p/{tenant}/{server}/{digest}` of its id.
pub fn upstream_pin(tenant: &Name, server: &Name, digest: &str) -> String {
    format!("{UPSTREAM}p/{tenant}/{server}/{digest}")
}

/// The key of what is kept of a sign-in: `l/{tenant}/{provider}/{digest}` of issuer and subject.
pub fn login(tenant: &Name, provider: &Name, digest: &str) -> String {
    format!("{LOGINS}{tenant}/{provider}/{digest}")
}

/// The key of a lease: `le/{name}`.
pub fn lease(name: &str) -> String {
    format!("{LEASES}{name}")
}

/// Reads [`upstream_grant`] back: tenant and connection.
pub fn parse_upstream_grant(key: &str) -> Option<(Name, Name)> {
    let (tenant, name) = key.strip_prefix(UPSTREAM_GRANTS)?.split_once('/')?;
    Some((tenant.parse().ok()?, name.parse().ok()?))
}

/// Reads [`resource`] back.
pub fn parse_resource(key: &str) -> Option<ResourceKey> {
    let mut parts = key.strip_prefix(RESOURCES)?.split('/');
    let (tenant, kind, name) = (parts.next()?, parts.next()?, parts.next()?);
    let kind = Kind::ALL.into_iter().find(|k| k.as_str() == kind)?;
    parts.next().is_none().then_some(())?;
    Some(ResourceKey { tenant: tenant.parse().ok()?, kind, name: name.parse().ok()? })
}

/// Reads [`secret`] back: tenant and connection.
pub fn parse_secret(key: &str) -> Option<(Name, Name)> {
    let (tenant, name) = key.strip_prefix(SECRETS)?.split_once('/')?;
    Some((tenant.parse().ok()?, name.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_their_text() {
        let key = ResourceKey { tenant: "t".parse().unwrap(), kind: Kind::Gateway, name: "g".parse().unwrap() };
        assert_eq!(resource(&key), "r/t/Gateway/g");
        assert_eq!(parse_resource("r/t/Gateway/g"), Some(key));
        assert_eq!(parse_secret("s/t/c"), Some(("t".parse().unwrap(), "c".parse().unwrap())));
        assert_eq!(parse_upstream_grant("u/t/t/c"), Some(("t".parse().unwrap(), "c".parse().unwrap())));
        assert_eq!(parse_upstream_grant("u/c/t/c"), None);
        for bad in ["r/t/Gateway", "r/t/gateway/g", "r/t/Gateway/g/h", "s/t/Gateway/g", ""] {
            assert_eq!(parse_resource(bad), None, "{bad}");
        }
    }
}
