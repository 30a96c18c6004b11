//! Who calls, and what is called.

use serde::de::DeserializeOwned;

use crate::{Error, Patch, patch::done, raw};

/// A value of a claim or an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(f64),
    /// True or false.
    Truth(bool),
    /// A list of texts.
    Texts(Vec<String>),
    /// Anything else, as JSON text.
    Other(String),
}

impl Value {
    /// The text, where it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// As JSON. What does not parse becomes a string.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Text(text) => text.as_str().into(),
            Self::Number(number) => (*number).into(),
            Self::Truth(truth) => (*truth).into(),
            Self::Texts(texts) => texts.as_slice().into(),
            Self::Other(json) => serde_json::from_str(json).unwrap_or_else(|_| json.as_str().into()),
        }
    }

    /// From JSON. Null, objects and mixed lists become [`Other`](Self::Other).
    pub fn from_json(json: &serde_json::Value) -> Self {
        use serde_json::Value as Json;
        let texts =
            |items: &Vec<Json>| items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
        match json {
            Json::String(text) => Self::Text(text.clone()),
            Json::Bool(truth) => Self::Truth(*truth),
            Json::Number(number) => number.as_f64().map_or_else(|| Self::Other(json.to_string()), Self::Number),
            Json::Array(items) => texts(items).map_or_else(|| Self::Other(json.to_string()), Self::Texts),
            Json::Null | Json::Object(_) => Self::Other(json.to_string()),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// What sort of caller a principal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
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
    /// A kind that this SDK does not know.
    Unknown,
}

impl Kind {
    pub(crate) fn parse(text: &str) -> Self {
        match text {
            "user" => Self::User,
            "team" => Self::Team,
            "organization" => Self::Organization,
            "agent" => Self::Agent,
            "external" => Self::External,
            "anonymous" => Self::Anonymous,
            _ => Self::Unknown,
        }
    }
}

/// Who is calling. Lent for one call; never holds a credential.
///
/// Each getter asks the host: keep what is used twice.
#[derive(Clone, Copy)]
pub struct Caller<'a>(pub(crate) &'a raw::Caller);

impl Caller<'_> {
    /// The tenant (organization) that the call belongs to.
    pub fn tenant(self) -> String {
        self.0.tenant()
    }

    /// The principal, unique within the tenant: `user:alice`, `team:blue`, `agent:ci`, `organization`, `anonymous` or
    /// `external:ISSUER#SUBJECT`.
    pub fn subject(self) -> String {
        self.0.subject()
    }

    /// What sort of caller it is.
    pub fn kind(self) -> Kind {
        Kind::parse(&self.0.kind())
    }

    /// The teams that it belongs to, now.
    pub fn teams(self) -> Vec<String> {
        self.0.teams()
    }

    /// The roles that it holds.
    pub fn roles(self) -> Vec<String> {
        self.0.roles()
    }

    /// Groups as the auth provider asserted them.
    pub fn groups(self) -> Vec<String> {
        self.0.groups()
    }

    /// A claim that the auth provider asserted.
    pub fn claim(self, name: &str) -> Option<Value> {
        self.0.claim(name).map(raw::value)
    }

    /// A request header by lower-case name; none of those that can carry a credential.
    pub fn header(self, name: &str) -> Option<String> {
        self.0.header(name)
    }

    /// An attribute that an earlier hook of this call set.
    pub fn attribute(self, key: &str) -> Option<Value> {
        self.0.attribute(key).map(raw::value)
    }
}

/// One call of a tool. Lent for one hook.
#[derive(Clone, Copy)]
pub struct Call<'a>(pub(crate) &'a raw::Call);

impl Call<'_> {
    /// The gateway that the client spoke to.
    pub fn gateway(self) -> String {
        self.0.gateway()
    }

    /// The `McpServer` resource's name.
    pub fn server(self) -> String {
        self.0.server()
    }

    /// The tool's name as its server knows it.
    pub fn tool(self) -> String {
        self.0.tool()
    }

    /// The tool's name as the client sees it.
    pub fn exposed_tool(self) -> String {
        self.0.exposed_tool()
    }

    /// The arguments object as the client sent it, UTF-8 JSON. Copies them: for one value, [`argument`](Self::argument)
    /// is cheaper.
    pub fn arguments(self) -> Vec<u8> {
        self.0.arguments()
    }

    /// The arguments, read into a type of yours.
    ///
    /// # Errors
    /// [`Error::Other`] where they don't fit the type.
    pub fn arguments_as<T: DeserializeOwned>(self) -> Result<T, Error> {
        Ok(serde_json::from_slice(&self.arguments())?)
    }

    /// The length of the arguments in bytes, without copying them.
    pub fn arguments_size(self) -> u64 {
        self.0.arguments_size()
    }

    /// One value of the arguments by JSON Pointer (RFC 6901), as JSON text; none where it points at nothing.
    pub fn argument(self, pointer: &str) -> Option<String> {
        self.0.argument(pointer)
    }

    /// One value of the arguments by JSON Pointer; none where it points at nothing.
    ///
    /// # Errors
    /// [`Error::Other`] where the value does not fit the type.
    pub fn argument_as<T: DeserializeOwned>(self, pointer: &str) -> Result<Option<T>, Error> {
        self.argument(pointer).map(|json| serde_json::from_str(&json)).transpose().map_err(Error::from)
    }

    /// Milliseconds until the call's deadline.
    pub fn deadline_ms(self) -> u64 {
        self.0.deadline_ms()
    }

    /// The request's id in logs, traces and errors.
    pub fn request_id(self) -> String {
        self.0.request_id()
    }

    /// Sets an attribute that later hooks of this call see and the audit record carries. At most 16, 1 KiB each.
    pub fn annotate(self, key: &str, value: &Value) {
        self.0.annotate(key, &raw::lower_value(value));
    }

    /// Changes the arguments by a JSON Patch: all of its operations, or none. From then on the getters show what it left, and so does
    /// what happens next, where the hook answers [`Decision::Allow`](crate::Decision::Allow).
    ///
    /// # Errors
    /// [`Error::Other`] where an operation does not fit.
    pub fn patch(self, patch: &Patch) -> Result<(), Error> {
        done(self.0.patch(&patch.to_json()))
    }
}
