//! Components from elsewhere: bytes that were fetched and believed before anything looks into them.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use portcullis_model::{
    Name,
    spec::{Oci, Source},
};
use portcullis_package::{Credentials, Package, Packages, Signer};
use sha2::{Digest as _, Sha256};

use crate::{LoadError, SecretReader};

/// The most bytes of a signature beside a file.
const MAX_SIGNATURE: u64 = 4 << 10;

const NO_PACKAGES: &str = "components of registries can't be fetched here";

/// A component's bytes, which may be compiled, and who signed them, where that was asked.
pub(crate) struct Believed {
    pub(crate) wasm: Arc<[u8]>,
    pub(crate) signer: Option<Signer>,
}

impl From<Package> for Believed {
    fn from(package: Package) -> Self {
        Self { wasm: package.component, signer: package.signer }
    }
}

/// The component of a source that is not built in, which lies at an absolute path where it is a file: of `max` bytes at most.
///
/// # Errors
/// In words for operators.
pub(crate) async fn fetch(
    packages: Option<&Packages>,
    secrets: Option<&dyn SecretReader>,
    tenant: &Name,
    source: &Source,
    max: usize,
) -> Result<Believed, String> {
    match source {
        Source::File { path, sha256 } => {
            let path = Path::new(path);
            from_file(packages, path, read(path, sha256.as_deref(), max).await?).await
        }
        Source::Oci(oci) => {
            let credentials = credentials(secrets, tenant, oci)?;
            let packages = packages.ok_or(NO_PACKAGES)?;
            packages.component(oci, credentials).await.map(Believed::from).map_err(|e| e.to_string())
        }
        Source::BuiltIn(name) => Err(format!("the built-in {name} has no tools")),
    }
}

/// A file's bytes, whole: none that is no regular file, that is too large, written to meanwhile, or another than the one with this
/// SHA-256.
///
/// # Errors
/// In words for operators.
pub(crate) async fn read(full: &Path, sha256: Option<&str>, max: usize) -> Result<Arc<[u8]>, String> {
    let failed = |e: std::io::Error| format!("can't read {}: {e}", full.display());
    let before = tokio::fs::metadata(full).await.map_err(failed)?;
    // A pipe or a device would be read without end.
    if !before.is_file() {
        return Err(format!("{} is no regular file", full.display()));
    }
    if before.len() > max as u64 {
        let size = usize::try_from(before.len()).unwrap_or(usize::MAX);
        return Err(LoadError::TooLarge { size, max }.to_string());
    }
    let bytes = tokio::fs::read(full).await.map_err(failed)?;
    let after = tokio::fs::metadata(full).await.map_err(failed)?;
    if bytes.len() as u64 != before.len() || before.modified().ok() != after.modified().ok() {
        return Err(format!("{} is being written; it is read again", full.display()));
    }
    if let Some(wanted) = sha256 {
        let found = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
        if !found.eq_ignore_ascii_case(wanted) {
            return Err(format!("{} has the SHA-256 {found}, not {wanted}", full.display()));
        }
    }
    Ok(Arc::from(bytes))
}

/// The component that a registry has, however long that takes.
///
/// # Errors
/// In words for operators.
pub(crate) async fn from_registry(
    packages: Option<&Packages>,
    credentials: Option<Credentials>,
    oci: &Oci,
) -> Result<Believed, String> {
    let packages = packages.ok_or(NO_PACKAGES)?;
    packages.component_at_last(oci, credentials).await.map(Believed::from).map_err(|e| e.to_string())
}

/// The login at a registry, where one is needed.
///
/// # Errors
/// In words for operators.
pub(crate) fn credentials(
    secrets: Option<&dyn SecretReader>,
    tenant: &Name,
    oci: &Oci,
) -> Result<Option<Credentials>, String> {
    let Some(login) = &oci.login else { return Ok(None) };
    let read = secrets.ok_or("secrets can't be read here")?.read(tenant, &login.password);
    let password = read.map_err(|why| format!("the login of {}: {why}", oci.reference))?;
    Ok(Some(Credentials { username: login.username.clone(), password }))
}

/// A file's bytes, where it needs no signature or the one beside it counts.
///
/// # Errors
/// In words for operators.
pub(crate) async fn from_file(packages: Option<&Packages>, path: &Path, wasm: Arc<[u8]>) -> Result<Believed, String> {
    let Some(packages) = packages.filter(|p| p.files_are_signed()) else {
        return Ok(Believed { wasm, signer: None });
    };
    let beside = signature_of(path);
    let signature = match tokio::fs::metadata(&beside).await {
        Ok(meta) if meta.len() > MAX_SIGNATURE => Err(format!("{} is too large for a signature", beside.display())),
        Ok(_) => tokio::fs::read(&beside).await.map(Some).map_err(|e| format!("can't read {}: {e}", beside.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("can't read {}: {error}", beside.display())),
    }?;
    let signer = packages.file(path, &wasm, signature.as_deref()).map_err(|e| e.to_string())?;
    Ok(Believed { wasm, signer: Some(signer) })
}

/// Where the signature of a file lies: beside it, with `.sig` after its whole name.
pub fn signature_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sig");
    PathBuf::from(name)
}
