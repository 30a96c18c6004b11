//! How a gateway and a bridge prove to each other, once on each connection and before the first request, that they hold the same key.
//! The key itself is never sent, and nothing else is before both have proven it: whoever has got the address of a pod that is gone learns
//! nothing and is asked nothing.
//!
//! The gateway says [`Hello`]: 16 fixed bytes and 32 random ones. The bridge answers with 32 random bytes of its own and an HMAC
//! (RFC 2104, SHA-256) under the key over "bridge", both random parts and the address that it was reached at. The gateway sends the same
//! over "gateway", and its first request right after. The address is in it so that nobody in between can pass the words on to whoever
//! holds the key. HTTP never begins with a zero byte, so a bridge can tell who begins with a hello.

use std::net::IpAddr;

use hmac::{Hmac, KeyInit as _, Mac as _};
use portcullis_model::Secret;
use sha2::Sha256;

/// What a connection on which something is to be proven begins with.
pub const BEGIN: [u8; 16] = *b"\0portcullis/1\r\n\0";
/// Bytes of a random part.
const RANDOM: usize = 32;
/// Bytes of a proof.
pub const PROOF: usize = 32;
/// Bytes of the hello.
pub const HELLO: usize = BEGIN.len() + RANDOM;
/// Bytes of the bridge's answer.
pub const ANSWER: usize = RANDOM + PROOF;

/// The system has no randomness to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no randomness available")]
pub struct NoRandomness;

/// The gateway's side, for one connection.
#[derive(Debug)]
pub struct Hello([u8; RANDOM]);

impl Hello {
    /// A new one.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn new() -> Result<Self, NoRandomness> {
        random().map(Self)
    }

    /// What is sent first.
    pub fn bytes(&self) -> [u8; HELLO] {
        let mut bytes = [0; HELLO];
        bytes[..BEGIN.len()].copy_from_slice(&BEGIN);
        bytes[BEGIN.len()..].copy_from_slice(&self.0);
        bytes
    }

    /// What is sent next, where whoever answered at `at` holds one of the keys; none where they hold none of them.
    pub fn prove(&self, answer: &[u8; ANSWER], at: IpAddr, keys: &[Secret]) -> Option<[u8; PROOF]> {
        let (theirs, proof) = answer.split_at(RANDOM);
        let held = keys.iter().find(|key| {
            // In constant time.
            mac(key, b"bridge", &self.0, theirs, at).is_some_and(|mac| mac.verify_slice(proof).is_ok())
        })?;
        mac(held, b"gateway", &self.0, theirs, at).map(|mac| mac.finalize().into_bytes().into())
    }
}

/// The bridge's side, for one connection.
pub struct Answer {
    bytes: [u8; ANSWER],
    wanted: Hmac<Sha256>,
}

impl Answer {
    /// To a hello that came at the address `at`. None where it is no hello, or there is no randomness.
    pub fn to(hello: &[u8; HELLO], at: IpAddr, key: &Secret) -> Option<Self> {
        let theirs = hello.strip_prefix(&BEGIN)?;
        let ours = random().ok()?;
        let proof = mac(key, b"bridge", theirs, &ours, at)?.finalize().into_bytes();
        let mut bytes = [0; ANSWER];
        bytes[..RANDOM].copy_from_slice(&ours);
        bytes[RANDOM..].copy_from_slice(&proof);
        Some(Self { bytes, wanted: mac(key, b"gateway", theirs, &ours, at)? })
    }

    /// What is sent.
    pub fn bytes(&self) -> &[u8; ANSWER] {
        &self.bytes
    }

    /// Whether who said hello holds the key. In constant time.
    pub fn admits(self, proof: &[u8; PROOF]) -> bool {
        self.wanted.verify_slice(proof).is_ok()
    }
}

fn random() -> Result<[u8; RANDOM], NoRandomness> {
    let mut bytes = [0; RANDOM];
    getrandom::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

/// Each part has a length of its own, so no two texts look alike.
fn mac(key: &Secret, who: &[u8], gateway: &[u8], bridge: &[u8], at: IpAddr) -> Option<Hmac<Sha256>> {
    let at = match at {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose()).ok()?;
    mac.update(&[u8::try_from(who.len()).ok()?]);
    for part in [who, gateway, bridge, &at.octets()] {
        mac.update(part);
    }
    Some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 2, 3));

    fn key(text: &str) -> Secret {
        Secret::new(text)
    }

    #[test]
    fn who_holds_the_key_is_believed_and_nobody_else() {
        let hello = Hello::new().unwrap();
        let answer = Answer::to(&hello.bytes(), AT, &key("a")).unwrap();
        // One of several, as while pods with another key are going.
        let proof = hello.prove(answer.bytes(), AT, &[key("b"), key("a")]).unwrap();
        assert!(answer.admits(&proof));
        let answer = Answer::to(&hello.bytes(), AT, &key("a")).unwrap();
        for keys in [&[key("b")][..], &[]] {
            assert_eq!(hello.prove(answer.bytes(), AT, keys), None);
        }
        let other = Hello::new().unwrap().prove(answer.bytes(), AT, &[key("a")]);
        assert_eq!(other, None, "an answer to another hello");
        assert!(!answer.admits(&proof), "a proof of another connection");
    }

    #[test]
    fn what_is_passed_on_or_sent_back_proves_nothing() {
        let hello = Hello::new().unwrap();
        let answer = Answer::to(&hello.bytes(), AT, &key("a")).unwrap();
        // Somebody at another address asked the one that holds the key.
        assert_eq!(hello.prove(answer.bytes(), "10.1.2.4".parse().unwrap(), &[key("a")]), None);
        // An address has one form.
        assert!(hello.prove(answer.bytes(), "::ffff:10.1.2.3".parse().unwrap(), &[key("a")]).is_some());
        let mut echoed = [0; PROOF];
        echoed.copy_from_slice(&answer.bytes()[RANDOM..]);
        assert!(!answer.admits(&echoed), "the bridge's own proof is not the gateway's");
        let mut none = hello.bytes();
        none[1] = b'x';
        assert!(Answer::to(&none, AT, &key("a")).is_none());
        assert!(!b"GET ".starts_with(&BEGIN[..1]) && !b"PRI ".starts_with(&BEGIN[..1]));
    }
}
