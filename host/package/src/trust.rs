//! Which keys may sign what: the operator's word, read once.

use std::{path::Path, sync::Arc};

use portcullis_model::oci::{Digest, Reference};

use crate::{
    Need, PackageError, PackageSettings, PublicKey, Signed,
    signature::{self, Match},
};

/// The keys that count, and what for.
#[derive(Debug)]
pub struct Trust {
    need: Need,
    keys: Vec<Trusted>,
}

#[derive(Debug)]
struct Trusted {
    name: Arc<str>,
    key: PublicKey,
    repositories: Vec<Pattern>,
    files: bool,
}

#[derive(Debug)]
enum Pattern {
    /// This repository.
    One(String),
    /// All below this, which ends in a slash.
    Below(String),
}

/// Who signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// The key's name in the settings.
    pub name: Arc<str>,
    /// Its fingerprint.
    pub fingerprint: String,
}

impl Trust {
    /// Reads the keys.
    ///
    /// # Errors
    /// In words for operators: which key is wrong, and how.
    pub fn open(settings: &PackageSettings) -> Result<Self, String> {
        let mut keys: Vec<Trusted> = Vec::with_capacity(settings.keys.len());
        for setting in &settings.keys {
            let wrong = |why: String| format!("plugins.keys: {}: {why}", setting.name);
            let told = |e: std::io::Error| wrong(format!("{}: {e}", setting.file.display()));
            let pem = std::fs::read(&setting.file).map_err(told)?;
            let key = PublicKey::from_pem(&pem).map_err(|e| wrong(format!("{}: {e}", setting.file.display())))?;
            if setting.name.is_empty() || keys.iter().any(|k| *k.name == *setting.name) {
                return Err(wrong("each key has a name of its own".to_owned()));
            }
            let repositories: Vec<_> = setting
                .repositories
                .iter()
                .map(|text| Pattern::parse(text))
                .collect::<Result<_, _>>()
                .map_err(wrong)?;
            let files = setting.files.unwrap_or(repositories.is_empty());
            keys.push(Trusted { name: Arc::from(&*setting.name), key, repositories, files });
        }
        Ok(Self { need: settings.signatures, keys })
    }

    /// One key that may sign everything.
    pub fn only(name: &str, key: PublicKey) -> Self {
        let key = Trusted { name: Arc::from(name), key, repositories: Vec::new(), files: true };
        Self { need: Need::All, keys: vec![key] }
    }

    /// Whether components of registries need a signature.
    pub fn of_registries(&self) -> bool {
        self.need != Need::None
    }

    /// Whether files do.
    pub fn of_files(&self) -> bool {
        self.need == Need::All
    }

    /// Who signed a manifest in that repository.
    ///
    /// # Errors
    /// [`PackageError`]: nobody, nobody who may, or of something else.
    pub fn manifest(
        &self,
        reference: &Reference,
        digest: &Digest,
        manifest: &[u8],
        signatures: &[Signed],
    ) -> Result<Signer, PackageError> {
        let what = reference.place();
        if signatures.is_empty() {
            return Err(PackageError::Unsigned(what));
        }
        let may = || self.keys.iter().filter(|k| k.may_sign(&what));
        let mut other = false;
        for trusted in may() {
            for signed in signatures.iter().take(signature::MAX_SIGNATURES) {
                match signed.matches(&trusted.key, digest, manifest) {
                    Match::Good => return Ok(trusted.signer()),
                    Match::Other => other = true,
                    Match::No => {}
                }
            }
        }
        if other {
            return Err(PackageError::SignedOther(what));
        }
        Err(PackageError::WrongKey { keys: names(may()), what })
    }

    /// Who signed a file. `signature` is the text beside it, where there is one.
    ///
    /// # Errors
    /// [`PackageError`], as for manifests; whether the file or the key is wrong can't be told.
    pub fn file(&self, path: &Path, bytes: &[u8], signature: Option<&[u8]>) -> Result<Signer, PackageError> {
        let what = path.display().to_string();
        let Some(text) = signature else { return Err(PackageError::Unsigned(what)) };
        let der = signature::read_detached(text).ok_or_else(|| PackageError::Signature {
            what: what.clone(),
            why: "it is not one line of base64".to_owned(),
        })?;
        let may = || self.keys.iter().filter(|k| k.files);
        if let Some(trusted) = may().find(|k| k.key.verifies(bytes, &der)) {
            return Ok(trusted.signer());
        }
        if may().next().is_none() {
            return Err(PackageError::WrongKey { keys: names(may()), what });
        }
        Err(PackageError::SignedOther(what))
    }
}

impl Trusted {
    fn may_sign(&self, place: &str) -> bool {
        self.repositories.is_empty() || self.repositories.iter().any(|pattern| pattern.holds(place))
    }

    fn signer(&self) -> Signer {
        Signer { name: Arc::clone(&self.name), fingerprint: self.key.fingerprint() }
    }
}

fn names<'k>(keys: impl Iterator<Item = &'k Trusted>) -> String {
    let names: Vec<&str> = keys.map(|k| &*k.name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("{text} is no repository such as registry.example.com/team/plugin or registry.example.com/team/*")
        };
        let plain = |text: &str| {
            Reference::parse(text).is_ok_and(|r| r.tag().is_none() && r.digest().is_none() && r.place() == text)
        };
        match text.strip_suffix('*') {
            // With a word in place of the star it has to be a repository.
            Some(start) if start.ends_with('/') && plain(&format!("{start}x")) => Ok(Self::Below(start.to_owned())),
            None if plain(text) => Ok(Self::One(text.to_owned())),
            _ => Err(wrong()),
        }
    }

    fn holds(&self, place: &str) -> bool {
        match self {
            Self::One(one) => one == place,
            Self::Below(start) => place.starts_with(start.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeySetting, PrivateKey, detached};

    struct Bench {
        dir: tempfile::TempDir,
        key: PrivateKey,
    }

    impl Bench {
        fn new() -> Self {
            let bench = Self { dir: tempfile::tempdir().unwrap(), key: PrivateKey::generate().unwrap() };
            let pem = bench.key.public().unwrap().to_pem();
            std::fs::write(bench.dir.path().join("k.pub"), pem).unwrap();
            bench
        }

        fn trust(&self, repositories: &[&str]) -> Result<Trust, String> {
            let key = KeySetting {
                name: "platform".into(),
                file: self.dir.path().join("k.pub"),
                repositories: repositories.iter().map(|r| (*r).to_owned()).collect(),
                files: None,
            };
            Trust::open(&PackageSettings { keys: vec![key], ..PackageSettings::default() })
        }
    }

    #[test]
    fn a_key_signs_where_it_may() {
        let bench = Bench::new();
        let manifest = b"{}";
        let digest = Digest::of(crate::sha256(manifest));
        let verdict = |trust: &Trust, place: &str| {
            let reference = Reference::parse(place).unwrap();
            let signed = Signed::new(&reference, &digest, &bench.key).unwrap();
            trust.manifest(&reference, &digest, manifest, &[signed]).map(|s| s.name.to_string())
        };
        let all = bench.trust(&[]).unwrap();
        assert_eq!(verdict(&all, "r.example/a/b"), Ok("platform".into()));
        let some = bench.trust(&["r.example/a/*", "q.example/one"]).unwrap();
        assert_eq!(verdict(&some, "r.example/a/b"), Ok("platform".into()));
        assert_eq!(verdict(&some, "q.example/one"), Ok("platform".into()));
        for elsewhere in ["r.example/ab", "r.example/b/a", "q.example/one/two", "r.example.evil/a/b"] {
            assert!(matches!(verdict(&some, elsewhere), Err(PackageError::WrongKey { .. })), "{elsewhere}");
        }
        let reference = Reference::parse("r.example/a/b").unwrap();
        assert!(matches!(all.manifest(&reference, &digest, manifest, &[]), Err(PackageError::Unsigned(_))));
    }

    #[test]
    fn a_key_of_repositories_signs_no_files() {
        let bench = Bench::new();
        let text = detached(b"component", &bench.key).unwrap();
        let file = |trust: &Trust, bytes: &[u8], signature: Option<&str>| {
            trust.file(Path::new("/x.wasm"), bytes, signature.map(str::as_bytes)).map(|s| s.name.to_string())
        };
        let all = bench.trust(&[]).unwrap();
        assert_eq!(file(&all, b"component", Some(&text)), Ok("platform".into()));
        assert!(matches!(file(&all, b"altered", Some(&text)), Err(PackageError::SignedOther(_))));
        assert!(matches!(file(&all, b"component", None), Err(PackageError::Unsigned(_))));
        assert!(matches!(file(&all, b"component", Some("?")), Err(PackageError::Signature { .. })));
        let some = bench.trust(&["r.example/a/*"]).unwrap();
        assert!(matches!(file(&some, b"component", Some(&text)), Err(PackageError::WrongKey { .. })));
    }

    #[test]
    fn wrong_settings_are_named() {
        let bench = Bench::new();
        for wrong in ["*", "r.example/*x", "https://r.example/a", "r.example/a:1", "R.example/a"] {
            assert!(bench.trust(&[wrong]).unwrap_err().contains("platform"), "{wrong}");
        }
        std::fs::write(bench.dir.path().join("k.pub"), "x").unwrap();
        assert!(bench.trust(&[]).unwrap_err().contains("there is no key"));
    }
}
