//! Services that plugins ask over HTTP: one that decides calls, and one that gives tokens.

use serde_json::Value;

use crate::swap::Running;

/// A service that runs until it is dropped.
pub struct Asked(Running);

impl Asked {
    /// The service that the policy `webhook` asks, which takes questions that are signed with this key.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn guard(key: &str) -> anyhow::Result<Self> {
        let mut command = Running::python("guard.py");
        command.arg(key);
        Running::start(command).await.map(Self)
    }

    /// The service that gives tokens to whoever comes with this key.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn broker(key: &str) -> anyhow::Result<Self> {
        let mut command = Running::python("broker.py");
        command.arg(key);
        Running::start(command).await.map(Self)
    }

    /// Its origin.
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// The questions that it took, in order.
    ///
    /// # Errors
    /// Where it does not answer.
    pub async fn seen(&self) -> anyhow::Result<Vec<Value>> {
        Ok(self.0.fixture("seen").await?.as_array().cloned().unwrap_or_default())
    }
}
