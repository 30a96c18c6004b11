//! A secret is a type that does not print, serialize or compare.

use std::fmt;

use zeroize::Zeroizing;

/// Bytes that must not leave but by a named exit (ARCHITECTURE.md lists them). Wiped when dropped.
///
/// It can be made from anything and read only through [`Secret::expose`], whose callers the tidy test lists. It implements
/// neither `Display`, `Serialize` nor `PartialEq`; `Debug` says only that it is there.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// The bytes themselves. Calling this is an exit.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether a text holds the secret, so that it must not be shown. An empty secret is in nothing.
    pub fn is_in(&self, text: &[u8]) -> bool {
        !self.is_empty() && text.windows(self.len()).any(|window| window == &self.0[..])
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_tells_nothing() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(..)");
    }

    #[test]
    fn a_text_that_holds_a_secret_is_noticed() {
        assert!(Secret::new("hunter2").is_in(b"not hunter2, is it"));
        assert!(!Secret::new("hunter2").is_in(b"hunter"));
        assert!(!Secret::new("").is_in(b"x"));
    }
}
