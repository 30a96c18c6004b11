//! A way to another address that can be cut and mended: what a lost network, or an API server that is gone, looks like.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// The way. Dropped, it is cut for good.
pub struct Cut {
    address: SocketAddr,
    open: watch::Sender<bool>,
    connections: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Cut {
    /// A way to `there`, open.
    ///
    /// # Errors
    /// Where no port can be had.
    pub async fn to(there: String) -> anyhow::Result<Self> {
        Self::between(([127, 0, 0, 1], 0).into(), there).await
    }

    /// A way that begins at this address.
    ///
    /// # Errors
    /// Where it can't be had.
    pub async fn between(here: SocketAddr, there: String) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(here).await?;
        let address = listener.local_addr()?;
        let open = watch::Sender::new(true);
        let connections = Arc::new(AtomicU64::new(0));
        let (state, count) = (open.clone(), Arc::clone(&connections));
        let task = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut state = state.subscribe();
                if !*state.borrow() {
                    // Dropped: the other side reads an end.
                    continue;
                }
                count.fetch_add(1, Ordering::Relaxed);
                let there = there.clone();
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(there).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = state.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        Ok(Self { address, open, connections, task })
    }

    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection, and all that come from now on.
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.open.send_replace(true);
    }

    /// How many connections went through so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.open.send_replace(false);
        self.task.abort();
    }
}
