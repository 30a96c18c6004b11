//! Whose certificates are believed: the machine's authorities, those that an operator adds, or one file's alone.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::Error;

/// TLS that trusts the machine's certificate authorities, or the browsers' where the machine has none.
///
/// # Errors
/// [`Error::Tls`].
pub fn roots() -> Result<ClientConfig, Error> {
    config(machine())
}

/// TLS that trusts the certificate authorities in a PEM text as well as the machine's.
///
/// # Errors
/// [`Error::Tls`], where the text holds none.
pub fn roots_and(pem: &[u8]) -> Result<ClientConfig, Error> {
    let mut roots = machine();
    roots.extend(authorities(pem)?.roots);
    config(roots)
}

/// TLS that trusts the certificate authorities in a PEM text and no others.
///
/// # Errors
/// [`Error::Tls`], where it holds none.
pub fn trusting(pem: &[u8]) -> Result<ClientConfig, Error> {
    config(authorities(pem)?)
}

/// Why TLS failed, in words that say what to look at: the certificate, where it is that.
pub fn tls_reason(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "its certificate is of an authority that is not trusted here".to_owned()
        }
        // rustls says here which certificate is not valid, and how: expired, of another name.
        other => other.to_string(),
    }
}

/// What the machine trusts (its store, or where `SSL_CERT_FILE` and `SSL_CERT_DIR` say); the browsers' where that is nothing.
fn machine() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // A damaged one among hundreds is no reason to trust none.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| Error::Tls(error.to_string()))?;
        roots.add(certificate).map_err(|error| Error::Tls(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(Error::Tls("there is no certificate in it".to_owned()));
    }
    Ok(roots)
}

fn config(roots: RootCertStore) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(|error| Error::Tls(error.to_string()))?.with_root_certificates(roots).with_no_client_auth())
}
