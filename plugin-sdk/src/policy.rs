//! Hooks that decide whether a call may happen.

use crate::{Call, Caller, Denial, Error, raw};

/// What a policy decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The next policy is asked; after the last one the call happens.
    Allow,
    /// The call does not happen.
    Deny(Denial),
    /// The call happens with these arguments (a JSON object); in [`ToolResult`], with this result object.
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
}

/// Asked before an answer goes to the client.
pub trait ToolResult {
    /// Whether the answer may pass.
    ///
    /// # Errors
    /// Any error keeps the answer from the client.
    fn review(caller: Caller<'_>, call: Call<'_>, outcome: ToolOutcome<'_>) -> Result<Decision, Error>;
}

/// One entry of a list that a client is about to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The `McpServer` resource's name.
    pub server: String,
    /// The tool's, resource's or prompt's name as its server knows it.
    pub name: String,
}

/// Asked once for a whole list.
pub trait ListFilter {
    /// The positions of the items that stay, ascending. `kind` is `tools`, `resources`, `templates` or `prompts`.
    ///
    /// # Errors
    /// Any error empties the list.
    fn filter(caller: Caller<'_>, kind: &str, items: &[Item]) -> Result<Vec<u32>, Error>;
}
