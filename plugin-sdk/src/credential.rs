//! The hook that decides whose credential a call carries.

use serde::de::DeserializeOwned;

use crate::{Caller, Error, Part, Secret, raw};

/// Whose credential a call carries.
pub trait Resolver {
    /// Fills `into`. Sees only what the cache of the answer is keyed by: never the arguments of a call.
    ///
    /// # Errors
    /// Any error refuses the call.
    fn resolve(caller: Caller<'_>, target: Target<'_>, into: Resolution<'_>) -> Result<(), Error>;
}

/// Gives a new answer ahead of the old one's end. Optional, beside [`Resolver`].
pub trait Refresher {
    /// Asked once for each answer that says when it ends: the lesser of five minutes and a fifth of its life before that. Calls go on
    /// under the old answer meanwhile.
    ///
    /// # Errors
    /// Any error leaves the old answer in use for as long as it holds.
    fn refresh(caller: Caller<'_>, target: Target<'_>, earlier: Earlier<'_>, into: Resolution<'_>)
    -> Result<(), Error>;
}

/// What to do when the server refused what a call carried (HTTP status 401). Optional, beside [`Resolver`].
pub trait OnRejected {
    /// Asked once for a call; the old answer is not used again, whatever this says.
    ///
    /// # Errors
    /// Any error lets the refusal stand.
    fn rejected(
        caller: Caller<'_>,
        target: Target<'_>,
        earlier: Earlier<'_>,
        into: Resolution<'_>,
    ) -> Result<NextStep, Error>;
}

/// What follows a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextStep {
    /// The call is sent once more, with what `into` says now.
    Retry,
    /// Somebody has to do this first.
    Reconnect(String),
    /// The refusal stands.
    GiveUp,
}

/// An answer that was given before.
#[derive(Clone, Copy)]
pub struct Earlier<'a>(pub(crate) &'a raw::Earlier);

impl Earlier<'_> {
    /// Until when it said that it may be used, in milliseconds since 1970-01-01T00:00:00Z.
    pub fn expires_ms(self) -> Option<u64> {
        self.0.expires_ms()
    }

    /// What was kept beside it.
    pub fn kept(self, name: &str) -> Option<Secret> {
        self.0.kept(name).map(Secret)
    }
}

/// The token that the caller came with, and what was verified of it. Needs the grant `callerToken`.
pub struct CallerToken(raw::CallerToken);

/// Where a caller's token comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// An identity provider's, which came with the request.
    Jwt,
    /// An identity provider's, kept since the caller signed in here.
    SignIn,
    /// A token of Portcullis itself, which nobody else understands.
    Ours,
    /// A kind that this SDK does not know.
    Unknown,
}

/// The token that the caller came with; none where there was none.
pub fn caller_token() -> Option<CallerToken> {
    raw::caller_token().map(CallerToken)
}

impl CallerToken {
    /// Where it comes from.
    pub fn kind(&self) -> TokenKind {
        match self.0.kind().as_str() {
            "jwt" => TokenKind::Jwt,
            "sign-in" => TokenKind::SignIn,
            "ours" => TokenKind::Ours,
            _ => TokenKind::Unknown,
        }
    }

    /// The issuer, as it was verified.
    pub fn issuer(&self) -> Option<String> {
        self.0.issuer()
    }

    /// Whom it is for.
    pub fn audiences(&self) -> Vec<String> {
        self.0.audiences()
    }

    /// When it expires, in milliseconds since 1970-01-01T00:00:00Z.
    pub fn expires_ms(&self) -> Option<u64> {
        self.0.expires_ms()
    }

    /// Whether it is bound to a key of the caller's.
    pub fn bound(&self) -> bool {
        self.0.bound()
    }

    /// What it is, as a token type identifier of RFC 8693 section 3.
    pub fn token_type(&self) -> Option<String> {
        self.0.token_type()
    }

    /// The token itself; none of a token of Portcullis.
    pub fn handle(&self) -> Option<Secret> {
        self.0.secret().map(Secret)
    }
}

/// The server that a credential is wanted for.
#[derive(Clone, Copy)]
pub struct Target<'a>(pub(crate) &'a raw::Target);

impl Target<'_> {
    /// The `McpServer` resource's name.
    pub fn server(self) -> String {
        self.0.server()
    }

    /// The server's URL; empty for a server that has none.
    pub fn url(self) -> String {
        self.0.url()
    }

    /// The connection that the tool assignment names, if it names one.
    pub fn connection(self) -> Option<String> {
        self.0.connection()
    }

    /// A setting of the assignment's credential, read into a type of yours.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] where it does not fit the type.
    pub fn setting<T: DeserializeOwned>(self, name: &str) -> Result<Option<T>, Error> {
        let read = |json: String| {
            serde_json::from_str(&json).map_err(|e| Error::InvalidConfig(format!("setting {name}: {e}")))
        };
        self.0.setting(name).map(read).transpose()
    }
}

/// Who owns a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A person.
    User(String),
    /// A team.
    Team(String),
    /// The organization.
    Organization,
    /// An agent.
    Agent(String),
    /// A kind of owner that this SDK does not know.
    Unknown,
}

/// A connection that the caller may run under. Never its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Its name, for [`Resolution::use_connection`].
    pub id: String,
    /// Who owns it.
    pub owner: Owner,
    /// Whether it may serve its owner only.
    pub owner_only: bool,
    /// Whether its last use was not refused by the server.
    pub healthy: bool,
    /// When it was made, in milliseconds since 1970-01-01T00:00:00Z.
    pub created_ms: u64,
}

/// The connections of the target that this caller may run under, and the one that the assignment names.
pub fn connections() -> Listing {
    Listing(raw::list_connections())
}

/// A list that stays as it was when it was made.
pub struct Listing(raw::Listing);

impl Listing {
    /// How many there are.
    pub fn len(&self) -> u32 {
        self.0.count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of the connection at a position; the cheapest thing to read.
    pub fn id(&self, at: u32) -> String {
        self.0.id(at)
    }

    /// The connection at a position.
    pub fn get(&self, at: u32) -> Connection {
        let owner = match self.0.owner_kind(at).as_str() {
            "user" => Owner::User(self.0.owner(at)),
            "team" => Owner::Team(self.0.owner(at)),
            "organization" => Owner::Organization,
            "agent" => Owner::Agent(self.0.owner(at)),
            _ => Owner::Unknown,
        };
        Connection {
            id: self.0.id(at),
            owner,
            owner_only: self.0.owner_only(at),
            healthy: self.0.healthy(at),
            created_ms: self.0.created_ms(at),
        }
    }

    /// All of them, in the host's order.
    pub fn iter(&self) -> impl Iterator<Item = Connection> + '_ {
        (0..self.len()).map(|at| self.get(at))
    }
}

/// The answer, lent for the plugin to fill.
#[derive(Clone, Copy)]
pub struct Resolution<'a>(pub(crate) &'a raw::Resolution);

impl Resolution<'_> {
    /// The call runs under this connection: its secret is placed as the `McpServer` says.
    pub fn use_connection(self, id: &str) {
        self.0.use_connection(id);
    }

    /// Adds a header to the request, replacing an earlier one of that name.
    pub fn header(self, name: &str, parts: &[Part<'_>]) {
        self.0.header(name, &raw::lower_parts(parts));
    }

    /// The call needs no credential.
    pub fn none(self) {
        self.0.none();
    }

    /// There is no credential for this caller; `need` says in words what is missing, for whom.
    pub fn missing(self, need: &str) {
        self.0.missing(need);
    }

    /// Until when the answer may be used again, in milliseconds since 1970-01-01T00:00:00Z. At most an hour from now.
    pub fn expires(self, at_ms: u64) {
        self.0.expires(at_ms);
    }

    /// A caller's header or claim that the answer depends on, beside tenant, principal, assignment and connections.
    pub fn vary(self, on: &str) {
        self.0.vary(on);
    }

    /// Keeps a secret beside the answer, under a name, for [`Refresher`] and [`OnRejected`]. At most 8.
    pub fn keep(self, name: &str, value: &Secret) {
        self.0.keep(name, &value.0);
    }
}
