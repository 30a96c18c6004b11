//! What is kept of a sign-in, as it is sealed. Version 1.

use portcullis_model::{Secret, spec::LoginToken};
use portcullis_store::Revision;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Given, Held, Whose, held};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    v: u8,
    whose: &'a Whose,
    sign_in: &'a str,
    token: &'a str,
    refresh: Option<&'a str>,
    audiences: &'a [String],
    expires_ms: Option<u64>,
    client_id: &'a str,
    kind: LoginToken,
    groups: &'a [String],
    groups_ms: u64,
    nonce: &'a str,
    issued_ms: u64,
    until_ms: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Read {
    v: u8,
    whose: Whose,
    sign_in: String,
    token: String,
    refresh: Option<String>,
    audiences: Vec<String>,
    expires_ms: Option<u64>,
    client_id: String,
    kind: LoginToken,
    groups: Vec<String>,
    /// None in records of before this was kept: told with the token.
    groups_ms: Option<u64>,
    nonce: String,
    issued_ms: u64,
    until_ms: u64,
}

/// Reads a record that was opened; none where it is not one of this form.
pub(super) fn read(plain: &Secret, revision: Revision) -> Option<Held> {
    let read: Read = serde_json::from_slice(plain.expose()).ok().filter(|read: &Read| read.v == 1)?;
    let given = Given {
        token: Secret::new(read.token),
        audiences: read.audiences,
        expires_ms: read.expires_ms,
        refresh: read.refresh.map(Secret::new),
        groups: read.groups,
        groups_ms: read.groups_ms.unwrap_or(read.issued_ms),
        nonce: read.nonce,
    };
    let made = held(read.whose, read.sign_in, given, (read.client_id, read.kind), (read.issued_ms, read.until_ms));
    made.ok().map(|held| Held { revision, ..held })
}

/// What is sealed; none where a token is no text.
pub(super) fn write(held: &Held) -> Option<Secret> {
    fn text(secret: &Secret) -> Option<&str> {
        std::str::from_utf8(secret.expose()).ok()
    }
    let refresh = match &held.refresh {
        Some(secret) => Some(text(secret)?),
        None => None,
    };
    let written = Written {
        v: 1,
        whose: &held.whose,
        sign_in: &held.sign_in,
        token: text(&held.token.secret)?,
        refresh,
        audiences: &held.token.audiences,
        expires_ms: held.token.expires_ms,
        client_id: &held.client_id,
        kind: held.kind,
        groups: &held.groups,
        groups_ms: held.groups_ms,
        nonce: &held.nonce,
        issued_ms: held.issued_ms,
        until_ms: held.until_ms,
    };
    // Tokens have no characters that JSON escapes; a buffer that grows would leave copies behind.
    let groups: usize = held.groups.iter().map(|g| g.len() * 2 + 4).sum();
    let room = (8 << 10) + held.token.secret.len() + refresh.map_or(0, str::len) + groups;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    serde_json::to_writer(&mut *bytes, &written).ok()?;
    Some(Secret::new(std::mem::take(&mut *bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_its_text_and_a_renewal_keeps_the_sign_in() {
        let whose = Whose {
            tenant: "t".parse().unwrap(),
            provider: "corp".parse().unwrap(),
            issuer: "https://i.example".into(),
            subject: "a\"1".into(),
        };
        let given = |token: &str| Given {
            token: Secret::new(token),
            audiences: vec!["portcullis".into()],
            expires_ms: Some(10_000),
            refresh: Some(Secret::new("refresh")),
            groups: vec!["g".into()],
            groups_ms: 5,
            nonce: "n".into(),
        };
        let make = |token: &str, sign_in: &str| {
            held(whose.clone(), sign_in.into(), given(token), ("c".into(), LoginToken::IdToken), (0, 99)).unwrap()
        };
        let one = make("one", "s");
        let two = read(&write(&one).unwrap(), Revision(7)).unwrap();
        assert_eq!((&two.whose, two.revision, &*two.nonce, two.until_ms), (&whose, Revision(7), "n", 99));
        assert_eq!((two.token.secret.expose(), two.token.digest), (&b"one"[..], one.token.digest));
        assert_eq!(two.refresh.as_ref().unwrap().expose(), b"refresh");
        assert_eq!(make("renewed", "s").token.digest, one.token.digest, "what was swapped for it goes on");
        assert_ne!(make("one", "another").token.digest, one.token.digest, "another sign-in is another token");
        assert!(!one.is_due(7_000) && one.is_due(8_000) && !one.is_over(7_000) && one.is_over(8_000));
        assert!(read(&Secret::new("{}"), Revision(1)).is_none());
    }
}
