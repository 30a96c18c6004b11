//! What only named places may do: read a secret's bytes, write `unsafe`, read the process's environment.
//!
//! Each list is a file beside this crate: a path in the checkout and the reason, one a line. A place that is not listed is a
//! fault, and so is a listed place that no longer does it.

use std::{collections::BTreeMap, fs};

use anyhow::Context;

use super::{Findings, files};
use crate::shell::root;

struct List {
    file: &'static str,
    what: &'static str,
    marks: &'static [&'static str],
    /// Where it matters; tests and benchmarks may do what they like.
    below: &'static [&'static str],
    /// Where it is the job.
    but: &'static [&'static str],
}

const LISTS: [List; 3] = [
    List { file: "expose.txt", what: "reads a secret's bytes", marks: &[".expose("], below: &["host/"], but: &[] },
    List {
        file: "unsafe.txt",
        what: "holds unsafe code",
        marks: &["unsafe {", "unsafe fn", "unsafe impl", "allow(unsafe_code"],
        below: &["host/", "plugin-sdk/", "plugins/", "tests/"],
        but: &[],
    },
    List {
        file: "environment.txt",
        what: "reads the process's environment",
        marks: &["env::var(", "env::var_os(", "env::vars(", "env::vars_os("],
        below: &["host/"],
        but: &["host/portcullis/"],
    },
];

pub(super) fn check(found: &mut Findings) -> anyhow::Result<()> {
    let sources = files::sources()?;
    for list in &LISTS {
        let path = root().join("tests/xtask").join(list.file);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let mut allowed: BTreeMap<&str, bool> = BTreeMap::new();
        for line in text.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
            let (place, reason) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            if reason.trim().is_empty() {
                found.fault(format!("tests/xtask/{}: {place} has no reason", list.file));
            }
            allowed.insert(place, false);
        }
        let in_tests =
            |path: &str| path.contains("/tests/") || path.ends_with("/tests.rs") || path.starts_with("tests/xtask/");
        let matters = |path: &str| {
            let starts = |folders: &[&str]| folders.iter().any(|f| path.starts_with(f));
            starts(list.below) && !starts(list.but) && !in_tests(path)
        };
        for source in sources.iter().filter(|s| matters(&s.path)) {
            let code = source.code.lines().filter(|l| !l.trim_start().starts_with("//"));
            if !code.into_iter().any(|l| list.marks.iter().any(|m| l.contains(m))) {
                continue;
            }
            match allowed.get_mut(&*source.path) {
                Some(seen) => *seen = true,
                None => found.fault(format!("{} {}, and is not in tests/xtask/{}", source.path, list.what, list.file)),
            }
        }
        for (place, _) in allowed.into_iter().filter(|(_, seen)| !seen) {
            found.fault(format!("tests/xtask/{}: {place} is listed and no longer {}", list.file, list.what));
        }
    }
    Ok(())
}
