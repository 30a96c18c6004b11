//! The vault alone.

use super::*;

fn text(byte: u8) -> String {
    STANDARD.encode([byte; KEY])
}

fn vault(keys: &str) -> Vault {
    Vault::open(&KeySource::Text(Secret::new(keys))).unwrap()
}

#[test]
fn what_is_sealed_opens_at_its_place_only() {
    let vault = vault(&text(1));
    let sealed = vault.seal(b"s/t/c", &Secret::new("hunter2")).unwrap();
    assert!(!sealed.windows(7).any(|w| w == b"hunter2"));
    assert_eq!(vault.unseal(b"s/t/c", &sealed).unwrap().expose(), b"hunter2");
    assert!(matches!(vault.unseal(b"s/t/d", &sealed), Err(VaultError::Damaged)));
    assert_ne!(sealed, vault.seal(b"s/t/c", &Secret::new("hunter2")).unwrap(), "each record has its own data key");
    for at in 0..sealed.len() {
        let mut damaged = sealed.to_vec();
        damaged[at] ^= 1;
        assert!(vault.unseal(b"s/t/c", &damaged).is_err(), "byte {at}");
        assert!(vault.unseal(b"s/t/c", &sealed[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn older_keys_open_and_unknown_ones_refuse() {
    let old = vault(&text(1));
    let sealed = old.seal(b"a", &Secret::new("x")).unwrap();
    let both = vault(&format!("{}, {}", text(2), text(1)));
    assert_eq!(both.unseal(b"a", &sealed).unwrap().expose(), b"x");
    assert!(both.is_stale(&sealed));
    let again = both.seal(b"a", &Secret::new("x")).unwrap();
    assert!(!both.is_stale(&again));
    let new = vault(&text(2));
    assert!(new.unseal(b"a", &again).is_ok());
    let Err(VaultError::UnknownKey(id)) = new.check(&sealed) else { panic!("an unknown key is refused") };
    assert_eq!(id, old.key_id());
}

#[test]
fn a_key_file_is_made_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sub/sealing.key");
    let open = |create| Vault::open(&KeySource::File { path: path.clone(), create });
    assert!(matches!(open(false), Err(VaultError::NoKey(_))));
    assert!(!path.exists());
    let made = open(true).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(open(true).unwrap().key_id(), made.key_id(), "an existing key is kept");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no draft is left behind");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(open(false), Err(VaultError::Exposed(_))));
}

#[test]
fn bad_keys_are_refused_without_quoting_them() {
    for bad in ["c2hvcnQ=", "not base64 !", &format!("{},c2hvcnQ=", text(1))] {
        let error = Vault::open(&KeySource::Text(Secret::new(bad))).unwrap_err();
        assert!(matches!(error, VaultError::BadKey(_)));
        assert!(!error.to_string().contains("c2hvcnQ"));
    }
    assert!(matches!(Vault::open(&KeySource::Text(Secret::new(" \n"))), Err(VaultError::NoKey(_))));
    assert!(matches!(Vault::open(&KeySource::Env("PORTCULLIS_NO_SUCH_KEY".into())), Err(VaultError::NoKey(_))));
}
