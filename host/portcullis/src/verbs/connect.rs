//! `connect`: a server's values and secrets, sealed by the gateway; or an account at its authorization server.

mod oauth;

use std::{
    collections::BTreeMap,
    io::{IsTerminal as _, Read as _, Write as _},
};

use clap::{ArgAction, Args};
use portcullis_console::{
    Client,
    api::{ConnectRequest, Connected, OAuthBegin},
};
use portcullis_model::{
    Kind, Name, Resource, Spec, Subject,
    spec::{Field, FieldType, McpServer},
};
use zeroize::Zeroizing;

use crate::{
    cli::Global,
    exit::{Exit, Failure},
    output,
};

/// The most bytes of one secret.
const MAX_SECRET: u64 = 64 << 10;

/// Connect a server: give it an owner, values and secrets
///
/// Secrets are asked for without echo, or read from standard input; they are never arguments, because arguments show in
/// process lists and shell histories. The gateway seals them and never shows them again. A server with OAuth is connected by
/// signing in: the answer is the link of the page for that.
#[derive(Args)]
#[command(after_help = "\
Examples:
  portcullis connect github --owner user:alice                         # asks for everything
  pass show github | portcullis connect github --owner user:alice --owner-only true
  portcullis connect jira --owner team:blue --value site=example --owner-only false
  printf '{\"user\": \"x\", \"token\": \"y\"}' | portcullis connect jira --owner organization --secrets-json --owner-only false")]
pub struct Connect {
    /// The MCP server
    #[arg(value_name = "SERVER")]
    server: Name,
    /// Whose connection it is: user:NAME, team:NAME, agent:NAME or organization
    #[arg(long, value_name = "OWNER", value_parser = owner)]
    owner: Subject,
    /// The connection's name [default: made of server and owner]
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,
    /// A value that is no secret; may be repeated
    #[arg(long = "value", value_name = "FIELD=VALUE")]
    values: Vec<String>,
    /// Read several secrets from standard input, as a JSON object
    #[arg(long)]
    secrets_json: bool,
    /// Whether it serves its owner only: with false, tokens of the owner's teams and of the organization may run under it
    #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
    owner_only: Option<bool>,
    /// For a server with OAuth: sign in with a browser on any machine, and paste the address that it ends at
    #[arg(long)]
    paste: bool,
}

impl Connect {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let resource = client.resource(Kind::McpServer, &self.server).await?;
        let Resource { spec: Spec::McpServer(server), .. } = resource else {
            return Err(Failure::new(Exit::Failure, "answer", "the gateway answered another kind of resource"));
        };
        // Before anybody is asked for a secret.
        owner_exists(&client, &self.owner).await?;
        let signs_in = server.oauth().is_some();
        if self.paste && !signs_in {
            return Err(Failure::usage(format!("{} has no OAuth, so there is nothing to sign in at", self.server)));
        }
        if signs_in && !self.paste {
            let request = OAuthBegin {
                server: self.server,
                owner: self.owner.to_string(),
                name: self.name,
                values: BTreeMap::new(),
                secrets: BTreeMap::new(),
                owner_only: false,
                direct: false,
            };
            return oauth::link(&client, global, &request).await;
        }
        if server.fields.is_empty() && !signs_in {
            let message =
                format!("{} asks for nothing, so there is nothing to connect: its calls work without", self.server);
            return Err(Failure::new(Exit::Failure, "nothing-to-connect", message).next(
                "If calls of it have to carry a credential, name it in the server's `fields` and `credential` \
                 (docs/configuration.md), apply that, and connect then.",
            ));
        }
        let mut values = BTreeMap::new();
        for pair in &self.values {
            let (field, value) =
                pair.split_once('=').ok_or_else(|| Failure::usage(format!("--value {pair}: write FIELD=VALUE")))?;
            if server.field(field).is_some_and(|f| f.sensitive) {
                return Err(Failure::usage(format!(
                    "{field} is a secret: it is asked for, or read from standard input"
                )));
            }
            values.insert(field.to_owned(), value.to_owned());
        }
        let terminal = std::io::stdin().is_terminal();
        if terminal {
            ask_values(&server, &mut values)?;
        }
        let secrets = if self.secrets_json {
            from_json()?
        } else if terminal {
            ask_secrets(&server)?
        } else if signs_in {
            // Standard input is for the address.
            BTreeMap::new()
        } else {
            from_input(&server)?
        };
        let owner_only = match self.owner_only {
            Some(answer) => answer,
            None if server.credential.as_ref().is_some_and(|c| c.owner_only) => true,
            // Only a person's connection can be lent in this sense, but a team's may as well be kept from the organization.
            None if terminal => ask_owner_only(&self.owner.to_string())?,
            None => {
                return Err(Failure::usage(
                    "say --owner-only true or --owner-only false: whether tokens of teams and of the organization may run under it",
                ));
            }
        };
        let owner = self.owner.to_string();
        if signs_in {
            let request =
                OAuthBegin { server: self.server, owner, name: self.name, values, secrets, owner_only, direct: true };
            return oauth::paste(&client, global, &request).await;
        }
        let request = ConnectRequest { server: self.server, owner, name: self.name, values, secrets, owner_only };
        let connected = client.connect(&request).await?;
        output::one(global.output, &connected, show)
    }
}

fn owner(text: &str) -> Result<Subject, String> {
    match text.parse() {
        Ok(owner @ (Subject::User(_) | Subject::Team(_) | Subject::Agent(_) | Subject::Organization)) => Ok(owner),
        _ => Err("use user:NAME, team:NAME, agent:NAME or organization".to_owned()),
    }
}

async fn owner_exists(client: &Client, owner: &Subject) -> Result<(), Failure> {
    let (kind, name) = match owner {
        Subject::User(name) => (Kind::User, name),
        Subject::Team(name) => (Kind::Team, name),
        Subject::Agent(name) => (Kind::Agent, name),
        _ => return Ok(()),
    };
    client.resource(kind, name).await.map_err(|error| {
        let failure = Failure::from(error);
        if failure.exit == Exit::NotFound {
            return failure
                .next(format!("Write a resource of kind {kind} named {name}, and `portcullis apply -f` it."));
        }
        failure
    })?;
    Ok(())
}

fn show(connected: &Connected) -> String {
    let mut out = format!("Connection/{} {}, bound to {}\n", connected.connection, connected.change, connected.origin);
    for warning in &connected.warnings {
        out.push_str(&format!("  warning: {warning}\n"));
    }
    out
}

fn label(field: &Field) -> String {
    let mut hints: Vec<String> = field.description.iter().cloned().collect();
    if !field.options.is_empty() {
        hints.push(format!("one of {}", field.options.join(", ")));
    } else if field.kind != FieldType::String {
        hints.push(field.kind.as_str().to_owned());
    }
    let hints = if hints.is_empty() { String::new() } else { format!(" ({})", hints.join("; ")) };
    format!("{}{hints}", field.label())
}

/// Says at once what the gateway would refuse, so that it can be given again.
fn is_taken(field: &Field, value: &str) -> Result<bool, Failure> {
    let Err(why) = field.accepts(value) else { return Ok(true) };
    writeln!(std::io::stderr().lock(), "{} {why}", field.label())?;
    Ok(false)
}

fn ask_values(server: &McpServer, values: &mut BTreeMap<String, String>) -> Result<(), Failure> {
    for field in server.fields.iter().filter(|f| !f.sensitive) {
        if values.contains_key(&field.name) || !field.required {
            continue;
        }
        let default = field.default.as_deref().map(|d| format!(" [{d}]")).unwrap_or_default();
        loop {
            let answer = ask(&format!("{}{default}: ", label(field)))?;
            if answer.is_empty() {
                break;
            }
            if is_taken(field, &answer)? {
                values.insert(field.name.clone(), answer);
                break;
            }
        }
    }
    Ok(())
}

fn ask_secrets(server: &McpServer) -> Result<BTreeMap<String, String>, Failure> {
    let mut secrets = BTreeMap::new();
    for field in server.fields.iter().filter(|f| f.sensitive) {
        loop {
            let typed = Zeroizing::new(rpassword::prompt_password(format!("{} (not shown): ", label(field)))?);
            if typed.is_empty() {
                break;
            }
            if is_taken(field, &typed)? {
                secrets.insert(field.name.clone(), typed.to_string());
                break;
            }
        }
    }
    Ok(secrets)
}

/// The one secret that the server asks for, from standard input without its last line break.
fn from_input(server: &McpServer) -> Result<BTreeMap<String, String>, Failure> {
    let sensitive: Vec<&Field> = server.fields.iter().filter(|f| f.sensitive).collect();
    match sensitive[..] {
        [] => Ok(BTreeMap::new()),
        [field] => {
            let text = input()?;
            let value = text.strip_suffix('\n').unwrap_or(&text);
            let value = value.strip_suffix('\r').unwrap_or(value);
            if value.is_empty() {
                return Err(Failure::usage(format!("standard input holds no value for {}", field.name)));
            }
            Ok(BTreeMap::from([(field.name.clone(), value.to_owned())]))
        }
        _ => {
            let names: Vec<&str> = sensitive.iter().map(|f| f.name.as_str()).collect();
            Err(Failure::usage(format!(
                "the server asks for several secrets ({}): give them as a JSON object with --secrets-json",
                names.join(", ")
            )))
        }
    }
}

fn from_json() -> Result<BTreeMap<String, String>, Failure> {
    let text = input()?;
    // The parser's message could quote what it read.
    serde_json::from_str(&text).map_err(|e| {
        Failure::usage(format!("standard input is no JSON object of texts (line {}, column {})", e.line(), e.column()))
    })
}

fn input() -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::new());
    std::io::stdin().lock().take(MAX_SECRET + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_SECRET {
        return Err(Failure::usage(format!("standard input holds more than {MAX_SECRET} bytes")));
    }
    Ok(text)
}

fn ask_owner_only(owner: &str) -> Result<bool, Failure> {
    let question = format!(
        "May calls that come with a token of a team or of the organization run under this connection of {owner}? [yes/no]: "
    );
    loop {
        match ask(&question)?.to_ascii_lowercase().as_str() {
            "y" | "yes" => return Ok(false),
            "n" | "no" => return Ok(true),
            _ => {}
        }
    }
}

fn ask(question: &str) -> Result<String, Failure> {
    let mut err = std::io::stderr().lock();
    write!(err, "{question}")?;
    err.flush()?;
    drop(err);
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line)? == 0 {
        return Err(Failure::usage("standard input ended before the question was answered"));
    }
    Ok(line.trim().to_owned())
}
