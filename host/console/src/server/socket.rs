//! The socket itself: one owner, mode 0600, and nobody but that user and root gets an answer.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use tokio::net::{UnixListener, UnixStream};

/// `sockaddr_un` has room for 108 bytes, the last of them a zero.
const MAX_PATH: usize = 107;

/// Why the socket can't be served.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path is longer than sockets may have.
    #[error("{} is too long for a socket ({MAX_PATH} bytes are the most): set `socket` to a shorter path", .0.display())]
    TooLong(PathBuf),
    /// Somebody answers there.
    #[error("another gateway is already serving {}", .0.display())]
    InUse(PathBuf),
    /// Something else stands there.
    #[error("{} exists and is no socket", .0.display())]
    NotASocket(PathBuf),
    /// The directory could be written to by others, who could put their own socket there.
    #[error("{} can be written to by others: use a directory of your own (chmod 700)", .0.display())]
    Exposed(PathBuf),
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Whoever is at the other end, as the kernel says.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The user.
    pub uid: u32,
    /// The process, where the kernel says.
    pub pid: Option<i32>,
}

/// The bound socket.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    uid: u32,
}

impl AdminSocket {
    /// Binds the socket, making its directory (0700) where there is none and replacing a socket that nobody answers at.
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let fail = |source| SocketError::Io { path: path.to_owned(), source };
        let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(fail)?;
        let meta = fs::metadata(directory).map_err(fail)?;
        // With the sticky bit, as on /tmp, others can't replace what is ours.
        if meta.mode() & 0o022 != 0 && meta.mode() & 0o1000 == 0 {
            return Err(SocketError::Exposed(directory.to_owned()));
        }
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let fresh = directory.join(format!(".{name}.{}", std::process::id()));
        if path.as_os_str().len().max(fresh.as_os_str().len()) > MAX_PATH {
            return Err(SocketError::TooLong(path.to_owned()));
        }
        match fs::symlink_metadata(path) {
            Ok(meta) if !std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type()) => {
                return Err(SocketError::NotASocket(path.to_owned()));
            }
            Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
                return Err(SocketError::InUse(path.to_owned()));
            }
            Ok(_) | Err(_) => {}
        }
        // Bound under another name first, so that nobody meets it before its mode is right.
        let _ = fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh).map_err(fail)?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600)).map_err(fail)?;
        fs::rename(&fresh, path).map_err(fail)?;
        let uid = fs::metadata(path).map_err(fail)?.uid();
        Ok(Self { listener, path: path.to_owned(), uid })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Listener for AdminSocket {
    type Io = UnixStream;
    type Addr = Peer;

    async fn accept(&mut self) -> (UnixStream, Peer) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match stream.peer_cred() {
                    // Servers run as the same user, and what they are kept from does not reach sockets on every kernel.
                    Ok(peer) if peer.pid().is_some_and(portcullis_child::descends) => {
                        tracing::warn!(
                            pid = peer.pid(),
                            "refused a process that this gateway started at the admin socket"
                        );
                    }
                    Ok(peer) if peer.uid() == self.uid || peer.uid() == 0 => {
                        return (stream, Peer { uid: peer.uid(), pid: peer.pid() });
                    }
                    Ok(peer) => tracing::warn!(uid = peer.uid(), "refused another user at the admin socket"),
                    Err(error) => tracing::warn!(%error, "refused an unknown user at the admin socket"),
                },
                Err(error) => {
                    // Out of file descriptors, most likely: those in use come back.
                    tracing::warn!(%error, "the admin socket can't accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer { uid: self.uid, pid: None })
    }
}

impl Connected<IncomingStream<'_, AdminSocket>> for Peer {
    fn connect_info(stream: IncomingStream<'_, AdminSocket>) -> Self {
        *stream.remote_addr()
    }
}
