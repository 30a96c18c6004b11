//! How the client reaches a gateway: its socket on this machine, or its admin listener with a token.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use portcullis_model::Secret;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use url::Url;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Where a gateway is.
#[derive(Clone)]
pub(super) enum Place {
    /// Its socket.
    Socket(PathBuf),
    /// Its admin listener.
    Listener {
        /// `http://` or `https://`, without a path of its own.
        url: Url,
        /// What proves who asks.
        token: Secret,
        /// Whose certificates are believed.
        tls: Arc<rustls::ClientConfig>,
    },
}

/// Something to speak HTTP over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Place {
    /// As people read it.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Socket(path) => path.display().to_string(),
            Self::Listener { url, .. } => url.origin().ascii_serialization(),
        }
    }

    /// What `Host` says.
    pub(super) fn host(&self) -> String {
        match self {
            Self::Socket(_) => "portcullis".to_owned(),
            Self::Listener { url, .. } => url.authority().to_owned(),
        }
    }

    /// Connects. What this machine sends goes nowhere but to the place that was named.
    pub(super) async fn connect(&self) -> io::Result<TokioIo<Box<dyn Stream>>> {
        let connected = tokio::time::timeout(CONNECT, self.open()).await;
        connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map(TokioIo::new)
    }

    async fn open(&self) -> io::Result<Box<dyn Stream>> {
        let (url, tls) = match self {
            Self::Socket(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
            Self::Listener { url, tls, .. } => (url, tls),
        };
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().unwrap_or(443);
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        if url.scheme() == "http" {
            return Ok(Box::new(stream));
        }
        let name = rustls::pki_types::ServerName::try_from(host).map_err(io::Error::other)?;
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(tls));
        Ok(Box::new(connector.connect(name, stream).await?))
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown())
    }
}
