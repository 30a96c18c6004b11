//! What a process may reach on this machine: from its definition, and from what the gateway itself keeps.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
};

use portcullis_child::Confinement;
use portcullis_model::spec::Process;

/// Programs, libraries, and what describes the machine, which whatever runs needs to read.
const SYSTEM: [&str; 14] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/etc",
    "/opt",
    "/nix",
    "/proc",
    "/sys",
    "/run",
    "/var/lib",
    "/var/cache",
    "/snap",
];
/// Where nothing is written because an argument or a variable names it: others would run it, or read it as their own.
const FOREIGN: [&str; 15] = [
    "/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/opt", "/nix", "/proc", "/sys", "/dev", "/run", "/boot",
    "/var/lib", "/snap",
];
/// In the home of whoever runs the gateway: keys and tokens that are not for servers.
const PRIVATE: [&str; 15] = [
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".kube",
    ".docker",
    ".config/gcloud",
    ".config/gh",
    ".netrc",
    ".git-credentials",
    ".npmrc",
    ".pypirc",
    ".cargo/credentials.toml",
    ".vault-token",
    ".password-store",
];
/// Where secrets of services are mounted.
const MOUNTED: [&str; 2] = ["/run/secrets", "/var/run/secrets"];

/// Where a process lives.
pub(crate) struct Lives<'a> {
    pub(crate) home: &'a Path,
    pub(crate) private: &'a Path,
    pub(crate) cwd: &'a Path,
    pub(crate) program: &'a Path,
    pub(crate) path: &'a OsStr,
}

/// What a process may reach. `hidden` is what the gateway keeps.
pub(crate) fn confinement(process: &Process, lives: &Lives<'_>, hidden: &[PathBuf]) -> Confinement {
    let mut write: Vec<PathBuf> = Vec::new();
    let declared = process.files.as_ref();
    if process.cwd.is_some() {
        write.push(lives.cwd.to_owned());
    }
    write.extend(declared.into_iter().flat_map(|f| f.write.iter().map(PathBuf::from)));
    let named = process.args.iter().chain(process.env.values());
    if declared.is_none() {
        write.extend(named.filter_map(|text| named_place(text)));
    }
    let read = declared.and_then(|f| f.read.as_ref()).map(|listed| {
        let mut all: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
        all.extend(listed.iter().map(PathBuf::from));
        // What is installed beside a program is part of it: `PREFIX/bin` goes with `PREFIX/lib`.
        let programs = env::split_paths(lives.path).chain(lives.program.parent().map(Path::to_owned));
        all.extend(programs.filter(|d| d.is_absolute()).map(|d| prefix(&d)));
        all
    });
    let mut hide = hidden.to_vec();
    if let Some(home) = env::var_os("HOME").map(PathBuf::from).filter(|h| h.is_absolute()) {
        hide.extend(PRIVATE.iter().map(|name| home.join(name)));
    }
    hide.extend(MOUNTED.iter().map(PathBuf::from));
    // What an operator names in so many words is not hidden from the server that it is named for.
    if let Some(files) = declared {
        let named: Vec<&Path> = files.read.iter().flatten().chain(&files.write).map(Path::new).collect();
        hide.retain(|h| hidden.contains(h) || !named.iter().any(|n| n.starts_with(h)));
    }
    let own = vec![lives.home.to_owned(), lives.private.to_owned()];
    Confinement { own, write, read, hide, network: process.network }
}

/// The place that an argument or a variable names in full, where an operator wrote it out: what is there, or the directory
/// that it is to be made in. A caller's values name none.
fn named_place(text: &str) -> Option<PathBuf> {
    let value = text.strip_prefix("--").and_then(|t| t.split_once('=')).map_or(text, |(_, value)| value);
    let path = Path::new(value);
    if !path.is_absolute() || text.contains("${") {
        return None;
    }
    let place = match path.exists() {
        true => path,
        false => path.parent().filter(|p| p.components().count() > 2 && p.is_dir())?,
    };
    let place = place.canonicalize().ok()?;
    let foreign = FOREIGN.iter().any(|f| place.starts_with(f)) || place == Path::new("/");
    (!foreign).then_some(place)
}

fn prefix(programs: &Path) -> PathBuf {
    match (programs.file_name(), programs.parent()) {
        (Some(name), Some(parent)) if name == "bin" && parent != Path::new("/") => parent.to_owned(),
        _ => programs.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(process: &str) -> Confinement {
        let process: Process = serde_json::from_str(process).unwrap();
        let lives = Lives {
            home: Path::new("/data/homes/x"),
            private: Path::new("/data/run/y"),
            cwd: Path::new("/srv"),
            program: Path::new("/opt/tool/bin/serve"),
            path: OsStr::new("/usr/bin:/home/ada/.local/bin"),
        };
        confinement(&process, &lives, &["/data".into()])
    }

    #[test]
    fn what_an_operator_names_is_written_and_what_a_caller_names_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let here = root.display();
        std::fs::create_dir(root.join("a")).unwrap();
        let found = of(&format!(
            r#"{{"command":"x","args":["{here}/a","--at={here}/a","--log","{here}/new.log","{here}/no/such","/etc","/","/etc/passwd","a","${{field.p}}{here}"],
                "env":{{"F":"{here}/memory.json","U":"https://x/y"}}}}"#
        ));
        assert_eq!(found.write, [root.join("a"), root.join("a"), root.clone(), root.clone()]);
        assert_eq!(found.read, None);
        assert!(found.network && found.hide.contains(&"/data".into()));
        assert_eq!(found.own, [PathBuf::from("/data/homes/x"), "/data/run/y".into()]);
    }

    #[test]
    fn what_is_declared_takes_the_place_of_what_is_guessed() {
        let dir = tempfile::tempdir().unwrap();
        let here = dir.path().display();
        let found = of(&format!(
            r#"{{"command":"x","args":["{here}"],"cwd":"/srv","network":false,"files":{{"read":["/docs","/run/secrets/mine"],"write":["/out"]}}}}"#
        ));
        assert_eq!(found.write, [PathBuf::from("/srv"), "/out".into()]);
        let read = found.read.unwrap();
        for path in ["/docs", "/usr", "/opt/tool", "/home/ada/.local"] {
            assert!(read.contains(&path.into()), "{path}: {read:?}");
        }
        assert!(!found.network && found.hide.contains(&"/data".into()));
        assert!(!found.hide.contains(&"/run/secrets".into()), "named in so many words");
        assert_eq!(of(r#"{"command":"x","files":{"write":["/out"]}}"#).read, None);
    }
}
