//! The example plugins in other languages than Rust, built: it takes their makers some tens of seconds, so what is built is kept, by the
//! hash of all that it was made of.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;

use crate::{
    setup::{key, made, node_packages},
    shell::{quietly, root},
};

/// The packages of the contract that a credential resolver needs.
const WIT: [&str; 3] = ["types", "host", "credential"];

/// The credential resolver in JavaScript.
pub(crate) fn javascript(cache: &Path, node: &Path) -> anyhow::Result<PathBuf> {
    const FROM: &str = "plugins/examples/javascript";
    let packages = node_packages(cache, node, FROM)?;
    let files = ["broker.js", "build.mjs", "world.wit", "package-lock.json"];
    let (from, home) = (root().join(FROM), cache.join(format!("javascript-{}", digest(FROM, &files)?)));
    made(&home, "the plugin in JavaScript", |aside| {
        for file in files {
            fs::copy(from.join(file), aside.join(file))?;
        }
        std::os::unix::fs::symlink(packages.join("node_modules"), aside.join("node_modules"))?;
        quietly(Command::new(node).current_dir(aside).arg("build.mjs").arg(root().join("wit")))
    })?;
    Ok(home.join("broker.wasm"))
}

/// The hash of these files and of the contract.
fn digest(folder: &str, files: &[&str]) -> anyhow::Result<String> {
    let mut paths: Vec<PathBuf> = files.iter().map(|file| root().join(folder).join(file)).collect();
    for package in WIT {
        let folder = root().join("wit").join(package);
        let files = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        paths.extend(files.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?);
    }
    paths.sort();
    let contents = paths
        .iter()
        .map(|path| fs::read(path).with_context(|| path.display().to_string()))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(key(&contents.iter().map(Vec::as_slice).collect::<Vec<_>>()))
}
