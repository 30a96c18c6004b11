//! Which gateway a `resource` means (RFC 8707), and how a gateway is named.

use portcullis_model::{DEFAULT_TENANT, Name, spec::Gateway};
use url::Url;

use super::{OAuth, OAuthError, Target};

impl Target {
    /// The path of its MCP endpoint.
    pub fn path(&self) -> String {
        if self.tenant.as_str() == DEFAULT_TENANT {
            format!("/mcp/{}", self.gateway)
        } else {
            format!("/t/{}/mcp/{}", self.tenant, self.gateway)
        }
    }

    /// The gateway that a path names.
    pub fn of_path(path: &str) -> Option<Self> {
        let (tenant, rest) = match path.strip_prefix("/t/") {
            None => (DEFAULT_TENANT, path),
            Some(rest) => rest.split_at_checked(rest.find('/')?)?,
        };
        let gateway = rest.strip_prefix("/mcp/")?;
        Some(Self { tenant: tenant.parse().ok()?, gateway: gateway.parse().ok()? })
    }
}

impl OAuth {
    /// The gateway that a `resource` names: exactly, but that a loopback address may be written in another way, since
    /// clients compare it with the URL that they were given.
    ///
    /// # Errors
    /// `invalid_target`.
    pub fn target(&self, resource: &str) -> Result<Target, OAuthError> {
        let find = || {
            let (sent, ours) = (Url::parse(resource).ok()?, Url::parse(&self.options.issuer).ok()?);
            if sent.query().is_some() || sent.fragment().is_some() || !sent.username().is_empty() {
                return None;
            }
            let same = sent.origin() == ours.origin();
            let local = super::redirect::is_loopback(&sent)
                && super::redirect::is_loopback(&ours)
                && (sent.scheme(), sent.port_or_known_default()) == (ours.scheme(), ours.port_or_known_default());
            if !same && !local {
                return None;
            }
            let base = ours.path().trim_end_matches('/');
            let path = sent.path().strip_prefix(base)?;
            let target = Target::of_path(path.strip_suffix('/').unwrap_or(path))?;
            self.with_gateway(&target, |_| ())?;
            Some(target)
        };
        find().ok_or_else(OAuthError::target)
    }

    /// What a gateway says, if there is such a gateway.
    pub fn with_gateway<T>(&self, target: &Target, read: impl FnOnce(&Gateway) -> T) -> Option<T> {
        let fleet = self.parts.registry.snapshot();
        fleet.gateway(&target.tenant, &target.gateway).map(|gateway| read(gateway.spec))
    }

    /// Of the scopes that were asked for, those that mean something at a gateway, sorted.
    pub(crate) fn scopes(&self, target: &Target, asked: Option<&str>) -> Vec<String> {
        let known = self
            .with_gateway(target, |g| g.oauth.scopes.iter().map(|r| r.scope.clone()).collect::<Vec<_>>())
            .unwrap_or_default();
        let mut scopes: Vec<String> =
            asked.unwrap_or_default().split(' ').filter(|s| known.iter().any(|k| k == s)).map(str::to_owned).collect();
        scopes.sort();
        scopes.dedup();
        scopes
    }
}

/// What people call a gateway.
pub fn title(gateway: &Gateway, name: &Name) -> String {
    gateway.title.clone().unwrap_or_else(|| name.to_string())
}
