//! Request ids: short, unique across restarts, and cheap.

use std::{
    fmt,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// The id of one request: eight characters drawn when the process started, and a number. It is quoted in answers, logs and
/// audit records. Says nothing and authorises nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId {
    text: [u8; 22],
    len: u8,
}

impl RequestId {
    /// The next id of this process.
    pub fn next() -> Self {
        static PREFIX: OnceLock<[u8; 8]> = OnceLock::new();
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let prefix = PREFIX.get_or_init(|| {
            let random = random_u64();
            std::array::from_fn(|i| DIGITS[(random >> (5 * i)) as usize & 31])
        });
        Self::from_parts(prefix, COUNT.fetch_add(1, Ordering::Relaxed))
    }

    fn from_parts(prefix: &[u8; 8], mut count: u64) -> Self {
        let mut text = [b'-'; 22];
        text[..8].copy_from_slice(prefix);
        let mut digits = [0; 13];
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = DIGITS[count as usize & 31];
            count >>= 5;
            if count == 0 {
                break;
            }
        }
        let digits = &digits[first..];
        text[9..9 + digits.len()].copy_from_slice(digits);
        Self { text, len: 9 + digits.len() as u8 }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..usize::from(self.len)]).unwrap_or_default()
    }
}

/// 32 characters that can't be taken for one another.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Randomness for ids, not for secrets. Falls back to the clock and an address where the system has none.
pub(crate) fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    if getrandom::fill(&mut bytes).is_ok() {
        return u64::from_ne_bytes(bytes);
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    now ^ ((&raw const bytes) as u64).rotate_left(32) ^ u64::from(std::process::id())
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_read_well() {
        let (a, b) = (RequestId::next(), RequestId::next());
        assert_ne!(a, b);
        assert_eq!(a.as_str()[..9], b.as_str()[..9]);
        assert_eq!(RequestId::from_parts(b"abcdefgh", 0).as_str(), "abcdefgh-0");
        assert_eq!(RequestId::from_parts(b"abcdefgh", 33).as_str(), "abcdefgh-11");
        assert_eq!(RequestId::from_parts(b"abcdefgh", u64::MAX).as_str(), "abcdefgh-fzzzzzzzzzzzz");
    }
}
