//! Which grants a component's imports need, as far as its imports tell.

use portcullis_model::spec::Grants;

use crate::{component::Component, services::Services};

/// What an interface needs, before a component that uses it is loaded.
pub(crate) struct Need {
    /// The interface, without its version.
    interface: &'static str,
    /// Those of its functions that need the grant.
    functions: &'static [&'static str],
    /// The grant as it is written in YAML.
    pub(crate) grant: &'static str,
    /// How metrics call what the interface gives.
    pub(crate) capability: &'static str,
    /// Whether it is granted.
    pub(crate) granted: fn(&Grants) -> bool,
    /// Whether the house has it.
    pub(crate) available: fn(&Services) -> bool,
}

static NEEDS: [Need; 9] = [
    Need {
        interface: "portcullis:auth/tokens",
        functions: &["lookup"],
        grant: "tokens: true",
        capability: "tokens",
        granted: |grants| grants.tokens,
        available: |services| services.tokens.is_some(),
    },
    Need {
        interface: "portcullis:auth/jwt",
        functions: &["verify", "unverified-issuer"],
        grant: "issuers: [..]",
        capability: "issuer",
        granted: |grants| !grants.issuers.is_empty(),
        available: |services| services.jwt.is_some(),
    },
    Need {
        interface: "portcullis:credential/connections",
        functions: &["list"],
        grant: "connections: true",
        capability: "connections",
        granted: |grants| grants.connections,
        available: |services| services.connections.is_some(),
    },
    Need {
        interface: "portcullis:host/http",
        functions: &["send"],
        grant: "http: [..]",
        capability: "http",
        granted: |grants| !grants.http.is_empty(),
        available: |services| services.http.is_some(),
    },
    Need {
        interface: "portcullis:host/token-request",
        functions: &["send"],
        grant: "http: [..]",
        capability: "http",
        granted: |grants| !grants.http.is_empty(),
        available: |services| services.http.is_some(),
    },
    Need {
        interface: "portcullis:credential/caller-token",
        functions: &["get"],
        grant: "callerToken: true",
        capability: "caller-token",
        granted: |grants| grants.caller_token,
        available: |_| true,
    },
    Need {
        interface: "portcullis:host/state",
        functions: &["open"],
        grant: "state: 64KiB",
        capability: "state",
        granted: |grants| grants.state.is_some(),
        available: |_| true,
    },
    Need {
        interface: "portcullis:host/signing",
        functions: &["hmac-sha256", "[method]token.sign"],
        grant: "sign: true",
        capability: "sign",
        granted: |grants| grants.sign,
        available: |services| services.assertions.is_some(),
    },
    Need {
        interface: "portcullis:host/reveal",
        functions: &["reveal"],
        grant: "reveal: true",
        capability: "reveal",
        granted: |grants| grants.reveal,
        available: |services| services.audit.is_some(),
    },
];

impl Component {
    /// What its imports need, each with the interface's full name.
    pub(crate) fn needed(&self) -> impl Iterator<Item = (&str, &'static Need)> {
        NEEDS.iter().filter_map(|need| {
            let used = need.functions.iter().find_map(|function| self.uses(need.interface, function))?;
            Some((used, need))
        })
    }

    /// The grants without which it is not loaded, as they are written in a `Plugin` resource, each once.
    pub fn needs(&self) -> Vec<&'static str> {
        let mut found: Vec<&'static str> = Vec::new();
        for (_, need) in self.needed() {
            if !found.contains(&need.grant) {
                found.push(need.grant);
            }
        }
        found
    }
}
