//! The first bytes of a connection: they come in time, or the connection ends.
//!
//! Which version of HTTP a client speaks is known after the 24 bytes of HTTP/2's preface (RFC 9113 section 3.4) at the latest, and
//! only then does the server begin to measure how long a request takes to come. Until then this does.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use crate::listener::PATIENCE;

/// The length of HTTP/2's preface.
const PREFACE: usize = 24;

/// A stream whose first bytes are waited for.
pub struct Opening<S> {
    stream: S,
    read: usize,
    patience: Option<Pin<Box<Sleep>>>,
}

impl<S> Opening<S> {
    /// The time begins now.
    pub fn new(stream: S) -> Self {
        Self { stream, read: 0, patience: Some(Box::pin(tokio::time::sleep(PATIENCE))) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Opening<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if self.patience.is_none() {
            return polled;
        }
        self.read += buf.filled().len() - before;
        if self.read >= PREFACE {
            self.patience = None;
        } else if polled.is_pending()
            && let Some(patience) = &mut self.patience
            && patience.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opening<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_says_too_little_is_not_waited_for() {
        for first in ["", "PRI * HT"] {
            let (mut client, server) = tokio::io::duplex(64);
            client.write_all(first.as_bytes()).await.unwrap();
            let mut server = Opening::new(server);
            let error = server.read_to_end(&mut Vec::new()).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{first:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_first_bytes_others_measure() {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(b"POST /mcp/default HTTP/1.1\r\n").await.unwrap();
        let mut server = Opening::new(server);
        let mut buffer = [0; 28];
        server.read_exact(&mut buffer).await.unwrap();
        let idle = tokio::time::timeout(10 * PATIENCE, server.read_u8()).await;
        assert!(idle.is_err(), "still open");
    }
}
