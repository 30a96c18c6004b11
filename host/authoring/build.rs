//! Embeds the SDK's source, so that a plugin can be written where there is neither a checkout nor a registry that has it.

#![allow(clippy::print_stdout, reason = "a build script talks to cargo on standard output")]

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// What is embedded: the folder in this checkout, and where it lies in a plugin's `vendor`.
const FOLDERS: [(&str, &str); 3] = [
    ("plugin-sdk/src", "portcullis-sdk/src"),
    ("plugin-sdk/macros/src", "portcullis-sdk-macros/src"),
    ("wit", "portcullis-sdk/wit"),
];

fn main() -> io::Result<()> {
    let variable = |name: &str| env::var(name).map_err(io::Error::other);
    let root = Path::new(&variable("CARGO_MANIFEST_DIR")?).join("../..").canonicalize()?;
    let mut lines =
        String::from("/// Paths below `vendor`, and texts.\npub(crate) const SOURCES: &[(&str, &str)] = &[\n");
    for (from, to) in FOLDERS {
        let folder = root.join(from);
        println!("cargo::rerun-if-changed={}", folder.display());
        let mut files = Vec::new();
        walk(&folder, &mut files)?;
        files.sort();
        for file in files {
            let inside = file.strip_prefix(&folder).map_err(io::Error::other)?;
            lines.push_str(&format!("    ({:?}, include_str!({:?})),\n", Path::new(to).join(inside), file));
        }
    }
    let readme = root.join("plugin-sdk/README.md");
    println!("cargo::rerun-if-changed={}", readme.display());
    lines.push_str(&format!("    (\"portcullis-sdk/README.md\", include_str!({readme:?})),\n];\n"));
    fs::write(Path::new(&variable("OUT_DIR")?).join("sources.rs"), lines)
}

fn walk(folder: &Path, into: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, into)?;
        } else {
            into.push(path);
        }
    }
    Ok(())
}
