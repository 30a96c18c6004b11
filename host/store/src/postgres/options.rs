//! How a database is named: a URL, a password beside it, and whose certificates are believed.

use std::{net::IpAddr, sync::Arc, time::Duration};

use portcullis_model::Secret;
use portcullis_telemetry::Metrics;
use tokio_postgres::config::{Config, Host, SslMode, TargetSessionAttrs};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How long what was sent may stay without an answer of the network before the connection counts as broken.
const SILENCE: Duration = Duration::from_secs(6);
/// How long a connection may be idle before the network is asked whether it still stands.
const IDLE: Duration = Duration::from_secs(20);

/// Why a URL names no database that may be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It can't be read.
    #[error("is not a URL such as postgres://portcullis@db.example.com/portcullis: {0}")]
    Unreadable(String),
    /// It holds a password, and settings are no place for one.
    #[error("holds a password: name the file or the variable that holds it instead")]
    Password,
    /// It lacks something.
    #[error("names no {0}")]
    Lacks(&'static str),
    /// Its `sslmode` would let somebody in between read along.
    #[error("sslmode={0} does not say who is at the other end: use verify-full, or disable where nobody is in between")]
    Mode(String),
}

/// A database, and how it is reached.
#[derive(Clone)]
pub struct PostgresOptions {
    pub(super) config: Config,
    pub(super) tls: bool,
    pub(super) roots: Option<Arc<rustls::ClientConfig>>,
    pub(super) metrics: Arc<Metrics>,
    /// How long opening waits for a database that can't be reached, and a write for one that went away.
    pub(super) patience: Duration,
}

impl std::fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresOptions").field("place", &self.place()).finish_non_exhaustive()
    }
}

impl PostgresOptions {
    /// Reads a URL as libpq's (PostgreSQL 15 documentation, section 34.1.1.2), several hosts and `host=/directory` for a Unix
    /// socket included. Over a network TLS is used and the certificate is verified, unless it says `sslmode=disable`.
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn parse(url: &str) -> Result<Self, UrlError> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (modes, rest): (Vec<&str>, Vec<&str>) =
            query.split('&').filter(|p| !p.is_empty()).partition(|pair| pair.starts_with("sslmode="));
        let url = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(UrlError::Unreadable("another scheme".to_owned()));
        }
        let mut config: Config = url.parse().map_err(|e: tokio_postgres::Error| {
            UrlError::Unreadable(std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string))
        })?;
        if config.get_password().is_some() {
            return Err(UrlError::Password);
        }
        if config.get_user().is_none() {
            return Err(UrlError::Lacks("user"));
        }
        if config.get_dbname().is_none() {
            return Err(UrlError::Lacks("database"));
        }
        if config.get_hosts().is_empty() {
            return Err(UrlError::Lacks("host"));
        }
        let tls = match modes.last().and_then(|mode| mode.strip_prefix("sslmode=")) {
            None => !stays_here(&config),
            Some("disable") => false,
            Some("require" | "verify-ca" | "verify-full") => true,
            Some(other) => return Err(UrlError::Mode(other.to_owned())),
        };
        config
            .ssl_mode(if tls { SslMode::Require } else { SslMode::Disable })
            // Of several hosts, the one that takes writes: after a failover it is another.
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .application_name("portcullis")
            .connect_timeout(CONNECT)
            .tcp_user_timeout(SILENCE)
            .keepalives_idle(IDLE);
        let metrics = Metrics::new();
        Ok(Self { config, tls, roots: None, metrics, patience: Duration::from_secs(10) })
    }

    /// With this password.
    #[must_use]
    pub fn password(mut self, password: &Secret) -> Self {
        self.config.password(password.expose());
        self
    }

    /// Believing these certificates. Without them TLS can't be used.
    #[must_use]
    pub fn certificates(mut self, roots: Arc<rustls::ClientConfig>) -> Self {
        self.roots = Some(roots);
        self
    }

    /// Counting here.
    #[must_use]
    pub fn metrics(mut self, metrics: Arc<Metrics>) -> Self {
        self.metrics = metrics;
        self
    }

    /// How long opening waits for a database that can't be reached, and a write for one that went away; 10 seconds unless said.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Whether what goes to the database could be read on the way: no TLS, and not this machine.
    pub fn in_the_clear(&self) -> bool {
        !self.tls && !stays_here(&self.config)
    }

    /// The database in words: user, hosts and name, and never a password.
    pub fn place(&self) -> String {
        let mut ports = self.config.get_ports().iter();
        let mut named = |host: &Host| {
            let port = ports.next().or(self.config.get_ports().last()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) => format!("{name}:{port}"),
                Host::Unix(path) => path.display().to_string(),
            }
        };
        let hosts: Vec<String> = self.config.get_hosts().iter().map(&mut named).collect();
        let (user, name) = (self.config.get_user().unwrap_or_default(), self.config.get_dbname().unwrap_or_default());
        format!("postgres://{user}@{}/{name}", hosts.join(","))
    }
}

/// Whether nothing leaves this machine. An address goes before the name that it is given for.
fn stays_here(config: &Config) -> bool {
    match config.get_hostaddrs() {
        [] => config.get_hosts().iter().all(is_here),
        addresses => addresses.iter().all(IpAddr::is_loopback),
    }
}

/// Whether a host is this machine.
fn is_here(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_who_may_read_along() {
        let tls = |url: &str| PostgresOptions::parse(url).map(|o| (o.tls, o.in_the_clear()));
        assert_eq!(tls("postgres://p@db.example.com/p"), Ok((true, false)));
        assert_eq!(tls("postgresql://p@db.example.com:6543/p?sslmode=verify-full"), Ok((true, false)));
        assert_eq!(tls("postgres://p@db.example.com/p?sslmode=disable"), Ok((false, true)));
        assert_eq!(tls("postgres://p@127.0.0.1/p"), Ok((false, false)));
        assert_eq!(tls("postgres://p@127.0.0.1,db.example.com/p"), Ok((true, false)));
        assert_eq!(tls("postgres://p@/p?host=/run/postgresql"), Ok((false, false)));
        assert_eq!(tls("postgres://p@localhost/p?hostaddr=192.0.2.5"), Ok((true, false)));
        assert_eq!(tls("postgres://p@localhost/p?hostaddr=192.0.2.5&sslmode=disable"), Ok((false, true)));
        for mode in ["prefer", "allow", ""] {
            let url = format!("postgres://p@db.example.com/p?sslmode={mode}");
            assert_eq!(tls(&url), Err(UrlError::Mode(mode.to_owned())));
        }
    }

    #[test]
    fn urls_hold_no_password_and_leave_nothing_out() {
        let refused = |url: &str| PostgresOptions::parse(url).unwrap_err();
        assert_eq!(refused("postgres://p:secret@localhost/p"), UrlError::Password);
        assert_eq!(refused("postgres://localhost/p"), UrlError::Lacks("user"));
        assert_eq!(refused("postgres://p@localhost"), UrlError::Lacks("database"));
        assert!(matches!(refused("mysql://p@localhost/p"), UrlError::Unreadable(_)));
        assert!(matches!(refused("postgres://p@localhost:x/p"), UrlError::Unreadable(_)));
    }

    #[test]
    fn a_place_has_no_password() {
        let options = PostgresOptions::parse("postgres://p@a.example,b.example:6543/state").unwrap();
        let options = options.password(&Secret::new(b"hidden".as_slice()));
        assert_eq!(options.place(), "postgres://p@a.example:5432,b.example:6543/state");
        assert!(!format!("{options:?}").contains("hidden"));
    }
}
