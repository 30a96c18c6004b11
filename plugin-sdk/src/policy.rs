//! Hooks that decide whether something may happen.

use serde::de::DeserializeOwned;

use crate::{Call, Caller, Denial, Error, Patch, Prompt, Question, Read, patch::done, raw};

/// What a policy decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The next policy is asked; after the last one it happens.
    Allow,
    /// It does not happen.
    Deny(Denial),
    /// It happens with this JSON object in place of what was asked about: the arguments of a call or a prompt, the params of a
    /// server's request; in [`ToolResult`], the result object.
    Modify(Vec<u8>),
    /// A person has to say yes first; the text says to what.
    RequireApproval(String),
}

impl Decision {
    /// A refusal with a code for programs and a sentence for people.
    pub fn deny(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Deny(Denial { code: code.into(), message: message.into() })
    }
}

/// Asked before a call is made.
pub trait ToolCall {
    /// Whether the call may happen.
    ///
    /// # Errors
    /// Any error refuses the call.
    fn decide(caller: Caller<'_>, call: Call<'_>) -> Result<Decision, Error>;
}

/// What the server answered. Costs nothing unless it is read.
#[derive(Clone, Copy)]
pub struct ToolOutcome<'a>(pub(crate) &'a raw::Outcome);

impl ToolOutcome<'_> {
    /// Whether the tool itself reported an error.
    pub fn is_error(self) -> bool {
        self.0.is_error()
    }

    /// The result object as the server sent it, UTF-8 JSON.
    pub fn content(self) -> Vec<u8> {
        self.0.content()
    }

    /// The length of the result object in bytes, without copying it.
    pub fn content_size(self) -> u64 {
        self.0.content_size()
    }

    /// One value of the result by JSON Pointer (RFC 6901), as JSON text; none where it points at nothing.
    pub fn value(self, pointer: &str) -> Option<String> {
        self.0.value(pointer)
    }

    /// One value of the result by JSON Pointer; none where it points at nothing.
    ///
    /// # Errors
    /// [`Error::Other`] where the value does not fit the type.
    pub fn value_as<T: DeserializeOwned>(self, pointer: &str) -> Result<Option<T>, Error> {
        self.value(pointer).map(|json| serde_json::from_str(&json)).transpose().map_err(Error::from)
    }

    /// Changes the result by a JSON Patch: all of its operations, or none. From then on the getters show what it left, and so does
    /// what happens next, where the hook answers [`Decision::Allow`].
    ///
    /// # Errors
    /// [`Error::Other`] where an operation does not fit.
    pub fn patch(self, patch: &Patch) -> Result<(), Error> {
        done(self.0.patch(&patch.to_json()))
    }
}

/// Asked before an answer goes to the client.
pub trait ToolResult {
    /// Whether the answer may pass.
    ///
    /// # Errors
    /// Any error keeps the answer from the client.
    fn review(caller: Caller<'_>, call: Call<'_>, outcome: ToolOutcome<'_>) -> Result<Decision, Error>;
}

/// Asked before a resource is read, subscribed to, or a variable of a template completed.
pub trait ResourceRead {
    /// Whether the client may have it. There is nothing to modify: [`Decision::Modify`] refuses.
    ///
    /// # Errors
    /// Any error refuses.
    fn decide(caller: Caller<'_>, read: Read<'_>) -> Result<Decision, Error>;
}

/// Asked before a prompt is fetched, or an argument of one completed.
pub trait PromptGet {
    /// Whether the client may have it. [`Decision::Modify`] holds other arguments.
    ///
    /// # Errors
    /// Any error refuses.
    fn decide(caller: Caller<'_>, prompt: Prompt<'_>) -> Result<Decision, Error>;
}

/// Asked before a request of a server reaches the client.
pub trait ServerRequest {
    /// Whether the client may be asked; `caller` is who would be. [`Decision::Modify`] holds other params.
    ///
    /// # Errors
    /// Any error refuses: the client is not asked.
    fn decide(caller: Caller<'_>, question: Question<'_>) -> Result<Decision, Error>;
}
