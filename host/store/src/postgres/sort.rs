//! What the database's errors mean for whoever asked.

use tokio_postgres::error::SqlState;

use crate::StoreError;

/// Why something did not work, and whether another connection might do.
#[derive(Clone, Debug)]
pub(super) enum Failed {
    /// The connection can't be made or broke: another one may work.
    Lost(StoreError),
    /// The database, or we, said no.
    Refused(StoreError),
}

impl Failed {
    /// What the caller reads.
    pub(super) fn into_error(self) -> StoreError {
        match self {
            Self::Lost(error) | Self::Refused(error) => error,
        }
    }

    /// Nothing came in time.
    pub(super) fn late(what: &str) -> Self {
        Self::Lost(StoreError::Unavailable(format!("the database did not answer in time ({what})")))
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

/// An error of the client, sorted.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn sort(error: tokio_postgres::Error) -> Failed {
    let Some(said) = error.as_db_error() else {
        // The client's own words say what it was doing, the source says what happened.
        let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        return Failed::Lost(StoreError::Unavailable(format!("the database can't be reached: {error}{source}")));
    };
    let words = said.message().to_owned();
    let unavailable = |why: &str| StoreError::Unavailable(format!("{why}: {words}"));
    match said.code() {
        &SqlState::DISK_FULL => Failed::Refused(StoreError::NoSpace),
        &SqlState::DATA_CORRUPTED | &SqlState::INDEX_CORRUPTED => Failed::Refused(StoreError::Corrupt(words)),
        &SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            Failed::Refused(unavailable("the database does not let us in"))
        }
        &SqlState::INVALID_CATALOG_NAME | &SqlState::INSUFFICIENT_PRIVILEGE | &SqlState::UNDEFINED_TABLE => {
            Failed::Refused(unavailable("the database is not as it has to be"))
        }
        // A standby, or a server that became one: another host may be the one that takes writes.
        &SqlState::READ_ONLY_SQL_TRANSACTION => Failed::Lost(unavailable("the database takes no writes")),
        &SqlState::LOCK_NOT_AVAILABLE | &SqlState::QUERY_CANCELED => {
            Failed::Lost(unavailable("the database did not answer in time"))
        }
        code if code.code().starts_with("08") || code.code().starts_with("57P") || code.code().starts_with("53") => {
            Failed::Lost(unavailable("the database can't be used just now"))
        }
        _ => Failed::Lost(unavailable("the database refused")),
    }
}
