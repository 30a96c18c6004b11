//! Which crate may depend on which: the house of the design, as a table.

use anyhow::Context;
use serde::Deserialize;

use super::Findings;
use crate::shell::cargo;

/// Each crate of the host, and which others it may use. Arrows point down, and each is here because it has a reason.
const HOUSE: [(&str, &[&str]); 22] = [
    ("model", &[]),
    ("manifest", &[]),
    ("workload", &["model"]),
    ("telemetry", &["model"]),
    ("child", &[]),
    ("outbound", &["model"]),
    ("store", &["model", "telemetry"]),
    ("protocol", &["model"]),
    ("package", &["model", "telemetry", "outbound"]),
    ("plugin", &["model", "telemetry", "outbound", "package", "manifest"]),
    ("testing", &["model", "plugin"]),
    ("authoring", &[]),
    ("cluster", &["model", "telemetry", "workload"]),
    ("bridge", &["model", "child", "protocol"]),
    ("upstream", &["model", "child", "telemetry", "protocol", "outbound"]),
    ("identity", &["model", "telemetry", "outbound", "store", "protocol", "plugin"]),
    ("credential", &["model", "telemetry", "outbound", "store", "protocol", "plugin", "cluster"]),
    (
        "orchestrator",
        &["model", "child", "telemetry", "store", "protocol", "upstream", "credential", "cluster", "workload"],
    ),
    ("tools", &["model", "protocol", "plugin", "upstream"]),
    ("gateway", &["model", "telemetry", "store", "protocol", "plugin", "upstream", "identity", "credential"]),
    (
        "console",
        &[
            "model",
            "child",
            "telemetry",
            "store",
            "protocol",
            "plugin",
            "cluster",
            "workload",
            "upstream",
            "identity",
            "credential",
            "orchestrator",
        ],
    ),
    (
        "portcullis",
        &[
            "model",
            "child",
            "bridge",
            "telemetry",
            "outbound",
            "package",
            "manifest",
            "store",
            "protocol",
            "plugin",
            "cluster",
            "workload",
            "upstream",
            "identity",
            "credential",
            "orchestrator",
            "tools",
            "gateway",
            "console",
            "plugins",
            "testing",
            "authoring",
        ],
    ),
];

/// Who alone may use a crate of others. A name that ends in `*` stands for all that begin so.
const ALONE: [(&str, &[&str]); 9] = [
    ("wasmtime*", &["plugin"]),
    ("kube", &["cluster"]),
    ("k8s-openapi", &["cluster", "model"]),
    ("sled", &["store"]),
    ("tokio-postgres", &["store"]),
    ("axum", &["gateway", "console", "portcullis"]),
    ("rmcp", &[]),
    ("notify", &["console"]),
    ("clap", &["bridge", "portcullis"]),
];

/// Crates that reach the outside, which the crates without I/O may not use.
const OUTSIDE: [&str; 10] =
    ["tokio", "tokio-postgres", "hyper", "hyper-util", "reqwest", "rustix", "libc", "tempfile", "notify", "sled"];
/// The crates without I/O.
const WITHOUT_IO: [&str; 4] = ["manifest", "model", "protocol", "workload"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// None for what the code itself uses, `dev` or `build` for others.
    kind: Option<String>,
}

/// Where in the house a package stands.
enum Room<'a> {
    Host(&'a str),
    Guest,
    Bundle,
    Sdk,
    Tests,
}

pub(super) fn check(found: &mut Findings) -> anyhow::Result<()> {
    let output = cargo()?.args(["metadata", "--no-deps", "--format-version", "1"]).output()?;
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    for package in &metadata.packages {
        judge(package, found);
    }
    Ok(())
}

fn judge(package: &Package, found: &mut Findings) {
    let short = package.name.strip_prefix("portcullis-").unwrap_or(&package.name);
    let room = match package.manifest_path.rsplit('/').nth(2) {
        Some("host") => Room::Host(short),
        Some("plugins") if short == "plugins" => Room::Bundle,
        Some("plugins") => Room::Guest,
        Some("tests") => Room::Tests,
        _ => Room::Sdk,
    };
    for dependency in package.dependencies.iter().filter(|d| d.kind.as_deref() != Some("dev")) {
        let theirs = &*dependency.name;
        let ours = theirs.strip_prefix("portcullis-");
        match room {
            Room::Host(name) => {
                let Some((_, may)) = HOUSE.iter().find(|(n, _)| *n == name) else {
                    found.fault(format!("host/{name} is not in the table of tests/xtask/src/tidy/arrows.rs"));
                    return;
                };
                if let Some(ours) = ours
                    && !may.contains(&ours)
                {
                    found.fault(format!("host/{name} may not depend on {ours}"));
                }
                let alone = ALONE
                    .iter()
                    .find(|(n, _)| n.strip_suffix('*').map_or(*n == theirs, |start| theirs.starts_with(start)));
                if let Some((_, who)) = alone
                    && !who.contains(&name)
                {
                    found.fault(format!("host/{name} may not use {theirs}: only {who:?} may"));
                }
                if WITHOUT_IO.contains(&name) && OUTSIDE.contains(&theirs) {
                    found.fault(format!("host/{name} does no I/O, so it may not use {theirs}"));
                }
            }
            // A built-in plugin has no door that a stranger's plugin has not. What several share is a guest's library like any other.
            Room::Guest if ours.is_some_and(|o| !["sdk", "plugin-kit"].contains(&o)) => {
                found.fault(format!("{short} is a guest, so it may not depend on {theirs}"))
            }
            Room::Sdk | Room::Bundle if ours.is_some_and(|o| o != "sdk-macros") => {
                found.fault(format!("{short} may not depend on {theirs}"))
            }
            Room::Guest | Room::Sdk | Room::Bundle | Room::Tests => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(name: &str, path: &str, dependency: &str) -> usize {
        let package = Package {
            name: name.to_owned(),
            manifest_path: path.to_owned(),
            dependencies: vec![Dependency { name: dependency.to_owned(), kind: None }],
        };
        let mut found = Findings::default();
        judge(&package, &mut found);
        found.faults.len()
    }

    #[test]
    fn an_arrow_that_points_up_is_a_fault() {
        assert_eq!(faults("portcullis-gateway", "/x/host/gateway/Cargo.toml", "portcullis-model"), 0);
        assert_eq!(faults("portcullis-model", "/x/host/model/Cargo.toml", "portcullis-gateway"), 1);
        assert_eq!(faults("portcullis-model", "/x/host/model/Cargo.toml", "tokio"), 1);
        assert_eq!(faults("portcullis-gateway", "/x/host/gateway/Cargo.toml", "wasmtime-wasi"), 1);
        assert_eq!(faults("portcullis-gateway", "/x/host/gateway/Cargo.toml", "sled"), 1);
        assert_eq!(faults("bearer-token", "/x/plugins/bearer-token/Cargo.toml", "portcullis-model"), 1);
        assert_eq!(faults("bearer-token", "/x/plugins/bearer-token/Cargo.toml", "portcullis-sdk"), 0);
        assert_eq!(faults("portcullis-new", "/x/host/new/Cargo.toml", "serde"), 1);
    }
}
