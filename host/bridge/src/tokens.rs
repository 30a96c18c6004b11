//! The bearer tokens that clients prove themselves by: lines of a file, read again when it changes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use http::{HeaderMap, header};
use portcullis_model::Secret;
use subtle::ConstantTimeEq as _;

/// A shorter one could be guessed.
const LEAST: usize = 16;
/// The most bytes of the file.
const MOST: u64 = 16 << 10;

/// Why there are no tokens.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// The file can't be read.
    #[error("can't read the token file {path}: {error}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It holds none, or one that is too short.
    #[error("the token file {path} {what}")]
    Bad {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
}

/// The tokens, where any are asked for.
pub(crate) struct Tokens {
    file: Option<PathBuf>,
    known: Mutex<Vec<Secret>>,
    /// Whether everybody is let in.
    open: bool,
}

impl Tokens {
    /// Those of a file; without one, everybody is let in, unless there is a key to be proven.
    pub(crate) fn open(file: Option<PathBuf>, keyed: bool) -> Result<Self, TokensError> {
        let known = file.as_deref().map(read).transpose()?.unwrap_or_default();
        let open = file.is_none() && !keyed;
        Ok(Self { file, known: Mutex::new(known), open })
    }

    /// Reads the file again. What was read before stays where it can't be: a moment without a file is no reason to let nobody in.
    pub(crate) fn refresh(&self) {
        let Some(file) = &self.file else { return };
        match read(file) {
            Ok(tokens) => *self.known.lock().unwrap_or_else(PoisonError::into_inner) = tokens,
            Err(error) => tracing::warn!(%error, "the tokens stay as they were"),
        }
    }

    /// Whether a request may come in.
    pub(crate) fn admit(&self, headers: &HeaderMap) -> bool {
        if self.open {
            return true;
        }
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return false };
        let Some((scheme, sent)) = value.as_bytes().split_at_checked("bearer ".len()) else { return false };
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return false;
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // All are looked at, so that the time tells nothing of which one fits.
        known.iter().fold(false, |fits, token| fits | bool::from(token.expose().ct_eq(sent)))
    }
}

fn read(path: &Path) -> Result<Vec<Secret>, TokensError> {
    use std::io::Read as _;
    let failed = |error| TokensError::Read { path: path.to_owned(), error };
    let bad = |what| TokensError::Bad { path: path.to_owned(), what };
    let mut text = Vec::new();
    fs::File::open(path).map_err(failed)?.take(MOST + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MOST {
        return Err(bad("is too large"));
    }
    let tokens: Vec<Secret> =
        text.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|l| !l.is_empty()).map(Secret::new).collect();
    match &tokens[..] {
        [] => Err(bad("holds no token")),
        all if all.iter().any(|t| t.len() < LEAST) => Err(bad("holds a token of fewer than 16 characters")),
        _ => Ok(tokens),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn one_of_the_lines_opens_and_a_bad_file_opens_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        for bad in ["", "\n\n", "short\n", "long-enough-long-enough\nshort"] {
            fs::write(&file, bad).unwrap();
            assert!(Tokens::open(Some(file.clone()), false).is_err(), "{bad:?}");
        }
        fs::write(&file, "old-token-old-token\nnew-token-new-token\n").unwrap();
        let tokens = Tokens::open(Some(file.clone()), false).unwrap();
        assert!(
            tokens.admit(&headers("Bearer old-token-old-token"))
                && tokens.admit(&headers("bearer new-token-new-token"))
        );
        for bad in [
            "Bearer ",
            "Bearer old-token",
            "old-token-old-token",
            "Basic old-token-old-token",
            "Bearer old-token-old-token ",
        ] {
            assert!(!tokens.admit(&headers(bad)), "{bad}");
        }
        assert!(!tokens.admit(&HeaderMap::new()));
        let mut twice = headers("Bearer old-token-old-token");
        twice.append(header::AUTHORIZATION, "Bearer old-token-old-token".parse().unwrap());
        assert!(!tokens.admit(&twice));
        fs::write(&file, "new-token-new-token").unwrap();
        tokens.refresh();
        assert!(!tokens.admit(&headers("Bearer old-token-old-token")));
        fs::remove_file(&file).unwrap();
        tokens.refresh();
        assert!(tokens.admit(&headers("Bearer new-token-new-token")));
    }

    #[test]
    fn without_a_file_everybody_comes_in_unless_a_key_is_to_be_proven() {
        assert!(Tokens::open(None, false).unwrap().admit(&HeaderMap::new()));
        let keyed = Tokens::open(None, true).unwrap();
        assert!(!keyed.admit(&HeaderMap::new()) && !keyed.admit(&headers("Bearer ")));
    }
}
