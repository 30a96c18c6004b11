//! What a server's process is kept from, beyond what its user may: files, signals, system calls, capabilities.
//!
//! Applied by the inner supervisor to itself before it starts the server, so nothing here runs between fork and exec, and
//! whatever the server starts is held by it too. Each part holds as far as the kernel has it; which ones hold is reported
//! ([`Protection`]). What the kernel has and refuses to do ends the start: a server never runs with less than it could.

mod calls;
mod files;

use std::{ffi::OsString, path::PathBuf};

use rustix::thread::CapabilitySet;

/// What a process may reach. Everything else is kept from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confinement {
    /// Where it may do anything, wherever these lie: its home, its private directory, its working directory.
    pub own: Vec<PathBuf>,
    /// What it may write as well as read.
    pub write: Vec<PathBuf>,
    /// What it may read and run. Everything where left out.
    pub read: Option<Vec<PathBuf>>,
    /// What it may not even read, however it is reached, unless it is its own.
    pub hide: Vec<PathBuf>,
    /// Whether it may speak IP.
    pub network: bool,
}

/// One of the ways in which a process is kept from something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protection {
    /// Which: `no-new-privileges`, `limits`, `files`, `signals`, `system-calls`, `capabilities`, `no-network`.
    pub name: String,
    /// Why it does not hold; nothing where it does.
    pub missing: Option<String>,
}

impl Protection {
    pub(crate) fn holds(name: &str) -> Self {
        Self { name: name.to_owned(), missing: None }
    }

    fn missing(name: &str, why: &str) -> Self {
        Self { name: name.to_owned(), missing: Some(why.to_owned()) }
    }

    /// As a line of a report.
    pub(crate) fn line(&self) -> String {
        match &self.missing {
            None => format!("{}\n", self.name),
            Some(why) => format!("{}\t{}\n", self.name, why.replace(['\n', '\t'], " ")),
        }
    }

    pub(crate) fn parse(line: &str) -> Self {
        match line.split_once('\t') {
            Some((name, why)) => Self::missing(name, why),
            None => Self::holds(line),
        }
    }
}

/// What a server that runs as root keeps: what package runners need with files of others, and nothing that reaches beyond.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::NET_BIND_SERVICE);

impl Confinement {
    /// Confines the calling thread, and all that it starts from here on.
    ///
    /// # Errors
    /// In words, where the kernel has something and refuses to do it.
    pub(crate) fn apply(&self) -> Result<Vec<Protection>, String> {
        let mut held = Vec::new();
        files::restrict(self, &mut held)?;
        held.push(drop_capabilities());
        // Last, since it forbids some of what is done above.
        calls::restrict(self.network, &mut held)?;
        Ok(held)
    }

    /// As arguments of the supervisor.
    pub(crate) fn to_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = Vec::new();
        let mut all = |flag: &str, paths: &[PathBuf]| {
            for path in paths {
                args.extend([OsString::from(flag), path.clone().into_os_string()]);
            }
        };
        all("--own", &self.own);
        all("--write", &self.write);
        all("--read", self.read.as_deref().unwrap_or_default());
        all("--hide", &self.hide);
        let read = if self.read.is_some() { "listed" } else { "all" };
        let network = if self.network { "yes" } else { "no" };
        args.extend(["--reads", read, "--network", network].map(OsString::from));
        args
    }

    /// Takes an argument of the supervisor in. None where it is not one of these.
    pub(crate) fn take(&mut self, flag: &str, value: &OsString) -> Option<()> {
        let path = PathBuf::from(value);
        match (flag, value.to_str()) {
            ("--own", _) => self.own.push(path),
            ("--write", _) => self.write.push(path),
            ("--read", _) => self.read.get_or_insert_default().push(path),
            ("--hide", _) => self.hide.push(path),
            ("--reads", Some("listed")) => drop(self.read.get_or_insert_default()),
            ("--reads", Some("all")) => self.read = None,
            ("--network", Some("yes")) => self.network = true,
            ("--network", Some("no")) => self.network = false,
            _ => return None,
        }
        Some(())
    }
}

/// Takes from what the server will be started with. Who is not root has nothing to lose, and `no_new_privs` keeps it so.
fn drop_capabilities() -> Protection {
    let unwanted = CapabilitySet::all().difference(KEPT);
    for capability in unwanted.iter() {
        // A kernel that does not know it does not give it either.
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    let _ = rustix::thread::clear_ambient_capability_set();
    let left = unwanted.iter().any(|c| rustix::thread::capability_is_in_bounding_set(c).unwrap_or(false));
    match left && rustix::process::geteuid().is_root() {
        false => Protection::holds("capabilities"),
        true => Protection::missing("capabilities", "they can't be dropped"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_survives_its_arguments() {
        let all = Confinement {
            own: vec!["/home/x".into()],
            write: vec!["/data".into(), "/more data".into()],
            read: Some(Vec::new()),
            hide: vec!["/secret".into()],
            network: true,
        };
        for confinement in [all.clone(), Confinement { read: None, network: false, ..all }] {
            let mut taken = Confinement::default();
            let args = confinement.to_args();
            for pair in args.chunks(2) {
                taken.take(pair[0].to_str().unwrap(), &pair[1]).unwrap();
            }
            assert_eq!(taken, confinement);
        }
        assert!(Confinement::default().take("--network", &"perhaps".into()).is_none());
        let missing = Protection::missing("files", "no\nLandlock");
        assert_eq!(Protection::parse(missing.line().trim_end()).missing.as_deref(), Some("no Landlock"));
    }
}
