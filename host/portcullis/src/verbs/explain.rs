//! `explain`: what a call would meet, without making it.

use std::{io::Read as _, process::ExitCode};

use clap::Args;
use portcullis_console::{Client, api::ExplainRequest};
use portcullis_model::{
    Name,
    explain::{Explanation, Step},
};
use serde_json::Value;

use crate::{
    cli::Global,
    exit::{Exit, Failure},
    output,
};

/// Say what a call would meet: policies, account, server; the call is not made
///
/// Without a tool: what each policy leaves of the list of tools. Exits with 4 where something would stop it.
#[derive(Args)]
#[command(after_help = "\
Examples:
  portcullis explain main github__get_me --as user:alice
  portcullis explain main github__create_issue --as team:blue --arguments '{\"repo\": \"x\"}' -o json
  portcullis explain main --as user:alice                        # why is a list as short as it is?
  portcullis explain main --as 'external:https://login.example.com#00u1' --groups eng,oncall")]
pub struct Explain {
    /// The gateway
    #[arg(value_name = "GATEWAY")]
    gateway: Name,
    /// The tool, as the gateway shows it; without one, the list of tools is explained
    #[arg(value_name = "TOOL")]
    tool: Option<String>,
    /// Who would call: user:NAME, team:NAME, agent:NAME, organization, external:ISSUER#SUBJECT or anonymous [with --admin-url: you]
    #[arg(long = "as", value_name = "OWNER")]
    caller: Option<String>,
    /// The groups that their identity provider would name [default: what is remembered of their sign-in]
    #[arg(long, value_name = "GROUPS", value_delimiter = ',', requires = "caller")]
    groups: Option<Vec<String>>,
    /// The arguments, as a JSON object; - reads them from standard input
    #[arg(long, value_name = "JSON")]
    arguments: Option<String>,
}

impl Explain {
    pub async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let arguments = self.arguments.as_deref().map(arguments).transpose()?;
        let Self { gateway, tool, caller, groups, .. } = self;
        let request = ExplainRequest { gateway, tool, caller, groups, arguments };
        let told = global.client()?.explain(&request).await?;
        output::one(global.output, &told, show)?;
        Ok(if told.runs { ExitCode::SUCCESS } else { ExitCode::from(Exit::Refused as u8) })
    }
}

/// Why somebody sees no tool, in lines; nothing where nobody says.
pub async fn empty_list(client: &Client, gateway: &Name, caller: Option<&str>) -> Option<String> {
    let (gateway, caller) = (gateway.clone(), caller.map(str::to_owned));
    let request = ExplainRequest { gateway, tool: None, caller, groups: None, arguments: None };
    client.explain(&request).await.ok().map(|told| show(&told))
}

fn arguments(text: &str) -> Result<Value, Failure> {
    let mut input = String::new();
    let text = if text == "-" {
        std::io::stdin().lock().take(64 << 20).read_to_string(&mut input)?;
        &input
    } else {
        text
    };
    let value: Value =
        serde_json::from_str(text).map_err(|e| Failure::usage(format!("--arguments is no JSON: {e}")))?;
    if value.is_object() { Ok(value) } else { Err(Failure::usage("--arguments has to be a JSON object")) }
}

fn show(told: &Explanation) -> String {
    let row = |step: &Step| {
        let changes = step.changes.iter().map(|change| {
            let value = change.value.as_ref().map(|value| format!(" {value}")).unwrap_or_default();
            format!("{} {}{value}", change.op, change.path)
        });
        let mut detail = vec![step.detail.clone()];
        detail.extend(changes);
        detail.retain(|text| !text.is_empty());
        vec![step.phase.clone(), step.name.clone(), step.says.clone(), detail.join("; ")]
    };
    let rows: Vec<_> = told.steps.iter().map(row).collect();
    let mut out = output::table(&["PHASE", "WHAT", "SAYS", "WHY"], &rows);
    out.push('\n');
    let what = told.tool.as_deref().unwrap_or("the list of tools");
    match &told.stopped {
        Some(stop) => {
            out.push_str(&format!(
                "{what} ends for {} at {}: {}, {}\n",
                told.caller, stop.phase, stop.code, stop.message
            ));
            if let Some(next) = &stop.next {
                out.push_str(&format!("next: {next}\n"));
            }
        }
        None if told.tool.is_none() => {}
        None => {
            let under = match (&told.connection, &told.executed_as) {
                (Some(connection), Some(owner)) => format!(", as {owner} under {connection}"),
                _ => String::new(),
            };
            let server = told.server.as_ref().map(Name::as_str).unwrap_or_default();
            let resolves = told.steps.iter().find(|step| step.phase == "resolve" && step.says == "not asked");
            let unless = resolves.map(|step| format!(", if {} gets a credential: it was not asked", step.name));
            let unless = unless.unwrap_or_default();
            out.push_str(&format!("{what} would go to {server} for {}{under}{unless}\n", told.caller));
        }
    }
    out
}
