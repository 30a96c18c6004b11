//! A damaged store refuses to open, in words, instead of serving what is left.

use std::{fs, path::Path};

use portcullis_store::{SledOptions, SledStore, Store, StoreError, scan_all};

use crate::{open, put};

async fn filled(dir: &Path) {
    let store = open(dir);
    for i in 0..40 {
        store.write(vec![put(&format!("k{i}"), &"v".repeat(2000))]).await.unwrap();
    }
}

fn try_open(dir: &Path) -> Result<std::sync::Arc<SledStore>, StoreError> {
    SledStore::open(dir, SledOptions { min_free: 0, ..SledOptions::default() })
}

#[tokio::test]
async fn lost_data_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    fs::remove_dir_all(dir.path().join("sled")).unwrap();
    let error = try_open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
    let text = error.to_string();
    assert!(text.contains("revision 40 was acknowledged") && text.contains("backup"), "{text}");
}

#[tokio::test]
async fn flipped_bits_never_pass_for_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let file = dir.path().join("sled/db");
    let whole = fs::read(&file).unwrap();
    let mut refused = 0;
    for part in 0..12 {
        let mut damaged = whole.clone();
        let from = damaged.len() * part / 12;
        for byte in &mut damaged[from..][..64] {
            *byte ^= 0xff;
        }
        let copy = tempfile::tempdir().unwrap();
        fs::create_dir(copy.path().join("sled")).unwrap();
        for entry in fs::read_dir(dir.path().join("sled")).unwrap().flatten() {
            if entry.path().is_file() {
                fs::copy(entry.path(), copy.path().join("sled").join(entry.file_name())).unwrap();
            }
        }
        fs::copy(dir.path().join("head"), copy.path().join("head")).unwrap();
        fs::write(copy.path().join("sled/db"), &damaged).unwrap();
        match try_open(copy.path()) {
            Err(StoreError::Corrupt(_)) => refused += 1,
            Err(other) => panic!("part {part}: {other}"),
            // Damage where nothing lives is none.
            Ok(store) => {
                let found = scan_all(&*store, "k").await.unwrap();
                assert_eq!(found.len(), 40, "part {part}");
                assert!(found.iter().all(|r| r.value == "v".repeat(2000)), "part {part}");
            }
        }
    }
    assert!(refused > 0, "no damage was noticed at all");
}

#[tokio::test]
async fn a_torn_witness_accuses_nobody() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    for torn in [&b""[..], b"\0\0\0\0\0\0\0\xff", &[0xff; 16]] {
        fs::write(dir.path().join("head"), torn).unwrap();
        assert!(try_open(dir.path()).is_ok());
    }
}
