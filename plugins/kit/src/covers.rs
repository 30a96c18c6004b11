//! Which calls a rule is about: patterns of servers and of tools' own names.

use portcullis_sdk::Call;
use serde::Deserialize;

use crate::Pattern;

/// Servers and tools that a rule covers; all where nothing is said. Flatten it into a rule.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Covers {
    /// Patterns of `McpServer` names.
    pub servers: Option<Vec<Pattern>>,
    /// Patterns of tools' own names, as their server knows them.
    pub tools: Option<Vec<Pattern>>,
}

impl Covers {
    /// Refuses what may be read as everything and as nothing.
    ///
    /// # Errors
    /// Which field, and what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        for (field, list) in [("servers", &self.servers), ("tools", &self.tools)] {
            let Some(list) = list else { continue };
            if list.is_empty() {
                return Err(format!("{field}: is empty; leave it out for all of them"));
            }
            if let Some(at) = list.iter().position(Pattern::is_empty) {
                return Err(format!("{field}[{at}]: is empty"));
            }
        }
        Ok(())
    }

    /// Whether it covers a call.
    pub fn call(&self, call: Call<'_>) -> bool {
        let fits = |list: &Option<Vec<Pattern>>, name: &dyn Fn() -> String| {
            list.as_ref().is_none_or(|list| {
                let name = name();
                list.iter().any(|one| one.matches(&name))
            })
        };
        fits(&self.tools, &|| call.tool()) && fits(&self.servers, &|| call.server())
    }
}
