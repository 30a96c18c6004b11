//! A database as the source or the target of a copy: read as of one moment, written in one transaction.

use tokio_postgres::types::ToSql;

use super::{
    PostgresOptions,
    connect::{Conn, Raw, in_time},
    record, schema,
    schema::{number, revision},
    sort::Failed,
};
use crate::{Record, Revision, StoreError};

/// A database as of the moment when it was opened, whatever is written meanwhile.
pub(crate) struct Snapshot {
    conn: Conn,
    revision: Revision,
}

impl Snapshot {
    pub(crate) async fn open(options: &PostgresOptions) -> Result<Self, StoreError> {
        let open = async {
            let conn = Conn::open(options).await?;
            // It may take a while between two pieces.
            let begin = "SET idle_in_transaction_session_timeout = 0; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
            in_time("beginning", conn.client.batch_execute(begin)).await?;
            schema::verify(&conn.client).await?;
            let head = "SELECT revision FROM portcullis.head";
            let row = in_time("reading", conn.client.query_one(head, &[])).await?;
            Ok(Self { revision: revision(row.get(0)), conn })
        };
        Box::pin(open).await.map_err(Failed::into_error)
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) async fn piece(&self, after: Option<&str>, most: usize) -> Result<Vec<Record>, StoreError> {
        let start = after.map_or_else(Vec::new, |after| [after.as_bytes(), b"\0"].concat());
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let (does, client) = (&self.conn.does, &self.conn.client);
        let rows = in_time("reading", client.query(&does.scan, &[&start, &super::END, &most])).await;
        rows.map_err(Failed::into_error)?.iter().map(record).collect()
    }
}

/// A database that is being filled: all of it becomes visible at once, or nothing does.
pub(crate) struct Receiver {
    conn: Conn,
    revision: Revision,
}

impl Receiver {
    /// Makes the tables where they are missing, and takes the turn to write.
    pub(crate) async fn open(options: &PostgresOptions) -> Result<Self, StoreError> {
        let open = async {
            let raw = Raw::open(options).await?;
            schema::migrate(&raw.client).await?;
            schema::verify(&raw.client).await?;
            let conn = raw.prepared().await?;
            let begin = "SET idle_in_transaction_session_timeout = 0; BEGIN";
            in_time("beginning", conn.client.batch_execute(begin)).await?;
            let row = in_time("waiting for the turn", conn.client.query_one(&conn.does.lock, &[])).await?;
            Ok(Self { revision: revision(row.get(0)), conn })
        };
        Box::pin(open).await.map_err(Failed::into_error)
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) async fn put(&self, records: &[Record]) -> Result<(), StoreError> {
        let keys: Vec<&[u8]> = records.iter().map(|r| r.key.as_bytes()).collect();
        let revisions: Vec<i64> = records.iter().map(|r| number(r.revision)).collect();
        let values: Vec<&[u8]> = records.iter().map(|r| &r.value[..]).collect();
        let with: [&(dyn ToSql + Sync); 3] = [&keys, &revisions, &values];
        let put = self.conn.client.execute(&self.conn.does.put, &with);
        Box::pin(in_time("writing", put)).await.map(|_| ()).map_err(Failed::into_error)
    }

    /// Makes it a store of this revision and so many records. Its change log begins there.
    pub(crate) async fn finish(self, revision: Revision, records: u64) -> Result<(), StoreError> {
        let records = i64::try_from(records).unwrap_or(i64::MAX);
        let head = "UPDATE portcullis.head SET revision = $1, records = $2, floor = $1";
        let finish = async {
            in_time("writing", self.conn.client.execute(head, &[&number(revision), &records])).await?;
            in_time("committing", self.conn.client.batch_execute("COMMIT")).await
        };
        finish.await.map_err(|failed: Failed| match failed {
            Failed::Lost(error) => StoreError::Unknown(error.to_string()),
            Failed::Refused(error) => error,
        })
    }
}
