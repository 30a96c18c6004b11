//! Refusals and failures that say whose fault they are and what to do next.

use std::{borrow::Cow, fmt};

use serde::Serialize;

use crate::{Name, Subject};

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The request was wrong, or the caller is not who it has to be.
    Caller,
    /// Somebody decided that this may not happen.
    Policy,
    /// Portcullis, or a plugin in it.
    Gateway,
    /// The MCP server behind the gateway.
    Server,
}

impl Side {
    /// The word used in errors, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Policy => "policy",
            Self::Gateway => "gateway",
            Self::Server => "server",
        }
    }
}

/// Why a call did not happen. What it holds may be read by the caller: it never quotes a secret, nor what an upstream or
/// plugin printed.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// Whose fault it is.
    pub side: Side,
    /// A short stable word for programs, such as `unknown-tool`; `docs/errors.md` lists them.
    pub code: &'static str,
    /// A sentence for people.
    pub message: Cow<'static, str>,
    /// What to do next, as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Cow<'static, str>>,
    /// The `McpServer` concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The tool concerned, as the client named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Whether the same request may work later, and after how many milliseconds to try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// The account that is missing, where connecting one would help: whoever answers makes a link of it.
    #[serde(skip)]
    pub need: Option<Box<Need>>,
    /// What operators read of it in the log, by the request's id. The caller never does.
    #[serde(skip)]
    pub inside: Option<Box<str>>,
}

/// An account that somebody has to connect before a call can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// The `McpServer`.
    pub server: Name,
    /// Whose call it is.
    pub wanted: Subject,
    /// The connection that is there and has to be mended; none where there is none.
    pub connection: Option<Name>,
}

impl Fault {
    /// A fault with nothing but its essentials.
    pub fn new(side: Side, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            side,
            code,
            message: message.into(),
            next: None,
            server: None,
            tool: None,
            retry_after_ms: None,
            need: None,
            inside: None,
        }
    }

    /// Adds the next step.
    #[must_use]
    pub fn next(mut self, next: impl Into<Cow<'static, str>>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// Adds the server concerned.
    #[must_use]
    pub fn server(mut self, server: impl Into<String>) -> Self {
        self.server = Some(server.into());
        self
    }

    /// Adds the tool concerned.
    #[must_use]
    pub fn tool(mut self, tool: impl Into<String>) -> Self {
        self.tool = Some(tool.into());
        self
    }

    /// Adds what is for operators only.
    #[must_use]
    pub fn inside(mut self, why: impl Into<Box<str>>) -> Self {
        self.inside = Some(why.into());
        self
    }

    /// Says that the same request may work after a while.
    #[must_use]
    pub fn retry_after_ms(mut self, millis: u64) -> Self {
        self.retry_after_ms = Some(millis);
        self
    }

    /// Says which account is missing. Nothing for nobody in particular, who can have none.
    #[must_use]
    pub fn need(mut self, server: &Name, wanted: &Subject, connection: Option<&Name>) -> Self {
        if *wanted != Subject::Anonymous {
            let need = Need { server: server.clone(), wanted: wanted.clone(), connection: connection.cloned() };
            self.need = Some(Box::new(need));
        }
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} {})", self.message, self.side.as_str(), self.code)?;
        if let Some(next) = &self.next {
            write!(f, ". {next}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}
