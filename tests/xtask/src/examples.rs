//! The example plugins in other languages than Rust, built: it takes their makers some tens of seconds, so what is built is kept, by the
//! hash of all that it was made of.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;

use crate::{
    setup::{key, made, node_packages, python_program},
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

/// The credential resolver in Python, and beside it in `wheels` what builds it, so that others build it without a network.
pub(crate) fn python(cache: &Path) -> anyhow::Result<PathBuf> {
    const FROM: &str = "plugins/examples/python";
    let files = ["broker.py", "world.wit", "requirements.txt"];
    let (from, home) = (root().join(FROM), cache.join(format!("python-plugin-{}", digest(FROM, &files)?)));
    let python = python_program()?;
    made(&home, "the plugin in Python", |aside| {
        fs::create_dir_all(aside.join("wit/deps"))?;
        fs::copy(from.join("broker.py"), aside.join("broker.py"))?;
        fs::copy(from.join("world.wit"), aside.join("wit/world.wit"))?;
        for package in WIT {
            let (there, here) = (root().join("wit").join(package), aside.join("wit/deps").join(package));
            fs::create_dir(&here)?;
            for entry in fs::read_dir(there)? {
                let entry = entry?;
                fs::copy(entry.path(), here.join(entry.file_name()))?;
            }
        }
        // It holds its own path, so it is no part of what is moved into place.
        let tools = aside.join("tools");
        quietly(Command::new(&python).args(["-m", "venv"]).arg(&tools))?;
        let (pip, wheels, list) = (tools.join("bin/pip"), aside.join("wheels"), from.join("requirements.txt"));
        quietly(Command::new(&pip).args(["download", "--no-deps", "-q", "-d"]).arg(&wheels).arg("-r").arg(&list))?;
        let mut install = Command::new(&pip);
        quietly(install.args(["install", "--no-index", "-q", "--find-links"]).arg(&wheels).arg("-r").arg(&list))?;
        let mut build = Command::new(tools.join("bin/componentize-py"));
        build.current_dir(aside).args(["--quiet", "--wit-path", "wit", "--world", "broker"]);
        quietly(build.args(["componentize", "broker", "--output", "broker.wasm"]))?;
        Ok(fs::remove_dir_all(tools)?)
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
