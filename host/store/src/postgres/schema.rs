//! The tables, and bringing them to where this version wants them.
//!
//! Everything lies in the schema `portcullis`. `head` is one row: revision, number of records, and where the change log stands.
//! Whoever writes locks it first and holds it until the commit, so revisions are given in the order of the commits: whoever
//! sees revision n sees everything up to n. `changes` is the change log, keys only; `groups` names each commit, so that
//! a writer whose connection broke can ask whether it happened.

use tokio_postgres::Client;

use super::sort::{Failed, sort};
use crate::{Revision, StoreError};

/// The newest version of the tables that this program knows.
const VERSION: i32 = 1;
/// The advisory lock that those who migrate take turns by: "portc" in ASCII.
const TURN: i64 = 0x70_6f_72_74_63;

/// What each version adds to the one before.
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE portcullis.head (
        one bool PRIMARY KEY DEFAULT true CHECK (one),
        store bytea NOT NULL,
        revision bigint NOT NULL,
        records bigint NOT NULL,
        sequence bigint NOT NULL,
        bytes bigint NOT NULL,
        floor bigint NOT NULL,
        last bytea
    ) WITH (fillfactor = 10);
    CREATE TABLE portcullis.records (key bytea PRIMARY KEY, revision bigint NOT NULL, value bytea NOT NULL);
    CREATE TABLE portcullis.changes (
        sequence bigint PRIMARY KEY,
        revision bigint NOT NULL,
        ends bigint NOT NULL,
        deleted bool NOT NULL,
        key bytea NOT NULL
    );
    CREATE INDEX changes_revision ON portcullis.changes (revision);
    CREATE TABLE portcullis.groups (id bytea PRIMARY KEY, revision bigint NOT NULL UNIQUE);
"];

/// Brings the tables to this version, if they are older.
///
/// # Errors
/// [`StoreError::Foreign`] where they are newer.
pub(super) async fn migrate(client: &Client) -> Result<(), Failed> {
    // Nothing is to be made where all is there: then a role without the right to make anything is enough.
    if version(client).await? == Some(VERSION) {
        return Ok(());
    }
    client.batch_execute("BEGIN").await.map_err(sort)?;
    client.query("SELECT pg_advisory_xact_lock($1)", &[&TURN]).await.map_err(sort)?;
    let found = version(client).await?;
    if found.is_none() {
        client
            .batch_execute(
                "CREATE SCHEMA IF NOT EXISTS portcullis;
                 CREATE TABLE portcullis.migrations (version int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());",
            )
            .await
            .map_err(sort)?;
    }
    for (number, text) in (1_i32..).zip(MIGRATIONS) {
        if number > found.unwrap_or(0) {
            client.batch_execute(text).await.map_err(sort)?;
            client
                .execute("INSERT INTO portcullis.migrations (version) VALUES ($1)", &[&number])
                .await
                .map_err(sort)?;
            tracing::info!(version = number, "the database's tables were brought up to date");
        }
    }
    if found.is_none() {
        let mut store = vec![0_u8; 16];
        getrandom::fill(&mut store).map_err(|e| StoreError::Unavailable(format!("no randomness: {e}")))?;
        let insert =
            "INSERT INTO portcullis.head (store, revision, records, sequence, bytes, floor) VALUES ($1, 0, 0, 0, 0, 0)";
        client.execute(insert, &[&store]).await.map_err(sort)?;
    }
    client.batch_execute("COMMIT").await.map_err(sort)
}

/// The version that the tables have; none where there are none.
///
/// # Errors
/// [`StoreError::Foreign`] where they are newer than this program.
pub(super) async fn version(client: &Client) -> Result<Option<i32>, Failed> {
    let there = "SELECT to_regclass('portcullis.migrations') IS NOT NULL";
    if !client.query_one(there, &[]).await.map_err(sort)?.get::<_, bool>(0) {
        return Ok(None);
    }
    let newest = "SELECT max(version) FROM portcullis.migrations";
    let newest: Option<i32> = client.query_one(newest, &[]).await.map_err(sort)?.get(0);
    match newest {
        Some(newest) if newest > VERSION => Err(StoreError::Foreign(format!(
            "its tables are of version {newest}, and this program knows {VERSION} at most: a newer one has used it"
        ))
        .into()),
        other => Ok(other),
    }
}

/// Looks once whether the tables agree with each other: one that was put back in part shall say so now.
pub(super) async fn verify(client: &Client) -> Result<(), Failed> {
    let look = "SELECT h.revision, h.records, r.records, coalesce(r.newest, 0)
                FROM portcullis.head h, (SELECT count(*) AS records, max(revision) AS newest FROM portcullis.records) r";
    let Some(row) = client.query_opt(look, &[]).await.map_err(sort)? else {
        return Err(StoreError::Corrupt("its head is missing".to_owned()).into());
    };
    let (head, expected, found, newest): (i64, i64, i64, i64) = (row.get(0), row.get(1), row.get(2), row.get(3));
    if expected != found {
        return Err(StoreError::Corrupt(format!("it should hold {expected} records, and holds {found}")).into());
    }
    if newest > head {
        return Err(StoreError::Corrupt("a record is younger than the store".to_owned()).into());
    }
    Ok(())
}

/// A number of the database as a revision.
pub(super) fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or_default())
}

/// A revision as the database has it.
pub(super) fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}
