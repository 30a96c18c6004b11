//! A small real Kubernetes: its programs, built once, and one that stays up for whoever tries things by hand.

use std::{
    env, fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::ValueEnum;

use crate::{
    setup::{key, made},
    shell::{cache, find, quietly, root},
};

/// How long a start may take on a machine that compiles meanwhile.
const PATIENCE: Duration = Duration::from_secs(180);

/// What to do with the cluster.
#[derive(Clone, Copy, ValueEnum)]
pub enum Verb {
    /// Starts it, unless it runs.
    Up,
    /// Stops it, once no test uses it.
    Down,
}

/// `cargo xtask k8s`.
pub fn run(verb: Verb) -> anyhow::Result<()> {
    let run = folder();
    let keep = run.join("keep");
    match verb {
        Verb::Down => {
            if keep.exists() {
                fs::remove_file(keep)?;
            }
            Ok(())
        }
        Verb::Up => {
            let programs = programs(&cache()?)?.context("KUBECONFIG names a cluster, or this is no Debian")?;
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&run)?;
            fs::write(keep, "")?;
            // It may be there from a start that failed.
            let _ = fs::remove_file(run.join("failed"));
            let script = root().join("tests/cluster/supervise.py");
            quietly(Command::new("python3").arg("-B").arg(script).arg(programs).arg(&run))?;
            let until = Instant::now() + PATIENCE;
            while !run.join("ready").exists() {
                if let Ok(why) = fs::read_to_string(run.join("failed")) {
                    bail!("{why}; {} tells more", run.join("log").display());
                }
                if Instant::now() > until {
                    bail!("it does not start; {} tells more", run.join("log").display());
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            println!("{}", run.join("kubeconfig").display());
            Ok(())
        }
    }
}

/// Where the one that is started by hand lives. The tests' own is elsewhere: what is tried by hand is not in their way.
fn folder() -> PathBuf {
    env::temp_dir().join(format!("portcullis-k8s-{}", key(&[root().as_os_str().as_encoded_bytes()])))
}

/// The folder of its programs, built where they are not in the cache yet. None where there is another cluster to use, or no
/// Debian to take them from.
pub fn programs(cache: &Path) -> anyhow::Result<Option<PathBuf>> {
    if env::var_os("KUBECONFIG").is_some_and(|v| !v.is_empty()) {
        return Ok(None);
    }
    let missing: Vec<_> = ["apt-get", "dpkg", "bash", "openssl"].into_iter().filter(|p| find(p).is_none()).collect();
    if !missing.is_empty() {
        eprintln!("no Kubernetes to test with: {} missing, and KUBECONFIG names none", missing.join(", "));
        return Ok(None);
    }
    let scripts = root().join("tests/cluster");
    let build = scripts.join("build.sh");
    let parts = ["build.sh", "openapi.sh", "pause.go"].map(|name| fs::read(scripts.join(name)));
    let [one, two, three] = parts;
    let home = cache.join(format!("cluster-{}", key(&[&one?, &two?, &three?])));
    made(&home, "kubernetes (built once, some minutes)", |aside| quietly(Command::new(&build).arg(aside)))?;
    Ok(Some(home))
}
