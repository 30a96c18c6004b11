//! `token`: what clients show to the gateway.

use clap::{Args, Subcommand};
use portcullis_console::api::{NewToken, TokenItem, TokenRequest};
use portcullis_model::{Name, Span};

use crate::{cli::Global, exit::Failure, output};

/// Create, list and revoke tokens
#[derive(Args)]
pub struct Token {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Create(Create),
    List(List),
    Revoke(Revoke),
}

/// Create a token; its text is shown this once
#[derive(Args)]
#[command(after_help = "\
Examples:
  portcullis token create --owner user:alice --name laptop
  portcullis token create --owner agent:ci --gateway main --expires 30d -o json
  portcullis token create --owner user:alice --admin-api --expires 1d")]
struct Create {
    /// Who calls with it: user:NAME, team:NAME, agent:NAME or organization
    #[arg(long, value_name = "OWNER")]
    owner: String,
    /// What you call it
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// A gateway that takes it; may be repeated [default: all of the tenant]
    #[arg(long = "gateway", value_name = "NAME")]
    gateways: Vec<Name>,
    /// For the admin API (commands with --admin-url), and for no gateway
    #[arg(long, conflicts_with = "gateways")]
    admin_api: bool,
    /// How long it lives, such as 1h or 30d
    #[arg(long, value_name = "SPAN")]
    expires: Option<Span>,
}

/// List the tokens that work, without their texts
#[derive(Args)]
struct List {
    /// Those of one owner
    #[arg(long, value_name = "OWNER")]
    owner: Option<String>,
    /// Also those that were revoked or have expired, for as long as they are remembered (30 days)
    #[arg(long)]
    all: bool,
}

/// Revoke a token; the next call with it is refused
#[derive(Args)]
#[command(after_help = "\
Examples:
  portcullis token revoke ID
  portcullis token revoke --owner user:alice       # all of hers")]
struct Revoke {
    /// Its id, as `token list` shows it
    #[arg(value_name = "ID", required_unless_present = "owner")]
    id: Option<String>,
    /// All tokens of one owner
    #[arg(long, value_name = "OWNER", conflicts_with = "id")]
    owner: Option<String>,
}

impl Token {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        match self.verb {
            Verb::Create(create) => {
                let request = TokenRequest {
                    owner: create.owner,
                    name: create.name,
                    gateways: create.gateways,
                    admin: create.admin_api,
                    expires_in_s: create.expires.map(|s| s.get().as_secs()),
                };
                let token = client.create_token(&request).await?;
                output::one(global.output, &token, created)
            }
            Verb::List(list) => {
                let mut tokens = client.tokens(list.owner.as_deref()).await?;
                // Every `call --as` leaves one that ended, and every client one an hour.
                tokens.retain(|token| list.all || !matches!(token.state.as_str(), "revoked" | "expired"));
                output::list(global.output, &tokens, show)
            }
            Verb::Revoke(revoke) => {
                if let Some(owner) = &revoke.owner {
                    let done = client.revoke_tokens(owner).await?;
                    return output::one(global.output, &done, |d| {
                        format!(
                            "of {}: {} tokens revoked, {} clients renew none any more, {} browsers signed out\n",
                            d.owner, d.revoked, d.clients, d.sessions
                        )
                    });
                }
                let token = client.revoke_token(revoke.id.as_deref().unwrap_or_default()).await?;
                output::one(global.output, &token, |t| format!("token {} of {} revoked\n", t.id, t.owner))
            }
        }
    }
}

fn created(token: &NewToken) -> String {
    let way = if token.item.admin {
        "Commands with --admin-url take it from PORTCULLIS_ADMIN_TOKEN, and send it"
    } else {
        "Clients send it"
    };
    format!(
        "{}\n\nThis is shown once. It is {}'s, has the id {} and ends {}.\n{way} as `Authorization: Bearer TOKEN`.\n",
        token.token,
        token.item.owner,
        token.item.id,
        output::when(token.item.expires_ms)
    )
}

fn show(tokens: &[TokenItem]) -> String {
    let row = |t: &TokenItem| {
        let gateways: Vec<&str> = t.gateways.iter().map(Name::as_str).collect();
        vec![
            t.id.clone(),
            t.owner.clone(),
            match (&t.name, &t.client) {
                (Some(name), _) => name.clone(),
                (None, Some(client)) => format!("signed in: {client}"),
                (None, None) => String::new(),
            },
            match gateways.is_empty() {
                _ if t.admin => "(admin API)".to_owned(),
                true => "all".to_owned(),
                false => gateways.join(","),
            },
            t.state.clone(),
            output::when(t.expires_ms),
            output::when(t.last_used_ms),
        ]
    };
    let rows: Vec<_> = tokens.iter().map(row).collect();
    output::table(&["ID", "OWNER", "NAME", "GATEWAYS", "STATE", "ENDS", "LAST USED"], &rows)
}
