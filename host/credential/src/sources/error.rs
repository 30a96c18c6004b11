//! Why secrets outside the store can't be read, and why a service that keeps some can't be used. Each names the place, and none what lies there.

use std::{io, path::PathBuf};

use portcullis_cluster::ClusterError;

use super::vault::VaultReadError;
use crate::secrets::MAX_FIELD_BYTES;

/// Why a secret can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Its service was not asked yet.
    #[error("{0} was not read yet")]
    NotYet(String),
    /// Its service says that there is none.
    #[error("{0} does not exist")]
    Missing(String),
    /// The variable is not set.
    #[error("the variable {0} is not set")]
    Unset(String),
    /// The file can't be opened.
    #[error("the file {0} can't be opened: {1}")]
    Unopened(String, io::ErrorKind),
    /// The file can't be read.
    #[error("the file {0} can't be read: {1}")]
    Unread(String, io::ErrorKind),
    /// It is kept by a service, where only what is on this machine is read.
    #[error("{0} is neither a variable nor a file")]
    Elsewhere(String),
    /// There is nothing in it.
    #[error("{0} is empty")]
    Empty(String),
    /// There is too much in it.
    #[error("{0} holds more than {MAX_FIELD_BYTES} bytes")]
    TooLong(String),
    /// Its service could not be asked, or refused.
    #[error("{place}: {why}")]
    Service {
        /// Where the secret is.
        place: String,
        /// What the service, or the way to it, said.
        why: ServiceError,
    },
}

/// Why a service does not give a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// It is not configured.
    #[error("the server setting `{0}` is not there")]
    NotConfigured(&'static str),
    /// Vault's.
    #[error(transparent)]
    Vault(#[from] VaultReadError),
    /// That of the cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The tenant may not name it.
    #[error("{0}")]
    NotAllowed(String),
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
    /// There is too much in it.
    #[error("it holds more than {MAX_FIELD_BYTES} bytes")]
    TooLong,
}

/// What is wrong with the settings of a service.
#[derive(Debug, thiserror::Error)]
pub enum ServiceSettingsError {
    /// An address that is not safe.
    #[error("vault.address must be https, or http on this machine")]
    Address,
    /// A credential where none belongs.
    #[error("vault.address must hold no credential")]
    Credential,
    /// The file can't be read.
    #[error("vault.caFile: {}: {why}", path.display())]
    Unread {
        /// Which.
        path: PathBuf,
        /// Why.
        why: io::ErrorKind,
    },
    /// What is in it are no certificates.
    #[error("vault.caFile: {0}")]
    Certificates(#[from] portcullis_outbound::Error),
    /// A namespace that no header can hold.
    #[error("vault.namespace can't stand in a header")]
    Namespace,
}
