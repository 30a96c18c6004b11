//! Which grants a component's imports need, as far as its imports tell.

use crate::component::Component;

/// An interface, those of its functions that need a grant, and the grant as it is written in YAML.
const NEEDS: [(&str, &[&str], &str); 9] = [
    ("portcullis:auth/tokens", &["lookup"], "tokens: true"),
    ("portcullis:auth/jwt", &["verify", "unverified-issuer"], "issuers: [..]"),
    ("portcullis:credential/connections", &["list"], "connections: true"),
    ("portcullis:host/http", &["send"], "http: [..]"),
    ("portcullis:host/token-request", &["send"], "http: [..]"),
    ("portcullis:credential/caller-token", &["get"], "callerToken: true"),
    ("portcullis:host/state", &["open"], "state: 64KiB"),
    ("portcullis:host/signing", &["hmac-sha256", "[method]token.sign"], "sign: true"),
    ("portcullis:host/reveal", &["reveal"], "reveal: true"),
];

impl Component {
    /// The grants without which it is not loaded, as they are written in a `Plugin` resource, each once.
    pub fn needs(&self) -> Vec<&'static str> {
        let mut found: Vec<&'static str> = Vec::new();
        for (interface, functions, grant) in NEEDS {
            let used = functions.iter().any(|function| self.uses(interface, function).is_some());
            if used && !found.contains(&grant) {
                found.push(grant);
            }
        }
        found
    }
}
