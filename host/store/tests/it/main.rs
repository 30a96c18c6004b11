//! The store and the registry from outside.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod copy;
mod damage;
mod database;
mod full_disk;
mod house;
mod kill;
mod lease;
mod model;
mod registry;
mod store;
mod way;

use std::{path::Path, sync::Arc};

use portcullis_store::{Expect, SledOptions, SledStore, Write};

/// A store with a floor that any test machine is above.
fn open(dir: &Path) -> Arc<SledStore> {
    // Whoever had it before may still be syncing, on a machine that does much else.
    let lock_patience = std::time::Duration::from_secs(30);
    SledStore::open(dir, SledOptions { min_free: 0, lock_patience, ..SledOptions::default() }).unwrap()
}

fn put(key: &str, value: &str) -> Write {
    Write::Put { key: key.to_owned(), value: value.to_owned().into(), expect: Expect::Any }
}

fn delete(key: &str) -> Write {
    Write::Delete { key: key.to_owned(), expect: Expect::Any }
}
