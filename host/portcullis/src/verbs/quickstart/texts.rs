//! What `quickstart` writes and prints.

use std::path::Path;

/// Marks the line that names our own program.
const OURS: &str = "# this program; kept up by quickstart";

/// The resources to begin with. `program` is the path of this program, quoted.
pub(super) fn resources(program: &str) -> String {
    format!(
        r#"# What this gateway serves. Change it while it runs: it is read again at once, and a mistake is told with its line
# while what was serving goes on. docs/configuration.md explains every field.

# A person. Tokens, connections and rules speak of people by these names.
apiVersion: portcullis.dev/v1alpha1
kind: User
metadata:
  name: me
---
# A server: a process that speaks MCP on its standard input and output. This one comes with Portcullis.
apiVersion: portcullis.dev/v1alpha1
kind: McpServer
metadata:
  name: demo
spec:
  title: The time, figures about texts, and notes
  process:
    command: {program} {OURS}
    args: [demo-server]
---
# What clients connect to: http://127.0.0.1:7777/mcp/default
apiVersion: portcullis.dev/v1alpha1
kind: Gateway
metadata:
  name: default
spec:
  servers:
    - server: demo
    # - server: files
---
# Your own server: take the comment signs away here and above. The first start downloads the package, so its tools come
# a little later; `portcullis doctor` and `portcullis logs files` tell how far it is.
# apiVersion: portcullis.dev/v1alpha1
# kind: McpServer
# metadata:
#   name: files
# spec:
#   process:
#     command: npx
#     args: [-y, "@modelcontextprotocol/server-filesystem", /tmp]
"#
    )
}

/// The resources with our own program where it is now.
pub(super) fn with_program(text: &str, program: &str) -> String {
    let line = |line: &str| {
        let ours = line.trim_start().starts_with("command:") && line.trim_end().ends_with(OURS);
        if !ours {
            return line.to_owned();
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        let end = if line.ends_with('\n') { "\n" } else { "" };
        format!("{indent}command: {program} {OURS}{end}")
    };
    text.split_inclusive('\n').map(line).collect()
}

/// What is told once the gateway serves.
pub(super) struct Welcome<'a> {
    pub(super) url: &'a str,
    pub(super) token: &'a str,
    pub(super) command: &'a str,
    pub(super) option: &'a str,
    pub(super) resources: &'a Path,
    pub(super) data_dir: &'a Path,
}

pub(super) fn welcome(w: &Welcome<'_>) -> String {
    let Welcome { url, token, command, option, .. } = w;
    format!(
        r#"
Portcullis is serving.

  URL    {url}
  token  {token}

Next, in another terminal:

  1. list the tools          {command} call default{option}
  2. call one                {command} call default demo__time_now '{{"utc_offset": "+02:00"}}'{option}
  3. add your own server     edit {}

In an MCP client:

  Claude Code    claude mcp add --transport http portcullis {url} --header "Authorization: Bearer {token}"
  Cursor         {{"mcpServers": {{"portcullis": {{"url": "{url}", "headers": {{"Authorization": "Bearer {token}"}}}}}}}}
  VS Code        {{"servers": {{"portcullis": {{"type": "http", "url": "{url}", "headers": {{"Authorization": "Bearer {token}"}}}}}}}}
  Inspector      npx @modelcontextprotocol/inspector --cli {url} --transport http --header "Authorization: Bearer {token}" --method tools/list

Everything is kept in {}. Ctrl-C stops it; the same command starts it again.

"#,
        w.resources.display(),
        w.data_dir.display()
    )
}
