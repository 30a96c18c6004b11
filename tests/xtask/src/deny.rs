//! The rules of `deny.toml` about licences, banned crates and sources, without a network.
//!
//! `cargo deny` is used where it is installed, since it knows more; building it takes minutes, so what CI can't do without
//! is read from the same file here.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::{
    shell::{self, cargo, find, root},
    spdx,
};

#[derive(Deserialize)]
struct Rules {
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
    #[serde(default)]
    exceptions: Vec<Exception>,
}

#[derive(Deserialize)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    #[serde(default)]
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    allow_registry: Vec<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    license_file: Option<String>,
    source: Option<String>,
}

/// Checks every package of `Cargo.lock`.
pub fn run() -> anyhow::Result<()> {
    if find("cargo-deny").is_some() {
        return shell::run(cargo()?.args(["deny", "check", "licenses", "bans", "sources"]));
    }
    let rules: Rules = toml::from_str(&fs::read_to_string(root().join("deny.toml"))?).context("deny.toml")?;
    let output = cargo()?.args(["metadata", "--format-version", "1", "--locked"]).output()?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout)?;
    let faults = faults(&rules, &metadata);
    for fault in &faults {
        println!("{fault}");
    }
    let mut versions: BTreeMap<&str, usize> = BTreeMap::new();
    for package in &metadata.packages {
        *versions.entry(&package.name).or_default() += 1;
    }
    let twice: Vec<&str> = versions.iter().filter(|(_, n)| **n > 1).map(|(name, _)| *name).collect();
    println!("{} packages; in several versions: {}", metadata.packages.len(), twice.join(", "));
    if faults.is_empty() { Ok(()) } else { bail!("{} packages break deny.toml", faults.len()) }
}

fn faults(rules: &Rules, metadata: &Metadata) -> Vec<String> {
    let mut faults = Vec::new();
    for package in &metadata.packages {
        let who = format!("{} {}", package.name, package.version);
        if let Some(ban) = rules.bans.deny.iter().find(|b| b.name == package.name) {
            faults.push(format!("{who} is banned: {}", ban.reason));
        }
        // Packages of the workspace have no source.
        let Some(source) = &package.source else {
            continue;
        };
        let from = source.split_once('+').map_or(source.as_str(), |(_, url)| url);
        if !source.starts_with("registry+") || !rules.sources.allow_registry.iter().any(|r| r == from) {
            faults.push(format!("{who} comes from {source}, which deny.toml does not allow"));
        }
        let fine = |name: &str| {
            let own = rules.licenses.exceptions.iter().filter(|e| e.name == package.name).flat_map(|e| &e.allow);
            rules.licenses.allow.iter().chain(own).any(|l| l == name)
        };
        match &package.license {
            Some(expression) if spdx::allowed(expression, &fine) => {}
            Some(expression) => faults.push(format!("{who} is under \"{expression}\", which deny.toml does not allow")),
            None if package.license_file.is_some() => {
                faults.push(format!("{who} has a licence of its own: look at it"))
            }
            None => faults.push(format!("{who} names no licence")),
        }
    }
    faults
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn licence_source_and_ban_are_each_refused() {
        let rules: Rules = toml::from_str(
            "[licenses]\nallow = [\"MIT\"]\n[bans]\ndeny = [{crate = \"bad\", reason = \"because\"}]\n[sources]\nallow-registry = [\"https://here\"]",
        )
        .unwrap();
        let package = |name: &str, license: Option<&str>, source: Option<&str>| Package {
            name: name.into(),
            version: "1.0.0".into(),
            license: license.map(Into::into),
            license_file: None,
            source: source.map(Into::into),
        };
        let packages = vec![
            package("ours", None, None),
            package("good", Some("MIT"), Some("registry+https://here")),
            package("bad", Some("MIT"), Some("registry+https://here")),
            package("gpl", Some("GPL-3.0"), Some("registry+https://here")),
            package("nothing", None, Some("registry+https://here")),
            package("elsewhere", Some("MIT"), Some("registry+https://there")),
            package("git", Some("MIT"), Some("git+https://here")),
        ];
        let found = faults(&rules, &Metadata { packages });
        let names: Vec<&str> = found.iter().map(|f| f.split(' ').next().unwrap()).collect();
        assert_eq!(names, ["bad", "gpl", "nothing", "elsewhere", "git"]);
    }
}
