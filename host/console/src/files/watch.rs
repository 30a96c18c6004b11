//! Waiting for something to look at: notifications where there are some, the clock where there are none.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Shared,
    scan::{self, Identity},
    sync,
};

pub(super) async fn run(shared: Arc<Shared>, mut memory: sync::Memory) {
    // One place: whoever notifies while it is full says nothing new.
    let (told, mut telling) = mpsc::channel::<()>(1);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading a file is an event too; looking at it again would go on for ever.
        if event.is_ok_and(|e| e.kind.is_access()) {
            return;
        }
        let _ = told.try_send(());
    })
    .inspect_err(|error| {
        tracing::warn!(%error, "file changes are not told here; files are looked at every {:?}", shared.options.rescan);
    })
    .ok();
    let mut watched = BTreeMap::new();
    loop {
        if let Some(watcher) = &mut watcher
            && follow(watcher, &mut watched, &memory.directories)
        {
            // What happened between the last look and this watch was told to nobody.
            sync::round(&shared, &mut memory).await;
        }
        let next = Instant::now() + shared.options.rescan;
        tokio::select! {
            Some(()) = telling.recv() => settle(&mut telling, &shared).await,
            () = shared.wake.notified() => {}
            () = tokio::time::sleep_until(next) => {}
        }
        sync::round(&shared, &mut memory).await;
    }
}

/// Waits until nothing has changed for a moment, but not for ever.
async fn settle(telling: &mut mpsc::Receiver<()>, shared: &Shared) {
    let end = Instant::now() + shared.options.settle * 10;
    loop {
        let quiet = (Instant::now() + shared.options.settle).min(end);
        match tokio::time::timeout_at(quiet, telling.recv()).await {
            Ok(Some(())) if Instant::now() < end => {}
            _ => return,
        }
    }
}

/// Watches the directories that are wanted. Answers whether one is new.
///
/// A watch is on the directory itself, not on its name: one that was made anew under the same name is watched anew.
fn follow(
    watcher: &mut RecommendedWatcher,
    watched: &mut BTreeMap<PathBuf, Identity>,
    wanted: &BTreeSet<PathBuf>,
) -> bool {
    let stale = |path: &PathBuf, identity: &Identity| !wanted.contains(path) || scan::identity(path) != *identity;
    let gone: Vec<PathBuf> = watched.iter().filter(|(p, i)| stale(p, i)).map(|(p, _)| p.clone()).collect();
    for path in gone {
        // It may be gone from the disk, and then from the watcher too.
        let _ = watcher.unwatch(&path);
        watched.remove(&path);
    }
    let mut new = false;
    for path in wanted {
        if watched.contains_key(path) {
            continue;
        }
        let identity = scan::identity(path);
        match watcher.watch(path, RecursiveMode::NonRecursive) {
            Ok(()) => {
                watched.insert(path.clone(), identity);
                new = true;
            }
            Err(error) => tracing::debug!(%error, directory = %path.display(), "is looked at by the clock only"),
        }
    }
    new
}
