//! The key that a gateway and this bridge share, where a gateway runs it: taken from the environment, kept from the server.

use std::{collections::BTreeMap, env, ffi::OsString, net::IpAddr, os::unix::ffi::OsStringExt as _};

use portcullis_model::Secret;
use portcullis_protocol::proof::{ANSWER, Answer, BEGIN, HELLO, PROOF};
use rustix::process::DumpableBehavior;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// The variable that holds it. No server gets to see it.
pub const VARIABLE: &str = "PORTCULLIS_BRIDGE_KEY";
/// A shorter one could be guessed.
const LEAST: usize = 32;

/// Why the key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It could be guessed.
    #[error("{VARIABLE} has fewer than {LEAST} characters")]
    Short,
    /// The server could read it.
    #[error("the server can't be kept from reading {VARIABLE}: {0}")]
    Exposed(rustix::io::Errno),
}

/// The key, where there is one. The server runs as the same user and must not read it in this process: from here on nobody but the
/// system's administrator reads its memory and its environment (prctl(2), PR_SET_DUMPABLE).
///
/// # Errors
/// [`KeyError`].
pub(crate) fn take() -> Result<Option<Secret>, KeyError> {
    let Some(value) = env::var_os(VARIABLE) else { return Ok(None) };
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(KeyError::Exposed)?;
    let key = Secret::new(value.into_vec());
    if key.len() < LEAST { Err(KeyError::Short) } else { Ok(Some(key)) }
}

/// The environment of a server: ours, without the key.
pub(crate) fn environment() -> BTreeMap<OsString, OsString> {
    env::vars_os().filter(|(name, _)| name != VARIABLE).collect()
}

/// Whether who connected proves that they hold the key. Who does not even try is a probe, or a stranger with a token at best.
///
/// # Errors
/// Where the connection breaks off.
pub(crate) async fn proven(stream: &mut TcpStream, key: &Secret) -> std::io::Result<bool> {
    let mut first = [0];
    // Left there for whoever reads the request.
    if stream.peek(&mut first).await? == 0 || first[0] != BEGIN[0] {
        return Ok(false);
    }
    let mut hello = [0; HELLO];
    stream.read_exact(&mut hello).await?;
    let at: IpAddr = stream.local_addr()?.ip();
    let Some(answer) = Answer::to(&hello, at, key) else {
        return Err(std::io::Error::other("it begins as no gateway does"));
    };
    let bytes: [u8; ANSWER] = *answer.bytes();
    stream.write_all(&bytes).await?;
    let mut proof = [0; PROOF];
    stream.read_exact(&mut proof).await?;
    Ok(answer.admits(&proof))
}
