//! One connection to the database: how it is made, what it is told first, and the statements it will be asked.

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use tokio::{sync::Notify, task::JoinHandle, time::timeout};
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls, Statement};

use super::{
    options::PostgresOptions,
    schema,
    sort::{Failed, sort},
    tls::Rustls,
};
use crate::StoreError;

/// How long any answer may take.
pub(super) const ANSWER: Duration = Duration::from_secs(10);
/// How long a connection may take to be made, with all hosts tried and all statements prepared.
const OPEN: Duration = Duration::from_secs(15);
/// The channel on which writers say that there is something new.
pub(super) const CHANNEL: &str = "portcullis";

/// What each connection is told first. A server that is slower than this, or a gateway that froze while it held the lock of
/// the head, must not hold up the others; and what is acknowledged has to be on disk, whatever the database's default says.
const SESSION: &str = "
    SET statement_timeout = '8s';
    SET lock_timeout = '5s';
    SET idle_in_transaction_session_timeout = '6s';
    SET default_transaction_isolation = 'read committed';
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') IN ('off', 'local');
";

macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident: $text:expr;)*) => {
        /// What is asked, prepared.
        pub(super) struct Statements { $($(#[$doc])* pub(super) $name: Statement,)* }

        impl Statements {
            async fn prepare(client: &Client) -> Result<Self, tokio_postgres::Error> {
                $(let $name = client.prepare($text);)*
                // All at once: one journey instead of many.
                let ($($name,)*) = futures_util::try_join!($($name,)*)?;
                Ok(Self { $($name,)* })
            }
        }
    };
}

statements! {
    /// One record.
    get: "SELECT key, revision, value FROM portcullis.records WHERE key = $1";
    /// Records from a key to before another.
    scan: "SELECT key, revision, value FROM portcullis.records WHERE key >= $1 AND key < $2 ORDER BY key LIMIT $3";
    /// The head, and the turn to write.
    lock: "SELECT revision, records, sequence, bytes, floor FROM portcullis.head FOR UPDATE";
    /// The revisions of some records.
    revisions: "SELECT key, revision FROM portcullis.records WHERE key = ANY($1)";
    /// Removes records.
    delete: "DELETE FROM portcullis.records WHERE key = ANY($1)";
    /// Sets records.
    put: "INSERT INTO portcullis.records (key, revision, value)
          SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bytea[])
          ON CONFLICT (key) DO UPDATE SET revision = excluded.revision, value = excluded.value";
    /// Adds to the change log.
    log: "INSERT INTO portcullis.changes (sequence, revision, ends, deleted, key)
          SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bool[], $5::bytea[])";
    /// Names a commit.
    group: "INSERT INTO portcullis.groups (id, revision) VALUES ($1, $2)";
    /// Moves the head.
    head: "UPDATE portcullis.head SET revision = $1, records = $2, sequence = $3, bytes = $4, last = $5";
    /// The revision up to which the change log may be forgotten: so many changes and bytes are enough.
    surplus: "SELECT coalesce(max(revision), 0) FROM portcullis.changes WHERE sequence <= $1 OR ends <= $2";
    /// Forgets changes.
    forget: "DELETE FROM portcullis.changes WHERE revision <= $1";
    /// Forgets the names of commits before them.
    forget_groups: "DELETE FROM portcullis.groups WHERE revision < $1";
    /// Notes what was forgotten.
    floor: "UPDATE portcullis.head SET floor = $1";
    /// Tells those who listen.
    notify: "SELECT pg_notify('portcullis', $1)";
    /// The revision of a commit.
    happened: "SELECT revision FROM portcullis.groups WHERE id = $1";
    /// Everything after a revision, and the head, as of one moment. What a later change overtook has no value any more.
    since: "SELECT h.store, h.revision, h.last, h.floor, (SELECT g.id FROM portcullis.groups g WHERE g.revision = $1),
                   c.revision, c.deleted, c.key, r.value
            FROM portcullis.head h
            LEFT JOIN portcullis.changes c ON c.revision > $1
            LEFT JOIN portcullis.records r ON r.key = c.key AND r.revision = c.revision AND NOT c.deleted
            ORDER BY c.sequence";
}

/// A connection. It ends when this is dropped, and what it was in the middle of does not happen.
pub(super) struct Conn {
    pub(super) client: Client,
    pub(super) does: Statements,
    news: Arc<Notify>,
    _task: Task,
}

impl Conn {
    /// Connects, with tables of the version that this program knows.
    pub(super) async fn open(options: &PostgresOptions) -> Result<Self, Failed> {
        let open = async {
            let raw = Raw::open(options).await?;
            schema::version(&raw.client).await?;
            raw.prepared().await
        };
        Box::pin(timeout(OPEN, open)).await.map_err(|_| Failed::late("connecting"))?
    }

    /// Whether it ended.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Waits until the database says that there is something new, or the connection ends.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }
}

/// What runs a connection, and ends with whoever holds this.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection before it knows what it will be asked.
pub(super) struct Raw {
    pub(super) client: Client,
    news: Arc<Notify>,
    task: Task,
}

impl Raw {
    /// Connects.
    pub(super) async fn open(options: &PostgresOptions) -> Result<Self, Failed> {
        let news = Arc::new(Notify::new());
        let (client, task) = if options.tls {
            let roots = options.roots.clone().ok_or_else(|| StoreError::Unavailable("no certificates".to_owned()))?;
            let (client, connection) = options.config.connect(Rustls(roots)).await.map_err(sort)?;
            (client, drive(connection, Arc::clone(&news)))
        } else {
            let (client, connection) = options.config.connect(NoTls).await.map_err(sort)?;
            (client, drive(connection, Arc::clone(&news)))
        };
        let raw = Self { client, news, task };
        raw.client.batch_execute(SESSION).await.map_err(sort)?;
        Ok(raw)
    }

    /// Prepares what it will be asked.
    pub(super) async fn prepared(self) -> Result<Conn, Failed> {
        let does = Box::pin(Statements::prepare(&self.client)).await.map_err(sort)?;
        Ok(Conn { client: self.client, does, news: self.news, _task: self.task })
    }
}

/// Runs a connection until it ends.
fn drive<S, T>(mut connection: Connection<S, T>, news: Arc<Notify>) -> Task
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    Task(tokio::spawn(async move {
        let mut messages = stream::poll_fn(move |cx| connection.poll_message(cx));
        while let Some(Ok(message)) = messages.next().await {
            if matches!(message, AsyncMessage::Notification(_)) {
                news.notify_one();
            }
        }
        drop(messages);
        news.notify_one();
    }))
}

/// An answer that comes in time.
pub(super) async fn in_time<T>(
    what: &str,
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Failed> {
    timeout(ANSWER, answer).await.map_err(|_| Failed::late(what))?.map_err(sort)
}
