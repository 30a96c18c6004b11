//! TLS on a listener: its certificate, and which certificates of clients are believed. Files are read again when they change.
//!
//! What a client proved is held to the authorities of now at each request, not only to those of its handshake: a certificate that is
//! revoked stops at the next request, also on a connection that stays open, and renewing the gateway's own certificate disturbs nobody.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail};
use portcullis_identity::certificate;
use portcullis_plugin::ClientCertificate;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::settings::{ClientCertificates, Tls};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What a listener shakes hands with.
pub(super) struct TlsDoor {
    files: Tls,
    current: Mutex<Current>,
}

struct Current {
    loaded: Loaded,
    /// Which reading of the files this is.
    generation: u64,
    changed: Vec<Option<SystemTime>>,
    looked: Instant,
    /// Why newer files are not in use.
    trouble: Option<String>,
}

#[derive(Clone)]
struct Loaded {
    acceptor: TlsAcceptor,
    /// Who believes clients' certificates; none where they are not asked for.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// A client that proved a certificate.
pub(super) struct Known {
    door: Arc<TlsDoor>,
    chain: Vec<CertificateDer<'static>>,
    certificate: Arc<ClientCertificate>,
    /// The reading of the files that believed it last.
    believed: AtomicU64,
}

impl Known {
    /// The certificate, if the authorities of now believe it still.
    pub(super) fn certificate(&self) -> Option<Arc<ClientCertificate>> {
        let (loaded, generation) = self.door.now();
        if self.believed.load(Ordering::Relaxed) != generation {
            let (own, others) = self.chain.split_first()?;
            loaded.verifier?.verify_client_cert(own, others, UnixTime::now()).ok()?;
            self.believed.store(generation, Ordering::Relaxed);
        }
        Some(Arc::clone(&self.certificate))
    }
}

impl TlsDoor {
    /// Reads the files.
    ///
    /// # Errors
    /// When they can't be used, with the file and the reason.
    pub(super) fn open(files: Tls) -> Result<Self> {
        let changed = changed(&files);
        let loaded = load(&files)?;
        Ok(Self {
            files,
            current: Mutex::new(Current { loaded, generation: 1, changed, looked: Instant::now(), trouble: None }),
        })
    }

    /// Shakes hands. Nothing where the client breaks off, or comes with a certificate that is not believed.
    pub(super) async fn shake_hands(
        self: Arc<Self>,
        stream: TcpStream,
    ) -> Option<(TlsStream<TcpStream>, Option<Known>)> {
        let (loaded, generation) = self.now();
        let stream = loaded.acceptor.accept(stream).await.ok()?;
        let chain: Vec<CertificateDer<'static>> =
            stream.get_ref().1.peer_certificates().unwrap_or_default().iter().map(|c| c.clone().into_owned()).collect();
        let Some(own) = chain.first() else { return Some((stream, None)) };
        let certificate = match certificate::read(own) {
            Ok(certificate) => Arc::new(certificate),
            Err(error) => {
                tracing::debug!(%error, "refused a connection");
                return None;
            }
        };
        let known = Known { door: self, chain, certificate, believed: AtomicU64::new(generation) };
        Some((stream, Some(known)))
    }

    /// Why newer files are not in use; none where there are none, or they are.
    pub(super) fn trouble(&self) -> Option<String> {
        self.now();
        self.current.lock().unwrap_or_else(PoisonError::into_inner).trouble.clone()
    }

    /// What is in use, after a look at the files where the last one is a while ago. A bad file leaves what was in use.
    fn now(&self) -> (Loaded, u64) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.elapsed() > LOOK {
            current.looked = Instant::now();
            let now = changed(&self.files);
            if now != current.changed {
                match load(&self.files) {
                    Ok(loaded) => {
                        tracing::info!("the certificates were read again");
                        current.loaded = loaded;
                        current.generation += 1;
                        current.changed = now;
                        current.trouble = None;
                    }
                    Err(error) => {
                        let why = format!("{error:#}");
                        // Once, however often it is looked at.
                        if current.trouble.as_ref() != Some(&why) {
                            tracing::error!(error = why, "the new certificates can't be used; the ones before stay");
                        }
                        current.trouble = Some(why);
                    }
                }
            }
        }
        (current.loaded.clone(), current.generation)
    }
}

fn changed(files: &Tls) -> Vec<Option<SystemTime>> {
    let clients = files.client_certificates.iter().flat_map(|c| std::iter::once(&c.authorities).chain(&c.revoked));
    let all = [&files.certificate, &files.key].into_iter().chain(clients);
    all.map(|path| std::fs::metadata(path).and_then(|m| m.modified()).ok()).collect()
}

fn load(files: &Tls) -> Result<Loaded> {
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .with_context(|| format!("{} holds no private key", files.key.display()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = files.client_certificates.as_ref().map(verifier).transpose()?;
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = match &verifier {
        Some(verifier) => config.with_client_cert_verifier(Arc::clone(verifier)),
        None => config.with_no_client_auth(),
    };
    let mut config = config.with_single_cert(chain, key).context("certificate and key do not belong together")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Loaded { acceptor: TlsAcceptor::from(Arc::new(config)), verifier })
}

fn verifier(wanted: &ClientCertificates) -> Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(&wanted.authorities)? {
        roots
            .add(authority)
            .with_context(|| format!("{}: a certificate is no authority's", wanted.authorities.display()))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    if let Some(file) = &wanted.revoked {
        let lists = CertificateRevocationListDer::pem_file_iter(file)
            .with_context(|| format!("can't read {}", file.display()))?
            .collect::<Result<Vec<_>, _>>()
            .with_context(|| format!("{} holds no list of revoked certificates", file.display()))?;
        if lists.is_empty() {
            bail!("{} holds no list of revoked certificates (PEM, `X509 CRL`)", file.display());
        }
        // Lists whose time is over, and authorities without a list, refuse: what is not known might be revoked.
        builder = builder.with_crls(lists).enforce_revocation_expiration();
    }
    if !wanted.required {
        builder = builder.allow_unauthenticated();
    }
    builder.build().with_context(|| match &wanted.revoked {
        Some(revoked) => format!("{} or {} can't be used", revoked.display(), wanted.authorities.display()),
        None => format!("{} can't be used", wanted.authorities.display()),
    })
}

fn certificates(file: &PathBuf) -> Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(file)
        .with_context(|| format!("can't read {}", file.display()))?
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("{} holds no certificate", file.display()))?;
    if found.is_empty() {
        bail!("{} holds no certificate", file.display());
    }
    Ok(found)
}
