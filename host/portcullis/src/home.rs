//! Where things are when nobody says: one directory for a person's own gateway.

use std::{
    env, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

/// The name of the socket in a data directory.
pub const SOCKET: &str = "admin.sock";

/// The data directory of a gateway that nobody configured: `$PORTCULLIS_HOME`, or `portcullis` in the user's data directory
/// (XDG Base Directory Specification 0.8).
///
/// # Errors
/// Where the environment names none of them.
pub fn data_dir() -> io::Result<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    if let Some(home) = absolute("PORTCULLIS_HOME") {
        return Ok(home);
    }
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|h| h.join(".local/share")))
        .map(|base| base.join("portcullis"))
        .ok_or_else(|| io::Error::other("neither HOME nor XDG_DATA_HOME nor PORTCULLIS_HOME is set"))
}

/// The socket that commands ask where none is named.
///
/// # Errors
/// Those of [`data_dir`].
pub fn socket() -> io::Result<PathBuf> {
    Ok(data_dir()?.join(SOCKET))
}

/// Makes a directory that only its owner can read, with what is above it.
///
/// # Errors
/// Those of the file system.
pub fn private_dir(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a file that only its owner can read, whole or not at all.
///
/// # Errors
/// Those of the file system.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let fresh = path.with_extension(format!("new{}", std::process::id()));
    let _ = std::fs::remove_file(&fresh);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)
}
