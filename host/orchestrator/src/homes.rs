//! The servers' `HOME` directories: private, one for each server and account, kept over restarts, so that what package
//! runners download is downloaded once.
//!
//! Secrets never go here: they are written to a directory of each start, which is removed at its end. All homes stand side
//! by side in one directory; their names say whose they are, which is how those of servers that are gone are found.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use portcullis_model::Name;
use portcullis_upstream::{Account, LaunchKey};

/// The most homes that one clean-up removes; the next one goes on.
const MAX_REMOVED: usize = 64;
/// A home on its way out begins with this, which no tenant's name does.
const GONE: &str = ".gone-";

/// Whose home it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// The tenant of the server.
    pub tenant: Name,
    /// The `McpServer` resource.
    pub server: Name,
    /// The `Connection` and its revision, where its values reach the process. Other values may be another account's, and
    /// what a server stored under one account must not be found under another.
    pub connection: Option<(Name, u64)>,
}

impl Home {
    /// The home of a process; `None` where the account is no resource, since nobody could tell when such a home is no
    /// longer needed.
    pub(crate) fn of(key: &LaunchKey) -> Option<Self> {
        let connection = match &key.account {
            Account::None => None,
            Account::Connection { name, revision } => Some((name.clone(), *revision)),
            Account::Holder(_) => return None,
        };
        Some(Self { tenant: key.tenant.clone(), server: key.server.clone(), connection })
    }

    /// Names hold letters, digits and dashes only, so an underscore separates them for certain.
    fn dir_name(&self) -> String {
        match &self.connection {
            None => format!("{}_{}", self.tenant, self.server),
            Some((name, revision)) => format!("{}_{}_{name}_{revision}", self.tenant, self.server),
        }
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('_');
        let (tenant, server) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let connection = match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => None,
            (Some(name), Some(revision), None) => Some((name.parse().ok()?, revision.parse().ok()?)),
            _ => return None,
        };
        Some(Self { tenant, server, connection })
    }

    /// Whether the other is this one's of another revision.
    fn outdates(&self, other: &Self) -> bool {
        let name = |home: &Self| home.connection.as_ref().map(|(name, _)| name.clone());
        self != other && self.tenant == other.tenant && self.server == other.server && name(self) == name(other)
    }
}

/// Where the homes are. Everything here blocks on the file system.
#[derive(Clone, Debug)]
pub(crate) struct Homes(PathBuf);

impl Homes {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self(root)
    }

    /// The directory of a home, mode 0700, made if it is not there.
    pub(crate) fn open(&self, home: &Home) -> io::Result<PathBuf> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        let path = self.0.join(home.dir_name());
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // Not through a link: a server may do what it likes within its home, but not with our directory.
        if !fs::symlink_metadata(&path)?.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, "the server's home is no directory"));
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
        Ok(path)
    }

    /// The homes of the same connection under other revisions.
    pub(crate) fn outdated(&self, by: &Home) -> Vec<Home> {
        self.all().into_iter().filter(|h| by.outdates(h)).collect()
    }

    /// Every home there is.
    pub(crate) fn all(&self) -> Vec<Home> {
        names(&self.0).iter().filter_map(|n| Home::parse(n)).collect()
    }

    /// Puts homes aside at once and gives what has to be removed: a process that starts in this moment gets a new one.
    pub(crate) fn put_aside(&self, homes: &[Home]) -> Vec<PathBuf> {
        for home in homes.iter().take(MAX_REMOVED) {
            let mut random = [0u8; 8];
            if getrandom::fill(&mut random).is_err() {
                break;
            }
            let aside = self.0.join(format!("{GONE}{:016x}", u64::from_ne_bytes(random)));
            if let Err(error) = fs::rename(self.0.join(home.dir_name()), aside) {
                tracing::warn!(?home, %error, "a server's home can't be put aside");
            }
        }
        // With what an earlier clean-up did not get to.
        let gone = names(&self.0);
        gone.iter().filter(|n| n.starts_with(GONE)).take(MAX_REMOVED).map(|n| self.0.join(n)).collect()
    }
}

/// Removes what was put aside.
pub(crate) fn remove(aside: &[PathBuf]) {
    for path in aside {
        if let Err(error) = fs::remove_dir_all(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %path.display(), %error, "a server's old home can't be removed");
        }
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(server: &str, connection: Option<(&str, u64)>) -> Home {
        let connection = connection.map(|(name, revision)| (name.parse().unwrap(), revision));
        Home { tenant: "acme".parse().unwrap(), server: server.parse().unwrap(), connection }
    }

    #[test]
    fn names_are_read_back() {
        for home in [home("a-b", None), home("a", Some(("b", 7))), home("a", Some(("b-1", 0)))] {
            assert_eq!(Home::parse(&home.dir_name()), Some(home));
        }
        for other in ["", "acme", "acme_a_b", "acme_a_b_x", "acme_a_b_1_2", ".gone-1", "acme_..", "Acme_a"] {
            assert_eq!(Home::parse(other), None, "{other}");
        }
    }

    #[test]
    fn homes_are_private_kept_and_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let homes = Homes::new(dir.path().join("homes"));
        let (old, new, other) = (home("a", Some(("c", 1))), home("a", Some(("c", 2))), home("a", Some(("d", 1))));
        for home in [&old, &new, &other] {
            let path = homes.open(home).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
            fs::write(path.join("kept"), "").unwrap();
            assert!(homes.open(home).unwrap().join("kept").exists());
        }
        assert_eq!(homes.outdated(&new), std::slice::from_ref(&old));
        let aside = homes.put_aside(std::slice::from_ref(&old));
        assert!(!homes.open(&old).unwrap().join("kept").exists(), "a new one, empty");
        remove(&aside);
        assert_eq!(homes.all().len(), 3);
        assert_eq!(names(&dir.path().join("homes")).len(), 3);

        std::os::unix::fs::symlink("/", dir.path().join("homes/acme_linked")).unwrap();
        assert!(homes.open(&home("linked", None)).is_err());
    }
}
