//! Who is calling, once that is known.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Name, Secret};

/// What sort of caller a principal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrincipalKind {
    /// A person with a `User` resource.
    User,
    /// A team, by a token of its own.
    Team,
    /// The tenant as a whole, by a token of its own.
    Organization,
    /// A caller that is no person.
    Agent,
    /// Somebody of an identity provider whom no `User` resource claims.
    External,
    /// Nobody in particular.
    Anonymous,
}

impl PrincipalKind {
    /// The word used in YAML, logs and plugins.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Team => "team",
            Self::Organization => "organization",
            Self::Agent => "agent",
            Self::External => "external",
            Self::Anonymous => "anonymous",
        }
    }
}

impl fmt::Display for PrincipalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A principal's identity within its tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// The `User` resource of this name.
    User(Name),
    /// The `Team` resource of this name.
    Team(Name),
    /// The tenant itself.
    Organization,
    /// The `Agent` resource of this name.
    Agent(Name),
    /// `subject` as `issuer` calls it. Both are the identity; an e-mail address never is (security: look-alikes).
    External {
        /// The issuer's URL, exactly as in the token.
        issuer: String,
        /// The issuer's `sub`.
        subject: String,
    },
    /// Nobody in particular.
    Anonymous,
}

impl Subject {
    /// The sort of caller this is.
    pub fn kind(&self) -> PrincipalKind {
        match self {
            Self::User(_) => PrincipalKind::User,
            Self::Team(_) => PrincipalKind::Team,
            Self::Organization => PrincipalKind::Organization,
            Self::Agent(_) => PrincipalKind::Agent,
            Self::External { .. } => PrincipalKind::External,
            Self::Anonymous => PrincipalKind::Anonymous,
        }
    }
}

/// `user:alice`, `team:blue`, `organization`, `agent:ci`, `external:ISSUER#SUBJECT`, `anonymous`.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "user:{name}"),
            Self::Team(name) => write!(f, "team:{name}"),
            Self::Organization => f.write_str("organization"),
            Self::Agent(name) => write!(f, "agent:{name}"),
            Self::External { issuer, subject } => write!(f, "external:{issuer}#{subject}"),
            Self::Anonymous => f.write_str("anonymous"),
        }
    }
}

/// A text that names no subject.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" names no principal: use user:NAME, team:NAME, agent:NAME, organization or anonymous")]
pub struct InvalidSubject(String);

impl std::str::FromStr for Subject {
    type Err = InvalidSubject;

    fn from_str(text: &str) -> Result<Self, InvalidSubject> {
        let wrong = || InvalidSubject(crate::text::shown(text, 120));
        let name = |n: &str| n.parse::<Name>().map_err(|_| wrong());
        match text.split_once(':') {
            None if text == "organization" => Ok(Self::Organization),
            None if text == "anonymous" => Ok(Self::Anonymous),
            Some(("user", n)) => Ok(Self::User(name(n)?)),
            Some(("team", n)) => Ok(Self::Team(name(n)?)),
            Some(("agent", n)) => Ok(Self::Agent(name(n)?)),
            Some(("external", rest)) => {
                let (issuer, subject) = rest.rsplit_once('#').ok_or_else(wrong)?;
                Ok(Self::External { issuer: issuer.to_owned(), subject: subject.to_owned() })
            }
            _ => Err(wrong()),
        }
    }
}

/// Where a caller's token comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenOrigin {
    /// It came with the request.
    Presented,
    /// It was kept when the caller signed in here; what came with the request is a token of ours.
    SignIn,
}

impl TokenOrigin {
    /// The word that plugins read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Presented => "jwt",
            Self::SignIn => "sign-in",
        }
    }
}

/// A token of an identity provider that stands for a caller: what strategies exchange or, where its audience allows, pass on. Its
/// facts were verified when the caller was let in.
#[derive(Clone, Debug)]
pub struct CallerToken {
    /// The token.
    pub secret: Secret,
    /// Where it comes from.
    pub origin: TokenOrigin,
    /// The `iss` claim.
    pub issuer: String,
    /// The `aud` claim.
    pub audiences: Vec<String>,
    /// The `exp` claim, milliseconds since 1970; none where it is not known.
    pub expires_ms: Option<u64>,
    /// Whether it is bound to a key of the caller's (RFC 7800 `cnf`).
    pub bound: bool,
    /// What it is, as a token type identifier of RFC 8693 section 3; none where nobody said.
    pub token_type: Option<String>,
    /// SHA-256 of the token: tells it from every other one where answers are remembered.
    pub digest: [u8; 32],
}

/// A caller, authenticated. Compiled once per verdict and shared by the calls that use it.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The tenant that it belongs to; no other tenant's gateway serves it.
    pub tenant: Name,
    /// Its identity within the tenant.
    pub subject: Subject,
    /// `subject` as text, made once because logs, metrics and plugins all want it.
    pub subject_text: Arc<str>,
    /// How it may be shown to people.
    pub display_name: Option<String>,
    /// Teams that it belongs to now, sorted. A team's token belongs to that team.
    pub teams: Vec<Name>,
    /// Roles that it holds, sorted.
    pub roles: Vec<Name>,
    /// Groups as its auth provider asserted them.
    pub groups: Vec<String>,
    /// Claims that its auth provider asserted, as JSON values.
    pub claims: BTreeMap<String, serde_json::Value>,
    /// The id (never the text) of the token of ours that it came with.
    pub token: Option<String>,
    /// What an OAuth client's token may do; none where nothing limits it.
    pub scopes: Option<Vec<String>>,
    /// A token of an identity provider that stands for it; none where it has only tokens of ours, or none.
    pub bearer: Option<Arc<CallerToken>>,
    /// The grant that its token is of, where a client renews it: what the client holds stays with the grant, whichever of its
    /// tokens it comes with.
    pub grant: Option<String>,
}

impl Principal {
    /// Nobody in particular.
    pub fn anonymous(tenant: Name) -> Self {
        Self::new(tenant, Subject::Anonymous)
    }

    /// A principal that belongs to nothing yet.
    pub fn new(tenant: Name, subject: Subject) -> Self {
        let subject_text = Arc::from(subject.to_string());
        Self {
            tenant,
            subject,
            subject_text,
            display_name: None,
            teams: Vec::new(),
            roles: Vec::new(),
            groups: Vec::new(),
            claims: BTreeMap::new(),
            token: None,
            scopes: None,
            bearer: None,
            grant: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_survive_their_text() {
        for text in
            ["user:alice", "team:blue", "agent:ci", "organization", "anonymous", "external:https://i.example/a#b"]
        {
            assert_eq!(text.parse::<Subject>().expect(text).to_string(), text);
        }
        for bad in ["", "user:", "user:A", "organization:x", "alice"] {
            assert!(bad.parse::<Subject>().is_err(), "{bad}");
        }
    }
}
