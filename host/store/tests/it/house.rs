//! Where the stores under test live. What the trait promises is tried on each, by the same tests.

use std::{path::Path, sync::Arc};

use portcullis_model::Secret;
use portcullis_store::{PostgresOptions, PostgresStore, Store, StoreError};
use portcullis_test_postgres::{Database, PASSWORD};
use tempfile::TempDir;

/// A place for one store, which may be opened again and again.
pub(crate) enum House {
    Sled(TempDir),
    Postgres(Database),
}

impl House {
    pub(crate) async fn sled() -> Option<Self> {
        Some(Self::Sled(tempfile::tempdir().unwrap()))
    }

    /// None where PostgreSQL is not installed.
    pub(crate) async fn postgres() -> Option<Self> {
        given(Database::shared().await.unwrap()).map(Self::Postgres)
    }

    pub(crate) async fn open(&self) -> Arc<dyn Store> {
        match self {
            Self::Sled(dir) => crate::open(dir.path()),
            Self::Postgres(database) => connect(database).await.unwrap(),
        }
    }

    /// Where it is, for another process.
    pub(crate) fn place(&self) -> String {
        match self {
            Self::Sled(dir) => dir.path().display().to_string(),
            Self::Postgres(database) => database.url(),
        }
    }
}

/// Opens what [`House::place`] names.
pub(crate) async fn open_at(place: &str) -> Arc<dyn Store> {
    if place.starts_with("postgres://") { connect_to(place).await.unwrap() } else { crate::open(Path::new(place)) }
}

pub(crate) async fn connect(database: &Database) -> Result<Arc<PostgresStore>, StoreError> {
    connect_to(&database.url()).await
}

async fn connect_to(url: &str) -> Result<Arc<PostgresStore>, StoreError> {
    PostgresStore::open(options(url)).await
}

pub(crate) fn options(url: &str) -> PostgresOptions {
    PostgresOptions::parse(url).unwrap().password(&Secret::new(PASSWORD.as_bytes()))
}

/// Says so where a test can't be run. Where everything has to run, it fails.
pub(crate) fn given<T>(part: Option<T>) -> Option<T> {
    if part.is_none() {
        assert!(std::env::var_os("CI").is_none(), "PostgreSQL is not installed");
        println!("skipped: PostgreSQL is not installed (cargo xtask setup)");
    }
    part
}

/// Makes a test of each function for each store.
macro_rules! on_each_store {
    ($($name:ident),* $(,)?) => {
        mod sled {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(house) = crate::house::House::sled().await {
                    super::$name(&house).await;
                }
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(house) = crate::house::House::postgres().await {
                    super::$name(&house).await;
                }
            })*
        }
    };
}
pub(crate) use on_each_store;
