//! Files stay readable: length, a header that says the module's one job, one layout, nothing left unfinished.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::Findings;
use crate::shell::root;

/// More lines than this are a question.
const LONG: usize = 600;
/// More lines than this are a fault. Neither counts a module of tests at the end of a file.
const TOO_LONG: usize = 800;
/// Marks of unfinished work. Put together here, so that this file does not hold them itself.
const UNFINISHED: [&str; 6] = [
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("FIX", "ME"),
    concat!("TO", "DO"),
    concat!("XX", "X"),
    concat!("#[", "ignore"),
];

/// A Rust source of the project.
pub(super) struct Source {
    /// Its path in the checkout.
    pub(super) path: String,
    /// Its text without the module of tests at its end.
    pub(super) code: String,
    /// Its whole text.
    pub(super) text: String,
}

/// Every Rust source of the project.
pub(super) fn sources() -> anyhow::Result<Vec<Source>> {
    let mut paths = Vec::new();
    for folder in ["host", "plugin-sdk", "plugins", "tests"] {
        walk(&root().join(folder), &mut |path| path.extension().is_some_and(|e| e == "rs"), &mut paths)?;
    }
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path)?;
            let path = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
            Ok(Source { path, code: without_tests(&text).to_owned(), text })
        })
        .collect()
}

/// The files below a folder that are wanted; build output and hidden folders are left out.
pub(super) fn walk(
    folder: &Path,
    wanted: &mut dyn FnMut(&Path) -> bool,
    into: &mut Vec<PathBuf>,
) -> anyhow::Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && name != "node_modules" && !name.starts_with('.') {
                walk(&path, wanted, into)?;
            }
        } else if wanted(&path) {
            into.push(path);
        }
    }
    Ok(())
}

fn without_tests(text: &str) -> &str {
    let end = text.find("\n#[cfg(test)]\n").filter(|at| {
        let rest = text[at + 1..].lines().skip(1).find(|l| !l.starts_with("#["));
        rest.is_some_and(|l| l.starts_with("mod ") && l.ends_with('{'))
    });
    end.map_or(text, |at| &text[..at])
}

pub(super) fn check(found: &mut Findings) -> anyhow::Result<()> {
    for source in sources()? {
        judge(&source, found);
    }
    Ok(())
}

fn judge(source: &Source, found: &mut Findings) {
    let path = &source.path;
    let lines = source.code.lines().count();
    if lines > TOO_LONG {
        found.fault(format!("{path} has {lines} lines; {TOO_LONG} are the most"));
    } else if lines > LONG {
        found.question(format!("{path} has {lines} lines: does it have one job?"));
    }
    if !source.text.starts_with("//!") && !source.text.is_empty() {
        found.fault(format!("{path} does not begin with `//!` and its one job"));
    }
    if path.ends_with("/mod.rs") {
        found.fault(format!("{path}: write name.rs beside name/"));
    }
    for (at, line) in source.text.lines().enumerate() {
        if let Some(mark) = UNFINISHED.iter().find(|m| line.contains(**m)) {
            found.fault(format!("{path}:{}: {mark}", at + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(path: &str, text: &str) -> usize {
        let source = Source { path: path.to_owned(), code: without_tests(text).to_owned(), text: text.to_owned() };
        let mut found = Findings::default();
        judge(&source, &mut found);
        found.faults.len()
    }

    #[test]
    fn what_makes_a_file_unreadable_is_a_fault() {
        assert_eq!(faults("a.rs", "//! One job.\n"), 0);
        assert_eq!(faults("a.rs", "use std::fs;\n"), 1);
        assert_eq!(faults("a/mod.rs", "//! One job.\n"), 1);
        assert_eq!(faults("a.rs", &format!("//! One job.\n{}", "x\n".repeat(800))), 1);
        assert_eq!(faults("a.rs", &format!("//! One job.\n#[cfg(test)]\nmod tests {{\n{}}}\n", "x\n".repeat(800))), 0);
        assert_eq!(faults("a.rs", &format!("//! One job.\nfn f() {{ {} }}\n", UNFINISHED[0])), 1);
    }
}
