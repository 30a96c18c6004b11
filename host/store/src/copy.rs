//! Moving state from one store to another, either way: every record with its revision and as it is, sealed ones too.
//!
//! The source is read as of one moment. The target has to be empty, is not usable until all of it is there, and is compared with
//! the source record by record afterwards.

use std::path::PathBuf;

use crate::{
    MAX_SCAN, PostgresOptions, Record, Revision, SledOptions, SledStore, Store, StoreError,
    postgres::copy::{Receiver, Snapshot},
    sled::fill::Filling,
};

/// The most records that are written at once; their values are of a mebibyte at most.
const PIECE: usize = 256;

/// Where state is.
#[derive(Clone, Debug)]
pub enum Place {
    /// The directory of an embedded store. No process may have it open.
    Directory(PathBuf),
    /// A database.
    Database(Box<PostgresOptions>),
}

/// What was moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// How many records.
    pub records: u64,
    /// The revision that the store was at, and is at.
    pub revision: Revision,
}

/// Why it was not moved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// The source can't be read.
    #[error("from: {0}")]
    From(StoreError),
    /// The target can't be written.
    #[error("to: {0}")]
    To(StoreError),
    /// There is something in the target.
    #[error("to: it is not empty (revision {0}): state is copied into an empty store only")]
    NotEmpty(Revision),
    /// There is nothing in the source.
    #[error("from: there is no store")]
    Nothing,
    /// What was written is not what was read.
    #[error("the copy is not the same as the source: {0}. Don't use it")]
    Different(String),
}

enum Source {
    Embedded(std::sync::Arc<SledStore>),
    Database(Box<Snapshot>),
}

impl Source {
    async fn open(place: &Place) -> Result<Self, StoreError> {
        Ok(match place {
            Place::Directory(directory) => Self::Embedded(embedded(directory.clone()).await?),
            Place::Database(options) => Self::Database(Box::new(Snapshot::open(options).await?)),
        })
    }

    fn revision(&self) -> Revision {
        match self {
            Self::Embedded(store) => store.revision(),
            Self::Database(snapshot) => snapshot.revision(),
        }
    }

    /// The records after a key, at most [`PIECE`] of them.
    async fn piece(&self, after: Option<&str>) -> Result<Vec<Record>, StoreError> {
        match self {
            Self::Embedded(store) => store.scan("", after, PIECE.min(MAX_SCAN)).await,
            Self::Database(snapshot) => snapshot.piece(after, PIECE).await,
        }
    }
}

async fn embedded(directory: PathBuf) -> Result<std::sync::Arc<SledStore>, StoreError> {
    blocking(move || SledStore::open(&directory, SledOptions::default())).await
}

/// Copies everything, and compares.
///
/// # Errors
/// [`CopyError`]. The target is empty as before, or refuses to be opened, unless it says so otherwise.
pub async fn copy(from: &Place, to: &Place) -> Result<Copied, CopyError> {
    if let Place::Directory(directory) = from
        && !directory.join("sled").exists()
    {
        return Err(CopyError::Nothing);
    }
    let source = Source::open(from).await.map_err(CopyError::From)?;
    let revision = source.revision();
    let records = match to {
        Place::Directory(directory) => into_directory(&source, directory.clone(), revision).await?,
        Place::Database(options) => into_database(&source, options, revision).await?,
    };
    let copied = Source::open(to).await.map_err(CopyError::To)?;
    compare(&source, &copied, records).await?;
    Ok(Copied { records, revision })
}

async fn into_directory(source: &Source, directory: PathBuf, revision: Revision) -> Result<u64, CopyError> {
    let to = |e: StoreError| CopyError::To(e);
    let filling = blocking(move || Filling::open(&directory)).await.map_err(to)?;
    if filling.revision() > Revision(0) {
        return Err(CopyError::NotEmpty(filling.revision()));
    }
    let filling = std::sync::Arc::new(filling);
    let (mut after, mut records) = (None::<String>, 0);
    loop {
        let piece = source.piece(after.as_deref()).await.map_err(CopyError::From)?;
        let Some(last) = piece.last() else { break };
        after = Some(last.key.to_string());
        records += u64::try_from(piece.len()).unwrap_or(0);
        let filling = std::sync::Arc::clone(&filling);
        blocking(move || filling.put(&piece)).await.map_err(to)?;
    }
    blocking(move || filling.finish(revision, records)).await.map_err(to)?;
    Ok(records)
}

async fn into_database(source: &Source, options: &PostgresOptions, revision: Revision) -> Result<u64, CopyError> {
    let receiver = Receiver::open(options).await.map_err(CopyError::To)?;
    if receiver.revision() > Revision(0) {
        return Err(CopyError::NotEmpty(receiver.revision()));
    }
    let (mut after, mut records) = (None::<String>, 0);
    loop {
        let piece = source.piece(after.as_deref()).await.map_err(CopyError::From)?;
        let Some(last) = piece.last() else { break };
        after = Some(last.key.to_string());
        records += u64::try_from(piece.len()).unwrap_or(0);
        receiver.put(&piece).await.map_err(CopyError::To)?;
    }
    receiver.finish(revision, records).await.map_err(CopyError::To)?;
    Ok(records)
}

async fn compare(source: &Source, copied: &Source, records: u64) -> Result<(), CopyError> {
    if source.revision() != copied.revision() {
        let (was, is) = (source.revision(), copied.revision());
        return Err(CopyError::Different(format!("it is at revision {is} instead of {was}")));
    }
    let (mut after, mut seen) = (None::<String>, 0_u64);
    loop {
        let ours = source.piece(after.as_deref()).await.map_err(CopyError::From)?;
        let theirs = copied.piece(after.as_deref()).await.map_err(CopyError::To)?;
        if let Some((record, _)) = ours.iter().zip(&theirs).find(|(a, b)| a != b) {
            return Err(CopyError::Different(format!("the record {} is another", record.key)));
        }
        if ours.len() != theirs.len() {
            return Err(CopyError::Different("it has another number of records".to_owned()));
        }
        seen += u64::try_from(ours.len()).unwrap_or(0);
        let Some(last) = ours.last() else { break };
        after = Some(last.key.to_string());
    }
    if seen != records {
        return Err(CopyError::Different(format!("{records} records were written, and {seen} are there")));
    }
    Ok(())
}

/// Runs what blocks on the blocking pool.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| StoreError::Unavailable(e.to_string()))?
}
