//! A full disk: writes are refused before they can do harm, nothing is lost, and freeing space is all it takes.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use portcullis_store::{Expect, SledOptions, SledStore, Store, StoreError, Write, scan_all};

struct Mount(PathBuf);

impl Mount {
    fn small(at: &Path) -> Result<Self, String> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=48m", "tmpfs"]).arg(at).output();
        match mounted {
            Ok(output) if output.status.success() => Ok(Self(at.to_owned())),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Takes all space but so many bytes.
fn fill(path: &Path, leave: u64) {
    let mut file = fs::File::create(path).unwrap();
    let piece = vec![7; 64 << 10];
    while free(path) > leave && file.write_all(&piece).is_ok() {}
}

fn free(path: &Path) -> u64 {
    let stat = rustix::fs::statvfs(path).unwrap();
    stat.f_bavail * stat.f_frsize
}

#[tokio::test]
async fn a_full_disk_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mount = match Mount::small(dir.path()) {
        Ok(mount) => mount,
        Err(why) => {
            println!("skipped: a small file system can't be mounted here ({why})");
            return;
        }
    };
    let options = SledOptions { min_free: 16 << 20, ..SledOptions::default() };
    let home = dir.path().join("store");
    let store = SledStore::open(&home, options.clone()).unwrap();
    let record =
        |n: usize| Write::Put { key: format!("k/{n:06}"), value: vec![1; 32 << 10].into(), expect: Expect::Any };
    let mut written = 0;
    let refused = loop {
        match store.write(vec![record(written)]).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 10_000, "the floor is never reached");
    };
    assert_eq!(refused, StoreError::NoSpace);
    assert!(written > 10, "only {written} records before the floor");
    let filler = dir.path().join("filler");
    fill(&filler, 0);
    assert_eq!(store.write(vec![record(written)]).await, Err(StoreError::NoSpace));
    assert_eq!(scan_all(&*store, "k/").await.unwrap().len(), written, "reading goes on");

    // With what is held for the store free again, the store closes and opens, and has everything.
    fs::remove_file(&filler).unwrap();
    drop(store);
    let store = SledStore::open(&home, options.clone()).unwrap();
    assert_eq!(scan_all(&*store, "k/").await.unwrap().len(), written);
    assert_eq!(store.write(vec![record(written)]).await, Err(StoreError::NoSpace), "still below the floor");
    drop(store);

    // A lower floor stands for space that was freed.
    let store = SledStore::open(&home, SledOptions { min_free: 1 << 20, ..options }).unwrap();
    store.write(vec![record(written)]).await.unwrap();
    assert_eq!(scan_all(&*store, "k/").await.unwrap().len(), written + 1);
    fill(&filler, 0);
    assert_eq!(store.write(vec![record(written + 1)]).await, Err(StoreError::NoSpace));
    fs::remove_file(&filler).unwrap();
    store.write(vec![record(written + 1)]).await.unwrap();
    drop(store);
    drop(mount);
}
