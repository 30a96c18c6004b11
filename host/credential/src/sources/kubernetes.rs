//! Secrets in Kubernetes.

use portcullis_cluster::Cluster;
use portcullis_model::{Name, Secret, spec::KubernetesSecret};

use super::ServiceError;
use crate::secrets::MAX_FIELD_BYTES;

/// The value of a key of a Secret, as the gateway's own account sees it; None where there is none. A trailing newline is left
/// out, as that of a file is: most Secrets are made of files.
///
/// # Errors
/// What the cluster says, or what is wrong with the value.
pub(super) async fn read(
    cluster: &Cluster,
    tenant: &Name,
    secret: &KubernetesSecret,
) -> Result<Option<Secret>, ServiceError> {
    let own = cluster.own_namespace();
    let namespace =
        cluster.options().secret_namespace(tenant, secret.namespace.as_ref(), own).map_err(ServiceError::NotAllowed)?;
    let found = cluster.secret(&namespace, &secret.name, &secret.key).await?;
    let Some(value) = found else { return Ok(None) };
    let bytes = value.expose();
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    match bytes.len() {
        0 => Err(ServiceError::Empty),
        n if n > MAX_FIELD_BYTES => Err(ServiceError::TooLong),
        _ => Ok(Some(Secret::new(bytes))),
    }
}
