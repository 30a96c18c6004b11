//! Signatures of components: what was signed, by which key, and whether it names the component at hand.
//!
//! Three forms are read, all of cosign: "simple signing" of a manifest (`sha256-DIGEST.sig` in its repository), a sigstore bundle
//! that refers to a manifest (DSSE or a plain message signature), and a detached signature of a file. The transparency log and
//! certificates are not looked at: trust is in keys that the operator names.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use portcullis_model::oci::{Digest, Reference};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{PublicKey, key::KeyError, key::PrivateKey, sha256};

/// The most signatures of one component that are looked at.
pub const MAX_SIGNATURES: usize = 16;
/// The most bytes of what was signed, and of a bundle.
pub(crate) const MAX_PAYLOAD: usize = 64 << 10;
/// What cosign writes into a simple signing payload.
const COSIGN: &str = "cosign container image signature";
/// The predicate of a bundle that signs, rather than tells something about, a manifest.
const SIGN: &str = "https://sigstore.dev/cosign/sign/v1";
/// The types of an in-toto statement, by the versions of its specification that cosign writes.
const STATEMENTS: [&str; 2] = ["https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1"];
/// The type of a DSSE payload that is one.
const IN_TOTO: &str = "application/vnd.in-toto+json";

/// What was signed, and the signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Signed {
    /// How the payload was signed.
    form: Form,
    /// The payload, base64.
    payload: String,
    /// The signature in DER, base64.
    signature: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Form {
    /// The payload itself, which names the manifest.
    Simple,
    /// The payload with its type (DSSE), an in-toto statement that names the manifest.
    Dsse,
    /// The manifest's own bytes; there is no payload.
    Message,
}

/// What a signature is to a key and a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// Of this key, for this manifest.
    Good,
    /// Of this key, for something else.
    Other,
    /// Not of this key.
    No,
}

impl Signed {
    /// A simple signing payload with its signature.
    pub fn simple(payload: &[u8], signature: &str) -> Self {
        Self { form: Form::Simple, payload: STANDARD.encode(payload), signature: signature.to_owned() }
    }

    /// Signs a manifest, as `cosign sign --key` does.
    ///
    /// # Errors
    /// [`KeyError::Failed`].
    pub fn new(reference: &Reference, digest: &Digest, key: &PrivateKey) -> Result<Self, KeyError> {
        let payload = serde_json::json!({
            "critical": {
                "identity": { "docker-reference": reference.place() },
                "image": { "docker-manifest-digest": digest.as_str() },
                "type": COSIGN,
            },
            "optional": null,
        })
        .to_string();
        Ok(Self::simple(payload.as_bytes(), &STANDARD.encode(key.sign(payload.as_bytes())?)))
    }

    /// The payload, where it is a simple one, with its signature in base64: for the registry.
    pub fn as_simple(&self) -> Option<(Vec<u8>, &str)> {
        let payload = STANDARD.decode(&self.payload).ok()?;
        (self.form == Form::Simple).then_some((payload, &self.signature))
    }

    /// Reads a sigstore bundle (version 0.3 of its format).
    pub fn bundle(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_PAYLOAD {
            return None;
        }
        let bundle: Value = serde_json::from_slice(bytes).ok()?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        if let Some(envelope) = bundle.get("dsseEnvelope") {
            let one = envelope["signatures"].as_array().filter(|all| all.len() == 1)?;
            if envelope["payloadType"] != IN_TOTO {
                return None;
            }
            return Some(Self {
                form: Form::Dsse,
                payload: text(&envelope["payload"])?,
                signature: text(&one[0]["sig"])?,
            });
        }
        let signature = text(&bundle["messageSignature"]["signature"])?;
        Some(Self { form: Form::Message, payload: String::new(), signature })
    }

    /// What this is to a key and a manifest.
    pub(crate) fn matches(&self, key: &PublicKey, digest: &Digest, manifest: &[u8]) -> Match {
        let (Ok(payload), Ok(signature)) = (STANDARD.decode(&self.payload), STANDARD.decode(&self.signature)) else {
            return Match::No;
        };
        let (signed, names) = match self.form {
            Form::Simple => (key.verifies(&payload, &signature), simple_names(&payload, digest)),
            Form::Dsse => (key.verifies(&pre_authentication(&payload), &signature), statement_names(&payload, digest)),
            Form::Message => (key.verifies(manifest, &signature), Digest::of(sha256(manifest)) == *digest),
        };
        match (signed, names) {
            (false, _) => Match::No,
            (true, false) => Match::Other,
            (true, true) => Match::Good,
        }
    }
}

/// What DSSE signs: `DSSEv1 len(type) type len(payload) payload` (version 1 of its protocol).
fn pre_authentication(payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {IN_TOTO} {} ", IN_TOTO.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

/// Whether a simple signing payload is about this manifest. Which repository it names is not looked at, as in cosign: copies in
/// other repositories are the same bytes, and which key may sign for which repository is the operator's word.
fn simple_names(payload: &[u8], digest: &Digest) -> bool {
    #[derive(Deserialize)]
    struct Payload {
        critical: Critical,
    }
    #[derive(Deserialize)]
    struct Critical {
        image: Image,
        r#type: String,
    }
    #[derive(Deserialize)]
    struct Image {
        // Structs refuse a field that stands twice, so nobody can read another one than this.
        #[serde(rename = "docker-manifest-digest")]
        digest: String,
    }
    serde_json::from_slice::<Payload>(payload)
        .is_ok_and(|p| p.critical.r#type == COSIGN && p.critical.image.digest == digest.as_str())
}

/// Whether an in-toto statement signs this manifest. What only tells something about it (an inventory, a test's outcome) does not.
fn statement_names(payload: &[u8], digest: &Digest) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Statement {
        #[serde(rename = "_type")]
        kind: String,
        predicate_type: String,
        subject: Vec<Subject>,
    }
    #[derive(Deserialize)]
    struct Subject {
        digest: Digests,
    }
    #[derive(Deserialize)]
    struct Digests {
        sha256: Option<String>,
    }
    serde_json::from_slice::<Statement>(payload).is_ok_and(|s| {
        STATEMENTS.contains(&s.kind.as_str())
            && s.predicate_type == SIGN
            && s.subject.iter().any(|subject| subject.digest.sha256.as_deref() == Some(digest.hex()))
    })
}

/// Signs a file's bytes, as `cosign sign-blob --key` does: base64 of DER, one line.
///
/// # Errors
/// [`KeyError::Failed`].
pub fn detached(bytes: &[u8], key: &PrivateKey) -> Result<String, KeyError> {
    Ok(STANDARD.encode(key.sign(bytes)?) + "\n")
}

/// Reads a detached signature.
pub fn read_detached(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?.trim();
    STANDARD.decode(text).ok().filter(|der| !der.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(byte: u8) -> Digest {
        Digest::of([byte; 32])
    }

    fn reference() -> Reference {
        Reference::parse("registry.example.com/team/plugin:1").unwrap()
    }

    #[test]
    fn a_signature_is_of_one_key_and_one_manifest() {
        let key = PrivateKey::generate().unwrap();
        let public = key.public().unwrap();
        let signed = Signed::new(&reference(), &digest(1), &key).unwrap();
        assert_eq!(signed.matches(&public, &digest(1), b""), Match::Good);
        assert_eq!(signed.matches(&public, &digest(2), b""), Match::Other);
        let other = PrivateKey::generate().unwrap().public().unwrap();
        assert_eq!(signed.matches(&other, &digest(1), b""), Match::No);
        let (payload, signature) = signed.as_simple().unwrap();
        let text = String::from_utf8(payload).unwrap().replace(digest(1).hex(), digest(2).hex());
        assert_eq!(Signed::simple(text.as_bytes(), signature).matches(&public, &digest(2), b""), Match::No);
    }

    #[test]
    fn what_cosign_signed_counts() {
        let fixture = |file: &str| {
            std::fs::read(format!("{}/../../tests/fixtures/cosign/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap()
        };
        let key = PublicKey::from_pem(&fixture("cosign.pub")).unwrap();
        let other = PrivateKey::generate().unwrap().public().unwrap();
        let manifest = fixture("manifest.json");
        let digest_of = Digest::of(sha256(&manifest));
        let at: Value = serde_json::from_slice(&fixture("signature-manifest.json")).unwrap();
        let text = at["layers"][0]["annotations"][crate::layout::SIGNATURE].as_str().unwrap();
        for signed in [Signed::simple(&fixture("payload.json"), text), Signed::bundle(&fixture("bundle.json")).unwrap()]
        {
            assert_eq!(signed.matches(&key, &digest_of, &manifest), Match::Good);
            assert_eq!(signed.matches(&key, &digest(1), &manifest), Match::Other);
            assert_eq!(signed.matches(&other, &digest_of, &manifest), Match::No);
        }
        let blob = fixture("blob");
        assert!(key.verifies(&blob, &read_detached(&fixture("blob.sig")).unwrap()));
        let message = Signed::bundle(&fixture("blob.bundle.json")).unwrap();
        assert_eq!(message.matches(&key, &Digest::of(sha256(&blob)), &blob), Match::Good);
    }

    #[test]
    fn a_payload_of_another_sort_names_nothing() {
        let key = PrivateKey::generate().unwrap();
        let sign = |payload: &str| {
            let signature = STANDARD.encode(key.sign(payload.as_bytes()).unwrap());
            Signed::simple(payload.as_bytes(), &signature).matches(&key.public().unwrap(), &digest(1), b"")
        };
        let of = |kind: &str, digest: &Digest| {
            format!(r#"{{"critical":{{"image":{{"docker-manifest-digest":"{digest}"}},"type":"{kind}"}}}}"#)
        };
        assert_eq!(sign(&of(COSIGN, &digest(1))), Match::Good);
        assert_eq!(sign(&of("atomic container signature", &digest(1))), Match::Other);
        assert_eq!(sign("{}"), Match::Other);
        let twice = of(COSIGN, &digest(2))
            .replace("\"type\"", &format!("\"image\":{{\"docker-manifest-digest\":\"{}\"}},\"type\"", digest(1)));
        assert_eq!(sign(&twice), Match::Other);
    }

    #[test]
    fn a_bundle_signs_and_does_not_merely_tell() {
        let key = PrivateKey::generate().unwrap();
        let public = key.public().unwrap();
        let bundle = |predicate: &str| {
            let statement = serde_json::json!({
                "_type": STATEMENTS[0], "predicateType": predicate, "predicate": {},
                "subject": [{ "name": "", "digest": { "sha256": digest(1).hex() } }],
            })
            .to_string();
            let signature = key.sign(&pre_authentication(statement.as_bytes())).unwrap();
            let bundle = serde_json::json!({
                "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
                "verificationMaterial": { "publicKey": { "hint": "x" } },
                "dsseEnvelope": {
                    "payload": STANDARD.encode(statement), "payloadType": IN_TOTO,
                    "signatures": [{ "sig": STANDARD.encode(signature) }],
                },
            });
            Signed::bundle(bundle.to_string().as_bytes()).unwrap()
        };
        assert_eq!(bundle(SIGN).matches(&public, &digest(1), b""), Match::Good);
        assert_eq!(bundle(SIGN).matches(&public, &digest(2), b""), Match::Other);
        assert_eq!(bundle("https://slsa.dev/provenance/v1").matches(&public, &digest(1), b""), Match::Other);

        let manifest = b"{}";
        let signature = STANDARD.encode(key.sign(manifest).unwrap());
        let bundle = serde_json::json!({ "messageSignature": { "signature": signature } }).to_string();
        let signed = Signed::bundle(bundle.as_bytes()).unwrap();
        assert_eq!(signed.matches(&public, &Digest::of(sha256(manifest)), manifest), Match::Good);
        assert_eq!(signed.matches(&public, &digest(1), manifest), Match::Other);
        assert!(Signed::bundle(b"{}").is_none());
    }
}
