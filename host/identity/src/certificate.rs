//! Client certificates: what one says, read from its bytes.
//!
//! Whether it may be believed was decided in the TLS handshake; this only reads. An authority may let its clients choose parts of
//! their names, so names stay lists of attributes: joined to one text, one attribute could pass itself off as two.

use portcullis_plugin::ClientCertificate;
use sha2::{Digest, Sha256};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate, X509Name},
};

/// The most attributes of a name, and the most alternative names, that one certificate may have.
const MAX_NAMES: usize = 64;
/// The most bytes of one of them.
const MAX_BYTES: usize = 1024;

/// The short names of RFC 4514 section 3, and `serialNumber`, which authorities use for devices.
const SHORT: [(&str, &str); 10] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

/// Why a certificate can't be read, though the handshake took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// No certificate of RFC 5280.
    #[error("the client certificate can't be read")]
    Malformed,
    /// More or longer names than anybody needs.
    #[error("the client certificate has more than 64 names of a kind, or one of more than 1,024 bytes")]
    TooMuch,
}

/// Reads a certificate (RFC 5280 section 4.1) in DER.
///
/// # Errors
/// [`CertificateError`].
pub fn read(der: &[u8]) -> Result<ClientCertificate, CertificateError> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateError::Malformed)?;
    if !rest.is_empty() {
        return Err(CertificateError::Malformed);
    }
    let expires = certificate.validity().not_after.timestamp();
    let mut read = ClientCertificate {
        fingerprint: Sha256::digest(der).into(),
        subject: attributes(certificate.subject())?,
        issuer: attributes(certificate.issuer())?,
        uris: Vec::new(),
        dns_names: Vec::new(),
        emails: Vec::new(),
        expires_ms: u64::try_from(expires).unwrap_or(0).saturating_mul(1000),
    };
    let names = certificate.subject_alternative_name().map_err(|_| CertificateError::Malformed)?;
    for name in names.into_iter().flat_map(|names| &names.value.general_names) {
        let (list, text) = match name {
            GeneralName::URI(text) => (&mut read.uris, text),
            GeneralName::DNSName(text) => (&mut read.dns_names, text),
            GeneralName::RFC822Name(text) => (&mut read.emails, text),
            _ => continue,
        };
        if list.len() >= MAX_NAMES || text.len() > MAX_BYTES {
            return Err(CertificateError::TooMuch);
        }
        list.push((*text).to_owned());
    }
    Ok(read)
}

/// Values that are no text are left out: nobody could compare them.
fn attributes(name: &X509Name<'_>) -> Result<Vec<(String, String)>, CertificateError> {
    let mut read = Vec::new();
    for attribute in name.iter_attributes() {
        let Ok(value) = attribute.as_str() else { continue };
        if read.len() >= MAX_NAMES || value.len() > MAX_BYTES {
            return Err(CertificateError::TooMuch);
        }
        let oid = attribute.attr_type().to_id_string();
        let short = SHORT.iter().find(|(known, _)| *known == oid).map(|(_, short)| (*short).to_owned());
        read.push((short.unwrap_or(oid), value.to_owned()));
    }
    Ok(read)
}
