//! `call`: a tool, through a gateway, as an MCP client would.

use std::{
    io::{Read as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;
use portcullis_console::api::TokenRequest;
use portcullis_model::{DEFAULT_TENANT, Kind, Name, Span, text::deceives};
use serde_json::{Value, value::RawValue};
use url::Url;
use zeroize::Zeroizing;

use crate::{
    cli::Global,
    exit::{Exit, Failure},
    mcp::{self, Mcp, TOKEN_VARIABLE},
    output::{self, Format},
    verbs::explain,
};

/// How long a token lives that is made for one command.
const MINTED_S: u64 = 60;

/// Call a tool through a gateway, or list the tools
///
/// Goes the way that every MCP client goes: over HTTP, authenticated, decided, under the caller's credential. The token
/// comes from --as, --token-stdin, --token-file, the variable PORTCULLIS_TOKEN, or what `quickstart` kept, in this order.
#[derive(Args)]
#[command(after_help = "\
Examples:
  portcullis call default                                         # the tools that you see
  portcullis call default demo__time_now '{\"utc_offset\": \"+02:00\"}'
  portcullis call main github__search - < arguments.json          # arguments from standard input
  portcullis call main github__search '{}' --as user:alice        # as somebody else, with a token of 60 seconds")]
pub struct Call {
    /// The gateway
    #[arg(value_name = "GATEWAY")]
    gateway: Name,
    /// The tool, as the gateway shows it; without one, the tools are listed
    #[arg(value_name = "TOOL")]
    tool: Option<String>,
    /// Its arguments, as a JSON object; - reads them from standard input
    #[arg(value_name = "ARGUMENTS", default_value = "{}", hide_default_value = true)]
    arguments: String,
    /// Call as somebody else: user:NAME, team:NAME, agent:NAME or organization
    #[arg(long = "as", value_name = "OWNER", conflicts_with_all = ["token_file", "token_stdin"])]
    owner: Option<String>,
    /// A file that holds the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Read the token from standard input
    #[arg(long, conflicts_with = "token_file")]
    token_stdin: bool,
    /// The gateway's URL [default: what the gateway at the admin socket says]
    #[arg(long, value_name = "URL")]
    url: Option<Url>,
    /// How long to wait
    #[arg(long, value_name = "SPAN", default_value = "60s")]
    timeout: Span,
}

/// What the call is authenticated with.
struct Bearer {
    text: Option<Zeroizing<String>>,
    /// The id, where it was made for this call.
    made: Option<String>,
}

impl Bearer {
    fn given(text: Zeroizing<String>) -> Self {
        Self { text: Some(text), made: None }
    }
}

impl Call {
    pub async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        if self.token_stdin && self.arguments == "-" {
            return Err(Failure::usage("standard input can't hold both the token and the arguments"));
        }
        let Bearer { text: token, made } = self.token(global).await?;
        let ended = self.perform(global, token).await;
        if let Some(id) = made {
            // It ends by itself soon; that it could not be revoked is no reason to call the call a failure.
            let _ = global.client()?.revoke_token(&id).await;
        }
        ended
    }

    async fn perform(&self, global: &Global, token: Option<Zeroizing<String>>) -> Result<ExitCode, Failure> {
        let mcp = Mcp::new(self.address(global).await?, token.as_ref().map(|t| t.as_str()), self.timeout)?;
        let Some(tool) = &self.tool else {
            let tools = mcp.tools().await?;
            output::list(global.output, &tools, show_tools)?;
            if tools.is_empty() && global.output == Format::Table {
                self.explain_nothing(global).await;
            }
            return Ok(ExitCode::SUCCESS);
        };
        let result = mcp.call(tool, &arguments(&self.arguments)?).await?;
        let fault = &result["_meta"]["portcullis.dev/fault"];
        if fault.is_object() {
            return Err(mcp::of_fault(fault, mcp::bare(&texts(&result), fault)));
        }
        match global.output {
            Format::Table => output::text(&show(&result))?,
            format => output::one(format, &result, |_| String::new())?,
        }
        Ok(if result["isError"] == Value::Bool(true) { ExitCode::from(Exit::Failure as u8) } else { ExitCode::SUCCESS })
    }

    /// Why there is no tool, as far as that is known; on standard error, since the list itself is empty.
    async fn explain_nothing(&self, global: &Global) {
        let told = match (global.client(), &self.owner) {
            (Ok(client), Some(owner)) => explain::empty_list(&client, &self.gateway, Some(owner)).await,
            _ => None,
        };
        let text = match told {
            Some(told) => format!("There is no tool for {}:\n\n{told}", self.owner.as_deref().unwrap_or_default()),
            None => format!(
                "There is no tool. `portcullis explain {} --as OWNER` says why: no server, policies that hide all, or no account.\n",
                self.gateway
            ),
        };
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    async fn token(&self, global: &Global) -> Result<Bearer, Failure> {
        if let Some(owner) = &self.owner {
            let request = TokenRequest {
                owner: owner.clone(),
                name: Some("portcullis call --as".to_owned()),
                gateways: vec![self.gateway.clone()],
                admin: false,
                expires_in_s: Some(MINTED_S),
            };
            let new = global.client()?.create_token(&request).await?;
            return Ok(Bearer { text: Some(Zeroizing::new(new.token)), made: Some(new.item.id) });
        }
        if self.token_stdin {
            let mut text = Zeroizing::new(String::new());
            std::io::stdin().lock().take(64 << 10).read_to_string(&mut text)?;
            return Ok(Bearer::given(Zeroizing::new(text.trim().to_owned())));
        }
        if let Some(file) = &self.token_file {
            return mcp::read_token(file).map(Bearer::given);
        }
        if let Ok(text) = std::env::var(TOKEN_VARIABLE) {
            return Ok(Bearer::given(Zeroizing::new(text)));
        }
        // Only for the gateway that it was made for.
        let kept = if self.url.is_none() { Some(mcp::token_beside(&global.socket()?)) } else { None };
        match kept.filter(|file| file.is_file()) {
            Some(file) => mcp::read_token(&file).map(Bearer::given),
            None => Ok(Bearer { text: None, made: None }),
        }
    }

    async fn address(&self, global: &Global) -> Result<Url, Failure> {
        if let Some(url) = &self.url {
            return Ok(url.clone());
        }
        let client = global.client()?;
        // The data door does not tell a gateway that is not there from one that is another's; the admin door may.
        client.resource(Kind::Gateway, &self.gateway).await?;
        let status = client.status().await?;
        let base = if status.local_url.is_empty() { status.url } else { status.local_url };
        let base = base.trim_end_matches('/');
        let text = match global.tenant.as_str() {
            DEFAULT_TENANT => format!("{base}/mcp/{}", self.gateway),
            tenant => format!("{base}/t/{tenant}/mcp/{}", self.gateway),
        };
        Url::parse(&text).map_err(|e| Failure::new(Exit::Failure, "answer", format!("{text}: {e}")))
    }
}

/// Arguments as they were written: big numbers and the order of keys stay.
fn arguments(text: &str) -> Result<Box<RawValue>, Failure> {
    let mut input = String::new();
    let text = if text == "-" {
        std::io::stdin().lock().take(64 << 20).read_to_string(&mut input)?;
        &input
    } else {
        text
    };
    let raw: Box<RawValue> =
        serde_json::from_str(text).map_err(|e| Failure::usage(format!("the arguments are no JSON: {e}")))?;
    if raw.get().starts_with('{') { Ok(raw) } else { Err(Failure::usage("the arguments have to be a JSON object")) }
}

fn texts(result: &Value) -> String {
    let blocks = result["content"].as_array().map(Vec::as_slice).unwrap_or_default();
    blocks.iter().filter_map(|b| b["text"].as_str()).collect::<Vec<_>>().join("\n")
}

fn show(result: &Value) -> String {
    let mut out = String::new();
    for block in result["content"].as_array().map(Vec::as_slice).unwrap_or_default() {
        match (block["type"].as_str(), block["text"].as_str()) {
            (Some("text"), Some(text)) => {
                // What a server answers could otherwise move the cursor or change the terminal's title.
                out.extend(text.chars().filter(|c| matches!(c, '\n' | '\t') || !deceives(*c)));
                out.push('\n');
            }
            (kind, _) => out.push_str(&format!(
                "[{}{}: see -o json]\n",
                kind.unwrap_or("something"),
                block["mimeType"].as_str().map(|m| format!(" {m}")).unwrap_or_default()
            )),
        }
    }
    out
}

fn show_tools(tools: &[Value]) -> String {
    let rows: Vec<Vec<String>> = tools
        .iter()
        .map(|tool| {
            let description = tool["description"].as_str().or(tool["title"].as_str()).unwrap_or_default();
            let line: String = description.lines().next().unwrap_or_default().chars().take(100).collect();
            vec![tool["name"].as_str().unwrap_or_default().to_owned(), line]
        })
        .collect();
    output::table(&["TOOL", "DESCRIPTION"], &rows)
}
