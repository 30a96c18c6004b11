//! Following the change log: whatever anybody committed, in the order of the commits, into the log in memory.
//!
//! A notification says that there is something; reading it goes by the revision that is known, so one that is lost or late costs
//! [`TICK`] and nothing else.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    sync::{Mutex, Notify, watch},
    time::timeout,
};

use super::{
    backoff::Backoff,
    connect::{CHANNEL, Conn, in_time},
    options::PostgresOptions,
    schema::{number, revision},
    sort::Failed,
};
use crate::{Change, Record, Revision, StoreError, watch::Log};

/// How often the change log is read where nothing was heard.
const TICK: Duration = Duration::from_millis(500);
/// How long one reading may take before the connection counts as broken.
const READING: Duration = Duration::from_secs(3);
/// How old what is known may be before it is asked for: a replica whose watch is silent for so long asks the store at each call.
pub(super) const SILENT: Duration = Duration::from_secs(2);
/// How long such a question may take.
const ASKING: Duration = Duration::from_secs(1);

/// What is known of the database, and when it was.
pub(super) struct Tail {
    pub(super) log: Arc<Log>,
    /// Held while the log is read and published, so that everything is published once and in order.
    mark: Mutex<Mark>,
    started: Instant,
    /// When the database was last known to hold nothing newer, in milliseconds since `started`.
    heard: AtomicU64,
    hearing: watch::Sender<()>,
    asked: Notify,
    /// Why the database can't be trusted any more, once that is so.
    foreign: std::sync::OnceLock<StoreError>,
    /// Why it can't be reached just now.
    trouble: std::sync::Mutex<Option<String>>,
}

/// Where the history that is known ends.
struct Mark {
    store: Vec<u8>,
    /// The name of the last commit that is known.
    last: Option<Vec<u8>>,
}

/// One answer of the database.
struct Seen {
    store: Vec<u8>,
    head: Revision,
    last: Option<Vec<u8>>,
    floor: Revision,
    /// The name of the commit of the revision that was asked from.
    from: Option<Vec<u8>>,
    changes: Vec<Change>,
}

impl Tail {
    /// Reads the whole change log.
    pub(super) async fn open(conn: &Conn) -> Result<Self, Failed> {
        let asked = Instant::now();
        let seen = read(conn, Revision(0)).await?;
        let log = Log::new(seen.floor, seen.head, seen.changes);
        let mark = Mark { store: seen.store, last: seen.last };
        Ok(Self {
            log,
            mark: Mutex::new(mark),
            started: asked,
            heard: AtomicU64::new(0),
            hearing: watch::Sender::new(()),
            asked: Notify::new(),
            foreign: std::sync::OnceLock::new(),
            trouble: std::sync::Mutex::default(),
        })
    }

    /// Publishes everything that the database holds beyond what is known.
    ///
    /// # Errors
    /// [`StoreError::Foreign`] where it holds another history than what is known: it was put back, or is another.
    pub(super) async fn catch_up(&self, conn: &Conn) -> Result<(), Failed> {
        if let Some(foreign) = self.foreign.get() {
            return Err(foreign.clone().into());
        }
        let mut mark = self.mark.lock().await;
        let asked = Instant::now();
        let known = self.log.revision();
        let seen = read(conn, known).await?;
        // What is beyond the change log's floor can't be compared any more, and everybody has to read again anyway.
        let comparable = seen.floor <= known && known > Revision(0);
        if seen.store != mark.store || seen.head < known || (comparable && seen.from != mark.last) {
            let error = StoreError::Foreign(format!(
                "the database holds another history than the one known here, which ends at revision {known}: it was put back to \
                 an earlier state, or is another. Restart the gateway to go on with what it holds"
            ));
            tracing::error!(%error, "the store is no longer used");
            return Err(self.foreign.get_or_init(|| error).clone().into());
        }
        if seen.floor > known {
            self.log.restart(seen.floor, seen.head, seen.changes);
        } else if seen.head > known {
            self.log.publish(seen.head, seen.changes);
        }
        mark.last = seen.last;
        let heard = u64::try_from(asked.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX);
        self.heard.fetch_max(heard, Ordering::AcqRel);
        self.hearing.send_replace(());
        Ok(())
    }

    /// How long ago the database was known to hold nothing newer.
    pub(super) fn age(&self) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_millis(self.heard.load(Ordering::Acquire)))
    }

    /// Why the database can't be used, if it can't.
    pub(super) fn trouble(&self) -> Option<String> {
        if let Some(foreign) = self.foreign.get() {
            return Some(foreign.to_string());
        }
        self.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Where the database was not heard of for [`SILENT`], asks it. Answers how old what is known still is. One that is known not
    /// to be reachable is not waited for: it is asked all the time anyway.
    pub(super) async fn current(&self) -> Duration {
        if self.age() <= SILENT || self.trouble().is_some() {
            return self.age();
        }
        let mut hearing = self.hearing.subscribe();
        let before = Instant::now();
        self.asked.notify_one();
        let heard = async {
            // Something that was under way already when the question came answers nothing.
            while self.age() > before.elapsed() && hearing.changed().await.is_ok() {}
        };
        // Whoever asks in vain is told how old it is.
        let _ = timeout(ASKING, heard).await;
        self.age()
    }

    fn said(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = trouble;
    }
}

/// Reads what is newer than a revision.
async fn read(conn: &Conn, from: Revision) -> Result<Seen, Failed> {
    let rows = in_time("reading changes", conn.client.query(&conn.does.since, &[&number(from)])).await?;
    let Some(first) = rows.first() else {
        return Err(StoreError::Corrupt("its head is missing".to_owned()).into());
    };
    let mut seen = Seen {
        store: first.get(0),
        head: revision(first.get(1)),
        last: first.get(2),
        floor: revision(first.get(3)),
        from: first.get(4),
        changes: Vec::new(),
    };
    for row in &rows {
        // The head alone is one row without a change.
        let Some(at) = row.get::<_, Option<i64>>(5).map(revision) else { continue };
        let key: Arc<str> = text(row.get(7))?.into();
        if row.get(6) {
            seen.changes.push(Change::Deleted { key, revision: at });
        } else if let Some(value) = row.get::<_, Option<&[u8]>>(8) {
            seen.changes.push(Change::Put(Record { key, value: Bytes::copy_from_slice(value), revision: at }));
        }
    }
    Ok(seen)
}

/// A key as the database has it.
pub(super) fn text(key: &[u8]) -> Result<&str, StoreError> {
    std::str::from_utf8(key).map_err(|_| StoreError::Corrupt("a key is no text".to_owned()))
}

/// Follows the database until the store is gone.
pub(super) async fn follow(tail: Weak<Tail>, options: PostgresOptions) {
    let mut backoff = Backoff::default();
    loop {
        let lost = match Conn::open(&options).await {
            Err(error) => error,
            Ok(conn) => match listen(&tail, &conn, &options, &mut backoff).await {
                Some(error) => error,
                None => return,
            },
        };
        let Some(strong) = tail.upgrade() else { return };
        let error = lost.into_error();
        if strong.trouble().is_none() {
            tracing::warn!(%error, "the database can't be followed; what is known goes on serving for a while");
        }
        strong.said(Some(error.to_string()));
        options.metrics.store_reachable.set(0);
        options.metrics.store_age.set(i64::try_from(strong.age().as_secs()).unwrap_or(i64::MAX));
        drop(strong);
        backoff.pause().await;
    }
}

/// Follows one connection until it breaks, and answers why; none where the store is gone.
async fn listen(tail: &Weak<Tail>, conn: &Conn, options: &PostgresOptions, backoff: &mut Backoff) -> Option<Failed> {
    if let Err(error) = in_time("listening", conn.client.batch_execute(&format!("LISTEN {CHANNEL}"))).await {
        return Some(error);
    }
    loop {
        let strong = tail.upgrade()?;
        match timeout(READING, strong.catch_up(conn)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Some(error),
            Err(_) => return Some(Failed::late("following")),
        }
        if strong.trouble().is_some() {
            tracing::info!("the database is followed again");
        }
        strong.said(None);
        backoff.reset();
        options.metrics.store_reachable.set(1);
        options.metrics.store_age.set(0);
        // The store may be dropped while this waits: a tick later it is noticed.
        tokio::select! {
            () = conn.news() => {}
            () = strong.asked.notified() => {}
            () = tokio::time::sleep(TICK) => {}
        }
        if conn.is_closed() {
            return Some(Failed::Lost(StoreError::Unavailable("the connection to the database ended".to_owned())));
        }
    }
}
