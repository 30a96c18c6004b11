//! Running the official suite and reading what it found, check by check.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, ensure};
use portcullis_e2e::nginx::free_port;
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    time::timeout,
};

use crate::parts::Parts;

/// The revisions whose scenarios are run.
pub const REVISIONS: [&str; 2] = ["2025-11-25", "2026-07-28"];
/// How long a run of one revision may take. It takes some seconds on a machine that is not busy.
const PATIENCE: Duration = Duration::from_secs(300);

/// One check as the suite reports it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// Which requirement.
    pub id: String,
    /// Which case of it.
    #[serde(default)]
    pub name: String,
    /// `SUCCESS`, `FAILURE`, `WARNING`, `SKIPPED` or `INFO`.
    pub status: String,
    /// What was wrong.
    #[serde(default)]
    pub error_message: Option<String>,
    /// What was seen.
    #[serde(default)]
    pub details: Value,
}

/// Where a check stands: scenario, id, case, and which of those that are named the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The scenario.
    pub scenario: String,
    /// The check's id, then its case and number.
    pub check: String,
}

/// Everything that a run found.
#[derive(Debug, Default)]
pub struct Found {
    /// Every check.
    pub checks: BTreeMap<Place, Check>,
}

impl Found {
    /// How many checks have a status.
    pub fn count(&self, status: &str) -> usize {
        self.checks.values().filter(|c| c.status == status).count()
    }

    /// The scenarios that were run.
    pub fn scenarios(&self) -> Vec<&str> {
        let mut all: Vec<&str> = self.checks.keys().map(|p| &*p.scenario).collect();
        all.dedup();
        all
    }

    /// Puts what a scenario found in place of what it found before.
    pub fn replace(&mut self, scenario: &str, again: Self) {
        self.checks.retain(|place, _| place.scenario != scenario);
        self.checks.extend(again.checks);
    }
}

/// Runs every server scenario of a revision, scored or not.
///
/// # Errors
/// Where the suite does not run. Checks that fail are not an error.
pub async fn server(url: &str, revision: &str) -> anyhow::Result<Found> {
    run(&["server", "--url", url, "--requirements", revision], None).await
}

/// Runs one server scenario again.
///
/// # Errors
/// As [`server`].
pub async fn server_scenario(url: &str, revision: &str, scenario: &str) -> anyhow::Result<Found> {
    run(&["server", "--url", url, "--spec-version", revision, "--scenario", scenario, "--force"], Some(scenario)).await
}

/// Runs one client scenario; the suite starts `command` with the URL of its server as the last argument.
///
/// # Errors
/// As [`server`].
pub async fn client_scenario(command: &str, revision: &str, scenario: &str) -> anyhow::Result<Found> {
    run(
        &["client", "--command", command, "--spec-version", revision, "--scenario", scenario, "--timeout", "60000"],
        Some(scenario),
    )
    .await
}

/// Runs every scenario for authorization servers. `visit` is what a person does with the address that the suite prints: sign in
/// there, agree, and come back to the suite.
///
/// # Errors
/// As [`server`], and those of the visit.
pub async fn authorization<V: Future<Output = anyhow::Result<()>>>(
    issuer: &str,
    client: &str,
    resource: &str,
    revision: &str,
    visit: impl FnOnce(String) -> V,
) -> anyhow::Result<Found> {
    let parts = Parts::get();
    let out = tempfile::tempdir()?;
    let port = free_port()?.to_string();
    let mut command = Command::new(&parts.suite_node);
    command.arg(parts.script()).args(["authorization", "--url", issuer, "--client-id", client, "--resource", resource]);
    command.args(["--spec-version", revision, "--port", &port, "--output-dir"]).arg(out.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
    let mut visit = Some(visit);
    let whole = async {
        while let Some(line) = lines.next_line().await? {
            if line.starts_with(issuer)
                && let Some(visit) = visit.take()
            {
                visit(line).await?;
            }
        }
        child.wait().await?;
        anyhow::Ok(())
    };
    timeout(PATIENCE, whole).await.context("the suite does not end")??;
    let found = read(out.path(), None)?;
    ensure!(!found.checks.is_empty(), "the suite found nothing");
    Ok(found)
}

async fn run(args: &[&str], scenario: Option<&str>) -> anyhow::Result<Found> {
    let parts = Parts::get();
    let out = tempfile::tempdir()?;
    let mut command = Command::new(&parts.suite_node);
    command.arg(parts.script()).args(args).arg("--output-dir").arg(out.path());
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.context("the suite does not end")??;
    let found = read(out.path(), scenario)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!found.checks.is_empty(), "the suite found nothing: {}: {said}", output.status);
    Ok(found)
}

fn read(folder: &Path, scenario: Option<&str>) -> anyhow::Result<Found> {
    let mut found = Found::default();
    for path in folders(folder)? {
        let file = path.join("checks.json");
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let scenario = scenario.map_or_else(|| scenario_of(&name), str::to_owned);
        let checks: Vec<Check> = serde_json::from_slice(&fs::read(&file)?).with_context(|| name.clone())?;
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for check in checks {
            let case = if check.name.is_empty() { check.id.clone() } else { format!("{}/{}", check.id, check.name) };
            let at = seen.entry(case.clone()).or_default();
            let place = Place { scenario: scenario.clone(), check: format!("{case}#{at}") };
            *at += 1;
            found.checks.insert(place, check);
        }
    }
    Ok(found)
}

/// The folders with findings: a scenario such as `auth/metadata-default` has its own in a folder `auth`.
fn folders(within: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(within)? {
        let path = entry?.path();
        if path.join("checks.json").is_file() {
            found.push(path);
        } else if path.is_dir() {
            found.extend(folders(&path)?);
        }
    }
    Ok(found)
}

/// The scenario of a folder `server-SCENARIO-2026-01-01T00-00-00-000Z`.
fn scenario_of(folder: &str) -> String {
    let kinds = ["server-", "client-", "authorization-server-"];
    let name = kinds.iter().find_map(|kind| folder.strip_prefix(kind)).unwrap_or(folder);
    // The time is 24 characters, with a hyphen before it.
    let end = name.len().saturating_sub(25);
    name.get(..end).unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_names_its_scenario() {
        assert_eq!(scenario_of("server-server-sse-polling-2026-11-21T08-20-40-774Z"), "server-sse-polling");
        assert_eq!(scenario_of("server-ping-2026-11-21T08-20-40-774Z"), "ping");
    }
}
