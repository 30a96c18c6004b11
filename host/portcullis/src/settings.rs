//! Server settings: what `portcullis serve --config FILE` reads. `docs/configuration.md` explains each.

mod store;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use portcullis_cluster::Options as ClusterOptions;
use portcullis_credential::{Freshness, VaultOptions};
use portcullis_model::{Bytes, Span};
use portcullis_package::PackageSettings;
use serde::Deserialize;
use url::Url;

pub use store::{Database, Password};

/// Everything that is not a resource. Read once, at start.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Where clients connect. Loopback unless said otherwise.
    pub listen: SocketAddr,
    /// Where `/metrics` is served besides; without it, `/metrics` stands on `listen`, for loopback clients only.
    pub metrics_listen: Option<SocketAddr>,
    /// Networks whose clients `metricsListen` answers beside loopback.
    pub metrics_from: Vec<ipnet::IpNet>,
    /// Where the admin API is served besides the socket, for tokens made for it; nowhere where left out.
    pub admin_listen: Option<SocketAddr>,
    /// TLS on `listen` and `adminListen`.
    pub tls: Option<Tls>,
    /// A PEM file of certificate authorities that are trusted as well as the machine's, wherever we connect to: servers, identity
    /// providers, token endpoints.
    pub trusted_certificates: Option<PathBuf>,
    /// Where clients reach us, where that is not `listen`.
    pub public_url: Option<Url>,
    /// Proxies whose `X-Forwarded-For` is believed: addresses or networks.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// Names that `Host` may hold beside IP addresses, `localhost` and that of `publicUrl`.
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may send requests.
    pub allowed_origins: Vec<String>,
    /// Where state is kept, and what belongs to this machine alone.
    pub data_dir: PathBuf,
    /// The database that keeps state in place of `dataDir`, so that several gateways share it.
    pub store: Option<Database>,
    /// The admin socket; `admin.sock` in `dataDir` where left out.
    pub socket: Option<PathBuf>,
    /// Files and directories of resources, watched.
    pub resources: Vec<PathBuf>,
    /// Where the sealing key comes from; `sealing.key` in `dataDir`, made on first start, where left out.
    pub sealing_key: Option<SealingKey>,
    /// HashiCorp Vault or OpenBao, for secrets that resources name there.
    pub vault: Option<VaultOptions>,
    /// A Kubernetes cluster, for secrets that resources name there and for custom resources.
    pub kubernetes: Option<ClusterOptions>,
    /// How up to date secrets of other services are.
    pub secrets: Freshness,
    /// Threads that serve calls; as many as there are cores where left out.
    pub threads: Option<usize>,
    /// The most bytes of a request.
    pub max_body: Bytes,
    /// The most connections at once.
    pub max_connections: usize,
    /// The most connections at once from one address, or one IPv6 /64. `trustedProxies` may have any number.
    pub max_connections_per_address: usize,
    /// The most streams of `subscriptions/listen` that one caller may have open. All callers without a credential are one.
    pub max_streams_per_caller: usize,
    /// How long a client may take to answer what a server asks it in the middle of a call.
    pub answer_within: Span,
    /// The most plugin instances at once.
    pub plugin_instances: u32,
    /// How plugins' components come here: whose signatures count, which registries are how reached.
    pub plugins: PackageSettings,
    /// How long access tokens of MCP clients live; they renew them by themselves.
    pub access_token_life: Span,
    /// How long calls under way may take to end when the process is asked to.
    pub drain: Span,
    /// How long calls are still taken before that, while `/readyz` says that it is no longer ready.
    pub drain_delay: Span,
    /// Lets issuers of tokens have loopback, private and link-local addresses.
    pub allow_private_issuers: bool,
    /// Makes every connection serve its owner only, whatever its owner says.
    pub owner_only: bool,
    /// Whether OAuth clients may register themselves (RFC 7591).
    pub client_registration: bool,
    /// Lets metadata documents of OAuth clients lie at loopback, private and link-local addresses, and come over plain http.
    pub allow_private_clients: bool,
    /// How logs look and what they hold.
    pub log: Log,
}

/// A certificate and its key, PEM, and which certificates of clients are believed. Read again when the files change.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    /// The certificate chain.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// Asks clients for certificates; they are not asked where left out.
    pub client_certificates: Option<ClientCertificates>,
}

/// Whose client certificates are believed in the TLS handshake. Who a certificate makes somebody, an auth provider says.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientCertificates {
    /// The authorities' certificates, PEM. Whatever one of them signs for clients is believed.
    pub authorities: PathBuf,
    /// Lists of revoked certificates (RFC 5280 section 5), PEM: one of each authority.
    pub revoked: Option<PathBuf>,
    /// Refuses clients without a certificate in the handshake. Browsers without one see no page then.
    #[serde(default)]
    pub required: bool,
}

/// Where the sealing key comes from: exactly one field.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SealingKey {
    /// An environment variable.
    Env(String),
    /// A file, which has to exist.
    File(PathBuf),
}

/// Logs.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Log {
    /// `pretty` or `json`.
    pub format: String,
    /// What is logged, such as `info,portcullis_gateway=debug`.
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: "pretty".to_owned(), filter: "info".to_owned() }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7777)),
            metrics_listen: None,
            metrics_from: Vec::new(),
            admin_listen: None,
            tls: None,
            trusted_certificates: None,
            public_url: None,
            trusted_proxies: Vec::new(),
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            data_dir: PathBuf::from("portcullis-data"),
            store: None,
            socket: None,
            resources: Vec::new(),
            sealing_key: None,
            vault: None,
            kubernetes: None,
            secrets: Freshness::default(),
            threads: None,
            max_body: Bytes::mebi(4),
            max_connections: 20_000,
            max_connections_per_address: 5_000,
            max_streams_per_caller: 1_000,
            answer_within: Span::seconds(10 * 60),
            plugin_instances: 256,
            plugins: PackageSettings::default(),
            access_token_life: Span::seconds(900),
            drain: Span::seconds(30),
            drain_delay: Span::seconds(0),
            allow_private_issuers: false,
            owner_only: false,
            client_registration: true,
            allow_private_clients: false,
            log: Log::default(),
        }
    }
}

impl Settings {
    /// What no server's process gets to see: what the gateway keeps, and its keys.
    pub fn hidden(&self) -> Vec<PathBuf> {
        let mut all = vec![self.data_dir.clone()];
        all.extend(self.socket.clone());
        all.extend(self.tls.as_ref().map(|tls| tls.key.clone()));
        if let Some(SealingKey::File(path)) = &self.sealing_key {
            all.push(path.clone());
        }
        all
    }

    /// Reads a file. Relative paths in it start from its directory.
    ///
    /// # Errors
    /// With the file, the line and the reason.
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))?;
        let mut settings: Self =
            serde_saphyr::from_str(&text).map_err(|e| anyhow::anyhow!("{}: {e}", file.display()))?;
        let base = file.parent().unwrap_or(Path::new("."));
        settings.data_dir = base.join(&settings.data_dir);
        settings.socket = settings.socket.map(|p| base.join(p));
        settings.resources = settings.resources.iter().map(|p| base.join(p)).collect();
        if let Some(kubeconfig) = settings.kubernetes.as_mut().and_then(|k| k.kubeconfig.as_mut()) {
            *kubeconfig = base.join(&*kubeconfig);
        }
        if let Some(tls) = &mut settings.tls {
            tls.certificate = base.join(&tls.certificate);
            tls.key = base.join(&tls.key);
            if let Some(clients) = &mut tls.client_certificates {
                clients.authorities = base.join(&clients.authorities);
                clients.revoked = clients.revoked.as_ref().map(|path| base.join(path));
            }
        }
        settings.trusted_certificates = settings.trusted_certificates.map(|p| base.join(p));
        if let Some(SealingKey::File(path)) = &mut settings.sealing_key {
            *path = base.join(&*path);
        }
        settings.plugins.start_from(base);
        if let Some(store) = &mut settings.store {
            store.start_from(base);
        }
        if let Some(vault) = &mut settings.vault {
            vault.start_from(base);
        }
        settings.check().with_context(|| file.display().to_string())?;
        Ok(settings)
    }

    fn check(&self) -> Result<()> {
        if self.threads == Some(0) || self.max_connections == 0 {
            bail!("threads and maxConnections must be at least 1");
        }
        if !self.metrics_from.is_empty() && self.metrics_listen.is_none() {
            bail!("metricsFrom: needs metricsListen, since others than loopback are answered only there");
        }
        if self.drain_delay.get() > Duration::from_secs(600) {
            bail!("drainDelay: 10m is the most");
        }
        if self.admin_listen.is_some_and(|listen| !listen.ip().is_loopback()) && self.tls.is_none() {
            bail!("adminListen: beyond this machine it needs tls, since tokens for it may do much");
        }
        if self.answer_within.get() < Duration::from_secs(1)
            || self.answer_within.get() > Duration::from_secs(24 * 60 * 60)
        {
            bail!("answerWithin: between 1s and 1d");
        }
        if let Some(store) = &self.store {
            store.check()?;
            // A key that each made for itself would open nothing of the others' (security decision 5).
            if self.sealing_key.is_none() {
                bail!("store: gateways that share one need the same sealing key: name it in sealingKey");
            }
        }
        if let Some(url) = &self.public_url {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~/".contains(&b);
            let fine = matches!(url.scheme(), "https" | "http") && url.has_host() && url.username().is_empty();
            if !fine || url.query().is_some() || url.fragment().is_some() || !url.path().bytes().all(plain) {
                bail!(
                    "publicUrl: must be an https URL whose path, if any, holds letters, digits, '-', '_', '.' and '~'"
                );
            }
            if url.path().contains("//") {
                bail!("publicUrl: has an empty step in its path");
            }
        }
        let life = self.access_token_life.get();
        if life < Duration::from_secs(1) || life > Duration::from_secs(3600) {
            bail!("accessTokenLife: must be from 1s to 1h");
        }
        self.plugins.check().map_err(anyhow::Error::msg)?;
        if self.max_body.get() > 256 << 20 {
            bail!("maxBody: 256MiB is the most");
        }
        Ok(())
    }

    /// Where the admin socket is.
    pub fn socket_path(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.data_dir.join("admin.sock"))
    }

    /// The URL that clients begin with, without a slash at its end. `listen` is the address really bound.
    pub fn base_url(&self, listen: SocketAddr) -> String {
        match &self.public_url {
            Some(url) => url.as_str().trim_end_matches('/').to_owned(),
            None => format!("{}://{listen}", if self.tls.is_some() { "https" } else { "http" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_setting_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("serve.yaml");
        std::fs::write(&file, "listen: 127.0.0.1:0\ndatadir: x\n").unwrap();
        let error = format!("{:#}", Settings::read(&file).unwrap_err());
        assert!(error.contains("serve.yaml") && error.contains("datadir"), "{error}");
        assert!(error.contains("line 2"), "{error}");
    }

    #[test]
    fn relative_paths_start_from_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("serve.yaml");
        std::fs::write(&file, "dataDir: data\nresources: [res]\n").unwrap();
        let settings = Settings::read(&file).unwrap();
        assert_eq!(settings.resources, [dir.path().join("res")]);
        assert_eq!(settings.socket_path(), dir.path().join("data/admin.sock"));
        assert_eq!(settings.base_url("127.0.0.1:9".parse().unwrap()), "http://127.0.0.1:9");
    }
}
