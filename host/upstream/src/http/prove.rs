//! A new connection to a host that was found by whoever runs it: nothing is sent there before both sides have proven that they hold the
//! same key, since the address of a host that is gone may be somebody else's by now.

use std::{
    error::Error,
    io,
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use portcullis_model::Secret;
use portcullis_protocol::proof::{ANSWER, Hello};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tower::Service;

use crate::{BoxFuture, hosts::Hosts, http::resolve::Resolver};

/// A connector whose connections are proven, where their host asks for that.
#[derive(Clone)]
pub(crate) struct Proving {
    inner: HttpConnector<Resolver>,
    hosts: Option<Arc<dyn Hosts>>,
    patience: Duration,
}

impl Proving {
    /// `patience` is how long a proof may take.
    pub(crate) fn new(inner: HttpConnector<Resolver>, hosts: Option<Arc<dyn Hosts>>, patience: Duration) -> Self {
        Self { inner, hosts, patience }
    }
}

impl Service<Uri> for Proving {
    type Response = TokioIo<TcpStream>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let host = self.hosts.clone().zip(uri.host().map(str::to_owned));
        let (opening, patience) = (self.inner.call(uri), self.patience);
        Box::pin(async move {
            let mut stream = opening.await?;
            if let Some((hosts, host)) = host {
                let at = stream.inner().peer_addr()?.ip();
                if let Some(keys) = hosts.keys(&host, at) {
                    let proving = prove(stream.inner_mut(), at, &keys);
                    let late = || {
                        io::Error::other(
                            "whoever answers at the server's address does not prove in time that it is the server",
                        )
                    };
                    tokio::time::timeout(patience, proving).await.map_err(|_| late())??;
                }
            }
            Ok(stream)
        })
    }
}

async fn prove(stream: &mut TcpStream, at: IpAddr, keys: &[Secret]) -> io::Result<()> {
    let hello = Hello::new().map_err(io::Error::other)?;
    stream.write_all(&hello.bytes()).await?;
    let mut answer = [0; ANSWER];
    stream.read_exact(&mut answer).await.map_err(|_| stranger())?;
    let proof = hello.prove(&answer, at, keys).ok_or_else(stranger)?;
    stream.write_all(&proof).await
}

fn stranger() -> io::Error {
    io::Error::other("whoever answers at the server's address is not the server")
}
