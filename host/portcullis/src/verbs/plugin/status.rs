//! `plugin status`: what serves, what should, and what a candidate says otherwise.

use clap::Args;
use portcullis_console::api::PluginItem;
use portcullis_model::Name;

use crate::{cli::Global, exit::Failure, output};

/// Show how plugins stand
///
/// With a name also what its candidate said otherwise last: which tool and caller it was about, never arguments.
#[derive(Args)]
#[command(after_help = "\
Examples:
  portcullis plugin status
  portcullis plugin status office-hours")]
pub struct Status {
    /// One plugin; all that have a resource where left out
    #[arg(value_name = "NAME")]
    name: Option<Name>,
}

impl Status {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        match &self.name {
            Some(name) => output::one(global.output, &client.plugin(name).await?, one),
            None => output::list(global.output, &client.plugins().await?, table),
        }
    }
}

/// A line for each.
pub fn table(plugins: &[PluginItem]) -> String {
    if plugins.is_empty() {
        return "nothing there yet\n".to_owned();
    }
    let short = |digest: &Option<String>| digest.as_deref().unwrap_or("-").chars().take(12).collect::<String>();
    let row = |p: &PluginItem| {
        let state = match &p.quarantine {
            Some(quarantine) => format!("{}, {} in quarantine", p.state, quarantine.places),
            None => p.state.clone(),
        };
        let candidate = p.candidate.as_ref().map_or_else(
            || "-".to_owned(),
            |c| {
                let how = match (c.asked, c.share) {
                    (false, _) => "not asked".to_owned(),
                    (true, 0) => "compared".to_owned(),
                    (true, share) => format!("{share}%"),
                };
                format!("{} {how}", short(&c.digest))
            },
        );
        let since = output::when(Some(p.since_ms));
        vec![p.name.clone(), state, since, short(&p.active), short(&p.desired), candidate, p.hooks.join(",")]
    };
    let rows: Vec<_> = plugins.iter().map(row).collect();
    output::table(&["NAME", "STATE", "SINCE", "ACTIVE", "DESIRED", "CANDIDATE", "HOOKS"], &rows)
}

fn one(plugin: &PluginItem) -> String {
    let mut out = table(std::slice::from_ref(plugin));
    let mut line = |name: &str, text: &str| out.push_str(&format!("{name}: {text}\n"));
    if let Some(problem) = &plugin.problem {
        line("problem", problem);
    }
    if !plugin.withheld.is_empty() {
        line("granted, but its manifest does not ask for it, so not handed out", &plugin.withheld.join(", "));
    }
    if !plugin.ungranted.is_empty() {
        line("asked for, but not granted", &plugin.ungranted.join(", "));
    }
    if !plugin.previous.is_empty() {
        line("can go back to", &plugin.previous.join(", "));
    }
    let Some(candidate) = &plugin.candidate else { return out };
    if let Some(problem) = &candidate.problem {
        line("candidate", problem);
    }
    if !candidate.differences.is_empty() {
        let row = |d: &portcullis_plugin::Difference| {
            let about = [d.server.as_deref(), d.name.as_deref()].into_iter().flatten().collect::<Vec<_>>().join("/");
            let when = output::when(Some(d.at_ms));
            vec![when, d.hook.clone(), about, d.caller.clone(), d.active.clone(), d.candidate.clone(), d.kind.clone()]
        };
        let rows: Vec<_> = candidate.differences.iter().map(row).collect();
        out.push('\n');
        out.push_str(&output::table(&["WHEN", "HOOK", "ABOUT", "CALLER", "ACTIVE", "CANDIDATE", "DIFFERENCE"], &rows));
    }
    out
}
