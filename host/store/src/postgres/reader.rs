//! Reads: one connection for all of them, which the client sends one after another without waiting.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Mutex, Semaphore};
use tokio_postgres::{Row, Statement, types::ToSql};

use super::{
    backoff::Backoff,
    connect::{Conn, Statements, in_time},
    options::PostgresOptions,
    sort::Failed,
};
use crate::StoreError;

/// The most reads at once.
const READS: usize = 256;
/// How long a read is tried again where connections break.
const PATIENCE: Duration = Duration::from_secs(2);

/// What reads.
pub(super) struct Reader {
    options: PostgresOptions,
    conn: Mutex<Option<Arc<Conn>>>,
    room: Semaphore,
}

impl Reader {
    pub(super) fn new(options: PostgresOptions, conn: Conn) -> Self {
        Self { options, conn: Mutex::new(Some(Arc::new(conn))), room: Semaphore::new(READS) }
    }

    /// The rows that a statement finds.
    pub(super) async fn rows(
        &self,
        which: fn(&Statements) -> &Statement,
        with: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        let closed = |_| StoreError::Unavailable("it was closed".to_owned());
        let _room = self.room.acquire().await.map_err(closed)?;
        let until = Instant::now() + PATIENCE;
        let mut backoff = Backoff::default();
        loop {
            let failed = match self.connected().await {
                Ok(conn) => match in_time("reading", conn.client.query(which(&conn.does), with)).await {
                    Ok(rows) => return Ok(rows),
                    Err(failed) => {
                        self.broken(&conn).await;
                        failed
                    }
                },
                Err(failed) => failed,
            };
            match failed {
                Failed::Lost(_) if Instant::now() < until => backoff.pause().await,
                other => return Err(other.into_error()),
            }
        }
    }

    async fn connected(&self) -> Result<Arc<Conn>, Failed> {
        // Whoever finds none makes one, and the others wait for that.
        let mut conn = self.conn.lock().await;
        if let Some(conn) = conn.as_ref().filter(|conn| !conn.is_closed()) {
            return Ok(Arc::clone(conn));
        }
        let fresh = Arc::new(Conn::open(&self.options).await?);
        *conn = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

    /// Lets go of a connection on which something went wrong, unless somebody did already.
    async fn broken(&self, which: &Arc<Conn>) {
        let mut conn = self.conn.lock().await;
        if conn.as_ref().is_some_and(|conn| Arc::ptr_eq(conn, which)) {
            *conn = None;
        }
    }
}
