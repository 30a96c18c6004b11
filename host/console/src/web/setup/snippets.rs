//! What each client wants to read: files and commands, for a gateway's address. No snippet holds a token.

use serde_json::{Value, json};

/// The variable that snippets read a token from.
const VARIABLE: &str = "PORTCULLIS_TOKEN";

/// A client, and how it is told.
pub struct Client {
    /// For links within the page.
    pub id: &'static str,
    /// What people call it.
    pub name: &'static str,
    /// It signs in by a browser (OAuth).
    pub signed_in: Snippet,
    /// It sends a token.
    pub with_token: Snippet,
}

/// One way to tell a client.
pub struct Snippet {
    /// Where to put it.
    pub say: String,
    /// What to put there.
    pub paste: String,
}

fn say(say: &str, paste: impl Into<String>) -> Snippet {
    Snippet { say: say.to_owned(), paste: paste.into() }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// The clients that are described, for a gateway of this name at this address. A name is `[a-z0-9-]`, and an address is what
/// the operator set, so neither can end a quotation.
pub fn all(name: &str, url: &str) -> Vec<Client> {
    let bearer = |variable: String| json!({"Authorization": format!("Bearer {variable}")});
    vec![
        Client {
            id: "cursor",
            name: "Cursor",
            signed_in: say(
                "In ~/.cursor/mcp.json, or .cursor/mcp.json of a project:",
                pretty(&json!({"mcpServers": {name: {"url": url}}})),
            ),
            with_token: say(
                "The same file; the token is in an environment variable:",
                pretty(&json!({"mcpServers": {name: {"url": url, "headers": bearer(format!("${{env:{VARIABLE}}}"))}}})),
            ),
        },
        Client {
            id: "claude-code",
            name: "Claude Code",
            signed_in: say(
                "In a terminal; then /mcp in Claude Code signs in:",
                format!("claude mcp add --transport http {name} {url}"),
            ),
            with_token: say(
                "In .mcp.json of a project; the token is in an environment variable:",
                pretty(
                    &json!({"mcpServers": {name: {"type": "http", "url": url, "headers": bearer(format!("${{{VARIABLE}}}"))}}}),
                ),
            ),
        },
        Client {
            id: "claude-desktop",
            name: "Claude Desktop and claude.ai",
            signed_in: say(
                "Under Settings, Connectors, Add custom connector, give this address. It has to be reachable from the internet, by https:",
                url,
            ),
            with_token: say("Connectors sign in; they take no token. Use the way above.", ""),
        },
        Client {
            id: "vs-code",
            name: "VS Code",
            signed_in: say(
                "In .vscode/mcp.json, or by the command MCP: Add Server:",
                pretty(&json!({"servers": {name: {"type": "http", "url": url}}})),
            ),
            with_token: say(
                "The same file; VS Code asks for the token once and keeps it:",
                pretty(&json!({
                    "inputs": [{"type": "promptString", "id": "portcullis-token", "description": "Portcullis token", "password": true}],
                    "servers": {name: {"type": "http", "url": url, "headers": bearer("${input:portcullis-token}".to_owned())}},
                })),
            ),
        },
        Client {
            id: "codex",
            name: "Codex",
            signed_in: say("In a terminal:", format!("codex mcp add {name} --url {url}\ncodex mcp login {name}")),
            with_token: say(
                "In ~/.codex/config.toml; the token is in an environment variable:",
                format!("[mcp_servers.{name}]\nurl = \"{url}\"\nbearer_token_env_var = \"{VARIABLE}\"\n"),
            ),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_snippet_names_the_gateway_and_holds_no_token() {
        for client in all("main", "https://mcp.example.com/mcp/main") {
            assert!(client.signed_in.paste.contains("https://mcp.example.com/mcp/main"), "{}", client.name);
            for snippet in [&client.signed_in, &client.with_token] {
                assert!(!snippet.paste.contains("pcl_"));
                if snippet.paste.starts_with('{') {
                    assert!(serde_json::from_str::<Value>(&snippet.paste).is_ok(), "{}", snippet.paste);
                }
            }
        }
    }
}
