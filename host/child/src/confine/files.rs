//! Files and signals, by Landlock.
//!
//! Landlock allows subtrees and can take nothing out of one, so what is hidden is left out of what is allowed: of each directory
//! on the way to it, everything else is named. What appears in those directories later is not among it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access as _, AccessFs, LandlockStatus, RestrictionStatus, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

use super::{Confinement, Protection};

/// The newest that this was written for; of an older kernel, what it has.
const KNOWN: ABI = ABI::V9;
/// What programs open for writing in `/dev`. Disks and memory are there too, and are not among it.
const DEVICES: [&str; 9] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/ptmx",
    "/dev/pts",
    "/dev/shm",
];
/// Where nobody is who is not root, and what a process needs of it stands in [`DEVICES`].
const RAW: &str = "/dev";
/// The most names in all directories on the way to what is hidden; of more, the rest is not allowed.
const MAX_NAMES: usize = 16_384;

pub(super) fn restrict(confinement: &Confinement, held: &mut Vec<Protection>) -> Result<(), String> {
    let status = enforce(confinement).map_err(|e| format!("Landlock: {e}"))?;
    let abi = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } if status.ruleset != RulesetStatus::NotEnforced => {
            effective_abi
        }
        _ => {
            let why = "this kernel has no Landlock, or has it switched off";
            held.extend(["files", "signals"].map(|name| Protection::missing(name, why)));
            return Ok(());
        }
    };
    held.push(Protection::holds("files"));
    held.push(match abi >= ABI::V6 {
        true => Protection::holds("signals"),
        false => Protection::missing("signals", "this kernel's Landlock can't hold signals back (Linux 6.12 can)"),
    });
    Ok(())
}

fn enforce(confinement: &Confinement) -> Result<RestrictionStatus, RulesetError> {
    let mut hidden: Vec<PathBuf> = confinement.hide.iter().filter_map(|p| fs::canonicalize(p).ok()).collect();
    hidden.push(RAW.into());
    let (mut full, mut read) = (confinement.own.clone(), Vec::new());
    let mut names = MAX_NAMES;
    for path in &confinement.write {
        all_but(path, &hidden, &mut full, &mut names);
    }
    match &confinement.read {
        None => all_but(Path::new("/"), &hidden, &mut read, &mut names),
        Some(listed) => listed.iter().for_each(|path| all_but(path, &hidden, &mut read, &mut names)),
    }
    let all = AccessFs::from_all(KNOWN);
    Ruleset::default()
        .handle_access(all)?
        .scope(Scope::from_all(KNOWN))?
        .create()?
        .add_rules(path_beneath_rules(DEVICES, all))?
        .add_rules(path_beneath_rules(full, all))?
        .add_rules(path_beneath_rules(read, AccessFs::from_read(KNOWN)))?
        .restrict_self()
}

/// Names `path`, or all in it but what is hidden.
fn all_but(path: &Path, hidden: &[PathBuf], found: &mut Vec<PathBuf>, names: &mut usize) {
    let Ok(path) = fs::canonicalize(path) else { return };
    if hidden.iter().any(|h| path.starts_with(h)) {
        return;
    }
    if !hidden.iter().any(|h| h.starts_with(&path)) {
        return found.push(path);
    }
    for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
        let Some(left) = names.checked_sub(1) else { return };
        *names = left;
        // What a link leads to is allowed, or not, where it stands.
        if entry.file_type().is_ok_and(|kind| !kind.is_symlink()) {
            all_but(&entry.path(), hidden, found, names);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_is_in_nothing_that_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        for path in ["a/secret/deep", "a/open", "b", "c"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        std::os::unix::fs::symlink(root.join("a/secret"), root.join("b/link")).unwrap();
        std::os::unix::fs::symlink(root.join("a/secret"), root.join("link")).unwrap();
        let named = |path: &Path| {
            let mut found = Vec::new();
            all_but(path, &[root.join("a/secret"), root.join("c")], &mut found, &mut 100);
            found.sort();
            found
        };
        assert_eq!(named(&root), [root.join("a/open"), root.join("b")]);
        assert_eq!(named(&root.join("b")), [root.join("b")]);
        for none in ["a/secret", "a/secret/deep", "c", "link", "b/link", "nowhere"] {
            assert!(named(&root.join(none)).is_empty(), "{none}");
        }
        let mut found = Vec::new();
        all_but(&root, &[root.join("a/secret")], &mut found, &mut 1);
        assert!(found.len() <= 1, "bounded");
    }
}
