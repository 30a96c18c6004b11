//! HashiCorp Vault's key-value engine, version 2, over its HTTP API; OpenBao speaks the same.

mod error;
mod login;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use portcullis_model::{
    DEFAULT_TENANT, Name, Secret,
    spec::{SecretSource, VaultSecret},
};
use portcullis_outbound::{Client, Reach, Request, Response};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::ServiceSettingsError;
use login::Session;

pub use error::VaultReadError;

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of an answer.
const MAX_ANSWER: usize = 1 << 20;

/// Where Vault is, and who we are there.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VaultOptions {
    /// Its address, such as `https://vault.example.com:8200`; `http` on this machine only.
    pub address: Url,
    /// The namespace (Vault Enterprise, OpenBao).
    #[serde(default)]
    pub namespace: Option<String>,
    /// A PEM file of the certificate authority that signed its certificate; the machine's where left out.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Who we are.
    pub auth: VaultAuth,
    /// Which paths resources of a tenant may name, each as `MOUNT/PATH` and all below it. Tenants that are not here may name
    /// none, but for the default one, which may name all.
    #[serde(default)]
    pub tenants: BTreeMap<Name, Vec<String>>,
}

/// Who we are for Vault: exactly one field.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum VaultAuth {
    /// A token, renewed for as long as it can be.
    Token(SecretSource),
    /// The service account of our pod.
    #[serde(rename_all = "camelCase")]
    Kubernetes {
        /// The role.
        role: String,
        /// Where the method is mounted.
        #[serde(default = "kubernetes")]
        mount: String,
        /// The service account's token.
        #[serde(default = "service_account")]
        token_file: String,
    },
    /// A role of machines.
    #[serde(rename_all = "camelCase")]
    AppRole {
        /// The role's id.
        role_id: String,
        /// Its secret id.
        secret_id: SecretSource,
        /// Where the method is mounted.
        #[serde(default = "approle")]
        mount: String,
    },
}

impl VaultOptions {
    /// Makes relative paths start here.
    pub fn start_from(&mut self, base: &Path) {
        let join = |path: &mut String| {
            if let Some(joined) = base.join(&*path).to_str() {
                *path = joined.to_owned();
            }
        };
        self.ca_file = self.ca_file.as_ref().map(|path| base.join(path));
        match &mut self.auth {
            VaultAuth::Kubernetes { token_file, .. } => join(token_file),
            VaultAuth::Token(SecretSource::File(path))
            | VaultAuth::AppRole { secret_id: SecretSource::File(path), .. } => {
                join(path);
            }
            VaultAuth::Token(_) | VaultAuth::AppRole { .. } => {}
        }
    }
}

fn kubernetes() -> String {
    "kubernetes".to_owned()
}
fn approle() -> String {
    "approle".to_owned()
}
fn service_account() -> String {
    "/var/run/secrets/kubernetes.io/serviceaccount/token".to_owned()
}

/// A client of one Vault.
pub(super) struct Vault {
    client: Arc<Client>,
    options: VaultOptions,
    namespace: Option<HeaderValue>,
    reach: Reach,
    session: tokio::sync::Mutex<Option<Session>>,
}

/// An answer of the key-value engine (API "Read secret version").
#[derive(Deserialize)]
struct Answer {
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    data: Option<BTreeMap<String, Value>>,
}

impl Vault {
    /// A client that has not logged in yet.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub(super) fn new(options: VaultOptions, client: &Arc<Client>) -> Result<Self, ServiceSettingsError> {
        // Whose address it is stands in the server settings, which only the operator writes: private ones are the usual case.
        let reach = match (options.address.scheme(), Reach::of(&options.address, false)) {
            ("https", _) => Reach::Any,
            ("http", Ok(Reach::Loopback)) => Reach::Loopback,
            _ => return Err(ServiceSettingsError::Address),
        };
        if !options.address.username().is_empty() || options.address.password().is_some() {
            return Err(ServiceSettingsError::Credential);
        }
        let client = match &options.ca_file {
            None => Arc::clone(client),
            Some(file) => {
                let unread = |e: std::io::Error| ServiceSettingsError::Unread { path: file.clone(), why: e.kind() };
                Client::with(portcullis_outbound::trusting(&std::fs::read(file).map_err(unread)?)?)
            }
        };
        let namespace = options.namespace.as_deref().map(HeaderValue::from_str).transpose();
        let namespace = namespace.map_err(|_| ServiceSettingsError::Namespace)?;
        Ok(Self { client, options, namespace, reach, session: tokio::sync::Mutex::default() })
    }

    /// The value of a key; none where there is no such secret, version or key.
    pub(super) async fn read(&self, tenant: &Name, secret: &VaultSecret) -> Result<Option<Secret>, VaultReadError> {
        if !self.allows(tenant, secret) {
            return Err(VaultReadError::Tenant(tenant.clone()));
        }
        let mut url = self.url(secret.mount.split('/').chain(["data"]).chain(secret.path.split('/')))?;
        if let Some(version) = secret.version {
            url.query_pairs_mut().append_pair("version", &version.to_string());
        }
        let mut response = self.get(&url).await?;
        if response.status == StatusCode::FORBIDDEN && self.forget().await {
            // The session may have been ended there; a new one tells whether it was that.
            response = self.get(&url).await?;
        }
        match response.status {
            StatusCode::OK => value(&response, &secret.key),
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::FORBIDDEN => Err(VaultReadError::Forbidden),
            status => Err(VaultReadError::Status(status.as_u16())),
        }
    }

    /// Whether a tenant's resources may name it.
    fn allows(&self, tenant: &Name, secret: &VaultSecret) -> bool {
        match self.options.tenants.get(tenant) {
            None => tenant.as_str() == DEFAULT_TENANT,
            Some(paths) => {
                let whole = format!("{}/{}", secret.mount, secret.path);
                paths.iter().map(|p| p.trim_end_matches('/')).any(|allowed| {
                    whole.strip_prefix(allowed).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                })
            }
        }
    }

    async fn get(&self, url: &Url) -> Result<Response, VaultReadError> {
        let token = self.token().await?;
        self.send(Method::GET, url.clone(), Some(&token), Secret::new("")).await
    }

    /// `/v1/` and these words, each escaped.
    fn url<'w>(&self, words: impl Iterator<Item = &'w str>) -> Result<Url, VaultReadError> {
        let mut url = self.options.address.clone();
        url.set_query(None);
        url.set_fragment(None);
        url.path_segments_mut().map_err(|()| VaultReadError::Address)?.pop_if_empty().push("v1").extend(words);
        Ok(url)
    }

    async fn send(
        &self,
        method: Method,
        url: Url,
        token: Option<&Secret>,
        body: Secret,
    ) -> Result<Response, VaultReadError> {
        let mut headers = vec![(HeaderName::from_static("x-vault-request"), HeaderValue::from_static("true"))];
        if let Some(namespace) = &self.namespace {
            headers.push((HeaderName::from_static("x-vault-namespace"), namespace.clone()));
        }
        if !body.is_empty() {
            headers.push((header::CONTENT_TYPE, HeaderValue::from_static("application/json")));
        }
        if let Some(token) = token {
            let mut value = HeaderValue::from_bytes(token.expose()).map_err(|_| VaultReadError::Token)?;
            value.set_sensitive(true);
            headers.push((HeaderName::from_static("x-vault-token"), value));
        }
        let request = Request { method, url, headers, body, timeout: TIMEOUT, max_body: MAX_ANSWER, reach: self.reach };
        Ok(self.client.send(request).await?)
    }
}

/// The value of a key in an answer; a number is taken as it is written.
fn value(response: &Response, key: &str) -> Result<Option<Secret>, VaultReadError> {
    let answer: Answer = serde_json::from_slice(&response.body).map_err(|_| VaultReadError::NoSecret)?;
    let mut fields = answer.data.and_then(|d| d.data).unwrap_or_default();
    match fields.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(Secret::new(text.into_bytes()))),
        Some(Value::String(_)) => Err(VaultReadError::Empty),
        Some(Value::Number(number)) => Ok(Some(Secret::new(number.to_string().into_bytes()))),
        Some(_) => Err(VaultReadError::NoText),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault(tenants: &[(&str, &[&str])]) -> Vault {
        let tenants =
            tenants.iter().map(|(t, paths)| (t.parse().unwrap(), paths.iter().map(|p| (*p).into()).collect()));
        let options = VaultOptions {
            address: "https://vault.example:8200/".parse().unwrap(),
            namespace: None,
            ca_file: None,
            auth: VaultAuth::Token(SecretSource::Env("X".into())),
            tenants: tenants.collect(),
        };
        Vault::new(options, &Client::new().unwrap()).unwrap()
    }

    #[test]
    fn a_tenant_reads_what_it_was_given_and_nothing_beside() {
        let vault = vault(&[("acme", &["secret/acme/"])]);
        let allows = |tenant: &str, path: &str| {
            let secret = VaultSecret { mount: "secret".into(), path: path.into(), key: "k".into(), version: None };
            vault.allows(&tenant.parse().unwrap(), &secret)
        };
        assert!(allows("default", "anything/else"));
        assert!(allows("acme", "acme") && allows("acme", "acme/github"));
        for (tenant, path) in [("acme", "acme2/github"), ("acme", "other"), ("umbrella", "acme/github")] {
            assert!(!allows(tenant, path), "{tenant} {path}");
        }
    }

    #[test]
    fn addresses_are_https_or_on_this_machine() {
        let client = Client::new().unwrap();
        let new = |address: &str| {
            let auth = VaultAuth::Token(SecretSource::Env("X".into()));
            let (address, tenants) = (address.parse().unwrap(), BTreeMap::new());
            Vault::new(VaultOptions { address, namespace: None, ca_file: None, auth, tenants }, &client).is_ok()
        };
        assert!(new("https://10.0.0.1:8200") && new("http://127.0.0.1:8200") && new("http://localhost:8200/"));
        assert!(!new("http://vault.example:8200") && !new("https://u:p@vault.example") && !new("ftp://127.0.0.1/"));
    }

    #[test]
    fn paths_are_escaped() {
        let url = vault(&[]).url(["kv", "data", "a b", "c@d"].into_iter()).unwrap();
        assert_eq!(url.as_str(), "https://vault.example:8200/v1/kv/data/a%20b/c@d");
    }
}
