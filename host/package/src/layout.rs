//! A component as an OCI artifact, in the layout that the WebAssembly community shares: a manifest with a config of
//! `application/vnd.wasm.config.v0+json` and one layer of `application/wasm`.

use std::collections::BTreeMap;

use portcullis_model::oci::Digest;
use serde::{Deserialize, Serialize};

use crate::{MAX_COMPONENT, PackageError, names::names, sha256};

/// The media type of a manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// That of a list of them.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// That of a component's config.
pub const CONFIG: &str = "application/vnd.wasm.config.v0+json";
/// That of a component.
pub const COMPONENT: &str = "application/wasm";
/// That of the config of a signature.
pub(crate) const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// That of a simple signing payload.
pub(crate) const SIMPLE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Where the signature of such a payload stands.
pub(crate) const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// The media type of a sigstore bundle; a version follows.
pub(crate) const BUNDLE: &str = "application/vnd.dev.sigstore.bundle";
/// The most bytes of a manifest.
pub const MAX_MANIFEST: usize = 256 << 10;

/// A manifest (OCI image specification 1.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// 2.
    pub schema_version: u32,
    /// [`MANIFEST`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What sort of artifact it is, where the config does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The config.
    pub config: Descriptor,
    /// The layers.
    pub layers: Vec<Descriptor>,
    /// Notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A list of manifests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// The manifests.
    pub manifests: Vec<Descriptor>,
}

/// Points to bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What they are.
    pub media_type: String,
    /// Which they are.
    pub digest: String,
    /// How many they are.
    pub size: u64,
    /// What sort of artifact a manifest is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// Of these bytes.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::of(sha256(bytes)).to_string(),
            size: bytes.len() as u64,
            artifact_type: None,
            annotations: BTreeMap::new(),
        }
    }

    /// The digest and size, where they make sense and the size is within the bound.
    ///
    /// # Errors
    /// [`PackageError`].
    pub fn bounded(&self, what: &'static str, max: usize) -> Result<(Digest, usize), PackageError> {
        let digest = Digest::parse(&self.digest)?;
        let size = usize::try_from(self.size).ok().filter(|size| *size <= max);
        Ok((digest, size.ok_or(PackageError::TooLarge { what, max })?))
    }
}

/// A component, ready to be pushed.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// The config's bytes.
    pub config: Vec<u8>,
}

impl Artifact {
    /// Wraps a component. The same component always gives the same manifest.
    ///
    /// # Errors
    /// [`PackageError`], where it is none, or too large.
    pub fn of(component: &[u8], annotations: BTreeMap<String, String>) -> Result<Self, PackageError> {
        if component.len() > MAX_COMPONENT {
            return Err(PackageError::TooLarge { what: "the component", max: MAX_COMPONENT });
        }
        let names = names(component).ok_or_else(|| PackageError::Layout("this is no WebAssembly component".into()))?;
        let layer = Descriptor::of(COMPONENT, component);
        let config = serde_json::json!({
            // The time of the push would make another digest of the same component.
            "created": "1970-01-01T00:00:00Z",
            "architecture": "wasm",
            "os": "wasip2",
            "layerDigests": [layer.digest],
            "component": { "exports": names.exports, "imports": names.imports },
        });
        let config = config.to_string().into_bytes();
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(MANIFEST.to_owned()),
            artifact_type: None,
            config: Descriptor::of(CONFIG, &config),
            layers: vec![layer],
            annotations,
        };
        let manifest = serde_json::to_vec(&manifest).map_err(|e| PackageError::Layout(e.to_string()))?;
        Ok(Self { manifest, config })
    }

    /// The manifest's digest.
    pub fn digest(&self) -> Digest {
        Digest::of(sha256(&self.manifest))
    }
}

/// Reads the manifest of a component: the one layer.
///
/// # Errors
/// [`PackageError::Layout`], which says how it differs.
pub fn component(manifest: &[u8]) -> Result<Descriptor, PackageError> {
    let wrong = |why: String| Err(PackageError::Layout(format!("what lies there is no plugin: {why}")));
    let Ok(manifest) = serde_json::from_slice::<Manifest>(manifest) else {
        return wrong("its manifest is none of a single artifact; name one of a component, not an index".to_owned());
    };
    if manifest.config.media_type != CONFIG {
        return wrong(format!("its config is {}, not {CONFIG}", clean(&manifest.config.media_type)));
    }
    match &manifest.layers[..] {
        [layer] if layer.media_type == COMPONENT => Ok(layer.clone()),
        [layer] => wrong(format!("its layer is {}, not {COMPONENT}", clean(&layer.media_type))),
        layers => wrong(format!("it has {} layers, not one", layers.len())),
    }
}

/// The beginning of what somebody else wrote.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";

    #[test]
    fn what_is_wrapped_is_read() {
        let artifact = Artifact::of(EMPTY, BTreeMap::new()).unwrap();
        let layer = component(&artifact.manifest).unwrap();
        assert_eq!(layer.size, 8);
        assert_eq!(layer.digest, Digest::of(sha256(EMPTY)).to_string());
        assert_eq!(artifact.digest(), Artifact::of(EMPTY, BTreeMap::new()).unwrap().digest());
        assert!(Artifact::of(b"x", BTreeMap::new()).is_err());
    }

    #[test]
    fn other_artifacts_are_refused_by_what_they_are() {
        let artifact = Artifact::of(EMPTY, BTreeMap::new()).unwrap();
        let text = String::from_utf8(artifact.manifest).unwrap();
        let refused = |text: &str| component(text.as_bytes()).unwrap_err().to_string();
        assert!(refused(&text.replace(CONFIG, IMAGE_CONFIG)).contains(IMAGE_CONFIG));
        assert!(refused(&text.replace("application/wasm", "application/gzip")).contains("application/gzip"));
        assert!(refused(r#"{"schemaVersion":2,"manifests":[]}"#).contains("index"));
        let mut two: Manifest = serde_json::from_str(&text).unwrap();
        two.layers.push(two.layers[0].clone());
        assert!(refused(&serde_json::to_string(&two).unwrap()).contains("2 layers"));
        let layer = Descriptor { size: u64::MAX, ..two.layers[0].clone() };
        assert!(layer.bounded("it", MAX_COMPONENT).is_err());
    }
}
