//! Keys that sign: ECDSA on P-256 with SHA-256, the one kind that every cosign knows.
//!
//! Public keys are PEM (`PUBLIC KEY`, RFC 7468 section 13). Private keys are PEM as OpenSSL writes them: PKCS#8, encrypted with a
//! passphrase or not (RFC 5958, RFC 8018), or SEC 1.

use aws_lc_rs::{
    encoding::AsDer as _,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
    },
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use pkcs8::{
    EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef, SecretDocument,
    der::pem::{LineEnding, PemLabel as _},
};
use portcullis_model::Secret;
use rustls::pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer, pem::PemObject as _};

use crate::sha256;

/// What a P-256 key in a `SubjectPublicKeyInfo` begins with (RFC 5480): its kind, its curve, and that the point is uncompressed.
const P256: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];
/// The whole of it.
const P256_LEN: usize = 91;
/// The most bytes of a file with a key.
const MAX_FILE: usize = 16 << 10;

/// Why a key can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No PEM with a key.
    #[error("there is no key in it (PEM: PUBLIC KEY, PRIVATE KEY, ENCRYPTED PRIVATE KEY or EC PRIVATE KEY)")]
    NoKey,
    /// Another sort of key.
    #[error("it is no ECDSA key on P-256")]
    Kind,
    /// The key is encrypted, and nobody said how.
    #[error("it is encrypted, and there is no passphrase")]
    NoPassphrase,
    /// It does not open.
    #[error("it does not open with this passphrase")]
    Passphrase,
    /// cosign's own format.
    #[error(
        "it is in cosign's own format; sign with cosign, whose signatures count as well, or use a key that OpenSSL wrote"
    )]
    Cosign,
    /// The machine gives no random bytes, or something as unlikely.
    #[error("the key can't be made")]
    Failed,
}

/// A key that signatures are checked with.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(Vec<u8>);

impl PublicKey {
    /// Reads PEM.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        if pem.len() > MAX_FILE {
            return Err(KeyError::NoKey);
        }
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| KeyError::NoKey)?;
        Self::from_der(&der)
    }

    fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        if der.len() == P256_LEN && der.starts_with(&P256) { Ok(Self(der.to_vec())) } else { Err(KeyError::Kind) }
    }

    /// As PEM.
    pub fn to_pem(&self) -> String {
        let text = STANDARD.encode(&self.0);
        let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..(at + 64).min(text.len())]).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    /// What people compare: the SHA-256 of the key, in hex.
    pub fn fingerprint(&self) -> String {
        sha256(&self.0).iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Whether this key's owner signed these bytes. The signature is DER, as cosign has it.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        // The point without what stands before it: its last header byte belongs to the point.
        let point = &self.0[P256.len() - 1..];
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(message, signature).is_ok()
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PublicKey({})", self.fingerprint())
    }
}

/// A key that signs.
pub struct PrivateKey(EcdsaKeyPair);

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

impl PrivateKey {
    /// A new one.
    ///
    /// # Errors
    /// [`KeyError::Failed`].
    pub fn generate() -> Result<Self, KeyError> {
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map(Self).map_err(|_| KeyError::Failed)
    }

    /// As PEM: encrypted where there is a passphrase (PBES2 with scrypt and AES-256).
    ///
    /// # Errors
    /// [`KeyError::Failed`].
    pub fn to_pem(&self, passphrase: Option<&Secret>) -> Result<Secret, KeyError> {
        let der = self.0.to_pkcs8v1().map_err(|_| KeyError::Failed)?;
        let (label, document) = match passphrase {
            None => {
                let document = SecretDocument::try_from(der.as_ref()).map_err(|_| KeyError::Failed)?;
                (PrivateKeyInfoRef::PEM_LABEL, document)
            }
            Some(passphrase) => {
                let plain = PrivateKeyInfoRef::try_from(der.as_ref()).map_err(|_| KeyError::Failed)?;
                // Exit: the passphrase that a person chose for this key.
                let document = plain.encrypt(passphrase.expose()).map_err(|_| KeyError::Failed)?;
                (EncryptedPrivateKeyInfoRef::PEM_LABEL, document)
            }
        };
        let pem = document.to_pem(label, LineEnding::LF).map_err(|_| KeyError::Failed)?;
        Ok(Secret::new(pem.as_bytes()))
    }

    /// Reads PEM.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_pem(pem: &Secret, passphrase: Option<&Secret>) -> Result<Self, KeyError> {
        let text = std::str::from_utf8(pem.expose()).ok().filter(|t| t.len() <= MAX_FILE).ok_or(KeyError::NoKey)?;
        if text.contains("-----BEGIN ENCRYPTED SIGSTORE") || text.contains("-----BEGIN ENCRYPTED COSIGN") {
            return Err(KeyError::Cosign);
        }
        if let Some(at) = text.find("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
            let passphrase = passphrase.ok_or(KeyError::NoPassphrase)?;
            let (_, document) = SecretDocument::from_pem(text[at..].trim_end()).map_err(|_| KeyError::NoKey)?;
            let sealed = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes()).map_err(|_| KeyError::NoKey)?;
            let der = sealed.decrypt(passphrase.expose()).map_err(|_| KeyError::Passphrase)?;
            return Self::from_der(der.as_bytes());
        }
        let der = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| KeyError::NoKey)?;
        Self::from_der(der.secret_der())
    }

    fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, der).map(Self).map_err(|_| KeyError::Kind)
    }

    /// The public half.
    ///
    /// # Errors
    /// [`KeyError::Failed`].
    pub fn public(&self) -> Result<PublicKey, KeyError> {
        let der = self.0.public_key().as_der().map_err(|_| KeyError::Failed)?;
        PublicKey::from_der(der.as_ref())
    }

    /// Signs bytes.
    ///
    /// # Errors
    /// [`KeyError::Failed`].
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = self.0.sign(&SystemRandom::new(), message).map_err(|_| KeyError::Failed)?;
        Ok(signature.as_ref().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_from_pem_and_sign() {
        let key = PrivateKey::generate().unwrap();
        let public = PublicKey::from_pem(key.public().unwrap().to_pem().as_bytes()).unwrap();
        let passphrase = Secret::new("a passphrase");
        for pem in [key.to_pem(None).unwrap(), key.to_pem(Some(&passphrase)).unwrap()] {
            let again = PrivateKey::from_pem(&pem, Some(&passphrase)).unwrap();
            let signature = again.sign(b"bytes").unwrap();
            assert!(public.verifies(b"bytes", &signature));
            assert!(!public.verifies(b"other", &signature));
            assert!(!PrivateKey::generate().unwrap().public().unwrap().verifies(b"bytes", &signature));
            assert!(!public.verifies(b"bytes", &signature[..signature.len() - 1]));
        }
    }

    #[test]
    fn a_key_that_does_not_open_says_why() {
        let sealed = PrivateKey::generate().unwrap().to_pem(Some(&Secret::new("right"))).unwrap();
        assert_eq!(PrivateKey::from_pem(&sealed, None).unwrap_err(), KeyError::NoPassphrase);
        assert_eq!(PrivateKey::from_pem(&sealed, Some(&Secret::new("wrong"))).unwrap_err(), KeyError::Passphrase);
        assert_eq!(PrivateKey::from_pem(&Secret::new("x"), None).unwrap_err(), KeyError::NoKey);
        let cosign = Secret::new("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n");
        assert_eq!(PrivateKey::from_pem(&cosign, None).unwrap_err(), KeyError::Cosign);
        // Another curve than the one that is meant.
        let other = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
        assert_eq!(PublicKey::from_pem(other.as_bytes()).unwrap_err(), KeyError::Kind);
        assert_eq!(PublicKey::from_pem(b"").unwrap_err(), KeyError::NoKey);
    }
}
