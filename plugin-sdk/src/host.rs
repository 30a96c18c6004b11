//! What a plugin may ask of the host beside what its hook lends it: configuration, log lines, secrets.

use std::sync::OnceLock;

use serde::de::DeserializeOwned;

use crate::{Error, raw};

/// The plugin's `config`, read into a type of yours.
///
/// # Errors
/// [`Error::InvalidConfig`] where it does not fit the type; `?` turns that into a refusal that names the place.
pub fn config<T: DeserializeOwned>() -> Result<T, Error> {
    serde_json::from_str(&raw::config()).map_err(|e| Error::InvalidConfig(e.to_string()))
}

/// Getting ready, once, when the plugin is loaded. Optional.
///
/// Every instance starts from the memory as [`prepare`](Self::prepare) leaves it: a configuration that is read into a
/// [`ConfigCell`] there is there in each call, at no cost. Nothing answers but the configuration, the log, clocks and randomness;
/// what is drawn at random is the same in every instance, also after a restart, so draw no keys and no nonces here.
pub trait Setup {
    /// Checks the configuration, and builds from it what the hooks need.
    ///
    /// # Errors
    /// Any error refuses the plugin in these words; what served before goes on serving.
    fn prepare() -> Result<(), Error>;
}

/// The plugin's `config`, read once: by [`Setup::prepare`] for all instances, or else at the first use in each.
///
/// ```
/// use portcullis_sdk::{ConfigCell, Error, Setup};
///
/// #[derive(serde::Deserialize)]
/// struct Limits {
///     calls: u32,
/// }
///
/// static LIMITS: ConfigCell<Limits> = ConfigCell::new();
///
/// struct Mine;
///
/// impl Setup for Mine {
///     fn prepare() -> Result<(), Error> {
///         LIMITS.read(|_| Ok(()))
///     }
/// }
///
/// # let _host = portcullis_sdk::fake::Host::new().config(r#"{"calls": 3}"#).install();
/// let calls = LIMITS.read(|limits| Ok(limits.calls))?;
/// assert_eq!(calls, 3);
/// # Ok::<(), portcullis_sdk::Error>(())
/// ```
pub struct ConfigCell<T>(OnceLock<Result<T, Error>>);

impl<T> Default for ConfigCell<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> ConfigCell<T> {
    /// Nothing read yet.
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }
}

impl<T: DeserializeOwned> ConfigCell<T> {
    /// Hands the configuration to `with`. An instance never sees its configuration change; in a native test, where each
    /// [`fake::Host`](crate::fake::Host) may bring another, it is read each time.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] where it does not fit the type, and what `with` returns.
    pub fn read<R>(&self, with: impl FnOnce(&T) -> Result<R, Error>) -> Result<R, Error> {
        if cfg!(not(target_arch = "wasm32")) {
            return with(&config()?);
        }
        with(self.0.get_or_init(config).as_ref().map_err(Clone::clone)?)
    }
}

/// How important a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something is broken.
    Error,
    /// Something is odd.
    Warn,
    /// Something happened.
    Info,
    /// For whoever looks for a mistake.
    Debug,
}

/// Writes a log line, tagged with the plugin's name and rate-limited.
pub fn log(level: Level, message: &str, fields: &[(&str, &str)]) {
    raw::log(level, message, fields);
}

/// A handle to a secret. It can be placed, never read (but see [`reveal`]), and remembers where its secret may go.
pub struct Secret(pub(crate) raw::Secret);

/// A piece of a header or of a body.
#[derive(Clone, Copy)]
pub enum Part<'a> {
    /// As it stands.
    Text(&'a str),
    /// The secret behind the handle.
    Secret(&'a Secret),
}

impl Secret {
    /// The secret, base64 (RFC 4648 section 4).
    #[must_use]
    pub fn base64(&self) -> Self {
        Self(self.0.base64())
    }

    /// The secret, encoded for a form field (application/x-www-form-urlencoded).
    #[must_use]
    pub fn form_encoded(&self) -> Self {
        Self(self.0.form_encoded())
    }

    /// The secret in lower-case hex.
    #[must_use]
    pub fn hex(&self) -> Self {
        Self(self.0.hex())
    }

    /// Texts and secrets, one after another.
    pub fn concat(parts: &[Part<'_>]) -> Self {
        Self(raw::Secret::concat(&raw::lower_parts(parts)))
    }
}

/// The secret that the operator granted to this plugin under this name.
///
/// # Errors
/// [`Error::NotFound`] where none was.
pub fn secret(name: &str) -> Result<Secret, Error> {
    raw::secret(name).map(Secret)
}

/// A secret's bytes. Needs the grant `reveal`; each use is audited.
///
/// # Errors
/// Where the host refuses.
pub fn reveal(secret: &Secret) -> Result<Vec<u8>, Error> {
    raw::reveal(&secret.0)
}
