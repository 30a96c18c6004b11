//! The setting `store`: the database that several gateways share.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use portcullis_model::{Secret, Span};
use portcullis_store::PostgresOptions;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use zeroize::Zeroizing;

/// How long a gateway goes on that can't reach its store, unless said.
const STALE: Duration = Duration::from_secs(120);
/// The longest that may be said.
const STALE_MOST: Duration = Duration::from_secs(24 * 60 * 60);

/// A database: its URL alone, or with what does not belong into one.
#[derive(Clone, Debug)]
pub struct Database {
    /// `postgres://USER@HOST/DATABASE`.
    pub url: String,
    /// Where the password is; none where the database asks for none.
    pub password: Option<Password>,
    /// A PEM file of authorities that are trusted beside the machine's.
    pub certificates: Option<PathBuf>,
    /// How long calls go on by what was known last while the store can't be reached.
    pub stale_for: Span,
}

/// Where a password is.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Password {
    /// In an environment variable.
    Env(String),
    /// In a file.
    File(PathBuf),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    url: String,
    password: Option<Password>,
    certificates: Option<PathBuf>,
    stale_for: Option<Span>,
}

impl From<Written> for Database {
    fn from(written: Written) -> Self {
        let Written { url, password, certificates, stale_for } = written;
        let stale_for = stale_for.unwrap_or(Span::seconds(STALE.as_secs()));
        Self { url, password, certificates, stale_for }
    }
}

impl<'de> Deserialize<'de> for Database {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Database;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a URL such as postgres://portcullis@db.example.com/portcullis, or a map with `url`")
            }

            fn visit_str<E>(self, url: &str) -> Result<Database, E> {
                Ok(Database::at(url))
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Database, M::Error> {
                Written::deserialize(MapAccessDeserializer::new(map)).map(Database::from)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl Database {
    /// One of which nothing but the URL is said.
    pub fn at(url: &str) -> Self {
        Written { url: url.to_owned(), password: None, certificates: None, stale_for: None }.into()
    }

    /// Lets relative paths start from a directory.
    pub fn start_from(&mut self, base: &Path) {
        if let Some(Password::File(path)) = &mut self.password {
            *path = base.join(&*path);
        }
        self.certificates = self.certificates.as_ref().map(|path| base.join(path));
    }

    /// Whether it makes sense.
    ///
    /// # Errors
    /// In words.
    pub fn check(&self) -> Result<()> {
        if let Err(why) = PostgresOptions::parse(&self.url) {
            bail!("store: the URL {why}");
        }
        if self.stale_for.get() > STALE_MOST {
            bail!("store.staleFor: 1d is the most");
        }
        Ok(())
    }

    /// How it is reached. Reads the password and the certificates.
    ///
    /// # Errors
    /// Where they can't be read.
    pub fn options(&self) -> Result<PostgresOptions> {
        let mut options = PostgresOptions::parse(&self.url).map_err(|why| anyhow::anyhow!("store: the URL {why}"))?;
        let text = match &self.password {
            None => None,
            Some(Password::Env(name)) => {
                let text = std::env::var(name).with_context(|| format!("store.password: the variable {name}"))?;
                Some(Zeroizing::new(text))
            }
            Some(Password::File(path)) => {
                let text = std::fs::read_to_string(path);
                Some(Zeroizing::new(text.with_context(|| format!("store.password: {}", path.display()))?))
            }
        };
        if let Some(text) = text {
            options = options.password(&Secret::new(text.trim_end_matches(['\r', '\n']).as_bytes()));
        }
        let roots = match &self.certificates {
            None => portcullis_outbound::roots().context("TLS can't be set up")?,
            Some(file) => {
                let wrong = || format!("store.certificates: {}", file.display());
                let pem = std::fs::read(file).with_context(wrong)?;
                portcullis_outbound::roots_and(&pem).with_context(wrong)?
            }
        };
        Ok(options.certificates(Arc::new(roots)))
    }
}

#[cfg(test)]
mod tests {
    use crate::settings::Settings;

    fn read(text: &str) -> Result<Settings, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("serve.yaml");
        std::fs::write(&file, text).unwrap();
        Settings::read(&file).map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn a_database_is_a_url_or_more() {
        let key = "sealingKey: {env: KEY}\n";
        let plain = read(&format!("{key}store: postgres://p@db.example.com/p\n")).unwrap().store.unwrap();
        assert_eq!((plain.url.as_str(), plain.password.is_none()), ("postgres://p@db.example.com/p", true));
        assert_eq!(plain.stale_for.get().as_secs(), 120);
        let more = "store: {url: 'postgres://p@db.example.com/p', password: {file: pw}, staleFor: 10s}\n";
        let more = read(&format!("{key}{more}")).unwrap().store.unwrap();
        assert_eq!(more.stale_for.get().as_secs(), 10);
        let wrong = read(&format!("{key}store: {{url: 'postgres://p@db/p', passwd: x}}\n")).unwrap_err();
        assert!(wrong.contains("passwd"), "{wrong}");
        let secret = read(&format!("{key}store: postgres://p:hidden@db/p\n")).unwrap_err();
        assert!(secret.contains("holds a password") && !secret.contains("hidden"), "{secret}");
    }

    #[test]
    fn a_shared_store_wants_a_key_that_is_given() {
        let wrong = read("store: postgres://p@db.example.com/p\n").unwrap_err();
        assert!(wrong.contains("sealingKey"), "{wrong}");
    }
}
