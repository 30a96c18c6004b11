//! Names of what lies in a registry: `host[:port]/repository[:tag][@sha256:digest]`.

use std::fmt;

/// The most bytes of a repository's name, by the OCI distribution specification with its host.
const MAX_REPOSITORY: usize = 255;

/// Where something lies in a registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A SHA-256 as registries write it: `sha256:` and 64 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

/// A text that is no reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    /// No registry.
    #[error("begin with the registry, such as registry.example.com/team/plugin")]
    Host,
    /// A wrong repository.
    #[error(
        "after the registry, write words of a-z, 0-9 and single '.', '_' or '-' between them, separated by slashes"
    )]
    Repository,
    /// A wrong tag.
    #[error("a tag is up to 128 letters, digits, '_', '.' and '-'")]
    Tag,
    /// A wrong digest.
    #[error("a digest is sha256: and 64 hex digits in lower case")]
    Digest,
}

impl Reference {
    /// Reads one. The registry is never left to a guess.
    ///
    /// # Errors
    /// [`InvalidReference`], which says what to write.
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::parse(digest)?)),
            None => (text, None),
        };
        let (host, path) = rest.split_once('/').ok_or(InvalidReference::Host)?;
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        if !is_host(host) {
            return Err(InvalidReference::Host);
        }
        if host.len() + repository.len() >= MAX_REPOSITORY || !repository.split('/').all(is_step) {
            return Err(InvalidReference::Repository);
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(InvalidReference::Tag);
        }
        Ok(Self {
            host: host.to_ascii_lowercase(),
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// The registry, with its port where one is written.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository within the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Registry and repository, as rules name them.
    pub fn place(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// The tag, which says nothing where there is a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same place, pinned to a digest.
    #[must_use]
    pub fn at(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl Digest {
    /// Reads one.
    ///
    /// # Errors
    /// [`InvalidReference::Digest`].
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        let hex = text.strip_prefix("sha256:").ok_or(InvalidReference::Digest)?;
        let fine = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if fine { Ok(Self(text.to_owned())) } else { Err(InvalidReference::Digest) }
    }

    /// Of a SHA-256.
    pub fn of(sha256: [u8; 32]) -> Self {
        let hex: String = sha256.iter().map(|b| format!("{b:02x}")).collect();
        Self(format!("sha256:{hex}"))
    }

    /// With its algorithm.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The hex digits alone.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name with a dot, a port, or `localhost`: anything else would be a repository of some registry that is left to a guess.
fn is_host(text: &str) -> bool {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !name.starts_with('[') || name.ends_with(']') => (name, Some(port)),
        _ => (text, None),
    };
    let port_fine = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|n| n > 0));
    let v6 = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    let name_fine = match v6 {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.split('.').all(|part| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !part.starts_with('-')
                && !part.ends_with('-')
        }),
    };
    let sure = v6.is_some() || port.is_some() || name.contains('.') || name == "localhost";
    port_fine && name_fine && sure && text.len() <= MAX_REPOSITORY
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, of the OCI distribution specification.
fn is_step(text: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = text.split(word).filter(|s| !s.is_empty());
    let ends = text.starts_with(word) && text.ends_with(word);
    ends && separators.into_iter().all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    (1..=128).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn references_are_read_whole() {
        let text = format!("registry.example.com:5000/team/a-plug.in_x:1.0@sha256:{HEX}");
        let reference = Reference::parse(&text).unwrap();
        assert_eq!(reference.host(), "registry.example.com:5000");
        assert_eq!(reference.repository(), "team/a-plug.in_x");
        assert_eq!(reference.place(), "registry.example.com:5000/team/a-plug.in_x");
        assert_eq!(reference.tag(), Some("1.0"));
        assert_eq!(reference.digest().map(Digest::hex), Some(HEX));
        assert_eq!(reference.to_string(), text);
        assert!(Reference::parse("localhost/x").is_ok());
        assert!(Reference::parse("[::1]:5000/x").is_ok());
    }

    #[test]
    fn what_is_none_says_why() {
        let of = |text: &str| Reference::parse(text).unwrap_err();
        assert_eq!(of("plugin"), InvalidReference::Host);
        assert_eq!(of("team/plugin"), InvalidReference::Host);
        assert_eq!(of("http://registry.example.com/x"), InvalidReference::Host);
        assert_eq!(of("user:pass@registry.example.com/x"), InvalidReference::Digest);
        assert_eq!(of("registry.example.com:99999/x"), InvalidReference::Host);
        for wrong in ["UP", "a//b", "a/../b", "a..b", "-a", "a_", "a?b", "a%2fb", "", "a___b"] {
            assert_eq!(of(&format!("registry.example.com/{wrong}")), InvalidReference::Repository, "{wrong}");
        }
        assert_eq!(of("registry.example.com/x:.a"), InvalidReference::Tag);
        assert_eq!(of(&format!("registry.example.com/x@sha256:{}", HEX.to_uppercase())), InvalidReference::Digest);
        assert_eq!(of("registry.example.com/x@sha512:00"), InvalidReference::Digest);
    }
}
