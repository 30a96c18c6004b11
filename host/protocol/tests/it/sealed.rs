//! Sealed ids: what comes back changed, late, or from somebody else is refused.

use portcullis_model::Secret;
use portcullis_protocol::{
    Version,
    seal::{Domain, MAX_TEXT, SealError, Sealer},
    session::{Binding, Cursor, Session, bounded_capabilities, principal_hash},
};
use proptest::prelude::*;

fn sealer(id: u32, byte: u8) -> Sealer {
    Sealer::new(id, &Secret::new(vec![byte; 32])).unwrap()
}

fn binding(gateway: &str, who: &str) -> Binding {
    Binding {
        tenant: "default".parse().unwrap(),
        gateway: gateway.parse().unwrap(),
        principal: principal_hash(who, None),
    }
}

fn session() -> Session {
    Session::new(binding("team", "user:alice"), Version::V2025_06_18, Some("{\"roots\":{}}"), 1_000).unwrap()
}

proptest! {
    #[test]
    fn any_changed_bit_is_refused(at in any::<prop::sample::Index>(), bit in 0..8u8, plain in prop::collection::vec(any::<u8>(), 0..200)) {
        let sealer = sealer(1, 7);
        let text = sealer.seal(Domain::Session, &plain).unwrap();
        prop_assert_eq!(sealer.open(Domain::Session, &text).unwrap(), plain);
        let mut bytes = text.clone().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(changed) = String::from_utf8(bytes) {
            prop_assert!(sealer.open(Domain::Session, &changed).is_err(), "{} {}", text, changed);
        }
        prop_assert!(sealer.open(Domain::Session, &text[..at]).is_err());
    }

    #[test]
    fn garbage_is_refused(text in "\\PC{0,100}") {
        prop_assert!(sealer(1, 7).open(Domain::Cursor, &text).is_err());
    }
}

#[test]
fn a_session_comes_back_to_its_own_caller_only() {
    let sealer = sealer(1, 7);
    let session = session();
    let text = session.seal(&sealer).unwrap();
    let open = |b: &Binding, now| Session::open(&sealer, &text, b, now);
    assert_eq!(open(&binding("team", "user:alice"), 999), Ok(session));
    assert_eq!(open(&binding("team", "user:alice"), 1_000), Err(SealError::Expired));
    assert_eq!(open(&binding("other", "user:alice"), 0), Err(SealError::Foreign));
    assert_eq!(open(&binding("team", "user:bob"), 0), Err(SealError::Foreign));
    let elsewhere = Binding { tenant: "acme".parse().unwrap(), ..binding("team", "user:alice") };
    assert_eq!(open(&elsewhere, 0), Err(SealError::Foreign));
    assert_ne!(principal_hash("user:alice", Some("t1")), principal_hash("user:alice", Some("t2")));
}

#[test]
fn a_cursor_is_no_session_and_of_one_list() {
    let sealer = sealer(1, 7);
    let b = binding("team", "user:alice");
    let cursor = Cursor { binding: b.clone(), list: "tools".into(), after: "a__b".into(), expires_ms: 10 };
    let text = cursor.seal(&sealer).unwrap();
    assert_eq!(Cursor::open(&sealer, &text, &b, "tools", 0), Ok(cursor));
    assert_eq!(Cursor::open(&sealer, &text, &b, "prompts", 0), Err(SealError::Foreign));
    assert_eq!(Session::open(&sealer, &text, &b, 0), Err(SealError::Forged));
}

#[test]
fn keys_rotate_and_foreign_keys_are_told_apart() {
    let text = session().seal(&sealer(1, 7)).unwrap();
    let b = binding("team", "user:alice");
    let rotated = sealer(2, 8).with_older(1, &Secret::new(vec![7; 32])).unwrap();
    assert!(Session::open(&rotated, &text, &b, 0).is_ok());
    assert_eq!(Session::open(&sealer(2, 8), &text, &b, 0), Err(SealError::UnknownKey));
    assert_eq!(Session::open(&sealer(1, 8), &text, &b, 0), Err(SealError::Forged));
    assert!(matches!(Sealer::new(1, &Secret::new(vec![0; 31])), Err(SealError::BadKey)));
}

#[test]
fn everything_fits_into_a_kilobyte() {
    let long = "x".repeat(63);
    let big = format!("{{\"elicitation\":{{\"url\":{{}}}},\"experimental\":{{\"x\":\"{}\"}}}}", "y".repeat(5_000));
    let session = Session::new(
        Binding { tenant: long.parse().unwrap(), gateway: long.parse().unwrap(), principal: [1; 16] },
        Version::LATEST_LEGACY,
        Some(&big),
        u64::MAX,
    )
    .unwrap();
    assert_eq!(session.capabilities, "{\"elicitation\":{\"url\":{}}}");
    let full = Session { capabilities: "c".repeat(384), ..session };
    let text = full.seal(&sealer(1, 1)).unwrap();
    assert!(text.len() <= MAX_TEXT && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
    let cursor = Cursor { binding: full.binding.clone(), list: "l".repeat(32), after: "é".repeat(160), expires_ms: 1 };
    assert!(cursor.seal(&sealer(1, 1)).unwrap().len() <= MAX_TEXT);
    assert_eq!(Cursor { after: "a".repeat(321), ..cursor }.seal(&sealer(1, 1)), Err(SealError::TooLarge));
    assert_eq!(bounded_capabilities("nonsense"), "{}");
}
