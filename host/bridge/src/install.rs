//! `install`: this very program, copied to where another container of the pod finds it. The image that holds it has nothing else, and so no
//! program that copies.

use std::{ffi::OsString, fs, io, os::unix::fs::PermissionsExt as _, path::PathBuf};

/// Copies this program to a path, whole or not at all.
///
/// # Errors
/// Where no path is named, or it can't be written.
pub fn install(mut args: impl Iterator<Item = OsString>) -> io::Result<()> {
    let (Some(to), None) = (args.next().map(PathBuf::from), args.next()) else {
        return Err(io::Error::other("name one path to copy this program to"));
    };
    let aside = to.with_extension("new");
    fs::copy("/proc/self/exe", &aside)?;
    // Also where it came from a file that only its owner runs.
    fs::set_permissions(&aside, fs::Permissions::from_mode(0o555))?;
    fs::rename(aside, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_copied_whole_and_can_be_run() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("bridge");
        install([to.clone().into_os_string()].into_iter()).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().len(), fs::metadata("/proc/self/exe").unwrap().len());
        assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o555);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        assert!(install([].into_iter()).is_err() && install(["/nowhere/at/all".into()].into_iter()).is_err());
    }
}
