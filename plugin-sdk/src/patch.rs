//! Changes to a part of what is lent.

use serde::Serialize;
use serde_json::{Value, json};

use crate::Error;

/// A JSON Patch (RFC 6902): operations that are done in order, all of them or none. What no operation touches stays byte for byte.
///
/// ```
/// use portcullis_sdk::{Call, Error, Patch, fake};
///
/// fn redact(call: Call<'_>) -> Result<(), Error> {
///     call.patch(&Patch::new().replace("/password", "***").remove("/debug"))
/// }
///
/// let call = fake::Call::new("files", "write").with_arguments(r#"{"password": "x", "debug": true, "n": 1}"#);
/// redact(call.lend())?;
/// assert_eq!(call.arguments_now(), r#"{"n":1,"password":"***"}"#);
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Patch(Vec<Value>);

impl Patch {
    /// No operations yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a member, or an element before the one at that position (`-`: at the end). The path is a JSON Pointer (RFC 6901).
    #[must_use]
    pub fn add(self, path: &str, value: impl Serialize) -> Self {
        self.with("add", path, value)
    }

    /// Replaces what is there.
    #[must_use]
    pub fn replace(self, path: &str, value: impl Serialize) -> Self {
        self.with("replace", path, value)
    }

    /// Takes what is there away.
    #[must_use]
    pub fn remove(mut self, path: &str) -> Self {
        self.0.push(json!({"op": "remove", "path": path}));
        self
    }

    /// Goes on only where this is there.
    #[must_use]
    pub fn test(self, path: &str, value: impl Serialize) -> Self {
        self.with("test", path, value)
    }

    /// The operations as JSON text.
    pub fn to_json(&self) -> String {
        Value::from(self.0.as_slice()).to_string()
    }

    fn with(mut self, op: &str, path: &str, value: impl Serialize) -> Self {
        // What has no JSON becomes an operation that the host refuses.
        self.0.push(match serde_json::to_value(value) {
            Ok(value) => json!({"op": op, "path": path, "value": value}),
            Err(error) => json!({"op": error.to_string(), "path": path}),
        });
        self
    }
}

pub(crate) fn done(answer: Result<(), String>) -> Result<(), Error> {
    answer.map_err(|why| Error::Other(format!("the patch does not fit: {why}")))
}
