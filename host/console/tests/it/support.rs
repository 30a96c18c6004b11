//! What every test here needs.

use std::{path::Path, sync::Arc, time::Duration};

use portcullis_store::{Registry, SledOptions, SledStore};

pub const PATIENCE: Duration = Duration::from_secs(20);

pub async fn registry(dir: &Path) -> Arc<Registry> {
    let store = SledStore::open(dir, SledOptions::default()).unwrap();
    Registry::open(store).await.unwrap()
}

/// Waits until a condition holds, looking whenever it may have changed.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
