//! Secrets in the gateway's environment and in files.

use std::{fs::File, io::Read};

use portcullis_model::{Secret, spec::SecretSource};
use zeroize::Zeroizing;

use super::{SourceError, place};
use crate::secrets::MAX_FIELD_BYTES;

/// Reads a variable or a file. Blocks.
///
/// # Errors
/// [`SourceError`].
pub(crate) fn read(source: &SecretSource) -> Result<Secret, SourceError> {
    let bytes = match source {
        SecretSource::Env(name) => {
            let value = std::env::var_os(name).ok_or_else(|| SourceError::Unset(name.clone()))?;
            Zeroizing::new(std::os::unix::ffi::OsStringExt::into_vec(value))
        }
        SecretSource::File(path) => file(path)?,
        SecretSource::Vault(_) | SecretSource::Kubernetes(_) => {
            return Err(SourceError::Elsewhere(place(source)));
        }
    };
    match bytes.len() {
        0 => Err(SourceError::Empty(place(source))),
        n if n > MAX_FIELD_BYTES => Err(SourceError::TooLong(place(source))),
        _ => Ok(Secret::new(bytes.as_slice())),
    }
}

fn file(path: &str) -> Result<Zeroizing<Vec<u8>>, SourceError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    let file = File::open(path).map_err(|e| SourceError::Unopened(path.to_owned(), e.kind()))?;
    let limit = u64::try_from(MAX_FIELD_BYTES + 2).unwrap_or(u64::MAX);
    file.take(limit).read_to_end(&mut bytes).map_err(|e| SourceError::Unread(path.to_owned(), e.kind()))?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    Ok(bytes)
}
