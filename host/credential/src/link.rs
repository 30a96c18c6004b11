//! The link that a call is answered with where an account is missing: what it is about, in a text that nobody can read or
//! make up.
//!
//! It carries no authority (security.md 21). Whoever opens it is signed in first, and the page asks whether that person may
//! connect for whom the link is meant; somebody who finds one learns nothing from it.

use portcullis_model::{Name, Subject};
use portcullis_protocol::seal::{Domain, SealError, Sealer};

/// How long a link is good for, in milliseconds: a day. People answer a message of their agent later than a machine does.
pub const LIFETIME_MS: u64 = 86_400_000;

/// What is to be connected, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectLink {
    /// The tenant of everything else here.
    pub tenant: Name,
    /// The `McpServer`.
    pub server: Name,
    /// The caller that had nothing to run under. What is connected need not become theirs: a team's caller is served by a
    /// member's connection as well.
    pub wanted: Subject,
    /// The connection that exists and has to be mended; none where there is none.
    pub connection: Option<Name>,
    /// The gateway that the call came to.
    pub gateway: Name,
    /// When the link ends, in milliseconds since 1970.
    pub expires_ms: u64,
}

/// The sealed form: tenant, server, wanted, connection, gateway, end.
type Sealed = (Name, Name, String, Option<Name>, Name, u64);

impl ConnectLink {
    /// The link as opaque, URL-safe text; under 1 kB.
    ///
    /// # Errors
    /// [`SealError::TooLarge`] where an issuer's name for somebody is very long, [`SealError::NoRandomness`].
    pub fn seal(&self, sealer: &Sealer) -> Result<String, SealError> {
        let plain: Sealed = (
            self.tenant.clone(),
            self.server.clone(),
            self.wanted.to_string(),
            self.connection.clone(),
            self.gateway.clone(),
            self.expires_ms,
        );
        let plain = serde_json::to_vec(&plain).map_err(|_| SealError::Malformed)?;
        sealer.seal(Domain::ConnectLink, &plain)
    }

    /// Opens a link at `now_ms`.
    ///
    /// # Errors
    /// Everything of [`Sealer::open`], and [`SealError::Expired`]. Show people [`SealError::PUBLIC`] for all of them.
    pub fn open(sealer: &Sealer, text: &str, now_ms: u64) -> Result<Self, SealError> {
        let plain = sealer.open(Domain::ConnectLink, text)?;
        let sealed: Sealed = serde_json::from_slice(&plain).map_err(|_| SealError::Malformed)?;
        let (tenant, server, wanted, connection, gateway, expires_ms) = sealed;
        let wanted = wanted.parse().map_err(|_| SealError::Malformed)?;
        if now_ms >= expires_ms {
            return Err(SealError::Expired);
        }
        Ok(Self { tenant, server, wanted, connection, gateway, expires_ms })
    }

    /// The URL that is shown: `base` is the gateway's public URL without a slash at its end.
    ///
    /// # Errors
    /// As [`ConnectLink::seal`].
    pub fn url(&self, base: &str, sealer: &Sealer) -> Result<String, SealError> {
        Ok(format!("{base}/connect/{}", self.seal(sealer)?))
    }
}

#[cfg(test)]
mod tests {
    use portcullis_model::Secret;

    use super::*;

    fn sealer(byte: u8) -> Sealer {
        Sealer::new(1, &Secret::new(vec![byte; 32])).unwrap()
    }

    fn link(wanted: &str) -> ConnectLink {
        ConnectLink {
            tenant: Name::default_tenant(),
            server: "github".parse().unwrap(),
            wanted: wanted.parse().unwrap(),
            connection: Some("github-alice".parse().unwrap()),
            gateway: "main".parse().unwrap(),
            expires_ms: 1000,
        }
    }

    #[test]
    fn a_link_survives_its_text_and_ends() {
        for wanted in ["user:alice", "team:blue", "agent:ci", "organization", "external:https://i.example/a#b"] {
            let link = link(wanted);
            let text = link.seal(&sealer(7)).unwrap();
            assert!(!text.contains("github") && !text.contains('/'), "{text}");
            assert_eq!(ConnectLink::open(&sealer(7), &text, 999).unwrap(), link);
            assert_eq!(ConnectLink::open(&sealer(7), &text, 1000), Err(SealError::Expired));
        }
    }

    #[test]
    fn nobody_makes_one_up() {
        let text = link("user:alice").seal(&sealer(7)).unwrap();
        assert_eq!(ConnectLink::open(&sealer(8), &text, 0), Err(SealError::Forged));
        let mut changed = text.into_bytes();
        let last = changed.len() - 4;
        changed[last] = if changed[last] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert_eq!(ConnectLink::open(&sealer(7), &changed, 0), Err(SealError::Forged));
        // What was sealed for something else is no link.
        let cursor = sealer(7).seal(Domain::Cursor, b"[]").unwrap();
        assert_eq!(ConnectLink::open(&sealer(7), &cursor, 0), Err(SealError::Forged));
        assert_eq!(ConnectLink::open(&sealer(7), "", 0), Err(SealError::Malformed));
    }

    #[test]
    fn one_that_fits_no_url_is_not_made() {
        let link = link(&format!("external:https://i.example/{}#1", "x".repeat(2000)));
        assert_eq!(link.seal(&sealer(7)), Err(SealError::TooLarge));
    }
}
