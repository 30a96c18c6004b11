//! The few requests of the OCI distribution specification (1.1) that components need, within bounds.
//!
//! Whatever a registry says is a stranger's word: redirects are followed at most three times, only for reading, to addresses that
//! the registry itself could have, and without the login; answers are bounded; bytes count only if their digest does.

mod auth;
mod image;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{
    HeaderValue, Method, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION},
};
use portcullis_model::{
    Secret,
    oci::{Digest, Reference},
};
use portcullis_outbound::{Client, Error, Reach, Request, Response};
use url::{Host, Url};

use crate::{
    MAX_COMPONENT, MAX_SIGNATURES, PackageError, RegistrySetting, Signed,
    layout::{self, Artifact, Descriptor, Index, Manifest, clean},
    sha256,
    signature::MAX_PAYLOAD,
};
pub use auth::Credentials;
use auth::Login;
pub use image::{Startup, image};

/// The longest that everything that is asked of a registry for one component may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// The longest that one request may take.
const ONE: Duration = Duration::from_secs(60);
/// The most redirects of one request.
const REDIRECTS: usize = 3;
/// The most bytes of an answer that says something rather than being something.
const SMALL: usize = 64 << 10;

/// How registries are reached.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    registries: Vec<RegistrySetting>,
    /// Where they are set.
    setting: &'static str,
}

/// One repository of a registry, for a while.
pub struct Registry {
    client: Arc<Client>,
    host: String,
    base: Url,
    repository: String,
    reach: Reach,
    /// Where it is set how it is reached.
    setting: &'static str,
    login: Login,
    until: Instant,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("base", &self.base.as_str())
            .field("repository", &self.repository)
            .finish_non_exhaustive()
    }
}

impl Rules {
    /// From the settings.
    ///
    /// # Errors
    /// Which one makes no sense.
    pub fn new(settings: &[RegistrySetting]) -> Result<Self, String> {
        Self::of_setting("plugins.registries", settings)
    }

    /// From a setting of this name.
    ///
    /// # Errors
    /// Which one makes no sense.
    pub fn of_setting(setting: &'static str, registries: &[RegistrySetting]) -> Result<Self, String> {
        for RegistrySetting { host, .. } in registries {
            let named = Reference::parse(&format!("{host}/x")).is_ok_and(|r| r.host() == host);
            if !named {
                return Err(format!("{setting}: {host} is no registry such as registry.example.com:5000"));
            }
        }
        Ok(Self { registries: registries.to_vec(), setting })
    }

    /// Where a registry is, and which addresses it may have.
    fn of(&self, host: &str) -> Result<(Url, Reach), PackageError> {
        let setting = self.registries.iter().find(|s| s.host == host);
        // The one registry whose references name another host than it has.
        let real = if host == "docker.io" { "registry-1.docker.io" } else { host };
        let forbidden = |why: &str| PackageError::Forbidden(format!("the registry {host}: {why}"));
        let mut url: Url = format!("https://{real}/").parse().map_err(|_| forbidden("that is no host"))?;
        let loopback = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            None => false,
        };
        if setting.and_then(|s| s.plain_http).unwrap_or(loopback) {
            url = format!("http://{real}/").parse().map_err(|_| forbidden("that is no host"))?;
        }
        let reach = match (loopback, setting.is_some_and(|s| s.private)) {
            (true, _) => Reach::Loopback,
            (false, true) => Reach::Private,
            (false, false) => Reach::Public,
        };
        reach.check(&url).map_err(|_| {
            let setting = self.setting;
            forbidden(&format!("its address is of the own network; `private: true` in `{setting}` allows that"))
        })?;
        Ok((url, reach))
    }
}

impl Registry {
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// [`PackageError::Forbidden`], where nobody may ask it that way.
    pub fn new(
        client: Arc<Client>,
        rules: &Rules,
        reference: &Reference,
        credentials: Option<Credentials>,
    ) -> Result<Self, PackageError> {
        let (base, reach) = rules.of(reference.host())?;
        let (host, repository) = (reference.host().to_owned(), reference.repository().to_owned());
        let until = Instant::now() + PATIENCE;
        let setting = rules.setting;
        Ok(Self { client, host, base, repository, reach, setting, login: Login::new(credentials), until })
    }

    /// The digest of a manifest, and the manifest itself, by tag or digest.
    ///
    /// # Errors
    /// [`PackageError`].
    pub async fn manifest(&mut self, reference: &Reference) -> Result<(Digest, Vec<u8>), PackageError> {
        let name = reference.digest().map(Digest::as_str).or(reference.tag()).unwrap_or("latest").to_owned();
        let found = self.manifest_named(&name).await?.ok_or_else(|| PackageError::NotFound(reference.to_string()))?;
        let digest = Digest::of(sha256(&found));
        match reference.digest() {
            Some(wanted) if *wanted != digest => {
                Err(PackageError::Altered { what: "the manifest", wanted: wanted.clone(), found: digest })
            }
            _ => Ok((digest, found)),
        }
    }

    async fn manifest_named(&mut self, name: &str) -> Result<Option<Vec<u8>>, PackageError> {
        let url = self.url(&format!("manifests/{name}"))?;
        let accept = format!("{}, {}", layout::MANIFEST, layout::INDEX);
        let response = self.read(url, &accept, layout::MAX_MANIFEST, "the manifest").await?;
        match response.status {
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::OK => Ok(Some(response.body.to_vec())),
            status => Err(self.unexpected(status)),
        }
    }

    /// A component's bytes, as its manifest names them: `max` at most.
    ///
    /// # Errors
    /// [`PackageError`].
    pub async fn component(&mut self, manifest: &[u8], max: usize) -> Result<Vec<u8>, PackageError> {
        let layer = layout::component(manifest)?;
        self.blob(&layer, "the component", max.min(MAX_COMPONENT)).await
    }

    async fn blob(&mut self, of: &Descriptor, what: &'static str, max: usize) -> Result<Vec<u8>, PackageError> {
        let (wanted, size) = of.bounded(what, max)?;
        let url = self.url(&format!("blobs/{wanted}"))?;
        let response = self.read(url, "*/*", size, what).await?;
        if response.status == StatusCode::NOT_FOUND {
            return Err(PackageError::NotFound(format!("{what} ({wanted})")));
        }
        if response.status != StatusCode::OK {
            return Err(self.unexpected(response.status));
        }
        let found = Digest::of(sha256(&response.body));
        if found != wanted {
            return Err(PackageError::Altered { what, wanted, found });
        }
        Ok(response.body.to_vec())
    }

    /// The signatures of a manifest: at cosign's tag, and those that refer to it. What can't be read is left out; it would count
    /// for nothing.
    ///
    /// # Errors
    /// [`PackageError`], where the registry does not answer.
    pub async fn signatures(&mut self, digest: &Digest) -> Result<Vec<Signed>, PackageError> {
        let mut all = Vec::new();
        if let Some(manifest) = self.manifest_named(&format!("sha256-{}.sig", digest.hex())).await? {
            let layers = serde_json::from_slice::<Manifest>(&manifest).map(|m| m.layers).unwrap_or_default();
            for layer in layers.iter().filter(|l| l.media_type == layout::SIMPLE).take(MAX_SIGNATURES) {
                let Some(signature) = layer.annotations.get(layout::SIGNATURE) else { continue };
                match self.blob(layer, "a signature", MAX_PAYLOAD).await {
                    Ok(payload) => all.push(Signed::simple(&payload, signature)),
                    Err(error @ PackageError::Unreachable { .. }) => return Err(error),
                    Err(error) => tracing::warn!(%digest, %error, "a signature is left out"),
                }
            }
        }
        let bundles = match self.bundles(digest).await {
            Ok(bundles) => bundles,
            // What was found at the tag may be enough: whoever judges it says so if not.
            Err(error) if !all.is_empty() => {
                tracing::warn!(%digest, %error, "what refers to a component can't be listed");
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        for bundle in bundles {
            if all.len() >= MAX_SIGNATURES {
                break;
            }
            all.extend(Signed::bundle(&bundle));
        }
        Ok(all)
    }

    /// Sigstore bundles that refer to a manifest, by the referrers API or, where a registry has none, by its tag.
    async fn bundles(&mut self, digest: &Digest) -> Result<Vec<Vec<u8>>, PackageError> {
        let url = self.url(&format!("referrers/{digest}"))?;
        let answer = self.read(url, layout::INDEX, layout::MAX_MANIFEST, "the list of referrers").await?;
        let index = if answer.status == StatusCode::OK {
            Some(answer.body.to_vec())
        } else {
            self.manifest_named(&format!("sha256-{}", digest.hex())).await?
        };
        let Some(index) = index.and_then(|bytes| serde_json::from_slice::<Index>(&bytes).ok()) else {
            return Ok(Vec::new());
        };
        let mut bundles = Vec::new();
        // Of those that may be one: what else refers to a component (bills of materials, scans) can be any number.
        let candidates = index.manifests.iter().filter(|entry| {
            // Some versions of cosign write the type of the config in its place.
            let kind = entry.artifact_type.as_ref();
            kind.is_none_or(|t| t.starts_with(layout::BUNDLE) || t == "application/vnd.oci.empty.v1+json")
                && Digest::parse(&entry.digest).is_ok()
        });
        for entry in candidates.take(MAX_SIGNATURES) {
            let manifest = match self.manifest_named(&entry.digest).await {
                Ok(Some(manifest)) => manifest,
                Ok(None) => continue,
                Err(error @ PackageError::Unreachable { .. }) => return Err(error),
                Err(error) => {
                    tracing::warn!(%digest, %error, "a signature is left out");
                    continue;
                }
            };
            let Ok(manifest) = serde_json::from_slice::<Manifest>(&manifest) else { continue };
            let [layer] = &manifest.layers[..] else { continue };
            if layer.media_type.starts_with(layout::BUNDLE)
                && let Ok(bundle) = self.blob(layer, "a signature", MAX_PAYLOAD).await
            {
                bundles.push(bundle);
            }
        }
        Ok(bundles)
    }

    /// Pushes a component under a tag, or under its digest alone.
    ///
    /// # Errors
    /// [`PackageError`].
    pub async fn push(
        &mut self,
        component: &[u8],
        artifact: &Artifact,
        tag: Option<&str>,
    ) -> Result<Digest, PackageError> {
        self.login.writes();
        self.upload(component).await?;
        self.upload(&artifact.config).await?;
        let digest = artifact.digest();
        self.put_manifest(tag.unwrap_or(digest.as_str()), &artifact.manifest).await?;
        Ok(digest)
    }

    /// Adds a signature beside those that a manifest has.
    ///
    /// # Errors
    /// [`PackageError`].
    pub async fn push_signature(&mut self, digest: &Digest, signed: &Signed) -> Result<(), PackageError> {
        self.login.writes();
        let tag = format!("sha256-{}.sig", digest.hex());
        let (payload, signature) =
            signed.as_simple().ok_or_else(|| PackageError::Layout("only simple signatures are pushed".into()))?;
        let before = self.manifest_named(&tag).await?;
        let mut layers = before
            .and_then(|bytes| serde_json::from_slice::<Manifest>(&bytes).ok())
            .map(|m| m.layers)
            .unwrap_or_default();
        if layers.len() >= MAX_SIGNATURES {
            return Err(PackageError::TooLarge { what: "the list of signatures", max: MAX_SIGNATURES });
        }
        let mut layer = Descriptor::of(layout::SIMPLE, &payload);
        layer.annotations.insert(layout::SIGNATURE.to_owned(), signature.to_owned());
        layers.push(layer);
        // What cosign writes: an image without a file system, whose layers are the payloads.
        let ids: Vec<&str> = layers.iter().map(|l| &*l.digest).collect();
        let config = serde_json::json!({
            "architecture": "", "created": "0001-01-01T00:00:00Z", "history": [{ "created": "0001-01-01T00:00:00Z" }],
            "os": "", "rootfs": { "type": "layers", "diff_ids": ids }, "config": {},
        })
        .to_string()
        .into_bytes();
        self.upload(&payload).await?;
        self.upload(&config).await?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(layout::MANIFEST.to_owned()),
            artifact_type: None,
            config: Descriptor::of(layout::IMAGE_CONFIG, &config),
            layers,
            annotations: Default::default(),
        };
        let manifest = serde_json::to_vec(&manifest).map_err(|e| PackageError::Layout(e.to_string()))?;
        self.put_manifest(&tag, &manifest).await
    }

    async fn upload(&mut self, bytes: &[u8]) -> Result<(), PackageError> {
        let digest = Digest::of(sha256(bytes));
        let there = self.send(Method::HEAD, self.url(&format!("blobs/{digest}"))?, None, &[], SMALL).await?;
        if there.status == StatusCode::OK {
            return Ok(());
        }
        let begun = self.send(Method::POST, self.url("blobs/uploads/")?, None, &[], SMALL).await?;
        if begun.status != StatusCode::ACCEPTED {
            return Err(self.unexpected(begun.status));
        }
        let mut place = self.location(&begun, &self.base)?;
        place.query_pairs_mut().append_pair("digest", digest.as_str());
        let done = self.send(Method::PUT, place, Some("application/octet-stream"), bytes, SMALL).await?;
        if done.status == StatusCode::CREATED { Ok(()) } else { Err(self.unexpected(done.status)) }
    }

    async fn put_manifest(&mut self, name: &str, manifest: &[u8]) -> Result<(), PackageError> {
        let url = self.url(&format!("manifests/{name}"))?;
        let done = self.send(Method::PUT, url, Some(layout::MANIFEST), manifest, SMALL).await?;
        if done.status == StatusCode::CREATED { Ok(()) } else { Err(self.unexpected(done.status)) }
    }

    fn url(&self, rest: &str) -> Result<Url, PackageError> {
        let path = format!("v2/{}/{rest}", self.repository);
        self.base.join(&path).map_err(|e| PackageError::Forbidden(e.to_string()))
    }

    /// Reads, and goes where the answer sends us.
    async fn read(&mut self, url: Url, accept: &str, max: usize, what: &'static str) -> Result<Response, PackageError> {
        let mut at = url;
        for _ in 0..=REDIRECTS {
            let answer = self.ask(Method::GET, at.clone(), Some(accept), None, &[], max.max(SMALL)).await;
            let response = answer.map_err(|error| match error {
                PackageError::TooLarge { .. } => PackageError::TooLarge { what, max },
                other => other,
            })?;
            if !matches!(response.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                if response.status.is_success() && response.body.len() > max {
                    return Err(PackageError::TooLarge { what, max });
                }
                return Ok(response);
            }
            at = self.location(&response, &at)?;
        }
        Err(self.answers("it redirects more than three times".to_owned()))
    }

    /// Where an answer leads: over https, or over http where the registry itself is asked so.
    fn location(&self, response: &Response, from: &Url) -> Result<Url, PackageError> {
        let text = response.headers.get(LOCATION).and_then(|v| v.to_str().ok());
        let url = text.and_then(|text| from.join(text).ok());
        let url = url.ok_or_else(|| self.answers("it leads nowhere".to_owned()))?;
        let fine = url.scheme() == "https" || (url.scheme() == "http" && self.base.scheme() == "http");
        if !fine || !url.username().is_empty() || url.password().is_some() {
            return Err(self.answers(format!("it leads to {}, where nobody follows", clean(url.as_str()))));
        }
        if self.reach.check(&url).is_err() {
            let host = clean(url.host_str().unwrap_or_default());
            return Err(self.answers(format!("it leads to {host}, an address that it may not lead to")));
        }
        Ok(url)
    }

    async fn send(
        &mut self,
        method: Method,
        url: Url,
        kind: Option<&str>,
        body: &[u8],
        max: usize,
    ) -> Result<Response, PackageError> {
        self.ask(method, url, None, kind, body, max).await
    }

    /// One request, with the login where the registry itself is asked; once more where it asks for one.
    async fn ask(
        &mut self,
        method: Method,
        url: Url,
        accept: Option<&str>,
        kind: Option<&str>,
        body: &[u8],
        max: usize,
    ) -> Result<Response, PackageError> {
        let own = url.origin() == self.base.origin();
        let mut tried = false;
        loop {
            let mut headers = Vec::new();
            if let Some(accept) = accept.and_then(|a| HeaderValue::from_str(a).ok()) {
                headers.push((ACCEPT, accept));
            }
            if let Some(kind) = kind.and_then(|k| HeaderValue::from_str(k).ok()) {
                headers.push((CONTENT_TYPE, kind));
            }
            if body.is_empty() && method == Method::POST {
                headers.push((CONTENT_LENGTH, HeaderValue::from_static("0")));
            }
            if own && let Some(authorization) = self.login.header() {
                headers.push((AUTHORIZATION, authorization));
            }
            let response = self.once(method.clone(), url.clone(), headers, body, max).await?;
            match response.status {
                StatusCode::UNAUTHORIZED if own && !tried => {
                    tried = true;
                    self.log_in(&response).await?;
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(self.refused(response.status)),
                _ => return Ok(response),
            }
        }
    }

    async fn once(
        &self,
        method: Method,
        url: Url,
        headers: Vec<(http::HeaderName, HeaderValue)>,
        body: &[u8],
        max_body: usize,
    ) -> Result<Response, PackageError> {
        let timeout = self.until.saturating_duration_since(Instant::now()).min(ONE);
        let request = Request { method, url, headers, body: Secret::new(body), timeout, max_body, reach: self.reach };
        self.client.send(request).await.map_err(|error| match error {
            Error::TooLarge => PackageError::TooLarge { what: "the answer", max: max_body },
            Error::Denied(why) => PackageError::Forbidden(format!(
                "the registry {}: {why}; `private: true` in `{}` allows the own network",
                self.host, self.setting
            )),
            other => PackageError::Unreachable { host: self.host.clone(), why: other.to_string() },
        })
    }

    fn refused(&self, status: StatusCode) -> PackageError {
        let why = if self.login.is_known() {
            format!("{}, with the login that it was given", status.as_u16())
        } else {
            format!("{}, and it was given no login", status.as_u16())
        };
        PackageError::Refused { host: self.host.clone(), why }
    }

    fn unexpected(&self, status: StatusCode) -> PackageError {
        self.answers(format!("status {}", status.as_u16()))
    }

    fn answers(&self, why: String) -> PackageError {
        PackageError::Answer { host: self.host.clone(), why }
    }
}
