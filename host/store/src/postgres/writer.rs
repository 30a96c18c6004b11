//! The one writer of this process: gathers what waits, commits it as one transaction, and finds out what became of a commit
//! whose connection broke.
//!
//! Writers of several gateways meet at the lock of the head's row. Until the commit is sent, a broken connection means that nothing
//! was written, so it is done again. Afterwards the next connection takes the lock, which the broken one held until it ended
//! either way, and looks for the commit's name.

use std::{
    collections::HashMap,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};
use tokio_postgres::types::ToSql;

use super::{
    backoff::Backoff,
    connect::{Conn, in_time},
    options::PostgresOptions,
    schema::{number, revision},
    sort::Failed,
    tail::{Tail, text},
};
use crate::{
    Change, Revision, StoreError, Write,
    group::{GROUP, GROUP_BYTES, Group, size},
    watch::{LOG_BYTES, LOG_ENTRIES},
};

/// How many changes more than it should hold the change log has at most before it is cut.
const CUT_ENTRIES: i64 = 1024;
/// How many bytes.
const CUT_BYTES: i64 = 1 << 20;

/// What became of a batch, or why nobody knows.
pub(super) type Outcome = Result<Revision, StoreError>;

/// A batch that waits, and who waits for it.
pub(super) struct Job {
    pub(super) batch: Vec<Write>,
    pub(super) answer: oneshot::Sender<Outcome>,
}

/// Where the head is.
struct Head {
    revision: Revision,
    records: u64,
    sequence: i64,
    bytes: i64,
    floor: Revision,
}

/// Why an attempt came to nothing.
enum Broken {
    /// Nothing was written.
    Nothing(Failed),
    /// The commit of this name was sent, and no answer came. It was to be beyond this revision.
    Unknown(Vec<u8>, Revision, Vec<Outcome>, Failed),
}

impl From<Failed> for Broken {
    fn from(failed: Failed) -> Self {
        Self::Nothing(failed)
    }
}

pub(super) struct Writer {
    options: PostgresOptions,
    tail: Arc<Tail>,
    conn: Option<Arc<Conn>>,
}

impl Writer {
    pub(super) fn new(options: PostgresOptions, tail: Arc<Tail>, conn: Conn) -> Self {
        Self { options, tail, conn: Some(Arc::new(conn)) }
    }

    /// Works until nobody can give it anything any more.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = jobs.recv().await {
            let mut bytes = size(&first.batch);
            let mut waiting = vec![first];
            while waiting.len() < GROUP
                && bytes < GROUP_BYTES
                && let Ok(job) = jobs.try_recv()
            {
                bytes += size(&job.batch);
                waiting.push(job);
            }
            let outcomes = Box::pin(self.commit(&waiting)).await;
            for (job, outcome) in waiting.into_iter().zip(outcomes) {
                // Whoever no longer waits does not mind.
                let _ = job.answer.send(outcome);
            }
        }
    }

    /// Commits, again where a connection broke before anything could have happened.
    async fn commit(&mut self, jobs: &[Job]) -> Vec<Outcome> {
        let until = Instant::now() + self.options.patience;
        let mut backoff = Backoff::default();
        loop {
            let error = match self.attempt(jobs).await {
                Ok(outcomes) => return outcomes,
                Err(Broken::Nothing(Failed::Lost(error))) => {
                    self.conn = None;
                    error
                }
                Err(Broken::Nothing(Failed::Refused(error))) => {
                    self.conn = None;
                    return vec![Err(error); jobs.len()];
                }
                Err(Broken::Unknown(name, before, outcomes, failed)) => {
                    self.conn = None;
                    match self.happened(&name, before, until).await {
                        Some(true) => return outcomes,
                        // It did not happen, and can't any more.
                        Some(false) => failed.into_error(),
                        None => {
                            let why = failed.into_error().to_string();
                            return vec![Err(StoreError::Unknown(why)); jobs.len()];
                        }
                    }
                }
            };
            if Instant::now() >= until {
                return vec![Err(error); jobs.len()];
            }
            tracing::debug!(%error, "a write is tried again");
            backoff.pause().await;
        }
    }

    async fn connected(&mut self) -> Result<Arc<Conn>, Failed> {
        if let Some(conn) = self.conn.as_ref().filter(|conn| !conn.is_closed()) {
            return Ok(Arc::clone(conn));
        }
        let fresh = Arc::new(Conn::open(&self.options).await?);
        Ok(Arc::clone(self.conn.insert(fresh)))
    }

    async fn attempt(&mut self, jobs: &[Job]) -> Result<Vec<Outcome>, Broken> {
        let conn = &self.connected().await?;
        let head = lock(conn).await?;
        let mut keys: Vec<&[u8]> = jobs.iter().flat_map(|j| &j.batch).map(|w| w.key().as_bytes()).collect();
        keys.sort_unstable();
        keys.dedup();
        let looking: [&(dyn ToSql + Sync); 1] = [&keys];
        let look = in_time("looking", conn.client.query(&conn.does.revisions, &looking));
        // Whether this is the history that is known, too: into another one nothing is written.
        let ((), rows) = boxed(async { futures_util::try_join!(self.tail.catch_up(conn), look) }).await?;
        let mut before: HashMap<String, Revision> = HashMap::with_capacity(rows.len());
        for row in &rows {
            before.insert(text(row.get(0)).map_err(Failed::from)?.to_owned(), revision(row.get(1)));
        }
        let mut group = Group::new(head.revision, head.records);
        let outcomes: Vec<Outcome> =
            jobs.iter().map(|job| group.add(&job.batch, |key| Ok(before.get(key).copied()))).collect();
        if group.revision == head.revision {
            in_time("giving up the turn", conn.client.batch_execute("ROLLBACK")).await?;
            return Ok(outcomes);
        }
        let mut name = vec![0_u8; 16];
        getrandom::fill(&mut name).map_err(|e| Failed::from(StoreError::Unavailable(format!("no randomness: {e}"))))?;
        apply(conn, &head, &group, &name).await?;
        if let Err(failed) = in_time("committing", conn.client.batch_execute("COMMIT")).await {
            return Err(Broken::Unknown(name, head.revision, outcomes, failed));
        }
        self.options.metrics.store_commits.inc();
        // It is durable. Whoever wrote it must find it in the log; where that fails now, the follower brings it.
        if let Err(failed) = self.tail.catch_up(conn).await {
            tracing::debug!(error = %failed.into_error(), "what was written was not read back at once");
            self.conn = None;
        }
        Ok(outcomes)
    }

    /// Whether a commit happened whose connection broke; none where nobody can say in time.
    async fn happened(&mut self, name: &Vec<u8>, before: Revision, until: Instant) -> Option<bool> {
        // A commit that was acknowledged by nobody is worth some more patience.
        let until = until.max(Instant::now() + Duration::from_secs(5));
        let mut backoff = Backoff::default();
        loop {
            match self.look_for(name, before).await {
                Ok(found) => return found,
                Err(Failed::Refused(error)) => {
                    tracing::error!(%error, "nobody can say whether a write happened");
                    return None;
                }
                Err(Failed::Lost(error)) => {
                    self.conn = None;
                    tracing::debug!(%error, "what became of a write is not known yet");
                }
            }
            if Instant::now() >= until {
                return None;
            }
            backoff.pause().await;
        }
    }

    async fn look_for(&mut self, name: &Vec<u8>, before: Revision) -> Result<Option<bool>, Failed> {
        let conn = &self.connected().await?;
        let head = lock(conn).await?;
        let found = in_time("asking", conn.client.query_opt(&conn.does.happened, &[name])).await?.is_some();
        in_time("asking", conn.client.batch_execute("ROLLBACK")).await?;
        self.tail.catch_up(conn).await?;
        // What the change log has forgotten meanwhile can't be told from what never was.
        Ok(if found || head.floor <= before { Some(found) } else { None })
    }
}

/// Begins a transaction and takes the turn to write, which ends with the transaction.
async fn lock(conn: &Conn) -> Result<Head, Failed> {
    let both = async {
        let begin = conn.client.batch_execute("BEGIN");
        let lock = conn.client.query_opt(&conn.does.lock, &[]);
        futures_util::try_join!(begin, lock)
    };
    let ((), row) = in_time("waiting for the turn", both).await?;
    let row = row.ok_or_else(|| StoreError::Corrupt("its head is missing".to_owned()))?;
    Ok(Head {
        revision: revision(row.get(0)),
        records: u64::try_from(row.get::<_, i64>(1)).unwrap_or_default(),
        sequence: row.get(2),
        bytes: row.get(3),
        floor: revision(row.get(4)),
    })
}

/// Writes what a group does, all but the commit.
async fn apply(conn: &Conn, head: &Head, group: &Group, name: &Vec<u8>) -> Result<(), Failed> {
    // Of several writes to one key the last one counts.
    let mut last: HashMap<&str, &Change> = HashMap::new();
    let (mut sequences, mut revisions, mut ends, mut deleted, mut keys) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut sequence, mut bytes) = (head.sequence, head.bytes);
    for change in &group.changes {
        sequence += 1;
        bytes += i64::try_from(change.size()).unwrap_or(i64::MAX);
        last.insert(change.key(), change);
        sequences.push(sequence);
        revisions.push(number(change.revision()));
        ends.push(bytes);
        deleted.push(matches!(change, Change::Deleted { .. }));
        keys.push(change.key().as_bytes());
    }
    let (mut gone, mut puts, mut put_revisions, mut values) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (key, change) in last {
        match change {
            Change::Deleted { .. } => gone.push(key.as_bytes()),
            Change::Put(record) => {
                puts.push(key.as_bytes());
                put_revisions.push(number(record.revision));
                values.push(&record.value[..]);
            }
        }
    }
    let records = i64::try_from(group.records).unwrap_or(i64::MAX);
    let (at, news) = (number(group.revision), group.revision.to_string());
    let (client, does) = (&conn.client, &conn.does);
    let (deleting, putting): ([&(dyn ToSql + Sync); 1], [&(dyn ToSql + Sync); 3]) =
        ([&gone], [&puts, &put_revisions, &values]);
    let logging: [&(dyn ToSql + Sync); 5] = [&sequences, &revisions, &ends, &deleted, &keys];
    let moving: [&(dyn ToSql + Sync); 5] = [&at, &records, &sequence, &bytes, name];
    let naming: [&(dyn ToSql + Sync); 2] = [name, &at];
    let telling: [&(dyn ToSql + Sync); 1] = [&news];
    // Sent all at once: one journey instead of six.
    let all = async {
        futures_util::try_join!(
            client.execute(&does.delete, &deleting),
            client.execute(&does.put, &putting),
            client.execute(&does.log, &logging),
            client.execute(&does.head, &moving),
            client.execute(&does.group, &naming),
            client.execute(&does.notify, &telling),
        )
    };
    in_time("writing", boxed(all)).await?;
    let (entries, most) = (i64::try_from(LOG_ENTRIES).unwrap_or(0), i64::try_from(LOG_BYTES).unwrap_or(0));
    let due = head.sequence / CUT_ENTRIES != sequence / CUT_ENTRIES || head.bytes / CUT_BYTES != bytes / CUT_BYTES;
    if due && (sequence > entries || bytes > most) {
        cut(conn, sequence - entries, bytes - most, head.floor).await?;
    }
    Ok(())
}

/// Forgets the oldest changes.
async fn cut(conn: &Conn, sequence: i64, bytes: i64, floor: Revision) -> Result<(), Failed> {
    let enough: [&(dyn ToSql + Sync); 2] = [&sequence, &bytes];
    let surplus = conn.client.query_one(&conn.does.surplus, &enough);
    let until: i64 = in_time("cutting the change log", surplus).await?.get(0);
    if until <= number(floor) {
        return Ok(());
    }
    let until: [&(dyn ToSql + Sync); 1] = [&until];
    let all = async {
        futures_util::try_join!(
            conn.client.execute(&conn.does.forget, &until),
            conn.client.execute(&conn.does.forget_groups, &until),
            conn.client.execute(&conn.does.floor, &until),
        )
    };
    in_time("cutting the change log", boxed(all)).await?;
    Ok(())
}

/// A large future, on the heap.
fn boxed<'a, T>(future: impl Future<Output = T> + Send + 'a) -> std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>> {
    Box::pin(future)
}
