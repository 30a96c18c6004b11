//! Secrets in the gateway's environment and in files.

use std::{fs::File, io::Read};

use portcullis_model::{Secret, spec::SecretSource};
use zeroize::Zeroizing;

use super::place;
use crate::secrets::MAX_FIELD_BYTES;

/// Reads a variable or a file. Blocks.
///
/// # Errors
/// A sentence that names the source and never what is in it.
pub(crate) fn read(source: &SecretSource) -> Result<Secret, String> {
    let bytes = match source {
        SecretSource::Env(name) => {
            let value = std::env::var_os(name).ok_or_else(|| format!("the variable {name} is not set"))?;
            Zeroizing::new(std::os::unix::ffi::OsStringExt::into_vec(value))
        }
        SecretSource::File(path) => file(path)?,
        SecretSource::Vault(_) | SecretSource::Kubernetes(_) => {
            return Err(format!("{} is neither a variable nor a file", place(source)));
        }
    };
    match bytes.len() {
        0 => Err(format!("{} is empty", place(source))),
        n if n > MAX_FIELD_BYTES => Err(format!("{} holds more than {MAX_FIELD_BYTES} bytes", place(source))),
        _ => Ok(Secret::new(bytes.as_slice())),
    }
}

fn file(path: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    let file = File::open(path).map_err(|e| format!("the file {path} can't be opened: {}", e.kind()))?;
    let limit = u64::try_from(MAX_FIELD_BYTES + 2).unwrap_or(u64::MAX);
    file.take(limit).read_to_end(&mut bytes).map_err(|e| format!("the file {path} can't be read: {}", e.kind()))?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    Ok(bytes)
}
