//! What policies are asked about beside calls of tools: resources, prompts, and what a server wants of a client.

use serde::de::DeserializeOwned;

use crate::{Error, Patch, Value, patch::done, raw};

/// Why a client asks for a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadPurpose {
    /// To read it.
    Read,
    /// To be told when it changes.
    Subscribe,
    /// To fill in a variable of a template; the URI is the template's text.
    Complete,
    /// A purpose that this SDK does not know.
    Unknown,
}

/// A resource that a client asks for. Lent for one hook.
#[derive(Clone, Copy)]
pub struct Read<'a>(pub(crate) &'a raw::Read);

impl Read<'_> {
    /// The gateway that the client spoke to.
    pub fn gateway(self) -> String {
        self.0.gateway()
    }

    /// The `McpServer` resource's name.
    pub fn server(self) -> String {
        self.0.server()
    }

    /// The URI as its server knows it; for [`ReadPurpose::Complete`] the template's text.
    pub fn uri(self) -> String {
        self.0.uri()
    }

    /// The URI as the client sees it.
    pub fn exposed_uri(self) -> String {
        self.0.exposed_uri()
    }

    /// What for.
    pub fn purpose(self) -> ReadPurpose {
        match self.0.purpose().as_str() {
            "read" => ReadPurpose::Read,
            "subscribe" => ReadPurpose::Subscribe,
            "complete" => ReadPurpose::Complete,
            _ => ReadPurpose::Unknown,
        }
    }

    /// Milliseconds until the deadline.
    pub fn deadline_ms(self) -> u64 {
        self.0.deadline_ms()
    }

    /// The request's id in logs, traces and errors.
    pub fn request_id(self) -> String {
        self.0.request_id()
    }

    /// Sets an attribute that later hooks of this request see and the audit record carries. At most 16, 1 KiB each.
    pub fn annotate(self, key: &str, value: &Value) {
        self.0.annotate(key, &raw::lower_value(value));
    }
}

/// Why a client asks for a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PromptPurpose {
    /// To have it.
    Get,
    /// To fill in an argument of it.
    Complete,
    /// A purpose that this SDK does not know.
    Unknown,
}

/// A prompt that a client asks for. Lent for one hook.
#[derive(Clone, Copy)]
pub struct Prompt<'a>(pub(crate) &'a raw::Prompt);

impl Prompt<'_> {
    /// The gateway that the client spoke to.
    pub fn gateway(self) -> String {
        self.0.gateway()
    }

    /// The `McpServer` resource's name.
    pub fn server(self) -> String {
        self.0.server()
    }

    /// The prompt's name as its server knows it.
    pub fn name(self) -> String {
        self.0.name()
    }

    /// The prompt's name as the client sees it.
    pub fn exposed_name(self) -> String {
        self.0.exposed_name()
    }

    /// What for.
    pub fn purpose(self) -> PromptPurpose {
        match self.0.purpose().as_str() {
            "get" => PromptPurpose::Get,
            "complete" => PromptPurpose::Complete,
            _ => PromptPurpose::Unknown,
        }
    }

    /// The arguments object as the client sent it, UTF-8 JSON. Copies them: for one value, [`argument`](Self::argument) is
    /// cheaper.
    pub fn arguments(self) -> Vec<u8> {
        self.0.arguments()
    }

    /// The length of the arguments in bytes, without copying them.
    pub fn arguments_size(self) -> u64 {
        self.0.arguments_size()
    }

    /// One value of the arguments by JSON Pointer (RFC 6901), as JSON text; none where it points at nothing.
    pub fn argument(self, pointer: &str) -> Option<String> {
        self.0.argument(pointer)
    }

    /// Milliseconds until the deadline.
    pub fn deadline_ms(self) -> u64 {
        self.0.deadline_ms()
    }

    /// The request's id in logs, traces and errors.
    pub fn request_id(self) -> String {
        self.0.request_id()
    }

    /// Sets an attribute that later hooks of this request see and the audit record carries. At most 16, 1 KiB each.
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

/// What a server wants of a client: input of a person, a model's words, or the client's roots. Lent for one hook.
#[derive(Clone, Copy)]
pub struct Question<'a>(pub(crate) &'a raw::Question);

impl Question<'_> {
    /// The gateway that the client spoke to.
    pub fn gateway(self) -> String {
        self.0.gateway()
    }

    /// The `McpServer` resource's name.
    pub fn server(self) -> String {
        self.0.server()
    }

    /// `elicitation/create`, `sampling/createMessage`, `roots/list`, or what a later version of the protocol has.
    pub fn method(self) -> String {
        self.0.method()
    }

    /// The params object as the server sent it, UTF-8 JSON. Copies them: for one value, [`param`](Self::param) is cheaper.
    pub fn params(self) -> Vec<u8> {
        self.0.params()
    }

    /// The length of the params in bytes, without copying them.
    pub fn params_size(self) -> u64 {
        self.0.params_size()
    }

    /// One value of the params by JSON Pointer (RFC 6901), as JSON text; none where it points at nothing.
    pub fn param(self, pointer: &str) -> Option<String> {
        self.0.param(pointer)
    }

    /// One value of the params by JSON Pointer; none where it points at nothing.
    ///
    /// # Errors
    /// [`Error::Other`] where the value does not fit the type.
    pub fn param_as<T: DeserializeOwned>(self, pointer: &str) -> Result<Option<T>, Error> {
        self.param(pointer).map(|json| serde_json::from_str(&json)).transpose().map_err(Error::from)
    }

    /// The tool in whose call the server asks, as the server knows it; none outside of a tool's call.
    pub fn tool(self) -> Option<String> {
        self.0.tool()
    }

    /// Milliseconds until the deadline.
    pub fn deadline_ms(self) -> u64 {
        self.0.deadline_ms()
    }

    /// The request's id in logs, traces and errors.
    pub fn request_id(self) -> String {
        self.0.request_id()
    }

    /// Sets an attribute that later hooks of this request see and the audit record carries. At most 16, 1 KiB each.
    pub fn annotate(self, key: &str, value: &Value) {
        self.0.annotate(key, &raw::lower_value(value));
    }

    /// Changes the params by a JSON Patch: all of its operations, or none. From then on the getters show what it left, and so does
    /// what happens next, where the hook answers [`Decision::Allow`](crate::Decision::Allow).
    ///
    /// # Errors
    /// [`Error::Other`] where an operation does not fit.
    pub fn patch(self, patch: &Patch) -> Result<(), Error> {
        done(self.0.patch(&patch.to_json()))
    }
}
