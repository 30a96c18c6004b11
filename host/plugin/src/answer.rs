//! What a hook may answer.

use bytes::Bytes;
use http::HeaderName;
use portcullis_model::Name;
use serde_json::Value;

use crate::{
    passthrough::Passed,
    secrets::Guarded,
    services::{TokenFacts, VerifiedJwt},
};

/// The answer of a policy.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The call goes on.
    Allow,
    /// The call ends here.
    Deny {
        /// A short stable word for programs.
        code: String,
        /// A sentence that the caller may read.
        message: String,
    },
    /// It goes on with this in place of what was asked about: the arguments of a call or a prompt, the params of a server's
    /// request, the result of a review. A JSON object, checked.
    Modify(Bytes),
    /// A person has to say yes first; the text says to what.
    RequireApproval(String),
}

/// A fact that a plugin read and that a cache key may not contain yet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Read {
    /// A request header, by lower-case name.
    Header(String),
    /// A claim of the principal.
    Claim(String),
    /// An attribute of an earlier hook.
    Attribute(String),
    /// The principal's teams.
    Teams,
    /// The principal's roles.
    Roles,
    /// The principal's groups.
    Groups,
    /// The list of connections.
    Connections,
    /// The client's address.
    Peer,
    /// The HTTP method.
    Method,
    /// The request's path.
    Path,
    /// The caller's own token.
    CallerToken,
}

/// Under what a call runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Under this connection; headers may come on top.
    Use {
        /// The `Connection` resource's name, checked to be one.
        connection: Name,
    },
    /// Only the headers of the answer.
    Headers,
    /// The call needs no credential.
    None,
    /// There is no credential for this caller; the text says what is missing.
    Missing(String),
}

/// The answer of a credential resolver.
#[derive(Debug)]
pub struct Resolution {
    /// Under what the call runs.
    pub outcome: Outcome,
    /// Headers for the request, their secrets already checked to be allowed at the target's origin.
    pub headers: Vec<(HeaderName, Guarded)>,
    /// Until when the answer may be used again, milliseconds since 1970; none where the plugin did not say.
    pub expires_ms: Option<u64>,
    /// Headers or claims that the answer depends on, as the plugin says.
    pub vary: Vec<String>,
    /// What the plugin read beyond tenant, principal, assignment and connections: belongs into the cache key.
    pub reads: Vec<Read>,
    /// Where the caller's own token goes on to the server: checked, and to be audited at each use.
    pub passed: Option<Passed>,
    /// Secrets that the plugin keeps beside the answer, for the hooks that follow it up.
    pub kept: Vec<(String, Guarded)>,
}

/// What a resolver says when the server refused what a call carried.
#[derive(Debug)]
pub enum Rejection {
    /// The call is sent once more, with this.
    Retry(Box<Resolution>),
    /// Somebody has to do this first.
    Reconnect(String),
    /// The refusal stands.
    GiveUp,
}

/// Who a provider says is calling.
#[derive(Clone, Debug)]
pub enum Asserted {
    /// The owner of this token of ours.
    Token(TokenFacts),
    /// Somebody of an identity provider among the plugin's granted issuers.
    External {
        /// The issuer, exactly as in the token.
        issuer: String,
        /// The issuer's `sub`.
        subject: String,
    },
}

/// A principal as a provider asserts it; what it was not granted to assert is already refused.
#[derive(Clone, Debug)]
pub struct AssertedPrincipal {
    /// Who it is.
    pub who: Asserted,
    /// How it may be shown.
    pub display_name: Option<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// Roles, all among the granted ones.
    pub roles: Vec<Name>,
    /// Claims as JSON values.
    pub claims: Vec<(String, Value)>,
    /// What was verified of the token that the caller came with; none where it was no signed token of the asserted issuer.
    pub token: Option<VerifiedToken>,
}

/// What the host itself verified of a caller's token, on behalf of the provider that let the caller in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedToken {
    /// The `iss` claim.
    pub issuer: String,
    /// The `aud` claim.
    pub audiences: Vec<String>,
    /// The `exp` claim, milliseconds since 1970.
    pub expires_ms: u64,
    /// Whether it is bound to a key of the caller's (RFC 7800 `cnf`).
    pub bound: bool,
}

impl VerifiedToken {
    /// Of a token that holds.
    pub(crate) fn of(verified: &VerifiedJwt) -> Self {
        let audiences = match verified.claims.get("aud") {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(all)) => all.iter().filter_map(|a| a.as_str().map(str::to_owned)).collect(),
            _ => Vec::new(),
        };
        Self {
            issuer: verified.issuer.clone(),
            audiences,
            expires_ms: verified.expires_ms,
            bound: verified.claims.get("cnf").is_some(),
        }
    }
}

/// The answer of an auth provider.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Somebody.
    Accepted {
        /// Who.
        principal: Box<AssertedPrincipal>,
        /// Until when the verdict may be used again, milliseconds since 1970.
        expires_ms: Option<u64>,
        /// Headers that the verdict depends on beside the credential, as the plugin says.
        vary: Vec<String>,
        /// What the plugin read: belongs into the verdict's cache key.
        reads: Vec<Read>,
    },
    /// Nobody in particular, and that is fine here.
    Anonymous {
        /// What the plugin read to say so.
        reads: Vec<Read>,
    },
    /// The next provider is asked.
    NotMine {
        /// What the plugin read to say so: belongs into the cache key of whatever a later provider answers.
        reads: Vec<Read>,
    },
    /// Refused; the client is told how to authenticate.
    Challenge {
        /// What stands behind the scheme in `WWW-Authenticate`; printable ASCII, checked.
        parameters: String,
        /// A sentence for people.
        message: String,
    },
    /// Refused.
    Refused(String),
}

/// Where clients get the tokens that a provider accepts (RFC 9728 section 2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// Issuers of authorization servers; each is granted to the plugin.
    pub authorization_servers: Vec<String>,
    /// Scopes that clients may want.
    pub scopes: Vec<String>,
    /// A page for developers.
    pub documentation: Option<String>,
}

/// Which hooks a component serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// `credential/resolver`.
    pub resolver: bool,
    /// `credential/refresher`, beside the resolver.
    pub refresher: bool,
    /// `credential/on-rejected`, beside the resolver.
    pub on_rejected: bool,
    /// `auth/provider`.
    pub provider: bool,
    /// `policy/tool-call`.
    pub tool_call: bool,
    /// `policy/tool-result`.
    pub tool_result: bool,
    /// `policy/resource-read`.
    pub resource_read: bool,
    /// `policy/prompt-get`.
    pub prompt_get: bool,
    /// `policy/server-request`.
    pub server_request: bool,
    /// `policy/list-filter`.
    pub list_filter: bool,
    /// `policy/session`.
    pub session: bool,
    /// `auth/described`, beside the provider.
    pub described: bool,
}

impl Hooks {
    /// The interfaces that it serves, without `portcullis:` and versions.
    pub fn names(&self) -> Vec<&'static str> {
        let all = [
            (self.provider, "auth/provider"),
            (self.resolver, "credential/resolver"),
            (self.refresher, "credential/refresher"),
            (self.on_rejected, "credential/on-rejected"),
            (self.tool_call, "policy/tool-call"),
            (self.tool_result, "policy/tool-result"),
            (self.resource_read, "policy/resource-read"),
            (self.prompt_get, "policy/prompt-get"),
            (self.server_request, "policy/server-request"),
            (self.list_filter, "policy/list-filter"),
            (self.session, "policy/session"),
            (self.described, "auth/described"),
        ];
        all.into_iter().filter_map(|(serves, name)| serves.then_some(name)).collect()
    }

    /// One of `others` that it does not serve.
    pub fn lacks(&self, others: Self) -> Option<&'static str> {
        let own = self.names();
        others.names().into_iter().find(|name| !own.contains(name))
    }

    /// Whether it serves any hook of a policy.
    pub fn policy(&self) -> bool {
        self.tool_call
            || self.tool_result
            || self.resource_read
            || self.prompt_get
            || self.server_request
            || self.list_filter
            || self.session
    }
}
