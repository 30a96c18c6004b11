//! `get`: resources as they are kept.

use clap::Args;
use portcullis_console::api::PluginItem;
use portcullis_model::{Kind, Name, Resource, Spec, spec::Source};

use crate::{
    cli::Global,
    exit::Failure,
    output::{self, Format},
    verbs::kind,
};

/// Show resources
#[derive(Args)]
#[command(after_help = "\
Examples:
  portcullis get servers                 # all MCP servers
  portcullis get gateway main -o yaml    # one gateway, as it can be applied again
  portcullis get all -o json             # everything: {\"items\": [...]}")]
pub struct Get {
    /// A kind of resource (servers, connections, gateways, agents, plugins, teams, users, roles, identityproviders, oauthclients), or all
    #[arg(value_name = "KIND")]
    kind: String,
    /// One resource; all of the kind where left out
    #[arg(value_name = "NAME")]
    name: Option<Name>,
}

impl Get {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        if let Some(name) = &self.name {
            let resource = client.resource(kind(&self.kind)?, name).await?;
            return output::one(global.output, &resource, |r| show(std::slice::from_ref(r)));
        }
        let kind = if self.kind == "all" { None } else { Some(kind(&self.kind)?) };
        let resources = client.list(kind).await?;
        if kind == Some(Kind::Plugin) && global.output == Format::Table {
            // Who may see them but not how they stand, sees them.
            if let Ok(standing) = client.plugins().await {
                return output::text(&plugins(&resources, &standing));
            }
        }
        output::list(global.output, &resources, show)
    }
}

fn show(resources: &[Resource]) -> String {
    if resources.is_empty() {
        return "nothing there yet\n".to_owned();
    }
    let several = resources.windows(2).any(|pair| pair[0].spec.kind() != pair[1].spec.kind());
    let row = |r: &Resource| {
        let name = if several { format!("{}/{}", r.spec.kind(), r.metadata.name) } else { r.metadata.name.to_string() };
        let door = r.metadata.door.as_ref().map_or_else(String::new, ToString::to_string);
        vec![name, summary(&r.spec), door, output::when(r.metadata.created_ms)]
    };
    output::table(
        &["NAME", head(resources, several), "CAME BY", "CREATED"],
        &resources.iter().map(row).collect::<Vec<_>>(),
    )
}

/// Plugins, and how they stand.
fn plugins(resources: &[Resource], standing: &[PluginItem]) -> String {
    let row = |r: &Resource| {
        let stands = standing.iter().find(|s| s.name == r.metadata.name.as_str());
        let digest = |digest: Option<&String>| digest.map_or("-", |d| d.get(..12).unwrap_or(d)).to_owned();
        vec![
            r.metadata.name.to_string(),
            summary(&r.spec),
            stands.map_or_else(|| "-".to_owned(), |s| s.state.clone()),
            digest(stands.and_then(|s| s.active.as_ref())),
            digest(stands.and_then(|s| s.desired.as_ref())),
            r.metadata.door.as_ref().map_or_else(String::new, ToString::to_string),
            output::when(r.metadata.created_ms),
        ]
    };
    let rows: Vec<_> = resources.iter().map(row).collect();
    if rows.is_empty() {
        return "nothing there yet\n".to_owned();
    }
    output::table(&["NAME", "WHAT", "STATE", "ACTIVE", "DESIRED", "CAME BY", "CREATED"], &rows)
}

fn head(resources: &[Resource], several: bool) -> &'static str {
    match resources.first().map(|r| r.spec.kind()) {
        Some(Kind::McpServer) if !several => "RUNS",
        Some(Kind::Connection) if !several => "CONNECTS",
        Some(Kind::Gateway) if !several => "SERVERS",
        Some(Kind::Team) if !several => "MEMBERS",
        _ => "WHAT",
    }
}

fn source(source: &Source) -> String {
    match source {
        Source::File { path, .. } => path.clone(),
        Source::Oci(oci) => oci.reference.clone(),
        Source::BuiltIn(name) => format!("built-in {name}"),
    }
}

fn summary(spec: &Spec) -> String {
    let joined = |names: &[Name]| {
        let mut text = names.iter().take(4).map(Name::as_str).collect::<Vec<_>>().join(", ");
        if names.len() > 4 {
            text.push_str(&format!(" and {} more", names.len() - 4));
        }
        text
    };
    match spec {
        Spec::McpServer(s) => match (&s.remote, &s.process, &s.component, &s.kubernetes) {
            (Some(remote), ..) => remote.url.to_string(),
            (None, Some(process), ..) => {
                format!("{} {}", process.command, process.args.join(" ")).trim_end().to_owned()
            }
            (None, None, Some(component), _) => format!("component {}", source(&component.source)),
            (None, None, None, Some(kubernetes)) => format!("pods of {}", kubernetes.image),
            (None, None, None, None) => String::new(),
        },
        Spec::Connection(c) => format!("{} for {}", c.server, c.owner.subject()),
        Spec::Gateway(g) => joined(&g.servers.iter().map(|s| s.server.clone()).collect::<Vec<_>>()),
        Spec::Plugin(p) => source(&p.source),
        Spec::Team(t) => joined(&t.members),
        Spec::User(u) => u.display_name.clone().or_else(|| u.email.clone()).unwrap_or_default(),
        Spec::IdentityProvider(s) => s.issuer.clone(),
        Spec::OAuthClient(s) => s.title.clone().unwrap_or_default(),
        Spec::Role(r) => joined(&[&r.users[..], &r.teams, &r.agents].concat()),
        Spec::Agent(a) => a.title.clone().unwrap_or_default(),
    }
}
