//! The store of several gateways: PostgreSQL, of any version that is supported.
//!
//! Three connections: one that follows the change log (`tail`), one that writes (`writer`), one that reads (`reader`). Each is made
//! again when it breaks. The decision record `docs/decisions/0038-state-of-several-gateways.md` says how revisions stay in the order
//! of the commits.

mod backoff;
mod connect;
pub(crate) mod copy;
mod options;
mod reader;
mod schema;
mod sort;
mod tail;
mod tls;
mod writer;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_postgres::Row;

pub use options::{PostgresOptions, UrlError};

use crate::{BoxFuture, MAX_SCAN, Record, Revision, Store, StoreError, Watch, Write, group::fits};
use backoff::Backoff;
use connect::{ANSWER, Conn, Raw};
use reader::Reader;
use sort::Failed;
use tail::{Tail, text};
use writer::{Job, Writer};

/// How many batches may wait for the writer before writers have to wait themselves.
const QUEUE: usize = 1024;
/// No key sorts behind this one: UTF-8 has no such byte.
const END: &[u8] = &[0xff];

/// A store in a database, for any number of processes.
pub struct PostgresStore {
    tail: Arc<Tail>,
    reader: Reader,
    queue: mpsc::Sender<Job>,
    place: String,
}

impl PostgresStore {
    /// Opens the store of a database, whose tables are made or brought up to date, on the current tokio runtime.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where the database can't be reached within the patience, or does not let us in;
    /// [`StoreError::Foreign`] where a newer version of Portcullis has used it; [`StoreError::Corrupt`] where its tables do not
    /// agree with each other.
    pub async fn open(options: PostgresOptions) -> Result<Arc<Self>, StoreError> {
        let until = Instant::now() + options.patience;
        let mut backoff = Backoff::default();
        let (writing, tail) = loop {
            match Box::pin(Self::begin(&options)).await {
                Ok(opened) => break opened,
                Err(Failed::Lost(error)) if Instant::now() < until => {
                    tracing::info!(%error, "waiting for the database");
                    backoff.pause().await;
                }
                Err(failed) => return Err(failed.into_error()),
            }
        };
        let reading = Conn::open(&options).await.map_err(Failed::into_error)?;
        let tail = Arc::new(tail);
        let (queue, jobs) = mpsc::channel(QUEUE);
        tokio::spawn(Writer::new(options.clone(), Arc::clone(&tail), writing).run(jobs));
        tokio::spawn(tail::follow(Arc::downgrade(&tail), options.clone()));
        let place = options.place();
        Ok(Arc::new(Self { tail, reader: Reader::new(options, reading), queue, place }))
    }

    async fn begin(options: &PostgresOptions) -> Result<(Conn, Tail), Failed> {
        let begin = async {
            let raw = Raw::open(options).await?;
            schema::migrate(&raw.client).await?;
            schema::verify(&raw.client).await?;
            let conn = raw.prepared().await?;
            let tail = Tail::open(&conn).await?;
            Ok((conn, tail))
        };
        // Migrations and a first look at a large store take longer than other answers.
        timeout(ANSWER * 6, begin).await.map_err(|_| Failed::late("opening"))?
    }

    /// The database in words, without a password.
    pub fn place(&self) -> &str {
        &self.place
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.tail.log.close();
    }
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore").field("place", &self.place).finish_non_exhaustive()
    }
}

fn record(row: &Row) -> Result<Record, StoreError> {
    let value: &[u8] = row.get(2);
    Ok(Record {
        key: text(row.get(0))?.into(),
        value: Bytes::copy_from_slice(value),
        revision: schema::revision(row.get(1)),
    })
}

/// The first key that does not begin with `prefix` any more.
fn beyond(prefix: &str) -> Vec<u8> {
    let mut key = prefix.as_bytes().to_vec();
    match key.pop() {
        None => END.to_vec(),
        // Bytes of UTF-8 are smaller than 0xff.
        Some(last) => {
            key.push(last + 1);
            key
        }
    }
}

impl Store for PostgresStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Record>, StoreError>> {
        Box::pin(async move {
            let rows = self.reader.rows(|does| &does.get, &[&key.as_bytes()]).await?;
            rows.first().map(record).transpose()
        })
    }

    fn scan<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Record>, StoreError>> {
        Box::pin(async move {
            let start = match after {
                // The first key that sorts after another is that one with a zero behind it.
                Some(after) if after >= prefix => [after.as_bytes(), b"\0"].concat(),
                _ => prefix.as_bytes().to_vec(),
            };
            let limit = i64::try_from(limit.min(MAX_SCAN)).unwrap_or(0);
            let rows = self.reader.rows(|does| &does.scan, &[&start, &beyond(prefix), &limit]).await?;
            rows.iter().map(record).collect()
        })
    }

    fn write(&self, batch: Vec<Write>) -> BoxFuture<'_, Result<Revision, StoreError>> {
        Box::pin(async move {
            fits(&batch)?;
            let closed = || StoreError::Unavailable("its writer has ended".to_owned());
            let (answer, answered) = oneshot::channel();
            self.queue.send(Job { batch, answer }).await.map_err(|_| closed())?;
            answered.await.map_err(|_| closed())?
        })
    }

    fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        self.tail.log.watch(prefix, from)
    }

    fn revision(&self) -> Revision {
        self.tail.log.revision()
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn age(&self) -> Duration {
        self.tail.age()
    }

    fn trouble(&self) -> Option<String> {
        self.tail.trouble()
    }

    fn current(&self) -> BoxFuture<'_, Duration> {
        Box::pin(self.tail.current())
    }
}
