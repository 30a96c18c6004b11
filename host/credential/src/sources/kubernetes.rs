//! Secrets in Kubernetes.

use portcullis_cluster::Cluster;
use portcullis_model::{Name, Secret, spec::KubernetesSecret};

use crate::secrets::MAX_FIELD_BYTES;

/// The value of a key of a Secret, as the gateway's own account sees it; None where there is none. A trailing newline is left
/// out, as that of a file is: most Secrets are made of files.
///
/// # Errors
/// A sentence that never holds what is in it.
pub(super) async fn read(
    cluster: &Cluster,
    tenant: &Name,
    secret: &KubernetesSecret,
) -> Result<Option<Secret>, String> {
    let own = cluster.own_namespace();
    let namespace = cluster.options().secret_namespace(tenant, secret.namespace.as_ref(), own)?;
    let found = cluster.secret(&namespace, &secret.name, &secret.key).await.map_err(|e| e.to_string())?;
    let Some(value) = found else { return Ok(None) };
    let bytes = value.expose();
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    match bytes.len() {
        0 => Err("it is empty".to_owned()),
        n if n > MAX_FIELD_BYTES => Err(format!("it holds more than {MAX_FIELD_BYTES} bytes")),
        _ => Ok(Some(Secret::new(bytes))),
    }
}
