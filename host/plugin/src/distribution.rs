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
use portcullis_package::{Credentials, Packages, Signer};
use sha2::{Digest as _, Sha256};

use crate::{LoadError, SecretReader, survey::MAX_BYTES};

/// The most bytes of a signature beside a file.
const MAX_SIGNATURE: u64 = 4 << 10;

/// A component's bytes, which may be compiled, and who signed them, where that was asked.
pub(crate) struct Believed {
    pub(crate) wasm: Arc<[u8]>,
    pub(crate) signer: Option<Signer>,
}

/// The component of a source that is not built in, which lies at an absolute path where it is a file.
///
/// # Errors
/// In words for operators.
pub(crate) async fn fetch(
    packages: Option<&Packages>,
    secrets: Option<&dyn SecretReader>,
    tenant: &Name,
    source: &Source,
) -> Result<Believed, String> {
    match source {
        Source::File { path, sha256 } => {
            let path = Path::new(path);
            from_file(packages, path, read(path, sha256.as_deref()).await?).await
        }
        Source::Oci(oci) => from_registry(packages, secrets, tenant, oci).await,
        Source::BuiltIn(name) => Err(format!("the built-in {name} has no tools")),
    }
}

/// A file's bytes, whole: none that is too large, written to meanwhile, or another than the one with this SHA-256.
///
/// # Errors
/// In words for operators.
pub(crate) async fn read(full: &Path, sha256: Option<&str>) -> Result<Arc<[u8]>, String> {
    let failed = |e: std::io::Error| format!("can't read {}: {e}", full.display());
    let before = tokio::fs::metadata(full).await.map_err(failed)?;
    if before.len() > MAX_BYTES as u64 {
        let size = usize::try_from(before.len()).unwrap_or(usize::MAX);
        return Err(LoadError::TooLarge { size, max: MAX_BYTES }.to_string());
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

/// The component that a registry has.
///
/// # Errors
/// In words for operators.
pub(crate) async fn from_registry(
    packages: Option<&Packages>,
    secrets: Option<&dyn SecretReader>,
    tenant: &Name,
    oci: &Oci,
) -> Result<Believed, String> {
    let packages = packages.ok_or("components of registries can't be fetched here")?;
    let credentials = match &oci.login {
        None => None,
        Some(login) => {
            let read = secrets.ok_or("secrets can't be read here")?.read(tenant, &login.password);
            let password = read.map_err(|why| format!("the login of {}: {why}", oci.reference))?;
            Some(Credentials { username: login.username.clone(), password })
        }
    };
    let package = packages.component(oci, credentials).await.map_err(|e| e.to_string())?;
    Ok(Believed { wasm: package.component, signer: package.signer })
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
